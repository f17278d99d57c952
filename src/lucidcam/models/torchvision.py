"""Classifiers (of clips too), detectors and segmenters of torchvision (`torchvision:NAME`), with their transforms and categories."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from lucidcam.errors import LucidcamError, ModelError, OptionError, first_line, unknown
from lucidcam.imaging.preprocess import Clips, Preprocess, Probed, from_torchvision
from lucidcam.models._video import video_classifier
from lucidcam.registry import sources
from lucidcam.tasks import Detections, Segments
from lucidcam.types import Model, Task
from lucidcam.utils.class_scores import OutputKind
from lucidcam.utils.optional import impatient_downloads, import_timm, import_torchvision
from lucidcam.utils.rollback import SavedWarnings, closes_scopes

BACKBONED = ("detection", "segmentation")
"""Packages whose builders fetch weights of a backbone unless told otherwise."""

STRIDE = {"resnet": 8, "mobilenet": 16}
"""Pixels between the cells of segmenters' last layers, by backbone: their inputs are multiples of it."""


@sources.register("torchvision")
@closes_scopes
def load(name: str, *, pretrained: bool = True, weights: str = "DEFAULT", **options: Any) -> Model:
    """Load a model of torchvision.

    Detectors resize and pad by themselves. Here the photo is resized before, to sides that their own resizing leaves as they are and that
    need no padding, so that boxes and maps are those of the photo: `min_size` and `max_size` become multiples of 32 (1333 → 1344).

    Args:
        name: as in `torchvision.models.get_model`: "resnet50", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", … .
        pretrained: False: random weights.
        weights: which weights, "IMAGENET1K_V1" for instance; they also decide the preprocessing and the labels.
        options: of the model's builder: `num_classes` (random weights only), `box_score_thresh`, … .

    Raises:
        OptionError: torchvision has no such model, weights or option.
        ModelError: the weights cannot be downloaded.
    """
    models = import_torchvision(f"'torchvision:{name}'").models
    family = next((family for family in FAMILIES if name in _listed(models, family)), None)
    if family is None:
        raise OptionError(unknown("torchvision model", name, names()))
    kinds = models.get_model_weights(name)
    if weights not in kinds.__members__:
        raise OptionError(f"{name}: {unknown('weights', weights, kinds.__members__)}")
    chosen = kinds[weights]
    if family in BACKBONED and not pretrained:
        options.setdefault("weights_backbone", None)
    try:
        with impatient_downloads(), SavedWarnings():
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
    preprocess, layer, task = FAMILIES[family](name, module.eval(), chosen.transforms())
    outputs: OutputKind | None = "softmax" if labels is not None and task is None else None
    return Model(module, preprocess, labels, layer, f"torchvision:{name}", _synsets(models, labels), task, outputs)


def names() -> list[str]:
    """The models that there are."""
    models = import_torchvision().models
    return [name for family in FAMILIES for name in _listed(models, family)]


def _listed(models: Any, family: str) -> list[str]:
    found: list[str] = models.list_models(module=getattr(models, family) if family else models)
    return found


def _synsets(models: Any, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The synset ids of ImageNet's classes, which torchvision does not tell; timm does, where it is installed."""
    if labels != tuple(models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]):
        return None
    try:
        return tuple(import_timm().data.ImageNetInfo().label_names())
    except LucidcamError:
        return None


Parts = tuple[Preprocess | Probed | Clips, str | None, Task | None]


def _classifier(name: str, module: nn.Module, preset: Any) -> Parts:
    """From torchvision's `ImageClassification` preset; anything else is used as it is."""
    if type(preset).__name__ != "ImageClassification":
        return Probed(preset), None, None
    return from_torchvision(preset), None, None


def _detector(name: str, module: Any, preset: Any) -> Parts:
    """The layer is the last one that the features of every scale are computed from: others miss objects of other sizes."""
    inner = module.transform
    if inner.fixed_size is not None:
        width, height = inner.fixed_size
        preprocess = Preprocess(size=(height, width), resize=None, fit="squash", mean=(0.0,), std=(1.0,))
    else:
        step = inner.size_divisible
        short, long = (step * max(1, round(side / step)) for side in (inner.min_size[-1], inner.max_size))
        inner.min_size, inner.max_size = (short,), long
        preprocess = Preprocess(size=(short, short), resize=short, fit="whole", longest=long, multiple=step, mean=(0.0,), std=(1.0,))
    branches = ("backbone.body", "backbone.features.0" if name.startswith("ssdlite") else "backbone.features")
    known = {each for each, _ in module.named_modules()}
    return preprocess, next(f"{branch}.*" for branch in branches if branch in known), Detections()


def _segmenter(name: str, module: nn.Module, preset: Any) -> Parts:
    """The whole photo, its short side as the weights were evaluated, up to the layer's stride; the layer is the backbone's last."""
    (short,) = preset.resize_size
    step = next(step for backbone, step in STRIDE.items() if backbone in name)
    short = step * round(short / step)
    preprocess = Preprocess(
        size=(short, short),
        resize=short,
        fit="whole",
        multiple=step,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    return preprocess, "backbone.*", Segments()


FAMILIES: dict[str, Callable[[str, Any, Any], Parts]] = {
    "": _classifier,
    "detection": _detector,
    "segmentation": _segmenter,
    "video": video_classifier,
}
"""Torchvision's packages of models, the first of which has no name of its own."""
