"""What explanations cost: ratios, memory and forward passes are those that an independent count finds."""

from __future__ import annotations

import csv
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import lucidcam
from commands import run
from lucidcam.benchmark import timing
from lucidcam.benchmark.forward_counter import TimeOverError, counted
from lucidcam.benchmark.memory import above, measurable
from lucidcam.benchmark.result import Cost, Costs
from lucidcam.benchmark.timing import Ratio, Stopwatch, paired
from nets import FunctionalGAP, SeveralFC

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
needs_memory = pytest.mark.skipif(not measurable(CPU), reason="needs Linux")


class Counting(nn.Module):
    """A network that counts its images by itself, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.inside = FunctionalGAP()
        self.seconds = seconds
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        time.sleep(self.seconds)
        return self.inside(x)


class Turning(Counting):
    """A network that turns a clock by a second for each image."""

    def __init__(self, clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.turn(len(x))
        return super().forward(x)


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def quick(model, images, methods, **options) -> Costs:
    return lucidcam.bench(model, images, methods, **{"batch": 2, "repeats": 1, "memory": False, **options})


# --------------------------------------------------------------------------------------------------------------------- timing


@pytest.fixture
def clock(monkeypatch):
    """A clock that steps themselves turn."""

    class Clock:
        now = 0.0

        def turn(self, seconds: float) -> None:
            self.now += seconds

    made = Clock()
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: made.now)
    return made


def test_a_ratio_is_to_the_mean_of_the_bases_around_it(clock):
    bases = iter([1.0, 3.0, 5.0])
    ratios, took = Stopwatch(CPU).beside(lambda: clock.turn(next(bases)), lambda: clock.turn(8.0), repeats=2)
    assert took == [8.0, 8.0]
    assert ratios == [8.0 / 2.0, 8.0 / 4.0]


def test_a_machine_that_slows_down_does_not_change_the_ratios(clock):
    speed = iter(1.0 + 0.1 * i for i in range(100))
    found, _ = paired(
        lambda: clock.turn(1.0 * next(speed)), {"twice": (lambda: clock.turn(2.0 * next(speed)), 5)}, "wall", print, warm=False
    )
    assert found["twice"].values == pytest.approx([2.0] * 5)


def test_what_fails_is_told_and_left_out(clock):
    told: list[str] = []

    def fails() -> None:
        raise ValueError("no")

    found, _ = paired(lambda: clock.turn(1.0), {"bad": (fails, 3), "good": (lambda: clock.turn(1.0), 3)}, "wall", told.append)
    assert list(found) == ["good"]
    assert told == ["bad: left out: ValueError: no"]


def test_quartiles():
    assert Ratio((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0)
    assert Ratio((1.0, 9.0)).quartiles == (1.0, 9.0)
    assert Ratio((1.0, 2.0, 9.0)).median == 2.0


# --------------------------------------------------------------------------------------------------------------------- passes


def test_rows_are_counted_and_no_hook_is_left(inputs):
    net = Counting()
    with counted(net) as found:
        net(inputs)
        net(inputs[:1])
    assert (found.rows, found.calls, found.stopped) == (net.rows, 2, False) == (4, 2, False)
    assert not net._forward_hooks


def test_time_over_ends_the_block_but_lets_the_first_pass_through(inputs):
    net = Counting(seconds=0.02)
    with counted(net, 0.01) as found:
        for _ in range(100):
            net(inputs)
    assert found.stopped
    assert found.calls == 2
    assert not net._forward_hooks


def test_other_errors_pass_and_no_hook_is_left(inputs):
    net = Counting()
    with pytest.raises(ZeroDivisionError), counted(net, 1.0):
        raise ZeroDivisionError
    assert not net._forward_hooks
    assert issubclass(TimeOverError, Exception)


# --------------------------------------------------------------------------------------------------------------------- memory


@needs_memory
@pytest.mark.parametrize("size", [16, 96])
def test_memory_is_what_the_step_holds(size):
    kept = [torch.ones(2**18 * 200)]  # what this process holds, or frees, does not count
    found = above(lambda: torch.ones(2**18 * 4), lambda: torch.ones(2**18 * size), CPU, 10.0)
    del kept
    assert found is not None
    assert found / 2**20 == pytest.approx(size - 4, abs=3)


@needs_memory
def test_holes_that_the_first_run_leaves_do_not_hide_what_the_second_takes():
    pins: list[Tensor] = []

    def small() -> list[Tensor]:
        made = [torch.ones(2**13) for _ in range(1024)]  # 32 KiB each: in the heap, not in pages of their own
        pins.append(torch.ones(2**13))  # stays above them, so that the heap cannot shrink
        return made

    found = above(lambda: torch.ones(2**10), small, CPU, 10.0)
    assert found is not None
    assert found / 2**20 == pytest.approx(32, abs=4)


@needs_memory
def test_a_child_that_dies_brings_no_figure():
    assert above(lambda: None, lambda: os._exit(3), CPU, 10.0) is None


@needs_memory
def test_peaks_of_methods_do_not_mix(inputs):
    class Hungry(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                torch.ones(2**18 * 64)  # 64 MiB, only where gradients are asked for
            return x.mean((2, 3))

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Hungry())
    costs = quick(net, inputs, ["gradcam", "eigencam"], batch=1, memory=True)
    assert costs.row("gradcam").memory / 2**20 == pytest.approx(64, abs=4)
    assert abs(costs.row("eigencam").memory / 2**20) < 4


# ---------------------------------------------------------------------------------------------------------------------- bench


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options"), [("gradcam", {}), ("scorecam", {}), ("rise", {"masks": 70}), ("gradcam", {"smooth": 5})])
def test_forwards_are_those_the_network_counts(method, options, inputs):
    net = Counting().eval()
    lucidcam.attribute(net, inputs[:2], method, **options)  # finds the layers, which is remembered
    net.rows = 0
    lucidcam.attribute(net, inputs[:2], method, **options)
    expected = net.rows / 2
    costs = quick(net, inputs, [(method, options)])
    assert costs.rows[-1].images == 2
    assert costs.rows[-1].forwards == expected


@pytest.fixture
def nothing_aside():
    """Without what the tests themselves have put aside."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_old_objects_stay_aside_for_as_long_as_anyone_wants(nothing_aside):
    assert not gc.get_freeze_count()
    with timing.old_objects_aside():
        with timing.old_objects_aside():
            pass
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_the_ratio_is_that_of_the_passes(inputs, clock):
    costs = quick(Turning(clock).eval(), inputs, [("rise", {"masks": 20})], time_limit=None)
    one, two = costs.rows[-2:]
    assert (one.images, one.ratio, one.seconds, one.forwards) == (1, 21, 21, 21)  # the clean image and twenty masked ones
    assert (two.images, two.ratio, two.seconds, two.forwards) == (2, 21, 21, 21)
    assert [row.ratio for row in costs.rows[:2]] == [1, 1]


