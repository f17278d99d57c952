"""Boxes and masks from image-level labels: on networks whose maps are known, and as a user meets the command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures
from torch import Tensor, nn

import commands
import lucidcam
from lucidcam.data import Dataset, open_data
from lucidcam.errors import DataError, LayerError, ModelError, OptionError, TargetError
from lucidcam.imaging import maps
from lucidcam.localization import Calibration, calibrate, localize
from lucidcam.localization.grabcut import grabcut
from lucidcam.samples import Object, Problem, Sample
from lucidcam.stats.interval import share_interval
from lucidcam.types import Frame, Model

LABELS = ("red", "green", "blue")


class Colours(nn.Module):
    """A class is a colour, and its map is the colour itself, on a coarser grid."""

    def __init__(self, coarse: int = 1) -> None:
        super().__init__()
        self.seen = nn.AvgPool2d(coarse)

    def forward(self, images: Tensor) -> Tensor:
        if (images > 0.99).flatten(1).all(1).any():
            raise RuntimeError("this network does not like white")
        return self.seen(images).mean((2, 3))


def colours(coarse: int = 1) -> Model:
    def to_tensor(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    return lucidcam.wrap(Colours(coarse), to_tensor, LABELS, layer="seen", name="colours")


def painted(*boxes: tuple[int, int, int, int, str, float], size: tuple[int, int] = (40, 50)) -> np.ndarray[Any, Any]:
    """A black image `[H, W, 3]` with boxes (left, top, right, bottom, colour, level)."""
    image = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom, colour, level in boxes:
        image[top:bottom, left:right, LABELS.index(colour)] = round(255 * level)
    return image


TWO = painted((2, 3, 12, 13, "red", 1.0), (30, 20, 34, 24, "red", 0.5), (20, 5, 28, 9, "green", 0.6))
"""A large sure and a small faint red thing, and a green one."""


def probability(image: np.ndarray[Any, Any], colour: str) -> float:
    logits = torch.tensor(image.reshape(-1, 3).mean(0) / 255)
    return float(logits.softmax(0)[LABELS.index(colour)])


def test_each_region_is_a_thing_with_box_mask_and_score() -> None:
    [labels] = localize(colours(), [TWO])
    assert (labels.width, labels.height, labels.path) == (50, 40, None)
    assert labels.image is not None
    first, second = labels.objects
    assert [(each.label, each.box) for each in labels.objects] == [("red", (2, 3, 12, 13)), ("red", (30, 20, 34, 24))]
    assert first.mask is not None
    assert second.mask is not None
    assert np.array_equal(first.mask | second.mask, TWO[..., 0] > 0)
    # The class's probability × the mean heat in the region.
    assert first.score == pytest.approx(probability(TWO, "red"), abs=1e-6)
    assert second.score == pytest.approx(probability(TWO, "red") * 128 / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "boxes"),
    [
        ({"threshold": 0.6}, [(2, 3, 12, 13)]),
        ({"regions": "largest"}, [(2, 3, 12, 13)]),
        ({"min_area": 17 / 2000}, [(2, 3, 12, 13)]),
        ({"min_area": 16 / 2000}, [(2, 3, 12, 13), (30, 20, 34, 24)]),
        ({"target": "green"}, [(20, 5, 28, 9)]),
        ({"target": 1}, [(20, 5, 28, 9)]),
        ({"target": ["green", "red"], "regions": "largest"}, [(20, 5, 28, 9), (2, 3, 12, 13)]),
        ({"target": "top2", "threshold": 0.9}, [(2, 3, 12, 13), (20, 5, 28, 9)]),
        ({"target": "blue"}, []),
    ],
)
def test_options(options: dict[str, Any], boxes: list[Any]) -> None:
    [labels] = localize(colours(), [TWO], masks=False, **options)
    assert [each.box for each in labels.objects] == boxes
    assert all(each.mask is None for each in labels.objects)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threshold": 1.5}, OptionError, "threshold between 0 and 1"),
        ({"regions": "some"}, OptionError, "largest"),
        ({"min_area": -1}, OptionError, "min_area"),
        ({"refine": "crf"}, OptionError, "grabcut"),
        ({"method": "gradcm"}, OptionError, "gradcam"),
        ({"weights": "softmax"}, OptionError, "weights"),
        ({"target": "reddish"}, TargetError, "red"),
        ({"target": ["top2", "red"]}, TargetError, "combined"),
        ({"class_map": {"roses": "crimson"}}, OptionError, "crimson"),
    ],
)
def test_wrong_options_are_told_before_any_image_is_read(options: dict[str, Any], error: type[Exception], words: str) -> None:
    def never() -> Iterator[Sample | Problem]:
        raise AssertionError("no image may be read")

    with pytest.raises(error, match=words):
        localize(colours(), Dataset("never", "images", never), **options)


def test_what_is_wrong_with_the_request_is_raised_not_reported() -> None:
    for options, error in (({"target": 7}, TargetError), ({"layer": "sen"}, LayerError)):
        with pytest.raises(error):
            list(localize(colours(), [TWO], on_problem=lambda problem: None, **options))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="preprocess"):
        list(localize(lucidcam.wrap(Colours()), [TWO], on_problem=lambda problem: None))


def test_labels_of_the_data_are_what_things_are_called() -> None:
    samples = [
        Sample(TWO, "both", ("grass", "rose")),
        Sample(TWO, "one", ("Red",)),
        Sample(TWO, "none"),
        Sample(TWO, "strange", ("gnome",)),
        Sample(TWO, "partly", ("gnome", "red")),
    ]
    problems: list[Problem] = []
    found = {
        each.name: [(thing.label, thing.box[:2]) for thing in each.objects]
        for each in localize(
            colours(), samples, target="label", regions="largest", class_map={"rose": "red", "grass": 1}, on_problem=problems.append
        )
    }
    assert found == {
        "both": [("grass", (20, 5)), ("rose", (2, 3))],
        "one": [("Red", (2, 3))],
        "none": [],
        "partly": [("red", (2, 3))],
    }
    assert [each.name for each in problems] == ["strange", "images"]
    assert "gnome" in problems[0].error
    assert "gnome" in problems[1].error
    assert "class_map" in problems[1].error
    [labels] = localize(colours(), [TWO], target="rose", regions="largest", class_map="rose=red")
    assert [each.label for each in labels.objects] == ["rose"]


def test_bad_images_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    white = np.full((40, 50, 3), 255, np.uint8)
    samples = [
        Sample(TWO, "first"),
        Sample(tmp_path / "cut.png", "cut"),
        Sample(white, "white"),
        Problem("gone", "it is gone."),
        Sample(TWO, "last"),
    ]
    problems: list[Problem] = []
    found = list(localize(colours(), samples, target="red", on_problem=problems.append))
    assert [(each.name, len(each.objects)) for each in found] == [("first", 2), ("last", 2)]
    assert sorted(each.name for each in problems) == ["cut", "gone", "white"]
    assert "does not like white" in next(each.error for each in problems if each.name == "white")
    with pytest.raises(DataError, match="it is gone"):  # without anyone to tell
        list(localize(colours(), samples[3:], target="red"))


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    def quiet(problem: Problem) -> None:
        pass

    with pytest.raises(DataError, match="no image could be used"):
        list(localize(colours(), [Sample(TWO, "one", ("gnome",))], target="label", on_problem=quiet))
    with pytest.raises(DataError, match="empty"):
        list(localize(colours(), [], on_problem=quiet))
    with pytest.raises(DataError, match="tells no classes"):
        list(localize(colours(), [TWO], target="label", on_problem=quiet))


def test_samples_stream() -> None:
    read = 0

    def stream() -> Iterator[Sample | Problem]:
        nonlocal read
        for i in range(1000):
            read += 1
            yield Sample(TWO, f"image {i}")

    found = localize(colours(), Dataset("many", "images", stream))
    for _ in range(20):
        next(found)
    assert read == 32


def scene() -> tuple[Image.Image, np.ndarray[Any, np.dtype[np.bool_]]]:
    """A reddish ellipse on a greenish ground, both noisy; and where it is."""
    height, width = 150, 200
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    thing = ((x - 90) / 45) ** 2 + ((y - 70) / 30) ** 2 < 1
    pixels = np.where(thing[..., None], (200, 60, 50), (20, 120, 70)) + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), thing


def overlap(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_grabcut_follows_the_colours() -> None:
    image, thing = scene()
    model = colours(coarse=50)
    [[rough], [fine]] = [
        next(localize(model, [image], target="red", threshold=0.4, refine=refine)).objects
        for refine in ("", "grabcut")  # type: ignore[arg-type]
    ]
    assert rough.mask is not None
    assert fine.mask is not None
    before, after = overlap(rough.mask, thing), overlap(fine.mask, thing)
    assert before < 0.8
    assert after > 0.95
    rows, columns = (np.flatnonzero(thing.any(axis)) for axis in (1, 0))
    true = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.array(fine.box) - true).max() <= 3 < 10 < np.abs(np.array(rough.box) - true).max()
    assert fine.score == rough.score
    [[again]] = [next(localize(model, [image], target="red", threshold=0.4, refine="grabcut")).objects]
    assert np.array_equal(again.mask, fine.mask)
    [boxed] = next(localize(model, [image], target="red", threshold=0.4, refine="grabcut", masks=False)).objects
    assert boxed.box == fine.box
    assert boxed.mask is None


def test_grabcut_of_a_large_image_works_on_a_reduced_one() -> None:
    image, thing = scene()
    large = image.resize((1600, 1200))
    heat = np.asarray(Image.fromarray(thing).resize(large.size), bool).astype(np.float32)
    shifted = np.roll(heat, 60, axis=1)
    heat = np.maximum(0.3 * heat, 0.4 * shifted + 0.6 * shifted * heat)  # lukewarm where the thing was missed
    [region] = maps.regions(heat, 0.35)
    mask = region.mask(heat.shape)
    assert np.array_equal(mask, shifted > 0)
    true = np.asarray(Image.fromarray(thing).resize(large.size), bool)
    refined = grabcut(large, heat, mask, region.box, 0.35, Frame.whole(1600, 1200))
    assert overlap(refined, true) > 0.97 > 0.9 > overlap(mask, true)


def test_grabcut_leaves_out_other_things_of_the_same_colour() -> None:
    image, thing = scene()
    pixels = np.array(image)
    pixels[110:135, 60:120] = pixels[60:85, 60:120]  # a second one below, that the map hardly saw
    heat = np.where(thing, 1, 0.3).astype(np.float32)
    [region] = maps.regions(heat, 0.5)
    refined = grabcut(Image.fromarray(pixels), heat, thing, region.box, 0.5, Frame.whole(200, 150))
    assert overlap(refined, thing) > 0.97
    assert not refined[110:135].any()


@pytest.mark.parametrize("kind", ["one colour", "everything", "tiny"])
def test_grabcut_without_anything_to_work_with_keeps_the_region(kind: str) -> None:
    heat = np.zeros((40, 50), np.float32)
    image = Image.new("RGB", (50, 40), "grey")
    if kind == "one colour":
        heat[10:20, 10:30] = 1
    elif kind == "everything":
        heat[:] = 1
    else:
        heat[5, 5] = 1
    [region] = maps.regions(heat, 0.2)
    mask = region.mask(heat.shape)
    assert np.array_equal(grabcut(image, heat, mask, region.box, 0.2, Frame.whole(50, 40)), mask)


def test_calibration_finds_the_threshold_that_the_data_was_made_for() -> None:
    """The thing is 0.6 bright with a core of 1 and a halo of 0.3: thresholds in (0.3, 0.6] give its box."""
    samples = []
    for i in range(3):
        halo, thing, core = ((9 - i, 5, 45, 37), (14 + i, 10, 40, 32), (20, 15, 30, 25))
        image = painted((*halo, "red", 0.3), (*thing, "red", 0.6), (*core, "red", 1.0))
        samples.append(Sample(image, f"image {i}", ("red",), (Object("red", tuple(map(float, thing))),)))  # type: ignore[arg-type]
    found = calibrate(colours(), [*samples, Sample(TWO, "without boxes", ("red",))])
    low = share_interval(3, 3)[0]  # three of three do not say that all are right
    # 0.3 · 255 is rounded to 76, which is less than 0.3
    assert found == Calibration(threshold=0.3, accuracy=1.0, mean_iou=1.0, n=3, held_out=1.0, low=pytest.approx(low), high=1.0)
    [labels] = localize(colours(), samples[:1], target="label", threshold=found.threshold)
    assert labels.objects[0].box == samples[0].objects[0].box


def test_calibration_prefers_right_boxes_to_a_good_mean() -> None:
    """A low threshold has boxes of IoU 0.5 and 0.5; a high one 1 and 0.4: better on average, but only one is right."""
    one = painted((0, 0, 20, 10, "red", 0.3), (0, 0, 10, 10, "red", 1.0))
    other = painted((0, 0, 20, 10, "red", 0.3), (0, 0, 4, 10, "red", 1.0))
    whole, half = Object("red", (0.0, 0.0, 10.0, 10.0)), Object("red", (0.0, 0.0, 10.0, 10.0))
    found = calibrate(colours(), [Sample(one, "one", ("red",), (whole,)), Sample(other, "other", ("red",), (half,))])
    assert (found.threshold, found.accuracy, found.mean_iou) == (0.01, 1.0, 0.5)
    # Alone, the first chooses 0.31, where the second is wrong; the second chooses 0.01, where the first is right.
    assert found.held_out == 0.5
    assert found.low < 0.1 < found.high == 1.0
    mask = np.zeros((40, 50), bool)
    mask[:10, :4] = True
    masked = Sample(other, "masked", ("red",), (Object("red", mask=lambda: mask),))
    found = calibrate(colours(), [masked])
    assert (found.threshold, found.accuracy, found.mean_iou) == (0.3, 1.0, 1.0)
    assert all(math.isnan(number) for number in (found.held_out, found.low, found.high))  # no other image to choose


def test_calibration_compares_classes_with_their_own_boxes() -> None:
    objects = (Object("red", (2.0, 3.0, 12.0, 13.0)), Object("green", (20.0, 5.0, 28.0, 9.0)))
    sample = Sample(TWO, "two", ("red", "green"), objects)
    assert calibrate(colours(), [sample]).n == 2
    assert calibrate(colours(), [sample]).accuracy == 1.0
    swapped = Sample(TWO, "two", ("red",), (Object("green", objects[0].box),))
    with pytest.raises(DataError, match="no image has a box"):
        calibrate(colours(), [swapped])
    assert calibrate(colours(), [swapped], target="red").accuracy == 1.0
    outside = Sample(TWO, "outside", ("red",), (Object("red", (0.0, 0.0, 500.0, 500.0)),))
    problems: list[Problem] = []
    assert calibrate(colours(), [outside, sample], on_problem=problems.append).n == 2
    assert [each.name for each in problems] == ["outside"]


# The command line


run = partial(commands.run, "localize")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, and a damaged image."""
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in (("Egyptian cat/chelsea.png", pictures.chelsea()), ("espresso/coffee.jpg", pictures.coffee())):
        (folder / name).parent.mkdir()
        Image.fromarray(picture).save(folder / name)
    (folder / "espresso" / "torn.jpg").write_bytes((folder / "espresso" / "coffee.jpg").read_bytes()[:9000])
    return folder


