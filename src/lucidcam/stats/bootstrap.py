"""Intervals where people and photos are both a sample: the bootstrap over the two at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from lucidcam.reprs import OneLineRepr
from lucidcam.stats import interval

Floats = npt.NDArray[np.float64]
TINY = 1e-9
"""Means that differ by less do so by rounding alone."""


@dataclass(frozen=True)
class Interval(OneLineRepr):
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

    def means(self, values: Any, who: Any, photo: Any) -> Floats:
        """The weighted mean of some answers in each sample `[R]`; NaN where a sample has none of them, or all are of one person or photo.

        Args:
            values: `[N]`.
            who: the participants' numbers `[N]`.
            photo: the photos' numbers `[N]`.
        """
        if len(np.unique(who)) < 2 or len(np.unique(photo)) < 2:
            return np.full(len(self.people), np.nan)  # one person, or one photo, varies with nothing
        sums, counts = (np.zeros((self.people.shape[1], self.photos.shape[1])) for _ in range(2))
        np.add.at(sums, (who, photo), values)
        np.add.at(counts, (who, photo), 1)
        with np.errstate(invalid="ignore"):
            return np.asarray(((self.people @ sums) * self.photos).sum(1) / ((self.people @ counts) * self.photos).sum(1))


def percentiles(value: float, samples: Floats) -> Interval:
    """Those of a figure's samples about its value."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def mean_interval(values: Floats, samples: Floats, lowest: float, highest: float) -> Interval:
    """The interval of a mean of answers `[N]` from `lowest` to `highest`.

    It is that of the samples, and at least the interval that takes each answer for itself (`lucidcam.stats.interval.mean_interval`): of few
    answers the samples' quantiles are too close together, and where all answers are alike, all samples are, too, though others might have
    answered otherwise. Without samples nothing is known.
    """
    found = percentiles(float(values.mean()), samples)
    if not isfinite(found.low):
        return found
    low, high = interval.mean_interval(values, (lowest, highest))
    return Interval(found.value, min(found.low, low), max(found.high, high))


def difference_interval(first: Interval, second: Interval, samples: tuple[Floats, Floats]) -> Interval:
    """The interval of a difference on the same draws.

    Where the samples of one of the two are all alike, the draws have only the other's part of it; the two's own intervals are then put
    together as of independent figures, which is too long rather than too short (Newcombe 1998; Zou and Donner 2008).
    """
    value = first.value - second.value
    found = percentiles(value, samples[0] - samples[1])
    if not any(map(constant, samples)):
        return found
    down = hypot(first.value - first.low, second.high - second.value)
    up = hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - down, value + up)


def constant(samples: Floats) -> bool:
    """Whether the samples that there are do not vary."""
    known = samples[np.isfinite(samples)]
    return len(known) > 0 and float(np.ptp(known)) < TINY


def _counts(rng: np.random.Generator, size: int, resamples: int) -> Floats:
    if not size:
        return np.zeros((resamples, 0))
    return np.asarray(rng.multinomial(size, np.full(size, 1 / size), resamples), np.float64)