@pytest.mark.slow
def test_what_refuses_a_network_is_listed_with_its_reason(inputs):
    net = nn.Sequential(SeveralFC().features, nn.SiLU(), nn.Flatten(), nn.Linear(160, 3))
    costs = quick(net, inputs, ["gradcam", "cam", "guided_backprop"])
    assert {row.method for row in costs.rows} == {"forward", "gradcam"}
    assert "head" in costs.refused["cam"] or "pool" in costs.refused["cam"]
    assert "SiLU" in costs.refused["guided_backprop"] or "silu" in costs.refused["guided_backprop"]
    with pytest.raises(lucidcam.LucidcamError, match=r"SiLU|silu"):
        costs.row("guided_backprop")


@pytest.mark.slow
def test_every_method_is_measured_or_refused(inputs):
    costs = quick(FunctionalGAP().eval(), inputs, None, batch=1, time_limit=0.5)
    assert {row.method for row in costs.rows} | set(costs.refused) == {"forward", *lucidcam.methods()}
    assert set(costs.refused) == {"mcam", "rollout", "attention_relevance", "legrad"}  # a memory, and attention


def test_a_method_past_its_time_is_ended_and_marked(inputs):
    net = Counting(seconds=0.01).eval()
    costs = quick(net, inputs, [("rise", {"masks": 1000, "batch_size": 1})], time_limit=0.3)
    row = costs.row(costs.rows[-1].method)
    assert (row.stopped, row.images) == (True, 1)
    assert 5 < row.forwards < 100
    assert 0.25 < row.seconds < 3
    assert any("ended after 0.3 s" in note for note in costs.notes)
    assert ">" in shown(costs)


