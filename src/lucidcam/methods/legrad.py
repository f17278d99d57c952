"""LeGrad (Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity", ICCV 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, register


@register("legrad")
@dataclass(frozen=True, kw_only=True)
class LeGrad(Method):
    """How sensitive each block's answer is to its attention (Bousselham et al., ICCV 2025).

    `s_l` is the score that the network's own head gives to the tokens after block l; `M = 1/L Σ_l mean over heads and queries of
    ReLU(∂s_l/∂A_l)`. Where the network ends in attention pooling, `A_l` is the pooling's attention as it reads the tokens of block l.
    Values are not negative; prefix tokens are left out.

    Needs a vision transformer whose blocks each have one attention between all the tokens, and hand their tokens on.

    Attributes:
        pooling: what the head reads of a block's tokens: "head", the tokens it reads in the network (a class token, say), or "mean", the
            mean of all tokens in their place, as in the authors' code for networks with a class token.
    """

    kind = "gradient"
    layered = "never"
    paper = "Bousselham 2025"
    cost = "1 forward and backward; ViTs"

    pooling: Literal["head", "mean"] = "head"

    def __post_init__(self) -> None:
        if self.pooling not in ("head", "mean"):
            raise OptionError(f'legrad: expected pooling "head" or "mean"; got {self.pooling!r}.')

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        attention = run.attention("blocks")
        found = []
        for gradients in attention.block_gradients(average=self.pooling == "mean"):
            found.append(torch.stack([g.relu().mean((1, 2)) for g in gradients]).mean(0))
        return attention.to_maps(torch.stack(found, dim=1))
