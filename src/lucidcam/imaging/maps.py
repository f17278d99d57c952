"""From a raw map to what is shown and measured: resized, normalised, thresholded, boxed.

Arrays here are NumPy `[H, W]`, float32, the map of one image and target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam.errors import OptionError

if TYPE_CHECKING:
    from lucidcam.types import Frame

Array = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]
"""xyxy in pixels: left and top inclusive, right and bottom exclusive."""
Mode = Literal["bilinear", "bicubic"]
"""How maps are resized; bicubic is OpenCV's too, up to rounding."""
BICUBIC = -0.75
"""The `a` of the bicubic kernel."""


def resize(raw: Tensor, size: tuple[int, ...], mode: Mode = "bilinear") -> Tensor:
    """Resize maps `[..., h, w]` to `size` (H, W); pixel centres aligned (`align_corners=False`).

    Each value is that of the nearest cell plus weighted differences from it: cells that are equal stay equal, to the last bit, on every
    device. Weights that sum to 1 up to rounding would make noise of a plateau, and of the order of its pixels.

    Args:
        raw: maps; half precision is resized in float32.
        size: of as many axes, the last ones, as it has numbers.
        mode: "bilinear" is linear along any number of axes.
    """
    values = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
    for axis, length in reversed(list(zip(range(-len(size), 0), size, strict=True))):  # the last one first: there are fewer rows yet
        if values.shape[axis] != length:
            values = _stretched(values, axis, length, mode)
    return values.to(raw.dtype)


def _resized_rows(values: Tensor, size: tuple[int, int], mode: Mode, rows: tuple[int, int]) -> Tensor:
    """What `resize` makes of a map `[h, w]`, of it some rows only."""
    if rows == (0, size[0]):
        return resize(values, size, mode)
    if values.shape[-1] != size[1]:
        values = _stretched(values, -1, size[1], mode)
    return values[slice(*rows)] if values.shape[-2] == size[0] else _stretched(values, -2, size[0], mode, slice(*rows))


def _stretched(values: Tensor, axis: int, length: int, mode: Mode, part: slice = slice(None)) -> Tensor:
    """Resize one axis, counted from the end, to `length` cells; `part`: only these are made."""
    count = values.shape[axis]
    place = (torch.arange(length, dtype=torch.float64, device="cpu")[part] + 0.5) * (count / length) - 0.5
    if mode == "bilinear":
        place = place.clamp(0, count - 1)
    below = place.floor()
    beyond = (place - below).reshape(-1, *[1] * (-axis - 1))

    def cells(offset: Tensor | int) -> Tensor:
        return values.index_select(axis, (below + offset).clamp(0, count - 1).long().to(values.device))

    def like(weight: Tensor) -> Tensor:
        return weight.to(values.dtype).to(values.device)  # in this order: Apple's GPUs have no float64

    if mode == "bilinear":
        return torch.lerp(cells(0), cells(1), like(beyond))
    nearest = cells((place - below).round())
    weights = {-1: _cubic(1 + beyond), 0: _cubic(beyond), 1: _cubic(1 - beyond), 2: _cubic(2 - beyond)}
    return nearest + sum(like(weight) * (cells(offset) - nearest) for offset, weight in weights.items())


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel (1981) with OpenCV's `a`, at distances in [0, 2]."""
    near = ((BICUBIC + 2) * distance - (BICUBIC + 3)) * distance.square() + 1
    far = ((distance - 5) * distance + 8) * distance - 4
    return torch.where(distance < 1, near, BICUBIC * far)


def finish(
    raw: Tensor,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    mode: Mode = "bilinear",
    rows: tuple[int, int] | None = None,
) -> Array:
    """Bring a raw map to the original image's size.

    Args:
        raw: `[h, w]`.
        size: (H, W) of the original image.
        box: (left, top, right, bottom) in original pixels of what the network saw; None: all of it. What it did not see is 0.
        mode: of the resizing.
        rows: the first of the rows that are wanted, and the one after the last; None: all.
    """
    height, width = size
    first, last = rows or (0, height)
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    x0, y0, x1, y1 = round(left), round(top), round(right), round(bottom)
    high, wide = max(1, y1 - y0), max(1, x1 - x0)
    top, bottom = (min(max(side - y0, 0), high) for side in (first, last))
    seen = _resized_rows(raw.detach().float().cpu(), (high, wide), mode, (top, bottom)).numpy()
    if (x0, y0, x1, y1) == (0, 0, width, height):
        return np.ascontiguousarray(seen, dtype=np.float32)
    whole = np.zeros((last - first, width), np.float32)
    inside = (slice(max(y0, first), min(y1, last)), slice(max(x0, 0), min(x1, width)))
    if inside[0].start < inside[0].stop:
        part = seen[inside[0].start - y0 - top : inside[0].stop - y0 - top, inside[1].start - x0 : inside[1].stop - x0]
        whole[inside[0].start - first : inside[0].stop - first, inside[1]] = part
    return whole


def in_photo(raw: Tensor, frame: Frame, rows: tuple[int, int] | None = None) -> Array:
    """Bring a raw map `[h, w]`, which lies as the network's input does, to the original image's size and orientation; see `finish`."""
    return finish(frame.upright(raw), (frame.height, frame.width), frame.box, rows=rows)


