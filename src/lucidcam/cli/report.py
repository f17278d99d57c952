"""`lucidcam report`: a finished result as one HTML file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ReportOption = Annotated[Path | None, typer.Option("--report", metavar="FILE.html", help="One HTML file that shows it all.")]


def report(
    folder: Annotated[Path, typer.Argument(help="What explain, evaluate, run or audit wrote (--out).")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    data: Annotated[Path | None, typer.Option(help="Of a run: the folder of the photos, which its index names.")] = None,
) -> None:
    """A report to hand over: summary, leaderboard, curves, galleries, class by class, settings, in one HTML file.

    It opens from disk without a network, on a phone, in the dark and on paper, and says how it was made.
    """
    options: dict[str, Any] = {} if data is None else {"data": data}
    write_page(folder, out, title=title, **options)


def write_page(result: Any, page: Path, told: bool = True, **options: Any) -> None:
    """Write the page of a result, and say where it is, unless standard output is for something else."""
    import lucidcam
    from lucidcam.cli._screen import out as screen

    written = lucidcam.report(result, page, command=command_line(), **options)
    if told:
        screen.print(f"{written}, {written.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)


def command_line() -> str | None:
    """The command that was typed; None where Python was called otherwise."""
    name = Path(sys.argv[0])
    ours = name.stem == "lucidcam" or name.parts[-2:] in (("cli", "__main__.py"), ("lucidcam", "__main__.py"))
    return shlex.join(["lucidcam", *sys.argv[1:]]) if ours else None
