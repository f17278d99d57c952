"""Seeds for weakly supervised segmentation: each pixel to the class whose map is strongest there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Figure, Record, divide, mean_over_groups, register
from lucidcam.metrics._localization import LocalizationMetric, Located

BACKGROUND = "background"


@register("seed_miou")
@dataclass(frozen=True, kw_only=True)
class SeedMeanIoU(LocalizationMetric):
    """Mean IoU of segmentation seeds, over classes and the background (Kolesnikov 2016; Grad-CAM's seeds: Selvaraju 2017).

    A pixel is of the class whose map, as a share of its own maximum, is largest there, if that share is at least `threshold`, else
    background; of equal shares the earlier class wins. Intersections and unions are summed over the data set. Where masks lie over each
    other, the later one wins: classes in the image's order, and in a class the objects'. Pixels to be ignored do not count, nor do images
    with an object that has no mask.

    Attributes:
        threshold: share of a map's maximum from which on a pixel is no background.
    """

    figures = (Figure("seed_miou", "%"),)
    paper = "Kolesnikov 2016"
    needs = "masks"

    threshold: float = 0.15

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"expected 0 ≤ threshold ≤ 1, a share of the map's maximum; got {self.threshold}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        if any(each.mask is None for view in image for each in (*view.objects, *view.unknown)):
            return []
        labels = list(dict.fromkeys((BACKGROUND, *(view.label for view in image))))
        numbers = np.array([labels.index(view.label) for view in image])
        heatmaps = np.stack([view.heatmap for view in image])
        peak = heatmaps.max(0)
        seeds = np.where((peak >= self.threshold) & (peak > 0), numbers[heatmaps.argmax(0)], 0)
        truth = np.zeros(image[0].size, np.int64)
        for number, view in zip(numbers, image, strict=True):
            for each in view.objects:
                if each.mask is not None:
                    truth[each.mask()] = number
        counts = np.ones(truth.shape, bool) if image[0].ignore is None else ~image[0].ignore()
        for each in image[0].unknown:  # neither background nor a class that the network could name
            if each.mask is not None:
                counts &= ~each.mask()
        table = np.bincount(truth[counts] * len(labels) + seeds[counts], minlength=len(labels) ** 2).reshape(len(labels), -1)
        union = table.sum(0) + table.sum(1) - table.diagonal()
        return [Record(np.array([table[i, i], union[i]], np.float64), label) for i, label in enumerate(labels) if union[i]]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        ious = 100 * divide(sums[..., 0], sums[..., 1])
        return {"seed_miou": mean_over_groups(ious)}
