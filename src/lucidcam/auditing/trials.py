"""Trials of suspicions: images changed where the suspicion points, beside the same images changed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lucidcam.auditing.probing import AT_ONCE, Prober
from lucidcam.samples import Mask
from lucidcam.stats.contingency import DIFFERENCE, Estimate, estimate
from lucidcam.stats.interval import LEVEL
from lucidcam.stats.paired import signed_rank
from lucidcam.utils.text import figure

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
    def own(self) -> Estimate:
        """How far the probability itself moved where the suspicion said, whatever the controls did."""
        return self.own_at(LEVEL)

    def own_at(self, level: float) -> Estimate:
        """How far the probability itself moved, with an interval of this level."""
        return estimate(self.sign * (self.after - self.before), DIFFERENCE, level)

    @property
    def p(self) -> float:
        """That the controls moved the log-odds as much, or that the probability itself did not move so; one-sided, the larger of the two.

        A control that rises while the score stays is no evidence. Of several parts the largest counts: each must stand.
        """
        if self.parts:
            return max(each.p for each in self.parts)
        return max(signed_rank(self.log_odds), signed_rank(self.sign * (self.after - self.before))) if self.n else 1.0

    def weakest_at(self, level: float) -> Estimate:
        """The smaller of its two effects, by itself and beyond the controls, with an interval of this level."""
        return min(self.own_at(level), self.effect_at(level), key=lambda each: each.mean)

    def denied(self, min_effect: float) -> str:
        """Which of its own figures speak against the claim, or are too small; "": none.

        Args:
            min_effect: by which the probability must move, by itself and beyond the controls.
        """
        if not self.n:
            return "nothing could be changed"
        way = "fall" if self.sign < 0 else "rise"
        if not self.own.low > 0:
            return f"the probability itself does not {way} ({figure(self.before.mean())} to {figure(self.after.mean())})"
        if not self.effect.low > 0:
            return "it moves no further than with the controls"
        return f"the effect is smaller than {min_effect:g}" if self.weakest_at(LEVEL).mean < min_effect else ""

    def typical(self, count: int) -> list[str]:
        """Names of the images whose probability moved most nearly as much as the median one's, nearest first."""
        return [self.names[i] for i in nearest(self.after - self.before, count)]

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "before": float(self.before.mean()),
            "after": float(self.after.mean()),
            "control": float(self.control.mean()),
            "effect": asdict(self.effect),
            "own": asdict(self.own),
            "log_odds": float(self.log_odds.mean()),
            "p": self.p,
            "images": self.n,
        }

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

    @property
    def weakest(self) -> Estimate:
        """The smallest effect of its changes, by themselves and beyond their controls: the one that decides.

        Its interval allows for the choice, as that of `effect` does.
        """
        tried = [each for each in (self.take, self.give) if each.n]
        return min((each.weakest_at(1 - (1 - LEVEL) / (2 * len(tried))) for each in tried), key=lambda each: each.mean)

    def denied(self, min_effect: float) -> str:
        """Which of its own figures speak against the claim, or are too small, in words; "": none."""
        for what, outcome in (("taken out", self.take), ("put in", self.give)):
            reason = outcome.denied(min_effect) if outcome is self.take or outcome.n else ""
            if reason:
                return f"{what}: {reason}"
        return ""

    @classmethod
    def joined(cls, trials: Sequence[Trial]) -> Trial:
        """Several trials of one class as one."""
        take, give = (Outcome.joined([getattr(each, which) for each in trials]) for which in ("take", "give"))
        return cls(take, give, tuple(dict.fromkeys(name for each in trials for name in each.names)))


@dataclass(frozen=True)
class Skipped:
    """A suspicion that could not be tried.

    Attributes:
        reason: why.
        needs: what a trial would take.
    """

    reason: str
    needs: str


def odds(probabilities: Values) -> Values:
    """Log-odds of probabilities, those of 0 and 1 within what float64 tells apart."""
    inner = np.clip(probabilities, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    return np.asarray(np.log(inner) - np.log1p(-inner))


def nearest(values: Values | Sequence[float], count: int) -> list[int]:
    """Places of the values that are nearest to their median, nearest first; of equal ones those that come first.

    >>> nearest([0.9, 0.1, 0.5, 0.25, 0.75], 3)
    [2, 3, 4]
    """
    array = np.asarray(values, np.float64)
    return np.argsort(np.abs(array - np.median(array)), kind="stable")[:count].tolist() if len(array) else []


def spread(region: Mask, size: tuple[int, int]) -> Mask:
    """A region of cells in the size of an input."""
    rows = np.arange(size[0]) * region.shape[0] // size[0]
    columns = np.arange(size[1]) * region.shape[1] // size[1]
    return np.asarray(region[np.ix_(rows, columns)])
