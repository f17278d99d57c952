"""Regions of images, cut out as small pictures that are cheap to keep, and the classes that they belong to."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lucidcam.imaging import maps
from lucidcam.imaging.explanation import Explanation
from lucidcam.reprs import OneLineRepr

MARGIN = 0.25
"""What is shown around a region's box, on each side; a share of the box's longer side."""

SMALLEST = 0.2
"""A crop is at least this share of the image's shorter side wide, so that a tiny region is still seen in its place."""

CROP = 192
"""Pixels of a crop's longer side at most: it is kept in memory."""


@dataclass(frozen=True, eq=False)
class Part(OneLineRepr):
    """A region of one image that speaks for a class.

    Attributes:
        image: the image's name in the data set.
        box: around the region; xyxy in original pixels, right and bottom exclusive.
        score: the class's raw evidence at the region's peak, see `discover`. Comparable within a class and a method.
        probability: of the class in the whole image; None for a target without one.
        window: what `crop` shows: the box with a margin, xyxy in original pixels.
    """

    image: str
    box: maps.Box
    score: float
    probability: float | None
    window: maps.Box
    _crop: bytes = field(repr=False)
    _mask: bytes = field(repr=False)

    @property
    def crop(self) -> Image.Image:
        """The region with some margin, RGB, reduced to a thumbnail of at most 192 pixels. Kept as JPEG: thousands fit in memory."""
        return Image.open(io.BytesIO(self._crop)).convert("RGB")

    @property
    def mask(self) -> Image.Image:
        """The region's pixels in the crop: 255 inside, 0 outside (mode "L")."""
        return Image.open(io.BytesIO(self._mask)).convert("L")

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, for JSON."""
        return {"image": self.image, "box": list(self.box), "score": self.score, "probability": self.probability}


@dataclass(frozen=True, eq=False)
class Concept(OneLineRepr):
    """A class with the regions that speak most for it.

    Attributes:
        label: what it is called: the data set's word where its labels are asked for, else the model's.
        id: the model's class id; None for a target that is not one class.
        meaning: the model's word for it.
        images: how many images were asked for it.
        parts: the top regions, best first, of different images.
    """

    label: str
    id: int | None
    meaning: str
    images: int
    parts: tuple[Part, ...]


def cut_out(explanation: Explanation, threshold: float, score: float) -> Part:
    """Cut out the region around a map's peak, which must be positive.

    Args:
        explanation: of one class.
        threshold: the region is what is connected with the peak at or above this share of it.
        score: of the region.
    """
    image, heatmap = explanation.image, explanation.heatmap
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    region = next(
        each for each in maps.regions(heatmap, threshold) if ((each.rows == row) & (each.starts <= column) & (column < each.stops)).any()
    )
    window = _window(region.box, image.size)
    crop = image.crop(window)
    crop.thumbnail((CROP, CROP), Image.Resampling.LANCZOS)
    mask = Image.fromarray(region.mask(heatmap.shape)).crop(window).convert("L").resize(crop.size, Image.Resampling.BILINEAR)
    packed = _packed(crop, "JPEG", quality=92), _packed(mask.point(lambda level: 255 * (level > 127), "1"), "PNG")
    return Part(explanation.name, region.box, score, explanation.probability, window, *packed)


def _window(box: maps.Box, size: tuple[int, int]) -> maps.Box:
    """A square around a box, moved into the image; a side that is longer than the image's is cut to it.

    >>> _window((10, 10, 30, 20), (100, 80)), _window((0, 0, 100, 80), (100, 80))
    ((5, 0, 35, 30), (0, 0, 100, 80))
    """
    left, top, right, bottom = box
    side = round(max((1 + 2 * MARGIN) * max(right - left, bottom - top), SMALLEST * min(size)))
    edges = []
    for low, high, length in ((left, right, size[0]), (top, bottom, size[1])):
        taken = min(side, length)
        start = min(max((low + high - taken) // 2, 0), length - taken)
        edges.append((start, start + taken))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def _packed(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
