"""Relevance through attention (Chefer, Gur & Wolf, "Generic Attention-model Explainability …", ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.methods._base import Method, register


@register("attention_relevance")
@dataclass(frozen=True, kw_only=True)
class AttentionRelevance(Method):
    """Attention weighted by its gradient, added up through the blocks (Chefer et al. 2021, Eq. 5 and 6).

    `Ā_l = mean over heads of ReLU(∇A_l ⊙ A_l)`, `R ← R + Ā_l R` from `R = I`, `M = w (R − I)`, where `w` says which of the last tokens the
    network reads: for a class token that is its row of R. For a mean of patches the identity, a constant, is taken off. An
    attention pooling at the end is one more factor: `M = p̄ R`. Values are not negative; prefix tokens are left out.

    Needs a vision transformer whose blocks each have one attention between all the tokens.
    """

    kind = "gradient"
    layered = "never"
    paper = "Chefer 2021"
    cost = "1 forward and backward; ViTs"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        attention = run.attention("gradients")
        reading = attention.reading() if attention.pool is None else None
        found = []
        for t, (gradients, pooled) in enumerate(attention.gradients()):
            if reading is not None:
                start = reading[:, t : t + 1]
            else:
                assert attention.pool is not None
                assert pooled is not None
                start = (attention.pool * pooled).relu().mean(1)
            relevance = start
            for matrix, gradient in zip(reversed(attention.matrices), reversed(gradients), strict=True):
                relevance = relevance + relevance @ (matrix * gradient).relu().mean(1)
            found.append(relevance - start if reading is not None else relevance)
        return attention.to_maps(torch.cat(found, dim=1))
