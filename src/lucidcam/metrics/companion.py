"""Whether a map tells the class that is asked for from the others in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lucidcam.metrics._base import Array, Figure, Record, divide, mean_over_groups, register
from lucidcam.metrics._localization import LocalizationMetric, Located


@register("companion")
@dataclass(frozen=True, kw_only=True)
class Companion(LocalizationMetric):
    """How often more of a map's positive energy lies in the class that is asked for than in the other classes of the image.

    For images with objects of several classes, each of which is asked for. `own` is the share of the energy in the class's region,
    `others` the share in the other classes' regions where they are not its own; the figure is how often `own > others`, in percent, as a
    mean over classes, and beside it the mean shares. A map that does not see the difference between two classes of equal size gets
    50 %; so does a network that took objects which always occur together for one. A flat map has no energy, and does not win.
    """

    figures = (Figure("companion", "%"), Figure("companion_own", "%"), Figure("companion_others", "%", higher_is_better=False))
    paper = "lucidcam"
    needs = "boxes"

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        found = []
        for view in image:
            rivals = [each.region for each in image if each.label != view.label]
            others = np.logical_or.reduce(rivals) & ~view.region if rivals else np.zeros(view.size, bool)
            if view.region.any() and others.any():
                energy = np.maximum(view.map, 0).astype(np.float64)
                total = energy.sum()
                own, rest = (100 * energy[region].sum() / total if total > 0 else 0.0 for region in (view.region, others))
                found.append(Record(np.array([100.0 * (own > rest), own, rest]), view.label))
        return found

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        means = divide(sums, count[..., None])
        return {figure.name: mean_over_groups(means[..., i]) for i, figure in enumerate(self.figures)}
