"""`lucidcam concepts`: name a network's channels by a bank of concepts, once, for `lucidcam explain --words`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._loading import ModelOption, OptimizeOption, load_model
from lucidcam.cli._screen import out as screen
from lucidcam.cli._screen import report
from lucidcam.errors import OptionError
from lucidcam.options.groups import ModelOptions


def concepts(
    *,
    model: ModelOption = "demo",
    bank: Annotated[
        str | None,
        typer.Option("--bank", help="A folder with a sub-folder of images for each concept, or any data set. [dim]default: built in[/dim]"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Name by this text: --clip says which of the bank's images show it. Repeatable."),
    ] = None,
    clip: Annotated[str | None, typer.Option(help="For --text: hf:openai/clip-vit-base-patch16, say.")] = None,
    layer: Annotated[str | None, typer.Option(help="Dotted name. See [b]lucidcam layers[/b].")] = None,
    least: Annotated[float, typer.Option(help="Held-out AUC that a name needs: 0.5 is chance, 1 perfect.")] = 0.8,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("names.json"),
    optimize: OptimizeOption = False,
    loading: ModelOptions,
) -> None:
    """Name the channels of a layer by images of concepts, as network dissection does.

    A name is chosen on one half of the bank's images and tested on the other.
    Give the file to [b]lucidcam explain --words --concepts[/b].

    Exit code 0: all right; 1: some images failed (the rest is used); 2: usage.
    """
    import lucidcam
    from lucidcam.cli._concepts import bank_of
    from lucidcam.dissection.channel_names import check_names_file

    check_names_file(out)
    loaded = load_model(model, loading, optimize)
    if text:
        if bank is None or clip is None:
            raise OptionError("--text needs --bank, a folder of photos, and --clip, a model of images and texts.")
        chosen = lucidcam.Bank.texts(bank, text, load_model(clip, ModelOptions(device=loading.device, dtype=loading.dtype)))
    elif clip is not None:
        raise OptionError("--clip is for --text.")
    else:
        chosen = bank_of(loaded, bank)
    found = lucidcam.concepts(loaded, chosen, layer, least=least)
    found.save(out)
    screen.print(found.table())
    screen.print(f"\n{out}", soft_wrap=True, markup=False)
    report([problem.error for problem in found.problems])
