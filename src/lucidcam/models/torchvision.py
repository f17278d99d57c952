"""Every classification model of torchvision (`torchvision:NAME`), with the transforms and categories of its weights."""

from __future__ import annotations

import warnings
from typing import Any

from lucidcam.compat import first_line, impatient_downloads, import_timm, import_torchvision
from lucidcam.errors import LucidcamError, ModelError, OptionError, unknown
from lucidcam.preprocess import Preprocess, Probed
from lucidcam.registry import sources
from lucidcam.types import Model


@sources.register("torchvision")
def load(name: str, *, pretrained: bool = True, weights: str = "DEFAULT", **options: Any) -> Model:
    """Load a model of torchvision.

    Args:
        name: as in `torchvision.models.get_model`: "resnet50", "vgg16", … .
        pretrained: False: random weights.
        weights: which weights, "IMAGENET1K_V1" for instance; they also decide the preprocessing and the labels.
        options: of the model's builder: `num_classes` (random weights only), … .

    Raises:
        OptionError: torchvision has no such classification model, weights or option.
        ModelError: the weights cannot be downloaded.
    """
    models = import_torchvision(f"'torchvision:{name}'").models
    known = models.list_models(module=models)
    if name not in known:
        raise OptionError(unknown("torchvision model", name, known))
    kinds = models.get_model_weights(name)
    if weights not in kinds.__members__:
        raise OptionError(f"{name}: {unknown('weights', weights, kinds.__members__)}")
    chosen = kinds[weights]
    try:
        with impatient_downloads(), warnings.catch_warnings():
            # GoogLeNet and Inception announce a change of their random initialisation
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchvision\.")
            module = models.get_model(name, weights=chosen if pretrained else None, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"'torchvision:{name}': {first_line(error)}.") from error
    except Exception as error:
        if not pretrained:
            raise ModelError(f"torchvision cannot build {name!r}: {first_line(error)}") from error
        raise ModelError(
            f"the weights of 'torchvision:{name}' could not be downloaded ({first_line(error)}); check the network, "
            "use pretrained=False "
            f"for random weights, or load a file: lucidcam.load('weights.pth', architecture='torchvision:{name}')."
        ) from error
    categories = tuple(chosen.meta.get("categories", ()))
    count = options.get("num_classes", len(categories))
    labels = categories if categories and count == len(categories) else None
    return Model(module.eval(), _preprocess(chosen.transforms()), labels, None, f"torchvision:{name}", _synsets(models, labels))


def _synsets(models: Any, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The synset ids of ImageNet's classes, which torchvision does not tell; timm does, where it is installed."""
    if labels != tuple(models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]):
        return None
    try:
        return tuple(import_timm().data.ImageNetInfo().label_names())
    except LucidcamError:
        return None


def _preprocess(preset: Any) -> Preprocess | Probed:
    """From torchvision's `ImageClassification` preset; anything else is used as it is."""
    if type(preset).__name__ != "ImageClassification":
        return Probed(preset)
    crop, resize = preset.crop_size, preset.resize_size
    return Preprocess(
        size=(crop[0], crop[-1]),
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
