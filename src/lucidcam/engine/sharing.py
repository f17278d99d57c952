"""Which inputs have a row for each image, and which are common to all of them: found by running the module on images alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs, Key
from lucidcam.engine.session import session
from lucidcam.engine.trace import batch_of, remembered, run_forward, signature, tensors_of, with_axes
from lucidcam.errors import InputError, LucidcamError
from lucidcam.utils.rollback import closes_scopes

MOST_TRIED = 4
"""Inputs of which every combination is tried; of more, only all and none."""

LOOSE = 1e-4, 5e-2
"""Largest accepted difference of an image's outputs alone and among others, as a share of the largest: of float32 and of half precision."""


def settled_inputs(module: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs with what was not said of them: the image's axes, and which other inputs are common to all images.

    Raises:
        InputError: one of them cannot be told.
    """
    return with_axes(module, with_shared(module, inputs))


@closes_scopes
def with_shared(module: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs with those that are common to all images: those that were said, or else by trial.

    An input with as many rows as there are images may have one for each of them (a second view) or be common to all (texts to compare every
    image with). The first image and the last one are run alone, with their own rows and with all rows: they must give what they give among
    the others. What only one way explains is remembered per module and shapes.

    Raises:
        InputError: neither does.
    """
    if not inputs.others:
        return inputs
    common, rows = inputs.shared, inputs.companions
    if common is None and rows and batch_of(module, inputs) is None:
        cache, key = remembered(module, inputs), ("shared", signature(inputs), inputs.batch, rows)
        common = cache.get(key)
        if common is None:
            with session(module):
                common, sure = _tried(module, inputs)
            if sure:
                cache[key] = common
    return replace(inputs, shared=frozenset(inputs.others) - (frozenset(rows) - (common or frozenset())))


def _tried(module: nn.Module, inputs: Inputs) -> tuple[frozenset[Key], bool]:
    """The keys of the inputs that are common to all images, and whether nothing else would do."""
    keys = inputs.companions
    sizes: Iterable[int] = range(1, len(keys)) if len(keys) <= MOST_TRIED else ()
    complete = tensors_of(run_forward(module, inputs))
    none, every = (_agrees(module, inputs, frozenset(common), complete) for common in ((), keys))
    if none:
        return frozenset(), not every or inputs.batch == 1
    if every:
        return frozenset(keys), True
    for size in sizes:
        for common in combinations(keys, size):
            if _agrees(module, inputs, frozenset(common), complete):
                return frozenset(common), True
    names = ", ".join(repr(key) for key in keys)
    raise InputError(
        f"whether the inputs {names} have a row for each of the {inputs.batch} images or are common to all cannot be told: an image alone "
        "gives neither way what it gives among the others. Say shared=, the positions or names of those that are common (() for none)."
    )


def _agrees(module: nn.Module, inputs: Inputs, common: frozenset[Key], complete: list[Tensor]) -> bool:
    """Whether an image gives the same alone and among others when these inputs are common to all."""
    inputs = replace(inputs, shared=common)
    try:
        if inputs.batch > 1:
            return all(
                _holds(complete, tensors_of(run_forward(module, inputs.rows(slice(i, i + 1)))), i > 0) for i in (0, inputs.batch - 1)
            )
        image = inputs.image
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(image)
        two = torch.cat([image, image.mean() + image.std(correction=0).clamp(min=1e-3) * noise])
        pair = inputs.repeated(two, torch.zeros(2, dtype=torch.long, device=image.device))
        return _holds(tensors_of(run_forward(module, pair)), complete, last=False)
    except torch.OutOfMemoryError:
        raise
    except (LucidcamError, RuntimeError, ValueError, TypeError, IndexError, AssertionError, KeyError):
        return False


def _holds(many: list[Tensor], one: list[Tensor], last: bool) -> bool:
    """Whether outputs of one image are parts of the outputs of several: the first, or the last, along one of their axes, or of a list."""
    if one and len(many) > len(one) and len(many) % len(one) == 0:
        many = many[-len(one) :] if last else many[: len(one)]
    return len(many) == len(one) and all(_within(a, b, last) for a, b in zip(many, one, strict=True) if a.ndim)


def _within(many: Tensor, one: Tensor, last: bool) -> bool:
    if many.ndim != one.ndim:
        return False
    other = [i for i, (a, b) in enumerate(zip(many.shape, one.shape, strict=True)) if a != b]
    if len(other) > 1 or not one.numel() or any(one.shape[i] > many.shape[i] for i in other):
        return not one.numel() and not many.numel()
    for i in other:
        many = many.narrow(i, many.shape[i] - one.shape[i] if last else 0, one.shape[i])
    loose = LOOSE[one.dtype not in (torch.float32, torch.float64)]
    return bool((many - one).abs().max() <= loose * many.abs().max().clamp(min=1e-12))