def normalise(values: Array, peak: float | None = None) -> Array:
    """Positive evidence as a share of its maximum: `max(0, M) / max M`, in [0, 1]; 0 everywhere for a map without any.

    Args:
        values: the map.
        peak: the maximum of several maps that are to be compared; None: this map's own.

    Zero stays zero, so that a threshold of 0.2 means 20 % of the maximum, as in the CAM paper.

    >>> normalise(np.array([[-1.0, 2.0], [4.0, 0.0]], np.float32)).tolist()
    [[0.0, 0.5], [1.0, 0.0]]
    """
    positive = np.maximum(values, 0)
    peak = float(positive.max(initial=0.0)) if peak is None else peak
    return np.minimum(positive / peak, 1).astype(np.float32) if peak > 0 else np.zeros_like(positive, dtype=np.float32)


def unit(values: Tensor) -> Tensor:
    """Min-max each map `[n, …]` to [0, 1]; a flat map becomes 0."""
    flat = values.flatten(1)
    low, high = (edge.reshape(-1, *[1] * (values.ndim - 1)) for edge in (flat.amin(1), flat.amax(1)))
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def threshold(heatmap: Array, level: float) -> npt.NDArray[np.bool_]:
    """Pixels of a heatmap in [0, 1] at or above `level`; pixels without evidence never count.

    Raises:
        OptionError: when the level is not between 0 and 1.
    """
    if not 0 <= level <= 1:
        raise OptionError(f"expected a threshold between 0 and 1 (a fraction of the map's maximum); got {level}.")
    return (heatmap >= level) & (heatmap > 0)


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a map, as its runs of pixels.

    Attributes:
        box: around it.
        area: in pixels.
        rows: of each run `[n]`.
        starts: the first pixel of each run `[n]`.
        stops: the pixel after the last of each run `[n]`.
    """

    box: Box
    area: int
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]

    def mask(self, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Its pixels `[H, W]`, in an image of `size` (H, W)."""
        painted = np.zeros(size, bool)
        for row, start, stop in zip(self.rows, self.starts, self.stops, strict=True):
            painted[row, start:stop] = True
        return painted


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Label the 8-connected components of a mask: 0 outside, 1… in reading order.

    >>> components(np.array([[1, 0, 1], [0, 0, 1]], bool)).tolist()
    [[1, 0, 2], [0, 0, 2]]
    """
    labels = np.zeros(mask.shape, np.int32)
    for row, start, stop, number in zip(*_runs(mask), strict=True):
        labels[row, start:stop] = number + 1
    return labels


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], ...]:
    """Rows taken apart into runs of true pixels: row, start, stop and the number of its 8-connected component, from 0, of each run."""
    return _united(*_runs_of_rows(mask), mask.shape[1])


def _runs_of_rows(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row, start and stop of the runs of true pixels."""
    padded = np.pad(mask, ((0, 0), (1, 1)))
    before, here = padded[:, :-1], padded[:, 1:]
    rows, starts = np.divmod(np.flatnonzero(here & ~before), mask.shape[1] + 1)  # on flat arrays: ten times as fast as on rows
    return rows, starts, np.flatnonzero(before & ~here) % (mask.shape[1] + 1)


def _united(
    rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], columns: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Runs with the number of their component: those that touch in neighbouring rows are united."""
    # Places in one long line of rows: a run touches those of the row above that start no later than it ends, and end no earlier.
    width = columns + 2
    above = (rows - 1) * width
    first = np.searchsorted(rows * width + stops, above + starts, "left")
    last = np.searchsorted(rows * width + starts, above + stops, "right")
    count = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(rows)), count)
    upper = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    parent = np.arange(len(rows))
    while len(lower):  # every run takes the smallest number in its reach, until neighbours agree
        one, two = parent[lower], parent[upper]
        apart = one != two
        if not apart.any():
            break
        np.minimum.at(parent, np.maximum(one, two)[apart], np.minimum(one, two)[apart])
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
    return rows, starts, stops, np.unique(parent, return_inverse=True)[1].astype(np.int64)


def regions(heatmap: Array, level: float = 0.2) -> list[Region]:
    """The connected regions of a heatmap at or above `level`, largest first.

    Args:
        heatmap: `[H, W]` in [0, 1].
        level: fraction of the maximum.
    """
    return regions_of_bands([(0, heatmap)], level)


def regions_of_bands(bands: Iterable[tuple[int, Array]], level: float) -> list[Region]:
    """See `regions`; the heatmap comes in bands, each after the number of its first row."""
    columns, several = 0, []
    for top, band in bands:
        columns = band.shape[1]
        rows, starts, stops = _runs_of_rows(threshold(band, level))
        several.append((rows + top, starts, stops))
    rows, starts, stops = (np.concatenate(each) for each in zip(*several, strict=True))
    rows, starts, stops, which = _united(rows, starts, stops, columns)
    found = []
    order = np.argsort(which, kind="stable")
    for runs in np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(order) else []:
        left, right = int(starts[runs].min()), int(stops[runs].max())
        box = (left, int(rows[runs[0]]), right, int(rows[runs[-1]]) + 1)
        found.append(Region(box, int((stops[runs] - starts[runs]).sum()), rows[runs], starts[runs], stops[runs]))
    return sorted(found, key=lambda region: -region.area)


def boxes(heatmap: Array, level: float = 0.2) -> list[Box]:
    """Bounding boxes of the connected regions of a heatmap at or above `level`, largest region first.

    CAM (Zhou 2016) takes 20 % of the maximum and the largest region; Grad-CAM (Selvaraju 2017) 15 %.

    Args:
        heatmap: `[H, W]` in [0, 1].
        level: fraction of the maximum.

    Returns:
        xyxy boxes in pixels; empty for a map without positive evidence.
    """
    return [region.box for region in regions(heatmap, level)]
