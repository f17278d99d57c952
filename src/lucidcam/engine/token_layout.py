"""Layouts that no origin tells are settled by experiment: change the image here and there, and see which tokens change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import Layout, is_plain, layout_of
from lucidcam.engine.session import hooks, session
from lucidcam.engine.trace import Call, Layer, Trace, example, first_tensor, remembered, run_forward, signature, trace
from lucidcam.utils.rollback import closes_scopes

TILES = {1: 4, 2: 3}
"""Into how many tiles per axis an image is cut, by its number of axes, to see where each token looks; with more axes, into two."""
LIKENESS = 0.7
"""Correlation of where tokens look with where a layout puts them; tokens sorted by windows reach 0.5, those in order more than 0.9."""


def settled(module: nn.Module, inputs: Inputs) -> Trace:
    """The trace, with every call's layout known: where a sequence's origin is not, its candidates are tried by experiment."""
    found, cache = trace(module, inputs), remembered(module, inputs)
    if any(call.candidates for call in found.calls):
        found = cache["trace", signature(inputs)] = replace(found, calls=_tried(module, inputs, found.calls))
    return found


def layout_at(module: nn.Module, inputs: Inputs, layer: Layer, shape: tuple[int, ...]) -> Layout | None:
    """How the output of a layer holds a map, or None. The shape tells, or, where it leaves that open, what a traced pass showed."""
    if len(shape) > 3 and not inputs.others and is_plain(shape, inputs, layer.module):
        return layout_of(shape, inputs, layer.module)

    def found(seen: Trace) -> Call | None:
        calls = [c for c in seen.calls if c.name == layer.name]
        number = len(calls) - 1 if layer.call is None else layer.call
        call = calls[number] if number < len(calls) else None
        if call is None or call.shape is None:
            return None
        at = 0 if call.layout is None else call.layout.batch_axis
        return call if shape == tuple(n // seen.batch * inputs.batch if i == at else n for i, n in enumerate(call.shape)) else None

    call = found(trace(module, inputs))
    if call is not None and call.candidates:
        call = found(settled(module, inputs))
    return None if call is None else call.layout


@closes_scopes
def _tried(module: nn.Module, inputs: Inputs, calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Change the image tile by tile, and see which tokens change: a layout is right where they lie as their tiles do."""
    one = example(module, inputs)
    image, size = one.image, one.size
    count = TILES.get(len(size), 2)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(image)
    other = image.mean() + noise * (image.std() if float(image.std()) > 0 else 1)
    cuts = [[round(s * i / count) for i in range(count + 1)] for s in size]
    tiles = list(product(range(count), repeat=len(size)))
    wanted = {i for i, call in enumerate(calls) if call.candidates}
    names = {child: name for name, child in module.named_modules()}

    clean: dict[int, Tensor] = {}
    changes: dict[tuple[int, int], list[Tensor]] = {}

    def watched(given: Inputs, note: Callable[[int, Tensor], None]) -> None:
        ended = 0

        def keep(child: nn.Module, _: Any, output: Any) -> None:
            nonlocal ended
            found = first_tensor(output) if ended in wanted else None
            if found is not None and names[child] == calls[ended].name and tuple(found.shape) == calls[ended].shape:
                note(ended, found[0].detach())
            ended += 1

        with hooks([(child, keep) for child in names]):
            run_forward(module, given)

    def compare(i: int, found: Tensor) -> None:
        if i in clean:
            difference = found.double() - clean[i].double()
            for axis in {_channels(each) for each in calls[i].candidates}:
                changes.setdefault((i, axis), []).append(difference.norm(dim=axis).cpu())

    with session(module):
        watched(one, lambda i, found: clean.update({i: found.clone()}))
        for tile in tiles:
            place = (slice(None), slice(None), *(slice(at[i], at[i + 1]) for at, i in zip(cuts, tile, strict=True)))
            changed = image.clone()
            changed[place] = other[place]
            watched(one.with_image(changed), compare)
    middles = (torch.tensor(tiles, dtype=torch.float64) + 0.5) / count
    looks = {at: _places(torch.stack(change), middles) for at, change in changes.items() if len(change) == len(tiles)}

    def settle(i: int, call: Call) -> Call:
        right = (each for each in call.candidates if (i, _channels(each)) in looks and _agrees(looks[i, _channels(each)], each))
        return replace(call, layout=next(right, None), candidates=()) if call.candidates else call

    return tuple(settle(i, call) for i, call in enumerate(calls))


def _channels(layout: Layout) -> int:
    """The axis of one image's output that holds channels: its rows are tokens, or its columns steps."""
    return 0 if layout.kind == "channels_first" else -1


def _places(change: Tensor, middles: Tensor) -> Tensor:
    """Where each token looks, `[tokens, axes]`, from how much it changed with each tile, `[tiles, tokens]`."""
    own = change - change.amin(0)  # what every tile changes alike says nothing about the place
    return own.T @ middles / own.sum(0)[:, None]


def _agrees(looks: Tensor, layout: Layout) -> bool:
    looks = looks[layout.prefix : layout.prefix + prod(layout.grid)]
    axes = [torch.arange(g, dtype=torch.float64) for g in layout.grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    long = [i for i, g in enumerate(layout.grid) if g > 1]
    return all(float(torch.corrcoef(torch.stack([looks[:, i], places[:, i]]))[0, 1]) > LIKENESS for i in long)  # NaN is no likeness
