"""Targets made of others: a difference, a probability, one of several heads, several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import TargetError, TargetNotFoundError
from lucidcam.targets._as import as_target
from lucidcam.targets._base import Bound, Label, Target, kind_of, logits
from lucidcam.utils.class_scores import ScoreReader


@dataclass(frozen=True)
class Contrast(Target):
    """Why A rather than B: the difference of two targets' scores.

    Args:
        target: whatever `attribute` takes.
        against: another such target; of it as many per image as of the first, or one.

    Raises:
        TargetError: both are the same, so that the difference is 0 whatever the image. Where that hangs on the image (the predicted class
            is the one it is set against), a `lucidcam.errors.TargetNotFoundError`, raised when outputs are there.
    """

    target: Any
    against: Any

    def __post_init__(self) -> None:
        if _same(self.target, self.against):
            raise TargetError(
                f"a contrast of {_words(self.target)} with itself is 0 everywhere: give another class to set it against (--against)."
            )

    def over(self, change: Callable[[Any], Any]) -> Target:
        """See `Target.over`."""
        return Contrast(change(self.target), change(self.against))

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        first, second = as_target(self.target).bind(outputs, batch), as_target(self.against).bind(outputs, batch)
        if first.count != second.count and second.count != 1:
            raise TargetError(f"a contrast needs as many targets on both sides, or one against; got {first.count} and {second.count}.")
        _check_sides(first, second, outputs)

        def say(image: int, target: int, label: Label) -> str:
            other = second.name(image, min(target, second.count - 1), label)
            return f"{first.name(image, target, label).split(',')[0]} rather than {other.split(',')[0]}"

        told = first.say is not None or second.say is not None or first.ids is None or second.ids is None
        return replace(
            first,
            read=lambda out, rows: first.read(out, rows) - second.read(out, rows),
            logit=False,
            against=second.ids,
            say=say if told else None,
        )


def _same(first: Any, second: Any) -> bool:
    """Whether two targets are one and the same, as far as they can be compared; ids in tensors and lists are, too."""
    sides = []
    for side in (first, second):
        try:
            sides.append(as_target(side.tolist() if isinstance(side, torch.Tensor) else side))
        except TargetError:  # a label's text: it means something to a model
            sides.append(side)
    try:
        return type(sides[0]) is type(sides[1]) and bool(sides[0] == sides[1])
    except (RuntimeError, TypeError, ValueError):  # tensors or arrays within: compared when outputs are there
        return False


def _words(target: Any) -> str:
    return "the predicted class" if target is None else repr(target)


def _check_sides(first: Bound, second: Bound, outputs: Any) -> None:
    """Refuse a contrast of a class with itself, in any image: its ids and its scores are the same on both sides.

    Raises:
        TargetNotFoundError: with the first such image; other images may have two classes.
    """
    if first.ids is None or second.ids is None:
        return
    same = (first.ids == second.ids) & (first.read(outputs, None) == second.read(outputs, None))
    if first.against is not None or second.against is not None:
        if first.against is None or second.against is None:
            return
        same = same & (first.against == second.against)
    if bool(same.any()):
        image, target = (int(each) for each in same.nonzero()[0])
        which = f"of image {image} " if len(same) > 1 else ""
        raise TargetNotFoundError(
            f"the class {int(first.ids[image, target])} {which}is the one that it is set against: the difference is 0 everywhere; "
            "give another class on one of the sides.",
            image,
        )


@dataclass(frozen=True)
class Probability(Target):
    """The probability of a class instead of its logit: a softmax's, a sigmoid's, or the network's own (see `ClassScores`)."""

    target: Any = None

    def over(self, change: Callable[[Any], Any]) -> Target:
        """See `Target.over`."""
        return Probability(change(self.target))

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        return _through(as_target(self.target).bind(outputs, batch), self.reader(logits(outputs, batch)).probabilities, batch)


@dataclass(frozen=True)
class LogProbability(Target):
    """The logarithm of a class's probability: what a policy's gradient is made of, `log π(a | s)`.

        >>> outputs = torch.tensor([[0.0, 0.0]])
        >>> LogProbability(1).bind(outputs, 1).scores(outputs).exp()
        tensor([[0.5000]])

    Args:
        target: an action or class, or whatever else `attribute` takes; None: the one of highest score.
    """

    target: Any = None

    def over(self, change: Callable[[Any], Any]) -> Target:
        """See `Target.over`."""
        return LogProbability(change(self.target))

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        return _through(as_target(self.target).bind(outputs, batch), self.reader(logits(outputs, batch)).log_probabilities, batch)


