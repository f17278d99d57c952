"""What a notebook shows: explanations as a grid, one by itself, and how far a work is."""

from __future__ import annotations

import base64
import io
import pickle
import re
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam.engine.masked import Stream
from lucidcam.imaging import notebook
from lucidcam.imaging.explanation_list import Explanations
from lucidcam.imaging.preprocess import Clips, Preprocess
from lucidcam.utils import progress
from nets import FunctionalGAP, build

LABELS = ("red, crimson", "green", "blue", "<script>alert(1)</script>", 'black " and & white')


def model() -> lucidcam.Model:
    return lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(20, 28)), LABELS, name="small")


def photo(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    for i, name in enumerate(("a.png", "b & <i>c.png", "d.png")):
        photo(i).save(tmp_path / name)
    return [str(path) for path in sorted(tmp_path.iterdir())]


@dataclass
class Shown(HTMLParser):
    """What a page shows, and what it is made of."""

    text: str = ""
    pictures: list[Image.Image] = field(default_factory=list)
    alts: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for name, value in attrs:
            assert name in ("style", "src", "alt", "width", "height", "class", "scope", "title"), name
            assert "url(" not in str(value)
            if name == "src":
                content = re.fullmatch(r"data:image/(?:jpeg|png);base64,(.*)", str(value))
                assert content is not None
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(content[1]))))
            if name == "alt":
                self.alts.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "
        if "tr" in self.open:
            self.rows[-1][-1] += f"{data} "


def shown(thing: Any) -> Shown:
    page = Shown()
    page.feed(thing._repr_html_())
    page.close()
    assert not page.open
    assert not {"script", "style", "link", "iframe", "i"} & set(page.tags)
    return page


def maps_of(page: Shown) -> list[Image.Image]:
    return [each for each in page.pictures if each.format == "JPEG"]


def test_explain_returns_a_list_that_stays_one(photos: list[str]) -> None:
    found = lucidcam.explain(model(), photos, target=[[0, 1]] * 3)
    assert isinstance(found, list)
    assert isinstance(found, Explanations)
    assert found == list(found)
    assert list(found) == found
    for part in (found[1:], found[::-1], found + found[:2], found + [found[0]], [found[0]] + found, found.copy()):  # noqa: RUF005
        assert type(part) is Explanations
    assert all(one is other for one, other in zip(found, list(found), strict=True))
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is Explanations
    assert [each.label for each in again] == [each.label for each in found]
    with pytest.raises(TypeError):
        found + 1
    assert len(sorted(found, key=lambda each: each.score)) == 6


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"target": 1}, "Explanations(3 maps, of='green', by='gradcam')"),
        ({"target": [[0, 1]] * 3}, "Explanations(6 maps of 3 images, of=['red', 'green'], by='gradcam')"),
        ({"target": 1, "method": "hirescam"}, "Explanations(3 maps, of='green', by='hirescam')"),
    ],
)
def test_a_list_says_what_is_in_it(photos: list[str], options: dict[str, Any], line: str) -> None:
    assert repr(lucidcam.explain(model(), photos, **options)) == line


def test_images_alone_are_side_by_side(photos: list[str]) -> None:
    page = shown(lucidcam.explain(model(), photos, target=0))
    assert "table" not in page.tags
    assert len(maps_of(page)) == 3
    for word in ("a.png", "b & <i>c.png", "d.png", "red", "probability", "gradcam at conv2", "0", "1", "share of the map's own maximum"):
        assert word in page.text
    assert "crimson" not in page.text
    assert page.alts[:1] == ["where gradcam sees red in a.png"]


def test_classes_are_columns(photos: list[str]) -> None:
    page = shown(lucidcam.explain(model(), photos, target=[[0, 3, 4]] * 3))
    assert [cell.strip() for cell in page.rows[0]] == ["image", "red", "<script>alert(1)</script>", 'black " and & white']
    assert [len(row) for row in page.rows] == [4] * 4
    assert [row[0].strip() for row in page.rows[1:]] == ["a.png", "b & <i>c.png", "d.png"]
    assert len(maps_of(page)) == 3 * 4  # the photos, too
    assert "<script>" in page.text


