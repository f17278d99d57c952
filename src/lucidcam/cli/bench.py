"""`lucidcam bench`: what each method costs on a model and images of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._loading import ModelOption, OptimizeOption
from lucidcam.options.groups import LayerOptions, ModelOptions, TimingOptions


def bench(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGES]...", help="Images, globs or folders. [dim]default: photos of scikit-image, or noise[/dim]"),
    ] = None,
    *,
    model: ModelOption = "demo",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="NAME or NAME:option=value,…; repeatable. [dim]default: all that the model supports[/dim]"),
    ] = None,
    timing: TimingOptions,
    optimize: OptimizeOption = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Time only: half the wait.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch on the CPU. [dim]default: as torch chooses[/dim]")] = None,
    where: LayerOptions,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for costs.json, costs.csv and costs.png.")] = None,
    loading: ModelOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print costs.json to standard output.")] = False,
) -> None:
    """What each method costs on your model and images, in plain forward passes of that model.

    With --optimize also on an optimised copy, which a reduced --dtype then runs by autocast.

    ±: half the distance between the quartiles. (n): measured on n images together. >: ended by the time limit. Memory: the peak above that
    of a plain forward pass.
    """
    from lucidcam.cli.evaluate import parsed
    from lucidcam.options import catalogue

    methods = [parsed(each, catalogue.methods()) for each in method] if method else None

    import torch

    import lucidcam
    from lucidcam.benchmark.result import check_place
    from lucidcam.cli._loading import load_model
    from lucidcam.cli._screen import err
    from lucidcam.cli._screen import out as screen
    from lucidcam.errors import InputError
    from lucidcam.io.images import find
    from lucidcam.io.storage import json_text
    from lucidcam.types import DTYPES

    if out is not None:
        check_place(out)
    found, problems = find(paths) if paths else (None, [])
    if problems:
        raise InputError(problems[0])
    if threads is not None:
        torch.set_num_threads(threads)
    reduced = DTYPES.get(loading.dtype) if optimize and loading.dtype not in ("float32", "fp32", "float64", "fp64") else None
    loaded = load_model(model, loading if reduced is None else replace(loading, dtype="float32"))
    with err.status("measuring") as status:
        costs = lucidcam.bench(
            loaded,
            found,
            methods,
            layer=where.layer[0] if where.layer is not None and len(where.layer) == 1 else where.layer,
            batch=timing.images,
            repeats=timing.repeats,
            time_limit=timing.time_limit or None,
            optimized=optimize,
            dtype=reduced,
            memory=not no_memory,
            out=out,
            told=lambda name: status.update(f"measuring {name}"),
        )
    if as_json:
        typer.echo(json_text(costs.to_dict(), indent=2))
        return
    shape = "×".join(map(str, costs.shape))
    on = f"{costs.device}, {costs.threads} thread{'s' if costs.threads != 1 else ''}" if costs.device == "cpu" else costs.device
    screen.print(f"{costs.model} on {on}, {shape}, {costs.dtype}; {costs.inputs}", markup=False)
    screen.print()
    screen.print(costs.table(screen.width))
    if out is not None:
        screen.print(f"\ncosts.json, costs.csv and costs.png are in {out}", soft_wrap=True, markup=False)
