"""Models by name, from a checkpoint, or the user's own.

One file per source; each registers `load(name, **options) -> Model`.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lucidcam import registry
from lucidcam.engine.foreign import not_a_module
from lucidcam.errors import LayerError, LucidcamError, ModelError, OptionError, nearest, unknown
from lucidcam.imaging.preprocess import Clips, Fit, Preprocess, Probed, from_timm, with_window
from lucidcam.io.images import Window
from lucidcam.models._card import Card
from lucidcam.models._formats import SUFFIXES, foreign_format
from lucidcam.types import Frame, Model, Task
from lucidcam.utils import optional
from lucidcam.utils.class_scores import OutputKind

CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".xml"}) | SUFFIXES
"""Suffixes by which a spec is taken for a file; what is in it decides whether it can be read."""


def load(
    spec: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    fit: Fit | None = None,
    window: Window | None = None,
    pretrained: bool = True,
    outputs: OutputKind | None = None,
    threshold: float | None = None,
    **options: Any,
) -> Model:
    """Load a model, in eval mode.

    Args:
        spec: "demo" (EfficientNet-Lite0, ImageNet; works offline), "timm:NAME", "torchvision:NAME", "hf:REPO" (or a
            folder), "gap:NAME" (a network of class activation mapping, to be trained), the folder that `lucidcam train` wrote, or the path
            of a checkpoint (`.safetensors`, `.pt`, `.pth`), which also needs `architecture=…`. With `pretrained=False` also
            "package.module:function": the network as that function returns it.
        device: where to; None: the CPU.
        dtype: "float32", "bfloat16", … or a torch type; None: the checkpoint's.
        fit: how photos come into the input: "crop", "squash" or "whole" (see `Preprocess`); None: as the model was
            evaluated.
        window: (width, level) of grey images such as 16-bit radiographs, in their files' values (`lucidcam.io.images.read`); None: as the
            model was trained, else by the images' bit depth.
        pretrained: False: random weights, nothing is downloaded.
        outputs: what the outputs mean, see `wrap`; None: what the source says of them, else found by value.
        threshold: see `wrap`; None: 0.5, or what a card says.
        options: the source's own: `num_classes`, `labels`, `architecture`, … .

    Raises:
        OptionError: an unknown spec, name or option, with the nearest ones.
        ModelError: the weights cannot be downloaded, read or fitted to the architecture; the device is not there.
        MissingExtraError: the source's library is not installed.
    """
    source, name = ("file", str(spec)) if not pretrained and is_function(spec) else _split(spec)
    loader = registry.sources[source]
    _check_options(source, loader, options)
    model: Model = loader(name, pretrained=pretrained, **options)
    model.module.eval()
    if fit is not None:
        if not isinstance(model.preprocess, (Preprocess, Clips)):
            raise OptionError(f"fit={fit!r} needs a preprocessing of known steps; {model.name} brings its own code or none.")
        model = replace(model, preprocess=model.preprocess.refit(fit))
    if outputs is not None:
        model = replace(model, outputs=outputs)
    if threshold is not None:
        model = replace(model, threshold=threshold)
    if window is not None:
        model = replace(model, preprocess=with_window(model.preprocess, window))
    return model.to(device, dtype)


def wrap(
    module: nn.Module,
    preprocess: Callable[[Any], Tensor] | None = None,
    labels: Iterable[str] | Mapping[int, str] | None = None,
    layer: str | nn.Module | None = None,
    name: str | None = None,
    task: Task | None = None,
    outputs: OutputKind | None = None,
    threshold: float = 0.5,
    frame: Callable[[tuple[int, int]], Frame] | Literal["whole"] | None = None,
    window: Window | None = None,
) -> Model:
    """Make a model of your own module. The module is neither copied nor changed.

    Args:
        module: any torch module from images to class scores.
        preprocess: a `Preprocess`, or any callable from PIL image to tensor `[C, h, w]` (torchvision's transforms, …); for a module
            that takes clips, `lucidcam.imaging.preprocess.Clips`.
            None: what a timm model says of itself; other models then take ready tensors only.
        labels: the classes in words, by id.
        layer: the default layer, as module or dotted name; None: the last spatial one.
        name: how to call it in reports; None: its class's name.
        task: what it can be asked where it is no plain classifier, see `lucidcam.tasks`.
        outputs: what the outputs mean: "softmax" (logits of classes that exclude each other), "sigmoid" (a logit for each class by itself),
            "probabilities" (the module ends in a softmax or sigmoid) or "none" (no class scores: a regression, values of actions). None: it
            is found whenever the module is run: rows that are not negative and add up to one, and values that come out of a
            sigmoid, are probabilities; one column is a sigmoid's logit; several are a softmax's. Logits of several classes that do not
            exclude each other cannot be told from a softmax's: say "sigmoid".
        threshold: of a module with one output column: the probability above which its class is predicted.
        frame: which part of photos of a size (width, height) `preprocess` shows: a function that returns a `lucidcam.types.Frame`, or
            "whole": all of each photo, upright. None: a `preprocess` with a method `frame` says it; of any other it is measured, also
            where it mirrors, turns, pads, or normalises each photo by itself.
        window: (width, level) of grey images such as 16-bit radiographs, in their files' values (see `lucidcam.io.images.read`).

    Raises:
        ModelError: `module` is not a torch module.
        LayerError: the module has no such layer.
        OptionError: `preprocess` cannot be called, `labels` are not texts, or `outputs` or `threshold` are none that there are.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(not_a_module(module))
    if preprocess is None:
        config = getattr(module, "pretrained_cfg", None)
        preprocess = from_timm(config) if isinstance(config, Mapping) and "input_size" in config else None
    elif not callable(preprocess):
        raise OptionError(f"expected preprocess as a callable from PIL image to tensor; got {type(preprocess).__name__}.")
    elif not any(callable(getattr(preprocess, each, None)) for each in ("frame", "numbers")):  # those know, or take clips
        preprocess = Probed(preprocess, frame)
    elif frame is not None:
        raise OptionError("frame=… is for a preprocessing of unknown steps; this one says itself which part of a photo it shows.")
    if window is not None:
        preprocess = with_window(preprocess, window)
    return Model(
        module,
        preprocess,
        _labels(labels),
        _layer(module, layer),
        name or type(module).__name__,
        task=task,
        outputs=outputs,
        threshold=threshold,
    )


def source_of(spec: str | os.PathLike[str]) -> str:
    """The registered source that a spec of `load` belongs to: "demo", "timm", "file", ….

    Raises:
        OptionError: an unknown spec.
    """
    return _split(spec)[0]


def is_function(spec: Any) -> bool:
    """Whether a spec is "package.module:function", of a module that can be imported."""
    if not isinstance(spec, str) or not re.fullmatch(r"[\w.]+:[A-Za-z_][\w.]*", spec):
        return False
    package = spec.partition(":")[0].partition(".")[0]
    if not package or package in registry.sources:
        return False
    return package in sys.modules or importlib.util.find_spec(package) is not None


def names(search: str = "") -> list[str]:
    """List the specs of timm's and torchvision's models that contain `search`, as far as they are installed.

    Args:
        search: "timm:resnet", "vgg", or a source alone ("timm"); capitals do not matter.
    """
    found = []
    source, colon, part = search.lower().partition(":")
    if source in ("timm", "torchvision"):
        colon = ":"
    search = search.lower()
    for name, listed in (("timm", _timm_names), ("torchvision", _torchvision_names)):
        if colon and name != source:
            continue
        try:
            found += [f"{name}:{each}" for each in listed() if (part if colon else search) in each.lower()]
        except LucidcamError:  # not installed
            continue
    return found


def _timm_names() -> list[str]:
    return list(optional.import_timm().list_models())


def _torchvision_names() -> list[str]:
    from lucidcam.models import torchvision

    return torchvision.names()


def _labels(labels: Iterable[str] | Mapping[int, str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str):
        raise OptionError("expected labels as a list of texts; got one text.")
    if isinstance(labels, Mapping):
        if not all(isinstance(id, int) and id >= 0 for id in labels):
            raise OptionError("expected labels as a list, or a mapping from class id (0 or more) to text.")
        labels = [labels.get(id, f"class {id}") for id in range(max(labels, default=-1) + 1)]
    found = tuple(labels)
    if not found or not all(isinstance(label, str) for label in found):
        raise OptionError("expected labels as a list of texts, one per class, in the order of the class ids.")
    return found


def _layer(module: nn.Module, layer: str | nn.Module | None) -> str | None:
    if layer is None:
        return None
    module = getattr(module, "_orig_mod", module)  # a compiled module's layers go by their own names
    names: dict[str, nn.Module] = {name: each for name, each in module.named_modules(remove_duplicate=False) if name}
    if isinstance(layer, nn.Module):
        for name, each in names.items():
            if each is layer:
                return name
        raise LayerError(f"the layer given ({type(layer).__name__}) is not part of the module.")
    if layer.partition("#")[0].removesuffix(".*") not in names:
        raise LayerError(unknown("layer", layer, names))
    return layer


def _check_options(source: str, loader: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    known = [
        "device",
        "dtype",
        "fit",
        "outputs",
        "threshold",
        *(name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY),
    ]
    for name in options:
        if name not in known:
            raise OptionError(f"{source}: {unknown('option', name, known)}")


def _split(spec: Any) -> tuple[str, str]:
    """From a spec to a source and what it calls the model."""
    if isinstance(spec, nn.Module):
        raise OptionError("lucidcam.load takes a name or a path; for a module of your own use lucidcam.wrap.")
    if not isinstance(spec, (str, os.PathLike)):
        raise OptionError(f"expected a model's name or path; got {type(spec).__name__}.")
    text = str(os.fspath(spec))
    if isinstance(spec, str):
        source, colon, name = text.partition(":")
        if source in registry.sources and (colon or source == "demo"):
            return source, name
    path = Path(text).expanduser()
    if path.suffix.lower() in CHECKPOINTS or path.is_file() or not isinstance(spec, str):
        return "file", text
    if path.is_dir():
        if Card.beside(path) is not None or foreign_format(path) is not None:
            return "file", text
        raise OptionError(
            f"{text!r} is a folder without the card of `lucidcam train`; for a transformers model write 'hf:{text}', else give the "
            "checkpoint file in it."
        )
    raise OptionError(_unknown_spec(text))


def _unknown_spec(text: str) -> str:
    source, colon, name = text.partition(":")
    specs = ["demo", "timm:NAME", "torchvision:NAME", "hf:REPO", "path/to/checkpoint"]
    if colon and name:
        return unknown("model source", source, registry.sources)
    found = [f"{source}:{text}" for source in ("timm", "torchvision") if _offers(source, text)]
    if found:
        return f"no model is called {text!r}; did you mean {' or '.join(map(repr, found))}?"
    if nearest(text, registry.sources):
        return unknown("model", text, registry.sources)
    return f"no model is called {text!r}; expected one of: {', '.join(specs)}."


def _offers(source: str, name: str) -> bool:
    """Whether a library that is installed has a model of this name."""
    try:
        if source == "timm":
            return bool(optional.import_timm().is_model(name))
        return name in _torchvision_names()
    except (LucidcamError, ImportError):
        return False
