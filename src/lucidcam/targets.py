"""What is explained: from a module's outputs to one score per image and target.

A target is first *bound* to the outputs of the clean images; that fixes which classes are meant ("the predicted one"). The bound
target then reads the same scores from any other outputs, of masked or noisy copies for instance.

    >>> import torch
    >>> outputs = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    >>> as_target(None).bind(outputs, 2).scores(outputs)          # the predicted class
    tensor([[3.],
            [5.]])
    >>> Contrast(2, 0).bind(outputs, 2).scores(outputs)           # why 2 rather than 0
    tensor([[ 1.],
            [-1.]])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import ModelError, TargetError

Read = Callable[[Any, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Bound:
    """A target fixed for B images.

    Attributes:
        read: outputs of n rows, and the image `[n]` each row was made from (None: row i is image i), to scores `[n, T]`.
        count: T, targets per image.
        ids: class ids `[B, T]`, or None where a target is not one class.
        squeeze: whether the user asked for one target per image, so that maps are `[B, h, w]` rather than `[B, T, h, w]`.
        logit: the scores are the logits of `ids`, nothing else.
        against: the classes a contrast subtracts, like `ids`.
    """

    read: Read
    count: int
    ids: Tensor | None = None
    squeeze: bool = True
    logit: bool = False
    against: Tensor | None = None

    def name(self, image: int, target: int, label: Callable[[int], str]) -> str:
        """The target in words, given the words for class ids."""
        if self.ids is None:
            return "score" if self.count == 1 else f"score {target}"
        words = label(int(self.ids[image, target]))
        if self.against is None:
            return words
        other = label(int(self.against[image, min(target, self.against.shape[1] - 1)]))
        return f"{words.split(',')[0]} rather than {other.split(',')[0]}"  # without the synonyms

    def probability(self, of: Callable[[Tensor], Tensor]) -> Bound:
        """The same target read from probabilities that are made of logits, where it is a class logit; else itself."""
        return replace(self, read=lambda out, rows: self.read(of(logits(out)), rows), logit=False) if self.logit else self

    def on_host(self) -> Bound:
        """The same target with its class ids in the host's memory, where asking for one waits for no device."""
        return replace(self, ids=None if self.ids is None else self.ids.cpu(), against=None if self.against is None else self.against.cpu())

    def scores(self, outputs: Any, rows: Tensor | None = None) -> Tensor:
        """Return the scores `[n, T]` of n rows of outputs.

        Raises:
            ModelError: one of them is NaN or infinite.
        """
        return sound(self.read(outputs, rows))


def sound(scores: Tensor) -> Tensor:
    """Return scores, all of which must be finite numbers. Asking a GPU waits for it: for many batches ask once, at the end.

    Raises:
        ModelError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(
            "the model's score for the target is NaN or infinite; check its weights, its precision (float16 overflows: "
            "try float32) and the preprocessing of the inputs."
        )
    return scores


class Target(ABC):
    """From a module's outputs to what is explained."""

    @abstractmethod
    def bind(self, outputs: Any, batch: int) -> Bound:
        """Fix the target for `batch` images, given the outputs of the clean images."""


@dataclass(frozen=True)
class Classes(Target):
    """Class scores (logits).

    Args:
        ids: an int (the same class for every image), `[B]` (one class per image), `[B, T]` (T classes per image), or None for
            each image's predicted class.
    """

    ids: int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        scores = logits(outputs, batch)
        if self.ids is None:
            return _gather(scores.argmax(1, keepdim=True), squeeze=True)
        ids = _ids(self.ids, batch, scores.device)
        _check_range(ids, scores.shape[1])
        return _gather(ids if ids.ndim == 2 else ids[:, None], squeeze=ids.ndim == 1)


@dataclass(frozen=True)
class TopK(Target):
    """The k classes of highest score of each image, best first."""

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise TargetError(f"top-k needs k ≥ 1; got {self.k}.")

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        scores = logits(outputs, batch)
        if not 1 <= self.k <= scores.shape[1]:
            raise TargetError(f"top-k needs 1 ≤ k ≤ {scores.shape[1]} (the model's classes); got {self.k}.")
        return _gather(scores.topk(self.k, dim=1).indices, squeeze=False)


@dataclass(frozen=True)
class All(Target):
    """Every class the model knows."""

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        scores = logits(outputs, batch)
        ids = torch.arange(scores.shape[1], device=scores.device).expand(batch, -1)
        return Bound(lambda out, rows: logits(out, None if rows is None else len(rows)), scores.shape[1], ids, squeeze=False, logit=True)


@dataclass(frozen=True)
class Contrast(Target):
    """Why A rather than B: the difference of two targets' scores."""

    target: Any
    against: Any

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        first, second = as_target(self.target).bind(outputs, batch), as_target(self.against).bind(outputs, batch)
        if first.count != second.count and second.count != 1:
            raise TargetError(f"a contrast needs as many targets on both sides, or one against; got {first.count} and {second.count}.")
        return replace(first, read=lambda out, rows: first.read(out, rows) - second.read(out, rows), logit=False, against=second.ids)


