"""`lucidcam evaluate`: rank methods on a data set, beside trivial baselines, with intervals."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidcam.cli._loading import ModelOption
from lucidcam.cli.report import ReportOption, write_page
from lucidcam.options import catalogue
from lucidcam.options.groups import ComparisonOptions, EvaluationDataOptions, MeasurementOptions, ModelOptions

if TYPE_CHECKING:
    from lucidcam import Model, Report
    from lucidcam.options.catalogue import Catalogue


SHOWN = 10
"""Classes that are listed, of those that were matched and of those that were not."""


def evaluate(
    data: Annotated[Path, typer.Argument(help="A folder of images, or an annotation file; see [b]Data[/b] in the documentation.")],
    *,
    model: ModelOption = "demo",
    comparison: ComparisonOptions,
    source: EvaluationDataOptions,
    measurement: MeasurementOptions,
    loading: ModelOptions,
    page: ReportOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json to standard output.")] = False,
) -> None:
    """Rank methods on your data: every metric with a 95 % interval, trivial baselines beside.

    Bold: the best, and all that tie with it: equal as printed, or (≈) not significantly different on the same images (5 %).
    ↑: higher is better; ↓: lower is better.
    †: its threshold is chosen on the images it is measured on.

    Exit code 0: all right; 1: some samples could not be used (the rest is measured); 2: usage.
    """
    methods = [parsed(each, catalogue.methods()) for each in comparison.method] if comparison.method else None
    metrics = [parsed(each, catalogue.metrics()) for each in comparison.metric] if comparison.metric else None

    import lucidcam
    from lucidcam import registry
    from lucidcam.cli._loading import load_model
    from lucidcam.cli._screen import err, report
    from lucidcam.cli._screen import out as screen
    from lucidcam.data import open_data  # this brings torch
    from lucidcam.io.storage import check_writable, json_text
    from lucidcam.reports import check as check_page

    if page is not None:
        check_page(page)
    if comparison.out is not None:
        check_writable(comparison.out, "results.json")
    dataset = open_data(data, source.data_format, **source.reader_options())  # a wrong path is told before anything is loaded
    loaded = load_model(model, loading)
    # A page needs pictures, which an evaluation keeps in its folder.
    with nullcontext(comparison.out) if page is None or comparison.out is not None else TemporaryDirectory() as folder:
        try:
            found = lucidcam.evaluate(
                loaded,
                dataset,
                methods,
                metrics,
                target=comparison.target,
                layer=source.layer[0] if source.layer is not None and len(source.layer) == 1 else source.layer,
                class_map=source.class_map,
                preset=comparison.preset,
                baselines=comparison.baseline,
                limit=source.limit,
                resamples=measurement.resamples,
                seed=measurement.seed,
                batch_size=measurement.batch_size,
                optimized=not measurement.exact,
                out=folder,
                restart=measurement.restart,
                progress=False if as_json else None,
            )
        except KeyboardInterrupt:
            err.print(
                "stopped; what was measured is kept, and the same command goes on"
                if comparison.out
                else "stopped; with --out it could go on"
            )
            raise typer.Exit(130) from None
        if page is not None:
            write_page(found, page, told=not as_json)
    if as_json:
        typer.echo(json_text(found.to_dict(), indent=2))
    else:
        screen.print(found.table(screen.width))
        where = f"; results.json, images.csv, curves and galleries are in {comparison.out}" if comparison.out is not None else ""
        screen.print(f"{len(found.names)} images measured, {len(found.skipped)} skipped{where}", soft_wrap=True, markup=False)
    for note in found.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    if comparison.target == "label" or any(registry.metrics[each["metric"]].needs for each in found.settings["metrics"].values()):
        _tell_classes(found, loaded)
    report([problem.error for problem in found.skipped])


def _tell_classes(found: Report, model: Model) -> None:
    """What the data's classes were taken for: a wrong match would go unseen."""
    from lucidcam.cli._screen import err

    for name, number in list(found.classes.items())[:SHOWN]:
        err.print(f"class matched: {name} is {number} ({model.label(number).split(',')[0]})", style="dim", markup=False)
    for name, reason in list(found.unmatched.items())[:SHOWN]:
        err.print(f"class not matched: {name}: {reason}", style="yellow", markup=False)
    if max(len(found.classes), len(found.unmatched)) > SHOWN:
        err.print("… results.json lists the others", style="dim", markup=False)


def parsed(text: str, known: Catalogue) -> tuple[str, dict[str, Any]]:
    """From "scorecam:weights=softmax,baseline=blur" to a name and its options, of the fields' types.

    Raises:
        OptionError: for a name or option that does not exist, or a value that does not fit.
    """
    from lucidcam.cli._method_flags import convert
    from lucidcam.errors import OptionError, unknown

    name, _, rest = text.partition(":")
    types = known[name].types
    if known.kind == "method":
        types |= {**catalogue.settings().types, "layer": str}
    options = {}
    for word in re.split(r",(?=\w+=)", rest) if rest else []:
        key, equals, value = word.partition("=")
        field = key.strip().replace("-", "_")
        if not equals:
            raise OptionError(f"expected {name}:option=value,…; got {word!r} in {text!r}.")
        if field not in types:
            raise OptionError(f"{name}: {unknown('option', key, types)}")
        try:
            options[field] = convert(key, value, types[field])
        except OptionError as error:
            raise OptionError(f"{name}: {str(error).removeprefix('--')}") from None
    return name, options
