"""The commands put together."""

from __future__ import annotations

from typing import Annotated

import typer

from lucidcam.cli import (
    audit,
    bench,
    channels,
    concepts,
    discover,
    evaluate,
    explain,
    layers,
    localize,
    methods,
    metrics,
    models,
    report,
    run,
    study,
    train,
)
from lucidcam.cli.app import app as web_app

app = typer.Typer(
    name="lucidcam",
    help="Where a vision network looks, and whether to believe it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
)
app.command("explain", context_settings=explain.CONTEXT, no_args_is_help=True)(explain.explain)
app.command("evaluate", no_args_is_help=True)(evaluate.evaluate)
app.command("localize", context_settings=localize.CONTEXT, no_args_is_help=True)(localize.localize)
app.command("audit", context_settings=audit.CONTEXT, no_args_is_help=True)(audit.audit)
app.command("discover", context_settings=discover.CONTEXT, no_args_is_help=True)(discover.discover)
app.command("channels", no_args_is_help=True)(channels.channels)
app.command("concepts")(concepts.concepts)
app.command("run", context_settings=run.CONTEXT, no_args_is_help=True)(run.run)
app.command("report", no_args_is_help=True)(report.report)
app.add_typer(train.app, name="train")
app.add_typer(study.app, name="study")
app.command("app")(web_app)
app.command("bench")(bench.bench)
app.command("methods")(methods.methods)
app.command("metrics")(metrics.metrics)
app.command("models")(models.models)
app.command("layers")(layers.layers)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("lucidcam"))
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Where a vision network looks, and whether to believe it."""
