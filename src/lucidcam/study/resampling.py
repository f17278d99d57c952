"""Intervals where people and photos are both a sample: the bootstrap over the two at once; Wilson's for reference."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Z = 1.959963984540054
"""Of 95 %."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; NaN where it is not known.

    Attributes:
        value: of all answers.
        low: the 2.5 % quantile.
        high: the 97.5 % quantile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each participant and each photo is in each bootstrap sample.

    Participants and photos are drawn independently, both with replacement; an answer counts as often as its participant times its photo
    (the pigeonhole bootstrap, Owen 2007). All items of a photo are drawn together, and all figures use the same draws, so that
    differences are paired. Answers of one person, and those about one photo, hang together: intervals that take each answer for itself
    are too short.

    Attributes:
        people: `[R, P]`.
        photos: `[R, I]`.
    """

    people: Floats
    photos: Floats

    @classmethod
    def of(cls, people: int, photos: int, resamples: int, seed: int) -> Draws:
        """Draw."""
        rng = np.random.default_rng(seed)
        return cls(_counts(rng, people, resamples), _counts(rng, photos, resamples))

    @property
    def enough(self) -> bool:
        """One person or one photo varies with nothing."""
        return self.people.shape[1] > 1 and self.photos.shape[1] > 1 and len(self.people) > 0

    def means(self, values: Any, who: Any, photo: Any) -> Floats:
        """The weighted mean of some answers in each sample `[R]`; NaN where a sample has none of them.

        Args:
            values: `[N]`.
            who: the participants' numbers `[N]`.
            photo: the photos' numbers `[N]`.
        """
        sums, counts = (np.zeros((self.people.shape[1], self.photos.shape[1])) for _ in range(2))
        np.add.at(sums, (who, photo), values)
        np.add.at(counts, (who, photo), 1)
        with np.errstate(invalid="ignore"):
            return np.asarray(((self.people @ sums) * self.photos).sum(1) / ((self.people @ counts) * self.photos).sum(1))

    def interval(self, value: float, samples: Floats) -> Interval:
        """The percentiles of the samples about a value."""
        samples = samples[np.isfinite(samples)]
        if not self.enough or not len(samples):
            return Interval(value, float("nan"), float("nan"))
        low, high = np.quantile(samples, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def _counts(rng: np.random.Generator, size: int, resamples: int) -> Floats:
    if not size:
        return np.zeros((resamples, 0))
    return np.asarray(rng.multinomial(size, np.full(size, 1 / size), resamples), np.float64)


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, as if each answer came by itself (Wilson 1927).

    >>> tuple(round(each, 3) for each in wilson(8, 10))
    (0.49, 0.943)
    """
    if not of:
        return float("nan"), float("nan")
    share, square = right / of, Z**2 / of
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * sqrt(share * (1 - share) / of + square / (4 * of))
    return middle - half, middle + half
