"""The target of methods that need none, where the outputs hold no class scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target, tensors_of
from lucidcam.targets.classes import Classes


@dataclass(frozen=True)
class PredictedOrNone(Target):
    """Each image's predicted class; nothing where the outputs hold no class scores: for methods whose maps depend on no target."""

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        try:
            return Classes(None).reading(self.reader).bind(outputs, batch)
        except TargetError:
            return Bound(lambda out, rows: _total(out, batch if rows is None else len(rows)), 1, say=lambda *_: "no class", scored=False)


def _total(outputs: Any, count: int) -> Tensor:
    """For each image the sum of all that the module returned, `[count, 1]`; what has no row per image adds nothing."""
    total = torch.zeros(count, dtype=torch.float32, device="cpu")
    for tensor in tensors_of(outputs):
        if tensor.ndim and len(tensor) == count:
            total = total.to(tensor.device) + tensor.flatten(1).sum(1) if tensor.ndim > 1 else total.to(tensor.device) + tensor
    return total[:, None]