def test_fewer_images_where_all_would_take_too_long(inputs, clock):
    costs = quick(Turning(clock).eval(), inputs, [("rise", {"masks": 30})], batch=3, time_limit=80.0)
    row = costs.rows[-1]
    assert (row.images, row.stopped) == (2, False)
    assert costs.notes == ("rise(masks=30): 31 s an image; measured on 2 together, within 80 s.",)
    assert "(2)" in shown(costs)


@pytest.mark.slow
def test_the_module_comes_back_as_it_was(inputs):
    net = FunctionalGAP().train()
    net.norm.eval()
    before = {name: child.training for name, child in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    quick(net, inputs, ["gradcam", "rise"], optimized=True, time_limit=2.0)
    assert {name: child.training for name, child in net.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(child._forward_hooks for child in net.modules())


@pytest.mark.slow
def test_the_optimised_copy_is_measured_beside_the_network_as_it_is(inputs):
    costs = quick(FunctionalGAP().eval(), inputs, ["gradcam"], optimized=True)
    assert [(row.method, row.optimized, row.images) for row in costs.rows] == [
        (method, optimized, n) for optimized in (False, True) for method in ("forward", "gradcam") for n in (1, 2)
    ]
    assert "On an optimised copy (float32)" in shown(costs)


@pytest.mark.slow
def test_fewer_images_than_wanted_are_repeated(inputs):
    costs = quick(FunctionalGAP().eval(), inputs[:2], ["eigencam"], batch=5)
    assert costs.row("eigencam").images == 5


@pytest.mark.parametrize(
    ("images", "methods", "options", "expected"),
    [
        (None, None, {}, "tensor of its inputs"),
        ("ok", ["gradcm"], {}, "did you mean 'gradcam'"),
        ("ok", [("rise", {"mask": 3})], {}, "no option is called 'mask'"),
        ("ok", ["gradcam", "gradcam"], {}, "twice"),
        ("ok", [], {}, "at least one method"),
        ("ok", ["gradcam"], {"batch": 0}, "batch ≥ 1"),
        ("ok", ["gradcam"], {"time_limit": 0}, "time_limit > 0"),
    ],
)
def test_mistakes_are_told_before_any_work(images, methods, options, expected, inputs):
    with pytest.raises(lucidcam.LucidcamError, match=expected):
        quick(FunctionalGAP(), inputs if images == "ok" else None, methods, **options)


# ------------------------------------------------------------------------------------------------------------- what is written


def shown(costs: Costs, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(costs.table(width))
        return console.export_text()


def some_costs() -> Costs:
    def row(method: str, ratio: float, optimized: bool = False, **changes) -> Cost:
        given = {
            "images": 8,
            "low": ratio * 0.98,
            "high": ratio * 1.02,
            "repeats": 5,
            "memory": 3 * 2**20,
            "forwards": 1.0,
            "stopped": False,
        }
        return Cost(method=method, optimized=optimized, ratio=ratio, seconds=ratio * 0.02, **{**given, **changes})

    rows = (
        row("forward", 1.0, memory=None),
        row("contrastive_excitation_backprop", 4.21, images=1),
        row("contrastive_excitation_backprop", 4.13),
        row("scorecam(clusters=64, weights=softmax)", 1234.5, images=1, forwards=1280.0),
        row("scorecam(clusters=64, weights=softmax)", 1194.5, images=3, forwards=1280.0),
        row("sscam", 2345.6, images=1, stopped=True, memory=None),
        row("forward", 0.7, optimized=True),
    )
    notes = ("sscam: ended after 30 s with its one image.",)
    return Costs(
        "net", "cpu", "float32", 1, "2.6", "4 photos", (3, 224, 224), 8, 5, 30.0, "float32", rows, {"cam": "no head. " * 20}, notes
    )


def test_the_table_fits_80_columns():
    text = shown(some_costs())
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("4.21 ±0.08", "4.13 ±0.08", "1234", "1194 ±24 (3)", ">2346", "not measured: cam", "note: sscam"):
        assert expected in text
    assert "…" not in text


def test_files_hold_what_was_measured(tmp_path):
    costs = some_costs()
    written = costs.save(tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["costs.json", "costs.csv", "costs.png"]
    kept = json.loads(written[0].read_text(encoding="utf-8"))
    assert kept == costs.to_dict() | {"rows": [vars(row) for row in costs.rows]}
    lines = list(csv.DictReader(written[1].read_text(encoding="utf-8").splitlines()))
    assert [line["method"] for line in lines] == [row.method for row in costs.rows]
    assert [float(line["ratio"]) for line in lines] == [row.ratio for row in costs.rows]
    with Image.open(written[2]) as picture:
        assert picture.width > 600


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(lucidcam.LucidcamError, match="cannot write to"):
        some_costs().save(tmp_path / "file" / "folder")


# -------------------------------------------------------------------------------------------------------------------- command


@pytest.mark.slow
@needs_timm
def test_the_command(tmp_path, capsys):
    Image.new("RGB", (200, 180), (90, 120, 30)).save(tmp_path / "photo.jpg")
    words = ["bench", tmp_path / "photo.jpg", "--model", "timm:test_resnet", "--untrained", "--images", 2, "--repeats", 1]
    run(*words, "--method", "gradcam", "--method", "rise:masks=4,cells=3", "--no-memory", "--optimize", "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "1 image given" in printed
    for expected in ("gradcam", "rise(masks=4,", "On an optimised copy", "costs.csv"):
        assert expected in printed
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["costs.csv", "costs.json", "costs.png"]


@needs_timm
def test_the_command_as_json_without_images(capsys):
    run(
        "bench",
        "--model",
        "timm:test_resnet",
        "--untrained",
        "--images",
        1,
        "--repeats",
        1,
        "--method",
        "eigencam",
        "--no-memory",
        "--json",
    )
    found = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in found["rows"]] == ["forward", "eigencam"]
    assert "scikit-image" in found["inputs"] or "noise" in found["inputs"]


def test_the_command_refuses_what_is_not_there(capsys):
    run("bench", "--method", "gradcm", code=2)
    run("bench", "nowhere.jpg", code=2)
    text = capsys.readouterr().err
    assert "did you mean 'gradcam'" in text
    assert "nowhere.jpg" in text


# ---------------------------------------------------------------------------------------------------------------- bench/gpu.py


@pytest.fixture
def gpu(monkeypatch):
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "bench" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_cuda_the_gpu_script_says_so_in_one_line(gpu):
    with pytest.raises(SystemExit, match=r"^bench/gpu\.py measures on CUDA, .* --device cpu --tiny .*$"):
        gpu.main([])


@pytest.mark.slow
@needs_timm
def test_the_gpu_script_runs_on_small_networks(gpu, tmp_path, capsys):
    page = tmp_path / "page.md"
    threads = torch.get_num_threads()
    try:
        gpu.main(["--device", "cpu", "--tiny", "--nets", "resnet", "--side", "64", "--alone", "--out", str(page)])
    finally:
        torch.set_num_threads(threads)
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- bench:gpu -->") == 1
    for row in (
        "| forward | as it is, float32 |",
        "| gradcam | lucidcam |",
        "| deletion, 4 steps | lucidcam |",
        "| scorecam, exact | lucidcam |",
    ):
        assert row in text
    assert "| forward | torch.compile" in text
    assert "left out" not in capsys.readouterr().err
