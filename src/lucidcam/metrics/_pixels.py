"""Which pixels count most, and what becomes of those that are taken away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Batch
from lucidcam.perturb.baselines import baseline, gaussian_blur

BLUR_SIGMA, BLUR_RADIUS = 5.0, 5
"""RISE's blur: a Gaussian of σ = 5 pixels on an 11×11 kernel."""

NAMES = ("zeros", "black", "mean", "blur")


def ranks(batch: Batch) -> Tensor:
    """The place of every pixel in the order of the resized map, `[B, H, W]` int32: 0 for the highest; ties in reading order."""
    if "ranks" not in batch.cache:
        values = batch.resized.flatten(1)
        order = values.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(values.shape[1], dtype=torch.int32, device=values.device).expand_as(order)
        batch.cache["ranks"] = torch.empty_like(places).scatter_(1, order, places).reshape(batch.resized.shape)
    return batch.cache["ranks"]


def filled(batch: Batch, name: str | float) -> Tensor:
    """What removed pixels become, `[B, C, H, W]`.

    Args:
        batch: the images.
        name: "zeros" (in the network's input space: the mean colour where inputs are standardised), "black" (a black pixel), "mean" (each
            image's mean colour), "blur" (RISE's: Gaussian, 11×11 pixels, σ = 5; edges reflected), or a number in the input space.
    """
    image = batch.run.image
    if name == "black":
        return batch.black.to(image)[:, None, None].expand_as(image)
    if name == "blur":
        return gaussian_blur(image, BLUR_SIGMA, BLUR_RADIUS)
    return baseline(image, name)


def check_baseline(name: str | float) -> None:
    """Refuse what `filled` cannot make.

    Raises:
        OptionError: for another name, or a number that is not finite.
    """
    try:
        known = name in NAMES or math.isfinite(float(name))
    except (TypeError, ValueError):
        known = False
    if not known:
        raise OptionError(f"expected a number or one of {', '.join(NAMES)} as baseline; got {name!r}.")
