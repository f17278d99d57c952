"""Explanations as notebooks show them: HTML that stands by itself, with pictures of bounded size, without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lucidcam.imaging import render
from lucidcam.utils.text import printable

SIDE = 320
"""Longer side in pixels of the pictures in a grid."""

LARGE = 480
"""Longer side in pixels of the picture of one explanation by itself."""

STRIP = 8
"""Frames of a clip that are shown below its picture."""

MOST = 60
"""Maps that are shown; the text says how many more there are."""

LONGEST = 80
"""Characters of a name or label that are shown; the whole is there when the pointer rests on it."""

_FIGURE = "display:inline-block;margin:0 12px 12px 0;vertical-align:top;max-width:100%"
_TEXT = "font-size:0.9em;line-height:1.35;margin:2px 0;max-width:{width}px;overflow-wrap:anywhere"
_CELL = "border:0;padding:4px 10px 10px 0;text-align:left;vertical-align:top;background:none"


@dataclass(frozen=True)
class Figure:
    """A picture with what is said of it.

    Attributes:
        picture: the image, in the size that it is shown in.
        title: the first line, in bold.
        lines: further ones.
        alt: what the picture shows, for those who do not see it.
        note: what must be known to read it; "": nothing.
    """

    picture: Image.Image
    title: str
    lines: Sequence[str] = ()
    alt: str = ""
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """What the colours mean.

    Attributes:
        text: in a sentence.
        zero: the colour at the left end of the bar, in words; "": there is no bar.
        one: that at the right end.
    """

    text: str
    zero: str = "0"
    one: str = "1"


@dataclass(frozen=True)
class Row:
    """One image of a grid.

    Attributes:
        title: its name.
        photo: the image itself, reduced; None: it is not shown.
        figures: of its maps.
    """

    title: str
    photo: Image.Image | None = field(repr=False)
    figures: Sequence[Figure] = ()


def card(figure: Figure, strip: Sequence[Figure], scales: Sequence[Scale]) -> str:
    """One explanation: its picture, what is known of it, the colour bar, and for a clip a strip of its frames."""
    parts = [_figure(figure, LARGE)]
    if strip:
        parts.append(f"<div>{''.join(_figure(each, SIDE // 2) for each in strip)}</div>")
    return _frame([*parts, *map(_legend, scales)])


def flow(figures: Sequence[Figure], more: int, scales: Sequence[Scale]) -> str:
    """Figures side by side, as many as there is room for."""
    return _frame(["".join(_figure(each, SIDE) for each in figures), _left_out(more), *map(_legend, scales)])


def table(rows: Sequence[Row], heads: Sequence[str], more: int, scales: Sequence[Scale]) -> str:
    """Images in rows, their maps in columns.

    Args:
        rows: the images.
        heads: of the columns of maps; empty: they have none.
        more: maps that are left out.
        scales: what the colours mean.
    """
    head = "".join(f'<th scope="col" style="{_CELL}">{_short(each)}</th>' for each in ("image", *heads)) if heads else ""
    body = []
    for row in rows:
        photo = "" if row.photo is None else _image(row.photo, f"photo {row.title}")
        cells = "".join(f'<td style="{_CELL}">{_figure(each, SIDE)}</td>' for each in row.figures)
        name = f'<div style="{_TEXT.format(width=SIDE)}">{_short(row.title)}</div>'
        body.append(f'<tr style="background:none"><th scope="row" style="{_CELL};font-weight:normal">{photo}{name}</th>{cells}</tr>')
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    grid = f'<table style="border-collapse:collapse;border:0">{top}<tbody>{"".join(body)}</tbody></table>'
    return _frame([f'<div style="overflow-x:auto">{grid}</div>', _left_out(more), *map(_legend, scales)])


def empty(text: str) -> str:
    """What is shown where there is nothing to show."""
    return _frame([f"<div>{_escaped(text)}</div>"])


def _frame(parts: Iterable[str]) -> str:
    return f'<div class="lucidcam" style="color:inherit">{"".join(part for part in parts if part)}</div>'


def _figure(figure: Figure, side: int) -> str:
    text = _TEXT.format(width=max(side, figure.picture.width))
    lines = [f"<b>{_short(figure.title)}</b>"]
    lines += [_short(each) for each in figure.lines]
    caption = f'<figcaption style="{text}">{"<br>".join(lines)}</figcaption>'
    note = f'<div style="{text};font-style:italic">{_escaped(figure.note[:1].upper() + figure.note[1:])}.</div>' if figure.note else ""
    return f'<figure style="{_FIGURE}">{_image(figure.picture, figure.alt)}{caption}{note}</figure>'


def _image(picture: Image.Image, alt: str) -> str:
    style = "display:block;max-width:100%;height:auto;margin:0"
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img {size} style="{style}" alt="{_escaped(alt)}" src="{render.data_address(picture, "JPEG", quality=85)}">'


def _legend(scale: Scale) -> str:
    text = f"<span>{_escaped(scale.text)}</span>"
    if not scale.zero:
        return f'<div style="font-size:0.9em;margin:2px 0">{text}</div>'
    bar = render.data_address(render.colour(np.linspace(0, 1, 128, dtype=np.float32)[None]), "PNG")
    shown = f'<img style="width:160px;height:10px;margin:0 6px;display:inline-block;vertical-align:middle" alt="colour bar" src="{bar}">'
    ends = f"<span>{_escaped(scale.zero)}</span>{shown}<span>{_escaped(scale.one)}</span>"
    return f'<div style="font-size:0.9em;margin:2px 0">{ends} &nbsp; {text}</div>'


def _left_out(more: int) -> str:
    return f'<div style="font-size:0.9em;margin:2px 0">… and {more} more</div>' if more else ""


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)


def _short(text: str) -> str:
    """A text, cut where it is long."""
    if len(text) <= LONGEST:
        return _escaped(text)
    return f'<span title="{_escaped(text)}">{_escaped(text[: LONGEST - 1])}…</span>'
