"""What commands print: text and tables for narrow terminals, what a method computes, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from lucidcam.options import catalogue
from lucidcam.utils.text import printable, printable_lines

if TYPE_CHECKING:
    from lucidcam.options.catalogue import Entry


class _Screen(Console):
    """A console on which names and labels of others steer nothing: what is no character to be shown becomes an escape."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text=printable_lines(segment.text))


class _Table(Table):
    """A table of which each cell is one line, until it is wrapped."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


out = _Screen(highlight=False, emoji=False)
err = _Screen(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table that wraps rather than cuts in 80 columns."""
    listing = _Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        listing.add_column(column, overflow="fold")
    return listing


def report(failures: Sequence[str], shown: int = 50) -> None:
    """List what failed, and end with exit code 1 if anything did."""
    for failure in failures[:shown]:
        err.print(f"failed: {failure}", style="red", markup=False)
    if len(failures) > shown:
        err.print(f"… and {len(failures) - shown} more failed", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


def show(entry: Entry, options: str, flag: Callable[[str], str]) -> None:
    """Print what a method or metric computes, and what its options mean.

    Args:
        entry: of the catalogue.
        options: what they are called, "flag" or "option".
        flag: how one is written, from the field's name.
    """
    from rich.markup import escape

    out.print(f"[b]{entry.name}[/b]  {entry.paper}\n")
    out.print(escape("\n\n".join(entry.paragraphs)))
    if entry.about:
        out.print(f"\n{entry.about}", markup=False)
    if entry.options:
        listing = table(options, "value", "default", "meaning", title=f"\n{options.capitalize()}s")
        for option in entry.options:
            listing.add_row(flag(option.name), catalogue.words_for(option.annotation), option.default, escape(option.meaning))
        out.print(listing)
