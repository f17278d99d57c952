"""`lucidcam methods`: what there is, and what each one computes."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method: its equation and its options.")] = None,
) -> None:
    """List the methods, or show one with its options."""
    from lucidcam import registry
    from lucidcam.cli._common import out, show, table

    if name is None:
        listing = table("method", "paper", "cost")
        usual = {"activation": "1 forward", "gradient": "1 forward", "pixel": "1 forward and backward"}
        for each, kind in registry.methods.items():
            listing.add_row(f"[b]{each}[/b]", kind.paper, kind.cost or usual[kind.kind])
        out.print(listing)
        out.print("\n[dim]lucidcam methods NAME shows the equation and what the options mean.[/dim]")
    else:
        show(name, registry.methods[name], "flag", lambda field: f"--{field.replace('_', '-')}")
