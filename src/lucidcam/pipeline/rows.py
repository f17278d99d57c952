"""The index: a row for every map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lucidcam import maps
from lucidcam.compat import import_optional
from lucidcam.errors import DataError
from lucidcam.explanation import LARGEST_WHOLE, Explanation
from lucidcam.samples import Object

COLUMNS = {
    "sample": "int64",
    "image": "string",
    "width": "int32",
    "height": "int32",
    "label": "string",
    "target": "int32",
    "score": "float32",
    "probability": "float32",
    "box": "box",
    "box_energy": "float32",
    "energy": "float32",
    "negative": "float32",
    "peak": "float32",
    "peak_x": "int32",
    "peak_y": "int32",
    "centre_x": "float32",
    "centre_y": "float32",
    "area": "float32",
    "inside": "float32",
    "error": "float32",
}
"""Columns of the index and their types, in order; `docs/run.md` tells what they mean."""


def row_of(explanation: Explanation, sample: int, label: str, marked: Sequence[Object], threshold: float) -> dict[str, Any]:
    """The row of a map, measured in the photo's size.

    Args:
        explanation: the map.
        sample: number of the image in the data set.
        label: what the data or the model calls the class.
        marked: the things of this class that are marked in the image.
        threshold: of the box, a share of the map's maximum.
    """
    if explanation.size[0] * explanation.size[1] > LARGEST_WHOLE:
        return _row_of_large(explanation, sample, label, marked, threshold)
    heatmap, whole = explanation.heatmap, explanation.map
    height, width = heatmap.shape
    regions = maps.regions(heatmap, threshold)
    across, down = heatmap.sum(0, dtype=np.float64), heatmap.sum(1, dtype=np.float64)
    total = float(across.sum())
    seen = total > 0
    low, peak = float(whole.min()), float(whole.max())
    peak_y, peak_x = divmod(int(heatmap.argmax()), width)
    boxes = [each.box for each in marked if each.box is not None]
    box = regions[0].box if regions else None
    return {
        "sample": sample,
        "image": explanation.name,
        "width": width,
        "height": height,
        "label": label,
        "target": explanation.target,
        "score": explanation.score,
        "probability": explanation.probability,
        "box": None if box is None else list(box),
        "box_energy": _inside(heatmap, [box]) / total if box is not None and seen else None,
        "energy": float(np.maximum(whole, 0).mean(dtype=np.float64)) if low < 0 or explanation.ranged else total * peak / heatmap.size,
        "negative": float(np.minimum(whole, 0).mean(dtype=np.float64)) if low < 0 else 0.0,
        "peak": peak,
        "peak_x": peak_x if seen else None,
        "peak_y": peak_y if seen else None,
        "centre_x": float(across @ (np.arange(width) + 0.5)) / total if seen else None,
        "centre_y": float(down @ (np.arange(height) + 0.5)) / total if seen else None,
        "area": sum(each.area for each in regions) / heatmap.size,
        "inside": _inside(heatmap, boxes) / total if boxes and seen else None,
        "error": explanation.error,
    }


def _row_of_large(explanation: Explanation, sample: int, label: str, marked: Sequence[Object], threshold: float) -> dict[str, Any]:
    """See `row_of`; the map is measured band by band, since the whole of it would take several times the photo's memory."""
    height, width = explanation.size
    regions = maps.regions_of_bands(explanation.bands(), threshold)
    box = regions[0].box if regions else None
    boxes = [each.box for each in marked if each.box is not None]
    down, across = np.zeros(height), np.zeros(width)
    highest, place = -1.0, 0
    in_box = in_boxes = 0.0
    for top, band in explanation.bands():
        rows = slice(top, top + len(band))
        down[rows], across = band.sum(1, dtype=np.float64), across + band.sum(0, dtype=np.float64)
        if float(band.max()) > highest:
            highest, place = float(band.max()), top * width + int(band.argmax())
        in_box += _inside(band, [box], top) if box is not None else 0.0
        in_boxes += _inside(band, boxes, top) if boxes else 0.0
    low, peak, positive, negative = math.inf, -math.inf, 0.0, 0.0
    for _, band in explanation.map_bands():
        low, peak = min(low, float(band.min())), max(peak, float(band.max()))
        positive += float(np.maximum(band, 0).sum(dtype=np.float64))
        negative += float(np.minimum(band, 0).sum(dtype=np.float64))
    total = float(across.sum())
    seen = total > 0
    return {
        "sample": sample,
        "image": explanation.name,
        "width": width,
        "height": height,
        "label": label,
        "target": explanation.target,
        "score": explanation.score,
        "probability": explanation.probability,
        "box": None if box is None else list(box),
        "box_energy": in_box / total if box is not None and seen else None,
        "energy": positive / (height * width),
        "negative": negative / (height * width),
        "peak": peak,
        "peak_x": place % width if seen else None,
        "peak_y": place // width if seen else None,
        "centre_x": float(across @ (np.arange(width) + 0.5)) / total if seen else None,
        "centre_y": float(down @ (np.arange(height) + 0.5)) / total if seen else None,
        "area": sum(each.area for each in regions) / (height * width),
        "inside": in_boxes / total if boxes and seen else None,
        "error": explanation.error,
    }


def encoded(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file; the same rows give the same bytes."""
    arrow = import_optional("pyarrow", "run", "the index of a run")
    parquet = import_optional("pyarrow.parquet", "run", "the index of a run")
    kinds = {"box": arrow.list_(arrow.int32(), 4)}
    schema = arrow.schema([(name, kinds[kind] if kind in kinds else getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    content = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(list(rows), schema), content, compression="zstd")
    return bytes(content.getvalue())


MOST_ROWS = 2**20
"""Rows of one unit's index: of a value that is always the same a few bytes declare billions."""

MOST_BYTES = 2**28
"""What one unit's index takes when it is unpacked."""


def decoded(contents: Iterable[bytes]) -> Any:
    """The table of some Parquet files (pyarrow).

    Raises:
        DataError: one declares more than an index may hold.
    """
    arrow = import_optional("pyarrow", "run", "the index of a run")
    parquet = import_optional("pyarrow.parquet", "run", "the index of a run")
    # By this thread alone: at the end of a program pyarrow's own threads abort Python now and then (seen with 26.0.1).
    files = (parquet.ParquetFile(arrow.BufferReader(each), pre_buffer=False) for each in contents)
    return arrow.concat_tables([_table(file) for file in files])


def _table(file: Any) -> Any:
    groups = range(file.metadata.num_row_groups)
    size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
    if file.metadata.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise DataError(
            f"expected an index of at most {MOST_ROWS:,} rows and {MOST_BYTES:,} bytes; "
            f"one declares {file.metadata.num_rows:,} and {size:,}."
        )
    return file.read(use_threads=False)


def _inside(heatmap: maps.Array, boxes: Sequence[tuple[float, float, float, float]], above: int = 0) -> float:
    """What lies in any of some boxes, counted once; of a heatmap without so many rows `above`."""
    cut = [tuple(max(round(side) - shift, 0) for side, shift in zip(box, (0, above, 0, above), strict=True)) for box in boxes]
    if len(cut) == 1:
        [(left, top, right, bottom)] = cut
        return float(heatmap[top:bottom, left:right].sum(dtype=np.float64))
    inside = np.zeros(heatmap.shape, bool)
    for left, top, right, bottom in cut:
        inside[top:bottom, left:right] = True
    return float(heatmap[inside].sum(dtype=np.float64))
