"""What the page is sent: the photo once, and each map as a grey picture that the browser colours, cuts and boxes by itself.

Opacity, threshold and colours then change without asking the server.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lucidcam import maps, render
from lucidcam.explanation import Explanation
from lucidcam.maps import Array
from lucidcam.wording import short

COLORMAPS = ("turbo", "viridis", "magma", "inferno", "cividis", "jet", "gray")
"""Those the page offers."""


def palettes() -> dict[str, str]:
    """Each colormap's 256 colours as hexadecimal digits, six per colour."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return {name: render.colour(ramp, name).tobytes().hex() for name in COLORMAPS}


def levels(heatmap: Array) -> Any:
    """A heatmap in [0, 1] as 256 levels `[H, W]`, rounded to the nearest."""
    return (heatmap * 255).round().astype(np.uint8)


def viewed(explanations: Sequence[Explanation], columns: int) -> dict[str, Any]:
    """What the page draws.

    Args:
        explanations: of one photo, in the size that is shown.
        columns: how many stand side by side.

    Returns:
        The photo as a data address, its `width` and `height` as shown, the `box` of it that the network saw (in the same pixels), and for
        each of the `cells` its map as a data address and what it is in words and numbers.
    """
    first = explanations[0]
    return {
        "photo": _address(first.image, "JPEG", quality=90),
        "width": first.frame.width,
        "height": first.frame.height,
        "box": [round(side) for side in first.frame.box],
        "columns": columns,
        "cells": [{**_told(one), "map": _address(Image.fromarray(levels(one.heatmap)), "PNG", compress_level=1)} for one in explanations],
    }


def picture(one: Explanation, colormap: str, opacity: float, threshold: float, boxes: bool, hide: bool) -> Image.Image:
    """The picture that the page shows, with all of the photo's pixels.

    Args:
        one: the explanation, in full size.
        colormap: of matplotlib.
        opacity: share of the heatmap, in [0, 1].
        threshold: share of the maximum at which boxes are drawn and evidence is hidden.
        boxes: draw them.
        hide: leave the photo as it is below the threshold.
    """
    found = one.overlay(colormap, opacity)
    if hide:
        found = Image.composite(found, one.image.convert("RGB"), Image.fromarray(maps.threshold(one.heatmap, threshold)))
    return render.draw_boxes(found, one.boxes(threshold)) if boxes else found


def curve_picture(curves: Sequence[tuple[str, Sequence[float]]], size: tuple[int, int] = (560, 260)) -> Image.Image:
    """Curves over the share of pixels, from 0 to 1 on both axes, the area under each shaded.

    Args:
        curves: name and values, evenly spread.
        size: (width, height) in pixels.
    """
    scale = 2  # drawn larger and reduced: Pillow's lines are not smooth
    width, height = size[0] * scale, size[1] * scale
    left, top, right, bottom = 46 * scale, 12 * scale, width - 12 * scale, height - 40 * scale
    sheet = Image.new("RGB", (width, height), render.PAPER)
    draw = ImageDraw.Draw(sheet, "RGBA")
    font = ImageFont.load_default(size=13 * scale)
    for i in range(5):
        y = bottom - (bottom - top) * i / 4
        draw.line((left, y, right, y), (0, 0, 0, 30), scale)
        draw.text((left - 8 * scale, y), f"{i / 4:g}", render.INK, font=font, anchor="rm")
    for i in range(5):
        draw.text((left + (right - left) * i / 4, bottom + 6 * scale), f"{i / 4:g}", render.INK, font=font, anchor="ma")
    draw.text(((left + right) / 2, height - 2 * scale), "share of pixels", render.INK, font=font, anchor="md")
    for number, (name, values) in enumerate(curves):
        colour = ((192, 57, 43), (36, 113, 163), (30, 132, 73))[number % 3]
        last = max(1, len(values) - 1)
        points = [(left + (right - left) * i / last, bottom - (bottom - top) * min(max(v, 0.0), 1.0)) for i, v in enumerate(values)]
        draw.polygon([(left, bottom), *points, (right, bottom)], (*colour, 28))
        draw.line(points, colour, 2 * scale, joint="curve")
        draw.text((right, top + number * 18 * scale), name, colour, font=font, anchor="ra")
    return sheet.resize(size, Image.Resampling.LANCZOS)


def address(image: Image.Image) -> str:
    """A picture as a data address."""
    return _address(image, "PNG")


def _told(one: Explanation) -> dict[str, Any]:
    """What a map is, in words and numbers."""
    return {
        "label": short(one.label) if one.target is not None else one.label,
        "id": one.target,
        "score": None if math.isnan(one.score) else one.score,
        "probability": one.probability,
        "method": one.method,
        "layer": one.layer,
        "grid": list(one.raw.shape),
        "maximum": float(one.raw.max()),
        "note": one.note,
    }


def _address(image: Image.Image, format: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
