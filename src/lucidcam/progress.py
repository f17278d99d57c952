"""The bar that is shown while many images are worked on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(count: int | None, title: str, shown: bool | None = None) -> Iterator[Callable[[float], None]]:
    """A bar with the time left, gone when the work is done; gives what to tell how many images, with fractions, were done since.

    Args:
        count: how many there are; None: not known.
        title: what is going on.
        shown: None: when standard error is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True) as shown_bar:
        task = shown_bar.add_task(title, total=count)
        yield lambda done: shown_bar.advance(task, done)
