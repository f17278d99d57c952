"""`lucidcam discover`: the regions of a data set that speak most for each class, as contact sheets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucidcam.cli._datasets import open_words
from lucidcam.cli._loading import ModelOption, OptimizeOption, load_model
from lucidcam.cli._method_flags import method_flags
from lucidcam.cli._screen import err, report, table
from lucidcam.cli._screen import out as screen
from lucidcam.options.groups import DataOptions, DiscoveryOptions, ModelOptions

if TYPE_CHECKING:
    from lucidcam.localization.discover import Discovery

SHOWN = 20
"""Classes in the table."""


def discover(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, an annotation file, or images.")],
    *,
    model: ModelOption = "demo",
    discovery: DiscoveryOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sheets and of regions.json.")] = Path("lucidcam-parts"),
    source: DataOptions,
    optimize: OptimizeOption = False,
    loading: ModelOptions,
) -> None:
    """Show what a network has learnt of each class: its top regions in a data set.

    Of each image's class (its own label, else the predicted one) the region around
    the peak of the map is taken, and the best of each class are drawn.
    A score is the raw evidence at the peak; it compares regions of one class.

    Exit code 0: all right; 1: some images failed (the rest is written); 2: usage.
    """
    chosen, words = method_flags(context, [discovery.method], data)
    [(kind, options)] = chosen
    import lucidcam
    from lucidcam.localization.discover import check_place

    check_place(out)
    dataset = open_words(words, source)
    found = lucidcam.discover(
        load_model(model, loading, optimize),
        dataset,
        kind,
        target=list(dict.fromkeys(discovery.target)) if discovery.target else None,
        top=discovery.top,
        threshold=discovery.threshold,
        layer=source.layer,
        class_map=source.class_map,
        limit=source.limit,
        out=out,
        **options,
    )
    _show(found, out)
    report([problem.error for problem in found.problems])


def _show(found: Discovery, out: Path) -> None:
    """The best region of each class, those of most images first."""
    from lucidcam.types import with_meaning

    listing = table("class", "images", "score", "probability", "box", "best region in")
    often = sorted(found.concepts, key=lambda concept: -concept.images)
    for concept in often[:SHOWN]:
        label, images = with_meaning(concept.label, concept.meaning), str(concept.images)
        if not concept.parts:
            listing.add_row(label, images, "none", "", "", "")
            continue
        best = concept.parts[0]
        probability = "" if best.probability is None else f"{best.probability:.3f}"
        listing.add_row(label, images, f"{best.score:#.3g}", probability, ",".join(map(str, best.box)), Path(best.image).name)
    screen.print(listing)
    if len(found.concepts) > SHOWN:
        screen.print(f"… and {len(found.concepts) - SHOWN} more classes")
    screen.print(f"\n{found.images} images; overview.png, classes/ and regions.json are in\n{out}", soft_wrap=True, markup=False)
    if not any(concept.parts for concept in found.concepts):
        err.print("no map has any positive evidence: nothing was drawn", style="yellow", markup=False)
