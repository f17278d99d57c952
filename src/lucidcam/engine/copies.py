"""Optimised copies, and the networks that they stand for: where a copy fails, the network as it is takes its place."""

from __future__ import annotations

import weakref

from torch import nn

from lucidcam.utils.locks import leaf_lock

_guard = leaf_lock()
_originals: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()
_failures: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def note_copy(copy: nn.Module, original: nn.Module) -> None:
    """Note which network a copy stands for; that is kept alive as long as the copy."""
    with _guard:
        _originals[copy] = original


def original_of(module: nn.Module) -> nn.Module | None:
    """The network that an optimised copy stands for; None for any other module."""
    with _guard:
        return _originals.get(module)


def give_up(copy: nn.Module, reason: str) -> None:
    """Let the original take a copy's place from now on."""
    with _guard:
        _failures.setdefault(copy, reason)


def failure(module: nn.Module) -> str | None:
    """Why a copy was given up; None: it was not, or the module is no copy."""
    with _guard:
        return _failures.get(module)


def in_use(module: nn.Module) -> nn.Module:
    """The module itself, or the original of a copy that was given up."""
    with _guard:
        return _originals[module] if module in _failures else module
