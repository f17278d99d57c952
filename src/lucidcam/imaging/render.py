"""Pictures of maps: colours, overlays, contours, boxes, panels. Works on PIL images and NumPy arrays; knows no model."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from lucidcam.errors import InputError, OptionError, unknown
from lucidcam.imaging.maps import Array, Box, normalise, threshold
from lucidcam.io.picture_files import save_picture

INK = (28, 28, 30)
PAPER = (255, 255, 255)
PALETTE_PIXELS = 1_000_000
"""As many of an animation's pixels choose its colours."""


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


def overlay(
    image: Image.Image,
    heatmap: Array,
    colormap: str = "turbo",
    alpha: float = 0.5,
    within: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """Blend a coloured heatmap over an image of the same size.

    Args:
        image: RGB.
        heatmap: `[H, W]` in [0, 1].
        colormap: any matplotlib colormap.
        alpha: share of the heatmap, 0 to 1.
        within: (left, top, right, bottom): the part that the heatmap is about, `Frame.seen`; the rest of the image is left as it is. None:
            all of it.

    Raises:
        OptionError: when alpha is not between 0 and 1, or there is no such colormap.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"expected alpha between 0 (only the image) and 1 (only the map); got {alpha}.")
    if within is None:
        return Image.blend(image.convert("RGB"), colour(heatmap, colormap), alpha)
    left, top, right, bottom = within
    found = image.convert("RGB") if image.mode != "RGB" else image.copy()
    if left < right and top < bottom:
        found.paste(Image.blend(found.crop(within), colour(heatmap[top:bottom, left:right], colormap), alpha), (left, top))
    return found


def check(colormap: str, alpha: float, level: float) -> None:
    """Refuse a colormap, alpha or threshold that no picture could be made with.

    Raises:
        OptionError: with what was expected.
    """
    blank = np.zeros((1, 1), np.float32)
    overlay(Image.new("RGB", (1, 1)), blank, colormap, alpha)
    threshold(blank, level)


def signed_peak(pixels: Array) -> float:
    """The value that signed colours show as full: the 99.5th percentile of the magnitude."""
    return float(np.percentile(np.abs(pixels), 99.5)) or float(np.abs(pixels).max(initial=0.0)) or 1.0


def signed_rgb(pixels: Array, peak: float | None = None) -> Image.Image:
    """Render signed values `[H, W, 3]` (guided maps) around mid-grey.

    Args:
        pixels: the values.
        peak: what is shown as full colour; None: their own `signed_peak`.
    """
    peak = signed_peak(pixels) if peak is None else peak
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
        title: above everything; the sheet is as wide as it needs.
        height: of each picture, in pixels. Captions that are longer than their picture is wide widen the column, up to twice the height.
    """
    font, large = ImageFont.load_default(size=15), ImageFont.load_default(size=19)
    gap, caption, head = 10, 26, 36 if title else 0
    scaled = [
        [(text, picture.convert("RGB").resize((max(1, round(picture.width * height / picture.height)), height))) for text, picture in row]
        for row in cells
    ]
    columns = [[row[i] for row in scaled if i < len(row)] for i in range(max(map(len, scaled), default=0))]
    widths = [max(max(picture.width, min(math.ceil(font.getlength(text)), 2 * height)) for text, picture in column) for column in columns]
    across = max(sum(widths) + gap * (len(widths) + 1), math.ceil(large.getlength(title)) + 2 * gap if title else 0)
    size = (across, head + len(scaled) * (height + caption + gap) + gap)
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


def animation(pictures: Sequence[Image.Image], path: Path, fps: float = 8.0, size: int = 320) -> Path:
    """Write pictures of one size as an animated GIF or WebP that runs for ever.

    All frames of a GIF share the 256 colours that suit them best together, so that nothing flickers.

    Args:
        pictures: in time.
        path: where to; the suffix chooses the format.
        fps: pictures per second; GIF counts in hundredths of a second.
        size: the longer side in pixels. Small pictures are enlarged without smoothing: their pixels stay to be seen.

    Raises:
        OptionError: for another suffix, pictures of several sizes, or a value outside its range.
    """
    kind = path.suffix.lower()
    if kind not in (".gif", ".webp"):
        raise OptionError(f"expected a .gif or .webp file to animate into; got {path.name}.")
    if not 0 < fps <= 50 or size < 1:
        raise OptionError(f"expected 0 < fps ≤ 50 and size ≥ 1; got {fps} and {size}.")
    if len({picture.size for picture in pictures}) != 1:
        raise OptionError(f"expected pictures of one size to animate; got {sorted({picture.size for picture in pictures})}.")
    factor = size / max(pictures[0].size)
    wanted = [max(1, round(side * factor)) for side in pictures[0].size]
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    frames = [picture.convert("RGB").resize(wanted, how) for picture in pictures]
    if kind == ".gif":
        frames = _with_one_palette(frames)
    save_picture(frames[0], path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    return path


def _with_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
    chosen = pixels[:: -(-len(pixels) // PALETTE_PIXELS)]
    # Median cuts would spend the colours on what is large and leave none for a small, hot spot.
    palette = Image.fromarray(chosen[None]).quantize(256, Image.Quantize.FASTOCTREE)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def slices(
    volume: Any,
    found: Any,
    axis: int = 0,
    count: int | Sequence[int] = 8,
    *,
    columns: int = 4,
    colormap: str = "turbo",
    alpha: float = 0.5,
    height: int = 160,
) -> Image.Image:
    """Lay slices of a volume out side by side, with the map over them; all share one scale.

    Args:
        volume: `[D, H, W]`, shown from black (its minimum) to white (its maximum).
        found: its map at any resolution `[d, h, w]`, as `lucidcam.attribute` returns it; signed or not, positive evidence is shown.
        axis: the volume is cut across this axis.
        count: how many slices, evenly spread; or their numbers.
        columns: slices in a row.
        colormap: any matplotlib colormap.
        alpha: share of the map, 0 to 1.
        height: of a slice in the picture, in pixels.

    Raises:
        InputError: the volume or its map has not three axes.
        OptionError: for an axis, slice, colormap or alpha that is none.
    """
    body, heat = _array(volume, 3, "a volume [D, H, W]"), _array(found, 3, "its map [d, h, w]")
    if not 0 <= axis < 3:
        raise OptionError(f"expected axis 0, 1 or 2 of the volume; got {axis}.")
    depth = body.shape[axis]
    numbers = [int((i + 0.5) * depth / count) for i in range(min(count, depth))] if isinstance(count, int) else list(count)
    if not numbers or not all(0 <= number < depth for number in numbers) or columns < 1:
        raise OptionError(f"expected slices from 0 to {depth - 1}, at least one, and columns ≥ 1; got {count} and {columns}.")
    heat = normalise(_stretched(heat, body.shape))
    grey = ((body - body.min()) / (np.ptp(body) or 1) * 255).round().astype(np.uint8)
    cells = []
    for number in numbers:
        shown = overlay(Image.fromarray(np.moveaxis(grey, axis, 0)[number]), np.moveaxis(heat, axis, 0)[number], colormap, alpha)
        enlarged = (max(1, round(shown.width * height / shown.height)), height)
        cells.append((f"{'DHW'[axis]} {number}", shown.resize(enlarged, Image.Resampling.NEAREST)))
    return panel([cells[i : i + columns] for i in range(0, len(cells), columns)], height=height)


def signal(
    values: Any, found: Any, *, names: Sequence[str] = (), colormap: str = "turbo", size: tuple[int, int] = (960, 240)
) -> Image.Image:
    """Draw a signal's curves, coloured by the map.

    Args:
        values: `[L]` or `[C, L]`; each channel gets a curve of its own.
        found: the map at any resolution `[l]`; signed or not, positive evidence is shown.
        names: of the channels.
        colormap: any matplotlib colormap.
        size: (width, height) of the picture in pixels.

    Raises:
        InputError: the signal or its map has another number of axes.
        OptionError: there is no such colormap.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    heat = _array(found, 1, "its map [l]")
    curves = _array(values, 2, "a signal [C, L]") if np.ndim(values) != 1 else _array(values, 1, "a signal [L]")[None]
    heat = normalise(_stretched(heat, curves.shape[1:]))
    colours = _palette(colormap)[(heat * 255).round().astype(np.uint8)] / 255
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    time = np.arange(curves.shape[1])
    for i, axis in enumerate(figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]):
        points = np.stack([time, curves[i]], axis=1)
        axis.add_collection(LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), colors=colours[1:], linewidths=2))
        axis.set_xlim(0, len(time) - 1)
        axis.margins(y=0.1)
        axis.autoscale_view(scalex=False)
        axis.set_ylabel(names[i] if i < len(names) else "")
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _array(values: Any, axes: int, what: str) -> Array:
    array = np.asarray(values.detach().float().cpu() if isinstance(values, torch.Tensor) else values, np.float32)
    if array.ndim != axes:
        raise InputError(f"expected {what}; got {list(array.shape)}.")
    return array


def _stretched(heat: Array, size: Sequence[int]) -> Array:
    """Resize a map linearly along all its axes (centres aligned)."""
    mode = ("linear", "bilinear", "trilinear")[heat.ndim - 1]
    stretched = F.interpolate(torch.from_numpy(heat)[None, None], size=tuple(size), mode=mode, align_corners=False)
    return np.asarray(stretched[0, 0].numpy(), np.float32)


def reduced(picture: Image.Image, side: int, *, reducing_gap: float | None = None) -> Image.Image:
    """A picture as RGB with its longer side at most `side` pixels; never enlarged: one that is small is given back as it is.

    Args:
        picture: of any mode; one with a palette cannot be reduced smoothly before it is RGB.
        side: in pixels.
        reducing_gap: of Pillow's `resize`: quicker for large pictures.
    """
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    factor = side / max(picture.size)
    if factor >= 1:
        return picture
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=reducing_gap)


def data_address(picture: Image.Image, format: str, **options: Any) -> str:
    """A picture as an address that holds it (`data:image/png;base64,…`).

    Args:
        picture: the picture.
        format: as Pillow calls it.
        options: of Pillow's encoder.
    """
    content = io.BytesIO()
    picture.save(content, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
