"""Contact sheets of parts: one for each class, and overviews with a row for each class."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lucidcam.imaging import render
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.picture_files import save_picture
from lucidcam.localization.crops import Concept, Part
from lucidcam.types import with_meaning
from lucidcam.utils.text import short

TILE, SMALL_TILE = 240, 150
"""Sides of the pictures, in pixels, on the sheet of a class and on the overview."""

COLUMNS = 4
"""Regions in a row of the sheet of a class; an overview is at least as wide."""

SHOWN = 8
"""Regions in a row of the overview."""

ROWS = 25
"""Classes on one overview: more of them go to further ones."""

LINE, HALO = (255, 221, 51), (0, 0, 0)
"""The outline: yellow between black, to be seen on anything."""

FAINT = (90, 90, 95)
"""Text that is not read first."""

GROUND = (236, 236, 238)
"""Beside crops that are not square."""

LEGEND = "(evidence at the peak, probability)"


def save_sheets(concepts: Sequence[Concept], folder: Path) -> list[str | None]:
    """Draw all sheets into a folder.

    Returns:
        The sheet's file of each class, relative to the folder; None for a class without any region.

    Raises:
        OptionError: a file of these names is someone else's.
    """
    owned = OwnedFiles(folder)
    shown = [concept for concept in concepts if concept.parts]
    files = dict(zip(map(id, shown), _files([concept.label for concept in shown])))
    for concept in shown:
        save_picture(class_sheet(concept), owned.path(files[id(concept)]))
    for page, start in enumerate(range(0, len(shown), ROWS), start=1):
        name = "overview.png" if page == 1 else f"overview-{page}.png"
        save_picture(overview(shown[start : start + ROWS]), owned.path(name))
    return [files.get(id(concept)) for concept in concepts]


def class_sheet(concept: Concept) -> Image.Image:
    """The regions of one class, best first, with score, probability and the image's name."""
    cells = [(f"{_figures(part)}   {Path(part.image).name}", _tile(part, TILE)) for part in concept.parts]
    lines = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    return render.panel(_wide(lines, TILE), f"{_title(concept)}: top regions of {_counted(concept)} {LEGEND}", height=TILE)


def overview(concepts: Sequence[Concept]) -> Image.Image:
    """A row for each class: its name, and its top regions, best first, with score and probability."""
    lines = [[("", _name(concept)), *((_figures(part), _tile(part, SMALL_TILE)) for part in concept.parts[:SHOWN])] for concept in concepts]
    return render.panel(_wide(lines, SMALL_TILE), f"Top regions of each class {LEGEND}", height=SMALL_TILE)


def _wide(lines: list[list[tuple[str, Image.Image]]], side: int) -> list[list[tuple[str, Image.Image]]]:
    """At least `COLUMNS` columns, so that the title has its place."""
    blank = ("", Image.new("RGB", (side, side), render.PAPER))
    return [[*line, *[blank] * (COLUMNS - len(line))] for line in lines]


def _tile(part: Part, side: int) -> Image.Image:
    """The crop in a square, with the region's outline."""
    crop, mask = part.crop, part.mask
    scale = side / max(crop.size)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    crop = crop.resize(size, Image.Resampling.LANCZOS)
    inside = mask.resize(size, Image.Resampling.BICUBIC).point(lambda level: 255 * (level > 127))
    for width, colour in ((5, HALO), (3, LINE)):
        edge = inside.filter(ImageFilter.MaxFilter(width))
        edge.paste(0, mask=inside.filter(ImageFilter.MinFilter(width)))
        crop.paste(colour, mask=edge)
    tile = Image.new("RGB", (side, side), GROUND)
    tile.paste(crop, ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _name(concept: Concept) -> Image.Image:
    """The class's name as a picture."""
    tile = Image.new("RGB", (SMALL_TILE, SMALL_TILE), render.PAPER)
    lines = textwrap.wrap(_title(concept).replace("_", " "), 15) or ["?"]
    draw = ImageDraw.Draw(tile)
    draw.multiline_text((4, 8), "\n".join(lines[:5]), render.INK, font=ImageFont.load_default(size=18), spacing=5)
    draw.text((4, SMALL_TILE - 22), _counted(concept), FAINT, font=ImageFont.load_default(size=15))
    return tile


def _figures(part: Part) -> str:
    if part.probability is None:
        return f"{part.score:#.3g}"
    return f"{part.score:#.3g}  {'<1' if part.probability < 0.01 else f'{100 * part.probability:.0f}'}%"


def _counted(concept: Concept) -> str:
    return "1 image" if concept.images == 1 else f"{concept.images} images"


def _title(concept: Concept) -> str:
    """The class as the data calls it, and the model's word for it where that says more."""
    return textwrap.shorten(with_meaning(concept.label, concept.meaning), 60, placeholder="…")


def _files(labels: Sequence[str]) -> list[str]:
    """A file for each label, no two the same, also where capitals do not count.

    >>> _files(["crane, bird", "crane", "T/F"])
    ['classes/crane.png', 'classes/crane-2.png', 'classes/T_F.png']
    """
    taken: set[str] = set()
    found = []
    for label in labels:
        stem = re.sub(r"[^\w.=+-]+", "_", short(label))[:80].strip("._") or "class"
        name, count = stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        found.append(f"classes/{name}.png")
    return found
