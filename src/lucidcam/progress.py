"""What is shown while many images are worked on: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lucidcam.rollback import Scope

MINUTE = 60.0
"""Seconds between two lines where there is no terminal."""

Listener = Callable[[float | None], None]
"""Told the share that is done, in [0, 1], or None where only a part of a larger work went on; what it raises ends the work."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener how far streams of forward passes are that run within the block, in this thread."""
    with Scope() as scope:
        scope.undo_here(_listener.set, _listener.get())
        _listener.set(listener)
        yield


def listener() -> Listener | None:
    """Whoever wants to know how far the work of this thread is."""
    return _listener.get()


@contextmanager
def bar(count: int | None, title: str, shown: bool | None = None) -> Iterator[Callable[[float], None]]:
    """A bar with images per second and the time left, gone when the work is done; gives what to tell how many were done since.

    Args:
        count: how many there are; None: not known.
        title: what is going on.
        shown: None: a bar when standard error is a terminal, else a line every minute.
    """
    if shown is False:
        yield lambda _: None
    elif shown is None and not sys.stderr.isatty():
        yield _Lines(count, title)
    else:
        yield from _bar(count, title)


def _bar(count: int | None, title: str) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), Speed())
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=120) as shown_bar:
        task = shown_bar.add_task(title, total=count)
        yield lambda done: shown_bar.advance(task, done)


def say(note: str, shown: bool | None = None) -> None:
    """Tell what a long work did otherwise than usual, in a line on standard error.

    Args:
        note: a sentence.
        shown: False: nothing is told.
    """
    if shown is not False:
        print(f"note: {note}", file=sys.stderr, flush=True)


class _Lines:
    """Tells in lines, for logs."""

    def __init__(self, count: int | None, title: str) -> None:
        self.count, self.title = count, title
        self.told = time.monotonic()
        self.done = self.before = 0.0

    def __call__(self, done: float) -> None:
        self.done += done
        now = time.monotonic()
        if now - self.told < MINUTE:
            return
        speed = (self.done - self.before) / (now - self.told)
        self.told, self.before = now, self.done
        of = "" if self.count is None else f" of {self.count}"
        left = "" if self.count is None else f", {(self.count - self.done) / max(speed, 1e-9) / MINUTE:.0f} minutes left"
        print(f"{self.title}: {self.done:.0f}{of}, {speed:.1f}/s{left}", file=sys.stderr, flush=True)
