"""What is shown while many images are worked on: a bar in a terminal or notebook, a line a minute elsewhere."""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Protocol

from lucidcam.utils.rollback import Scope, raised_by_handler

MINUTE = 60.0
"""Seconds between two lines where there is no terminal."""

SLOW = 2.0
"""Seconds after which a bar appears in a notebook, and for what usually takes less anywhere."""

REDRAWN = 0.25
"""Seconds between two pictures of a notebook's bar, at least."""

Listener = Callable[[float | None], None]
"""Told the share that is done, in [0, 1], or None where only a part of a larger work went on; what it raises ends the work."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Bar(Protocol):
    """A bar that is on the screen."""

    def update(self, done: float) -> None:
        """Show how many are done."""

    def close(self) -> None:
        """Take it away."""


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


def is_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose cells show HTML."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def shows_bars() -> bool:
    """Whether bars are shown unless told otherwise: standard error is a terminal, or this is a notebook."""
    return is_notebook() or sys.stderr.isatty()


def open_bar(count: int | None, title: str) -> Bar:
    """Put a bar on the screen.

    Args:
        count: how many there are; None: not known.
        title: what is going on.
    """
    return _NotebookBar(count, title) if is_notebook() else _TerminalBar(count, title)


@contextmanager
def bar(count: int | None, title: str, shown: bool | None = None, *, late: bool = False) -> Iterator[Callable[[float], None]]:
    """A bar with images per second and the time left, gone when the work is done; gives what to tell how many were done since.

    In a notebook it appears after two seconds.

    Args:
        count: how many there are; None: not known.
        title: what is going on.
        shown: None: a bar when standard error is a terminal or in a notebook, else a line every minute.
        late: in a terminal, too, it appears after two seconds.
    """
    if shown is False:
        yield lambda _: None
    elif shown is None and not shows_bars():
        yield _Lines(count, title)
    else:
        with Scope() as scope:
            advancing = _Advancing(count, title, SLOW if late or is_notebook() else 0.0)
            scope.undo(advancing.close)
            advancing.start()
            yield advancing


class Batches:
    """Tells how far a work is that is done batch by batch, and how far the batch at hand is.

    Attributes:
        shown: whether work within a batch shows a bar of its own, as its option has it.
    """

    def __init__(self, advance: Callable[[float], None] | None, shown: bool | None) -> None:
        self.shown = shown
        self._advance = advance
        self._done = self._told = 0.0

    @contextmanager
    def batch(self, size: int) -> Iterator[None]:
        """A batch of `size` images; one that fails is not done."""
        if self._advance is None:
            yield
            return
        with listening(lambda share: None if share is None else self._tell(self._done + share * size)):
            yield
        self._done += size
        self._tell(self._done)

    def _tell(self, done: float) -> None:
        if done > self._told and self._advance is not None:  # a batch has several streams, each from nothing to all
            self._advance(done - self._told)
            self._told = done


@contextmanager
def batches(count: int, several: bool, title: str, shown: bool | None) -> Iterator[Batches]:
    """A late bar over images that are worked on batch by batch.

    Args:
        count: how many there are.
        several: whether there is more than one batch; of a single one, the work within it shows its own bar.
        title: what is going on.
        shown: as for `bar`.
    """
    if not several or shown is False or listener() is not None:
        yield Batches(None, shown)
        return
    with bar(count, title, shown, late=True) as advance:
        yield Batches(advance, False)


def say(note: str, shown: bool | None = None) -> None:
    """Tell what a long work did otherwise than usual, in a line on standard error.

    Args:
        note: a sentence.
        shown: False: nothing is told.
    """
    if shown is not False:
        print(f"note: {note}", file=sys.stderr, flush=True)


class _TerminalBar:
    def __init__(self, count: int | None, title: str) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task
        from rich.text import Text

        class Speed(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")

        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), Speed())
        self._shown = Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=120)
        self._task = self._shown.add_task(title, total=count)
        self._shown.start()

    def update(self, done: float) -> None:
        self._shown.update(self._task, completed=done)

    def close(self) -> None:
        self._shown.stop()


class _NotebookBar:
    """A bar in a cell's output, which is redrawn in its place. A kernel that cannot show it any more does not end the work."""

    def __init__(self, count: int | None, title: str) -> None:
        self._count, self._title = count, title
        self._began = self._drawn = time.monotonic()
        self._handle = self._displayed(self._content(0.0))

    def update(self, done: float) -> None:
        now = time.monotonic()
        if now - self._drawn >= REDRAWN and self._handle is not None:
            self._drawn = now
            self._publish(self._content(done))

    def close(self) -> None:
        if self._handle is not None:
            self._publish({"text/html": "", "text/plain": ""})

    def _content(self, done: float) -> dict[str, str]:
        words = f"{self._title}: {_progress(done, self._count, time.monotonic() - self._began)}"
        share = "" if self._count is None else f'value="{min(done, self._count):g}" max="{max(self._count, 1)}" '
        style = "width:300px;max-width:100%;vertical-align:middle;margin-right:8px"
        return {"text/html": f'<div><progress {share}style="{style}"></progress>{html.escape(words)}</div>', "text/plain": words}

    def _displayed(self, content: dict[str, str]) -> Any:
        try:
            from IPython.display import display

            return display(content, raw=True, display_id=True)
        except Exception as error:
            if raised_by_handler(error):
                raise
            return None

    def _publish(self, content: dict[str, str]) -> None:
        try:
            self._handle.update(content, raw=True)
        except Exception as error:
            if raised_by_handler(error):
                raise
            self._handle = None


class _Advancing:
    """Opens a bar when its time has come, and adds up what is told."""

    def __init__(self, count: int | None, title: str, after: float) -> None:
        self._count, self._title = count, title
        self._after = after
        self._began = time.monotonic()
        self._done = 0.0
        self._bar: Bar | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Show the bar, at once or once it is time: also while the first image takes longer than that."""
        if not self._after:
            self._show()
        elif is_notebook():
            self._timer = threading.Timer(self._after, copy_context().run, (self._show,))  # the context says which cell it belongs to
            self._timer.daemon = True
            self._timer.start()

    def __call__(self, done: float) -> None:
        with self._lock:
            self._done += done
        if self._bar is None and time.monotonic() - self._began >= self._after:
            self._show()
        elif self._bar is not None:
            self._bar.update(self._done)

    def close(self) -> None:
        """Take the bar away, or see that it does not come."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            shown, self._bar = self._bar, None
        if shown is not None:
            shown.close()

    def _show(self) -> None:
        with self._lock:
            if self._bar is None and not self._closed:
                self._bar = open_bar(self._count, self._title)
                self._bar.update(self._done)


def _progress(done: float, count: int | None, seconds: float) -> str:
    """How far a work is, in words."""
    of = "" if count is None else f" of {count}"
    if done <= 0 or seconds <= 0:
        return f"{done:.0f}{of}"
    speed = done / seconds
    left = "" if count is None else f", {_duration(max(count - done, 0) / speed)} left"
    return f"{done:.0f}{of}, {speed:.1f}/s{left}"


def _duration(seconds: float) -> str:
    """Seconds, or minutes of what takes longer.

    >>> _duration(12.3), _duration(600)
    ('12 s', '10 min')
    """
    return f"{seconds:.0f} s" if seconds < 1.5 * MINUTE else f"{seconds / MINUTE:.0f} min"


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
