"""Intervals of means and shares that hold for few images, too.

What is known of a mean from ten images depends on what the eleventh could be. Where a scale has ends (a probability lies between 0 and 1),
the next image may lie at either of them, however alike the ten were. `mean_interval` therefore weighs the images *together with one more
at an end*, by random weights that are uniform on the simplex: a Bayesian bootstrap of n + 1 observations, n of them seen. Gaffke (2005)
proposed the bound; that it holds for every distribution on the scale is conjectured (Learned-Miller and Thomas 2020) and agrees with all
that was tried. For values that are all at the ends, hits and misses, it is Clopper and Pearson's exact interval. For values that spread it
is far too long: there the further observation lies only as far out as the skewness of the values makes likely, and Student's interval is
the least that is given. How often all this covers the mean is measured by `bench/intervals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, isnan, nan, sqrt

import numpy as np
import numpy.typing as npt

from lucidcam.stats.distributions import beta_quantile, student_quantile

Values = npt.NDArray[np.float64]
Bounds = tuple[float, float]

LEVEL = 0.95
"""Share of all samples whose interval is to cover the truth."""

DRAWS = 1000
"""Weightings of the images."""

CONCENTRATED = 0.05
"""Values are concentrated where more than half of them lie within this share of their range: the others are the rare events of a scale."""

NEAR = 0.01
"""Values are at an end of their scale, or differences at 0, within this share of the scale."""

FEW = 10
"""With so many values of a skewness of ½ or more the further observation is a range of the values away; with more values it is nearer."""

UNSEEN = 3.0
"""How far out, in ranges of the values, rare events may lie that were not seen, where no end of a scale tells."""

TINY = 1e-9
"""A share of the scale; values that differ by less do so by rounding alone."""

Z = 1.959963984540054
"""Standard deviations on either side of a 95 % interval."""


def share_interval(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a share: it covers at least as often as it says, whatever n and the share are.

    Wilson's interval is shorter, and covers a share of 0.017 in ten only 84 times of 100.

    Args:
        hits: images that have it.
        n: images.
        level: share of samples whose interval covers the truth.

    Returns:
        Both ends, between 0 and 1; NaN without images.

    >>> tuple(round(end, 3) for end in share_interval(10, 10))
    (0.692, 1.0)
    """
    if not n:
        return nan, nan
    tail = (1 - level) / 2
    low = beta_quantile(tail, hits, n - hits + 1) if hits else 0.0
    high = beta_quantile(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return low, high


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927).

    >>> tuple(round(end, 3) for end in wilson(8, 10))
    (0.49, 0.943)
    """
    if not n:
        return nan, nan
    share, square = hits / n, Z**2 / n
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * sqrt(share * (1 - share) / n + square / (4 * n))
    return middle - half, middle + half


def mean_interval(
    values: Sequence[float] | Values, bounds: Bounds | None = None, level: float = LEVEL, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the interval of the mean of independent values.

    - All values at the ends of the scale: Clopper and Pearson's interval (`share_interval`).
    - All values alike: as many as Clopper and Pearson's interval leaves may lie at an end of the scale.
    - Most values alike and at an end of the scale (or, of differences, at 0), and few far off (rare events): the weighted means of the
      values and one more at the end of the scale, for random weights that are uniform on the simplex.
    - Otherwise the same, the further value as far beyond the largest as the skewness says; at least Student's interval.

    It depends on the values alone, and not on their order. Values outside the bounds widen them.

    Args:
        values: `[n]`.
        bounds: the ends of the scale, infinite where there is none; None: it has no ends.
        level: share of samples whose interval covers the truth.
        draws: random weightings.

    Returns:
        Both ends; NaN without values, or where all values are alike (or there is one) and the scale has no end.

    >>> tuple(round(end, 3) for end in mean_interval([1.0] * 10, (0, 1)))
    (0.692, 1.0)
    """
    sample = Sample.of(values, bounds)
    if sample is None:
        return nan, nan
    tail, n = (1 - level) / 2, len(sample.values)
    if sample.alike:
        if not isfinite(sample.low) or not isfinite(sample.high):
            return nan, nan
        away = 1 - share_interval(n, n, level)[0]
        return sample.mean - away * (sample.mean - sample.low), sample.mean + away * (sample.high - sample.mean)
    if sample.hits is not None:
        low, high = share_interval(sample.hits, n, level)
        return sample.low + low * (sample.high - sample.low), sample.low + high * (sample.high - sample.low)
    least, most = sample.further
    ends = [
        float(np.quantile(weighted_means(sample.values, least, draws), tail)),
        float(np.quantile(weighted_means(sample.values, most, draws), 1 - tail)),
    ]
    if not sample.rare:
        half = student_quantile(level, n - 1) * sample.error
        ends = [min(ends[0], sample.mean - half), max(ends[1], sample.mean + half)]
    return max(ends[0], sample.low), min(ends[1], sample.high)


