"""`lucidcam run`: a data set of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from lucidcam.cli._common import (
    DEFAULT_LOADING,
    ClassMapOption,
    DataFormatOption,
    DataRootOption,
    LayerOption,
    LimitOption,
    LoadOptions,
    ModelOption,
    SplitOption,
    err,
    load_model,
    method_flags,
    open_words,
    out,
    report,
)
from lucidcam.cli.report import ReportOption, write_page
from lucidcam.errors import OptionError

REDUCED = ("bfloat16", "float16")
"""Precisions that an optimised copy computes in by autocast."""


def run(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, tar shards, an annotation file, images; paths or URLs.")],
    folder: Annotated[str, typer.Option("--out", "-o", help="Where to write: a folder, or a URL (s3://…).")],
    model: ModelOption = "demo",
    method: Annotated[str, typer.Option(help="See [b]lucidcam methods[/b].")] = "gradcam",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A label, an id, top5, predicted, or label: the images' own. Repeatable. [dim]default: label, or predicted without[/dim]",
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write", "-w", help="npz, zarr, png, coco, voc, yolo, masks; none: the index alone. Repeatable. [dim]default: npz[/dim]"
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Judge the maps: NAME or NAME:option=value; see [b]lucidcam metrics[/b]. Repeatable."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Boxes are around what is above this share of the maximum.")] = 0.2,
    regions: Annotated[Literal["all", "largest"], typer.Option(help="Of boxes and masks in label formats.")] = "all",
    min_area: Annotated[float, typer.Option(help="Leave out smaller regions; a share of the image.")] = 0.0,
    refine: Annotated[Literal["grabcut"] | None, typer.Option(help="Masks follow the image's colours.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that explain. [dim]default: one per GPU, or per processor[/dim]")
    ] = None,
    decoders: Annotated[
        int | None, typer.Option(min=0, help="Processes per worker that read images. [dim]default: 0; processors on a GPU[/dim]")
    ] = None,
    images_at_once: Annotated[int | None, typer.Option(min=1, help="Images in the network together. [dim]default: what fits[/dim]")] = None,
    max_memory: Annotated[str | None, typer.Option(help="8G: of all workers together; of each GPU.")] = None,
    unit: Annotated[
        int | None, typer.Option(min=1, help="Images per file: what a kill costs at most. [dim]default: 512 or fewer[/dim]")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="The network as it is, not a faster copy with equal scores.")] = False,
    cache: Annotated[str | None, typer.Option(help="Keep inputs and activations there, for other runs.")] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. [dim]default: a new one here[/dim]")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do units again in which something failed.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew in a folder that holds another run.")] = False,
    class_map: ClassMapOption = None,
    data_format: DataFormatOption = None,
    split: SplitOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    layer: LayerOption = None,
    loading: LoadOptions = DEFAULT_LOADING,
    page: ReportOption = None,
) -> None:
    """Explain a data set of any size: an index and maps, written as they are made.

    A run that was killed goes on with the same command, and ends with the same files.
    Images that cannot be used are listed in failures.jsonl.

    Exit code 0: all right; 1: some images failed (the rest is written); 2: usage.
    """
    from lucidcam.cli.evaluate import parsed
    from lucidcam.io.storage import SETTINGS, check_writable
    from lucidcam.options import catalogue
    from lucidcam.reports import check as check_page

    if page is not None:
        check_page(page)
    judges = [parsed(each, catalogue.metrics()) for each in metric or []]
    chosen, words = method_flags(context, [method], data)
    [(kind, options)] = chosen
    check_writable(folder, SETTINGS)
    import lucidcam

    dataset = open_words(words, data_format, split, data_root).first(limit)
    wanted = list(dict.fromkeys(write)) if write else ["npz"]
    if "none" in wanted:
        if len(wanted) > 1:
            raise OptionError("--write none is for the index alone; leave the other formats out, or none.")
        wanted = []
    from lucidcam.engine.layers import check as check_layer  # these two bring torch
    from lucidcam.types import DTYPES

    reduced = DTYPES.get(loading.dtype) if not exact and str(DTYPES.get(loading.dtype)).removeprefix("torch.") in REDUCED else None
    loaded = load_model(model, replace(loading, dtype="float32") if reduced else loading)
    for name in layer or []:
        check_layer(loaded.module, name)
    try:
        results = lucidcam.run(
            loaded,
            dataset,
            folder,
            method=kind,
            target=list(dict.fromkeys(target)) if target else None,
            layer=layer,
            class_map=class_map,
            write=wanted,
            metrics=judges,
            threshold=threshold,
            regions=regions,
            min_area=min_area,
            refine=refine or "",
            workers=workers,
            decoders=decoders,
            images_at_once=images_at_once,
            max_memory=max_memory,
            unit=unit,
            optimized=not exact,
            autocast=reduced,
            cache=cache,
            engine=engine,
            address=address,
            retry_failed=retry_failed,
            restart=restart,
            **options,
        )
    except KeyboardInterrupt:
        err.print("stopped; the units that are done are kept, and the same command goes on")
        raise typer.Exit(130) from None
    manifest = results.manifest
    out.print(f"{manifest['images']} images, {manifest['maps']} maps, {manifest['failed']} failed")
    if results.report is not None:
        out.print(results.report.table(out.width))
    out.print(f"{folder if '://' in folder else Path(folder)}", soft_wrap=True, markup=False)
    for note in manifest.get("notes", ()):
        err.print(f"note: {note}", style="yellow", markup=False)
    if page is not None:
        write_page(results, page, model=loaded, data=words[0] if len(words) == 1 else None)
    report([each["error"] for each in results.failures()])
