"""`lucidcam metrics`: what maps can be judged by, and what each figure means."""

from __future__ import annotations

from typing import Annotated

import typer


def metrics(
    name: Annotated[str | None, typer.Argument(help="Show one metric: its definition and its options.")] = None,
) -> None:
    """List the metrics, or show one with its options."""
    from lucidcam.cli._screen import out, show, table
    from lucidcam.options import catalogue

    if name is None:
        listing = table("metric", "paper", "needs", "better")
        for entry in catalogue.metrics().values():
            listing.add_row(f"[b]{entry.name}[/b]", *entry.columns)
        out.print(listing)
        out.print("\n[dim]lucidcam metrics NAME shows the definition and what the options mean.[/dim]")
    else:
        show(catalogue.metrics()[name], "option", str)
