"""What every target is: from outputs to scores, fixed for the clean images first."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lucidcam.errors import ModelError, TargetError
from lucidcam.reprs import OneLineRepr
from lucidcam.types import Frame
from lucidcam.utils.class_scores import ScoreReader

Read = Callable[[Any, "Tensor | None"], Tensor]
Label = Callable[[int], str]


@dataclass(frozen=True)
class Bound(OneLineRepr):
    """A target fixed for B images.

    Attributes:
        read: outputs of n rows, and the image `[n]` each row was made from (None: row i is image i), to scores `[n, T]`.
        count: T, targets per image.
        ids: class ids `[B, T]`, or None where a target is not one class.
        squeeze: whether the user asked for one target per image, so that maps are `[B, h, w]` rather than `[B, T, h, w]`.
        logit: the scores are the class scores of `ids`, nothing else.
        against: the classes a contrast subtracts, like `ids`.
        say: the words for target t of image i, given i, t and the words for class ids; None: those of `ids`.
        scored: whether the scores answer a question; else they only depend on everything that the module returned.
    """

    read: Read
    count: int
    ids: Tensor | None = None
    squeeze: bool = True
    logit: bool = False
    against: Tensor | None = None
    say: Callable[[int, int, Label], str] | None = None
    scored: bool = True

    def name(self, image: int, target: int, label: Label) -> str:
        """The target in words, given the words for class ids."""
        if self.say is not None:
            return self.say(image, target, label)
        if self.ids is None:
            return "score" if self.count == 1 else f"score {target}"
        words = label(int(self.ids[image, target]))
        if self.against is None:
            return words
        other = label(int(self.against[image, min(target, self.against.shape[1] - 1)]))
        return f"{words.split(',')[0]} rather than {other.split(',')[0]}"  # without the synonyms

    def probability(self, of: Callable[[Tensor], Tensor]) -> Bound:
        """The same target read from probabilities `of` the network's columns, where it is a class score; else itself."""
        if not self.logit:
            return self
        return replace(self, read=lambda out, rows: self.read(of(logits(out, self.rows(rows))), rows), logit=False)

    def rows(self, rows: Tensor | None) -> int | None:
        """How many rows outputs have, given the image each was made from; None: it is not known."""
        if rows is not None:
            return len(rows)
        return None if self.ids is None else len(self.ids)

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


class Target(OneLineRepr, ABC):
    """From a module's outputs to what is explained.

    Class attributes:
        local: whether it names a place in the image.
    """

    local: ClassVar[bool] = False
    _reader: ClassVar[ScoreReader] = ScoreReader()

    @property
    def reader(self) -> ScoreReader:
        """What finds the meaning of class scores; without a network's own, by their values alone."""
        return self._reader

    def reading(self, reader: ScoreReader) -> Target:
        """The same target, and those that it is made of, with what finds the meaning of the network's class scores."""
        from lucidcam.targets._as import as_target

        changed = self.over(lambda part: as_target(part).reading(reader))
        changed = copy.copy(self) if changed is self else changed
        object.__setattr__(changed, "_reader", reader)
        return changed

    def over(self, change: Callable[[Any], Any]) -> Target:
        """The same target with `change` applied to each of those that it is made of; one that is made of none is returned as it is."""
        return self

    def labelled(self, find: Callable[[str], int]) -> Target:
        """The same target with label texts turned into class ids."""
        return self

    def placed(self, frame: Frame, size: tuple[int, int]) -> Target:
        """The same target with places in a photo turned into places in the network's input.

        Args:
            frame: where in the photo the input lies.
            size: (H, W) of the input.
        """
        return self

    @abstractmethod
    def bind(self, outputs: Any, batch: int) -> Bound:
        """Fix the target for `batch` images, given the outputs of the clean images."""


def leaves(target: Any) -> list[Any]:
    """What a target is made of in the end; itself where it is made of no others, or is no target object."""
    parts: list[Any] = []

    def note(each: Any) -> Any:
        parts.append(each)
        return each

    if isinstance(target, Target):
        target.over(note)
    return [leaf for part in parts for leaf in leaves(part)] or [target]


def local(target: Any) -> bool:
    """Whether a target names a place in the image."""
    return any(isinstance(leaf, Target) and leaf.local for leaf in leaves(target))


def logits(outputs: Any, batch: int | None = None) -> Tensor:
    """Find the columns of class scores `[B, K]` in a module's outputs: a tensor, or the `logits` of a mapping or object.

    Outputs without the axes of size one (`[K]` or `[]` of one image, `[B]` of one column) get them back; `[B, K, 1, 1]` and `[B, 1, K]`
    lose them. Of a tuple of a single tensor that tensor is meant.

    Args:
        outputs: what the module returned.
        batch: how many rows there are; None: not known, so that one axis is taken for the rows.

    Raises:
        TargetError: when there are none; a callable target then says what to explain.
    """
    found = outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 and isinstance(outputs[0], Tensor) else outputs
    if not isinstance(found, Tensor):
        found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    how = "give a callable: target=lambda outputs: …, one score per image."
    if isinstance(found, Tensor) and found.ndim == 4 and found[0, 0].numel() > 1:
        how = f"explain scores of pixels with lucidcam.Segmentation(class), or {how}"
    if not isinstance(found, Tensor):
        keys = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
        raise TargetError(f"the model returned a {type(outputs).__name__}{keys} without class scores 'logits'; {how}")
    if found.layout != torch.strided:
        found = found.to_dense()
    shape = list(found.shape)
    if found.ndim > 2 and sum(length > 1 for length in found.shape[1:]) <= 1:
        found = found.flatten(1)
    if found.ndim == 0:
        found = found.reshape(1, 1)
    elif found.ndim == 1:
        found = found[None] if batch == 1 else found[:, None]
    if found.ndim != 2 or not found.is_floating_point() or (batch is not None and len(found) != batch):
        expected = "[B, classes]" if batch is None else f"[{batch}, classes]"
        raise TargetError(f"expected class scores {expected} from the model; got {str(found.dtype)[6:]} {shape}; {how}")
    return found


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors among a module's outputs: a tensor, or what sequences, mappings and objects hold, however deep."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, (tuple, list)):
        values: Any = outputs
    elif isinstance(outputs, Mapping):
        values = outputs.values()
    else:
        values = getattr(outputs, "__dict__", {}).values()
        values = [value for value in values if isinstance(value, (Tensor, tuple, list, Mapping))]
    return [tensor for value in values for tensor in tensors_of(value)]


def part(outputs: Any, *names: str) -> Any:
    """The first of the named entries that a mapping has, or of the named attributes of an object; None where there is none."""
    for name in names:
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if found is not None:
            return found
    return None


def kind_of(outputs: Any) -> str:
    """What a module returned, in words, for error messages."""
    if isinstance(outputs, Tensor):
        return f"a tensor {list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} with {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"a {type(outputs).__name__} of {len(outputs)}"
    return f"a {type(outputs).__name__}"
