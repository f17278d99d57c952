"""Class activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.head import Head
from lucidcam.engine.run import Run
from lucidcam.errors import ModelError, TargetError
from lucidcam.methods._base import CHANNELS, Method, register, spatial_mean, weighted_sum

SHARPNESS = 1e-2, 1e6
"""Between which log-sum-exp's sharpness is looked for, in units of one over what lies between mean and maximum."""

BISECTIONS = 50
"""They find it to fifteen digits, more than the features have."""


@register("cam")
@dataclass(frozen=True, kw_only=True)
class CAM(Method):
    """Head weights as channel weights: `M_c = Σ_k w_k^c A_k` (Zhou et al. 2016, Eq. 2). Signed.

    For networks that end in global average pooling and one linear layer, where `Σ_xy M_c / Z + b_c = Y^c`; and for networks whose class
    scores are a 1×1 convolution before global pooling. Where a ReLU without a module of its own stands between the layer and the
    pooling (DenseNet), it is applied, so that the identity holds.

    Networks that end in global maximum or log-sum-exp pooling and one linear layer get the same map, as in the paper's comparison; it
    does not sum to the score then.

    Raises:
        ModelError: when the head is none of these.
    """

    kind = "activation"
    paper = "Zhou 2016"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        head = run.head()
        activations = _entering(head, run.capture().activations, run.layer.name)
        return weighted_sum(_weights(run, head.weight.detach().to(activations.dtype)), activations)


def head_weights(run: Run) -> Tensor:
    """What CAM weighs the layer's channels with, `[B or 1, T, C]`.

    Raises:
        ModelError: when the head is none that CAM is defined for, as of that layer.
        TargetError: for a target that is not made of class scores.
    """
    head = run.head()
    dtype = _entering(head, run.capture().activations, run.layer.name).dtype
    return _weights(run, head.weight.detach().to(dtype))


def _entering(head: Head, activations: Tensor, layer: str) -> Tensor:
    """The activations as they enter the head: those of the layer, or their ReLU."""
    pooled = head.input.ndim == 2
    for features_of in (_mean, _maximum, _log_sum_exp) if pooled else (_as_they_are,):
        for change in (lambda a: a, torch.relu):
            entering: Tensor = change(activations)
            # What is pooled in another way lies between mean and maximum; so does much else, hence one sharpness must fit every channel.
            if _same(features_of(entering, head.input), head.input):
                return entering
    channels = activations.shape[CHANNELS]
    raise ModelError(
        f"CAM needs global average pooling and one linear layer on top of {layer!r} ({channels} channels); the linear layer here sees "
        f"something else ({list(head.input.shape)}). Choose the layer that is pooled, use gradcam (any head), or retrain with such a head."
    )


def _same(features: Tensor, wanted: Tensor) -> bool:
    """Whether they are equal up to the rounding of their type."""
    loose = 1e-4 if wanted.dtype in (torch.float32, torch.float64) else 2e-2
    return features.shape == wanted.shape and bool((features - wanted).abs().max() <= loose * wanted.abs().max().clamp(min=1e-12))


def _as_they_are(entering: Tensor, wanted: Tensor) -> Tensor:
    return entering[:, 0]


def _mean(entering: Tensor, wanted: Tensor) -> Tensor:
    return spatial_mean(entering)[:, 0]


def _maximum(entering: Tensor, wanted: Tensor) -> Tensor:
    return entering[:, 0].flatten(2).amax(-1)


def _log_sum_exp(entering: Tensor, wanted: Tensor) -> Tensor:
    """Log-sum-exp over the grid, with the one sharpness that gives the wanted feature where mean and maximum differ most."""
    pixels = entering[:, 0].flatten(2)
    pixels = pixels if pixels.dtype == torch.float64 else pixels.float()
    spread = pixels.amax(-1) - pixels.mean(-1)
    if spread.shape != wanted.shape or wanted.numel() < 2 or not bool(spread.max() > 0):  # one number alone fits always
        return pixels.mean(-1)
    widest = pixels.flatten(0, 1)[spread.argmax()]
    goal = wanted.flatten()[spread.argmax()].to(pixels.dtype)
    low, high = (math.log(factor / float(spread.max())) for factor in SHARPNESS)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if bool(_pooled(widest, math.exp(middle)) < goal) else (low, middle)
    return _pooled(pixels, math.exp(low))


def _pooled(pixels: Tensor, sharpness: float) -> Tensor:
    """`1/r · log(1/Z · Σ exp(r·x))`: the mean for r towards 0, the maximum for r towards ∞; it grows with r."""
    return (torch.logsumexp(sharpness * pixels, -1) - math.log(pixels.shape[-1])) / sharpness


def _weights(run: Run, weight: Tensor) -> Tensor:
    """Channel weights `[B or 1, T, C]` of each target: those of its class, or what the chain rule makes of the classes'."""
    bound = run.bound
    if bound.logit and bound.ids is not None and len(weight) > 1:  # a single column stands for two classes
        ids = bound.ids[:, run.targets]
        if ids.stride(0) == 0 or len(ids) == 1:  # the same classes for every image: nothing to gather
            return weight[ids[:1]] if ids.shape[1] < len(weight) else weight.unsqueeze(0)
        return weight[ids]
    outputs = run.outputs()
    if bound.ids is None and not isinstance(outputs, Tensor):
        raise TargetError("CAM explains class scores; give a class id, or use gradcam for a callable target.")
    with torch.enable_grad():
        scores_of = run.class_columns().detach().to(weight.dtype).requires_grad_()
        chosen = bound.scores(scores_of)[:, run.targets].sum(0)
        if not chosen.requires_grad:
            raise TargetError("the target does not depend on the class scores through differentiable operations.")
        by_class = torch.stack([torch.autograd.grad(score, scores_of, retain_graph=True)[0] for score in chosen], dim=1)
    return by_class @ weight