def test_methods_are_columns(photos: list[str]) -> None:
    network = model()
    found = lucidcam.explain(network, photos, target=1) + lucidcam.explain(network, photos, "guided_backprop", 1)
    page = shown(found)
    assert [cell.strip() for cell in page.rows[0]] == ["image", "gradcam", "guided_backprop"]
    assert "gradcam at conv2" in page.rows[1][1]
    assert "guided_backprop at input" in page.rows[1][2]
    assert "Grey: 0" in page.text
    assert "share of the map's own maximum" in page.text


def test_maps_of_one_method_say_by_what_they_differ(photos: list[str]) -> None:
    network = model()
    found = lucidcam.explain(network, photos, target=1) + lucidcam.explain(network, photos, target=1, counterfactual=True)
    found += lucidcam.explain(network, photos, target=1, layer="conv1")
    assert type(found) is Explanations
    page = shown(found)
    heads = ["gradcam at conv2, counterfactual: False", "gradcam at conv2, counterfactual: True", "gradcam at conv1, counterfactual: False"]
    assert [cell.strip() for cell in page.rows[0]][1:] == heads
    assert heads[1] in page.rows[1][2]
    apart = shown(Explanations([found[0], replace(found[4], provenance=None)]))
    assert "gradcam at conv2" in apart.text


def test_methods_and_classes_are_columns(photos: list[str]) -> None:
    network = model()
    found = lucidcam.explain(network, photos, target=[[0, 1]] * 3) + lucidcam.explain(network, photos, "layercam", [[0, 1]] * 3)
    assert [cell.strip() for cell in shown(found).rows[0]][1:] == ["gradcam: red", "gradcam: green", "layercam: red", "layercam: green"]


def test_columns_that_differ_from_image_to_image_have_no_head(photos: list[str]) -> None:
    page = shown(lucidcam.explain(model(), photos, target=[[0, 1], [2, 3], [4, 1]]))
    assert len(page.rows) == 3
    assert "green" in page.rows[0][2]


def test_pictures_in_memory_of_one_name_are_rows_of_their_own() -> None:
    page = shown(lucidcam.explain(model(), [np.asarray(photo(i)) for i in range(3)], target=[[0, 1]] * 3))
    assert len(page.rows) == 4


def test_a_long_list_is_cut_and_says_so() -> None:
    network = model()
    found = lucidcam.explain(network, [photo(i) for i in range(4)], target="all") * 5
    page = shown(Explanations(found))
    assert "… and 40 more" in page.text
    assert len(maps_of(page)) == notebook.MOST + 4
    assert len(Explanations(found)._repr_html_()) < 60 * 60_000


