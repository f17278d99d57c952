"""Pictures of maps: colours, overlays, contours, boxes, panels. Works on PIL images and NumPy arrays; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lucidcam.errors import OptionError, unknown
from lucidcam.maps import Array, Box, threshold

INK = (28, 28, 30)
PAPER = (255, 255, 255)


@lru_cache(maxsize=16)
def _palette(name: str) -> npt.NDArray[np.uint8]:
    import matplotlib

    if name not in matplotlib.colormaps:
        raise OptionError(unknown("colormap", name, [n for n in matplotlib.colormaps if not n.endswith("_r")]))
    colours: npt.NDArray[np.float64] = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return np.asarray((colours * 255).round(), np.uint8)


def colour(heatmap: Array, colormap: str = "turbo") -> Image.Image:
    """Colour a heatmap `[H, W]` in [0, 1] with any matplotlib colormap.

    Raises:
        OptionError: with the nearest names when there is no such colormap.
    """
    return Image.fromarray(_palette(colormap)[(np.clip(heatmap, 0, 1) * 255).round().astype(np.uint8)])


def overlay(image: Image.Image, heatmap: Array, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
    """Blend a coloured heatmap over an image of the same size.

    Args:
        image: RGB.
        heatmap: `[H, W]` in [0, 1].
        colormap: any matplotlib colormap.
        alpha: share of the heatmap, 0 to 1.

    Raises:
        OptionError: when alpha is not between 0 and 1, or there is no such colormap.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"expected alpha between 0 (only the image) and 1 (only the map); got {alpha}.")
    return Image.blend(image.convert("RGB"), colour(heatmap, colormap), alpha)


def check(colormap: str, alpha: float, level: float) -> None:
    """Refuse a colormap, alpha or threshold that no picture could be made with.

    Raises:
        OptionError: with what was expected.
    """
    blank = np.zeros((1, 1), np.float32)
    overlay(Image.new("RGB", (1, 1)), blank, colormap, alpha)
    threshold(blank, level)


def signed_rgb(pixels: Array) -> Image.Image:
    """Render signed values `[H, W, 3]` (guided maps) around mid-grey, scaled by the 99.5th percentile of their magnitude."""
    peak = float(np.percentile(np.abs(pixels), 99.5)) or float(np.abs(pixels).max(initial=0.0)) or 1.0
    return Image.fromarray(((np.clip(pixels / peak, -1, 1) + 1) * 127.5).round().astype(np.uint8))


def draw_boxes(image: Image.Image, boxes: Sequence[Box], colour: tuple[int, int, int] = (255, 64, 64)) -> Image.Image:
    """Draw boxes (xyxy) on a copy of an image; the first is drawn with a full line, the others thinner."""
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    width = max(2, round(min(image.size) / 150))
    for i, (left, top, right, bottom) in enumerate(boxes):
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width if i == 0 else max(1, width // 2))
    return picture


def draw_contour(image: Image.Image, heatmap: Array, level: float = 0.5, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Draw the outline of the region at or above `level` on a copy of an image."""
    inside = threshold(heatmap, level)
    width = max(1, round(min(image.size) / 200))
    eroded = inside.copy()
    for _ in range(width):
        core = eroded.copy()
        core[1:] &= eroded[:-1]
        core[:-1] &= eroded[1:]
        core[:, 1:] &= eroded[:, :-1]
        core[:, :-1] &= eroded[:, 1:]
        eroded = core
    pixels = np.array(image.convert("RGB"))
    pixels[inside & ~eroded] = colour
    return Image.fromarray(pixels)


def panel(cells: Sequence[Sequence[tuple[str, Image.Image]]], title: str = "", height: int = 240) -> Image.Image:
    """Lay captioned pictures out in rows, side by side.

    Args:
        cells: rows of (caption, picture).
        title: above everything.
        height: of each picture, in pixels.
    """
    font, large = ImageFont.load_default(size=15), ImageFont.load_default(size=19)
    gap, caption, head = 10, 26, 36 if title else 0
    scaled = [
        [(text, picture.convert("RGB").resize((max(1, round(picture.width * height / picture.height)), height))) for text, picture in row]
        for row in cells
    ]
    widths = [max((row[i][1].width for row in scaled if i < len(row)), default=0) for i in range(max(map(len, scaled), default=0))]
    size = (sum(widths) + gap * (len(widths) + 1), head + len(scaled) * (height + caption + gap) + gap)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, 8), title, INK, font=large)
    y = head + gap
    for row in scaled:
        x = gap
        for width, (text, picture) in zip(widths, row):
            draw.text((x, y), _fit(text, width, font), INK, font=font)
            sheet.paste(picture, (x, y + caption))
            x += width + gap
        y += height + caption + gap
    return sheet


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
