"""Means over images with their intervals, as an audit reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lucidcam.reprs import OneLineRepr
from lucidcam.stats.interval import LEVEL, Bounds, mean_interval
from lucidcam.utils.text import figure

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples of a calibration error."""

SHARE: Bounds = (0.0, 1.0)
"""Ends of a probability's scale."""

DIFFERENCE: Bounds = (-1.0, 1.0)
"""Ends of the scale of two probabilities' difference."""


@dataclass(frozen=True)
class Estimate(OneLineRepr):
    """A mean over images with its interval.

    Attributes:
        mean: over images.
        low: end of the 95 % interval; NaN with fewer than two images.
        high: its other end.
        n: images.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{figure(self.mean, signed=True)} ({figure(self.low, signed=True)} to {figure(self.high, signed=True)})"


def estimate(values: Sequence[float] | Values, bounds: Bounds = DIFFERENCE, level: float = LEVEL) -> Estimate:
    """Estimate the mean of some values, one per image, with the interval of `lucidcam.stats.interval.mean_interval`.

    Args:
        values: `[n]`.
        bounds: the ends of their scale.
        level: of the interval.

    >>> found = estimate([1.0, 1.0, 1.0, 1.0], (0, 1))
    >>> found.mean, round(found.low, 3), found.high, found.n
    (1.0, 0.398, 1.0, 4)
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        return Estimate(np.nan, np.nan, np.nan, 0)
    return Estimate(float(array.mean()), *mean_interval(array, bounds, level), len(array))
