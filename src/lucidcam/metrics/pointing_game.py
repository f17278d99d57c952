"""Pointing game (Zhang et al., ECCV 2016) and energy-based pointing game (Wang et al., CVPRW 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Figure, Record, divide, mean_over_groups, register
from lucidcam.metrics._localization import LocalizationMetric, Located
from lucidcam.samples import Object


@register("pointing_game")
@dataclass(frozen=True, kw_only=True)
class PointingGame(LocalizationMetric):
    """How often the map's maximum falls on the class, as a mean over classes (Zhang 2016): `mean_c hits_c / (hits_c + misses_c)`.

    The point is the maximum of the map in the original image's size, the first in reading order where there are several. It hits within
    `tolerance` pixels of the class's region: of its masks, of its boxes where there are no masks. A map that is flat or has no positive
    evidence points nowhere and misses.

    The difficult subset are the images where the class's objects cover less than a quarter of the image, their areas added, and where
    at least one other class is present.

    Attributes:
        tolerance: pixels between the point and the nearest pixel of the region that still hit, inclusive.
        include_difficult_objects: also count a class whose objects in the image are all marked as difficult (Pascal VOC). TorchRay, which
            repeats the paper's protocol, leaves it out. Where any object of the class is not difficult, the region is that of all of them.
    """

    figures = (Figure("pointing_game", "%"), Figure("pointing_game_difficult", "%"))
    paper = "Zhang 2016"
    needs = "boxes"

    tolerance: float = 15
    include_difficult_objects: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            raise OptionError(f"expected tolerance ≥ 0, in pixels; got {self.tolerance}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        return [
            self._record(view)
            for view in image
            if view.region.any() and (self.include_difficult_objects or not all(each.difficult for each in view.objects))
        ]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        hit, difficult, hit_difficult = np.moveaxis(sums, -1, 0)
        rates = {"pointing_game": divide(hit, count), "pointing_game_difficult": divide(hit_difficult, difficult)}
        return {name: mean_over_groups(100 * each) for name, each in rates.items()}

    def _record(self, view: Located) -> Record:
        """Whether it hits, whether it is difficult, and both."""
        hit = self._hit(view)
        height, width = view.size
        difficult = not view.alone and sum(_area(each) for each in view.objects) < height * width / 4
        return Record(np.array([hit, difficult, hit and difficult], np.float64), view.label)

    def _hit(self, view: Located) -> bool:
        peak = float(view.map.max())
        if peak <= 0 or bool((view.raw == view.raw.flatten()[0]).all()):
            return False
        y, x = np.unravel_index(int(view.map.argmax()), view.size)
        reach = int(self.tolerance)
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        rows, columns = np.nonzero(view.region[top : int(y) + reach + 1, left : int(x) + reach + 1])
        return bool(((rows + top - y) ** 2 + (columns + left - x) ** 2 <= self.tolerance**2).any())


@register("energy_pointing_game")
@dataclass(frozen=True, kw_only=True)
class EnergyPointingGame(LocalizationMetric):
    """How much of the map's positive energy lies in the class's boxes (Score-CAM, Wang 2020): `100 · Σ_{box} L / Σ L`.

    The figure is the mean over images and their classes.

    `L` is the positive part of the map in the original image's size; the boxes are united. A map without positive energy gives 0.

    Attributes:
        largest: classes whose boxes cover more than this share of the image do not count; the paper has 0.5.
    """

    figures = (Figure("energy_pointing_game", "%"),)
    paper = "Wang 2020"
    needs = "boxes"

    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.largest <= 1:
            raise OptionError(f"expected 0 < largest ≤ 1, a share of the image; got {self.largest}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        found = []
        for view in image:
            inside = replace(view, objects=tuple(Object(view.label, (x0, y0, x1, y1)) for x0, y0, x1, y1 in view.boxes)).region
            if inside.any() and inside.mean() <= self.largest:
                energy = np.maximum(view.map, 0).astype(np.float64)
                everything = energy.sum()
                found.append(Record(np.array([100 * energy[inside].sum() / everything if everything > 0 else 0.0])))
        return found


def _area(thing: Object) -> float:
    """Pixels of an object: of its mask, of its box where it has none."""
    if thing.mask is not None:
        return float(thing.mask().sum())
    left, top, right, bottom = thing.box or (0.0, 0.0, 0.0, 0.0)
    return (right - left) * (bottom - top)
