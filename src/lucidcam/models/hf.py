"""Every image classifier of transformers (`hf:REPO` or `hf:FOLDER`), with its own processor and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam.compat import first_line, impatient_downloads, import_transformers
from lucidcam.errors import ModelError, OptionError
from lucidcam.preprocess import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Channels, Preprocess, Probed
from lucidcam.registry import sources
from lucidcam.types import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CROP_WITH_MARGIN_BELOW = 384  # ConvNeXt's processor: smaller inputs are centre crops, larger ones squash the whole image
TOLERANCE = 0.02
"""Mean difference, in units of the normalised input's spread, up to which `Preprocess` stands in for a processor."""


@dataclass(frozen=True)
class Processed:
    """A transformers image processor as a plain preprocessing."""

    processor: Callable[..., Mapping[str, Any]]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the network's input `[C, h, w]`."""
        return torch.as_tensor(np.asarray(self.processor(images=image, return_tensors="np")["pixel_values"][0]))


@sources.register("hf")
def load(
    name: str,
    *,
    pretrained: bool = True,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    **options: Any,
) -> Model:
    """Load an image classifier of transformers. Code that comes with a repository is never run.

    Args:
        name: a repository of the Hugging Face hub, or a folder.
        pretrained: False: random weights for the repository's configuration.
        preprocess: instead of the repository's image processor.
        options: of `AutoModelForImageClassification.from_pretrained`: `revision`, `subfolder`, `attn_implementation`, …
            .

    Raises:
        MissingExtraError: transformers is not installed.
        OptionError: no name is given.
        ModelError: the model cannot be downloaded, or is no image classifier.
    """
    if not name:
        raise OptionError("expected a repository or folder after 'hf:', for instance 'hf:microsoft/resnet-50'.")
    transformers = import_transformers(f"'hf:{name}'")
    where: dict[str, Any] = {key: options[key] for key in ("revision", "subfolder", "cache_dir", "token") if key in options}
    auto = transformers.AutoModelForImageClassification
    try:
        with impatient_downloads():
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
            if pretrained:
                module = auto.from_pretrained(name, config=config, trust_remote_code=False, **options)
            else:
                rest = {key: value for key, value in options.items() if key not in where}
                module = auto.from_config(config, trust_remote_code=False, **rest)
            if preprocess is None:
                preprocess = _preprocess(_processor(transformers, name, where), config)
    except ModelError:
        raise
    except TypeError as error:
        raise OptionError(f"'hf:{name}': {first_line(error)}.") from error
    except Exception as error:
        raise ModelError(
            f"'hf:{name}' could not be loaded as an image classifier: {first_line(error).rstrip('.')}; check the "
            "name and the network, or "
            "download it and give its folder."
        ) from error
    if not callable(getattr(preprocess, "frame", None)):
        preprocess = Probed(preprocess)
    words = {int(id): str(label) for id, label in (config.id2label or {}).items()}
    labels = tuple(words.get(id, f"class {id}") for id in range(max(words) + 1)) if words else None
    return Model(module.eval(), preprocess, labels, None, f"hf:{name}")


def _processor(transformers: Any, name: str, where: dict[str, Any]) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'hf:{name}' has no image processor ({first_line(error).rstrip('.')}); give preprocess=lucidcam.preprocess.Preprocess(…)."
        ) from error


def _preprocess(processor: Any, config: Any) -> Preprocess | Probed:
    """The processor's steps as a `Preprocess` where that gives the same tensor, else the processor itself."""
    processed = Processed(processor)
    found = _translated(processor, config)
    return found if found is not None and _agree(found, processed) else Probed(processed)


def _translated(processor: Any, config: Any) -> Preprocess | None:
    def get(key: str, default: Any = None) -> Any:
        value = getattr(processor, key, None)
        return default if value is None else value

    size, crop = dict(get("size", {}) or {}), get("crop_size", {})
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop)
    short, pair = size.get("shortest_edge"), (size.get("height"), size.get("width"))
    cropped = (crop.get("height"), crop.get("width")) if get("do_center_crop", False) else None
    resize: Any = (short or (pair if None not in pair else None)) if get("do_resize", True) else None
    if short and "crop_pct" in vars(type(processor)):
        small = short < CROP_WITH_MARGIN_BELOW
        resize, cropped = (int(short / get("crop_pct", 0.875)) if small else (short, short)), (short, short)
    final = cropped or (resize if isinstance(resize, tuple) else None)
    channels: Channels = "BGR" if get("do_flip_channel_order", False) else "RGB"
    if getattr(config, "num_channels", 3) == 1:
        channels = "L"
    rescaled, normalised = get("do_rescale", True), get("do_normalize", bool(get("image_mean")))
    names = {int(value): name for name, value in INTERPOLATIONS.items()}
    try:
        return Preprocess(
            size=final,  # type: ignore[arg-type]  # checked by Preprocess
            resize=resize,
            mean=tuple(get("image_mean", IMAGENET_MEAN)) if normalised else (0.0,),
            std=tuple(get("image_std", IMAGENET_STD)) if normalised else (1.0,),
            interpolation=names[int(get("resample", Image.Resampling.BILINEAR))],
            scale=float(get("rescale_factor", 1 / 255)) if rescaled else 1.0,
            channels=channels,
        )
    except (OptionError, TypeError, KeyError, ValueError):
        return None


def _agree(preprocess: Preprocess, processed: Processed) -> bool:
    """Compare on a smooth picture of unequal sides, whose three channels differ."""
    y, x = np.mgrid[0:480, 0:640] / 640
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
