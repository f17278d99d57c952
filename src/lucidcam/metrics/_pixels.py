"""Which pixels count most, and what becomes of those that are taken away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.imaging import maps
from lucidcam.metrics._base import Batch
from lucidcam.perturb.baselines import baseline, gaussian_blur

BLUR_SIGMA, BLUR_RADIUS = 5.0, 5
"""RISE's blur: a Gaussian of σ = 5 pixels on an 11×11 kernel."""

BITS = 40
"""Leading bits in which two pixels must agree to tie; resizing leaves the last few of 53 to rounding."""

NAMES = ("zeros", "black", "mean", "blur")


def ranks(batch: Batch) -> Tensor:
    """The place of every pixel in the order of the resized map, `[B, H, W]` int32: 0 for the highest; ties in reading order.

    The order is that of the map resized in float64, whatever the device and its rounding: pixels tie that are equal to twelve digits,
    such as those of a plateau, or on both sides of a peak.
    """
    if "ranks" not in batch.cache:
        values = _comparable(batch.maps, batch.run.inputs.size).flatten(1)
        order = values.argsort(dim=1, descending=True, stable=True).to(batch.maps.device)
        places = torch.arange(values.shape[1], dtype=torch.int32, device=order.device).expand_as(order)
        batch.cache["ranks"] = torch.empty_like(places).scatter_(1, order, places).reshape(len(order), *batch.run.inputs.size)
    return batch.cache["ranks"]


def _comparable(raw: Tensor, size: tuple[int, ...]) -> Tensor:
    """Values `[B, H, W]` in the order of the resized maps, equal where those would be without rounding."""
    if tuple(raw.shape[1:]) == tuple(size):
        return raw
    wide = raw.cpu() if raw.device.type == "mps" else raw  # Apple's GPUs have no float64
    wide = maps.resize(wide.double(), size)
    mantissa, exponent = wide.frexp()
    of_itself = torch.ldexp((mantissa * 2.0**BITS).round(), exponent)
    # Between cells of both signs values cancel out: what is left of them is as exact as the cells, not as it is itself.
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    peak = torch.maximum(high, -low)
    of_peak = (wide / torch.where(peak > 0, peak, 1) * 2.0**BITS).round()
    return torch.where((low < 0) & (high > 0), of_peak, of_itself)


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
