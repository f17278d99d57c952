"""The top regions of each class: on networks that see colours, against a naive ranking, and as a user meets the command."""

from __future__ import annotations

import gc
import json
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import commands
import lucidcam
import scenes
from lucidcam.data import Dataset
from lucidcam.errors import DataError, LayerError, ModelError, OptionError, TargetError
from lucidcam.localization.sheets import ROWS, save_sheets
from lucidcam.samples import Problem, Sample


def overlap(box, other):
    """Share of `box` that lies in `other`."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def test_the_regions_lie_on_the_squares():
    given = scenes.samples(12)
    found = lucidcam.discover(scenes.model(), given)
    true = {each.name: each.objects[0].box for each in given}
    assert [each.label for each in found.concepts] == ["red", "green", "blue"]
    assert [each.id for each in found.concepts] == [0, 1, 2]
    assert (found.images, found.problems) == (12, ())
    for concept in found.concepts:
        assert concept.images == len(concept.parts) == 4
        for part in concept.parts:
            assert overlap(part.box, true[part.image]) > 0.75
            assert overlap(part.box, part.window) == 1


def naive(model, given, target, top, threshold=0.5):
    """Every map of every image, every pixel of the region grown from the peak; then sorted."""
    ranked = []
    for order, sample in enumerate(given):
        [explanation] = lucidcam.explain(model, sample.image, "cam", target)
        evidence = explanation.map.astype(np.float64)
        peak = evidence.max()
        if peak <= 0:
            continue
        inside = evidence >= threshold * peak
        reached, waiting = set(), [tuple(int(i) for i in np.unravel_index(evidence.argmax(), evidence.shape))]
        while waiting:
            y, x = waiting.pop()
            if (y, x) not in reached and 0 <= y < inside.shape[0] and 0 <= x < inside.shape[1] and inside[y, x]:
                reached.add((y, x))
                waiting += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        rows, columns = zip(*reached)
        ranked.append((-peak, order, sample.name, (min(columns), min(rows), max(columns) + 1, max(rows) + 1), explanation.probability))
    return [(name, box, -minus, probability) for minus, _, name, box, probability in sorted(ranked)[:top]]


@pytest.mark.parametrize("top", [1, 3, 50])
@pytest.mark.parametrize("target", ["red", "green"])
def test_the_ranking_is_the_naive_one(top, target):
    """Noise makes all evidence different; all images are asked for the class, also those without any."""
    rng = np.random.default_rng(3)
    given = []
    for i, sample in enumerate(scenes.samples(20, per_image=2)):
        noisy = np.asarray(sample.image, np.float64) * rng.uniform(0.6, 1) + rng.normal(0, 12, (48, 64, 3))
        given.append(Sample(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), f"image {i}"))
    model = scenes.model()
    expected = naive(model, given, target, top)
    [concept] = lucidcam.discover(model, given, target=target, top=top).concepts
    assert concept.images == 20
    assert [(each.image, each.box) for each in concept.parts] == [each[:2] for each in expected]
    assert [each.score for each in concept.parts] == pytest.approx([each[2] for each in expected])
    assert [each.probability for each in concept.parts] == pytest.approx([each[3] for each in expected])
    assert len(concept.parts) == min(top, len(expected))


def test_scores_are_not_normalised_by_image():
    """The same square, brighter: more evidence; an image without the colour has no region at all."""
    pixels = np.asarray(scenes.scene(("red", (20, 10, 40, 30))))
    faint = Image.fromarray((pixels * 0.5).astype(np.uint8))
    blue = scenes.scene(("blue", (20, 10, 40, 30)))
    [concept] = lucidcam.discover(scenes.model(), [faint, Image.fromarray(pixels), blue], target="red").concepts
    first, second = concept.parts
    assert first.score == pytest.approx(2 * second.score, rel=0.05)
    assert concept.images == 3


def test_one_region_per_image_and_class():
    two = scenes.scene(("red", (2, 5, 18, 21)), ("red", (40, 20, 60, 40)))
    found = lucidcam.discover(scenes.model(), [Sample(two, "two", ("red",)), Sample(two, "again", ("red",))])
    assert sorted(each.image for each in found["red"]) == ["again", "two"]


def test_equal_scores_keep_the_first():
    one = scenes.scene(("red", (2, 5, 18, 21)))
    given = [Sample(one, name) for name in "abcd"]
    assert [each.image for each in lucidcam.discover(scenes.model(), given, target="red", top=2)["red"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "target", "expected"),
    [
        (("red",), None, ["red"]),
        (("red",), "label", ["red"]),
        ((), None, ["green"]),
        (("red",), "predicted", ["green"]),
        (("red",), ["predicted"], ["green"]),
        (("red",), "top2", ["green", "red"]),
        (("red",), ["blue", "red"], ["blue", "red"]),
        (("red",), 2, ["blue"]),
    ],
)
def test_targets(labels, target, expected):
    """Mostly green, with some red."""
    sample = Sample(scenes.scene(("green", (2, 5, 30, 40)), ("red", (40, 20, 50, 30))), "both", labels)
    assert [each.label for each in lucidcam.discover(scenes.model(), [sample], target=target).concepts] == expected


def test_the_words_of_the_data_and_of_the_model(tmp_path):
    sample = Sample(scenes.scene(("red", (2, 5, 30, 40))), "rose", ("rose",))
    found = lucidcam.discover(scenes.model(), [sample], class_map={"rose": "red"}, out=tmp_path)
    [concept] = found.concepts
    assert (concept.label, concept.meaning, concept.id) == ("rose", "red", 0)
    assert found["rose"] == concept.parts
    with pytest.raises(TargetError, match="rose"):
        found["roses"]
    assert (tmp_path / "classes" / "rose.png").is_file()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"top": 0}, OptionError, "top ≥ 1"),
        ({"limit": 0}, OptionError, "limit ≥ 1"),
        ({"threshold": 1.5}, OptionError, "threshold between 0 and 1"),
        ({"method": "gradcm"}, OptionError, "gradcam"),
        ({"samples": 3}, OptionError, "samples"),
        ({"target": "reddish"}, TargetError, "red"),
        ({"target": ["label", "red"]}, TargetError, "combined"),
        ({"layer": "nowhere"}, LayerError, "nowhere"),
        ({"layer": "0"}, ModelError, "gradcam"),
        ({"out": __file__}, OptionError, "is a file"),
    ],
)
def test_what_is_wrong_is_told_before_any_image_is_read(options, error, words):
    class Never:
        def __fspath__(self):
            raise AssertionError("no image may be read")

    samples = [Sample(Never(), "never", ("red",))]
    with pytest.raises(error, match=words):
        lucidcam.discover(scenes.model(), Dataset("never", "images", lambda: iter(samples)), **options)


def test_a_network_that_cam_cannot_explain_is_told_at_once():
    """A head of two layers: CAM has no weights to take, Grad-CAM works."""
    base = scenes.model()
    head = nn.Sequential(base.module, nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    model = lucidcam.wrap(head.eval(), base.preprocess, base.labels, layer="0.2", name="deep head")
    with pytest.raises(ModelError, match="gradcam"):
        lucidcam.discover(model, scenes.samples(2))
    assert lucidcam.discover(model, scenes.samples(2), "gradcam").images == 2


def test_memory_does_not_grow():
    """Of a stream of images only a few are alive at a time, and only the best are cut out and kept."""
    made: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for i in range(90):
            [sample] = scenes.samples(1, seed=i)
            made.append(weakref.ref(sample.image))
            most = max(most, sum(each() is not None for each in made))
            yield sample

    found = lucidcam.discover(scenes.model(), Dataset("many", "images", stream), target="red", top=2)
    assert found.images == 90
    assert most <= 40  # sixteen in work, sixteen explained
    assert len(found["red"]) == 2
    gc.collect()
    assert not any(each() is not None for each in made)
    assert all(len(part._crop) < 20_000 for part in found["red"])


def test_bad_images_are_reported_and_skipped(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    good = scenes.samples(2)
    given = [good[0], Sample(tmp_path / "cut.png", "cut", ("red",)), Problem("gone", "gone: no such file"), good[1]]
    found = lucidcam.discover(scenes.model(), given, out=tmp_path / "out")
    assert sorted(each.name for each in found.problems) == ["cut", "gone"]
    assert found.images == 2
    written = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert sorted(each["name"] for each in written["problems"]) == ["cut", "gone"]
    with pytest.raises(DataError, match="no image could be used"):
        lucidcam.discover(scenes.model(), given[1:3], target="red", out=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_part_is_a_picture_of_its_place():
    [part] = lucidcam.discover(scenes.model(), [scenes.scene(("red", (20, 10, 40, 30)))], target="red")["red"]
    left, top, right, bottom = part.window
    assert part.crop.size == part.mask.size == (right - left, bottom - top)
    inside = np.asarray(part.mask) > 0
    assert np.abs(np.asarray(part.crop, np.float64)[inside].mean(0) - scenes.COLOURS["red"]).max() < 40
    large = scenes.scene(("red", (300, 100, 900, 600)), size=(1200, 900))
    [part] = lucidcam.discover(scenes.model(), [large], target="red")["red"]
    assert max(part.crop.size) == 192
    assert part.crop.size == part.mask.size


def test_what_is_written(tmp_path):
    found = lucidcam.discover(scenes.model(), scenes.samples(9), top=2, limit=6, out=tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here"
    written = json.loads((folder / "regions.json").read_text())
    assert {name: written[name] for name in ("model", "target", "method", "layer", "threshold", "top", "images")} == {
        "model": "colours", "target": "label", "method": "cam", "layer": "2", "threshold": 0.5, "top": 2, "images": 6,
    }  # fmt: skip
    for concept, told in zip(found.concepts, written["classes"], strict=True):
        assert (told["label"], told["id"], told["images"]) == (concept.label, concept.id, 2)
        assert told["regions"] == [
            {"image": part.image, "box": list(part.box), "score": part.score, "probability": part.probability} for part in concept.parts
        ]
        with Image.open(folder / told["sheet"]) as sheet:
            colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
        near = np.abs(colours.astype(int) - scenes.COLOURS[concept.label]).max(1) < 30
        assert near.mean() > 0.05
        assert (colours == (255, 221, 51)).all(1).sum() > 100  # the outline
    with Image.open(folder / "overview.png") as overview:
        assert min(overview.size) > 3 * 150


def test_many_classes_have_several_overviews(tmp_path):
    [part] = lucidcam.discover(scenes.model(), [scenes.scene(("red", (20, 10, 40, 30)))], target="red")["red"]
    concepts = [lucidcam.localization.Concept("crane", i, "crane", 1, (part,) if i else ()) for i in range(ROWS + 3)]
    sheets = save_sheets(concepts, tmp_path)
    assert sheets[:3] == [None, "classes/crane.png", "classes/crane-2.png"]
    assert sorted(each.name for each in tmp_path.glob("*.png")) == ["overview-2.png", "overview.png"]
    assert len(list((tmp_path / "classes").iterdir())) == ROWS + 2


# The command line


run = partial(commands.run, "discover")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A folder per colour with two photos each, and a network that is loaded in the demo's place."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(lucidcam, "load", lambda *_, **__: scenes.model())
    monkeypatch.chdir(tmp_path)
    return scenes.folder(tmp_path / "photos", 6)


def test_the_command(command, capsys, tmp_path):
    run(command, "--top", 1, "--threshold", 0.3, "--smooth", 2, "--out", tmp_path / "out")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= max(80, len(str(tmp_path / "out")))
    assert [line.split()[:2] for line in shown.splitlines()[1:4]] == [["blue", "2"], ["green", "2"], ["red", "2"]]
    written = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert [len(each["regions"]) for each in written["classes"]] == [1, 1, 1]
    assert written["threshold"] == 0.3


def test_the_command_predicts_where_nothing_is_told(command, capsys):
    run(command / "red" / "000.png", command / "green" / "001.png", "--method", "gradcam")
    shown = capsys.readouterr().out
    assert "2 images" in shown
    assert Path("lucidcam-parts/overview.png").is_file()
    assert {each["label"] for each in json.loads(Path("lucidcam-parts/regions.json").read_text())["classes"]} == {"red", "green"}


def test_a_bad_file_ends_with_1_and_the_rest_is_written(command, capsys):
    (command / "red" / "torn.png").write_bytes((command / "red" / "000.png").read_bytes()[:200])
    run(command, "--target", "red", code=1)
    shown = capsys.readouterr()
    assert "torn.png" in shown.err
    assert "6 images" in shown.out
    assert Path("lucidcam-parts/classes/red.png").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--treshold", "0.3"], "--threshold"),
        (["--tpo", "3"], "--top"),
        (["--weights", "softmax"], "option of"),
        (["--method", "gradcm"], "gradcam"),
        (["--target", "label", "--target", "red"], "combined"),
        (["--target", "rde"], "red"),
        (["--layer", "nowhere"], "nowhere"),
        (["--data-format", "vocc"], "voc"),
    ],
)
def test_usage_errors_come_before_anything_is_written(command, words, told, capsys, tmp_path):
    run(command, *words, code=2)
    assert told in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["photos"]


def test_no_evidence_and_many_classes(command, capsys, monkeypatch):
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = nn.AvgPool2d(4)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(3, 30)
            nn.init.zeros_(self.head.weight)

        def forward(self, images):
            return self.head(self.pool(self.seen(images)).flatten(1))

    model = scenes.model()
    blind = lucidcam.wrap(Blind().eval(), model.preprocess, [f"class number {i}" for i in range(30)], layer="seen")
    monkeypatch.setattr(lucidcam, "load", lambda *_, **__: blind)
    run(command, "--target", "top30")
    shown = capsys.readouterr()
    assert "… and 10 more classes" in shown.out
    assert "no map has any positive evidence" in shown.err


def test_help_fits_80_columns(command, capsys):
    run("--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("--top" in line for line in lines)
