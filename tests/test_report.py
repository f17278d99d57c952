"""Pages and reports: whole in one file, valid, nothing from elsewhere, and what they say is what was found."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import shutil
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import html5lib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import lucidcam
from commands import run as command
from lucidcam import reports
from lucidcam.errors import DataError, OptionError
from lucidcam.evaluation.gallery import read_gallery
from lucidcam.evaluation.report import Comparison, Report, Row
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io.storage import json_text
from lucidcam.metrics._base import Figure
from lucidcam.outputs.html import (
    Bar,
    Bars,
    Cell,
    Curves,
    Facts,
    Fold,
    Gallery,
    Page,
    Section,
    Shot,
    Table,
    Text,
    render,
    write,
)
from lucidcam.outputs.html.charts import bar_axis, bar_places, chart, fixed, number
from lucidcam.outputs.html.pictures import LADDER, encoded
from lucidcam.reports.run import _classes, _tally
from runs import colours, images
from scenes import folder, model, samples, scene

HOSTILE = "<script>alert('x')</script> \"quoted\" & 'so' \u202e \U0001f998 " + "very-long" * 60
FAST = {"resamples": 50, "progress": False}


def parsed(text):
    """The page's tree; strict: the first error of the standard's parser raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def check_whole(text):
    """A page that is valid and asks for nothing beyond itself; returns its tree."""
    tree = parsed(text)
    ids = [each.get("id") for each in tree.iter() if each.get("id")]
    assert len(ids) == len(set(ids)), "an id stands for one thing"
    for each in tree.iter():
        assert each.tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video", "source"), each.tag
        for name, value in each.attrib.items():
            assert not (isinstance(name, str) and name.startswith("on")), f"no handlers in attributes: {name}"
            if (name if isinstance(name, str) else name[1]) in (
                "src",
                "href",
                "srcset",
                "data",
                "action",
                "poster",
                "background",
                "xlink:href",
            ):
                assert value.startswith("data:image/webp;base64,") or (value.startswith("#") and value[1:] in ids), (each.tag, value[:80])
            assert "url(" not in value
    for style in tree.iter("style"):
        assert "url(" not in style.text
        assert "@import" not in style.text
    for picture in tree.iter("img"):
        assert picture.get("alt"), "every picture says what is to be seen"
    levels = [int(each.tag[1]) for each in tree.iter() if isinstance(each.tag, str) and re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert levels.count(1) == 1
    scripts = [each.text for each in tree.iter("script")]
    policy = next(each.get("content") for each in tree.iter("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert len(scripts) == 1
    assert f"'sha256-{base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'" in policy
    return tree


def words_of(tree):
    return " ".join(" ".join(tree.itertext()).split())


def every_block(text="words"):
    """A page with every block, all of whose words are `text`."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    parts = (
        Text(text),
        Text(text, "note"),
        Text(text, "warning"),
        Facts({text: text, "list": [1, text], "mapping": {text: None}}, caption=text),
        Table([text, "n"], [[Cell(text, best=True, small=text, to=text), 1.5], [text, None]], caption=text, note=text),
        Curves({text: [(0.0, 1.0), (0.5, 0.25), (1.0, 0.0)], "b": [(0.0, 0.5), (1.0, math.nan)]}, text, text, text, quiet=["b"]),
        Bars([Bar(text, 0.5, 0.25, 0.75, to=text), Bar("b", -0.5, quiet=True)], text),
        Gallery([Shot((picture, picture), text, text, note=text, labels=(text, text), to=text, anchor="shot"), Shot((), text, text)], text),
        Fold(text, (Text(text), Section(text, (Text(text),))), heading=True),
        Fold(text, (Text(text),)),
    )
    return Page(text, f"{text}\n\n{text}", (Section(text, parts, text), Section(text, (Section(text, (Section(text),)),))), {text: text})


# ------------------------------------------------------------------------------------------------------------------- pages


def test_a_page_with_every_block_is_valid_and_whole():
    tree = check_whole(render(every_block()))
    assert len(list(tree.iter("img"))) == 2
    assert {"header", "nav", "main", "footer"} <= {each.tag for each in tree.iter() if isinstance(each.tag, str)}


def test_whatever_is_given_is_shown_as_text():
    tree = check_whole(render(every_block(HOSTILE)))
    assert len(list(tree.iter("script"))) == 1, "the page's own"
    assert " ".join(HOSTILE.split()) in words_of(tree)
    alts = [each.get("alt") for each in tree.iter("img")]
    assert all(alt.startswith(HOSTILE) for alt in alts)


@pytest.mark.parametrize("text", ["\x00\x07\x1b[31m", "\udcff\udc80 name", "\uffff\ufdd0", "]]>--><!--", "{{ 7 * 7 }}{% raw %}", "a\r\nb"])
def test_names_that_no_document_may_hold(text):
    page = render(every_block(f"name{text}."))
    page.encode("utf-8")
    assert "49" not in words_of(check_whole(page)) or "7 * 7" in words_of(check_whole(page))


def test_the_same_page_gives_the_same_text():
    assert render(every_block()) == render(every_block())


def test_an_empty_page_is_a_page():
    check_whole(render(Page("t", "", ())))
    empty = (Table(["a"], []), Facts({}), Gallery([]), Bars([], "b"), Curves({"a": [(0.0, math.nan)]}, "x", "y", "c"), Text(""))
    tree = check_whole(render(Page("t", "", (Section("s", empty),))))
    assert "Nothing to draw" in words_of(tree)


def test_links_lead_to_their_sections():
    sections = (
        Section("Same", (Table(["a"], [[Cell("here", to="x")], [Cell("nowhere", to="gone")], [Cell("shot", to="one")]]),)),
        Section("Same", anchor="x"),
        Section("Same", (Gallery([Shot((), "c", "a", anchor="one")]),)),
    )
    tree = check_whole(render(Page("t", "", sections)))
    links = {each.text: each.get("href") for each in tree.iter("a")}
    named = {each.get("id"): each for each in tree.iter() if each.get("id")}
    assert named[links["here"][1:]].tag == "h2"
    assert named[links["shot"][1:]].tag == "li"
    assert "nowhere" not in links


def test_wrong_blocks_are_told():
    with pytest.raises(OptionError, match="expected 2 cells in every row of the table 'c'; got 1"):
        Table(["a", "b"], [["x"]], caption="c")
    with pytest.raises(OptionError, match="expected a label per picture of 'c'; got 1 for 0"):
        Shot((), "c", "a", labels=("x",))
    with pytest.raises(OptionError, match="tone"):
        Text("x", "loud")


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = write(every_block(), tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8") == render(every_block())
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write(every_block(), tmp_path / "folder")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (True, "yes"),
        (3, "3"),
        (12345, "12\u202f345"),
        (0.12345, "0.1235"),
        (-0.5, "−0.5"),
        (123456.7, "123457"),
        ("x", "x"),
    ],
)
def test_numbers_as_text(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (0.126, 2, False, "0.13"),
        (-1.5, 1, True, "−1.5"),
        (0.5, 2, True, "+0.50"),
        (0.0, 1, True, "0.0"),
        (math.inf, 2, True, "–"),
        (None, 3, False, "–"),
    ],
)
def test_figures_with_a_fixed_number_of_digits(value, digits, signed, text):
    assert fixed(value, digits, signed) == text


def test_curves_are_drawn_to_scale():
    points = [(0.0, 0.0), (0.25, 1.0), (1.0, 0.5)]
    drawn = chart(Curves({"a": points}, "x", "y", "c"))
    found = np.array([[float(v) for v in pair.split(",")] for pair in drawn.lines[0].points.split()])
    x, y = np.array(points).T
    np.testing.assert_allclose(found[:, 0], drawn.left + x * (drawn.right - drawn.left), atol=0.06)
    np.testing.assert_allclose(found[:, 1], drawn.bottom - y * (drawn.bottom - drawn.top), atol=0.06)
    assert (drawn.y_ticks[0][1], drawn.y_ticks[-1][1]) == ("0", "1")
    assert drawn.rows == [[0.0, 0.0], [0.25, 1.0], [1.0, 0.5]]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4, 1e9])
@pytest.mark.parametrize("shift", [0.0, -3.0, 7.0])
def test_every_point_of_a_curve_lies_in_the_drawing(scale, shift):
    values = np.random.default_rng(0).normal(size=40) * scale + shift * scale
    drawn = chart(Curves({"a": list(enumerate(values))}, "x", "y", "c"))
    found = np.array([[float(v) for v in pair.split(",")] for pair in drawn.lines[0].points.split()])
    assert found[:, 0].min() >= drawn.left - 0.1
    assert found[:, 0].max() <= drawn.right + 0.1
    assert found[:, 1].min() >= drawn.top - 0.1
    assert found[:, 1].max() <= drawn.bottom + 0.1
    assert 3 <= len(drawn.y_ticks) <= 8
    assert len({text for _, text in drawn.y_ticks}) == len(drawn.y_ticks)


def test_a_constant_curve_is_drawn():
    assert len(chart(Curves({"a": [(0.0, 2.0), (1.0, 2.0)], "one": [(0.5, 2.0)]}, "x", "y", "c")).lines) == 2


def test_bars_share_a_scale_with_zero():
    low, high = bar_places(Bars([Bar("a", -1.0, -2.0, 0.5), Bar("b", 3.0)], "c"))
    assert (low.start, low.length) == (pytest.approx(20), pytest.approx(20))
    assert low.whisker == (pytest.approx(0), pytest.approx(50))
    assert (high.start, high.length, high.whisker) == (pytest.approx(40), pytest.approx(60), None)


def test_bars_have_an_axis_that_spans_what_was_asked_for():
    bars = Bars([Bar("a", 0.75, 0.6, 0.9), Bar("b", 0.5)], "c", ends=(0, 1), chance=0.5)
    assert bar_axis(bars).ticks == [(0, "0"), (25, "0.25"), (50, "0.5"), (75, "0.75"), (100, "1")]
    assert bar_axis(bars).chance == 50
    assert [(each.start, each.length) for each in bar_places(bars)] == [(0, 75), (0, 50)]


@pytest.mark.parametrize(
    "bars",
    [
        Bars([Bar("a", -1.0, -2.0, 0.5), Bar("b", 3.0)], "c"),
        Bars([Bar("a", 0.0)], "c"),
        Bars([Bar("a", math.nan)], "c", chance=0.1),
        Bars([Bar("a", 1e-9), Bar("b", -3e-9)], "c"),
        Bars([Bar("a", 123456.0, 120000.0, 130000.0)], "c", chance=1e5),
        Bars([Bar("a", 0.0012345)], "c", ends=(-2, 2)),
    ],
)
def test_ticks_lie_on_the_scale_of_the_bars(bars):
    axis = bar_axis(bars)
    places = [place for place, _ in axis.ticks]
    assert places == sorted(places)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert 2 <= len(places) <= 8
    [zero] = [place for place, words in axis.ticks if words == "0"]  # 0 is always told
    assert zero == pytest.approx(bar_places(replace(bars, items=[Bar("", 0.0), *bars.items]))[0].start)
    assert (axis.chance is None) == (bars.chance is None)
    assert len("".join(words for _, words in axis.ticks)) <= 30


def test_chance_is_a_line_and_a_word(tmp_path):
    page = Page("t", "l", [Section("s", [Bars([Bar("a", 0.5)], "c", chance=0.5), Bars([Bar("a", 0.5)], "c")])])
    text = render(page)
    assert text.count(">chance</text>") == 1
    assert text.count('class="chance"') == 2  # through the bar and down to the axis


# ---------------------------------------------------------------------------------------------------------------- pictures


def texture(seed, size=(500, 375)):
    """Noise with a photo's spectrum: amplitude falls with frequency."""
    draw = np.random.default_rng(seed)
    height, width = size[1], size[0]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = (draw.normal(size=frequency.shape) + 1j * draw.normal(size=frequency.shape)) / frequency
        channels.append(np.fft.irfft2(spectrum, (height, width)))
    pixels = np.stack(channels, -1)
    return Image.fromarray((np.clip((pixels - pixels.mean()) / (4 * pixels.std()) + 0.5, 0, 1) * 255).astype(np.uint8))


def test_pictures_are_as_good_as_the_budget_allows():
    pictures = [texture(seed, (480, 360)) for seed in range(3)]
    best = encoded(pictures)
    for uri in best:
        content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
        assert Image.open(io.BytesIO(content)).size == (480, 360)
    total = sum(map(len, best))
    for share in (0.5, 0.1):
        found = encoded(pictures, int(total * share))
        assert len(found) == 3
        assert sum(map(len, found)) <= total * share
    smallest = encoded(pictures, 1)
    assert len(smallest) == 3, "there is always a picture"
    assert Image.open(io.BytesIO(base64.b64decode(smallest[0].partition(",")[2]))).width == LADDER[-1][0]
    assert encoded([]) == []


def test_a_picture_that_stands_twice_counts_twice():
    picture = texture(0, (480, 360))
    once = len(encoded([picture])[0])
    twice = encoded([picture, picture.copy()], int(1.5 * once))
    assert twice[0] == twice[1]
    assert sum(map(len, twice)) <= 1.5 * once


def test_one_picture_larger_than_the_sample_said_does_not_break_the_budget():
    pictures = [Image.new("RGB", (120, 90), (i, 0, 0)) if i % 3 == 0 else texture(i, (120, 90)) for i in range(60)]  # every third is probed
    budget = 120_000
    assert sum(map(len, encoded(pictures, budget))) <= budget


def test_the_callers_picture_is_left_as_it_is():
    picture = texture(0, (900, 600))
    before = picture.tobytes()
    shot = Shot((picture, picture.convert("P"), picture.convert("RGBA")), "c", "a")
    assert picture.tobytes() == before
    assert [each.size for each in shot.pictures] == [(720, 480)] * 3
    assert {each.mode for each in shot.pictures} == {"RGB"}


@pytest.mark.slow
def test_five_hundred_images_are_less_than_ten_megabytes(tmp_path):
    made = [np.asarray(texture(i)) for i in range(25)]

    def picture(i):
        """No two are alike; shifted, since making them takes longer than encoding them."""
        return Image.fromarray(np.roll(made[i % 25], (i // 25 * 9, i // 25 * 12), (0, 1)))

    shots = [Shot((picture(2 * i), picture(2 * i + 1)), f"image {i}", "noise", labels=("photo", "map")) for i in range(500)]
    path = write(Page("t", "l", (Section("s", (Gallery(shots),)),)), tmp_path / "page.html")
    assert 3_000_000 < path.stat().st_size < 10_000_000
    assert len(re.findall("<img ", path.read_text())) == 1000


# ------------------------------------------------------------------------------------------------------------ explanations


def test_explanations_stand_beside_their_photos(tmp_path):
    net = model()
    photos = [scene(("red", (4, 4, 24, 24))), scene(("blue", (30, 10, 50, 30)), seed=1)]
    found = [*lucidcam.explain(net, photos, "gradcam"), *lucidcam.explain(net, photos, "eigencam", target="green")]
    path = lucidcam.report(
        found, tmp_path / "report.html", model=net, command="lucidcam explain 'a b.jpg'", failures=[{"image": "x", "error": "cut off"}]
    )
    tree = check_whole(path.read_text(encoding="utf-8"))
    figures = [each for each in tree.iter("figure") if each.find(".//img") is not None]
    assert [len(list(each.iter("img"))) for each in figures] == [3, 3], "photo, gradcam, eigencam of each; images in memory share a name"
    text = words_of(tree)
    for word in (net.fingerprint(), "lucidcam explain 'a b.jpg'", "cut off", "gradcam", "eigencam", "torch", lucidcam.__version__):
        assert word in text
    for each in found:
        assert each.label in text
        assert number(each.score) in text


def test_an_explanation_is_a_page_by_itself(tmp_path):
    net = model()
    [found] = lucidcam.explain(net, scene(("red", (4, 4, 24, 24))))
    tree = check_whole(found.save(tmp_path / "one.html").read_text(encoding="utf-8"))
    shown = [Image.open(io.BytesIO(base64.b64decode(each.get("src").partition(",")[2]))) for each in tree.iter("img")]
    assert [each.size for each in shown] == [(64, 48)] * 2
    assert np.abs(np.asarray(shown[1], float) - np.asarray(found.overlay(), float)).mean() < 6
    assert np.abs(np.asarray(shown[0], float) - np.asarray(found.image, float)).mean() < 6


def test_no_map_in_full_size_is_kept():
    net = model()
    found = lucidcam.explain(net, scene(("red", (4, 4, 24, 24))))
    reports.page(found)
    assert "map" not in vars(found[0])
    assert "heatmap" not in vars(found[0])


def test_of_many_images_some_are_shown_and_all_are_listed():
    net = model()
    found = lucidcam.explain(net, [scene(("red", (4, 4, 24, 24)), seed=i) for i in range(9)])
    tree = check_whole(render(reports.page(found, images=3)))
    assert len([each for each in tree.iter("img") if "(photo)" in each.get("alt")]) == 3
    assert "3 images of the 9 are shown" in words_of(tree)
    rows = max(len(list(table.iter("tr"))) for table in tree.iter("table"))
    assert rows == 10
    with pytest.raises(OptionError, match="images ≥ 1"):
        reports.page(found, images=0)


def test_a_folder_of_explain_gives_the_same_report(tmp_path):
    scene(("red", (4, 4, 24, 24))).save(tmp_path / "a.png")
    scene(("blue", (4, 4, 24, 24))).save(tmp_path / "b.png")
    out, page = tmp_path / "out", tmp_path / "now.html"
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    command("explain", tmp_path / "a.png", tmp_path / "b.png", tmp_path / "broken.png", "--out", out, "--report", page, code=1)
    command("report", out, "--out", tmp_path / "later.html")
    now, later = (check_whole((tmp_path / name).read_text(encoding="utf-8")) for name in ("now.html", "later.html"))
    assert [each.get("alt") for each in now.iter("img")] == [each.get("alt") for each in later.iter("img")]
    assert "broken.png" in words_of(later)
    assert "lucidcam explain" in words_of(now)
    (tmp_path / "a.png").unlink()
    command("report", out, "--out", tmp_path / "last.html")
    last = check_whole((tmp_path / "last.html").read_text(encoding="utf-8"))
    assert len(list(last.iter("img"))) == len(list(later.iter("img"))) - 1
    assert "the photo is not where it was" in words_of(last)


def test_a_photo_that_is_given_twice_is_two_images(tmp_path):
    net, one = model(), scene(("red", (4, 4, 24, 24)))
    photos = [one, one, scene(("blue", (4, 4, 24, 24)))]
    found = [*lucidcam.explain(net, photos, "gradcam"), *lucidcam.explain(net, photos, "eigencam")]
    page = reports.page(found)
    assert page.lead.startswith("3 images explained by gradcam and eigencam: 6 maps")
    assert (page.facts["images"], page.facts["maps"]) == (3, 6)
    tree = check_whole(render(page))
    assert [len(list(each.iter("img"))) for each in tree.iter("figure") if each.find(".//img") is not None] == [3, 3, 3]
    one.save(tmp_path / "a.png")
    twice = reports.page(lucidcam.explain(net, [tmp_path / "a.png"] * 2, "gradcam"))
    assert twice.facts["images"] == 1, "a file is one image"
    several = reports.page(lucidcam.explain(net, one, "gradcam", target=[[0, 1, 2]]))
    assert (several.facts["images"], several.facts["maps"]) == (1, 3)


def test_hostile_names_of_images_and_classes(tmp_path):
    net = lucidcam.wrap(model().module, model().preprocess, ["<b>red</b>", '"&', "\u202eblue"], name="<i>net</i>")
    found = lucidcam.explain(net, [scene(("red", (4, 4, 24, 24)))], target=[[0, 1, 2]])
    found = [replace(each, name="<img src=x onerror=alert(1)>/" + html.escape("<p>") + "\udcff.jpg") for each in found]
    tree = check_whole(lucidcam.report(found, tmp_path / "r.html", model=net).read_text(encoding="utf-8"))
    assert "<b>red</b>" in words_of(tree)
    assert len(list(tree.iter("img"))) == 4


def headings(table):
    """The headings of a grid's columns and rows."""
    columns = [" ".join(each.itertext()) for each in table.find("thead").iter("th")]
    return columns, [" ".join(row.find("th").itertext()) for row in table.find("tbody").iter("tr")]


@pytest.mark.parametrize("order", ["methods first", "classes first"])
def test_methods_are_rows_and_classes_are_columns(order):
    net, photo = model(), scene(("red", (4, 4, 24, 24)))
    methods, classes = ["gradcam", "eigencam"], ["green", "red", "blue"]
    pairs = [(m, c) for m in methods for c in classes] if order == "methods first" else [(m, c) for c in classes for m in methods]
    found = [replace(each, name="a.png") for m, c in pairs for each in lucidcam.explain(net, photo, m, target=c)]
    tree = check_whole(render(reports.page(found)))
    [table] = [each for each in tree.iter("table") if each.get("class") == "matrix"]
    columns, rows = headings(table)
    assert rows == methods
    assert [each.split()[0] for each in columns] == ["photo", *classes]
    shown = [[each.get("alt") for each in row.iter("img")] for row in table.find("tbody").iter("tr")]
    assert shown[0].pop(0) == "a.png (photo)"
    for method, row in zip(methods, shown, strict=True):
        assert [alt.split("(")[1].split()[:2] for alt in row] == [[f"{method}:", each] for each in classes]
    assert len({(each.get("width"), each.get("height"), each.get("style")) for each in table.iter("img")}) == 1


def test_a_grid_has_every_map_of_a_photo():
    net, photo = model(), scene(("red", (4, 4, 24, 24)))
    found = [*lucidcam.explain(net, photo, "gradcam", target=[["red", "green"]]), *lucidcam.explain(net, photo, "eigencam", target="red")]
    found += lucidcam.explain(net, photo, "gradcam", target=[["red", "green"]], layer="0")
    found = [replace(each, name="a.png") for each in (*found, found[0])]
    tree = check_whole(render(reports.page(found)))
    [table] = [each for each in tree.iter("table") if each.get("class") == "matrix"]
    assert len(list(table.iter("img"))) == 1 + len(found)
    _, rows = headings(table)
    assert len(set(rows)) == len(rows) == 4, "gradcam at two layers, once more, and eigencam"


def test_rows_of_one_method_are_told_apart_by_its_options():
    net, photo = model(), scene(("red", (4, 4, 24, 24)))
    maps = [lucidcam.explain(net, photo, "rise", target=[["red", "green"]], masks=n, seed=0) for n in (8, 16)]
    tree = check_whole(render(reports.page([replace(each, name="a.png") for found in maps for each in found])))
    [table] = [each for each in tree.iter("table") if each.get("class") == "matrix"]
    assert headings(table)[1] == ["rise · masks: 8", "rise · masks: 16"]


# ------------------------------------------------------------------------------------------------------------- evaluations


def judged(means, p=None, better=False, unit="", trivial=()):
    """A report of methods with these figures, in which all pairs have the p-value of `p` by (first, second), or none is compared."""
    figure = Figure("deletion", unit, better)
    compared = [
        Comparison("deletion", first, second, means[first] - means[second], -1.0, 1.0, p.get((first, second), 0.001))
        for i, first in enumerate(means)
        for second in list(means)[i + 1 :]
        if p is not None
    ]
    rows = tuple(Row(name, "deletion", value, value - 0.1, value + 0.1, 20) for name, value in means.items())
    return Report(rows, {"deletion": figure}, tuple(compared), {"data": "d", "model": "m"}, trivial=trivial)


@pytest.mark.parametrize(
    ("means", "p", "tied"),
    [
        ({"a": 0.2, "b": 0.2, "c": 0.3}, None, ["a", "b"]),
        ({"a": 0.3, "b": 0.2000001, "c": 0.2}, None, ["b", "c"]),
        ({"a": 0.2, "b": 0.2004, "c": 0.3}, {}, ["a", "b"]),
        ({"a": 0.25, "b": 0.2, "c": 0.3}, {("a", "b"): 0.2}, ["a", "b"]),
        ({"a": 0.25, "b": 0.2, "c": 0.3}, {("a", "b"): 0.2, ("b", "c"): 0.06}, ["a", "b", "c"]),
        ({"a": 0.25, "b": 0.2, "c": 0.3}, {}, ["b"]),
        ({"a": 0.25, "b": 0.2, "c": math.nan}, {}, ["b"]),
    ],
)
@pytest.mark.parametrize("better", [False, True])
def test_ties_are_told_as_ties(means, p, tied, better):
    report = judged({name: 1 - value if better else value for name, value in means.items()}, p, better)
    assert sorted(report.leaders("deletion")) == tied
    text = words_of(check_whole(render(reports.page(report))))
    lead = reports.page(report).lead
    if len(tied) == 1:
        assert f"{tied[0]} is best by 1 of 1 metric: deletion." in lead
        assert "tie for the best" not in text
    else:
        assert "is best" not in text
        assert ("All 3 methods tie" if len(tied) == 3 else f"{tied[0]} and {tied[1]} tie for the best") in lead
        assert text.count("(ties for the best)") == len(tied)
        console = Console(width=100, force_terminal=True, color_system="standard")
        with console.capture() as captured:
            console.print(report.table(100))
        bold = re.findall(r"\x1b\[1m\s*([0-9.]+)", captured.get())
        assert len(bold) == len(tied)


@pytest.mark.parametrize(
    ("means", "p", "words"),
    [
        ({"a": 0.3, "uniform": 0.2}, {}, "a baseline that knows nothing of the network is better than every method"),
        ({"a": 0.2, "uniform": 0.2}, {}, "the best method and a baseline that knows nothing of the network tie"),
        ({"a": 0.3, "uniform": 0.2}, {("a", "uniform"): 0.3}, "the best method and a baseline that knows nothing of the network tie"),
        ({"a": 0.2, "uniform": 0.3}, {("a", "uniform"): 0.3}, "the best method and a baseline that knows nothing of the network tie"),
    ],
)
def test_a_baseline_that_ties_is_not_better(means, p, words):
    assert reports.page(judged(means, p, trivial=("uniform",))).lead.endswith(f"By deletion {words}.")


def test_what_is_better_is_told_in_words_and_sorting_has_other_arrows(evaluated):
    text = render(reports.page(evaluated))
    tree = check_whole(text)
    table = next(each for each in tree.iter("table") if (each.findtext("caption") or "").startswith("Every method"))
    for each, name in zip(list(table.find("thead").iter("th"))[1:], evaluated.figures, strict=False):
        better = evaluated.figures[name].higher_is_better
        assert each.findtext("small") == ("↑ higher is better" if better else "↓ lower is better")
    style, script = next(tree.iter("style")).text, next(tree.iter("script")).text
    assert {"▲", "▼"} <= set(style)
    assert not set(style + script) & set("↑↓↕")


@pytest.mark.parametrize("crop", [24, 40])
def test_galleries_leave_what_the_network_did_not_see_as_the_photo_is(tmp_path, crop):
    preprocess = Preprocess(size=crop, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3, fit="crop")
    net = lucidcam.wrap(model().module, preprocess, labels=["red", "green", "blue"], name="cropped")
    plain = [replace(each, objects=()) for each in samples(3)]  # of which none is framed
    lucidcam.evaluate(net, plain, "gradcam", "average_drop", baselines=[], out=tmp_path / "out", **FAST)
    left, top = (64 - crop) // 2, (48 - crop) // 2
    outside = np.ones((48, 64), bool)
    outside[top - 2 : top + crop + 2, left - 2 : left + crop + 2] = False
    shots = read_gallery(tmp_path / "out" / "gallery")
    assert shots
    for each in shots:
        photo, picture = (np.asarray(Image.open(tmp_path / "out" / "gallery" / name), float) for name in (each.photo, each.picture))
        assert np.abs(photo - picture)[outside].max() < 40, "but for what the files' compression does"
        assert np.abs(photo - picture)[~outside].mean() > 20


# ------------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "null"),
        (-math.inf, "null"),
        ({"a": [1.5, (math.inf, {"b": np.float32("nan")})]}, '{"a": [1.5, [null, {"b": null}]]}'),
        ([np.float32(0.5), np.int64(3), True, None, "NaN"], '[0.5, 3, true, null, "NaN"]'),
        (Path("a"), '"a"'),
    ],
)
def test_json_has_no_nan(value, text):
    assert json_text(value) == text


KEPT_IN_BINARY = {"evaluation/journal.py", "nn/memory.py", "pipeline/cache.py", "train/features.py"}
"""Files whose JSON stands in archives or beside digests that only lucidcam reads."""

NO_NUMBERS = {"io/storage.py", "outputs/yolo.py", "options/catalogue.py"}
"""`storage.json_text` itself; text alone; a list that ships with the package."""


def test_all_json_is_made_in_one_place():
    root = Path(lucidcam.__file__).parent
    made = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if re.search(r"\bjson\.dumps?\(", path.read_text("utf-8"))}
    assert made <= KEPT_IN_BINARY | NO_NUMBERS


def strict(text):
    """JSON as the standard has it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_written_of_an_explanation_is_json(tmp_path, suffix, wrong):
    [found] = lucidcam.explain(model(), scene(("red", (4, 4, 24, 24))))
    path = replace(found, score=wrong, probability=wrong, error=wrong).save(tmp_path / f"a.{suffix}")
    told = strict(path.read_text() if suffix == "json" else str(np.load(path)["info"]))
    assert (told["score"], told["probability"], told["error"]) == (None, None, None)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_an_evaluation_writes_is_json(tmp_path, wrong):
    report = replace(judged({"a": wrong, "b": 0.5}), groups={"deletion": {"a": {"red": {"deletion": wrong, "list": [wrong]}}}})
    report.save(tmp_path / "out")
    told = strict((tmp_path / "out" / "results.json").read_text())
    assert told["rows"][0]["mean"] is None
    check_whole(render(reports.page(tmp_path / "out")))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    metrics = ["average_drop", ("deletion", {"steps": 8}), "pointing_game", "win_rate"]
    return lucidcam.evaluate(model(), samples(8), ["gradcam", "gradient"], metrics, out=out, **FAST)


def cells(tree, caption):
    """The rows of a table by its caption, as words."""
    table = next(each for each in tree.iter("table") if (each.findtext("caption") or "").startswith(caption))
    return [[" ".join(" ".join(cell.itertext()).split()) for cell in row if cell.tag in ("th", "td")] for row in table.iter("tr")]


def test_the_leaderboard_has_every_figure(evaluated):
    tree = check_whole(render(reports.page(evaluated)))
    rows = cells(tree, "Every method and baseline")
    assert [row[0] for row in rows[1:]] == evaluated.methods
    names = [name for name in evaluated.figures if any(each.metric == name and math.isfinite(each.mean) for each in evaluated.rows)]
    assert len(names) == 4
    for row in rows[1:]:
        for i, name in enumerate(names):
            known = evaluated.row(row[0], name)
            shown = row[1 + i].replace("−", "-")
            if not math.isfinite(known.mean):
                assert shown == "–"
                continue
            digits = 1 if evaluated.figures[name].unit == "%" else 3
            assert float(shown.split()[0]) == pytest.approx(known.mean, abs=0.6 * 10**-digits)
            leaders = evaluated.leaders(name)
            assert ("(best)" in shown) == (leaders == [row[0]])
            assert ("(ties for the best)" in shown) == (len(leaders) > 1 and row[0] in leaders)
            assert ("≈" in shown) == (row[0] in leaders[1:] and evaluated.differs(name, row[0], leaders[0]) is False)


def test_differences_have_the_sign_of_the_better_against_the_other(evaluated):
    tree = check_whole(render(reports.page(evaluated)))
    rows = {row[0].split()[0]: row for row in cells(tree, "The best method by each metric")}
    best = min(("gradcam", "gradient"), key=lambda each: evaluated.row(each, "deletion:steps=8").mean)
    other = {"gradcam": "gradient", "gradient": "gradcam"}[best]
    difference = evaluated.row(best, "deletion:steps=8").mean - evaluated.row(other, "deletion:steps=8").mean
    assert difference < 0
    assert float(rows["deletion:steps=8"][3].replace("−", "-").split()[0]) == pytest.approx(difference, abs=6e-4)
    assert rows["deletion:steps=8"][3].endswith(other)


def test_curves_and_galleries_are_there(evaluated):
    tree = check_whole(render(reports.page(evaluated)))
    captions = [each.findtext("figcaption") for each in tree.iter("figure") if each.get("class") == "chart"]
    assert "deletion" in captions
    shots = read_gallery(evaluated.folder / "gallery")
    assert {each.method for each in shots} == {"gradcam", "gradient"}
    assert {each.group for each in shots} >= {"best", "random"}
    titles = [words.strip() for each in tree.iter("summary") for words in ["".join(each.itertext())]]
    assert "Best" in titles
    assert "Drawn at random" in titles
    assert len(list(tree.iter("img"))) == 2 * len(shots)


def test_galleries_hold_what_they_say(evaluated):
    shots = read_gallery(evaluated.folder / "gallery")
    values = dict(zip(evaluated.names, evaluated.values["gradcam", "average_drop"]))
    own = [each for each in shots if each.method == "gradcam"]
    best = [each.value for each in own if each.group == "best"]
    assert best == sorted(values.values())[: len(best)]
    for each in own:
        assert each.value == values[each.image]
        assert each.labels == (["red", "green", "blue"][int(each.image[-3:]) % 3],)
        if each.group == "beaten":
            theirs = dict(zip(evaluated.names, evaluated.values[each.against, "average_drop"]))
            assert each.theirs == theirs[each.image] < each.value
    assert len({each.image for each in own if each.group == "random"}) == 5


def test_a_folder_of_evaluate_gives_the_same_report(evaluated, tmp_path):
    now = reports.page(evaluated)
    later = reports.page(evaluated.folder)
    text = [re.sub(r"page made.*?UTC", "", words_of(check_whole(render(each)))) for each in (now, later)]
    assert text[0] == text[1]
    command("report", evaluated.folder, "--out", tmp_path / "r.html", "--title", "Mine")
    assert "Mine" in words_of(check_whole((tmp_path / "r.html").read_text(encoding="utf-8")))


def test_an_evaluation_without_a_folder_has_no_gallery():
    found = lucidcam.evaluate(model(), [*samples(3), "missing.jpg"], "gradcam", "average_drop", **FAST)
    tree = check_whole(render(reports.page(found)))
    assert not list(tree.iter("img"))
    assert "missing.jpg" in words_of(tree)


def test_evaluate_makes_a_report_with_pictures(tmp_path):
    place = folder(tmp_path / "data", 4)
    page = tmp_path / "e.html"
    words = ["evaluate", place, "--metric", "average_drop", "--baseline", "uniform", "--report", page, "--resamples", "20", "--limit", "2"]
    command(*words)
    tree = check_whole(page.read_text(encoding="utf-8"))
    assert list(tree.iter("img"))


# -------------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    place = tmp_path_factory.mktemp("ran")
    (place / "photos").mkdir()
    for i, each in enumerate(images(9)):
        Image.fromarray(each).save(place / "photos" / f"{i}.png")
    (place / "photos" / "cut.png").write_bytes((place / "photos" / "0.png").read_bytes()[:50])
    return place, lucidcam.run(colours(), place / "photos", place / "out", metrics=["average_drop"], progress=False)


def test_a_run_shows_its_maps_over_its_photos(ran):
    place, results = ran
    tree = check_whole(render(reports.page(results, data=place / "photos")))
    text = words_of(tree)
    assert "not found" not in text
    assert "cut.png" in text
    for label in ("red", "green", "blue"):
        assert label in text
    rows = list(results.rows())
    shown = {each.get("alt"): each.get("src") for each in tree.iter("img")}
    row = rows[0]
    name = row["image"].rpartition("/")[2]
    alt = next(each for each in shown if each.startswith(f"{name},") and "(photo)" not in each)
    [expected] = lucidcam.explain(colours(), place / "photos" / name, target=row["target"])
    picture = Image.open(io.BytesIO(base64.b64decode(shown[alt].partition(",")[2])))
    assert np.abs(np.asarray(picture, float) - np.asarray(expected.overlay(), float)).mean() < 8
    assert "average drop" in text, "what the metrics gave"


def test_a_run_without_its_photos_shows_its_maps(ran):
    _, results = ran
    tree = check_whole(render(reports.page(results)))
    assert "Some photos are not found" in words_of(tree)
    assert not any("(photo)" in each.get("alt") for each in tree.iter("img"))
    assert list(tree.iter("img"))


def test_a_map_is_not_laid_where_it_was_not(ran):
    place, results = ran
    elsewhere = replace(colours(), preprocess=lucidcam.load("demo").preprocess)  # a centre crop
    tree = check_whole(render(reports.page(results, data=place / "photos", model=elsewhere)))
    assert "shown by themselves" in words_of(tree)


def test_the_surest_and_the_least_sure(ran):
    place, results = ran
    page = reports.page(results, data=place / "photos", images=3)
    folds = {each.title: each for each in page.sections[0].parts if isinstance(each.parts[0], Gallery)}
    chances = sorted(row["probability"] for row in results.rows())
    shown = {title: [float(shot.labels[1].split()[-1]) for shot in fold.parts[0].shots] for title, fold in folds.items()}
    assert shown["Surest"] == pytest.approx(chances[::-1][:3], abs=5e-4)
    assert shown["Least sure"] == pytest.approx(chances[:3], abs=5e-4)
    assert len(shown["Drawn at random"]) == 3


@pytest.mark.slow
def test_run_makes_a_report(ran, tmp_path):
    place, _ = ran
    words = ["run", place / "photos", "--out", tmp_path / "out", "--limit", "2", "--images-at-once", "2"]
    command(*words, "--report", tmp_path / "r.html")
    tree = check_whole((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "lucidcam run" in words_of(tree)
    assert any("(photo)" in each.get("alt") for each in tree.iter("img"))
    command("report", tmp_path / "out", "--out", tmp_path / "again.html", "--data", place / "photos")


def test_the_mean_probability_of_a_class_is_of_the_maps_that_have_one():
    class Index:
        def __init__(self, *chances):
            self._rows = [{"label": "red", "probability": each, "inside": None} for each in chances]

        def __len__(self):
            return len(self._rows)

        def rows(self):
            yield from self._rows

    def mean(*chances):
        table = _classes(_tally(Index(*chances), 1, 0), lambda number, row: Shot((), "c", "a")).parts[0]
        assert table.rows[0][1] == len(chances)
        return table.rows[0][2]

    assert mean(0.5, None, 1.0) == "0.750"
    assert mean(0.0, 0.0) == "0.000"
    assert mean(None, None) == "–"


# ------------------------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def damaged(evaluated, tmp_path):
    """A copy of an evaluation's folder, to be spoilt."""
    return shutil.copytree(evaluated.folder, tmp_path / "damaged")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda shots: json.dumps(shots)[:100],
        lambda shots: json.dumps([{"method": "gradcam"}]),
        lambda shots: json.dumps([{**shots[0], "new": 1}]),
        lambda shots: json.dumps([{**shots[0], "value": None}]),
        lambda shots: json.dumps([{**shots[0], "photo": 3}]),
        lambda shots: json.dumps({"a": 1}),
        lambda shots: "3",
    ],
)
def test_a_damaged_gallery_is_told(damaged, tmp_path, spoil):
    place = damaged / "gallery" / "shots.json"
    place.write_text(spoil(json.loads(place.read_text())))
    with pytest.raises(DataError, match=r"shots.json cannot be read as the gallery"):
        lucidcam.report(damaged, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_pictures_of_a_gallery_that_cannot_be_read_are_left_out(damaged):
    shots = read_gallery(damaged / "gallery")
    spoilt = shots[0].picture
    (damaged / "gallery" / spoilt).write_bytes(b"garbage")
    tree = check_whole(render(reports.page(damaged)))
    assert len(list(tree.iter("img"))) == 2 * len(shots) - sum(each.picture == spoilt for each in shots)
    assert "can be read any more" in words_of(tree)


GOOD = {"image": "a", "label": "red", "id": 0, "score": 1.0, "probability": 0.5, "method": "gradcam", "layer": "0", "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    "text",
    ["{half", "3", "null", '{"a": 1}', '[{"image": "a"}]', '["a"]']
    + [
        json.dumps([{**GOOD, **wrong}])
        for wrong in ({"image": None}, {"probability": "x"}, {"box": 3}, {"id": []}, {"files": [3]}, {"files": 3})
    ],
)
def test_a_damaged_list_of_explanations_is_told(tmp_path, text):
    place = tmp_path / "explanations.json"
    place.write_text(json.dumps([GOOD]))
    check_whole(render(reports.page(tmp_path)))
    place.write_text(text)
    with pytest.raises(DataError, match=r"explanations.json cannot be read as explanations"):
        lucidcam.report(tmp_path, tmp_path / "r.html")


def test_a_damaged_list_of_failures_is_told(tmp_path):
    (tmp_path / "explanations.json").write_text(json.dumps([GOOD]))
    for text in ("{half", "3", "null", '["a"]'):
        (tmp_path / "failures.json").write_text(text)
        with pytest.raises(DataError, match=r"failures.json cannot be read"):
            lucidcam.report(tmp_path, tmp_path / "r.html")


@pytest.mark.parametrize("name", ["manifest.json", "failures.jsonl", "index/000000.parquet"])
def test_a_damaged_run_is_told(ran, tmp_path, name):
    place = shutil.copytree(ran[0] / "out", tmp_path / "run")
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{name.split('/')[0]}.* is gone, or not as it was written"):
        lucidcam.report(place, tmp_path / "r.html")


@pytest.mark.parametrize("lacking", ["settings", "units", "maps", "complete"])
def test_a_manifest_of_another_version_is_told(ran, tmp_path, lacking):
    place = shutil.copytree(ran[0] / "out", tmp_path / "run")
    known = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({key: value for key, value in known.items() if key != lacking}))
    with pytest.raises(DataError, match=f"manifest.json cannot be read as a run: KeyError: '{lacking}'"):
        lucidcam.report(place, tmp_path / "r.html")


def test_maps_that_cannot_be_read_are_left_out(ran, tmp_path):
    place = shutil.copytree(ran[0] / "out", tmp_path / "run")
    for each in (place / "maps").glob("*.npz"):
        each.write_bytes(each.read_bytes()[:80])
    tree = check_whole(render(reports.page(place, data=ran[0] / "photos")))
    assert "Some maps cannot be read any more" in words_of(tree)


EMPTY = {
    **dict.fromkeys(("findings", "classes", "together", "confusions", "calibration", "problems", "trials", "untried"), ()),
    "tried": {},
}
EMPTY |= {"verdict": "Nothing.", "images": 1, "settings": {"model": "m", "data": "d", "fill": "blur"}}
FOUND = {
    **{"kind": "watermark", "label": "red", "words": "It is.", "effect": {"mean": 0.5, "low": 0.4, "high": 0.6}, "images": 1, "share": 1.0},
    **{"p": None, "taken_out": None, "put_in": None, "regions": [], "beside": "", "evidence": []},
}


@pytest.mark.parametrize(
    "document",
    [
        [1],
        {"findings": []},
        {**EMPTY, "findings": [{"kind": "x"}]},
        {**EMPTY, "findings": [{**FOUND, "kind": "x"}]},
        {**EMPTY, "findings": [{**FOUND, "kind": []}]},
        {**EMPTY, "findings": [{**FOUND, "evidence": [{"name": "a", "pictures": [{"caption": "c"}]}]}]},
        {**EMPTY, "findings": [3]},
        {**EMPTY, "tried": []},
        {**EMPTY, "classes": [{"label": "red"}]},
        {**EMPTY, "settings": {}},
        {**EMPTY, "trials": [{"kind": "place"}]},
        {key: value for key, value in EMPTY.items() if key != "untried"},
    ],
)
def test_a_damaged_audit_is_told(tmp_path, document):
    (tmp_path / "audit.json").write_text(json.dumps({**EMPTY, "findings": [FOUND]}))
    assert "It is." in words_of(check_whole(render(reports.page(tmp_path))))
    (tmp_path / "audit.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"audit.json"):
        lucidcam.report(tmp_path, tmp_path / "r.html")


def test_evidence_is_only_taken_from_the_audits_folder(tmp_path):
    secret = Image.new("RGB", (40, 30), "red")
    secret.save(tmp_path / "secret.png")
    place = tmp_path / "audit"
    (place / "evidence").mkdir(parents=True)
    secret.save(place / "evidence" / "own.png")
    (place / "evidence" / "link.png").symlink_to(tmp_path / "secret.png")
    (place / "evidence" / "bad.png").write_bytes((place / "evidence" / "own.png").read_bytes()[:60])

    def shown(file):
        evidence = [{"name": "a", "changes": [], "pictures": [{"caption": "c", "file": file}]}]
        (place / "audit.json").write_text(json.dumps({**EMPTY, "findings": [{**FOUND, "evidence": evidence}]}))
        tree = check_whole(render(reports.page(place)))
        assert ("cannot be read any more" in words_of(tree)) == (not list(tree.iter("img")))
        return len(list(tree.iter("img")))

    assert shown("evidence/own.png") == 1
    for file in ("../secret.png", str(tmp_path / "secret.png"), "evidence/link.png", "evidence/bad.png", "evidence", "", "a\0b", 3):
        assert shown(file) == 0, file


# ------------------------------------------------------------------------------------------------------------------ errors


def test_what_no_report_is_made_of_is_told(tmp_path, capsys):
    with pytest.raises(OptionError, match="no report is made of list; expected"):
        lucidcam.report([], tmp_path / "r.html")
    with pytest.raises(DataError, match="is not there"):
        lucidcam.report(tmp_path / "gone", tmp_path / "r.html")
    with pytest.raises(DataError, match="holds no result"):
        lucidcam.report(tmp_path, tmp_path / "r.html")
    [found] = lucidcam.explain(model(), scene(("red", (4, 4, 24, 24))))
    with pytest.raises(OptionError, match="has no option 'colour'"):
        lucidcam.report(found, tmp_path / "r.html", colour="red")
    with pytest.raises(OptionError, match=r"ends in .html; got"):
        lucidcam.report(found, tmp_path / "r.pdf")
    (tmp_path / "explanations.json").write_text("{half")
    with pytest.raises(DataError, match="cannot be read"):
        lucidcam.report(tmp_path, tmp_path / "r.html")
    (tmp_path / "explanations.json").unlink()
    (tmp_path / "results.json").write_text(json.dumps({"rows": 3}))
    with pytest.raises(DataError, match="cannot be read as an evaluation"):
        lucidcam.report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    command("report", tmp_path / "gone", code=2)
    command("explain", tmp_path / "gone.jpg", "--report", tmp_path / "r.txt", "--out", tmp_path / "out", code=2)
    assert "Traceback" not in capsys.readouterr().err


def test_every_kind_of_report_is_complete():
    assert set(reports.kinds) >= {"explain", "evaluate", "run"}
    for name, kind in reports.kinds.items():
        assert kind.name == name
        assert kind.about
        assert kind.file
