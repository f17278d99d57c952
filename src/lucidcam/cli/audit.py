"""`lucidcam audit`: what a network learnt from a data set that it should not have, ranked, with evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucidcam.cli._datasets import open_words
from lucidcam.cli._loading import ModelOption, OptimizeOption, load_model
from lucidcam.cli._method_flags import method_flags
from lucidcam.cli._screen import err, table
from lucidcam.cli._screen import out as screen
from lucidcam.cli.report import ReportOption, write_page
from lucidcam.options.groups import DataOptions, ModelOptions, TrialOptions
from lucidcam.utils.text import figure, short

if TYPE_CHECKING:
    from lucidcam import Audit
    from lucidcam.types import Model

SHOWN = 12
"""Classes in the table."""

PROBLEMS = 5
"""Images that could not be used, of which the names are printed; audit.json lists all."""


def audit(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, an annotation file, or images.")],
    *,
    model: ModelOption = "demo",
    method: Annotated[str, typer.Option(help="See [b]lucidcam methods[/b].")] = "gradcam",
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="label or predicted. [dim]default: label where there are any[/dim]")
    ] = None,
    trial: TrialOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of audit.json and the evidence.")] = Path("lucidcam-audit"),
    page: ReportOption = None,
    source: DataOptions,
    optimize: OptimizeOption = False,
    loading: ModelOptions,
    seed: Annotated[int, typer.Option(help="Of control regions and pairs of images.")] = 0,
) -> None:
    """Find shortcuts and failures: watermarks, backgrounds, companions, confusions.

    Where a class's maps point beside the object, that region is covered, and pasted
    into images of other classes. A shortcut is reported only where this moves the
    score further than an equally large control does.

    Exit code 0: done, whatever was found; 2: usage, or nothing could be audited.
    """
    chosen, words = method_flags(context, [method], data)
    [(kind, options)] = chosen
    import lucidcam
    from lucidcam.auditing.findings import check_place
    from lucidcam.auditing.probing import check_fill

    if page is not None:
        from lucidcam.reports import check

        check(page)
    check_fill(trial.fill)
    check_place(out)
    dataset = open_words(words, source)
    loaded = load_model(model, loading, optimize)
    found = lucidcam.audit(
        loaded,
        dataset,
        method=kind,
        target=target,
        class_map=source.class_map,
        layer=source.layer,
        fill=trial.fill,
        images_per_class=trial.images_per_class,
        min_effect=trial.min_effect,
        limit=source.limit,
        out=out,
        seed=seed,
        **options,
    )
    _show(found, out, loaded)
    if page is not None:
        write_page(found, page)


def _show_failed(found: Audit) -> None:
    """The figures of what was tried and did not stand up."""
    failed = found.coverage.failed
    if not failed:
        return
    listing = table("did not stand up", "class", "effect", "95 % interval", "because", title="Tried")
    for each in failed[:SHOWN]:
        what = " ".join(filter(None, (each.kind, short(each.beside), each.where)))
        listing.add_row(
            what, short(each.label), figure(each.effect.mean), f"{figure(each.effect.low)} to {figure(each.effect.high)}", each.reason
        )
    screen.print(listing)
    if len(failed) > SHOWN:
        screen.print(f"… and {len(failed) - SHOWN} more; audit.json lists them")
    screen.print("effect: the smallest of what a trial's changes do, by themselves and beyond their controls\n", style="dim")


def _show(found: Audit, out: Path, model: Model) -> None:
    """The findings in words, then the classes in figures."""
    from lucidcam.types import with_meaning

    screen.print(f"{found.verdict}\n", style="bold", markup=False)
    for number, finding in enumerate(found.findings, start=1):
        screen.print(f"{number}. {finding.kind}", style="bold", markup=False)
        screen.print(finding.words, markup=False)
        screen.print()
    _show_failed(found)
    right = ["predicted"] if found.labelled else []
    listing = table("class", "images", *right, "on object", "whole", "no object", "no context")
    for row in found.classes[:SHOWN]:
        values = [row.get(name) for name in ("inside", "whole", "object_removed", "context_removed")]
        shown = ["–" if value is None else figure(value.mean) for value in values]
        listing.add_row(
            with_meaning(row["label"], model.label(row["id"])), str(row["images"]), *(f"{row[name]:.0%}" for name in right), *shown
        )
    screen.print(listing)
    if len(found.classes) > SHOWN:
        screen.print(f"… and {len(found.classes) - SHOWN} more classes")
    screen.print("on object: share of the map's energy; whole, no object, no context: its probability", style="dim")
    untold = found.settings["images without a label"]
    beside = f", {untold} more have no label" if untold else ""
    screen.print(f"\n{found.images} images{beside}; audit.json and the evidence are in\n{out}", soft_wrap=True, markup=False)
    for problem in found.problems[:PROBLEMS]:
        err.print(f"left out: {problem.error}", style="yellow", markup=False)
    if len(found.problems) > PROBLEMS:
        err.print(f"… and {len(found.problems) - PROBLEMS} more left out; audit.json lists them", style="yellow", markup=False)
