"""Channels as a table in a terminal and as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image, ImageDraw, ImageFont

from lucidcam.imaging import maps, render
from lucidcam.io.ownership import OwnedFiles, check_document, check_not_input
from lucidcam.io.picture_files import save_picture
from lucidcam.io.storage import check_writable_file, json_text, write_whole, writing
from lucidcam.utils.text import short

Order = Literal["gradient", "increase", "cam", "here"]
"""What channels are ordered by."""

ORDERS: dict[Order, str] = {
    "gradient": "gradient weight",
    "increase": "increase of confidence",
    "cam": "CAM weight",
    "here": "evidence at the pixel",
}
"""The orders in words."""

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from torch import Tensor

    from lucidcam.dissection.channels import Channel, Channels
    from lucidcam.types import Frame

HEIGHT = 150
"""Of each photo on a sheet, in pixels."""

LINE = 17
"""Of text under it."""

NARROWEST = 190
"""A cell is as wide as its numbers need."""

SAME = 0.995
"""Orders whose rank correlation is at least this are shown once."""

MARK = "!"
"""Before a channel that is at the top by gradient and in the lower half by increase, or the other way round."""


def table(found: Channels) -> Group:
    """A part for each order, and what they say about each other."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(heading(found), "bold"), Text("")]
    for by in shown(found):
        parts += [_part(found, by), Text("")]
    return Group(*parts, *(Text(line) for line in remarks(found)))


def heading(found: Channels) -> str:
    """What the table is about."""
    seen = "" if found.probability is None else f", probability {found.probability:.2f}"
    return f"{found.label.split(',')[0]}: score {found.score:.2f}{seen}; {len(found.rows)} live of {found.count} channels of {found.layer}"


def shown(found: Channels) -> list[Order]:
    """The orders without one that is the gradients' under another name: after average pooling the head's weights are."""
    twin = found.agreement("gradient", "cam")
    return [by for by in found.orders if by != "cam" or twin is None or twin < SAME]


def remarks(found: Channels) -> list[str]:
    """What the orders say about each other, in words."""
    lines = []
    twin = found.agreement("gradient", "cam")
    if twin is not None and twin >= SAME:
        lines.append("The head's weights (CAM) order the channels as the gradients do.")
    if found.floor is None:
        return lines
    both = found.agreement()
    if both is not None:
        lines.append(f"Rank correlation of gradient weight and increase: {both:.2f}, over {len(found.run)} channels.")
    leaders = found.top("gradient")
    against = sum(row.increase is not None and row.increase < 0 < row.gradient for row in leaders)
    if against:
        lines.append(f"{against} of the top {len(leaders)} by gradient weight lower the score below the baseline's ({found.floor:.3g}).")
    lines.append(f"{MARK} at the top by gradient or increase, in the lower half by the other: {len(found.misleading)} of {len(found.run)}.")
    if len(found.run) < len(found.rows):
        lines.append(f"{len(found.rows) - len(found.run)} live channels were not run: their increase is not known, and may be larger.")
    return lines


def _part(found: Channels, by: Order) -> Table:
    from rich.table import Table

    ranked = shown(found)
    places = {order: {row.index: i for i, row in enumerate(found.top(order, len(found.rows)), start=1)} for order in found.orders}
    part = Table(title=f"By {ORDERS[by]}", title_justify="left", title_style="italic", box=None, pad_edge=False, header_style="bold")
    names = {"here": "here", "gradient": "gradient", "increase": "increase", "cam": "CAM"}
    part.add_column("channel", justify="right", no_wrap=True)
    for order in found.orders:
        part.add_column(names[order], justify="right", no_wrap=True)
        if order in ranked:
            part.add_column("rank", justify="right", no_wrap=True, style="dim")
    part.add_column("alone", justify="right", no_wrap=True)
    part.add_column("of map", justify="right", no_wrap=True)
    for row in found.top(by):
        cells = []
        for order in found.orders:
            cells += [_number(row.value(order), order), *([str(places[order].get(row.index, ""))] if order in ranked else [])]
        part.add_row(f"{MARK if row.misleads else ''} {row.index}", *cells, _number(row.alone, "alone"), f"{row.share:.1%}")
    return part


