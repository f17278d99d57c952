"""The commands put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

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
from lucidcam.cli._usage import PATHS_AND_FLAGS, Command, expanded
from lucidcam.cli.app import app as web_app
from lucidcam.options import catalogue

app = typer.Typer(
    name="lucidcam",
    help="Where a vision network looks, and whether to believe it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
)


def _add(room: str, name: str, command: Callable[..., Any], **options: Any) -> None:
    """Add a command; its help flows, whatever the width of the terminal."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    if options.get("context_settings") is PATHS_AND_FLAGS:
        own = ", ".join(f"--{name.replace('_', '-')}" for name in catalogue.settings().types)
        paragraphs.insert(-1, f"A method's own options are flags too (see [b]lucidcam methods NAME[/b]); every method has {own}.")
    help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, cls=Command, help=help, rich_help_panel=room, **options)(expanded(command))


LOOK, JUDGE, WORK, LIST = "Look", "Judge", "Work through data sets, train", "What there is"

_add(LOOK, "explain", explain.explain, context_settings=PATHS_AND_FLAGS, no_args_is_help=True)
_add(LOOK, "app", web_app)
_add(LOOK, "channels", channels.channels, no_args_is_help=True)
_add(LOOK, "concepts", concepts.concepts)
_add(LOOK, "report", report.report, no_args_is_help=True)
_add(JUDGE, "evaluate", evaluate.evaluate, no_args_is_help=True)
_add(JUDGE, "audit", audit.audit, context_settings=PATHS_AND_FLAGS, no_args_is_help=True)
app.add_typer(study.app, name="study", rich_help_panel=JUDGE)
_add(JUDGE, "bench", bench.bench)
_add(WORK, "run", run.run, context_settings=PATHS_AND_FLAGS, no_args_is_help=True)
_add(WORK, "localize", localize.localize, context_settings=PATHS_AND_FLAGS, no_args_is_help=True)
_add(WORK, "discover", discover.discover, context_settings=PATHS_AND_FLAGS, no_args_is_help=True)
app.add_typer(train.app, name="train", rich_help_panel=WORK)
_add(LIST, "methods", methods.methods)
_add(LIST, "metrics", metrics.metrics)
_add(LIST, "models", models.models)
_add(LIST, "layers", layers.layers)


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
