"""What was computed lately, by what it was computed from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Keeps the things that were used last, for several threads.

    >>> shelf = Shelf[str](2)
    >>> for word in ("one", "two", "three"):
    ...     shelf.put(word[0:2], word)
    >>> shelf.get("on"), shelf.get("th")
    (None, 'three')

    Args:
        count: how many are kept; the one that was not used for longest goes first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._things: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """What lies there, or None."""
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return self._things[key]

    def put(self, key: Hashable, thing: T) -> None:
        """Keep a thing."""
        with self._lock:
            self._things[key] = thing
            self._things.move_to_end(key)
            while len(self._things) > self.count:
                self._things.popitem(last=False)

    def __len__(self) -> int:
        return len(self._things)
