"""Classes: given ones, the predicted one, the best k, all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target, logits


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
