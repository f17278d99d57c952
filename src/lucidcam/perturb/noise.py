"""Noisy copies of images."""

from __future__ import annotations

import torch
from torch import Tensor


def noisy(image: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise whose standard deviation is `noise` times each image's value range.

    All images of a batch get the same draw, so that an image's map does not depend on its neighbours.

    Args:
        image: `[B, C, *spatial]`.
        noise: fraction of (max − min).
        generator: on the image's device.
    """
    flat = image.flatten(1)
    spread = (flat.amax(1) - flat.amin(1)) * noise
    drawn = torch.randn(image.shape[1:], generator=generator, device=image.device, dtype=torch.float32).to(image.dtype)
    return image + drawn * spread.reshape(-1, *[1] * (image.ndim - 1))
