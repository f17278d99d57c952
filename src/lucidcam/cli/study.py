"""`lucidcam study make|serve|report|remove`: a study with people."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucidcam.cli._usage import Command

if TYPE_CHECKING:
    from rich.table import Table

    from lucidcam.study import Removal

app = typer.Typer(
    help="Ask people: which class does an explanation show, which model is more reliable.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="That [b]lucidcam study make[/b] wrote.")]

SHOWN = 5
"""Problems, and labels without a class, that are listed."""

RUNS_SHOWN = 20
"""Ranges of participants' numbers that are listed: the longest."""


@app.command("make", cls=Command, no_args_is_help=True)
def make(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Photos, models, methods and questions; see the documentation.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study.")] = Path("study"),
) -> None:
    """Explain the photos once, and write all that the study's page shows.

    Exit code 0: all right; 1: some photos could not be used (the rest is there); 2: usage.
    """
    import lucidcam.study as study
    from lucidcam.cli._screen import err
    from lucidcam.cli._screen import out as screen
    from lucidcam.cli._screen import report as tell

    with _ends_at_sigterm():
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


@contextmanager
def _ends_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does: what is half done is taken away first."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command("serve", cls=Command, no_args_is_help=True)
def serve(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="127.0.0.1: this machine alone; 0.0.0.0: everybody who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    secure: Annotated[
        bool, typer.Option("--secure", help="Behind a proxy that speaks HTTPS: the cookie is sent over nothing else.")
    ] = False,
    starts: Annotated[
        int, typer.Option("--starts-per-minute", min=1, help="Participants who may start in a minute; others are asked to wait.")
    ] = 60,
) -> None:
    """Serve a study's page, until Ctrl-C. Answers are in FOLDER/answers.sqlite."""
    import lucidcam.study as study

    study.serve(folder, host, port, secure, starts)


@app.command("report", cls=Command, no_args_is_help=True)
def report(
    folder: FolderArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it, too: .html or .json.")] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap over participants and photos.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of its draws.")] = 0,
) -> None:
    """Accuracy, trust and agreement, with 95 % intervals. The study may be going on."""
    import lucidcam.study as study
    from lucidcam.cli._screen import out as screen
    from lucidcam.study.show import table

    found = study.report(folder, out, resamples=resamples, seed=seed)
    screen.print(table(found), markup=False)
    if out is not None:
        screen.print(f"\n{out}", soft_wrap=True, markup=False)


@app.command("remove", cls=Command, no_args_is_help=True)
def remove(
    folder: FolderArgument,
    silent: Annotated[bool, typer.Option("--silent", help="Participants who answered nothing.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Participants who did not answer all questions.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Participants who passed the checks of no question, and failed some.")] = False,
    quicker: Annotated[
        float | None, typer.Option("--quicker", metavar="SECONDS", help="Participants whose median time for an answer is less.")
    ] = None,
    ids: Annotated[
        str, typer.Option("--ids", metavar="12-340,500", help="Only these numbers; participants are numbered in the order they started.")
    ] = "",
    idle: Annotated[bool, typer.Option("--idle", help="Only those who have not been there for an hour of the study's use.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show who would be removed; remove nobody.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove floods: participants and all their answers, for good. The study may be going on.

    Whoever meets one of --silent, --unfinished, --failed and --quicker is removed; --ids and --idle narrow that down, and --ids alone
    removes all of these numbers. Without any of them, shows what each would remove.
    """
    import lucidcam.study as study
    from lucidcam.cli._screen import out as screen
    from lucidcam.errors import OptionError

    numbers = study.parse_numbers(ids) if ids else ()
    criteria = study.Criteria(silent=silent, unfinished=unfinished, failed=failed, quicker=quicker, numbers=numbers, idle=idle)
    removable = study.find_removable(folder, criteria)
    screen.print(_removal_table(removable))
    if criteria.is_empty:
        screen.print("\nNobody is removed: say whom with --silent, --unfinished, --failed, --quicker or --ids.", soft_wrap=True)
        return
    count = len(removable.participants)
    screen.print(f"\n{count} of {removable.started} participants, with {removable.answers} answers", soft_wrap=True)
    if dry_run or not count:
        return
    if not yes:
        try:
            is_confirmed = typer.confirm("Remove them for good?")
        except typer.Abort:
            raise OptionError("nobody was removed: nothing confirmed it; pass --yes.") from None
        if not is_confirmed:
            screen.print("Nobody was removed.")
            return
    removed = study.remove(folder, criteria, removable.participants)
    screen.print(f"Removed {len(removed.participants)} participants with {removed.answers} answers.", soft_wrap=True)


def _removal_table(removable: Removal) -> Table:
    """Counts by reason, and the longest runs of numbers."""
    from lucidcam.cli._screen import table
    from lucidcam.study.removal import REASONS

    grid = table("who", "participants")
    for reason, count in removable.counts.items():
        if count:
            grid.add_row(REASONS[reason], str(count))
    longest = sorted(removable.runs, key=lambda run: run[0] - run[1])[:RUNS_SHOWN]
    for low, high in sorted(longest):
        own = sum(low <= number <= high for number in removable.participants)
        grid.add_row(f"number {low}" if low == high else f"numbers {low} to {high}", str(own))
    if len(removable.runs) > RUNS_SHOWN:
        grid.add_row(f"{len(removable.runs) - RUNS_SHOWN} shorter runs of numbers", "")
    return grid
