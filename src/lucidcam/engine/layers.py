"""Finds layers: by name, by module, or the one to look at by default. Nothing is looked up in a table of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.capture import cut
from lucidcam.engine.foreign import GRADIENT_FREE, gradient, hidden_part, out_of_memory
from lucidcam.engine.head import HeadWatch
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import plain, session
from lucidcam.engine.settle import settled
from lucidcam.engine.trace import Call, Layer, Trace, example, remembered, signature, tensors_of, trace
from lucidcam.errors import LayerError, LucidcamError, unknown
from lucidcam.targets import logits

LayerSpec = str | nn.Module


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a layer.

    Attributes:
        type: class name of the module.
        shape: of its output for one image, when the model was run.
        grid: spatial size of its map, or None where it holds none.
        default: whether maps are made at this layer unless told otherwise.
        passive: whether it only hands its input on (dropout, identity).
    """

    type: str
    shape: tuple[int, ...] | None = None
    grid: tuple[int, ...] | None = None
    default: bool = False
    passive: bool = False


def find(module: nn.Module, layer: LayerSpec) -> Layer:
    """Resolve a dotted name (with an optional call number, "relu#0"), or a submodule, of `module`.

    Raises:
        LayerError: with the nearest names when there is no such layer.
    """
    module = plain(module)
    names = dict(module.named_modules())
    if isinstance(layer, nn.Module):
        layer = plain(layer)
        for name, child in names.items():
            if child is layer:
                return Layer(name, child)
        raise LayerError(f"the layer {type(layer).__name__} is not part of this {type(module).__name__}; give one of its submodules.")
    if not isinstance(layer, str):
        raise LayerError(f"expected a layer's dotted name or module; got {type(layer).__name__}.")
    name, _, number = layer.partition("#")
    if name not in names or not name:
        raise LayerError(unknown("layer", name, [n for n in names if n]))
    if number and not number.isdigit():
        raise LayerError(f"expected a call number after '#' in {layer!r}, for example '{name}#0'.")
    return Layer(name, names[name], int(number) if number else None)


def check(module: nn.Module, layer: LayerSpec) -> None:
    """Refuse a layer that there is not, before anything is run.

    Raises:
        LayerError: with the nearest names.
    """
    branch = _branch(layer)
    if branch != "":
        find(module, branch or layer)


def resolve(module: nn.Module, layer: LayerSpec, inputs: Inputs, everywhere: bool = False) -> Layer:
    """Resolve what `find` does, and "vision_model.*": the default layer within that branch (".*": of all); `everywhere` as for `default`.

    Raises:
        LayerError: there is no such layer or branch, or the branch holds no spatial map.
    """
    branch = _branch(layer)
    return find(module, layer) if branch is None else default(module, inputs, branch and find(module, branch).name, everywhere)


def _branch(layer: LayerSpec) -> str | None:
    return layer.removesuffix(".*") if isinstance(layer, str) and layer.endswith(".*") else None


def default(module: nn.Module, inputs: Inputs, branch: str = "", everywhere: bool = False) -> Layer:
    """Return the layer to look at by default, of the whole network or of one of its branches.

    With `everywhere` the network gives class scores for each place or query, and the layer lies before those: else the map would be the
    answer itself.

    Convolutional networks: the last spatial output before pooling, flattening or a convolution that makes class scores.
    Transformers (attention comes after the last convolution): the last normalisation inside the last block whose patch tokens
    still reach the score; where blocks add what they normalise (Swin v2) or normalise no map, the last map that reaches it.

    Raises:
        LayerError: when no layer holds a spatial map.
    """
    module = plain(module)
    cache, key = remembered(module, inputs), ("default", branch, everywhere, signature(inputs))
    if key not in cache:
        cache[key] = _default(module, inputs, branch, everywhere)
    found: str = cache[key]
    return find(module, found)


def suggestion(module: nn.Module, inputs: Inputs) -> str:
    """A hint that names the default layer, for error messages."""
    try:
        return f" Try {default(module, inputs).name!r}."
    except LucidcamError:
        return ""


def _default(module: nn.Module, inputs: Inputs, branch: str, everywhere: bool) -> str:
    seen = _within(trace(module, inputs), branch)
    spatial = _spatial(seen, everywhere)
    if any(call.candidates for call in _calls(seen, everywhere)[spatial[-1] + 1 if spatial else 0 :]):
        seen = _within(settled(module, inputs), branch)
        spatial = _spatial(seen, everywhere)
    calls = seen.calls
    if not spatial:
        raise LayerError(_no_layer(module, inputs, branch, everywhere))
    if max(seen.attentions, default=-1) > seen.last_conv:
        norms = [i for i in spatial if calls[i].norm]
        after = [i for i in norms if i >= seen.last_spatial_linear]
        inside = [i for i in norms if i < seen.last_spatial_linear] + after[:-1]
        inside = [i for i in inside if sum(at > i for at in seen.attentions) < 2]  # of the last block
        if not inside or calls[inside[-1]].branch:
            inside = [i for i in norms if not calls[i].branch]
        reached = _reached(module, inputs, [_name(calls, i) for i in inside[-6:]])
        if reached:
            return reached[-1]
    return _name(calls, spatial[-1])


