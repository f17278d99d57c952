"""`lucidcam channels`: a layer's channels for one photo and class, by gradient, by increase of confidence, by the head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._loading import ModelOption, OptimizeOption, load_model
from lucidcam.cli._screen import out as screen
from lucidcam.errors import OptionError
from lucidcam.options.groups import MaskingOptions, ModelOptions


def channels(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="An image.")],
    *,
    model: ModelOption = "demo",
    target: Annotated[
        str | None, typer.Option("--target", "-t", "--class", help="Label or class id. [dim]default: the predicted class[/dim]")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Dotted name. See [b]lucidcam layers[/b].")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of each order.")] = 8,
    at: Annotated[str | None, typer.Option(help="Also what each says at this pixel.", metavar="X,Y")] = None,
    masking: MaskingOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, a .png or a .json.")] = Path("lucidcam-channels"),
    optimize: OptimizeOption = False,
    loading: ModelOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print channels.json to standard output.")] = False,
) -> None:
    """Show which channels weigh most for a class, and where gradients mislead.

    Each live channel's map masks the photo; what that leaves of the score stands
    beside the channel's gradient weight and the head's weight. ! marks channels at
    the top by gradient or by increase, and in the lower half by the other.
    """
    import lucidcam
    from lucidcam.dissection.sheets import check_writable, files_of
    from lucidcam.io.ownership import check_not_input
    from lucidcam.io.storage import json_text

    check_writable(out, "channels")
    for file in files_of(out, "channels"):
        check_not_input(file, photo)
    found = lucidcam.channels(
        load_model(model, loading, optimize),
        photo,
        target,
        layer,
        top=top,
        at=_pixel(at),
        increase=masking.increase,
        budget=masking.budget,
        baseline=masking.baseline,
        progress=False if as_json else None,
    )
    found.save(out)
    if as_json:
        typer.echo(json_text(found.to_dict(), indent=2))
        return
    screen.print(found.table())
    screen.print(f"\n{'channels.png and channels.json are in' if out.suffix.lower() not in ('.png', '.json') else 'written to'}")
    screen.print(str(out), soft_wrap=True, markup=False)


def _pixel(text: str | None) -> tuple[float, float] | None:
    """The pixel of a flag.

    Raises:
        OptionError: it is none.
    """
    if text is None:
        return None
    number = r"\s*(-?\d+(?:\.\d*)?)\s*"
    found = re.fullmatch(rf"{number},{number}", text)
    if found is None:
        raise OptionError(f"--at expects x,y in the photo's pixels; got {text!r}.")
    return float(found[1]), float(found[2])
