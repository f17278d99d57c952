"""The index: a row for every map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lucidcam.errors import DataError
from lucidcam.imaging import maps
from lucidcam.imaging.explanation import LARGEST_WHOLE, Explanation
from lucidcam.samples import Object
from lucidcam.utils.optional import import_optional

Boxes = Sequence[tuple[float, float, float, float]]

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
    boxes = [item.box for item in marked if item.box is not None]
    is_large = explanation.size[0] * explanation.size[1] > LARGEST_WHOLE
    measured = (_measured_by_bands if is_large else _measured)(explanation, boxes, threshold)
    height, width = explanation.size
    box = measured.regions[0].box if measured.regions else None
    total = float(measured.across.sum())
    seen = total > 0
    peak_y, peak_x = divmod(measured.place, width)
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
        "box_energy": measured.in_box / total if box is not None and seen else None,
        "energy": measured.energy,
        "negative": measured.negative,
        "peak": measured.peak,
        "peak_x": peak_x if seen else None,
        "peak_y": peak_y if seen else None,
        "centre_x": float(measured.across @ (np.arange(width) + 0.5)) / total if seen else None,
        "centre_y": float(measured.down @ (np.arange(height) + 0.5)) / total if seen else None,
        "area": sum(region.area for region in measured.regions) / (height * width),
        "inside": measured.in_boxes / total if boxes and seen else None,
        "error": explanation.error,
    }


@dataclass(frozen=True, eq=False)
class _Measured:
    """What is measured of a map in the photo's size.

    Attributes:
        regions: at or above the threshold, the largest first.
        across: sums of the heatmap's columns.
        down: sums of its rows.
        place: number of the pixel of its peak, row by row.
        in_box: what lies in the first region's box.
        in_boxes: what lies in any of the marked boxes.
        energy: mean of what speaks for the class.
        negative: mean of what speaks against it.
        peak: the map's largest value.
    """

    regions: Sequence[maps.Region]
    across: npt.NDArray[np.float64]
    down: npt.NDArray[np.float64]
    place: int
    in_box: float
    in_boxes: float
    energy: float
    negative: float
    peak: float


def _measured(explanation: Explanation, boxes: Boxes, threshold: float) -> _Measured:
    heatmap, values = explanation.heatmap, explanation.map
    regions = maps.regions(heatmap, threshold)
    across = heatmap.sum(0, dtype=np.float64)
    low, peak = float(values.min()), float(values.max())
    is_ranged = low < 0 or explanation.ranged
    return _Measured(
        regions=regions,
        across=across,
        down=heatmap.sum(1, dtype=np.float64),
        place=int(heatmap.argmax()),
        in_box=_inside(heatmap, [regions[0].box]) if regions else 0.0,
        in_boxes=_inside(heatmap, boxes) if boxes else 0.0,
        energy=float(np.maximum(values, 0).mean(dtype=np.float64)) if is_ranged else float(across.sum()) * peak / heatmap.size,
        negative=float(np.minimum(values, 0).mean(dtype=np.float64)) if low < 0 else 0.0,
        peak=peak,
    )


def _measured_by_bands(explanation: Explanation, boxes: Boxes, threshold: float) -> _Measured:
    """The same of a large map, since the whole of it would take several times the photo's memory."""
    height, width = explanation.size
    regions = maps.regions_of_bands(explanation.bands(), threshold)
    down, across = np.zeros(height), np.zeros(width)
    highest, place = -1.0, 0
    in_box = in_boxes = 0.0
    for top, band in explanation.bands():
        rows = slice(top, top + len(band))
        down[rows], across = band.sum(1, dtype=np.float64), across + band.sum(0, dtype=np.float64)
        if float(band.max()) > highest:
            highest, place = float(band.max()), top * width + int(band.argmax())
        in_box += _inside(band, [regions[0].box], top) if regions else 0.0
        in_boxes += _inside(band, boxes, top) if boxes else 0.0
    peak, positive, negative = -math.inf, 0.0, 0.0
    for _, band in explanation.map_bands():
        peak = max(peak, float(band.max()))
        positive += float(np.maximum(band, 0).sum(dtype=np.float64))
        negative += float(np.minimum(band, 0).sum(dtype=np.float64))
    pixels = height * width
    return _Measured(regions, across, down, place, in_box, in_boxes, positive / pixels, negative / pixels, peak)


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


def _inside(heatmap: maps.Array, boxes: Boxes, above: int = 0) -> float:
    """What lies in any of some boxes, counted once; of a heatmap without so many rows `above`."""
    cut = [tuple(max(round(side) - shift, 0) for side, shift in zip(box, (0, above, 0, above), strict=True)) for box in boxes]
    if len(cut) == 1:
        [(left, top, right, bottom)] = cut
        return float(heatmap[top:bottom, left:right].sum(dtype=np.float64))
    inside = np.zeros(heatmap.shape, bool)
    for left, top, right, bottom in cut:
        inside[top:bottom, left:right] = True
    return float(heatmap[inside].sum(dtype=np.float64))
