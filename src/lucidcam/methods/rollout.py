"""Attention rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, register


@register("rollout")
@dataclass(frozen=True, kw_only=True)
class Rollout(Method):
    """Attention multiplied through the blocks: `Ã_l = norm(½(A_l + I))`, `M = w Ã_L … Ã_1` (Abnar & Zuidema 2020, section 3).

    `A_l` are a block's heads, averaged; rows are normalised to sum to one; `w` says which of the last tokens the network reads (the class
    token; the mean of the patches). An attention pooling at the end is one more factor, without the identity. Values are not negative;
    prefix tokens are left out. For a network that reads one token or a mean, the map is the same for every class.

    Needs a vision transformer whose blocks each have one attention between all the tokens.

    Attributes:
        heads: how a block's heads become one matrix: "mean" (the paper), "min" or "max".
        discard: the lowest attention of each row is set to zero, this part of it (0, the paper: none), before the rows are normalised.
    """

    kind = "activation"
    needs_target = False
    layered = "never"
    paper = "Abnar 2020"
    cost = "1 forward; ViTs"

    heads: Literal["mean", "min", "max"] = "mean"
    discard: float = 0.0

    def __post_init__(self) -> None:
        if self.heads not in ("mean", "min", "max"):
            raise OptionError(f'rollout: expected heads "mean", "min" or "max"; got {self.heads!r}.')
        if not 0 <= self.discard < 1:
            raise OptionError(f"rollout: expected 0 ≤ discard < 1; got {self.discard}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        attention = run.attention("matrices")
        pool = attention.pool
        rolled = attention.reading() if pool is None else _rows(self._fused(pool)).expand(-1, run.count, -1)
        for matrix in reversed(attention.matrices):
            fused = self._fused(matrix)
            rolled = rolled @ _rows(fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device))
        return attention.to_maps(rolled)

    def _fused(self, matrix: Tensor) -> Tensor:
        """Heads `[B, heads, queries, keys]` as one."""
        fused = matrix.mean(1) if self.heads == "mean" else matrix.amin(1) if self.heads == "min" else matrix.amax(1)
        lowest = int(self.discard * fused.shape[-1])
        return fused.scatter(-1, fused.topk(lowest, dim=-1, largest=False).indices, 0) if lowest else fused


def _rows(matrix: Tensor) -> Tensor:
    """Rows divided by their sums."""
    return matrix / matrix.sum(-1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
