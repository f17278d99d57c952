"""Pairs for tests of a kind, where the whole product of both would find no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_turn(first: Iterable[A], second: Iterable[B], every: int = 2) -> list[tuple[A, B]]:
    """Each of the first with every other of the second (or third, …), so that each of both comes, and their neighbours by turns."""
    seconds = list(second)
    return [(one, other) for i, one in enumerate(first) for j, other in enumerate(seconds) if (i + j) % every == 0]
