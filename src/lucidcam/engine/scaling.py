"""Precision: autocast is for the network alone, and gradients in float16 are taken at a scale at which they neither vanish nor overflow.

Below 6e-8 float16 knows only zero, and gradients of logits, of probabilities above all, lie there soon. So each score is multiplied by a
power of two before it is differentiated, and its gradient divided by the same in float32: by the value of what arrives, for each image and
target by itself. Nothing else is rounded, so that gradients that did not vanish stay what they are, bit for bit. The rules of
`engine.rules` are linear in what is sent down as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

from lucidcam.utils.rollback import Scope

Differentiate = Callable[[Tensor], Sequence["Tensor | None"]]
"""From scores `[B, T]` to their gradients `[B, T, ...]`, or None where nothing arrives."""

FIRST = 12
"""The exponent of two that is tried first."""
STEP = 8
"""By how much it falls where gradients overflow."""
TRIES = 8
"""Passes at most."""
ENOUGH = 2.0**-4
"""The largest number of a gradient should be at least this: then a thousandth of it is rounded no more than it."""


_suspended: ContextVar[tuple[str, torch.dtype] | None] = ContextVar("suspended", default=None)


@contextmanager
def without_autocast(device: str) -> Iterator[None]:
    """Keep an autocast that is on from what is computed of maps; the network runs under it all the same (`with_autocast`)."""
    if not torch.is_autocast_enabled(device):
        yield
        return
    with Scope() as scope:
        scope.undo_here(_suspended.set, _suspended.get())
        _suspended.set((device, torch.get_autocast_dtype(device)))
        with torch.autocast(device, enabled=False):
            yield


def with_autocast() -> AbstractContextManager[object]:
    """The autocast that was on where the run was opened; nothing where none was."""
    state = _suspended.get()
    return nullcontext() if state is None else torch.autocast(state[0], state[1])


def needs_scale(*tensors: Tensor) -> bool:
    """Whether gradients through these tensors, or through operations under the autocast that is on, are in float16."""
    state = _suspended.get()
    return any(tensor.dtype == torch.float16 for tensor in tensors) or (state is not None and state[1] == torch.float16)


def differentiate_scaled(scores: Tensor, differentiate: Differentiate) -> list[Tensor | None]:
    """Differentiate scores in float16 at a scale at which nothing vanishes or overflows; gradients come back in float32.

    Args:
        scores: `[B, T]`, in float32, part of a graph.
        differentiate: takes their gradients, any number of times.
    """
    exponents = torch.full(scores.shape, float(FIRST), dtype=torch.float32, device=scores.device)
    best: list[Tensor | None] | None = None
    fitting = torch.zeros_like(exponents, dtype=torch.bool)  # of which rows `best` holds a gradient without overflow
    limit = torch.full_like(exponents, torch.inf)  # exponents at which they overflow
    for _ in range(TRIES):
        with torch.enable_grad():
            scaled = scores * torch.exp2(exponents).to(scores.dtype)
        gradients = [None if g is None else g.float() / _over(torch.exp2(exponents), g) for g in differentiate(scaled)]
        peak = torch.zeros_like(exponents)
        for g in gradients:
            if g is not None and g.numel():
                peak = peak.maximum(g.abs().flatten(2).amax(-1).nan_to_num(torch.inf, torch.inf))
        sound = torch.isfinite(peak)
        limit = torch.where(sound, limit, limit.minimum(exponents))
        best = gradients if best is None else [_chosen(sound, g, old) for g, old in zip(gradients, best, strict=True)]
        arrived = peak * torch.exp2(exponents)
        fitting = fitting | sound
        lift = torch.where(arrived > 0, (ENOUGH / arrived).log2().ceil().clamp(min=1), float(FIRST))
        raised = torch.where(sound & (arrived < ENOUGH), exponents + lift, exponents)
        following = torch.where(sound, torch.where(raised < limit, raised, exponents), torch.where(fitting, exponents, exponents - STEP))
        if bool((following == exponents).all()):
            break
        exponents = following
    assert best is not None
    return best


def _over(scale: Tensor, gradient: Tensor) -> Tensor:
    return scale.reshape(*scale.shape, *[1] * (gradient.ndim - scale.ndim))


def _chosen(sound: Tensor, new: Tensor | None, old: Tensor | None) -> Tensor | None:
    return old if new is None or old is None else torch.where(_over(sound, new), new, old)
