"""Gradient CAMs that keep, or weigh, where a gradient is: XGrad-CAM, HiResCAM and LayerCAM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.run import Capture, Run
from lucidcam.methods._base import CHANNELS, Method, register, spatial_sum, warn_of_pole, weighted_sum

CANCELLED = 1e-3
"""Share of a channel's magnitude that its sum must have."""


@register("xgradcam")
@dataclass(frozen=True, kw_only=True)
class XGradCAM(Method):
    """Gradients weighted by normalised activations (Fu et al., BMVC 2020, Eq. 8).

    `w_k = Σ_ij (A_k^ij / Σ_ab A_k^ab) g_k^ij`, `ReLU(Σ_k w_k A_k)`. A channel whose activations sum to zero has weight zero.

    Meant for activations that are not negative. At a layer with negative ones it has a pole where they cancel, `Σ A = 0`: where they all
    but do, a `SignedLayerWarning` says so. The default layer is taken after its ReLU, also where that has no module of its own.
    """

    kind = "gradient"
    paper = "Fu 2020"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture_rectified()
        total, size = spatial_sum(c.activations), spatial_sum(c.activations.abs())
        counts = spatial_sum(c.gradients.abs()) > 0
        warn_of_pole(run, (total.abs() < CANCELLED * size) & counts, "ΣA")
        return weighted_sum(self.weights(c), c.activations).relu()

    @staticmethod
    def weights(c: Capture) -> Tensor:
        """What each channel is weighted with: `w_k`, `[B, T, C]`."""
        total = spatial_sum(c.activations)
        return torch.where(total != 0, spatial_sum(c.activations * c.gradients) / total, 0)


@register("hirescam")
@dataclass(frozen=True, kw_only=True)
class HiResCAM(Method):
    """Gradients times activations, pixel by pixel: `Σ_k g_k ⊙ A_k` (Draelos & Carin 2020, Eq. 5). Signed."""

    kind = "gradient"
    paper = "Draelos 2020"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture(gradients=True)
        return (c.gradients * c.activations).sum(CHANNELS)


@register("layercam")
@dataclass(frozen=True, kw_only=True)
class LayerCAM(Method):
    """Positive gradients as per-pixel weights: `ReLU(Σ_k ReLU(g_k) ⊙ A_k)` (Jiang et al., TIP 2021, Eq. 7)."""

    kind = "gradient"
    paper = "Jiang 2021"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture(gradients=True)
        return (c.gradients.relu() * c.activations).sum(CHANNELS).relu()
