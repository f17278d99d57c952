"""Tests of paired differences, one per image, and Holm's correction for several."""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

from lucidcam.stats.distributions import student_tail
from lucidcam.stats.interval import DRAWS, TINY, Bounds, Sample, Z, weighted_means

Values = npt.NDArray[np.float64]

COUNTED = 12
"""Up to so many differences all their signs are gone through; of more a random sample."""

EXACT = 200
"""Up to so many differences the sums of their ranks are counted; of more the normal approximation is good to many digits."""


def mean_p(differences: Sequence[float] | Values, bounds: Bounds | None = None, draws: int = DRAWS) -> float:
    """Return the two-sided p of the hypothesis that the mean of paired differences is 0.

    It is the largest of what there is to say: the level at which `mean_interval` still covers 0, and the p of the sign-flip test. So a
    difference that is significant has an interval without 0, and fewer than six images never differ significantly.

    Args:
        differences: `[n]`, one per image.
        bounds: the ends of their scale, as for `mean_interval`.
        draws: random weightings and signs.

    Returns:
        p; 1 where all differences are 0, NaN without any.

    >>> mean_p([0.0, 0.0, 0.0])
    1.0
    """
    sample = Sample.of(differences, bounds)
    if sample is None:
        return float("nan")
    scale = sample.high - sample.low
    if float(np.abs(sample.values).max()) <= (TINY * scale if np.isfinite(scale) else 0.0):
        return 1.0
    sign = 1.0 if sample.mean >= 0 else -1.0
    values = np.sort(sign * sample.values)
    end = sample.low if sign > 0 else -sample.high
    p = sign_flip(values, draws)
    if sample.alike:
        if np.isfinite(end):
            p = max(p, 2 * (-end / (values[0] - end)) ** len(values) if end < 0 else 0.0)
        return min(1.0, float(p))
    further = sample.further[0] if sign > 0 else -sample.further[1]
    below = int((weighted_means(values, further, draws) <= 0).sum())
    p = max(p, 2 * (1 + below) / (1 + draws))
    if not sample.rare:
        p = max(p, student_tail(sample.mean / sample.error, len(values) - 1))
    return min(1.0, float(p))


def normal_p(value: float, low: float, high: float) -> float:
    """Return the two-sided p of the hypothesis that a value is 0, from its 95 % interval, as if half of it were that of a normal variable.

    It is below 0.05 where 0 lies outside the interval.

    >>> round(normal_p(1.0, 0.0, 3.0), 3)
    0.05
    """
    half = value - low if value > 0 else high - value
    return erfc(Z * abs(value) / half / sqrt(2)) if half > 0 else float(value == 0)


def sign_flip(differences: Sequence[float] | Values, draws: int = DRAWS) -> float:
    """Return the two-sided p of the sign-flip (paired permutation) test: how often random signs give a mean as far from 0.

    It is exact where the two things that are compared can be exchanged, image by image. With up to 12 differences other than 0 all signs
    are gone through, with more `draws` random ones.

    Args:
        differences: `[n]`, one per image.
        draws: random signs.

    >>> sign_flip([1.0] * 6)
    0.03125
    """
    x = np.sort(np.asarray(differences, np.float64))
    x = x[np.abs(x) > TINY * max(1e-300, float(np.abs(x).max(initial=0.0)))]
    n = len(x)
    if not n:
        return 1.0
    least = abs(float(x.sum())) - TINY * float(np.abs(x).sum())
    if n <= COUNTED:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ x) >= least).mean())
    signs = np.random.default_rng(0).integers(0, 2, (draws, n)) * 2 - 1
    return float((1 + (np.abs(signs @ x) >= least).sum()) / (1 + draws))


def signed_rank(differences: Sequence[float] | Values) -> float:
    """Return the one-sided p of Wilcoxon's signed-rank test (1945) that paired differences are not above 0.

    Differences of 0 are left out; ties share the mean of their ranks. Up to 200 differences the sums of ranks are counted
    exactly, with ties, too.

    Args:
        differences: `[n]`, one per image.

    Returns:
        p; 1 where all differences are 0.

    >>> signed_rank([3.0, 1.0, 2.0])
    0.125
    """
    x = np.asarray(differences, np.float64)
    x = x[x != 0]
    n = len(x)
    if not n:
        return 1.0
    _, place, counts = np.unique(np.abs(x), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[place]  # twice the ranks, which are whole
    above = int(doubled[x > 0].sum())
    if n > EXACT:
        spread = sqrt(float((doubled.astype(np.float64) ** 2).sum()) / 4)
        return 0.5 * erfc((above - 1 - float(doubled.sum()) / 2) / spread / sqrt(2))
    chances = np.zeros(int(doubled.sum()) + 1)  # of each sum of the ranks that are positive
    chances[0] = 1.0
    for rank in doubled.tolist():
        positive = np.concatenate([np.zeros(rank), chances[:-rank]])
        chances = (chances + positive) / 2
    return float(min(1.0, chances[above:].sum()))


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Return which of several hypotheses are rejected so that the chance of even one false rejection is below `level` (Holm 1979).

    >>> holm([0.01, 0.04, 0.03], 0.05)
    [True, False, False]
    """
    rejected = [False] * len(p)
    for rank, i in enumerate(np.argsort(np.asarray(p), kind="stable")):
        if p[i] > level / (len(p) - rank):
            break
        rejected[i] = True
    return rejected
