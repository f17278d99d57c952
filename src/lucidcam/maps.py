"""From a raw map to what is shown and measured: resized, normalised, thresholded, boxed.

Arrays here are NumPy `[H, W]`, float32, the map of one image and target.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import OptionError

Array = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]
"""xyxy in pixels: left and top inclusive, right and bottom exclusive."""


def resize(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps `[..., h, w]` bilinearly to `size` (H, W); pixel centres aligned (`align_corners=False`)."""
    if tuple(raw.shape[-2:]) == size:
        return raw
    lead = raw.shape[:-2]
    return F.interpolate(raw.reshape(-1, 1, *raw.shape[-2:]), size=size, mode="bilinear", align_corners=False).reshape(*lead, *size)


def finish(raw: Tensor, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Array:
    """Bring a raw map to the original image's size.

    Args:
        raw: `[h, w]`.
        size: (H, W) of the original image.
        box: (left, top, right, bottom) in original pixels of what the network saw; None: all of it. What it did not see is 0.
    """
    height, width = size
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    x0, y0, x1, y1 = round(left), round(top), round(right), round(bottom)
    seen = resize(raw.detach().float().cpu(), (max(1, y1 - y0), max(1, x1 - x0))).numpy()
    if (x0, y0, x1, y1) == (0, 0, width, height):
        return np.ascontiguousarray(seen, dtype=np.float32)
    whole = np.zeros((height, width), np.float32)
    inside = (slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width)))
    whole[inside] = seen[inside[0].start - y0 : inside[0].stop - y0, inside[1].start - x0 : inside[1].stop - x0]
    return whole


def normalise(values: Array) -> Array:
    """Positive evidence as a share of its maximum: `max(0, M) / max M`, in [0, 1]; 0 everywhere for a map without any.

    Zero stays zero, so that a threshold of 0.2 means 20 % of the maximum, as in the CAM paper.

    >>> normalise(np.array([[-1.0, 2.0], [4.0, 0.0]], np.float32)).tolist()
    [[0.0, 0.5], [1.0, 0.0]]
    """
    positive = np.maximum(values, 0)
    peak = float(positive.max(initial=0.0))
    return (positive / peak).astype(np.float32) if peak > 0 else np.zeros_like(positive, dtype=np.float32)


def threshold(heatmap: Array, level: float) -> npt.NDArray[np.bool_]:
    """Pixels of a heatmap in [0, 1] at or above `level`; pixels without evidence never count.

    Raises:
        OptionError: when the level is not between 0 and 1.
    """
    if not 0 <= level <= 1:
        raise OptionError(f"expected a threshold between 0 and 1 (a fraction of the map's maximum); got {level}.")
    return (heatmap >= level) & (heatmap > 0)


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Label the 8-connected components of a mask: 0 outside, 1… in reading order.

    Rows are taken apart into runs of true pixels, and runs that touch in neighbouring rows are united.

    >>> components(np.array([[1, 0, 1], [0, 0, 1]], bool)).tolist()
    [[1, 0, 2], [0, 0, 2]]
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, above_end, here, here_end = int(first[row - 1]), int(first[row]), int(first[row]), int(first[row + 1])
        while above < above_end and here < here_end:
            if starts[above] <= stops[here] and starts[here] <= stops[above]:
                one, two = root(above), root(here)
                parent[max(one, two)] = min(one, two)
            if stops[above] < stops[here]:
                above += 1
            else:
                here += 1
    labels = np.zeros(mask.shape, np.int32)
    numbers: dict[int, int] = {}
    for i, (line, start, stop) in enumerate(zip(rows, starts, stops, strict=True)):
        labels[line, start:stop] = numbers.setdefault(root(i), len(numbers) + 1)
    return labels


def boxes(heatmap: Array, level: float = 0.2) -> list[Box]:
    """Bounding boxes of the connected regions of a heatmap at or above `level`, largest region first.

    CAM (Zhou 2016) takes 20 % of the maximum and the largest region; Grad-CAM (Selvaraju 2017) 15 %.

    Args:
        heatmap: `[H, W]` in [0, 1].
        level: fraction of the maximum.

    Returns:
        xyxy boxes in pixels; empty for a map without positive evidence.
    """
    labels = components(threshold(heatmap, level))
    count = int(labels.max(initial=0))
    if not count:
        return []
    ys, xs = np.nonzero(labels)
    which = labels[ys, xs] - 1
    low = np.full((2, count), np.iinfo(np.int64).max)
    high = np.zeros((2, count), np.int64)
    for axis, values in enumerate((xs, ys)):
        np.minimum.at(low[axis], which, values)
        np.maximum.at(high[axis], which, values + 1)
    order = np.argsort(-np.bincount(which, minlength=count), kind="stable")
    return [(int(low[0, i]), int(low[1, i]), int(high[0, i]), int(high[1, i])) for i in order]
