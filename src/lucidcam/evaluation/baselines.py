"""Maps that know nothing of the network: what a method must beat before its figures mean anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.imaging import maps
from lucidcam.metrics._random import draws

CELL = 32
"""Pixels per side of the random map's cells, the usual total stride of a convolutional network."""

Trivial = Callable[[Tensor, Sequence[str], int], Tensor]
"""From images `[B, C, H, W]`, their names and a seed to maps `[B, H, W]`."""


def centre_box(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """1 within the centred box of half the image's area, 0 outside."""
    height, width = image.shape[2:]
    found = image.new_zeros(len(image), height, width)
    top, left = (round(side * (1 - 0.5**0.5) / 2) for side in (height, width))
    found[:, top : height - top, left : width - left] = 1
    return found


def full_box(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """1 everywhere but in one corner pixel, so that the box it gives is the whole image also where maps are min-maxed."""
    found = image.new_ones(len(image), *image.shape[2:])
    found[:, 0, 0] = 0
    return found


def centre_point(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """A Gaussian around the centre, its standard deviation a quarter of each side."""
    lines = [torch.exp(-0.5 * ((torch.arange(side, device=image.device) - (side - 1) / 2) / (side / 4)) ** 2) for side in image.shape[2:]]
    return (lines[0][:, None] * lines[1]).to(image.dtype).expand(len(image), -1, -1).clone()


def random_map(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """Independent uniform noise in cells of 32 pixels, as coarse as a class activation map, resized bilinearly.

    It is the same for an image whatever else is in the batch.
    """
    size = [max(2, round(side / CELL)) for side in image.shape[2:]]
    drawn = [torch.rand(size, generator=draws(seed, f"random map {name}")) for name in names]
    return maps.resize(torch.stack(drawn), (image.shape[2], image.shape[3])).to(image)


def uniform(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """The same everywhere."""
    return image.new_ones(len(image), *image.shape[2:])


def sobel_edges(image: Tensor, names: Sequence[str], seed: int) -> Tensor:
    """The Sobel gradient's magnitude of the mean over the channels."""
    grey = F.pad(image.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=image.device, dtype=image.dtype)
    slopes = F.conv2d(grey, torch.stack([across, across.T])[:, None])
    return slopes.square().sum(1).sqrt()


TRIVIAL: dict[str, Trivial] = {
    "centre_box": centre_box,
    "full_box": full_box,
    "centre_point": centre_point,
    "random": random_map,
    "uniform": uniform,
    "sobel_edges": sobel_edges,
}
"""The trivial baselines by name; they are in every table."""
