"""From a photo to a network's input, with Pillow and torch alone, and back: which part of the photo the input shows.

`Preprocess` gives, bit for bit, what the evaluation transforms of torchvision and timm give on PIL images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam.errors import ModelError, OptionError, unknown
from lucidcam.io.images import Window, checked_window
from lucidcam.reprs import OneLineRepr
from lucidcam.types import Frame
from lucidcam.utils import framing
from lucidcam.utils.choices import IMAGENET_MEAN as IMAGENET_MEAN
from lucidcam.utils.choices import IMAGENET_STD as IMAGENET_STD
from lucidcam.utils.choices import Channels as Channels
from lucidcam.utils.choices import Fit as Fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


MULTIPLE = 32
"""With `fit="whole"` both sides are multiples of this, the usual total stride of a convolutional network."""

LARGEST_RESIZED = 16_000_000
"""Pixels that a photo may have when it is resized, before it is cropped; of more, only the part within the crop is made."""

MEASURED_SIZES = 4096
"""How many sizes of photos a preprocessing of unknown steps remembers the frames of."""

INTERPOLATIONS: dict[str, Image.Resampling] = {each.name.lower(): each for each in Image.Resampling}


@dataclass(frozen=True, kw_only=True)
class Preprocess(OneLineRepr):
    """Resize, crop, scale and normalise.

    Each channel becomes `(scale · x − mean) / std` of pixel values x in 0–255.

    Attributes:
        size: (height, width) of the network's input; an int means a square.
        resize: before the crop: an int is the length the short side gets, a pair the (height, width) that both sides
            get, None leaves the image as it is.
        mean: one number per channel, or one for all.
        std: like `mean`; positive.
        interpolation: "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos" or another of Pillow's filters.
        scale: factor on pixel values before the mean is subtracted: 1/255 for 0–1 networks, 1 for 0–255 ones.
        fit: "crop": resize, then take the centre, with black borders around images that are smaller. "squash": resize
            both sides to `size`, nothing is cut off, the aspect ratio is lost. "whole": the short side gets the crop's
            short side, the aspect ratio is kept up to rounding to multiples of 32, nothing is cut off; for networks
            that take any size.
        channels: "RGB", "BGR" or "L" (grey, one channel).
        window: (width, level) of grey images, in the values of their files; None: 8-bit images as they are, deeper ones by their bit depth.
            See `lucidcam.io.images.read`, which applies it before the other steps.
        longest: with `fit="whole"`: what the long side is at most, even where the short side gets shorter for that.
        multiple: with `fit="whole"`: what both sides are multiples of.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] | None = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    scale: float = 1 / 255
    fit: Fit = "crop"
    channels: Channels = "RGB"
    longest: int | None = None
    multiple: int = MULTIPLE
    window: Window | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", checked_window(self.window))
        if self.fit not in get_args(Fit):
            raise OptionError(unknown("fit", str(self.fit), get_args(Fit)))
        if self.channels not in get_args(Channels):
            raise OptionError(unknown("channel order", str(self.channels), get_args(Channels)))
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(unknown("interpolation", str(self.interpolation), INTERPOLATIONS))
        object.__setattr__(self, "size", _pair("size", self.size))
        if self.longest is not None and self.longest < self.multiple:
            raise OptionError(f"expected longest as at least {self.multiple} pixels; got {self.longest!r}.")
        if self.resize is not None:
            pair = _pair("resize", self.resize)
            object.__setattr__(self, "resize", pair[0] if isinstance(self.resize, int) else pair)
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale) and self.scale > 0):
            raise OptionError(f"expected a positive number as scale; got {self.scale!r}.")
        count = 1 if self.channels == "L" else 3
        object.__setattr__(self, "mean", _numbers("mean", self.mean, count))
        object.__setattr__(self, "std", _numbers("std", self.std, count))
        if max(map(abs, self.mean)) > 2 and self.scale < 0.01:
            raise OptionError(
                f'a mean of {self.mean} belongs to pixels of 0 to 255: give scale=1 (and channels="BGR" for Caffe\'s networks).'
            )
        if min(self.std) <= 0:
            raise OptionError(f"expected positive numbers as std; got {self.std}.")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the network's input `[C, h, w]`, float32, of a PIL image of any mode."""
        mode = "L" if self.channels == "L" else "RGB"
        image = image if image.mode == mode else image.convert(mode)  # which would copy a large photo
        resized, crop = self._geometry(image.size)
        if resized[0] * resized[1] > LARGEST_RESIZED:
            image, crop = _resized_part(image, resized, crop, INTERPOLATIONS[self.interpolation])
            resized = image.size
        if resized != image.size:
            image = image.resize(resized, INTERPOLATIONS[self.interpolation])
        if crop != (0, 0, *resized):
            image = image.crop(crop)  # Pillow fills what lies outside with black
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
        tensor = (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)).to(torch.float32).contiguous()
        if self.channels == "BGR":
            tensor = tensor.flip(0)
        divisor = 1 / self.scale
        # Dividing by a whole number, as torchvision does, rounds differently from multiplying by its inverse.
        tensor = tensor.div(round(divisor)) if math.isclose(divisor, round(divisor), rel_tol=1e-12) else tensor.mul(self.scale)
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return tensor.sub_(mean).div_(std)

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return where in an image of `size` (width, height) the network's input lies.

        >>> Preprocess(size=(224, 224), resize=256).frame((512, 256)).box
        (144.0, 16.0, 368.0, 240.0)
        """
        (width, height), (resized, (left, top, right, bottom)) = size, self._geometry(size)
        x, y = width / resized[0], height / resized[1]
        return Frame(width, height, (left * x, top * y, right * x, bottom * y))

    def refit(self, fit: Fit) -> Preprocess:
        """Return the same preprocessing with another `fit`.

        Raises:
            OptionError: for an unknown `fit`.
        """
        return replace(self, fit=fit)

    def _geometry(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """From an image's (width, height) to the resized one's, and the crop (left, top, right, bottom) within that."""
        width, height = size
        crop_height, crop_width = self.size
        if self.fit == "squash":
            return (crop_width, crop_height), (0, 0, crop_width, crop_height)
        if self.fit == "whole":
            most = math.inf if self.longest is None else self.longest // self.multiple * self.multiple
            factor = min(min(self.size) / min(size), most / max(size))
            wide, high = (self.multiple * max(1, round(side * factor / self.multiple)) for side in size)
            return (wide, high), (0, 0, wide, high)
        if isinstance(self.resize, int):
            long = int(self.resize * max(size) / min(size))
            width, height = (self.resize, long) if width <= height else (long, self.resize)
        elif self.resize is not None:
            height, width = self.resize
        left, top = _offset(width, crop_width), _offset(height, crop_height)
        return (width, height), (left, top, left + crop_width, top + crop_height)


def _resized_part(
    image: Image.Image, size: tuple[int, int], crop: tuple[int, int, int, int], resample: Image.Resampling
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Resize to `size`, of a result that is too large to be made whole only the part within a crop; and where the crop is in that.

    Pillow resizes along one axis, rounds and clips, and then along the other. That is done here, in the order that it takes for the whole,
    so that the part is what it would be of the whole.
    """
    x, y = image.width / size[0], image.height / size[1]
    left, top, right, bottom = max(0, crop[0]), max(0, crop[1]), min(size[0], crop[2]), min(size[1], crop[3])
    across, down = (math.ceil(_reach(resample) * max(1.0, factor)) + 1 for factor in (x, y))
    near_left, near_top = max(0, math.floor(left * x) - across), max(0, math.floor(top * y) - down)
    near_right, near_bottom = min(image.width, math.ceil(right * x) + across), min(image.height, math.ceil(bottom * y) + down)
    near = near_left, near_top, near_right, near_bottom
    part = image if near == (0, 0, *image.size) else image.crop(near)
    columns, rows = (left * x - near_left, right * x - near_left), (top * y - near_top, bottom * y - near_top)
    for axis in "yx" if _is_vertical_first(image.size, size) else "xy":
        if axis == "x":
            part = part.resize((right - left, part.height), resample, (columns[0], 0, columns[1], part.height))
        else:
            part = part.resize((part.width, bottom - top), resample, (0, rows[0], part.width, rows[1]))
    return part, (crop[0] - left, crop[1] - top, crop[2] - left, crop[3] - top)


