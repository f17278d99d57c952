"""The threshold that suits a model and a method, chosen on a handful of images with boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucidcam.data import open_data
from lucidcam.data.class_map import Given
from lucidcam.errors import DataError, InputError
from lucidcam.imaging import maps
from lucidcam.localization.regions import Keep, Regions
from lucidcam.methods._base import Method
from lucidcam.metrics._base import Array
from lucidcam.metrics._localization import Located
from lucidcam.metrics.localization_error import overlaps
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem
from lucidcam.stats.interval import mean_interval
from lucidcam.stream.explainer import LABEL, Explained, Explainer, OnProblem
from lucidcam.types import Model

LEVELS = tuple(i / 100 for i in range(1, 100))
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Calibration(OneLineRepr):
    """A threshold, and how good its boxes are.

    Attributes:
        threshold: a share of the map's maximum.
        accuracy: share of the maps whose best box has an IoU of at least 0.5 with a true one.
        mean_iou: mean of the best boxes' IoU.
        n: how many maps that is: one per image and class.
        held_out: the accuracy where each image's threshold is the one that the other images choose: what images that the threshold was not
            chosen on will show, while `accuracy` flatters.
        low: end of the accuracy's 95 % interval, which is the held-out accuracy's lower end; NaN with one image.
        high: its other end.
    """

    threshold: float
    accuracy: float
    mean_iou: float
    n: int
    held_out: float
    low: float
    high: float


def calibrate(
    model: Model,
    data: Any,
    *,
    method: str | Method = "gradcam",
    target: Any = LABEL,
    regions: Keep = "all",
    min_area: float = 0.0,
    layer: Any = None,
    class_map: Given = None,
    on_problem: OnProblem | None = None,
    **options: Any,
) -> Calibration:
    """Choose the threshold of `localize` on images with boxes (or masks).

    Tried are 0.01, 0.02, … 0.99. For each map the best IoU of any of its boxes with any true box counts; the threshold with the most
    of them at or above 0.5 wins, then the one with the higher mean, then the lower one. It is one threshold for all images. Boxes are
    those before refinement.

    Args:
        model: as for `localize`.
        data: images with boxes; some twenty will do. Images without are passed over.
        method: as for `localize`.
        target: as for `localize`. "label": the map of each class is compared with the boxes of that class; else with all boxes.
        regions: as for `localize`.
        min_area: as for `localize`.
        layer: as for `localize`.
        class_map: as for `localize`.
        on_problem: as for `localize`.
        options: as for `localize`.

    Raises:
        DataError: when no image has a box.
    """
    dataset = open_data(data)
    tried = [Regions(threshold=level, keep=regions, min_area=min_area, masks=False) for level in LEVELS]
    best: list[list[float]] = []
    images: list[int] = []
    for each in Explainer(model, method, target, layer, class_map, options)(dataset, on_problem):
        try:
            best_of = [[_best(explanation, truth, level) for level in tried] for explanation, truth in _pairs(each, target == LABEL)]
            images += [images[-1] + 1 if images else 0] * len(best_of)
            best += best_of
        except InputError as error:  # a box that lies outside its image
            if on_problem is None:
                raise
            on_problem(Problem(each.sample.name, str(error)))
    if not best:
        raise DataError(f"{dataset.name}: no image has a box to calibrate on; give a data set with boxes or masks (VOC, COCO, YOLO, …).")
    overlap, owner = np.array(best), np.array(images)
    right = overlap >= 0.5
    level = _choose(overlap)
    held_out = right[:, level].copy()
    for image in range(owner[-1] + 1) if owner[-1] else ():
        held_out[owner == image] = right[owner == image, _choose(overlap[owner != image])]
    low, _ = _interval(held_out, owner)
    _, high = _interval(right[:, level], owner)
    accuracy, mean = float(right[:, level].mean()), float(overlap[:, level].mean())
    return Calibration(LEVELS[level], accuracy, mean, len(best), float(held_out.mean()) if owner[-1] else math.nan, low, high)


def _choose(overlap: Array) -> int:
    """The number of the threshold that suits maps best, by the IoU of their best boxes `[maps, thresholds]`."""
    accuracy, mean = (overlap >= 0.5).mean(0), overlap.mean(0)
    return max(range(overlap.shape[1]), key=lambda i: (accuracy[i], mean[i], -i))


def _interval(right: Any, owner: Any) -> tuple[float, float]:
    """The interval of the share of maps `[n]` that are right, where maps of one image (`owner` `[n]`) hang together."""
    maps, hits = np.bincount(owner), np.bincount(owner, right)
    if len(maps) < 2:
        return math.nan, math.nan
    share = hits.sum() / maps.sum()
    low, high = mean_interval(share + (hits - share * maps) * len(maps) / maps.sum(), (0.0, 1.0))
    return max(low, 0.0), min(high, 1.0)


def _pairs(explained: Explained, by_label: bool) -> list[tuple[maps.Array, Array]]:
    """The heatmaps of an image `[H, W]`, each with the true boxes it is compared with `[n, 4]`."""
    frame = explained.prepared.frame
    objects = explained.sample.fitted(frame.width, frame.height).objects
    found = []
    for label, explanation in explained.maps:
        true = tuple(thing for thing in objects if thing.label == label or not by_label)
        boxes = Located(explanation.raw, frame, label, true).boxes
        if len(boxes):
            found.append((explanation.heatmap, boxes))
    return found


def _best(heatmap: maps.Array, truth: Array, regions: Regions) -> float:
    return max((float(overlaps(np.array(region.box, np.float64), truth).max()) for region in regions.of(heatmap)), default=0.0)
