"""Localisation metrics against slower, less complicated versions of themselves, and in the corners."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from lucidcam import registry
from lucidcam.errors import OptionError
from lucidcam.imaging import maps
from lucidcam.metrics import LocalizationMetric, Located
from lucidcam.metrics._canvas import score_map
from lucidcam.metrics._state import State
from lucidcam.metrics.companion import Companion
from lucidcam.metrics.localization_error import LocalizationError
from lucidcam.metrics.maxboxacc import MaxBoxAcc, MaxBoxAccV2
from lucidcam.metrics.pointing_game import EnergyPointingGame, PointingGame
from lucidcam.metrics.pxap import PxAP
from lucidcam.metrics.seed_miou import SeedMeanIoU
from lucidcam.samples import Object
from lucidcam.types import Frame

cv2 = pytest.importorskip("cv2")

METRICS = (LocalizationError(), MaxBoxAcc(resolution=32), MaxBoxAccV2(resolution=32), PxAP(resolution=32), PointingGame(tolerance=3))
METRICS += (EnergyPointingGame(), SeedMeanIoU())
Data = list[list[Located]]


def view(raw, size=None, boxes=(), masks=(), label="a", frame=None, ignore=None, **others) -> Located:
    """One map of one class; `size` is (H, W)."""
    raw = torch.as_tensor(np.asarray(raw), dtype=torch.float32)
    height, width = size or raw.shape
    objects = [Object(label, tuple(float(x) for x in box)) for box in boxes]
    objects += [Object(label, mask=lambda mask=np.asarray(mask, bool): mask) for mask in masks]
    where = Frame(width, height, frame) if frame else Frame.whole(width, height)
    return Located(raw, where, label, tuple(objects), None if ignore is None else lambda: ignore, **others)


def figures(metric: LocalizationMetric, data: Data) -> dict[str, float]:
    state = State(metric, resamples=0)
    for i, image in enumerate(data):
        state.update(str(i), metric.measure(image))
    return state.figures()


def random_map(rng: np.random.Generator, side: int, kind: str) -> np.ndarray:
    smooth = cv2.resize(rng.normal(size=(5, 5)), (side, side), interpolation=cv2.INTER_CUBIC)
    if kind == "noise":
        return smooth + 0.3 * rng.normal(size=smooth.shape)
    if kind == "rings":  # regions inside holes inside regions
        y, x = np.mgrid[:side, :side]
        return np.cos(np.hypot(y - rng.uniform(0, side), x - rng.uniform(0, side)) * rng.uniform(0.4, 1.2)) + 0.5 * smooth
    if kind == "coarse":
        return np.round(smooth * 2)
    return smooth


def random_box(rng: np.random.Generator, height: int, width: int, least: int = 2) -> tuple[float, float, float, float]:
    x0, y0 = int(rng.integers(0, width - least)), int(rng.integers(0, height - least))
    return x0, y0, int(rng.integers(x0 + least, width + 1)), int(rng.integers(y0 + least, height + 1))


def box_data(side: int, count: int) -> Data:
    rng = np.random.default_rng(side)
    data = []
    for i in range(count):
        height, width = (int(n) for n in rng.integers(30, 90, 2))
        boxes = [random_box(rng, height, width, 8) for _ in range(1 + i % 3)]
        kind = ("smooth", "rings", "noise", "coarse")[i % 4]
        raw = np.zeros((side, side)) if i % 15 == 14 else random_map(rng, side, kind)
        data.append([view(raw, (height, width), boxes)])
    return data


# --- MaxBoxAcc: the published evaluation, in other words: every threshold by itself, boxes and IoUs one by one.


@cache
def inclusive_iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    def area(x0: int, y0: int, x1: int, y1: int) -> int:
        return (x1 - x0 + 1) * (y1 - y0 + 1)

    x0, y0, x1, y1 = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    common = area(x0, y0, x1, y1) if x1 >= x0 and y1 >= y0 else 0
    return common / (area(*one) + area(*other) - common)


def published_boxes(grey: np.ndarray, threshold: float) -> dict[str, list[tuple[int, ...]]]:
    """The box of the largest contour, and those of all."""
    height, width = grey.shape[:2]
    kept = cv2.threshold(src=grey, thresh=int(threshold * np.max(grey)), maxval=255, type=cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(image=kept, mode=cv2.RETR_TREE, method=cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(contours) == 0:
        return {"largest": [(0, 0, 0, 0)], "all": [(0, 0, 0, 0)]}
    areas, found = [], []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        areas.append(cv2.contourArea(contour))
        found.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    return {"largest": [found[areas.index(max(areas))]], "all": found}


def published_accuracy(data: Data, side: int) -> dict[tuple[str, float], np.ndarray]:
    """In %, for each of the 1000 thresholds; by contours and IoU."""
    thresholds = np.arange(0, 1, 0.001)
    right = {(contours, iou): np.zeros(len(thresholds)) for contours in ("largest", "all") for iou in (0.3, 0.5, 0.7)}
    for (each,) in data:
        cam = each.raw.numpy().astype(np.float64)
        assert cam.shape == (side, side)
        cam = np.zeros_like(cam) if cam.min() == cam.max() else (cam - cam.min()) / (cam - cam.min()).max()
        grey = np.expand_dims((cam * 255).astype(np.uint8), 2)
        height, width = each.size
        truth = [tuple(int(float(x) * side / float((width, height)[i % 2])) for i, x in enumerate(thing.box)) for thing in each.objects]
        for i, threshold in enumerate(thresholds):
            for contours, found in published_boxes(grey, threshold).items():
                best = max(inclusive_iou(a, b) for a in found for b in truth)
                for wanted in (0.3, 0.5, 0.7):
                    right[contours, wanted][i] += best >= wanted
    return {key: values * 100.0 / float(len(data)) for key, values in right.items()}


@pytest.mark.parametrize(("side", "count"), [(32, 20), pytest.param(32, 60, marks=pytest.mark.slow), (224, 2)])
def test_maxboxacc_is_the_published_number_to_the_last_digit(side: int, count: int) -> None:
    data = box_data(side, count)
    published = published_accuracy(data, side)
    for contours in ("largest", "all"):
        for iou in (0.3, 0.5, 0.7):
            one = MaxBoxAcc(resolution=side, iou=iou, contours=contours)
            assert figures(one, data) == {"maxboxacc": published[contours, iou].max()}
        best = [published[contours, iou].max() for iou in (0.3, 0.5, 0.7)]
        two = State(MaxBoxAccV2(resolution=side, contours=contours), resamples=0)
        for i, image in enumerate(data):
            two.update(str(i), two.metric.measure(image))
        assert list(two.figures().values()) == [np.average(best), *best]
        for curve, iou in zip(two.curves(), (0.3, 0.5, 0.7), strict=True):
            assert np.array_equal(curve.x, np.arange(0, 1, 0.001))
            assert np.array_equal(curve.y, published[contours, iou])
    if count > 10:  # the data tells IoUs and contours apart
        assert 0 < published["all", 0.7].max() < published["all", 0.3].max() < 100
        assert published["largest", 0.3].max() < published["all", 0.3].max()


def test_maxboxacc_versions_take_the_published_contours() -> None:
    assert (MaxBoxAcc().contours, MaxBoxAccV2().contours, MaxBoxAcc().resolution) == ("largest", "all", 224)
    raw = np.zeros((40, 40))
    raw[4:36, 4:36] = 1
    raw[10:20, 12:24] = 0  # the hole's contour runs on the pixels around it
    data = [[view(raw, boxes=[(11, 9, 25, 21)])]]
    assert figures(MaxBoxAcc(resolution=40, iou=0.95), data) == {"maxboxacc": 0}
    assert figures(MaxBoxAcc(resolution=40, iou=0.95, contours="all"), data) == {"maxboxacc": 100}


def test_maxboxacc_thresholds_are_chosen_for_the_data_set() -> None:
    raw = np.zeros((40, 40))
    raw[5:35, 5:35] = 0.4
    raw[5:15, 5:15] = 1
    metric = MaxBoxAcc(resolution=40, iou=0.9)
    wide, narrow = [view(raw, boxes=[(5, 5, 35, 35)])], [view(raw, boxes=[(5, 5, 15, 15)])]
    assert figures(metric, [wide]) == figures(metric, [narrow]) == {"maxboxacc": 100}
    assert figures(metric, [wide, narrow]) == figures(metric, [wide + narrow]) == {"maxboxacc": 50}


@pytest.mark.slow
def test_maxboxacc_of_ilsvrc_takes_the_numbers_of_the_xml_files(tmp_path) -> None:
    """The benchmark's metadata has xmax and ymax as they stand, though the last pixel belongs to the box."""
    from PIL import Image

    from lucidcam.data import open_data

    side, rng = 32, np.random.default_rng(3)
    (tmp_path / "Annotations/CLS-LOC/val").mkdir(parents=True)
    (tmp_path / "Data/CLS-LOC/val").mkdir(parents=True)
    ours: list[list[Located]] = []
    metadata: list[list[Located]] = []
    shifted = 0
    for i in range(60):
        width, height = (int(x) for x in rng.integers(20, 90, 2))
        name = f"ILSVRC2012_val_{i:08d}"
        corners = []
        for _ in range(rng.integers(1, 3)):
            (x0, x1), (y0, y1) = (np.sort(rng.integers(0, length, 2)) for length in (width, height))
            corners.append((float(x0), float(y0), float(x1), float(y1)))
        things = "".join(
            f"<object><name>n02123045</name><bndbox><xmin>{x0:g}</xmin><ymin>{y0:g}</ymin><xmax>{x1:g}</xmax><ymax>{y1:g}</ymax></bndbox>"
            "</object>"
            for x0, y0, x1, y1 in corners
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (tmp_path / f"Annotations/CLS-LOC/val/{name}.xml").write_text(f"<annotation>{size}{things}</annotation>")
        Image.new("RGB", (width, height)).save(tmp_path / f"Data/CLS-LOC/val/{name}.JPEG")
        raw = random_map(rng, side, "noise") if i % 3 else np.zeros((side, side))
        if not i % 3:  # a map that is right to the pixel
            x0, y0, x1, y1 = (int(x * side / length) for x, length in zip(corners[0], (width, height) * 2, strict=True))
            raw[y0 : y1 + 1, x0 : x1 + 1] = 1
        metadata.append([replace(view(raw, (height, width)), objects=tuple(Object("n02123045", box) for box in corners))])
        shifted += any(int((x1 + 1) * side / width) != int(x1 * side / width) for _, _, x1, _ in corners)
    for (known,), sample in zip(metadata, open_data(tmp_path), strict=True):
        height, width = known.size
        objects = sample.fitted(width, height).objects
        assert [thing.box for thing in objects] == [(a, b, c + 1, d + 1) for a, b, c, d in (thing.box for thing in known.objects)]
        ours.append([replace(known, objects=objects)])
    published = published_accuracy(metadata, side)
    for contours in ("largest", "all"):
        for iou in (0.3, 0.5, 0.7):
            assert figures(MaxBoxAcc(resolution=side, iou=iou, contours=contours), ours) == {"maxboxacc": published[contours, iou].max()}
    assert figures(MaxBoxAccV2(resolution=side), ours)["maxboxacc_v2_iou50"] == published["all", 0.5].max()
    assert shifted > 10  # so that one pixel would be seen


@pytest.mark.parametrize("level", [0.0, -3.0, 7.0])
def test_maxboxacc_of_a_flat_map_is_the_first_pixel(level: float) -> None:
    raw = np.full((7, 7), level)
    assert figures(MaxBoxAcc(), [[view(raw, (224, 224), [(0, 0, 0.5, 0.5)])]]) == {"maxboxacc": 100}
    assert figures(MaxBoxAcc(), [[view(raw, (224, 224), [(0, 0, 2, 2)])]]) == {"maxboxacc": 0}


@pytest.mark.parametrize("frame", [None, (40.0, 0.0, 140.0, 100.0), (-20.0, -60.0, 200.0, 160.0)])
def test_score_map_lies_on_the_whole_image(frame: tuple[float, float, float, float] | None) -> None:
    raw = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    found = score_map(view(raw, (100, 180), frame=frame), 90)
    left, top, right, bottom = frame or (0, 0, 180, 100)
    x0, x1 = round(left / 2), round(right / 2)
    y0, y1 = round(top * 0.9), round(bottom * 0.9)
    seen = cv2.resize(raw.astype(np.float64), (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    expected = np.zeros((90, 90))
    for y in range(90):
        for x in range(90):
            if y0 <= y < y1 and x0 <= x < x1:
                expected[y, x] = seen[y - y0, x - x0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.abs(found - expected).max() < 2e-6


def test_resizing_is_bilinear_unless_asked() -> None:
    raw = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    for mode, number in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
        expected = cv2.resize(raw[0].numpy(), (20, 15), interpolation=number)
        assert np.abs(maps.resize(raw, (15, 20), mode)[0].numpy() - expected).max() < 1e-5
    assert torch.equal(maps.resize(raw, (15, 20)), maps.resize(raw, (15, 20), "bilinear"))
    assert np.array_equal(maps.finish(raw[0], (15, 20)), maps.resize(raw, (15, 20))[0].numpy())


# --- PxAP


def mask_data(count: int = 6, ignore: bool = True) -> Data:
    rng = np.random.default_rng(4)
    data = []
    for i in range(count):
        height, width = (int(n) for n in rng.integers(20, 60, 2))
        masks = [np.zeros((height, width), bool) for _ in range(1 + i % 2)]
        for mask in masks:
            x0, y0, x1, y1 = random_box(rng, height, width, 4)
            mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.8
        void = rng.random((height, width)) < 0.2 if ignore and i % 2 else None
        data.append([view(random_map(rng, 32, "smooth"), (height, width), masks=masks, ignore=void)])
    return data


def naive_pxap(data: Data, side: int) -> float:
    scores, truth = [], []
    for (each,) in data:
        cam = each.raw.numpy().astype(np.float64)
        assert cam.shape == (side, side)
        small = [cv2.resize(np.float32(thing.mask()), (side, side), interpolation=cv2.INTER_NEAREST) > 0.5 for thing in each.objects]
        void = np.zeros(each.size) if each.ignore is None else each.ignore()
        void = cv2.resize(np.float32(void), (side, side), interpolation=cv2.INTER_NEAREST) > 0.5
        for y in range(side):
            for x in range(side):
                inside = any(mask[y, x] for mask in small)
                if inside or not void[y, x]:
                    scores.append((cam[y, x] - cam.min()) / (cam - cam.min()).max())
                    truth.append(inside)
    scores, truth = np.array(scores), np.array(truth)
    area, before = 0.0, 0.0
    for threshold in [*np.arange(0, 1, 0.001), 1.0][::-1]:
        taken = scores >= threshold
        if taken.any():
            recall = truth[taken].sum() / truth.sum()
            area += truth[taken].sum() / taken.sum() * (recall - before)
            before = recall
    return 100 * area


def test_pxap() -> None:
    data = mask_data()
    found = figures(PxAP(resolution=32), data)["pxap"]
    assert found == pytest.approx(naive_pxap(data, 32), rel=1e-12)
    assert found != figures(PxAP(resolution=32), mask_data(ignore=False))["pxap"]


def test_pxap_of_the_mask_itself_and_of_nothing() -> None:
    mask = np.zeros((32, 32))
    mask[3:9, 20:32] = 1
    metric = PxAP(resolution=32)
    assert figures(metric, [[view(mask, masks=[mask])]]) == {"pxap": pytest.approx(100)}
    assert figures(metric, [[view(np.zeros((4, 4)), (32, 32), masks=[mask])]]) == {"pxap": pytest.approx(100 * mask.mean())}
    assert figures(metric, [[view(mask, boxes=[(20, 3, 32, 9)])]]) == {"pxap": pytest.approx(np.nan, nan_ok=True)}


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (32, 32), (640, 427), (375, 500)])
def test_pxap_masks_are_resized_as_in_opencv(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(size[0]).random(size) < 0.5
    expected = cv2.resize(np.float32(mask), (32, 32), interpolation=cv2.INTER_NEAREST) > 0.5
    record = PxAP(resolution=32).measure([view(np.arange(1024).reshape(32, 32), size, masks=[mask])])[0]
    scores = np.arange(1024) / 1023
    assert np.array_equal(
        record.values[: len(record.values) // 2], np.histogram(scores[expected.ravel()], [*np.arange(0, 1, 0.001), 1, 2])[0]
    )


# --- the pointing games


def naive_hit(each: Located, tolerance: float) -> bool:
    height, width = each.size
    peak, point = -np.inf, (0, 0)
    for y in range(height):
        for x in range(width):
            if each.map[y, x] > peak:
                peak, point = each.map[y, x], (y, x)
    if peak <= 0:
        return False
    for thing in each.objects:
        for y in range(height):
            for x in range(width):
                if thing.mask is not None:
                    inside = thing.mask()[y, x]
                else:
                    inside = thing.box[0] <= x < thing.box[2] and thing.box[1] <= y < thing.box[3]
                if inside and np.hypot(y - point[0], x - point[1]) <= tolerance:
                    return True
    return False


def several_classes(count: int) -> Data:
    rng = np.random.default_rng(8)
    data = []
    for _ in range(count):
        height, width = (int(n) for n in rng.integers(12, 40, 2))
        present = [label for label in "abc" if rng.random() < 0.6] or ["a"]
        image = []
        good = rng.random() < 0.4
        for label in present:
            boxes = [random_box(rng, height, width) for _ in range(int(rng.integers(1, 3)))]
            masks = []
            for x0, y0, x1, y1 in boxes:
                masks.append(np.zeros((height, width), bool))
                masks[-1][y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.7
            raw = rng.normal(size=(6, 6)) + 0.3
            if good:
                raw = 0.1 * rng.normal(size=(height, width)) + np.any(masks, axis=0)
            ways = {"boxes": boxes} if rng.random() < 0.5 else {"masks": masks}
            image.append(view(raw, (height, width), label=label, alone=len(present) == 1, rank=int(rng.integers(0, 8)), **ways))
        data.append(image)
    return data


def test_pointing_game() -> None:
    data = several_classes(25)
    rates: dict[str, list[bool]] = {}
    hard: dict[str, list[bool]] = {}
    for image in data:
        for each in image:
            hit = naive_hit(each, 2.5)
            rates.setdefault(each.label, []).append(hit)
            area = 0.0
            for thing in each.objects:
                area += thing.mask().sum() if thing.mask else (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])
            if len(image) > 1 and area < each.frame.width * each.frame.height / 4:
                hard.setdefault(each.label, []).append(hit)
    found = figures(PointingGame(tolerance=2.5), data)
    assert found["pointing_game"] == pytest.approx(100 * np.mean([np.mean(each) for each in rates.values()]))
    assert found["pointing_game_difficult"] == pytest.approx(100 * np.mean([np.mean(each) for each in hard.values()]))
    assert 0 < found["pointing_game_difficult"] != found["pointing_game"] < 100


def point(y: int, x: int, size: tuple[int, int] = (50, 60)) -> np.ndarray:
    raw = np.zeros(size)
    raw[y, x] = 1
    return raw


@pytest.mark.parametrize(
    ("y", "x", "hit"), [(20, 30, 1), (20, 45, 1), (20, 46, 0), (5, 30, 1), (4, 30, 0), (29, 42, 1), (30, 42, 0), (32, 21, 1), (32, 20, 0)]
)
def test_pointing_game_tolerance_is_a_closed_disc_around_a_pixel(y: int, x: int, hit: int) -> None:
    mask = point(20, 30)
    for ways in ({"masks": [mask]}, {"boxes": [(30, 20, 31, 21)]}):
        assert figures(PointingGame(), [[view(point(y, x), **ways)]])["pointing_game"] == 100 * hit


@pytest.mark.parametrize("corner", [(0, 0), (0, 59), (49, 0), (49, 59)])
def test_pointing_game_at_the_border(corner: tuple[int, int]) -> None:
    y, x = corner
    data = [[view(point(y, x), boxes=[(x, y, x + 1, y + 1)])]]
    assert figures(PointingGame(tolerance=0), data)["pointing_game"] == 100
    assert figures(PointingGame(tolerance=0), [[view(point(25, 30), boxes=[(x, y, x + 1, y + 1)])]])["pointing_game"] == 0


def test_pointing_game_maps_that_point_nowhere_miss() -> None:
    everywhere = [(0, 0, 60, 50)]
    for raw in (np.zeros((5, 6)), np.full((5, 6), 2.0), np.full((5, 6), -1.0), -1 - np.random.default_rng(0).random((5, 6))):
        assert figures(PointingGame(), [[view(raw, (50, 60), everywhere)]])["pointing_game"] == 0
        # A crop leaves zeros around the map; they are no maximum either.
        assert figures(PointingGame(), [[view(raw, (50, 60), everywhere, frame=(5.0, 0.0, 55.0, 50.0))]])["pointing_game"] == 0


def test_pointing_game_takes_the_first_of_several_maxima() -> None:
    raw = point(30, 5) + point(10, 50) + point(30, 50)
    assert figures(PointingGame(tolerance=0), [[view(raw, boxes=[(50, 10, 51, 11)])]])["pointing_game"] == 100
    assert figures(PointingGame(tolerance=0), [[view(raw, boxes=[(5, 30, 6, 31), (50, 30, 51, 31)])]])["pointing_game"] == 0


def test_pointing_game_in_a_centre_crop() -> None:
    raw = point(0, 0, (20, 20))
    data = [[view(raw, (20, 40), boxes=[(10, 0, 11, 1)], frame=(10.0, 0.0, 30.0, 20.0))]]
    assert figures(PointingGame(tolerance=0), data)["pointing_game"] == 100


def test_pointing_game_classes_weigh_the_same() -> None:
    hit, miss = view(point(0, 0), boxes=[(0, 0, 5, 5)]), view(point(49, 59), boxes=[(0, 0, 5, 5)])
    data = [[hit], [hit], [hit], [replace(miss, label="b")]]
    assert figures(PointingGame(), data) == {"pointing_game": 50, "pointing_game_difficult": pytest.approx(np.nan, nan_ok=True)}


def test_pointing_game_leaves_out_classes_that_are_only_difficult() -> None:
    easy = view(point(0, 0), boxes=[(30, 30, 40, 40)])
    marked = replace(easy, objects=(replace(easy.objects[0], difficult=True),))
    mixed = replace(easy, objects=(*easy.objects, Object("a", (0.0, 0.0, 5.0, 5.0), difficult=True)))
    assert PointingGame().measure([marked]) == []
    assert figures(PointingGame(include_difficult_objects=True), [[marked]])["pointing_game"] == 0
    assert figures(PointingGame(), [[mixed]])["pointing_game"] == 100  # the difficult object is part of the region


def test_energy_pointing_game() -> None:
    data = several_classes(15)
    shares = []
    for each in (each for image in data for each in image):
        inside = everything = 0.0
        for y in range(each.size[0]):
            for x in range(each.size[1]):
                value = max(0.0, float(each.map[y, x]))
                everything += value
                inside += value * any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in each.boxes)
        shares.append(inside / everything if everything else 0.0)
    assert figures(EnergyPointingGame(), data) == {"energy_pointing_game": pytest.approx(100 * np.mean(shares), rel=1e-12)}


def test_companion_against_a_plainer_version() -> None:
    rng = np.random.default_rng(5)
    wins: dict[str, list[float]] = {"a": [], "b": []}
    shares: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    data = []
    for _ in range(30):
        boxes = {"a": (0, 0, 4, 5), "b": (3, 3, 8, 8)}  # they overlap in one column
        raws = {label: rng.normal(size=(8, 8)).astype(np.float32) for label in boxes}
        data.append([view(raws[label], boxes=[boxes[label]], label=label) for label in boxes])
        for label, other in (("a", "b"), ("b", "a")):
            energy, total, rest = [0.0, 0.0], 0.0, raws[label].clip(min=0)
            for y in range(8):
                for x in range(8):
                    inside = [left <= x < right and top <= y < bottom for left, top, right, bottom in (boxes[label], boxes[other])]
                    energy[0] += rest[y, x] * inside[0]
                    energy[1] += rest[y, x] * (inside[1] and not inside[0])
                    total += rest[y, x]
            wins[label].append(100.0 * (energy[0] > energy[1]))
            shares[label].append((100 * energy[0] / total, 100 * energy[1] / total))
    got = figures(Companion(), data)
    assert got["companion"] == pytest.approx(np.mean([np.mean(wins["a"]), np.mean(wins["b"])]))
    expected = np.mean([np.mean(shares[label], axis=0) for label in "ab"], axis=0)
    np.testing.assert_allclose([got["companion_own"], got["companion_others"]], expected, rtol=1e-5)


def test_companion_needs_two_classes_and_energy() -> None:
    alone = view(np.eye(4), boxes=[(0, 0, 2, 2)])
    assert Companion().measure([alone]) == []
    assert Companion().measure([alone, view(np.eye(4), boxes=[(2, 2, 4, 4)])]) == []  # two things of one class
    pair = [view(np.zeros((4, 4)), boxes=[(0, 0, 2, 2)], label="a"), view(np.eye(4), boxes=[(2, 2, 4, 4)], label="b")]
    assert [record.values.tolist() for record in Companion().measure(pair)] == [[0.0, 0.0, 0.0], [0.0, 50.0, 50.0]]


def test_energy_pointing_game_corners() -> None:
    metric = EnergyPointingGame()
    raw = point(2, 40) - point(2, 41)
    assert figures(metric, [[view(raw, boxes=[(40, 2, 41, 3), (35, 0, 45, 5)])]]) == {"energy_pointing_game": 100}
    assert figures(metric, [[view(raw, boxes=[(2, 40, 3, 41)])]]) == {"energy_pointing_game": 0}  # transposed
    assert figures(metric, [[view(-np.ones((5, 5)), boxes=[(0, 0, 5, 5)])]]) == {"energy_pointing_game": 0}
    assert figures(metric, [[view(np.ones((5, 5)), (20, 20), [(0, 0, 10, 5)], frame=(0.0, 0.0, 20.0, 10.0))]]) == {
        "energy_pointing_game": 25
    }
    masked = view(np.ones((10, 10)), masks=[np.eye(10)[:, :5] @ np.eye(5, 10)])
    assert figures(metric, [[masked]]) == {"energy_pointing_game": 25}  # the mask's box
    assert EnergyPointingGame(largest=0.25).measure([masked])
    assert not EnergyPointingGame(largest=0.24).measure([masked])


# --- seeds


def test_seed_miou() -> None:
    rng = np.random.default_rng(3)
    together: dict[str, list[int]] = {}
    data = []
    for i in range(12):
        size = tuple(int(n) for n in rng.integers(10, 24, 2))
        labels = list(rng.permutation(["a", "b", "c"])[: 1 + i % 3])
        void = rng.random(size) < 0.1 if i % 2 else None
        masks = {label: [rng.random(size) < 0.4 for _ in range(1 + (label == "b"))] for label in labels}
        raws = {label: rng.normal(size=(4, 4)) - (9 if i == 5 else 0) for label in labels}
        image = [view(raws[label], size, masks=masks[label], label=label, ignore=void) for label in labels]
        data.append(image)
        for y in range(size[0]):
            for x in range(size[1]):
                truth = seed = "background"
                best = 0.0
                for each in image:
                    if any(mask[y, x] for mask in masks[each.label]):
                        truth = each.label
                    share = max(0.0, float(each.map[y, x])) / max(float(each.map.max()), 1e-30)
                    if share > best and share >= 0.3:
                        seed, best = each.label, share
                if void is None or not void[y, x]:
                    for label in {truth, seed}:
                        both = together.setdefault(label, [0, 0])
                        both[0] += truth == seed
                        both[1] += 1
    expected = 100 * np.mean([intersection / union for intersection, union in together.values()])
    assert figures(SeedMeanIoU(threshold=0.3), data) == {"seed_miou": pytest.approx(expected, rel=1e-12)}


def test_seed_miou_corners() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    metric = SeedMeanIoU(threshold=0)
    assert figures(metric, [[view(mask.astype(float), masks=[mask])]]) == {"seed_miou": 100}
    assert figures(metric, [[view(-np.ones((8, 8)), masks=[mask])]]) == {"seed_miou": 25}  # all background: 1/2 and 0
    assert metric.measure([view(mask, masks=[mask]), view(mask, boxes=[(0, 0, 4, 4)], label="b")]) == []
    one, two = view(np.ones((8, 8)), masks=[mask], label="a"), view(np.ones((8, 8)), masks=[mask], label="b")
    groups = {record.group: record.values.tolist() for record in metric.measure([one, two])}
    assert groups == {"background": [0, 32], "a": [0, 64], "b": [0, 32]}  # the map's tie is a's, the pixels are b's


# --- localisation error


def test_localization_error() -> None:
    data = several_classes(30)
    wrong: dict[str, list[bool]] = {"top1": [], "top5": [], "gt_known": []}
    for each in (each for image in data for each in image):
        heat = np.maximum(each.map, 0) / max(each.map.max(), 1e-30)
        count, _, stats, _ = cv2.connectedComponentsWithStats(((heat >= 0.4) & (heat > 0)).astype(np.uint8), connectivity=8)
        best = 0.0
        if count > 1:
            x, y, w, h, _ = stats[1:][stats[1:, 4].argmax()]
            for x0, y0, x1, y1 in each.boxes:
                common = max(0, min(x + w, x1) - max(x, x0)) * max(0, min(y + h, y1) - max(y, y0))
                best = max(best, common / (w * h + (x1 - x0) * (y1 - y0) - common))
        wrong["gt_known"].append(best < 0.3)
        wrong["top1"].append(best < 0.3 or each.rank != 0)
        wrong["top5"].append(best < 0.3 or each.rank > 4)
    found = figures(LocalizationError(threshold=0.4, iou=0.3), data)
    assert found == {f"localization_error_{name}": pytest.approx(100 * np.mean(values)) for name, values in wrong.items()}
    assert found["localization_error_gt_known"] < found["localization_error_top5"] < found["localization_error_top1"] < 100


def test_localization_error_ranks() -> None:
    raw = np.zeros((10, 10))
    raw[2:6, 2:6] = 1
    good = view(raw, boxes=[(2, 2, 6, 6)])
    for rank, expected in ((0, [0, 0, 0]), (4, [100, 0, 0]), (5, [100, 100, 0]), (None, [np.nan, np.nan, 0])):
        assert list(figures(LocalizationError(), [[replace(good, rank=rank)]]).values()) == pytest.approx(expected, nan_ok=True)
    mixed = figures(LocalizationError(), [[replace(good, rank=0)], [good], [view(-raw, boxes=[(2, 2, 6, 6)])]])
    assert list(mixed.values()) == pytest.approx([0, 0, 100 / 3])


def test_localization_error_iou_just_reached_and_mask_as_box() -> None:
    raw = np.zeros((10, 10))
    raw[0:5, 0:10] = 1
    assert figures(LocalizationError(), [[view(raw, boxes=[(0, 0, 10, 10)])]])["localization_error_gt_known"] == 0
    assert figures(LocalizationError(), [[view(raw, boxes=[(0, 0, 10, 9.99)])]])["localization_error_gt_known"] == 0
    assert figures(LocalizationError(iou=0.51), [[view(raw, boxes=[(0, 0, 10, 10)])]])["localization_error_gt_known"] == 100
    assert figures(LocalizationError(iou=1.0), [[view(raw, masks=[raw])]])["localization_error_gt_known"] == 0


# --- all of them


def with_masks(data: Data) -> Data:
    return [
        [replace(each, objects=tuple(Object(each.label, box, lambda each=each: each.region) for box in each.boxes)) for each in image]
        for image in data
    ]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_states_merge_and_resample(metric: LocalizationMetric) -> None:
    data = with_masks(several_classes(12))
    data[0] = [replace(each, label="rare") for each in data[0]]  # in a third of the bootstrap samples this class is missing
    whole, halves = State(metric, resamples=60), (State(metric, resamples=60), State(metric, resamples=60))
    for i, image in enumerate(data):
        for state in (whole, halves[i % 2]):
            state.update(str(i), metric.measure(image))
    halves[1].merge(halves[0])
    assert halves[1].n == whole.n == len(data)
    assert halves[1].figures() == pytest.approx(whole.figures(), nan_ok=True)
    assert list(whole.figures()) == [figure.name for figure in metric.figures]
    for name, value in whole.figures().items():
        assert np.allclose(halves[1].samples()[name], whole.samples()[name], equal_nan=True)
        low, high = whole.intervals()[name]
        assert 0 <= low < high <= 100
        assert 0 < value < 100
    assert [curve.name for curve in halves[1].curves()] == [curve.name for curve in whole.curves()]
    whole.groups()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_bootstrap_samples_are_the_figures_of_resampled_data(metric: LocalizationMetric) -> None:
    data = with_masks(several_classes(6))
    state = State(metric, resamples=5)
    for i, image in enumerate(data):
        state.update(str(i), metric.measure(image))
    for sample in range(5):
        repeated = [image for i, image in enumerate(data) for _ in range(int(state._weights(str(i))[1 + sample]))]
        expected = figures(metric, repeated)
        for name, values in state.samples().items():
            assert values[sample] == pytest.approx(expected[name], nan_ok=True)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_registered_and_says_what_it_is(metric: LocalizationMetric) -> None:
    assert registry.metrics[metric.name] is type(metric)
    assert metric.figures[0].name.startswith(metric.name)
    assert {figure.unit for figure in metric.figures} == {"%"}
    assert metric.needs in ("boxes", "masks")
    assert metric.paper
    nothing = view(np.ones((4, 4)), boxes=[], label="b")
    assert metric.measure([nothing]) == [] or metric.name == "seed_miou"
    assert metric.measure([replace(nothing, objects=(Object("b"),))]) == []


def test_metrics_are_called_with_boxes_in_original_pixels() -> None:
    raw = torch.zeros(1, 4, 4)
    raw[0, 0, 3] = 1
    found = PointingGame(tolerance=0)(raw, [[(300, 0, 400, 50)]], sizes=[(200, 400)])
    assert found["pointing_game"] == 100
    assert PointingGame(tolerance=0)(raw, [[(0, 150, 100, 200)]], sizes=[(200, 400)])["pointing_game"] == 0


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (LocalizationError, {"threshold": 15.0}),
        (LocalizationError, {"iou": 0.0}),
        (MaxBoxAcc, {"resolution": 0}),
        (MaxBoxAcc, {"iou": 50.0}),
        (MaxBoxAcc, {"contours": "some"}),
        (MaxBoxAccV2, {"contours": "one"}),
        (MaxBoxAccV2, {"resolution": -1}),
        (PxAP, {"resolution": 0}),
        (PointingGame, {"tolerance": -1.0}),
        (PointingGame, {"tolerance": float("nan")}),
        (EnergyPointingGame, {"largest": 0.0}),
        (SeedMeanIoU, {"threshold": 1.5}),
    ],
)
def test_options_are_checked(metric: type[LocalizationMetric], options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"expected .*got"):
        metric(**options)
