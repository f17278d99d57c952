"""Locks that a process made by `fork` finds free, whatever other threads held at that moment: those threads are not in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_all: weakref.WeakSet[Any] = weakref.WeakSet()
_leaves: list[threading.RLock] = []


def new_lock() -> threading.RLock:
    """A lock that its thread may take several times, so that a signal handler that explains something never waits for itself."""
    lock = threading.RLock()
    _all.add(lock)
    return lock


def leaf_lock() -> threading.RLock:
    """A lock under which nothing of anyone else's runs, so that a thread that is done with its work holds none of them."""
    lock = new_lock()
    _leaves.append(lock)
    return lock


def release_leaves() -> None:
    """Release what the calling thread, which is done with its work, holds of them: an interrupt came before the end of a `with`."""
    for lock in _leaves:
        while is_mine(lock):
            lock.release()


def is_mine(lock: Any) -> bool:
    """Whether the calling thread holds a lock."""
    return bool(lock._is_owned())


def _renew() -> None:
    for lock in list(_all):
        if not is_mine(lock):
            lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew)
