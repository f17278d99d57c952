"""Gradient checkpointing is set aside while a network is explained.

It trades memory for a second forward pass during `backward()`, outside of every hook and rule; its older form (`use_reentrant=True`) hides
its part of the network from `torch.autograd.grad` altogether. Maps cost one pass, so a checkpointed part simply runs. Networks call
`torch.utils.checkpoint.checkpoint` under names of their own; what that function calls in turn is replaced while a session is open, and acts
as ever in the threads that hold none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint as checkpointing

from lucidcam.utils.rollback import Scope, SharedChange

_here = threading.local()


def set_checkpoints_aside(scope: Scope) -> None:
    """Run what is checkpointed directly, in this thread, until a scope ends."""
    _REPLACED.hold(scope)
    depth = _depth()
    scope.undo_here(setattr, _here, "depth", depth)
    _here.depth = depth + 1


def _depth() -> int:
    return getattr(_here, "depth", 0)


class _Function:
    """In place of the autograd function of checkpoints with `use_reentrant=True`."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Run the function."""
        return function(*args) if _depth() else self.original.apply(function, preserve, *args)


class _Generator:
    """In place of the generator around checkpoints with `use_reentrant=False`, which is resumed before and after them."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Start one."""
        return _nothing() if _depth() else self.original(*args, **kwargs)


def _nothing() -> Iterator[None]:
    yield


_REPLACEMENTS: dict[str, Any] = {"CheckpointFunction": _Function, "_checkpoint_without_reentrant_generator": _Generator}


def _replaced() -> dict[str, Any]:
    names = [name for name in _REPLACEMENTS if hasattr(checkpointing, name)]  # without them checkpoints stay, and gradients are refused
    return {name: getattr(checkpointing, name) for name in names}


def _replace() -> None:
    for name, original in _replaced().items():
        if not isinstance(original, _REPLACEMENTS[name]):
            setattr(checkpointing, name, _REPLACEMENTS[name](original))


def _restore(originals: dict[str, Any]) -> None:
    for name, original in originals.items():
        setattr(checkpointing, name, original)


_REPLACED = SharedChange(_replaced, _replace, _restore)
