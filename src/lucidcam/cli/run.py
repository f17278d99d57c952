"""`lucidcam run`: a data set of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._datasets import open_words
from lucidcam.cli._loading import ModelOption, load_model
from lucidcam.cli._method_flags import method_flags
from lucidcam.cli._screen import err, out, report
from lucidcam.cli.report import ReportOption, write_page
from lucidcam.errors import OptionError
from lucidcam.options.groups import DataOptions, ExecutionOptions, ModelOptions, OutputOptions, QueryOptions, RegionOptions

REDUCED = ("bfloat16", "float16")
"""Precisions that an optimised copy computes in by autocast."""


def run(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, tar shards, an annotation file, images; paths or URLs.")],
    folder: Annotated[str, typer.Option("--out", "-o", help="Where to write: a folder, or a URL (s3://…).")],
    *,
    model: ModelOption = "demo",
    query: QueryOptions,
    output: OutputOptions,
    region: RegionOptions,
    execution: ExecutionOptions,
    source: DataOptions,
    loading: ModelOptions,
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
    judges = [parsed(each, catalogue.metrics()) for each in output.metric or []]
    chosen, words = method_flags(context, [query.method], data)
    [(kind, options)] = chosen
    check_writable(folder, SETTINGS)
    import lucidcam

    dataset = open_words(words, source).first(source.limit)
    wanted = list(dict.fromkeys(output.write)) if output.write else ["npz"]
    if "none" in wanted:
        if len(wanted) > 1:
            raise OptionError("--write none is for the index alone; leave the other formats out, or none.")
        wanted = []
    from lucidcam.engine.layers import check as check_layer  # these two bring torch
    from lucidcam.types import DTYPES

    reduced = (
        DTYPES.get(loading.dtype) if not execution.exact and str(DTYPES.get(loading.dtype)).removeprefix("torch.") in REDUCED else None
    )
    loaded = load_model(model, replace(loading, dtype="float32") if reduced else loading)
    for name in source.layer or []:
        check_layer(loaded.module, name)
    try:
        results = lucidcam.run(
            loaded,
            dataset,
            folder,
            method=kind,
            target=list(dict.fromkeys(query.target)) if query.target else None,
            layer=source.layer,
            class_map=source.class_map,
            write=wanted,
            metrics=judges,
            threshold=region.threshold,
            regions=region.regions,
            min_area=region.min_area,
            refine=region.refine or "",
            workers=execution.workers,
            decoders=execution.decoders,
            images_at_once=execution.images_at_once,
            max_memory=execution.max_memory,
            unit=execution.unit,
            optimized=not execution.exact,
            autocast=reduced,
            cache=execution.cache,
            engine=execution.engine,
            address=execution.address,
            retry_failed=execution.retry_failed,
            restart=execution.restart,
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
