"""Classes: given ones, the predicted one, the best k, all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target, logits
from lucidcam.utils.class_scores import ClassScores


@dataclass(frozen=True)
class Classes(Target):
    """Class scores (logits).

    A network with one output column has two classes: the one that the column scores, and its complement, whose score is the negative.

        >>> outputs = torch.tensor([[2.0], [-3.0]])
        >>> Classes().bind(outputs, 2).ids.tolist()                   # the side of 0
        [[0], [1]]
        >>> Classes(1).bind(outputs, 2).scores(outputs).tolist()      # the complement
        [[-2.0], [3.0]]

    Args:
        ids: an int (the same class for every image), `[B]` (one class per image), `[B, T]` (T classes per image), or None for
            each image's predicted class.
    """

    ids: int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        columns = logits(outputs, batch)
        scores = self.reader(columns)
        if self.ids is None:
            return _gather(scores, scores.predicted(columns)[:, None], squeeze=True)
        ids = _ids(self.ids, batch, columns.device)
        _check_range(ids, scores.count(columns.shape[1]))
        return _gather(scores, ids if ids.ndim == 2 else ids[:, None], squeeze=ids.ndim == 1)


@dataclass(frozen=True)
class TopK(Target):
    """The k classes of highest score of each image, best first."""

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise TargetError(f"top-k needs k ≥ 1; got {self.k}.")

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        columns = logits(outputs, batch)
        scores = self.reader(columns)
        count = scores.count(columns.shape[1])
        if not 1 <= self.k <= count:
            raise TargetError(f"top-k needs 1 ≤ k ≤ {count} (the model's classes); got {self.k}.")
        return _gather(scores, scores.order(columns)[:, : self.k], squeeze=False)


@dataclass(frozen=True)
class All(Target):
    """Every class the model knows."""

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        columns = logits(outputs, batch)
        scores = self.reader(columns)
        count = scores.count(columns.shape[1])
        ids = torch.arange(count, device=columns.device).expand(batch, -1)

        def read(out: Any, rows: Tensor | None) -> Tensor:
            return scores.of(logits(out, batch if rows is None else len(rows)))

        return Bound(read, count, ids, squeeze=False, logit=True)


def _gather(scores: ClassScores, ids: Tensor, squeeze: bool) -> Bound:
    def read(outputs: Any, rows: Tensor | None) -> Tensor:
        row_ids = ids if rows is None else ids[rows]
        return scores.of(logits(outputs, len(row_ids))).gather(1, row_ids)

    return Bound(read, ids.shape[1], ids, squeeze, logit=True)


def _ids(value: Any, batch: int, device: torch.device) -> Tensor:
    try:
        ids = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(f"expected class ids (an int, [B] or [B, T]) as target; got {value!r}.") from None
    if not ids.numel():
        raise TargetError(f"expected at least one class id as target; got {value!r}: give None for the predicted class.")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TargetError(f"expected integer class ids as target; got {str(ids.dtype)[6:]} values.")
    if ids.ndim == 0:
        ids = ids.expand(batch)
    if ids.ndim not in (1, 2) or 0 in ids.shape or len(ids) != batch:
        hint = f" For {ids.numel()} targets of one image give [[…]]." if ids.ndim == 1 and batch == 1 else ""
        raise TargetError(f"expected target ids of shape [{batch}] or [{batch}, T] for {batch} images; got {list(ids.shape)}.{hint}")
    ids = ids.long()
    return ids.clone() if ids.is_inference() else ids  # autograd saves them


def _check_range(ids: Tensor, classes: int) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= classes:
        raise TargetError(f"class id {low if low < 0 else high} is out of range: the model has {classes} classes, 0 to {classes - 1}.")
