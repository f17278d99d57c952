"""Activations that are known already: the part of the network below the layer need not run for them again.

Whoever runs several methods over the same images hands in a memory; the engine asks it by what goes into the network. One image of a
batch still runs below the layer, as for substituted activations (`masked.Substitute`): its hook hands the known ones on. The first time
that a memory knows something it is computed all the same, and compared: no description of a network tells all that decides what it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor, nn

from lucidcam.engine.capture import Done, cut
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.masked import alike
from lucidcam.engine.trace import Layer, remembered, signature, tensors_of
from lucidcam.utils.rollback import Scope, raised_by_handler


class Memory(Protocol):
    """Keeps the outputs of layers.

    Attributes:
        compared: whether something that it knew was computed anew, and was the same.
    """

    compared: bool

    def compare(self, same: bool) -> None:
        """Be told whether what it knew is what is computed now; where not, it must not be used."""

    def get(self, key: str) -> list[Tensor] | None:
        """What was kept under a key, on the CPU; None: nothing."""

    def put(self, key: str, tensors: Sequence[Tensor]) -> None:
        """Keep tensors."""


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def recalling(memory: Memory | None) -> Iterator[None]:
    """Let runs that are opened within, in this thread, ask a memory first, and tell it what they find."""
    with Scope() as scope:
        scope.undo_here(_memory.set, _memory.get())
        _memory.set(memory)
        yield


def memory() -> Memory | None:
    """The memory of the runs that are opened here; None: there is none."""
    return _memory.get()


def recalled(memory: Memory, module: nn.Module, inputs: Inputs, layers: Sequence[Layer], gradients: bool) -> Done:
    """A pass cut at the layers, as `cut` makes it; what a memory knows does not run again.

    Where the rest of the network cannot run on activations alone (a layer in one of several branches), that is found out once, and the
    memory is not asked.
    """
    places = tuple(f"{layer.name}#{layer.call}" for layer in layers)
    usable: dict[tuple[str, ...], bool] = remembered(module, inputs).setdefault(("recall", signature(inputs)), {})
    if inputs.batch < 2 or not usable.get(places, True):
        return cut(module, inputs, layers, gradients)
    key = _key(inputs, places)
    found = memory.get(key)
    if found is not None and usable.get(places) and memory.compared:
        return cut(module, inputs, layers, gradients, known=found)
    done = cut(module, inputs, layers, gradients)
    kept = [each.tensor.detach() for each in done.cuts]
    if found is not None and not memory.compared:
        known = [each.to(device=made.device) for each, made in zip(found, kept, strict=False)]
        memory.compare(len(found) == len(kept) and all(map(alike, known, kept)))
    if places not in usable:
        usable[places] = carries_all(module, inputs, layers)
    if usable[places] and found is None:
        memory.put(key, [each.cpu() for each in kept])
    return done


def carries_all(module: nn.Module, inputs: Inputs, layers: Sequence[Layer]) -> bool:
    """Whether all that the image tells goes through the layers: nothing passes them by.

    The network must give the same when it is handed its own activations, tried on two images that have nothing in common.
    """
    image = inputs.image[:1]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(image)
    pair = inputs.rows(torch.arange(2, device=image.device) % inputs.batch).with_image(
        torch.cat([image, image.mean() + image.std().clamp(min=1e-3) * (1 + noise)])
    )
    done = cut(module, pair, layers, gradients=False)
    try:
        again = cut(module, pair, layers, gradients=False, known=[each.tensor for each in done.cuts])
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if raised_by_handler(error):
            raise
        return False
    got, expected = tensors_of(again.outputs), tensors_of(done.outputs)
    return len(got) == len(expected) and all(alike(one, other) for one, other in zip(got, expected, strict=True))


def _key(inputs: Inputs, places: tuple[str, ...]) -> str:
    """What goes into the network, and where it is cut."""
    digest = hashlib.blake2b(digest_size=16)
    for name in places:
        digest.update(f"{name}\n".encode())
    for value in (*inputs.args, *inputs.kwargs.values()):
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