def _number(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    if kind == "here":
        return f"{value:.1%}"
    return f"{value:.3g}" if kind == "alone" else f"{value:+.3g}"


def picture(found: Channels, count: int) -> Image.Image:
    """A row for each order."""
    lines = []
    for by in shown(found):
        cells = [_cell(found, row) for row in found.top(by, count)]
        captions = [f"{MARK + ' ' if row.misleads else ''}channel {row.index}" for row in found.top(by, count)]
        lines.append((f"top channels of {found.layer} by {ORDERS[by]}", list(zip(captions, cells))))
    return rows(lines, short(found.label))


def rows(lines: list[tuple[str, list[tuple[str, Image.Image]]]], title: str) -> Image.Image:
    """Panels one below the other, each under its own heading."""
    if not lines:
        return render.panel([[("no live channel", Image.new("RGB", (2 * NARROWEST, HEIGHT), render.PAPER))]], title, HEIGHT)
    panels = [render.panel([cells], f"{title}: {name}", cells[0][1].height) for name, cells in lines]
    sheet = Image.new("RGB", (max(each.width for each in panels), sum(each.height for each in panels)), render.PAPER)
    y = 0
    for each in panels:
        sheet.paste(each, (0, y))
        y += each.height
    return sheet


def _cell(found: Channels, row: Channel) -> Image.Image:
    """The photo under the channel's map, and below it the numbers."""
    activations = found.activation(row.index)
    return cell(over(found.image, found.frame, activations - activations.min()), numbers(row))


def over(image: Image.Image, frame: Frame, raw: Tensor) -> Image.Image:
    """A map `[h, w]` over the part of the photo that the network sees; the rest is left as it is."""
    return render.overlay(image, maps.normalise(maps.in_photo(raw, frame)), within=frame.seen)


def cell(picture: Image.Image, lines: list[str]) -> Image.Image:
    """A picture with lines of text below."""
    width = max(1, round(picture.width * HEIGHT / picture.height))
    found = Image.new("RGB", (max(width, NARROWEST), HEIGHT + LINE * len(lines) + 4), render.PAPER)
    found.paste(picture.convert("RGB").resize((width, HEIGHT)), (0, 0))
    draw = ImageDraw.Draw(found)
    for i, line in enumerate(lines):
        draw.text((0, HEIGHT + 3 + LINE * i), line, render.INK, font=ImageFont.load_default(size=13))
    return found


def numbers(row: Channel) -> list[str]:
    """A channel's numbers in words."""
    lines = [f"gradient weight {row.gradient:+.3g}"]
    if row.here is not None:
        lines.insert(0, f"{row.here:.1%} at the pixel")
    if row.increase is not None:
        lines.append(f"increase {row.increase:+.3g} (alone {row.alone:.3g})")
    if row.cam is not None:
        lines.append(f"CAM weight {row.cam:+.3g}")
    return lines


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def files_of(path: str | os.PathLike[str], stem: str) -> list[Path]:
    """The files that `save` writes: one `.json` or `.png`, or both in a folder."""
    path = Path(path).expanduser()
    return [path] if path.suffix.lower() in (".json", ".png") else [path / f"{stem}.json", path / f"{stem}.png"]


def check_writable(path: str | os.PathLike[str], stem: str) -> OwnedFiles | None:
    """Refuse a place that `save` cannot write to.

    Returns:
        The files of the folder; None: one file is named, which is replaced.

    Raises:
        OptionError: with the reason; or the folder holds someone else's file of such a name.
    """
    files = files_of(path, stem)
    for file in files:
        check_writable_file(file)
    if len(files) == 1:
        if files[0].suffix.lower() == ".json":
            check_document(files[0], '"layer": ', '"probability": ')
        return None
    owned = OwnedFiles(path)
    owned.check(*(file.name for file in files))
    return owned


def save(path: str | os.PathLike[str], stem: str, name: str, entry: Callable[[], dict[str, Any]], drawn: Callable[[], Image.Image]) -> Path:
    """Write one `.json` or `.png`, or both into a folder as `stem`.

    Args:
        path: where to.
        stem: of the files in a folder.
        name: of the photo: its path, where it has one; it is never replaced.
        entry: makes what the `.json` holds.
        drawn: makes the picture.

    Raises:
        OptionError: nothing can be written there, or the folder holds someone else's file of such a name.
    """
    owned = check_writable(path, stem)
    for place in files_of(path, stem):
        check_not_input(place, name)
        file = place if owned is None else owned.path(place.name)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix.lower() == ".json":
                write_whole(file, (json_text(entry(), indent=2, ensure_ascii=False) + "\n").encode())
            else:
                save_picture(drawn(), file)
    return Path(path).expanduser()
