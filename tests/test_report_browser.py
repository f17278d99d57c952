"""Reports in a real browser: from disk, without a network, by eye, by screen reader, on a phone and on paper."""

from __future__ import annotations

import pytest

import lucidcam
from browser import browsers
from lucidcam.outputs.html import write
from scenes import model, samples, scene
from test_report import HOSTILE, every_block

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of each kind, and a page with every block."""
    place = tmp_path_factory.mktemp("pages")
    net = model()
    photos = [scene(("red", (4, 4, 24, 24)), seed=i) for i in range(26)]
    explained = lucidcam.report(lucidcam.explain(net, photos), place / "explained.html", model=net, command="lucidcam explain photos")
    metrics = ["average_drop", ("deletion", {"steps": 8}), "pointing_game"]
    judged = lucidcam.evaluate(net, samples(6), ["gradcam", "eigencam"], metrics, out=place / "judged", resamples=50, progress=False)
    (place / "photos").mkdir()
    for i, each in enumerate(samples(6)):
        each.image.save(place / "photos" / f"{i}.png")
    ran = lucidcam.run(net, place / "photos", place / "ran", progress=False)
    return [
        explained,
        lucidcam.report(judged, place / "judged.html"),
        lucidcam.report(ran, place / "ran.html", data=place / "photos"),
        write(every_block(HOSTILE), place / "blocks.html"),
    ]


def opened(visitor, path, unfold=False):
    page = visitor.page()
    page.goto(path.as_uri())
    if unfold:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return page


def test_pages_open_from_disk_and_ask_for_nothing(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        for path in pages:
            asked = []
            page = visitor.page()
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda told, asked=asked: asked.append(told.text))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
            assert [each for each in asked if not each.startswith("data:image/webp")] == [path.as_uri()]
        assert visitor.outside == []
        assert visitor.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(pages, scheme):
    with browsers(1, viewport=DESK, color_scheme=scheme) as [visitor]:
        for path in pages:
            found = axe.Axe().run(opened(visitor, path, unfold=True))
            told = [(each["id"], each["nodes"][0]["html"][:200]) for each in found.response["violations"]]
            assert told == [], path.name


def test_pages_are_read_on_a_phone(pages):
    with browsers(1, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2) as [visitor]:
        for path in pages:
            page = opened(visitor, path, unfold=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path.name
            small = page.evaluate(
                "[...document.querySelectorAll('body *')].filter(each => !each.closest('svg') && each.textContent.trim()"
                " && parseFloat(getComputedStyle(each).fontSize) < 12).length"
            )
            assert small == 0, path.name


def test_pages_are_whole_without_scripts(pages):
    with browsers(1, viewport=DESK, java_script_enabled=False) as [visitor]:
        for path in pages:
            page = opened(visitor, path)
            assert page.locator("h1").inner_text()
            assert page.locator("main h2").count() > 0
            folded = page.locator("main details:not([open])")
            if folded.count():
                folded.first.locator("> summary").click()
                assert page.locator("main details[open]").count() > 0


def test_pages_are_printed_with_all_that_is_folded(pages):
    shown = "document.getElementById(%r).getBoundingClientRect().height > 0"
    with browsers(1, viewport=DESK) as [visitor]:
        for path in pages[1:3]:
            page = opened(visitor, path)
            assert page.pdf().startswith(b"%PDF")
            hidden = page.evaluate("[...document.querySelectorAll('details:not([open]) > .inside')].map(each => each.id)")
            assert hidden, path.name
            page.emulate_media(media="print")
            assert all(page.evaluate(shown % each) for each in hidden), "without the script, too"
            assert page.locator("nav").is_hidden()


def test_printing_opens_what_is_folded_and_closes_it_again(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[1])
        before = page.evaluate("document.querySelectorAll('details[open]').length")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.querySelectorAll('details[open]').length") == before


def test_by_keyboard(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[1])
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "one sees where one is"
        region = page.locator(".scroll").first
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("role") == "group"
        assert region.get_attribute("aria-label")


def test_an_address_opens_what_it_is_in(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[2])
        page.locator("main table a").first.click()
        page.wait_for_function("document.querySelector(':target') !== null")
        assert page.evaluate("document.querySelector(':target').closest('details').open")
        assert page.locator(":target").is_visible()


def test_tables_are_sorted_by_their_numbers(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[1])
        table = page.locator("table.data", has=page.locator("caption", has_text="Every method and baseline"))
        head = table.locator("thead th").nth(1)
        rows = "rows => rows.map(row => parseFloat(row.cells[1].textContent.replaceAll('−', '-')))"
        for order, sign in (("ascending", 1), ("descending", -1)):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == order
            found = [sign * value for value in table.locator("tbody tr").evaluate_all(rows)]
            assert found == sorted(found)


def test_a_large_gallery_is_searched(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[0])
        assert page.locator("ul.gallery > li:visible").count() == 26
        page.locator("input[type=search]").fill("(26)")
        assert page.locator("ul.gallery > li:visible").count() == 1
        assert page.locator("[role=status]").inner_text() == "1 of 26 shown"


def test_hostile_words_do_nothing(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = visitor.page()
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.goto(pages[3].as_uri())
        assert "<script>alert('x')</script>" in page.locator("h2").first.inner_text()
        blocked = page.evaluate(
            "new Promise(done => { const i = new Image(); i.onerror = () => done(true); i.onload = () => done(false);"
            " i.src = 'http://127.0.0.1:9/x.png'; })"
        )
        assert blocked
