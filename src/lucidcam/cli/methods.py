"""`lucidcam methods`: what there is, and what each one computes."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, get_type_hints

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method: its equation and its options.")] = None,
) -> None:
    """List the methods, or show one with its options."""
    from rich.markup import escape

    from lucidcam import registry
    from lucidcam.cli._common import default_of, described, out, table, words_for

    if name is None:
        listing = table("method", "paper", "cost")
        usual = {"activation": "1 forward", "gradient": "1 forward", "pixel": "1 forward and backward"}
        for each, kind in registry.methods.items():
            listing.add_row(f"[b]{each}[/b]", kind.paper, kind.cost or usual[kind.kind])
        out.print(listing)
        out.print("\n[dim]lucidcam methods NAME shows the equation and what the options mean.[/dim]")
        return
    kind = registry.methods[name]
    paragraphs, meanings = described(kind)
    out.print(f"[b]{name}[/b]  {kind.paper}\n")
    out.print(escape("\n\n".join(paragraphs)))
    if fields(kind):
        hints = get_type_hints(kind)
        listing = table("flag", "value", "default", "meaning", title="\nFlags")
        for field in fields(kind):
            flag = f"--{field.name.replace('_', '-')}"
            listing.add_row(flag, words_for(hints[field.name]), default_of(field), escape(meanings.get(field.name, "")))
        out.print(listing)