@dataclass(frozen=True)
class Probability(Target):
    """The softmax probability of a target instead of its logit."""

    target: Any = None

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        inner = as_target(self.target).bind(outputs, batch)
        return replace(inner, read=lambda out, rows: inner.read(logits(out).softmax(1), rows), logit=False)


@dataclass(frozen=True)
class Function(Target):
    """Anything else: a callable from the module's outputs to scores `[n]` or `[n, T]`, for any number n of rows."""

    function: Callable[[Any], Tensor]

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        scores = self._call(outputs)
        if scores.ndim not in (1, 2) or len(scores) != batch:
            raise TargetError(
                f"the target callable must return one score per image, [B] or [B, T] with B = {batch}; it returned {list(scores.shape)}."
            )

        def read(out: Any, rows: Tensor | None) -> Tensor:
            scores = self._call(out)
            if rows is not None and len(scores) != len(rows):
                raise TargetError(
                    f"the target callable returned {len(scores)} scores for {len(rows)} masked images; it must not depend on the "
                    "number of rows (give class ids as target for per-image classes)."
                )
            return scores[:, None] if scores.ndim == 1 else scores

        count = 1 if scores.ndim == 1 else scores.shape[1]
        return Bound(read, count, squeeze=scores.ndim == 1)

    def _call(self, outputs: Any) -> Tensor:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            got = str(scores.dtype) if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(f"the target callable must return a floating-point tensor [B]; it returned {got}.")
        return scores


def as_target(value: Any) -> Target:
    """Turn what a user writes into a target.

    Args:
        value: None (the predicted class), an int, a sequence or tensor of ids `[B]` or `[B, T]`, "all", "top5", a callable
            outputs → `[B]`, or a target.

    Raises:
        TargetError: for anything else; label texts need a model with labels (`lucidcam.explain`).
    """
    if isinstance(value, Target):
        return value
    if isinstance(value, str):
        found = by_word(value)
        if found is not None:
            return found
        raise TargetError(
            f'the text target {value!r} needs a model with labels: use lucidcam.explain, or give a class id, "all" or "top5".'
        )
    if isinstance(value, bool):
        raise TargetError(f"expected a class id as target; got {value}.")
    if callable(value):
        return Function(value)
    return Classes(value)


def by_word(text: str) -> Target | None:
    """The target that a word means, "all" or "top5"; None for any other text, which may be a label."""
    word = text.strip().casefold()
    if word == "all":
        return All()
    number = word.removeprefix("top").lstrip("-")
    return TopK(int(number)) if word.startswith("top") and number.isdigit() else None


def logits(outputs: Any, batch: int | None = None) -> Tensor:
    """Find the class scores `[B, K]` in a module's outputs: a tensor, or the `logits` of a mapping or object.

    Raises:
        TargetError: when there are none; a callable target then says what to explain.
    """
    found = outputs
    if not isinstance(found, Tensor):
        found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    how = "give a callable: target=lambda outputs: …, one score per image."
    if not isinstance(found, Tensor):
        keys = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
        raise TargetError(f"the model returned a {type(outputs).__name__}{keys} without class scores 'logits'; {how}")
    if found.ndim > 2 and found[0, 0].numel() == 1:
        found = found.flatten(1)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.is_floating_point() or (batch is not None and len(found) != batch):
        expected = "[B, classes]" if batch is None else f"[{batch}, classes]"
        raise TargetError(f"expected class scores {expected} from the model; got {str(found.dtype)[6:]} {list(found.shape)}; {how}")
    return found


def _gather(ids: Tensor, squeeze: bool) -> Bound:
    def read(outputs: Any, rows: Tensor | None) -> Tensor:
        chosen = ids if rows is None else ids[rows]
        return logits(outputs, len(chosen)).gather(1, chosen)

    return Bound(read, ids.shape[1], ids, squeeze, logit=True)


def _ids(value: Any, batch: int, device: torch.device) -> Tensor:
    try:
        ids = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(f"expected class ids (an int, [B] or [B, T]) as target; got {value!r}.") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TargetError(f"expected integer class ids as target; got {str(ids.dtype)[6:]} values.")
    if ids.ndim == 0:
        ids = ids.expand(batch)
    if ids.ndim not in (1, 2) or 0 in ids.shape or len(ids) != batch:
        hint = f" For {ids.numel()} targets of one image give [[…]]." if ids.ndim == 1 and batch == 1 else ""
        raise TargetError(f"expected target ids of shape [{batch}] or [{batch}, T] for {batch} images; got {list(ids.shape)}.{hint}")
    return ids.long()


def _check_range(ids: Tensor, classes: int) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= classes:
        raise TargetError(f"class id {low if low < 0 else high} is out of range: the model has {classes} classes, 0 to {classes - 1}.")
