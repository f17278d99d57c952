"""Processes that read images and finish maps, so that the one with the network does nothing else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import torch
import torch.multiprocessing

from lucidcam.errors import ModelError
from lucidcam.utils.optional import Loaded

A = TypeVar("A")
B = TypeVar("B")
N = TypeVar("N")

UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises for functions within functions and the like."""

AHEAD = 3
"""Pieces of work per process that are begun before they are needed."""


@dataclass(frozen=True, eq=False)
class Task(Generic[A, B]):
    """A piece of work that was begun."""

    hands: Hands
    function: Callable[[Any, A], B]
    piece: A
    future: Future[B]

    def result(self) -> B:
        """Wait for it, in whatever thread.

        Raises:
            BrokenProcessPool: it killed two processes.
        """
        try:
            return self.future.result()
        except BrokenProcessPool:  # another piece may have killed it
            return self.hands.alone(self.function, self.piece)


class Hands:
    """Does pieces of work, in order, in other processes or, with none, here.

    A process that dies takes nothing with it: what it was at is done again in a process of its own; what kills that one, too, is given up.

    Args:
        processes: how many; 0: the work is done here, when it is needed.
        shared: handed to every function first; it travels to each process once.

    Attributes:
        behind: what comes next from `ahead` is not done yet: who waits for it may as well do something itself.
    """

    def __init__(self, processes: int, shared: Any) -> None:
        self.processes = processes
        self.shared = shared
        self.behind = False
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def ahead(
        self,
        function: Callable[[Any, A], B],
        work: Iterable[tuple[N, A]],
        dead: Callable[[A], B],
        ready: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[N, B]]:
        """Do `function(shared, piece)` for every (name, piece), some of them ahead of time; results come in order.

        Args:
            function: of a module, so that it can travel.
            work: names, which stay here, and pieces.
            dead: the result of a piece that killed its process twice.
            ready: whether the next piece is there; one that would have to be waited for is not begun ahead of time.
        """
        if not self.processes:
            for name, piece in work:
                yield name, function(self.shared, piece)
            return
        waiting: deque[tuple[N, Task[A, B]]] = deque()
        pieces = iter(work)
        while True:
            while len(waiting) < AHEAD * self.processes and (not waiting or ready()) and (following := next(pieces, None)) is not None:
                waiting.append((following[0], self.begin(function, following[1])))
            if not waiting:
                return
            name, task = waiting.popleft()
            try:
                found = task.result()
            except BrokenProcessPool:
                found = dead(task.piece)
            self.behind = bool(waiting) and not waiting[0][1].future.done()
            yield name, found

    def begin(self, function: Callable[[Any, A], B], piece: A) -> Task[A, B]:
        """Begin `function(shared, piece)`."""
        return Task(self, function, piece, self._submit(function, piece) if self.processes else self._done(function, piece))

    def here(self, function: Callable[[Any, A], B], piece: A) -> Task[A, B]:
        """Do `function(shared, piece)` in this process, at once."""
        return Task(self, function, piece, self._done(function, piece))

    def alone(self, function: Callable[[Any, A], B], piece: A) -> B:
        """Do one piece of work in a process of its own.

        Raises:
            BrokenProcessPool: it died.
        """
        with ProcessPoolExecutor(1, torch.multiprocessing.get_context("spawn"), _begin, (Loaded(), self.shared)) as pool:
            found: B = pool.submit(_do, function, piece).result()
            return found

    def _done(self, function: Callable[[Any, A], B], piece: A) -> Future[B]:
        found: Future[B] = Future()
        found.set_result(function(self.shared, piece))
        return found

    def _submit(self, function: Callable[[Any, A], B], piece: A) -> Future[B]:
        for _ in range(2):
            if self._pool is None:
                context = torch.multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.processes, context, _begin, (Loaded(), self.shared))
            try:
                return self._pool.submit(_do, function, piece)
            except UNPICKLABLE as error:
                raise ModelError(f"the preprocessing cannot travel to other processes ({error}); run with decoders=0.") from error
            except BrokenProcessPool:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None
        raise RuntimeError("the processes that read images die at once; look at the system's log, or run with decoders=0")


_shared: Any = None


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that was; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def _begin(_: Loaded, shared: Any) -> None:
    global _shared
    end_with_parent()
    torch.set_num_threads(1)
    _shared = shared


def _do(function: Callable[[Any, Any], Any], piece: Any) -> Any:
    return function(_shared, piece)