def _through(inner: Bound, change: Callable[[Tensor], Tensor], batch: int) -> Bound:
    """A target read from class scores that are changed first."""

    def read(outputs: Any, rows: Tensor | None) -> Tensor:
        return inner.read(change(logits(outputs, batch if rows is None else len(rows))), rows)

    return replace(inner, read=read, logit=False)


@dataclass(frozen=True)
class Head(Target):
    """One of several outputs: a network with several heads, or one that returns more than scores (an actor with its critic).

        >>> outputs = {"age": torch.tensor([[31.0]]), "kind": torch.tensor([[0.2, 0.8]])}
        >>> Head("kind", 1).bind(outputs, 1).scores(outputs)
        tensor([[0.8000]])

    Args:
        where: position, key or attribute of the output; several, in a tuple, lead step by step to one that lies deeper.
        target: of that output, whatever `attribute` takes; None: its class of highest score, or the number that a regression returns.

    Raises:
        TargetError: the outputs have nothing there.
    """

    where: int | str | tuple[int | str, ...]
    target: Any = None

    def over(self, change: Callable[[Any], Any]) -> Target:
        """See `Target.over`."""
        return Head(self.where, change(self.target))

    def reading(self, reader: ScoreReader) -> Target:
        """See `Target.reading`; what was said of the network's outputs is not about this one."""
        return super().reading(reader.of_part())

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        part = self._of(outputs)
        number = self.target is None and isinstance(part, Tensor) and logits(part, batch).shape[1] == 1
        inner = as_target(0 if number else self.target).reading(self.reader).bind(part, batch)
        steps = self.where if isinstance(self.where, tuple) else (self.where,)
        title = ".".join(map(str, steps))
        return replace(
            inner,
            read=lambda out, rows: inner.read(self._of(out), rows),
            ids=None,  # of one of the outputs, not of the model's classes
            against=None,
            logit=False,
            say=lambda image, target, label: title if number else f"{title}: {inner.name(image, target, str)}",
        )

    def _of(self, outputs: Any) -> Any:
        for step in self.where if isinstance(self.where, tuple) else (self.where,):
            try:
                if isinstance(step, str) and not isinstance(outputs, Mapping):
                    outputs = getattr(outputs, step)
                else:
                    outputs = outputs[step]
            except (AttributeError, KeyError, IndexError, TypeError):
                raise TargetError(f"the model's outputs have no {step!r}: it returned {kind_of(outputs)}.") from None
        return outputs


@dataclass(frozen=True)
class Several(Target):
    """Several targets of each image in one pass; maps are `[B, T, h, w]` with the targets one after the other.

        >>> outputs = torch.tensor([[1.0, 3.0, 2.0]])
        >>> Several([0, Contrast(1, 2)]).bind(outputs, 1).scores(outputs)
        tensor([[1., 1.]])

    Args:
        targets: whatever `attribute` takes, each.
    """

    targets: Sequence[Any]

    def __post_init__(self) -> None:
        if not len(self.targets):
            raise TargetError("several targets need at least one; got none.")
        object.__setattr__(self, "targets", tuple(self.targets))

    def over(self, change: Callable[[Any], Any]) -> Target:
        """See `Target.over`."""
        return Several([change(target) for target in self.targets])

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        bounds = [as_target(target).bind(outputs, batch) for target in self.targets]
        places = [(bound, t) for bound in bounds for t in range(bound.count)]
        ids = [bound.ids for bound in bounds if bound.ids is not None and bound.against is None and bound.say is None]
        plain = len(ids) == len(bounds)

        def say(image: int, target: int, label: Label) -> str:
            bound, t = places[target]
            return bound.name(image, t, label)

        return Bound(
            lambda out, rows: torch.cat([bound.read(out, rows) for bound in bounds], dim=1),
            len(places),
            torch.cat(ids, dim=1) if plain else None,
            squeeze=False,
            logit=all(bound.logit for bound in bounds),
            say=None if plain else say,
        )
