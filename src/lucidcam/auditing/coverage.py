"""What an audit tried, with the figures of every trial, and what it could not try, with the reasons: plain data for all that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lucidcam.auditing.trials import Trial
from lucidcam.reprs import OneLineRepr
from lucidcam.stats.contingency import Estimate
from lucidcam.utils.text import counted, figure, listed, short

NAMES = {
    "place": "fixed places",
    "background": "backgrounds",
    "context": "surroundings against the object",
    "companion": "companions",
    "confusion": "confusions",
    "calibration": "calibration",
}
"""Kinds of hypotheses, in words."""

SHORTCUTS = ("place", "background", "context", "companion")
"""Kinds of hypotheses that are about shortcuts."""

LIMITS = (
    (
        "marks that move from image to image",
        "places are looked for at one spot of the image",
        "boxes or masks of them as a class",
    ),
    ("frames and regions larger than a fifth of the image", "they are too large for a place", ""),
    ("the objects' own textures, colours and shapes", "no trial changes them", ""),
)
"""What no audit tries, whatever the data: what, why, and what would be needed."""

NAMED = 3
"""Classes that are named where something was not tried for some of them."""


@dataclass(frozen=True, eq=False)
class Hypothesis(OneLineRepr):
    """One hypothesis that was tried.

    Attributes:
        kind: one of `NAMES`.
        label: the class; "" where it is about all of them.
        effect: the figure that decides, with its interval: of a trial the smallest of what its changes do, by themselves and beyond their
            controls; else the finding's own size.
        reason: why it did not stand up; "": it did.
        beside: the other class, of a companion or confusion.
        where: of a place, in words.
        p: of the trial; None: nothing was changed.
        trial: what changing images did; None: nothing was changed.
    """

    kind: str
    label: str
    effect: Estimate
    reason: str
    beside: str = ""
    where: str = ""
    p: float | None = None
    trial: Trial | None = field(default=None, repr=False)

    @property
    def is_confirmed(self) -> bool:
        """Whether it stood up."""
        return not self.reason

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "kind": self.kind,
            "label": self.label,
            "beside": self.beside,
            "where": self.where,
            "confirmed": self.is_confirmed,
            "reason": self.reason,
            "effect": asdict(self.effect),
            "p": self.p,
            "taken_out": None if self.trial is None or not self.trial.take.n else self.trial.take.to_dict(),
            "put_in": None if self.trial is None or not self.trial.give.n else self.trial.give.to_dict(),
        }


@dataclass(frozen=True)
class Untried(OneLineRepr):
    """Something that may be there and was not tried.

    Attributes:
        what: in words.
        reason: why it was not.
        needs: what a trial would take; "": no audit tries it.
        classes: those that it was not tried for; empty: all.
    """

    what: str
    reason: str
    needs: str = ""
    classes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """All of it in a few words: "companions (no boxes; needs boxes or masks)"."""
        of = ""
        if self.classes:
            named = [f"“{short(label)}”" for label in self.classes[:NAMED]]
            more = len(self.classes) - NAMED
            of = f" of {listed([*named, counted(more, 'more class', 'more classes')] if more > 0 else named)}"
        needs = f"; needs {self.needs}" if self.needs else ""
        return f"{self.what}{of} ({self.reason}{needs})"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"what": self.what, "reason": self.reason, "needs": self.needs, "classes": list(self.classes)}


@dataclass(frozen=True, eq=False)
class Coverage(OneLineRepr):
    """What was tried and what was not.

    Attributes:
        hypotheses: that were tried, in the order of the trials.
        untried: what was not, and why.
        searched: classes in which a kind of hypothesis was looked for, by kind, whether or not any arose.
    """

    hypotheses: tuple[Hypothesis, ...] = ()
    untried: tuple[Untried, ...] = ()
    searched: Mapping[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Hypothesis, ...]:
        """The hypotheses that did not stand up."""
        return tuple(each for each in self.hypotheses if not each.is_confirmed)

    @property
    def tried(self) -> dict[str, int]:
        """How many hypotheses were tried, by kind; 0 where one was looked for and none arose."""
        counts = dict.fromkeys(self.searched, 0)
        for each in self.hypotheses:
            counts[each.kind] = counts.get(each.kind, 0) + 1
        return counts

    @property
    def shortcuts_tried(self) -> int:
        """How many hypotheses of shortcuts were tried."""
        return sum(count for kind, count in self.tried.items() if kind in SHORTCUTS)

    @property
    def sentences(self) -> str:
        """What was tried, with the largest effect of each kind that did not stand up; and what was not tried, and why."""
        parts = [self._kind(kind, count) for kind, count in self.tried.items()]
        tried = f"Tried: {'; '.join(parts)}." if parts else "Tried: nothing."
        untried = f" Not tried: {'; '.join(each.sentence for each in self.untried)}." if self.untried else ""
        return tried + untried

    def _kind(self, kind: str, count: int) -> str:
        if not count:
            return f"{NAMES[kind]} (none suspected)"
        failed = [each for each in self.failed if each.kind == kind]
        if not failed:
            return f"{count} × {NAMES[kind]} (all confirmed)"
        largest = max((each.effect for each in failed), key=lambda effect: effect.mean)
        size = f"{figure(largest.mean)}, 95 % interval {figure(largest.low)} to {figure(largest.high)}"
        return f"{count} × {NAMES[kind]} ({len(failed)} did not stand up, at most {size})"


def grouped(untried: Sequence[Untried]) -> tuple[Untried, ...]:
    """The same with the classes put together that something was not tried for, for the same reason."""
    classes: dict[tuple[str, str, str], dict[str, None]] = {}
    for each in untried:
        classes.setdefault((each.what, each.reason, each.needs), {}).update(dict.fromkeys(each.classes))
    return tuple(Untried(*key, tuple(labels)) for key, labels in classes.items())