def _is_vertical_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow resizes a picture along its height first: since version 13 where that saves work, by the two sizes."""
    narrower, lower = size[0] - resized[0], size[1] - resized[1]
    return lower > max(0, 2 * narrower) and _chooses_order()


@cache
def _chooses_order() -> bool:
    """Whether Pillow ever resizes along the height first, seen on noise that is made lower and wider."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 8), np.uint8))
    vertical_first = noise.resize((8, 16), Image.Resampling.BICUBIC).resize((32, 16), Image.Resampling.BICUBIC)
    return noise.resize((32, 16), Image.Resampling.BICUBIC).tobytes() == vertical_first.tobytes()


@cache
def _reach(resample: Image.Resampling) -> float:
    """Pixels, of the larger of the two pictures, that a filter of Pillow looks to either side: how far one bright pixel spreads."""
    enlargement = 16
    bright = Image.new("F", (64, 1))
    bright.putpixel((32, 0), 1.0)
    (spread,) = np.nonzero(np.asarray(bright.resize((64 * enlargement, 1), resample))[0])
    return float(spread.max() - spread.min() + 1) / (2 * enlargement)


@dataclass(frozen=True)
class Probed(OneLineRepr):
    """Any other preprocessing, and the part of the photo that it shows, measured by sending barcodes through it (`lucidcam.utils.framing`).

    Args:
        function: from PIL image to tensor `[C, h, w]` (or `[1, C, h, w]`).
        where: which part of photos of a size (width, height) it shows; "whole": all of each, upright. None: that is measured.
        window: see `Preprocess`.
    """

    function: Callable[[Image.Image], Tensor]
    where: Callable[[tuple[int, int]], Frame] | Literal["whole"] | None = None
    window: Window | None = None
    _measured: dict[tuple[int, int], Frame] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.where is None or self.where == "whole" or callable(self.where)):
            raise OptionError(f'expected frame as "whole" or a function from (width, height) to a Frame; got {self.where!r}.')

    def __call__(self, image: Image.Image) -> Tensor:
        """Call the function."""
        return self.function(image)

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return where in a photo of `size` (width, height) the tensor lies, and how it is turned.

        Raises:
            ModelError: nothing was said of it, and it cannot be measured: the function is random, bends the photo, or crops by what that
                shows.
            OptionError: what was said returns no frame.
        """
        if self.where == "whole":
            return Frame.whole(*size)
        if callable(self.where):
            stated = self.where(size)
            if not isinstance(stated, Frame):
                raise OptionError(f"expected a lucidcam.types.Frame from the function given as frame; got {type(stated).__name__}.")
            return stated
        if size not in self._measured:
            if len(self._measured) >= MEASURED_SIZES:
                self._measured.clear()
            self._measured[size] = framing.measure(self.function, size)
        return self._measured[size]

    def check_frame(self, image: Image.Image, tensor: Tensor) -> None:
        """Make sure that a photo's tensor shows the part that was measured.

        Raises:
            ModelError: it shows another part, so that the function crops by what the photo shows.
        """
        if self.where is None and not framing.agrees(image, tensor, self.frame(image.size)):
            raise ModelError(framing.refusal("this photo's tensor shows another part than other images' do"))


@dataclass(frozen=True, kw_only=True)
class Clips(OneLineRepr):
    """From a clip's frames to the input `[C, T, h, w]` of a network that takes clips.

    Attributes:
        still: what is done with each frame.
        count: T, how many frames the network gets: the middles of as many equal parts of the clip, so that the whole clip is seen; a
            shorter clip gives some of them twice. None: all there are.
        whole: from all frames `[T, 3, H, W]`, uint8, to the input, in place of `still`; it must show the same part of each frame.
    """

    still: Preprocess = field(default_factory=Preprocess)
    count: int | None = 16
    whole: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise OptionError(f"expected count ≥ 1 frames, or None for all; got {self.count}.")

    @property
    def window(self) -> Window | None:
        """The window of `still`."""
        return self.still.window

    def numbers(self, count: int) -> list[int]:
        """Which of a clip's `count` frames the network gets.

        >>> Clips(count=4).numbers(16), Clips(count=4).numbers(2)
        ([2, 6, 10, 14], [0, 0, 1, 1])
        """
        parts = self.count or count
        return [(2 * i + 1) * count // (2 * parts) for i in range(parts)]

    def __call__(self, frames: Sequence[Image.Image]) -> Tensor:
        """Return the network's input `[C, T, h, w]`, float32, of RGB frames of one size."""
        if self.whole is None:
            return torch.stack([self.still(frame) for frame in frames], dim=1)
        return self.whole(torch.from_numpy(np.stack([np.asarray(frame.convert("RGB")) for frame in frames])).permute(0, 3, 1, 2))

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return where in frames of `size` (width, height) the network's input lies."""
        return self.still.frame(size)

    def refit(self, fit: Fit) -> Clips:
        """Return the same preprocessing with another `fit` of each frame.

        Raises:
            OptionError: for an unknown `fit`.
        """
        return replace(self, still=self.still.refit(fit), whole=None if fit != self.still.fit else self.whole)


