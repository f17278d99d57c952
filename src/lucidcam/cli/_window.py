"""The window of grey values that photos are read through, as two options: `--window 400 --level 40`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lucidcam.errors import OptionError

if TYPE_CHECKING:
    from lucidcam.images import Window

WIDTH_HELP = "Of grey photos, 16-bit ones say: how many values lie between black and white. [dim]default: all[/dim]"
LEVEL_HELP = "The value in the middle of --window."

WindowOption = Annotated[float | None, typer.Option("--window", help=WIDTH_HELP)]
LevelOption = Annotated[float | None, typer.Option("--level", help=LEVEL_HELP)]


def window_of(width: float | None, level: float | None) -> Window | None:
    """The (width, level) of `--window` and `--level`; None where neither was given.

    Raises:
        OptionError: one without the other, or a width that is not positive.
    """
    from lucidcam.images import checked_window

    if width is None and level is None:
        return None
    if width is None or level is None:
        given, lacking = ("--level", "--window") if width is None else ("--window", "--level")
        raise OptionError(f"{given} needs {lacking}: black is level − window / 2, white is level + window / 2.")
    return checked_window((width, level))