def mean_of_intervals(figures: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the interval of the mean of independent figures, each with an interval of its own (Zou and Donner 2008).

    Args:
        figures: value, low and high of each.

    >>> mean_of_intervals([(1.0, 0.0, 2.0)] * 4)
    (0.5, 1.5)
    """
    value, low, high = np.array(figures, np.float64).T
    middle, n = float(value.mean()), len(value)
    return middle - float(np.sqrt(((value - low) ** 2).sum())) / n, middle + float(np.sqrt(((high - value) ** 2).sum())) / n


@dataclass(frozen=True, eq=False)
class Sample:
    """Values, ascending, and what they are like.

    Attributes:
        values: `[n]`, ascending.
        low: the end of the scale; −∞: none.
        high: its other end.
        mean: of the values.
        error: the mean's standard error.
        alike: whether they differ by rounding alone.
        hits: how many are at the upper end, where all are at an end; None: some are between them.
        rare: whether most are alike and at an end of the scale or at 0, and few far off.
        further: where one more value might lie, below and above.
    """

    values: Values
    low: float
    high: float
    mean: float
    error: float
    alike: bool
    hits: int | None
    rare: bool
    further: Bounds

    @classmethod
    def of(cls, values: Sequence[float] | Values, bounds: Bounds | None) -> Sample | None:
        """Look at some values; None: there are none, or some are not finite."""
        x = np.sort(np.asarray(values, np.float64))
        n = len(x)
        if not n or isnan(float(x.sum())) or not isfinite(float(x[-1] - x[0])):
            return None
        low, high = bounds or (-np.inf, np.inf)
        low, high = min(float(low), float(x[0])), max(float(high), float(x[-1]))
        scale = high - low if isfinite(high - low) else float(np.abs(x).max())
        mean, deviation, span = float(x.mean()), float(x.std()), float(x[-1] - x[0])
        at_low, at_high = np.abs(x - low) <= TINY * scale, np.abs(high - x) <= TINY * scale
        alike = span <= TINY * scale
        hits = int(at_high.sum()) if isfinite(high - low) and not alike and bool((at_low | at_high).all()) else None
        half = n // 2 + 1
        concentrated = alike or float((x[half - 1 :] - x[: n - half + 1]).min()) <= CONCENTRATED * span
        anchors = [low, high, *([0.0] if low < 0 < high else [])]
        rare = concentrated and isfinite(high - low) and min(abs(float(np.median(x)) - anchor) for anchor in anchors) <= NEAR * scale
        skewness = 0.0 if alike else float(((x - mean) ** 3).mean()) / deviation**3
        reach = span * min(2.0, FEW / n)
        out = (UNSEEN, UNSEEN) if concentrated else (min(max(-2 * skewness, 0.0), 1.0), min(max(2 * skewness, 0.0), 1.0))
        further = (low, high) if rare else (max(low, float(x[0]) - reach * out[0]), min(high, float(x[-1]) + reach * out[1]))
        return cls(x, low, high, mean, deviation / sqrt(max(n - 1, 1)), alike, hits, rare, further)


def weighted_means(values: Values, further: float, draws: int = DRAWS) -> Values:
    """Return means of values `[n]` and one more, for weights that are uniform on the simplex, `[draws]`; always the same weights."""
    return np.asarray(_weights(len(values) + 1, draws) @ np.sort(np.append(values, further)))


@lru_cache(maxsize=4)
def _weights(n: int, draws: int) -> Values:
    drawn = np.random.default_rng(0).exponential(size=(draws, n))
    return np.asarray(drawn / drawn.sum(1, keepdims=True))
