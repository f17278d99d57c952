"""Every model of timm (`timm:NAME`, `timm:NAME.TAG`), with the preprocessing and labels it was evaluated with."""

from __future__ import annotations

from typing import Any

from lucidcam.errors import ModelError, OptionError, first_line, unknown
from lucidcam.imaging.preprocess import Probed, from_timm
from lucidcam.registry import sources
from lucidcam.types import Model
from lucidcam.utils.optional import impatient_downloads, import_timm
from lucidcam.utils.rollback import closes_scopes


@sources.register("timm")
@closes_scopes
def load(name: str, *, pretrained: bool = True, **options: Any) -> Model:
    """Load a model of timm.

    Args:
        name: as in `timm.create_model`: "resnet50", "vit_base_patch16_224.augreg_in21k", "hf-hub:REPO", … .
        pretrained: False: random weights.
        options: of `timm.create_model`: `num_classes`, `img_size`, … .

    Raises:
        OptionError: timm has no model of this name, or it takes no such option.
        ModelError: the weights cannot be downloaded, or there are none.
    """
    timm = import_timm(f"'timm:{name}'")
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        _check_name(timm, name)
    try:
        with impatient_downloads():
            module = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise OptionError(f"'timm:{name}': {first_line(error)}.") from error
    except Exception as error:
        if "No pretrained weights" in str(error):
            raise ModelError(f"timm has no weights for {name!r}; give a tag ({name}.TAG), or pretrained=False for random ones.") from error
        if not pretrained:
            raise ModelError(f"timm cannot build {name!r}: {first_line(error)}") from error
        raise ModelError(
            f"the weights of 'timm:{name}' could not be downloaded ({first_line(error)}); check the network, use "
            "pretrained=False for "
            f"random weights, or load a file: lucidcam.load('weights.safetensors', architecture='timm:{name}')."
        ) from error
    config = timm.data.resolve_model_data_config(module)
    preprocess = from_timm(config) or Probed(timm.data.create_transform(**config, is_training=False))
    labels, synsets = _labels(timm, module)
    return Model(module.eval(), preprocess, labels, None, f"timm:{name}", synsets, outputs=None if labels is None else "softmax")


def _check_name(timm: Any, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise OptionError(unknown("timm model", name, timm.list_models()))
    known = (
        timm.list_pretrained(architecture) if hasattr(timm, "list_pretrained") else timm.list_models(f"{architecture}.*", pretrained=True)
    )
    if tag and name not in known:
        raise OptionError(unknown("timm model", name, known or [architecture]))


def _labels(timm: Any, module: Any) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The labels of the set the model was trained on, unless its head was changed; and their synset ids, where it is ImageNet."""
    config = getattr(module, "pretrained_cfg", {})
    count = getattr(module, "num_classes", None)
    if not count or count != config.get("num_classes"):
        return None, None
    names = config.get("label_names")
    if names:
        words = config.get("label_descriptions") or {}
        return tuple(words.get(each, each) if isinstance(words, dict) else each for each in names), None
    subset = timm.data.infer_imagenet_subset(module)
    if subset is None:
        return None, None
    info = timm.data.ImageNetInfo(subset)
    labels = tuple(info.label_descriptions())
    return (labels, tuple(info.label_names())) if len(labels) == count else (None, None)