def _no_layer(module: nn.Module, inputs: Inputs, branch: str, everywhere: bool) -> str:
    """Why no layer holds a map, and what to do."""
    where = f"the branch {branch!r}" if branch else f"this {type(module).__name__}"
    hidden = hidden_part(module)
    if hidden is not None:
        name, part, kind = hidden
        which = f"; its part {name!r} ({type(part).__name__}) is {kind}" if name else f": it is {kind}"
        eager = "torch.export.unflatten(program)" if "export" in kind else "the eager network"
        return (
            f"no layer of {where} that holds a spatial map can be seen{which}, whose layers run out of Python's sight. Explain {eager}; "
            f"or use gradient, if it can be differentiated, or {GRADIENT_FREE}."
        )
    size = _larger(module, inputs, branch, everywhere)
    hint = "" if size is None else f" (inputs of size {list(size)} would give one)"
    return (
        f"no layer of {where} holds a spatial map for inputs of size {list(inputs.size)}{hint}; class activation maps need convolutional "
        f"or token features. Without any use gradient, or {GRADIENT_FREE}."
    )


LARGER = (2, 4, 8)
"""By how much inputs are enlarged to see whether a network holds a map for those."""


def _larger(module: nn.Module, inputs: Inputs, branch: str, everywhere: bool) -> tuple[int, ...] | None:
    """A size of inputs for which a layer holds a map, tried on enlarged ones; None: there is none."""
    one = inputs.rows(slice(0, 1))
    for factor in LARGER:
        image = one.image
        for axis in range(2, image.ndim):
            image = image.repeat_interleave(factor, axis)
        try:
            if _spatial(_within(trace(module, one.with_image(image)), branch), everywhere):
                return tuple(image.shape[2:])
        except Exception as error:  # most networks refuse other sizes, each in its own way
            if out_of_memory(error):
                return None
    return None


def _name(calls: tuple[Call, ...], i: int) -> str:
    """A call's name, with its number where the module is called again afterwards."""
    same = [j for j, call in enumerate(calls) if call.name == calls[i].name]
    return calls[i].name if i == same[-1] else f"{calls[i].name}#{same.index(i)}"


def _within(seen: Trace, branch: str) -> Trace:
    return seen.branch(branch) if branch else seen


def _calls(seen: Trace, everywhere: bool) -> tuple[Call, ...]:
    """All calls before the operation on a map that makes class scores."""
    head = seen.head(everywhere)
    return seen.calls[:head] if head else seen.calls


def _spatial(seen: Trace, everywhere: bool) -> list[int]:
    """Positions of the calls that hold a map and do more than hand it on."""
    return [i for i, c in enumerate(_calls(seen, everywhere)) if c.layout is not None and not c.pooled and not c.passive and c.name]


def _reached(module: nn.Module, inputs: Inputs, names: list[str]) -> list[str]:
    """Those of `names` whose patch tokens still count: after its last attention, a ViT's class token sees no other token.

    Asked of a random projection of the outputs and of what enters the head, so that a head of zeros or a final normalisation (whose sum is
    constant) hides nothing.
    """
    if not names:
        return []
    layers = [find(module, name) for name in names]
    try:
        with session(module), HeadWatch() as watch:
            done = cut(module, example(module, inputs), layers, gradients=True, copies=True)
        ends = [t for t in [*_scores(done.outputs), *watch.features()] if t.requires_grad]
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(False), torch.enable_grad():
            projections = [(t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in ends]
            grads = gradient(sum(projections[1:], projections[0]), [c.tensor for c in done.cuts], allow_unused=True) if ends else ()
    except Exception as error:  # the network ran before, without gradients: something in it refuses them
        if out_of_memory(error):
            raise
        ends = []
    if not ends:
        return _reached_by_value(module, inputs, layers)
    return [
        name
        for name, kept, grad in zip(names, done.cuts, grads, strict=True)
        if grad is not None and bool(kept.layout.to_maps(grad).abs().sum() > 0)
    ]


def _reached_by_value(module: nn.Module, inputs: Inputs, layers: list[Layer]) -> list[str]:
    """The same where no gradient flows: those whose outputs, changed at the patches, change what the network returns."""
    one = example(module, inputs)
    with session(module):
        done = cut(module, one, layers, gradients=False)
        expected = tensors_of(done.outputs)
        reached = []
        for layer, kept in zip(layers, done.cuts, strict=True):
            noise = torch.randn(kept.maps.shape, generator=torch.Generator().manual_seed(0)).to(kept.maps)
            changed = kept.layout.from_maps(kept.maps + kept.maps.std() * noise, kept.tensor)
            outputs = tensors_of(cut(module, one, [layer], gradients=False, known=[changed]).outputs)
            if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)):
                reached.append(layer.name if layer.call is None else f"{layer.name}#{layer.call}")
    return reached


def _scores(outputs: Any) -> list[Tensor]:
    """What scores are read from: class scores, or else one vector per image where there are any (embeddings), or else everything."""
    try:
        return [logits(outputs)]
    except LucidcamError:
        found = tensors_of(outputs)
        return [t for t in found if t.ndim == 2 and t.requires_grad] or found


def describe(module: nn.Module, inputs: Any = None) -> dict[str, LayerInfo]:
    """List a network's layers.

    Args:
        module: any torch module.
        inputs: what it takes (`[B, C, H, W]`, …); when given, the model is run once on the first image, the layers come in
            execution order, and their output shapes and the default layer are known.

    Returns:
        For each dotted name its class, output shape, spatial grid and whether it is the default.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> list(describe(net))
        ['0', '1', '2']
        >>> describe(net, torch.rand(1, 3, 8, 8))["1"]
        LayerInfo(type='ReLU', shape=(1, 8, 6, 6), grid=(6, 6), default=True, passive=False)
    """
    module = plain(module)
    if inputs is None:
        return {name: LayerInfo(type(child).__name__) for name, child in module.named_modules() if name}
    given = Inputs.of(inputs)
    calls = settled(module, given).calls
    try:
        best = default(module, given).name
    except LayerError:
        best = ""
    return {c.name: LayerInfo(c.type, c.shape, c.layout.grid if c.layout else None, c.name == best, c.passive) for c in calls if c.name}
