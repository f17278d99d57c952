"""Finds layers: by name, by module, or the one to look at by default. Nothing is looked up in a table of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.capture import cut
from lucidcam.engine.foreign import GRADIENT_FREE, gradient, hidden_part, out_of_memory, says_nothing
from lucidcam.engine.head import HeadWatch
from lucidcam.engine.inputs import Inputs, Key
from lucidcam.engine.session import plain, session
from lucidcam.engine.sharing import settled_inputs
from lucidcam.engine.thread_state import no_inference
from lucidcam.engine.token_layout import settled
from lucidcam.engine.trace import Call, Layer, Trace, example, remembered, signature, tensors_of, trace, with_axes
from lucidcam.errors import LayerError, LucidcamError, unknown
from lucidcam.reprs import OneLineRepr
from lucidcam.targets import logits
from lucidcam.utils.rollback import closes_scopes, raised_by_handler

LayerSpec = str | nn.Module

MOST = 0.5
"""Share of a map's places that must reach the score for a layer to be the default one."""
MOST_TRIED = 32
"""Layers, the last ones, of which it is tried whether the score sees them."""


@dataclass(frozen=True)
class LayerInfo(OneLineRepr):
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

    A layer that runs several times is meant at its last call that depends on the explained image: others may see another input, or an image
    that is part of the network.

    Raises:
        LayerError: there is no such layer or branch, or it holds no spatial map of the explained image.
    """
    branch = _branch(layer)
    if branch is None:
        return _of_image(module, find(module, layer), inputs)
    return default(module, inputs, branch and find(module, branch).name, everywhere)


def _of_image(module: nn.Module, layer: Layer, inputs: Inputs) -> Layer:
    """The layer at a call that depends on the explained image.

    Raises:
        LayerError: there is none, or it is not the one that was named; with those that do.
    """
    try:
        calls = trace(module, inputs).calls
    except Exception as error:  # which shows in the pass that is asked for
        if says_nothing(error) or inputs.others:
            raise
        return layer
    own = [call for call in calls if call.name == layer.name]
    right = [i for i, call in enumerate(own) if call.depends]
    if layer.call in right or not own or (layer.call is not None and layer.call >= len(own)):
        return layer
    if layer.call is None and right:
        return layer if right[-1] == len(own) - 1 else replace(layer, call=right[-1])
    if right:
        those = f"its calls that do: {', '.join(f'{layer.name}#{i}' for i in right)}"
    else:
        names = list(
            dict.fromkeys(_name(calls, i) for i, call in enumerate(calls) if call.depends and call.layout is not None and call.name)
        )
        those = f"layers that do: {', '.join(names[-8:]) or 'none'}"
    at = layer.name if layer.call is None else f"{layer.name}#{layer.call}"
    another = "; or explain another: explain_input=" if inputs.others else ""
    raise LayerError(f"the layer {at!r} does not depend on the explained input {inputs.key!r}; {those}{another}.")


def _branch(layer: LayerSpec) -> str | None:
    return layer.removesuffix(".*") if isinstance(layer, str) and layer.endswith(".*") else None


def default(module: nn.Module, inputs: Inputs, branch: str = "", everywhere: bool = False) -> Layer:
    """Return the layer to look at by default, of the whole network or of one of its branches.

    With `everywhere` the network gives class scores for each place or query, and the layer lies before those: else the map would be the
    answer itself.

    Convolutional networks: the last spatial output before pooling, flattening or a convolution that makes class scores.
    Transformers (attention comes after the last convolution): the last normalisation inside the last block whose patch tokens
    still reach the score; where blocks add what they normalise (Swin v2) or normalise no map, the last map that reaches it.
    Networks that read a sequence at one of its steps: the last map most of whose places reach the score. Of several images: a map of the
    explained one.

    Raises:
        LayerError: when no layer holds a spatial map.
    """
    module = plain(module)
    inputs = with_axes(module, inputs)
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
        reached = [name for name, share in _reached(module, inputs, [_name(calls, i) for i in inside[-6:]]).items() if share >= MOST]
        if reached:
            return reached[-1]
    if seen.leaves_out(spatial[-1]):
        last = {_name(calls, i): calls[i].layout for i in spatial[-MOST_TRIED:]}
        shares = _reached(module, inputs, list(last))
        name = next((name for name in reversed(shares) if shares[name] >= min(MOST, max(shares.values()))), None)
        if name is not None and shares[name] > 0:
            layout = last[name]
            if shares[name] < MOST and (seen.is_recurrent or (layout is not None and not layout.complete)):
                raise LayerError(
                    f"no layer of this {type(module).__name__} holds a map most of whose places reach the score (the last one, {name!r}, "
                    f"is read at {shares[name]:.0%} of its steps): name a layer, or use occlusion, rise or gradient."
                )
            return name
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
    of = f" of the explained input {inputs.key!r}" if inputs.others else ""
    hint = "" if size is None else f" (inputs of size {list(size)} would give one)"
    return (
        f"no layer of {where} holds a spatial map{of} for inputs of size {list(inputs.size)}{hint}; class activation maps need "
        f"convolutional or token features. Without any use gradient, or {GRADIENT_FREE}."
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
            if raised_by_handler(error):
                raise
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
    """Positions of the calls that hold a map and do more than hand it on; a map with all the image's axes, where there is one."""
    calls = _calls(seen, everywhere)
    maps = [i for i, c in enumerate(calls) if c.layout is not None and not c.pooled and not c.passive and c.name]
    return [i for i in maps if (layout := calls[i].layout) is not None and layout.complete] or maps


