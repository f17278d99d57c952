"""`lucidcam metrics`: what maps can be judged by, and what each figure means."""

from __future__ import annotations

from typing import Annotated

import typer


def metrics(
    name: Annotated[str | None, typer.Argument(help="Show one metric: its definition and its options.")] = None,
) -> None:
    """List the metrics, or show one with its options."""
    from lucidcam import registry
    from lucidcam.cli._common import out, show, table

    if name is None:
        listing = table("metric", "paper", "needs", "better")
        for each, kind in registry.metrics.items():
            better = {True: "higher", False: "lower", None: ""}[kind.figures[0].higher_is_better]
            listing.add_row(f"[b]{each}[/b]", kind.paper, kind.needs or "images", better)
        out.print(listing)
        out.print("\n[dim]lucidcam metrics NAME shows the definition and what the options mean.[/dim]")
    else:
        kind = registry.metrics[name]
        figures = ", ".join(f"{each.name}{f' in {each.unit}' if each.unit else ''}" for each in kind.figures)
        show(name, kind, "option", str, f"Figures: {figures}")
