"""Eigen-CAM and EigenGrad-CAM (Muhammad & Yeasin, IJCNN 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.inputs import all_finite
from lucidcam.engine.run import Run
from lucidcam.errors import ModelError
from lucidcam.methods._base import CHANNELS, Method, register


@register("eigencam")
@dataclass(frozen=True, kw_only=True)
class EigenCAM(Method):
    """First principal component of the activations: `A v₁` with `v₁` the first right singular vector of `A [h·w, C]`.

    It does not depend on the target. The sign, which a decomposition leaves open, is the one that correlates positively with `Σ_k A_k`.
    """

    kind = "activation"
    needs_target = False
    paper = "Muhammad 2020"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        activations = run.capture().activations
        maps = _principal(activations, activations)
        return maps.expand(-1, run.count, *maps.shape[2:])


@register("eigengradcam")
@dataclass(frozen=True, kw_only=True)
class EigenGradCAM(Method):
    """First principal component of gradients times activations, `g ⊙ A`, with the sign that correlates positively with `Σ_k A_k`."""

    kind = "gradient"
    paper = "Muhammad 2020"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture(gradients=True)
        return _principal(c.gradients * c.activations, c.activations)


def _principal(x: Tensor, activations: Tensor) -> Tensor:
    """Project `x [B, T, C, *grid]` onto its first principal direction: `[B, T, *grid]`.

    The Gram matrix of the shorter side has the same leading vectors as the whole and costs a fraction of its decomposition.
    """
    pixels = x.flatten(CHANNELS + 1)  # [B, T, C, n]
    if not all_finite(pixels):
        raise ModelError("the layer's activations or gradients are NaN or infinite: check the network's weights, or try float32.")
    channels, positions = pixels.shape[-2:]
    if positions <= channels:
        values, vectors = torch.linalg.eigh(pixels.transpose(-1, -2) @ pixels)
        projection = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        vectors = torch.linalg.eigh(pixels @ pixels.transpose(-1, -2)).eigenvectors
        projection = (vectors[..., -1].unsqueeze(-2) @ pixels).squeeze(-2)
    total = activations.sum(CHANNELS).flatten(2)
    agreement = ((total - total.mean(-1, keepdim=True)) * projection).sum(-1, keepdim=True)
    return torch.where(agreement < 0, -projection, projection).reshape(*x.shape[:CHANNELS], *x.shape[CHANNELS + 1 :])
