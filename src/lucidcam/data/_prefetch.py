"""Several streams read at a time, given one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Full, Queue
from threading import Event
from typing import TypeVar

T = TypeVar("T")

CHUNK = 64
"""Things that are handed over together."""

WAITING = 16
"""Chunks of a stream that wait for their turn; then its thread waits: memory does not grow with the streams."""

_PATIENCE = 0.1  # seconds between two looks at whether anybody still listens


def in_order(jobs: Sequence[Callable[[], Iterator[T]]], threads: int) -> Iterator[T]:
    """Yield what the streams give, in their order; the next `threads − 1` are read meanwhile.

    Args:
        jobs: each starts a stream; in a thread of its own when there are several threads.
        threads: 1: everything happens in the caller's.
    """
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            yield from job()
        return
    stop = Event()
    pool = ThreadPoolExecutor(threads, "lucidcam-listing")
    reading: deque[Queue[list[T] | Exception | None]] = deque()
    try:
        for job in jobs:
            reading.append(Queue(WAITING))
            pool.submit(_fill, job, reading[-1], stop)
            if len(reading) == threads:
                yield from _emptied(reading.popleft())
        while reading:
            yield from _emptied(reading.popleft())
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(job: Callable[[], Iterator[T]], queue: Queue[list[T] | Exception | None], stop: Event) -> None:
    last: Exception | None = None
    try:
        stream = job()
        while not stop.is_set() and (chunk := list(islice(stream, CHUNK))):
            _put(queue, chunk, stop)
    except Exception as error:
        last = error
    _put(queue, last, stop)


def _put(queue: Queue[list[T] | Exception | None], thing: list[T] | Exception | None, stop: Event) -> None:
    while not stop.is_set():
        try:
            queue.put(thing, timeout=_PATIENCE)
            return
        except Full:
            continue


def _emptied(queue: Queue[list[T] | Exception | None]) -> Iterator[T]:
    while (chunk := queue.get()) is not None:
        if isinstance(chunk, Exception):
            raise chunk
        yield from chunk
