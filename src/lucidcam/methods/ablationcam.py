"""Ablation-CAM (Desai & Ramaswamy, WACV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.methods._base import Method, register, weighted_sum


@register("ablationcam")
@dataclass(frozen=True, kw_only=True)
class AblationCAM(Method):
    """Relative drop of the score when a channel is set to zero: `w_k = (Y − Y_k) / Y`, `ReLU(Σ_k w_k A_k)` (Eq. 2 and 3).

    One image goes in and the network above the layer runs on all ablated activations; channels that are zero already are not run. A score
    of zero leaves the weights undefined: the plain drop is used then.
    """

    kind = "perturbation"
    paper = "Desai 2020"
    cost = "layer to output per channel"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        activations = run.capture().activations
        clean = run.clean_scores()
        batch, channels = activations.shape[0], activations.shape[2]
        weights = activations.new_zeros(batch, channels, run.count)
        for row in run.stream.steps(batch):
            maps = activations[row, 0]
            live = maps.flatten(1).any(1).nonzero()[:, 0]
            if not len(live):
                continue

            def ablate(part: slice, maps: Tensor = maps, live: Tensor = live) -> Tensor:
                chosen = live[part]
                many = maps.expand(len(chosen), *maps.shape).clone()
                many[torch.arange(len(chosen), device=chosen.device), chosen] = 0
                return many

            drops = clean[row] - run.substituted(row, len(live), ablate)
            weights[row, live] = torch.where(clean[row] != 0, drops / clean[row], drops).to(weights.dtype)
        return weighted_sum(weights.transpose(1, 2), activations).relu()
