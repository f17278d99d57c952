"""`lucidcam methods`: what there is, and what each one computes."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method: its equation and its options.")] = None,
) -> None:
    """List the methods, or show one with its options."""
    from lucidcam.cli._screen import out, show, table
    from lucidcam.options import catalogue

    if name is None:
        listing = table("method", "paper", "cost")
        for entry in catalogue.methods().values():
            listing.add_row(f"[b]{entry.name}[/b]", *entry.columns)
        out.print(listing)
        out.print("\n[dim]lucidcam methods NAME shows the equation and what the options mean.[/dim]")
    else:
        show(catalogue.methods()[name], "flag", lambda field: f"--{field.replace('_', '-')}")
