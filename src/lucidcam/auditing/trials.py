"""Trials of suspicions: images changed where the suspicion points, beside the same images changed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lucidcam.auditing.probing import AT_ONCE, Prober
from lucidcam.auditing.statistics import DIFFERENCE, Estimate, estimate
from lucidcam.samples import Mask
from lucidcam.stats.interval import LEVEL
from lucidcam.stats.paired import signed_rank

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Change:
    """One image, changed.

    Attributes:
        name: of the image.
        id: the class whose score is watched.
        before: the image `[C, H, W]` as it is.
        after: changed where the suspicion points.
        controls: changed as much, elsewhere or with something else; their mean counts.
    """

    name: str
    id: int
    before: Tensor
    after: Tensor
    controls: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What some changes did to the class's score, image by image.

    Attributes:
        before: probability in the images as they are `[n]`.
        after: in those that are changed.
        control: in the controls.
        log_odds: how much further the log-odds moved than in the controls; positive: where the suspicion said.
        sign: −1 where the score was to fall, +1 where it was to rise.
        names: of the images.
        parts: what this is joined of.
    """

    before: Values = field(repr=False)
    after: Values = field(repr=False)
    control: Values = field(repr=False)
    log_odds: Values = field(repr=False)
    sign: int
    names: tuple[str, ...] = field(default=(), repr=False)
    parts: tuple[Outcome, ...] = field(default=(), repr=False)

    @property
    def n(self) -> int:
        """Images."""
        return len(self.before)

    @property
    def effect(self) -> Estimate:
        """How much further the probability moved than in the controls."""
        return self.effect_at(LEVEL)

    def effect_at(self, level: float) -> Estimate:
        """How much further the probability moved than in the controls, with an interval of this level."""
        return estimate(self.sign * (self.after - self.control), DIFFERENCE, level)

    @property
    def p(self) -> float:
        """That the controls moved the log-odds as much, one-sided; of several parts the largest: each must stand."""
        if self.parts:
            return max(each.p for each in self.parts)
        return signed_rank(self.log_odds) if self.n else 1.0

    @classmethod
    def none(cls, sign: int) -> Outcome:
        """Nothing was tried."""
        empty = np.zeros(0)
        return cls(empty, empty, empty, empty, sign)

    @classmethod
    def joined(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Several things done to images of one data set: an image is one value, however many of them were done to it."""
        names, rows = np.unique([name for each in outcomes for name in each.names], return_inverse=True)
        times = np.bincount(rows, minlength=len(names))
        before, after, control, moved = (
            np.bincount(rows, np.concatenate([getattr(each, name) for each in outcomes]), len(names)) / times
            for name in ("before", "after", "control", "log_odds")
        )
        return cls(before, after, control, moved, outcomes[0].sign, tuple(names.tolist()), tuple(each for each in outcomes if each.n))

    @classmethod
    def of(cls, prober: Prober, changes: Sequence[Change], sign: int) -> Outcome:
        """Ask the network about every image, a few at a time."""
        before: list[float] = []
        after: list[float] = []
        control: list[float] = []
        moved: list[float] = []
        step = max(1, AT_ONCE // 8)
        for start in range(0, len(changes), step):
            some = changes[start : start + step]
            images = [image for each in some for image in (each.before, each.after, *each.controls)]
            ids = [each.id for each in some for _ in range(2 + len(each.controls))]
            said = prober.scores(images)
            probabilities = said.probabilities().numpy()[np.arange(len(ids)), ids]
            odds = said.log_odds(ids)
            at = 0
            for each in some:
                stop = at + 2 + len(each.controls)
                before.append(probabilities[at])
                after.append(probabilities[at + 1])
                control.append(probabilities[at + 2 : stop].mean())
                moved.append(sign * (odds[at + 1] - odds[at + 2 : stop].mean()))
                at = stop
        return cls(np.array(before), np.array(after), np.array(control), np.array(moved), sign, tuple(each.name for each in changes))


@dataclass(frozen=True, eq=False)
class Trial:
    """A suspicion's trial.

    Attributes:
        take: what is suspected, taken out of images that have it.
        give: put into images that do not.
        names: of the images that have it.
    """

    take: Outcome
    give: Outcome
    names: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, prober: Prober, take: Sequence[Change], give: Sequence[Change], names: Sequence[str]) -> Trial:
        """Try it."""
        return cls(Outcome.of(prober, take, -1), Outcome.of(prober, give, 1), tuple(names))

    @property
    def p(self) -> float:
        """That one of the two moves the score no further than its controls: the larger p (an intersection-union test).

        Where there are no images of other classes, the first alone is asked.
        """
        return max(self.take.p, self.give.p) if self.give.n else self.take.p

    @property
    def effect(self) -> Estimate:
        """The larger of the two, with an interval that allows for the choice.

        Of two effects the larger is likely to be too large. So each gets an interval of 97.5 %: both hold together 95 times of 100
        (Bonferroni), and with them that of the larger.
        """
        tried = [each for each in (self.take, self.give) if each.n]
        return max((each.effect_at(1 - (1 - LEVEL) / len(tried)) for each in tried), key=lambda each: each.mean)

    @classmethod
    def joined(cls, trials: Sequence[Trial]) -> Trial:
        """Several trials of one class as one."""
        take, give = (Outcome.joined([getattr(each, which) for each in trials]) for which in ("take", "give"))
        return cls(take, give, tuple(dict.fromkeys(name for each in trials for name in each.names)))


def spread(region: Mask, size: tuple[int, int]) -> Mask:
    """A region of cells in the size of an input."""
    rows = np.arange(size[0]) * region.shape[0] // size[0]
    columns = np.arange(size[1]) * region.shape[1] // size[1]
    return np.asarray(region[np.ix_(rows, columns)])