def with_window(preprocess: Any, window: Window) -> Any:
    """Return a preprocessing with a window of grey values; see `lucidcam.io.images.read`.

    Raises:
        OptionError: the window is none, or the preprocessing is an object of another kind.
    """
    window = checked_window(window)
    if isinstance(preprocess, Clips):
        return replace(preprocess, still=replace(preprocess.still, window=window))
    if isinstance(preprocess, (Preprocess, Probed)):
        return replace(preprocess, window=window)
    raise OptionError(
        f"window={window} needs a lucidcam.Preprocess or a function; give the {type(preprocess).__name__} an attribute window."
    )


def from_timm(config: Mapping[str, Any]) -> Preprocess | None:
    """Return what timm's data config (or a model's `pretrained_cfg`) describes; None where `Preprocess` cannot."""
    channels, height, width = config["input_size"]
    crop = config.get("crop_pct") or 0.875
    resize = math.floor(height / crop), math.floor(width / crop)
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash") or (mode == "center" and resize[0] != resize[1]) or channels not in (1, 3):
        return None
    return Preprocess(
        size=(height, width),
        resize=resize[0] if mode == "center" else resize,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config.get("interpolation") or "bilinear",
        channels="L" if channels == 1 else "RGB",
    )


def from_torchvision(preset: Any) -> Preprocess:
    """Return what torchvision's `ImageClassification` preset, or the frames' part of its `VideoClassification`, describes."""
    crop, resize = preset.crop_size, preset.resize_size
    return Preprocess(
        size=(crop[0], crop[-1]),
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def _offset(side: int, crop: int) -> int:
    """Where a centre crop starts within a side: torchvision's rounding; negative where it pads."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in pair):
        raise OptionError(f"expected {name} as a positive int or (height, width); got {value!r}.")
    return pair[0], pair[1]


def _numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    values = (value,) if isinstance(value, (int, float)) else tuple(value)
    if len(values) == 1:
        values *= count
    if len(values) != count or not all(isinstance(each, (int, float)) and math.isfinite(each) for each in values):
        raise OptionError(f"expected {name} as {count} finite number{'s' * (count > 1)}, one per channel; got {value!r}.")
    return tuple(float(each) for each in values)
