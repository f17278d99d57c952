"""What is left of an image where it is masked out.

All work on pre-processed images `[B, C, *spatial]`: zero is the training data's mean colour where inputs are standardised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import OptionError, unknown

BLUR_SIGMA = 0.05
"""Standard deviation of the "blur" baseline, as a fraction of the image's (of a clip or volume: a frame's) shorter side: 11 px at 224."""


def baseline(image: Tensor, name: str | float) -> Tensor:
    """Return what replaces masked pixels, in the shape of `image` `[B, C, *spatial]`.

    Args:
        image: pre-processed images.
        name: "zeros", "mean" (each image's mean colour), "blur" (a Gaussian blur), or a number.

    Raises:
        OptionError: for another name.
    """
    try:
        return torch.full_like(image, float(name))
    except ValueError:
        pass
    if name not in BASELINES:
        raise OptionError(unknown("baseline", str(name), BASELINES))
    return BASELINES[name](image)


def gaussian_blur(image: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """Blur `[B, C, *spatial]` with a separable Gaussian of `sigma` pixels; edges are reflected as far as they reach.

    Args:
        image: what to blur.
        sigma: standard deviation in pixels.
        radius: half the kernel's size (default 3 sigma).
    """
    radius = max(1, round(3 * sigma)) if radius is None else radius
    for axis in range(2, image.ndim):
        reach = min(radius, image.shape[axis] - 1)
        if reach < 1:
            continue
        at = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = kernel / kernel.sum()
        moved = image.movedim(axis, -1)
        lines = F.pad(moved.reshape(1, -1, moved.shape[-1]), (reach, reach), mode="reflect")
        image = F.conv1d(lines.transpose(0, 1), kernel[None, None]).reshape(moved.shape).movedim(-1, axis)
    return image


def _blur(image: Tensor) -> Tensor:
    return gaussian_blur(image, sigma=max(1.0, BLUR_SIGMA * min(image.shape[2:][-2:])))


def _mean(image: Tensor) -> Tensor:
    return image.flatten(2).mean(-1).reshape(*image.shape[:2], *[1] * (image.ndim - 2)).expand_as(image)


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"zeros": torch.zeros_like, "mean": _mean, "blur": _blur}
