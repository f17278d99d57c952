"""Class activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.head import Head
from lucidcam.engine.run import Run
from lucidcam.errors import ModelError, TargetError
from lucidcam.methods._base import CHANNELS, Method, register, spatial_mean, weighted_sum
from lucidcam.targets import logits


@register("cam")
@dataclass(frozen=True, kw_only=True)
class CAM(Method):
    """Head weights as channel weights: `M_c = Σ_k w_k^c A_k` (Zhou et al. 2016, Eq. 2). Signed.

    For networks that end in global average pooling and one linear layer, where `Σ_xy M_c / Z + b_c = Y^c`; and for networks whose class
    scores are a 1×1 convolution before global pooling. Where a ReLU without a module of its own stands between the layer and the
    pooling (DenseNet), it is applied, so that the identity holds.

    Raises:
        ModelError: when the head is neither.
    """

    kind = "activation"
    paper = "Zhou 2016"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        head = run.head()
        activations = _entering(head, run.capture().activations, run.layer.name)
        return weighted_sum(_weights(run, head.weight.detach().to(activations.dtype)), activations)


def _entering(head: Head, activations: Tensor, layer: str) -> Tensor:
    """The activations as they enter the head: those of the layer, or their ReLU."""
    pooled = head.input.ndim == 2
    for change in (lambda a: a, torch.relu):
        entering: Tensor = change(activations)
        features = spatial_mean(entering)[:, 0] if pooled else entering[:, 0]
        if features.shape == head.input.shape:
            difference = (features - head.input).abs().max()
            loose = 1e-4 if head.input.dtype in (torch.float32, torch.float64) else 2e-2
            if difference <= loose * head.input.abs().max().clamp(min=1e-12):
                return entering
    channels = activations.shape[CHANNELS]
    raise ModelError(
        f"CAM needs global average pooling and one linear layer on top of {layer!r} ({channels} channels); the linear layer here sees "
        f"something else ({list(head.input.shape)}). Choose the layer that is pooled, use gradcam (any head), or retrain with such a head."
    )


def _weights(run: Run, weight: Tensor) -> Tensor:
    """Channel weights `[B or 1, T, C]` of each target: those of its class, or what the chain rule makes of the classes'."""
    bound = run.bound
    if bound.logit and bound.ids is not None:
        ids = bound.ids[:, run.targets]
        if ids.stride(0) == 0 or len(ids) == 1:  # the same classes for every image: nothing to gather
            return weight[ids[:1]] if ids.shape[1] < len(weight) else weight.unsqueeze(0)
        return weight[ids]
    outputs = run.outputs()
    if bound.ids is None and not isinstance(outputs, Tensor):
        raise TargetError("CAM explains class scores; give a class id, or use gradcam for a callable target.")
    with torch.enable_grad():
        scores_of = logits(outputs).detach().to(weight.dtype).requires_grad_()
        chosen = bound.scores(scores_of)[:, run.targets].sum(0)
        if not chosen.requires_grad:
            raise TargetError("the target does not depend on the class scores through differentiable operations.")
        by_class = torch.stack([torch.autograd.grad(score, scores_of, retain_graph=True)[0] for score in chosen], dim=1)
    return by_class @ weight