@pytest.mark.parametrize("method", ["gradcam", "guided_backprop", "rise"])
def test_large_photos_are_shown_small_and_in_the_same_colours(method: str) -> None:
    network = lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(40, 40), fit="squash"), LABELS)
    options = {"masks": 40} if method == "rise" else {}
    (found,) = lucidcam.explain(network, photo(0, (1600, 1200)), method, 1, **options)
    for page, side in ((shown(found), notebook.LARGE), (shown(Explanations([found])), notebook.SIDE)):
        (picture,) = maps_of(page)
        assert picture.size == (side, side * 3 // 4)
        whole = np.asarray(found.picture().resize(picture.size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(picture, float) - whole).mean() < (3 if method != "guided_backprop" else 12)
    with Image.open(io.BytesIO(found._repr_png_())) as small:
        assert max(small.size) <= notebook.LARGE


def test_one_explanation_says_what_it_is(photos: list[str]) -> None:
    (found,) = lucidcam.explain(model(), photos[1], target=4)
    page = shown(found)
    for word in ('black " and & white', f"probability {found.probability:.3f}", "gradcam at conv2", "b & <i>c.png", "share of the map's"):
        assert word in page.text
    assert len(page.pictures) == 2  # the map, and the colour bar
    told = shown(replace(found, note="the map is zero everywhere: <b>why</b>", probability=None))
    assert "The map is zero everywhere: <b>why</b>." in told.text
    assert f"score {found.score:.4g}" in told.text
    assert "probability" not in told.text
    assert "probability < 0.001" in shown(replace(found, probability=1e-7)).text
    assert "score" not in shown(replace(found, score=float("nan"), probability=None)).text


def test_the_bar_of_a_method_without_a_zero_says_so(photos: list[str]) -> None:
    (found,) = lucidcam.explain(model(), photos[0], "rise", 1, masks=30)
    assert "from the smallest value to the map's own maximum" in shown(found).text


def clips_model() -> lucidcam.Model:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    return lucidcam.wrap(net.eval(), Clips(still=Preprocess(size=(16, 16)), count=12), ["bright", "dark"])


def test_a_clip_shows_frames_in_time() -> None:
    frames = [photo(seed, (30, 20)) for seed in range(12)]
    found = lucidcam.explain(clips_model(), frames, target=[[0, 1]])
    page = shown(found[0])
    strip = re.findall(r"frame (\d+)", page.text)
    assert strip[0] == str(found[0].time)
    assert 1 < len(strip) - 1 <= notebook.STRIP
    assert strip[1:] == sorted(strip[1:], key=int)
    assert "all maps that share the scale" in page.text
    assert "frames=12" in repr(found[0])
    assert [len(row) for row in shown(found).rows] == [3, 3]  # one clip, two classes


def test_lists_of_nothing_and_of_other_things_are_shown() -> None:
    assert "no explanations" in shown(Explanations()).text
    assert "no explanations" in shown(Explanations(["x"])).text


def test_reports_take_the_list(photos: list[str], tmp_path: Path) -> None:
    lucidcam.report(lucidcam.explain(model(), photos), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size


# ---------------------------------------------------------------------------------------------------------------- progress


class Kernel:
    """IPython in a kernel: keeps what is displayed, and what takes its place."""

    def __init__(self) -> None:
        self.contents: list[list[dict[str, str]]] = []
        self.threads: set[int] = set()
        self.broken = ""

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        if self.broken == "display":
            raise ConnectionError("the kernel is gone")
        self.threads.add(threading.get_ident())
        self.contents.append([content])
        place = self.contents[-1]

        def update(content: dict[str, str], *, raw: bool) -> None:
            if self.broken:
                raise ConnectionError("the kernel is gone")
            place.append(content)

        return types.SimpleNamespace(update=update)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A notebook where a bar appears after a tenth of a second."""
    made = Kernel()
    shell = types.SimpleNamespace(kernel=object())
    module, displays = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    module.display = displays  # type: ignore[attr-defined]
    displays.display = made.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    for name in ("lucidcam.utils.progress", "lucidcam.engine.masked"):
        monkeypatch.setattr(sys.modules[name], "SLOW", 0.1)
    monkeypatch.setattr(progress, "REDRAWN", 0.0)
    yield made
    assert not [each for each in threading.enumerate() if isinstance(each, threading.Timer) and each.is_alive()]


def test_the_bar_is_a_notebooks_own(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.is_notebook()
    with progress.bar(10, "looking <at> it") as advance:
        time.sleep(0.12)
        for _ in range(4):
            advance(2)
    (contents,) = kernel.contents
    done = [int(re.findall(r"(\d+) of 10", each["text/plain"])[0]) for each in contents[:-1]]
    assert done == sorted(done)
    assert done[-1] == 8
    assert 'value="8" max="10"' in contents[-2]["text/html"]
    assert "looking &lt;at&gt; it: 8 of 10" in contents[-2]["text/html"]
    assert contents[-1] == {"text/html": "", "text/plain": ""}
    assert capsys.readouterr().err == ""


def test_the_bar_appears_while_the_first_image_takes_long(kernel: Kernel) -> None:
    with progress.bar(10, "looking"):
        time.sleep(0.4)
        assert len(kernel.contents) == 1
    assert kernel.contents[0][-1]["text/plain"] == ""
    assert kernel.threads != {threading.get_ident()}


def test_what_is_quick_shows_nothing(kernel: Kernel) -> None:
    with progress.bar(10, "looking") as advance:
        advance(10)
    time.sleep(0.2)
    assert not kernel.contents


def test_it_shows_nothing_where_it_is_not_wanted(kernel: Kernel) -> None:
    with progress.bar(10, "looking", False) as advance:
        time.sleep(0.15)
        advance(5)
    assert not kernel.contents


def test_an_error_takes_the_bar_away(kernel: Kernel) -> None:
    def work() -> None:
        with progress.bar(None, "looking") as advance:
            time.sleep(0.12)
            advance(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert "3, " in kernel.contents[0][-2]["text/plain"]
    assert "<progress style" in kernel.contents[0][-2]["text/html"]
    assert kernel.contents[0][-1]["text/plain"] == ""


@pytest.mark.parametrize("broken", ["display", "update"])
def test_a_kernel_that_is_gone_does_not_end_the_work(kernel: Kernel, broken: str) -> None:
    kernel.broken = broken
    with progress.bar(10, "looking") as advance:
        time.sleep(0.15)
        advance(1)
        advance(2)


def test_streams_of_masks_show_it(kernel: Kernel) -> None:
    def step(rows: slice) -> torch.Tensor:
        time.sleep(0.02)
        return torch.zeros(1)

    outer = Stream(1, title="rise")
    for _ in outer.steps(8):  # one bar for both loops
        outer.run(2, step)
    assert len(kernel.contents) == 1
    assert "of 8" in kernel.contents[0][1]["text/plain"]
    assert kernel.contents[0][-1]["text/plain"] == ""
    Stream(1, progress=False).run(8, step)
    assert len(kernel.contents) == 1


@pytest.mark.parametrize("method", ["gradcam", "rise"])
def test_explaining_many_images_shows_one_bar(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    network = lucidcam.wrap(Slow().eval(), Preprocess(size=(20, 28)), LABELS)
    options = {"masks": 12, "batch_size": 4} if method == "rise" else {}
    lucidcam.explain(network, [photo(i) for i in range(6)], method, 1, images_at_once=2, **options)
    (contents,) = kernel.contents
    done = [float(re.search(r'value="([\d.]+)"', each["text/html"]).group(1)) for each in contents[:-1]]  # type: ignore[union-attr]
    assert done == sorted(done)
    assert done[-1] == 6
    assert (method == "rise") == any(each % 1 for each in done)  # also how far a batch is
    lucidcam.explain(network, [photo(i) for i in range(6)], method, 1, images_at_once=2, progress=False, **options)
    assert len(kernel.contents) == 1


class Slow(FunctionalGAP):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().forward(x)


def test_terminals_of_ipython_are_no_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in (None, types.SimpleNamespace()):
        module = types.ModuleType("IPython")
        module.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert not progress.is_notebook()


def test_late_bars_of_terminals_stay_away_from_quick_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SLOW", 0.05)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.bar(3, "quick", True, late=True) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
    with progress.bar(3, "slower", True, late=True) as advance:
        time.sleep(0.06)
        advance(2)
    assert "slower" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # Lightning's
@pytest.mark.parametrize("fails", [False, True])
def test_training_shows_it(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool) -> None:
    from lucidcam.train import train_gap
    from lucidcam.train.gap import GAPTask
    from test_train import QUICK, data

    monkeypatch.setattr(progress, "SLOW", 0.0)
    if fails:
        monkeypatch.setattr(GAPTask, "training_step", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_gap(data(), out=tmp_path / "net", **{**QUICK, "epochs": 2, "progress": None})
    else:
        train_gap(data(), out=tmp_path / "net", **{**QUICK, "epochs": 2, "progress": None})
    assert kernel.contents
    assert all(each[-1]["text/plain"] == "" for each in kernel.contents)
    assert fails or re.search(r": (\d+) of \1\b", kernel.contents[0][-2]["text/plain"])