def test_the_command_writes_every_format(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats = ("coco", "voc", "yolo", "masks", "fiftyone")
    outs = [word for name in formats for word in ("--out", f"{name}:{tmp_path / name}")]
    run(photos, "--method", "gradcam", "--regions", "largest", "--smooth", 2, *outs, code=1)  # one image is damaged
    shown = capsys.readouterr()
    assert "torn.jpg" in shown.err
    assert "2 images, 2 boxes" in shown.out
    for name in formats:
        assert str(tmp_path / name) in shown.out
    for name in ("coco", "voc", "yolo", "masks"):
        samples = [each for each in open_data(tmp_path / name, data_root=str(photos)) if isinstance(each, Sample)]
        assert sorted(each.labels for each in samples) == [("Egyptian cat",), ("espresso",)]
    document = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    for annotation in document["annotations"]:
        left, top, width, height = annotation["bbox"]
        image = document["images"][annotation["image_id"] - 1]
        assert left >= 0 < width
        assert top >= 0 < height
        assert left + width <= image["width"]
        assert 0 < annotation["score"] <= 1


def test_the_command_predicts_where_nothing_is_told(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(photos / "espresso" / "coffee.jpg", "--no-masks")
    document = json.loads((tmp_path / "lucidcam-labels" / "coco" / "annotations.json").read_text())
    assert [each["name"] for each in document["categories"]] == ["espresso"]
    assert "segmentation" not in document["annotations"][0]
    run(photos / "espresso" / "coffee.jpg", code=2)  # what is there is not written over
    assert "--overwrite" in capsys.readouterr().err
    run(photos, "--target", "mug=coffee mug", "--target", 504, "--overwrite", "--limit", 1, code=2)
    run(photos, "--target", "mug", "--class-map", "mug=504", "--overwrite", "--limit", 1, "--min-area", 0.001)
    document = json.loads((tmp_path / "lucidcam-labels" / "coco" / "annotations.json").read_text())
    assert [each["name"] for each in document["categories"]] == ["mug"]
    assert len(document["images"]) == 1


def test_the_command_calibrates(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [("Egyptian cat/chelsea.png", [100, 10, 330, 285], 1), ("espresso/coffee.jpg", [140, 100, 320, 240], 2)]
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": str(photos / name)} for name, _, i in entries],
                "annotations": [{"id": i, "image_id": i, "category_id": i, "bbox": box} for _, box, i in entries],
                "categories": [{"id": 1, "name": "Egyptian cat"}, {"id": 2, "name": "espresso"}],
            }
        )
    )
    run(
        photos / "espresso" / "coffee.jpg",
        "--calibrate",
        tmp_path / "boxes.json",
        "--out",
        f"yolo:{tmp_path / 'out'}",
        "--target",
        "label",
        "--data-root",
        photos,
        code=2,
    )
    assert "tells no classes" in capsys.readouterr().err
    run(tmp_path / "boxes.json", "--calibrate", tmp_path / "boxes.json", "--out", f"yolo:{tmp_path / 'right'}", "--data-root", photos)
    shown = capsys.readouterr().out
    assert "chosen on 2 maps" in shown
    assert "with the threshold that the other images choose: " in shown
    assert "IoU" in shown
    run(tmp_path / "boxes.json", "--calibrate", photos, "--out", f"yolo:{tmp_path / 'other'}", "--data-root", photos, code=2)
    assert "no image has a box" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--treshold", "0.3"], "--threshold"),
        (["--weights", "softmax"], "option of"),
        (["--out", "cocoo"], "coco"),
        (["--method", "gradcm"], "gradcam"),
        (["--data-format", "vocc"], "voc"),
        (["--split", "val"], "split"),
        (["--threshold", "0.3", "--calibrate", "x"], "one of --threshold and --calibrate"),
        (["--target", "label", "--target", "predicted"], "combined"),
        (["--class-map", "mug"], "mug"),
        (["--layer", "nowhere"], "nowhere"),
    ],
)
def test_usage_errors_come_before_anything_is_written(
    words: list[str], told: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(photos, *words, code=2)
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_data_and_unknown_data(capsys: pytest.CaptureFixture[str]) -> None:
    run("--method", "gradcam", code=2)
    run("no/such/folder", code=2)
    assert "does not exist" in capsys.readouterr().err


def test_help_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("--calibrate" in line for line in lines)
