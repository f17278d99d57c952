"""What is measured on: a network and a batch of its inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lucidcam.engine.session import plain
from lucidcam.errors import LucidcamError, MissingExtraError, OptionError
from lucidcam.types import Model
from lucidcam.utils.optional import import_optional

PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")
"""Photos that come inside scikit-image's package."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and inputs.

    Attributes:
        module: the network.
        name: how it is called in reports.
        layer: its own default layer, or None.
        inputs: `[N, C, *spatial]`, on the network's device.
        told: what the inputs are, in words.
    """

    module: nn.Module
    name: str
    layer: str | None
    inputs: Tensor
    told: str

    def batch(self, count: int) -> Tensor:
        """The first `count` inputs, `[count, C, *spatial]`; where there are fewer, they are repeated in turn."""
        return self.inputs[torch.arange(count, device=self.inputs.device) % len(self.inputs)].contiguous()


def subject(model: Model | nn.Module, images: Any, most: int) -> Subject:
    """Prepare what a user gives.

    Args:
        model: a model, or a module; a module needs `images` as a tensor.
        images: as for `lucidcam.explain`; None: packaged photos, or noise where there are none.
        most: images that are needed at most.

    Raises:
        OptionError: a module without a tensor of images.
        InputError: an image cannot be read.
    """
    if not isinstance(model, Model):
        module = plain(model)
        if not isinstance(images, Tensor) or images.ndim < 3 or not len(images):
            raise OptionError("a module is measured on a tensor of its inputs [B, C, H, W]: bench(module, images); a model takes photos.")
        return Subject(module, type(module).__name__, None, images[:most], f"{len(images[:most])} inputs given")
    told = ""
    if images is None:
        images, told = _photos()
    prepared = model.prepare(images[:most] if isinstance(images, (list, tuple, Tensor)) else images)[:most]
    if not prepared:
        raise OptionError("expected at least one image to measure on; got none.")
    size, fitting = Counter(tuple(each.tensor.shape) for each in prepared).most_common(1)[0]
    inputs = torch.stack([each.tensor for each in prepared if tuple(each.tensor.shape) == size]).to(model.device, model.dtype)
    told = told or f"{fitting} image{'s' if fitting != 1 else ''} given"
    if fitting < len(prepared):
        told += f" ({len(prepared) - fitting} of other sizes left out)"
    return Subject(plain(model.module), model.name, model.layer, inputs, told)


def _photos() -> tuple[list[Any], str]:
    try:
        data = import_optional("skimage.data", "demo", "measuring on packaged photos")
        return [getattr(data, name)() for name in PHOTOS], f"{len(PHOTOS)} photos of scikit-image"
    except (MissingExtraError, OSError, AttributeError):
        noise = torch.randint(0, 256, (256, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return [Image.fromarray(noise.numpy())], "one image of noise (pip install 'lucidcam[demo]' brings photos)"


def reason(error: Exception) -> str:
    """Why a method could not be measured, in one line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if isinstance(error, LucidcamError) else f"{type(error).__name__}: {text}"
