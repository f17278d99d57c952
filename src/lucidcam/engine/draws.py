"""Networks that draw random numbers in evaluation mode draw the same in every pass, and leave the global generators as they were."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lucidcam.utils.locks import leaf_lock
from lucidcam.utils.rollback import Scope

SEED = 0
"""Of every pass of such a network."""

_guard = leaf_lock()
_drawing: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def draws_numbers(module: nn.Module) -> bool:
    """Whether a network was seen to draw from torch's global generators."""
    with _guard:
        return _drawing.get(module, False)


@contextmanager
def repeated_draws(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a network, within, from a fixed state of torch's global generators; one that is known to draw nothing simply runs.

    Args:
        module: the network.
        device: where its images are.
    """
    with _guard:
        known = _drawing.get(module)
    if known is False:
        yield
        return
    generators = [torch.default_generator, *_of_device(device)]
    before = [generator.get_state() for generator in generators]
    with Scope() as scope:
        for state, generator in zip(before, generators, strict=True):
            scope.undo(generator.set_state, state)
        fixed = [generator.manual_seed(SEED).get_state() for generator in generators]
        is_complete = False
        try:
            yield
            is_complete = True
        finally:
            drew = any(_bytes(a) != _bytes(generator.get_state()) for a, generator in zip(fixed, generators, strict=True))
            if is_complete or drew:  # a pass that was interrupted may have been about to draw
                with _guard:
                    _drawing[module] = bool(known) or drew


def _of_device(device: torch.device) -> list[torch.Generator]:
    if device.type != "cuda":
        return []
    return [torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]]


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()
