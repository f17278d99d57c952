"""The command line: one file per command, thin shells over the runner."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `lucidcam`; an error of ours becomes one line and exit code 2."""
    from rich.console import Console

    from lucidcam.cli.program import app
    from lucidcam.errors import LucidcamError

    try:
        app(prog_name="lucidcam")
    except LucidcamError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {_escaped(str(error))}")
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