@closes_scopes
def _reached(module: nn.Module, inputs: Inputs, names: list[str]) -> dict[str, float]:
    """For each layer, which share of its places still counts: after its last attention, a ViT's class token sees no other token.

    Asked of a random projection of the outputs and of what enters the head, so that a head of zeros or a final normalisation (whose sum is
    constant) hides nothing. Empty where no gradient flows.
    """
    if not names:
        return {}
    layers = [find(module, name) for name in names]
    try:
        with session(module), HeadWatch() as watch:
            done = cut(module, example(module, inputs), layers, gradients=True, copies=True)
        ends = [t for t in [*_scores(done.outputs), *watch.features()] if t.requires_grad]
        generator = torch.Generator().manual_seed(0)
        with no_inference(), torch.enable_grad():
            projections = [(t * torch.randn(t.shape, generator=generator, dtype=torch.float32, device="cpu").to(t)).sum() for t in ends]
            grads = gradient(sum(projections[1:], projections[0]), [c.tensor for c in done.cuts], allow_unused=True) if ends else ()
    except Exception as error:  # the network ran before, without gradients: something in it refuses them
        if says_nothing(error):
            raise
        ends = []
    if not ends:
        return _reached_by_value(module, inputs, layers)
    return {
        name: 0.0 if grad is None else float((kept.layout.to_maps(grad) != 0).any(1).double().mean())
        for name, kept, grad in zip(names, done.cuts, grads, strict=True)
    }


@closes_scopes
def _reached_by_value(module: nn.Module, inputs: Inputs, layers: list[Layer]) -> dict[str, float]:
    """The same where no gradient flows: 1 for those whose outputs, changed at the places, change what the network returns, else 0."""
    one = example(module, inputs)
    with session(module):
        done = cut(module, one, layers, gradients=False)
        expected = tensors_of(done.outputs)
        reached: dict[str, float] = {}
        for layer, kept in zip(layers, done.cuts, strict=True):
            noise = torch.randn(kept.maps.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
            noise = noise.to(kept.maps)
            changed = kept.layout.from_maps(kept.maps + kept.maps.std() * noise, kept.tensor)
            outputs = tensors_of(cut(module, one, [layer], gradients=False, known=[changed]).outputs)
            changes = any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
            reached[layer.name if layer.call is None else f"{layer.name}#{layer.call}"] = float(changes)
    return reached


def _scores(outputs: Any) -> list[Tensor]:
    """What scores are read from: class scores, or else one vector per image where there are any (embeddings), or else everything."""
    try:
        return [logits(outputs)]
    except LucidcamError:
        found = tensors_of(outputs)
        return [t for t in found if t.ndim == 2 and t.requires_grad] or found


@closes_scopes
def describe(
    module: nn.Module,
    inputs: Any = None,
    *,
    explain_input: Key | None = None,
    axes: str | None = None,
    shared: Key | Sequence[Key] | None = None,
) -> dict[str, LayerInfo]:
    """List a network's layers.

    Args:
        module: any torch module.
        inputs: what it takes (`[B, C, H, W]`, …); when given, the model is run once on the first image, the layers come in
            execution order, and their output shapes and the default layer are known.
        explain_input: which of several images is explained, as for `attribute`; layers that do not depend on it hold no map of it.
        axes: what the image's axes are, as for `attribute`.
        shared: inputs that are common to all images, as for `attribute`.

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
    with session(module):
        given = settled_inputs(module, Inputs.of(inputs, explain_input, axes, shared))
    calls = settled(module, given).calls
    try:
        best = default(module, given).name
    except LayerError:
        best = ""
    infos: dict[str, LayerInfo] = {}
    for c in calls:
        if c.name and (c.depends or c.name not in infos):
            infos[c.name] = LayerInfo(c.type, c.shape, c.layout.grid if c.layout else None, c.name == best, c.passive)
    return infos
