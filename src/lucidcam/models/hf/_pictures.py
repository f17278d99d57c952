"""Image processors of transformers as plain preprocessings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.imaging.preprocess import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Channels, Preprocess, Probed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CROP_WITH_MARGIN_BELOW = 384  # ConvNeXt's processor: smaller inputs are centre crops, larger ones squash the whole image
LONGEST = 1333 / 800
"""ViLT's processor: the long side is at most this many times what the short one should be."""
TOLERANCE = 0.02
"""Mean difference, in units of the normalised input's spread, up to which `Preprocess` stands in for a processor."""


@dataclass(frozen=True)
class Processed:
    """A transformers image processor as a plain preprocessing."""

    processor: Callable[..., Mapping[str, Any]]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the network's input `[C, h, w]`."""
        return torch.as_tensor(np.asarray(self.processor(images=image, return_tensors="np")["pixel_values"][0]))


def preprocessing(processor: Any, config: Any, everything: bool = False) -> Preprocess | Probed:
    """The processor's steps as a `Preprocess` where that gives the same tensor, else the processor itself.

    Processors that keep the aspect ratio give sides of any length, which the cells of a feature map rarely fill; both sides become
    multiples of 32, and nothing is padded: the map covers the photo and nothing else.

    Args:
        processor: the repository's.
        config: the network's configuration.
        everything: nothing may be cut off, for networks that tell what is where.
    """
    processed = Processed(processor)
    found = _translated(processor, config)
    if found is None or not _agree(found, processed):
        return Probed(processed)
    return found.refit("squash") if everything and found.fit == "crop" else found


def _translated(processor: Any, config: Any) -> Preprocess | None:
    def get(key: str, default: Any = None) -> Any:
        value = getattr(processor, key, None)
        return default if value is None else value

    size, crop = dict(get("size", {}) or {}), get("crop_size", {})
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop or {})
    short, long, pair = size.get("shortest_edge"), size.get("longest_edge"), (size.get("height"), size.get("width"))
    cropped = (crop.get("height"), crop.get("width")) if get("do_center_crop", False) else None
    resize: Any = (short or (pair if None not in pair else None)) if get("do_resize", True) else None
    if short and "crop_pct" in vars(type(processor)):
        small = short < CROP_WITH_MARGIN_BELOW
        resize, cropped = (int(short / get("crop_pct", 0.875)) if small else (short, short)), (short, short)
    final = cropped or (resize if isinstance(resize, tuple) else None)
    whole = bool(resize) and short is not None and final is None
    channels: Channels = "BGR" if get("do_flip_channel_order", False) else "RGB"
    if getattr(config, "num_channels", 3) == 1:
        channels = "L"
    rescaled, normalised = get("do_rescale", True), get("do_normalize", bool(get("image_mean")))
    names = {int(value): name for name, value in INTERPOLATIONS.items()}
    try:
        return Preprocess(
            size=(short, short) if whole else final,  # type: ignore[arg-type]  # checked by Preprocess
            resize=resize,
            fit="whole" if whole else "crop",
            longest=(long or int(LONGEST * (short or 0))) if whole else None,
            mean=tuple(get("image_mean", IMAGENET_MEAN)) if normalised else (0.0,),
            std=tuple(get("image_std", IMAGENET_STD)) if normalised else (1.0,),
            interpolation=names[int(get("resample", Image.Resampling.BILINEAR))],
            scale=float(get("rescale_factor", 1 / 255)) if rescaled else 1.0,
            channels=channels,
        )
    except (OptionError, TypeError, KeyError, ValueError):
        return None


def _agree(preprocess: Preprocess, processed: Processed) -> bool:
    """Compare on a smooth picture, whose three channels differ; of unequal sides, but where those are rounded."""
    wide = 480 if preprocess.fit == "whole" else 640
    y, x = np.mgrid[0:480, 0:wide] / 640
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), x * y * 2 - 1], axis=-1)
    image = Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8))
    try:
        expected, found = processed(image), preprocess(image)
    except Exception:  # a processor may want more than an image, in ways only it knows; it then says so when it is used
        return False
    if expected.shape != found.shape:
        return False
    difference = (expected.float() - found).abs().mean()
    return bool(difference <= TOLERANCE * expected.float().std())
