"""`lucidcam study make|serve|report`: a study with people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._usage import Command

app = typer.Typer(
    help="Ask people: which class does an explanation show, which model is more reliable.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="That [b]lucidcam study make[/b] wrote.")]

SHOWN = 5
"""Problems, and labels without a class, that are listed."""


@app.command("make", cls=Command, no_args_is_help=True)
def make(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Photos, models, methods and questions; see the documentation.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study.")] = Path("study"),
) -> None:
    """Explain the photos once, and write all that the study's page shows.

    Exit code 0: all right; 1: some photos could not be used (the rest is there); 2: usage.
    """
    import lucidcam.study as study
    from lucidcam.cli._common import err
    from lucidcam.cli._common import out as screen
    from lucidcam.cli._common import report as tell

    plan = study.make(config, out)
    for block in plan.blocks:
        items = plan.of(block.kind, check=False)
        photos = len({each.image for each in items})
        screen.print(
            f"{block.kind}: {len(items)} items of {photos} photos; each participant gets {block.items} of them and {block.checks} checks",
            soft_wrap=True,
        )
    for name, reason in list(plan.facts["labels that are no classes"].items())[:SHOWN]:
        err.print(f"label not matched: {name}: {reason}", style="yellow", markup=False, soft_wrap=True)
    for name, each in plan.facts["models"].items():
        if each["accuracy"] is not None:
            screen.print(f"{name}: right on {each['accuracy']:.1%} of the labelled photos", soft_wrap=True, markup=False)
    for kind, luck in plan.luck().items():
        screen.print(f"{kind}: one who clicks at random passes the checks with a probability of {luck:.2%}", soft_wrap=True)
    screen.print(f"lucidcam study serve {out}", soft_wrap=True, markup=False)
    tell(plan.problems, SHOWN)


@app.command("serve", cls=Command, no_args_is_help=True)
def serve(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="127.0.0.1: this machine alone; 0.0.0.0: everybody who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    secure: Annotated[
        bool, typer.Option("--secure", help="Behind a proxy that speaks HTTPS: the cookie is sent over nothing else.")
    ] = False,
) -> None:
    """Serve a study's page, until Ctrl-C. Answers are in FOLDER/answers.sqlite."""
    import lucidcam.study as study

    study.serve(folder, host, port, secure)


@app.command("report", cls=Command, no_args_is_help=True)
def report(
    folder: FolderArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it, too: .html or .json.")] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap over participants and photos.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of its draws.")] = 0,
) -> None:
    """Accuracy, trust and agreement, with 95 % intervals. The study may be going on."""
    import lucidcam.study as study
    from lucidcam.cli._common import out as screen
    from lucidcam.study.show import table

    found = study.report(folder, out, resamples=resamples, seed=seed)
    screen.print(table(found), markup=False)
    if out is not None:
        screen.print(f"\n{out}", soft_wrap=True, markup=False)
