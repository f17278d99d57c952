"""What a page is made of. Blocks are plain data; how they look is the templates' matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from PIL import Image

from lucidcam.errors import OptionError
from lucidcam.imaging import render

SIDE = 720
"""Longer side in pixels to which pictures are reduced when they are put on a page; the page's budget may reduce them further. They are
shown smaller, and as large as the screen allows when they are enlarged."""

Value: TypeAlias = "str | float | int | None"
Part: TypeAlias = "Text | Facts | Table | Curves | Bars | Gallery | Fold | Section"


@dataclass(frozen=True)
class Text:
    """Words; an empty line begins a new paragraph.

    Attributes:
        words: plain text.
        tone: "plain", "note" (small print) or "warning" (framed, to be read first).
    """

    words: str
    tone: str = "plain"
    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if self.tone not in ("plain", "note", "warning"):
            raise OptionError(f"expected plain, note or warning as the tone of a text; got {self.tone!r}.")


@dataclass(frozen=True)
class Facts:
    """Names with values: settings, counts.

    Attributes:
        facts: in order; a value that is a mapping or a list is written out as text.
        caption: above them.
    """

    facts: Mapping[str, object]
    caption: str = ""
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Cell:
    """A table's cell that is more than its value.

    Attributes:
        value: text or number.
        best: printed bold and told to screen readers.
        tied: it is one of several that tie for the best.
        small: small print beside it: an interval, "≈".
        to: the anchor of a section, fold or shot of this page that the cell leads to; "": none.
        quiet: printed pale: baselines.
    """

    value: Value
    best: bool = False
    tied: bool = False
    small: str = ""
    to: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table. Numbers stand to the right, with four significant digits unless they come as text; the first column names the row.

    Attributes:
        head: a heading per column; a cell's `small` is printed below its value: "↓ lower is better".
        rows: as many cells each.
        caption: what the table shows.
        note: small print below it: what the marks mean.
        numeric: columns whose texts are figures and stand to the right, too, by number.
        filtered: each row is about one thing that the section's filter finds by the row's words: an image, a problem.
    """

    head: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | Value]]
    caption: str = ""
    note: str = ""
    numeric: Sequence[int] = ()
    filtered: bool = False
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise OptionError(f"expected {len(self.head)} cells in every row of the table {self.caption!r}; got {len(row)}.")


@dataclass(frozen=True)
class Curves:
    """Lines over one axis, drawn as SVG, with their values in a table below.

    Attributes:
        series: (x, y) points by name, in the order of x; points that are not finite are left out.
        x: what the horizontal axis is.
        y: what the vertical axis is.
        caption: what the picture shows.
        quiet: names of series that are drawn thin and grey: baselines.
    """

    series: Mapping[str, Sequence[tuple[float, float]]]
    x: str
    y: str
    caption: str
    quiet: Sequence[str] = ()
    kind: ClassVar[str] = "curves"


@dataclass(frozen=True)
class Bar:
    """A value with its interval.

    Attributes:
        name: of the bar.
        value: its length.
        low: end of its interval; NaN: none is drawn.
        high: its other end.
        to: the anchor of a section, fold or shot of this page that the name leads to; "": none.
        quiet: drawn grey: baselines.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    to: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Bars:
    """Values with intervals below each other, on one scale that has 0 on it, with an axis below.

    Attributes:
        items: from top to bottom.
        caption: what they are.
        unit: printed behind the values: " %".
        digits: behind the point, of values and intervals; None: four significant digits.
        ends: of the axis; None: of the values and intervals.
        chance: the value that mere chance would have; a line is drawn there. None: no line.
    """

    items: Sequence[Bar]
    caption: str
    unit: str = ""
    digits: int | None = None
    ends: tuple[float, float] | None = None
    chance: float | None = None
    kind: ClassVar[str] = "bars"


@dataclass(frozen=True)
class Grid:
    """Where the pictures of a shot stand: a table with a heading for each row and column.

    Attributes:
        rows: headings, from top to bottom.
        columns: headings, from left to right.
        cells: the number of a picture among the shot's, by row and column. Pictures that are in no cell have columns of their own, before
            the others, headed by their labels.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[int, int], int]


@dataclass(frozen=True, eq=False)
class Shot:
    """One thing seen: pictures of one size that stand side by side, or in a grid, with one caption.

    Pictures are reduced to `SIDE` pixels when they are given.

    Attributes:
        pictures: photos and maps.
        caption: of all of them.
        alt: what is to be seen, for those who do not see it. Of several pictures each gets its label, or its number, with it.
        note: small print below the caption.
        labels: of the pictures, below each; none or as many as pictures.
        to: the anchor of a section, fold or shot of this page that the caption leads to; "": none.
        anchor: what `to` of cells, bars and shots leads to; "": nothing does.
        words: what the section's filter finds the shot by, beside the caption and the note: classes, methods. None given: the labels.
        grid: where the pictures stand; None: side by side.
    """

    pictures: Sequence[Image.Image] = field(repr=False)
    caption: str
    alt: str
    note: str = ""
    labels: Sequence[str] = ()
    to: str = ""
    anchor: str = ""
    words: Sequence[str] = ()
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != len(self.pictures):
            raise OptionError(f"expected a label per picture of {self.caption!r}; got {len(self.labels)} for {len(self.pictures)}.")
        object.__setattr__(self, "pictures", tuple(reduced(each) for each in self.pictures))


@dataclass(frozen=True)
class Gallery:
    """Shots in a grid.

    Attributes:
        shots: in order.
        caption: what they are.
        small: smaller on paper than other galleries: what it shows is examples, or stands elsewhere, too.
    """

    shots: Sequence[Shot]
    caption: str = ""
    small: bool = False
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Fold:
    """Parts that are shown when asked for, and always on paper.

    Attributes:
        title: what is inside.
        parts: shown below it.
        anchor: what `to` of cells, bars and shots leads to; None: made from the title.
        open: shown from the beginning.
        heading: the title is a heading of the page's outline, as a section's is.
    """

    title: str
    parts: Sequence[Part]
    anchor: str | None = None
    open: bool = False
    heading: bool = False
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Section:
    """A headed part of the page; sections may hold sections, and headings step down with them.

    Attributes:
        title: its heading.
        parts: what is in it.
        text: a first paragraph.
        anchor: what `to` of cells, bars and shots leads to, and the address `#anchor`; None: made from the title.
    """

    title: str
    parts: Sequence[Part] = ()
    text: str = ""
    anchor: str | None = None
    kind: ClassVar[str] = "section"


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of the document.
        lead: what a reader should take away, in a sentence or two; an empty line begins a new paragraph.
        sections: in order; the table of contents is made of them.
        facts: a few figures below the lead, shown large: "images: 500".
        language: of the words, as in HTML's `lang`.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    facts: Mapping[str, object] = field(default_factory=dict)
    language: str = "en"


def reduced(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """A picture as RGB with its longer side at most `side` pixels; never enlarged, the caller's is left as it is."""
    small = render.reduced(picture, side)
    return small.copy() if small is picture else small
