"""Networks of class activation mapping on any backbone (`gap:NAME`): the CAM paper's, a small one, or any model of `lucidcam.load`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lucidcam.errors import OptionError, unknown
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.nn import NIN, Small, to_gap
from lucidcam.nn.gap import Pooling
from lucidcam.registry import sources
from lucidcam.types import Model


@dataclass(frozen=True)
class Cut:
    """Where a backbone is cut, and what is put on top.

    Attributes:
        spec: the backbone, as for `lucidcam.load`.
        at: the layer.
        channels: of the new convolution; None: none.
        options: of the backbone's builder.
    """

    spec: str
    at: str | None
    channels: int | None
    options: tuple[tuple[str, Any], ...] = ()


SCALED = (("transform_input", True),)
"""torchvision's Inception networks rescale their input where they have its weights; so does a network that is built to take them."""

PAPER = {
    "alexnet": Cut("torchvision:alexnet", "features.11", 1024),
    "vgg16": Cut("torchvision:vgg16", "features.29", 1024),
    "googlenet": Cut("torchvision:googlenet", "inception4e", 1024, (("init_weights", False), *SCALED)),
}
"""The CAM paper's networks (Zhou et al. 2016, section 3): 13 × 13 maps of AlexNet, 14 × 14 of the others, for 224 × 224 pixels."""

OWN: dict[str, Callable[[int], nn.Module]] = {"nin": lambda size: NIN(), "small": Small}
"""Backbones of `lucidcam.nn`, by the input's size; their maps are pooled as they are."""

SIZES = {"nin": 224, "small": 64}


@sources.register("gap")
def load(
    name: str,
    *,
    pretrained: bool = True,
    num_classes: int | None = None,
    labels: tuple[str, ...] | list[str] | None = None,
    at: str | None = None,
    channels: int | str | None = "default",
    pooling: Pooling = "gap",
    size: int | None = None,
    **options: Any,
) -> Model:
    """Make a network of class activation mapping.

    Args:
        name: "alexnet", "vgg16", "googlenet" (cut as in the paper, with its 3×3 convolution), "nin", "small", or any model:
            "timm:resnet18", "torchvision:efficientnet_b0" (pooled where they are pooled already).
        pretrained: the backbone's weights, where it has any; what is put on top is random, and has to be trained.
        num_classes: how many; None: as many as labels, else 1000.
        labels: the classes in words.
        at: another layer to cut at.
        channels: of the 3×3 convolution that is put on top; None: no convolution.
        pooling: "gap", "gmp" or "lse".
        size: pixels per side of the input; None: the backbone's own.
        options: of the backbone.

    Raises:
        OptionError: there is no such backbone or option.
        ModelError: the backbone's weights cannot be had.
    """
    base, cut = _backbone(name, pretrained, size, options)
    if isinstance(channels, str):
        if channels != "default":
            raise OptionError(f"expected channels as a number, or None; got {channels!r}.")
        channels = cut.channels
    return replace(on_top(base, at or cut.at, channels, pooling, num_classes, labels), name=f"gap:{name}")


def on_top(
    backbone: Model, at: str | None, channels: int | None, pooling: Pooling, num_classes: int | None, labels: Iterable[str] | None
) -> Model:
    """Make a network of class activation mapping of a model; see `load`."""
    steps = backbone.preprocess
    side = steps.size if isinstance(steps, Preprocess) else (224, 224)
    depth = 1 if isinstance(steps, Preprocess) and steps.channels == "L" else 3
    words = None if labels is None else tuple(labels)
    count = num_classes or (1000 if words is None else len(words))
    if words is not None and len(words) != count:
        raise OptionError(f"expected a label for each of the {count} classes; got {len(words)}.")
    example = torch.zeros(1, depth, *side, device=backbone.device, dtype=backbone.dtype)
    network = to_gap(backbone.module, at, channels, pooling, count, example).to(backbone.device, backbone.dtype)
    return Model(network.eval(), steps, words, network.layer, f"gap:{backbone.name}")


def _backbone(name: str, pretrained: bool, size: int | None, options: dict[str, Any]) -> tuple[Model, Cut]:
    """The backbone with its preprocessing, and where to cut it."""
    if name in OWN:
        if options:
            raise OptionError(f"gap:{name}: {unknown('option', next(iter(options)), ('at', 'channels', 'pooling', 'size', 'num_classes'))}")
        side = size or SIZES[name]
        plain = Preprocess(size=(side, side), resize=None, mean=(0.5,) * 3, std=(0.25,) * 3, fit="squash")
        return Model(OWN[name](side), plain, name=name), Cut(name, None, None)
    usual = SCALED if name in ("torchvision:googlenet", "torchvision:inception_v3") else ()
    cut = PAPER.get(name, Cut(name, None, None, usual))
    source, _, rest = cut.spec.partition(":")
    if source not in sources or source in ("gap", "file"):
        raise OptionError(unknown("backbone", name, [*OWN, *PAPER, "demo", "timm:NAME", "torchvision:NAME"]))
    model: Model = sources[source](rest, pretrained=pretrained, **{**dict(cut.options), **options})
    if size is not None and isinstance(model.preprocess, Preprocess):
        steps = model.preprocess
        resize = round(size * (steps.resize / min(steps.size))) if isinstance(steps.resize, int) else size
        model = Model(model.module, Preprocess(**{**steps.__dict__, "size": (size, size), "resize": resize}), name=model.name)
    return model, cut
