"""Intervals over images, paired tests, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lucidcam.compat import import_optional

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples of an interval."""

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its interval.

    Attributes:
        mean: over images.
        low: end of the 95 % bootstrap interval.
        high: its other end.
        n: images.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def estimate(values: Sequence[float] | Values, seed: int = 0) -> Estimate:
    """The mean of some values, one per image, with its percentile bootstrap interval.

    >>> estimate([1.0, 1.0, 1.0])
    Estimate(mean=1.0, low=1.0, high=1.0, n=3)
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        return Estimate(np.nan, np.nan, np.nan, 0)
    rng = np.random.default_rng(seed)
    means = np.concatenate([array[rng.integers(0, len(array), (100, len(array)))].mean(1) for _ in range(RESAMPLES // 100)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def chance(differences: Values) -> float:
    """One-sided p of Wilcoxon's signed-rank test that paired differences, one per image, are not above 0."""
    if not np.any(differences):
        return 1.0
    stats = import_optional("scipy.stats", "audit", "an audit")
    return float(stats.wilcoxon(differences, alternative="greater").pvalue)


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected so that the chance of even one false rejection is below `level` (Holm 1979).

    >>> holm([0.01, 0.04, 0.03], 0.05)
    [True, False, False]
    """
    rejected = [False] * len(p)
    for rank, i in enumerate(np.argsort(np.asarray(p), kind="stable")):
        if p[i] > level / (len(p) - rank):
            break
        rejected[i] = True
    return rejected
