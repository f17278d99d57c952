"""What the page says of a place and of a verdict, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lucidcam import render
from lucidcam.explanation import Explanation
from lucidcam.web import pixels, showing
from lucidcam.web.judging import Verdict
from lucidcam.web.studio import Place
from lucidcam.wording import short

SMALL = 120
"""Pixels across of a channel's picture."""


def note(place: Place) -> str:
    """Which layer is looked at, in words (Markdown)."""
    shape = f"{place.channels} channels of {place.grid[0]}×{place.grid[1]}"
    return f"Layer `{place.name}`: {shape}. Click the picture to see what lies behind a place."


def place(at: pixels.Pixel, activations: Tensor, one: Explanation) -> str:
    """A place of a map, and the channels behind it.

    Args:
        at: the place.
        activations: of its channels `[channels, h, w]`.
        one: the map.
    """
    where = "" if at.cell is None else f", cell {at.cell[0] + 1}, {at.cell[1] + 1} of {at.grid[0]}×{at.grid[1]}"
    value = "" if at.value is None else f"; raw value {at.value:.4g}"
    words = f"<p><b>{at.share:.0%}</b> of the maximum here{where}{value}. {html.escape(at.note)}</p>"
    if not at.channels:
        return words
    width, height = one.image.size
    size = (SMALL, max(1, round(SMALL * height / width)))
    peak = float(one.raw.max()) or 1.0
    cells = []
    for channel, activation in zip(at.channels, activations, strict=True):
        look = showing.address(render.overlay(one.image, pixels.channel_map(activation, one)).resize(size))
        cells.append(
            f'<figure><img src="{look}" alt="Where channel {channel.number} is active"><figcaption>channel {channel.number}<br>'
            f"{channel.activation:.3g} × {channel.weight:.3g}<br><b>{channel.adds / peak:+.0%}</b></figcaption></figure>"
        )
    return (
        f"{words}<p>The channels that add most here: activation × weight, as a share of the map's maximum. "
        f"All channels together, in this cell: {(at.total or 0.0) / peak:+.0%}.</p><div>{''.join(cells)}</div>"
    )


def verdict(found: Sequence[Verdict], one: Explanation) -> str:
    """What metrics say of a map: a table and their curves."""
    rows = "".join(
        f"<tr><td>{each.name.replace('_', ' ')}</td><td><b>{each.value:.3g}{' %' if each.unit else ''}</b></td>"
        f"<td>{'higher' if each.higher_is_better else 'lower'} is better</td></tr>"
        for each in found
    )
    look = showing.address(showing.curve_picture([(each.name, each.curve) for each in found if each.curve]))
    return (
        f"<p>How far the map of <b>{html.escape(one.label.split(',')[0])}</b> by {one.method} can be believed:</p>"
        f"<div><table>{rows}</table>"
        f'<img src="{look}" alt="Probability of the class while the photo is deleted and inserted"></div>'
    )


def stem(one: Explanation) -> str:
    """A name for a file about a map, of plain letters."""
    words = "-".join((Path(one.name).stem, one.method.replace("+", "p"), short(one.label)))
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in words)[:80]
