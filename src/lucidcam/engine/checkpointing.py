"""Gradient checkpointing is set aside while a network is explained.

It trades memory for a second forward pass during `backward()`, outside of every hook and rule; its older form (`use_reentrant=True`) hides
its part of the network from `torch.autograd.grad` altogether. Maps cost one pass, so a checkpointed part simply runs. Networks call
`torch.utils.checkpoint.checkpoint` under names of their own; what that function calls in turn is replaced while a session is open, and acts
as ever in the threads that hold none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint as checkpointing

_guard = threading.Lock()
_here = threading.local()
_originals: dict[str, Any] = {}
_sessions = 0


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Run what is checkpointed directly, in this thread."""
    _install()
    _here.depth = _depth() + 1
    try:
        yield
    finally:
        _here.depth -= 1
        _remove()


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


_REPLACEMENTS = {"CheckpointFunction": _Function, "_checkpoint_without_reentrant_generator": _Generator}


def _install() -> None:
    global _sessions
    with _guard:
        _sessions += 1
        if _sessions == 1:
            for name, replacement in _REPLACEMENTS.items():
                if hasattr(checkpointing, name):  # else checkpoints stay what they are, and gradients through them are refused
                    _originals[name] = getattr(checkpointing, name)
                    setattr(checkpointing, name, replacement(_originals[name]))


def _remove() -> None:
    global _sessions
    with _guard:
        _sessions -= 1
        if not _sessions:
            for name, original in _originals.items():
                setattr(checkpointing, name, original)
            _originals.clear()
