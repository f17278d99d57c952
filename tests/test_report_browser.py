"""Reports in a real browser: from disk, without a network, by eye, by screen reader, on a phone and on paper."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

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
        assert page.evaluate("document.querySelectorAll('details:not([open], .aside)').length") == 0
        assert page.locator("details.aside[open]").count() == 0, "the points of curves are drawn already"
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


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """A report of four photos, two of a class each by two methods, and one that could not be explained."""
    net = lucidcam.wrap(model().module, model().preprocess, ["red, crimson", "Grün", "blue"], name="colours")
    colours = ["red", "red", "green", "blue"]
    photos = [scene((colour, (4, 4, 24, 24)), seed=i) for i, colour in enumerate(colours)]
    found = [
        replace(each, name=f"photo-{i}.png", note="nothing speaks for it" if i == 3 else "")
        for i, photo in enumerate(photos)
        for method in (["gradcam", "eigencam"] if i < 2 else ["layercam"])
        for each in lucidcam.explain(net, photo, method, target=i and None)
    ]
    failures = [{"image": "broken.png", "error": "the file is cut off"}]
    return lucidcam.report(found, tmp_path_factory.mktemp("found") / "r.html", failures=failures)


QUERIES = [
    ("photo", 4),
    ("PHOTO-2", 1),
    ("crimson", 2),
    ("grun", 1),
    ("GRÜN", 1),
    ("layercam", 2),
    ("layercam blue", 1),
    ("blue layercam", 1),
    ("blue eigencam", 0),
    ("speaks", 1),
    ("cut off", 1),
    ("broken", 1),
    ("nowhere", 0),
]


def test_the_filter_finds_names_classes_methods_and_problems(found_by):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, found_by)
        section = page.locator("main > section").first
        items = section.locator("ul.gallery > li:visible, table.filtered tbody tr:visible")
        field, status = section.get_by_label("Filter by name, class, method or problem"), section.locator("[role=status]")
        assert items.count() == 5
        for query, count in QUERIES:
            field.fill(query)
            assert items.count() == count, query
            assert status.inner_text() == (f"{count} of 5 shown" if count else "Nothing matches: 0 of 5 shown"), query
        page.keyboard.press("Escape")
        assert (items.count(), field.input_value(), status.inner_text()) == (5, "", "")
        field.fill("broken")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert (items.count(), page.evaluate("document.activeElement.type")) == (5, "search"), "Show all"
        assert visitor.errors == []


def test_the_filter_goes_through_what_is_folded(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[1])
        section = page.locator("main > section", has=page.locator("> h2", has_text="Galleries"))
        folded = section.locator("details:not([open])").count()
        assert folded
        section.locator("input[type=search]").fill("eigencam scene-001")
        shown = section.locator("li:visible")
        assert shown.count() > 0
        assert section.get_by_role("heading", name="gradcam", exact=True).is_hidden()
        section.locator("input[type=search]").fill("")
        assert section.locator("details:not([open])").count() == folded


def test_a_picture_is_enlarged(found_by):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, found_by)
        viewer, said = page.locator("dialog"), page.locator("dialog p")
        small = page.locator("button.enlarge img").first.bounding_box()
        page.locator("button.enlarge").first.click()
        assert said.inner_text() == "photo-0.png (photo)"
        assert viewer.locator("img").bounding_box()["height"] > 2 * small["height"]
        seen = []
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
            page.keyboard.press(key)
            seen.append(said.inner_text())
        assert seen[0].startswith("photo-0.png (gradcam")
        assert seen[2] == seen[0]
        assert seen[3] == "photo-0.png (photo)"
        assert seen[4].startswith("photo-3.png"), "before the first comes the last"
        assert [each["id"] for each in axe.Axe().run(page).response["violations"]] == []
        page.keyboard.press("Escape")
        assert viewer.is_hidden()
        assert page.evaluate("document.activeElement.firstChild.alt") == seen[4]
        page.locator("button.enlarge").nth(1).focus()
        page.keyboard.press("Enter")
        assert said.inner_text() == seen[0]
        page.emulate_media(media="print")
        assert viewer.is_hidden()
        assert (visitor.errors, visitor.outside) == ([], [])


@pytest.mark.parametrize("media", ["screen", "print"])
def test_the_pictures_of_a_grid_are_of_one_size(tmp_path, media):
    net = model()
    photos = [scene(("red", (4, 4, 24, 24)), size=size) for size in ((64, 48), (48, 64))]
    found = [each for method in ("gradcam", "eigencam") for each in lucidcam.explain(net, photos, method, target=[[0, 1, 2]] * 2)]
    path = lucidcam.report(found, tmp_path / "r.html")
    for viewport in (DESK, PHONE):
        with browsers(1, viewport=viewport) as [visitor]:
            page = opened(visitor, path)
            page.emulate_media(media=media)
            for grid in page.locator("table.matrix").all():
                sizes = grid.locator("img").evaluate_all("all => all.map(e => [e.offsetWidth, e.offsetHeight])")
                assert len(sizes) == 7
                assert np.ptp(sizes, axis=0).max() <= 1
                places = grid.locator("tbody td:not([rowspan]) img").evaluate_all("all => all.map(e => e.getBoundingClientRect().x)")
                assert places[:3] == pytest.approx(places[3:])


def test_what_a_table_is_sorted_by_is_told_apart_from_what_is_better(pages):
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, pages[1])
        head = page.locator("table.data", has=page.locator("caption", has_text="Every method and baseline")).locator("thead th").nth(1)
        assert "lower is better" in head.inner_text()
        drawn = "e => getComputedStyle(e, '::after').content + getComputedStyle(e).visibility"
        arrow = head.locator(".arrow")
        seen = [arrow.evaluate(drawn)]
        for _ in range(2):
            head.locator("button").click()
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            seen.append(arrow.evaluate(drawn))
        assert seen == ['"▲"hidden', '"▲"visible', '"▼"visible']
        assert "high to low" in head.locator("button").get_attribute("title")


def by_redness(classes):
    """A network with this many classes, of which class k answers to a photo whose red is k of them."""
    steps = torch.arange(classes) / classes
    head = nn.Linear(3, classes)
    convolution = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(3)[:, :, None, None])
        head.weight.copy_(torch.stack([2e4 * steps, *[torch.zeros(classes)] * 2], dim=1))
        head.bias.copy_(-1e4 * steps**2)
    module = nn.Sequential(nn.AvgPool2d(4), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    return lucidcam.wrap(module, model().preprocess, [f"class number {k}, with a synonym" for k in range(classes)], name="redness")


@pytest.mark.parametrize("kind", ["explain", "run"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_sixty_photos_are_printed_on_at_most_fifteen_pages(tmp_path, kind, size):
    """Each of a class of its own, which is the longest that such a report gets."""
    net = by_redness(60)
    (tmp_path / "photos").mkdir()
    for i in range(60):
        photo = Image.new("RGB", size, (round(255 * i / 60), 90, 30)).resize((size[0] * 8, size[1] * 8))
        photo.save(tmp_path / "photos" / f"photo-{i:03d}.png")
    if kind == "explain":
        found = lucidcam.explain(net, sorted((tmp_path / "photos").iterdir()))
        assert len({each.label for each in found}) == 60
        path = lucidcam.report(found, tmp_path / "r.html", model=net, command="lucidcam explain photos --report r.html")
    else:
        ran = lucidcam.run(net, tmp_path / "photos", tmp_path / "ran", progress=False)
        path = lucidcam.report(ran, tmp_path / "r.html", model=net, data=tmp_path / "photos")
    with browsers(1, viewport=DESK) as [visitor]:
        page = opened(visitor, path)
        for paper in ("A4", "Letter"):
            assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format=paper))) <= 15, paper
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 703, "height": 1032})  # what A4 has between its margins
        shown = page.locator("img.enlarged").first.bounding_box()
        assert min(shown["width"], shown["height"]) >= 110, "29 mm: one sees what is in it"
        assert page.locator(".filter, nav, dialog, .arrow").evaluate_all("all => all.every(e => !e.getClientRects().length)")


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
