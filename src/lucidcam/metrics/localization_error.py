"""Localisation error of the ILSVRC challenge: one box per map, at a fixed share of the map's maximum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.imaging import maps
from lucidcam.metrics._base import Array, Figure, Record, divide, register
from lucidcam.metrics._localization import LocalizationMetric, Located


@register("localization_error")
@dataclass(frozen=True, kw_only=True)
class LocalizationError(LocalizationMetric):
    """Share of images whose class or box is wrong (ILSVRC; Zhou 2016 for CAM, Selvaraju 2017 for Grad-CAM).

    The box of a map is the bounding box of the largest connected region at or above `threshold` · max, in the original image's pixels.
    It is right when its IoU with any ground-truth box of the class is at least `iou`; a map without positive evidence has no box and is
    wrong. Top-1 also asks that the class is the predicted one, top-5 that it is among the first five; GT-known asks for the box alone.
    Top-1 and top-5 count only maps whose class has a known rank. Each class of an image counts by itself.

    Attributes:
        threshold: share of the map's maximum: 0.15 for Grad-CAM, 0.2 for CAM.
        iou: smallest intersection over union of a right box.
    """

    figures = (
        Figure("localization_error_top1", "%", higher_is_better=False),
        Figure("localization_error_top5", "%", higher_is_better=False),
        Figure("localization_error_gt_known", "%", higher_is_better=False),
    )
    paper = "Russakovsky 2015"
    needs = "boxes"

    threshold: float = 0.15
    iou: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 < self.iou <= 1):
            raise OptionError(f"expected 0 ≤ threshold ≤ 1 and 0 < iou ≤ 1; got {self.threshold} and {self.iou}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        return [self._record(view) for view in image if len(view.boxes)]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        total = sums.sum(0)
        ranked, everything = total[:, 3], count.sum(0)
        return {
            figure.name: 100 * divide(total[:, i], counted)
            for i, (figure, counted) in enumerate(zip(self.figures, (ranked, ranked, everything), strict=True))
        }

    def _record(self, view: Located) -> Record:
        """Errors of top-1, top-5 and GT-known, and whether the first two count."""
        found = maps.boxes(view.heatmap, self.threshold)
        right = bool(found) and bool((overlaps(np.array(found[0], np.float64), view.boxes) >= self.iou).any())
        if view.rank is None:
            return Record(np.array([0.0, 0.0, not right, 0.0]))
        return Record(np.array([not (right and view.rank < 1), not (right and view.rank < 5), not right, 1.0], np.float64))


def overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box `[4]` with others `[n, 4]`, all xyxy with right and bottom exclusive.

    >>> overlaps(np.array([0.0, 0, 2, 2]), np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2]])).round(3).tolist()
    [1.0, 0.333, 0.0]
    """
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.maximum(sides, 0).prod(1)
    area = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.asarray(common / (area - common))
