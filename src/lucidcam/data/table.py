"""Tables of annotations: CSV, TSV and JSON lines (`table`)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import (
    box_of,
    declared_size,
    from_xywh,
    is_file,
    lines_of,
    missing,
    option_folder,
    path_of,
    read_text,
    spelled,
    whole_number,
)
from lucidcam.errors import DataError
from lucidcam.io.storage import parsed_json
from lucidcam.samples import ClassId, Object, Problem, Sample
from lucidcam.types import without_zeros
from lucidcam.utils.csv_rows import restore_cell

IMAGE = ("image", "path", "file", "filename", "file_name", "image_path")
LABEL = ("label", "labels", "class", "category")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
DECLARED = (("image_width", "image_height"), ("img_width", "img_height"), ("width", "height"))
"""Columns that hold the photo's size; `width` and `height` only where they are not a box's."""
LINES = frozenset({".jsonl", ".ndjson"})
COLUMNS = frozenset({".csv", ".tsv"})


@register("table")
@dataclass(frozen=True, kw_only=True)
class Table(Format):
    """A CSV or TSV file with a header, or a file of JSON objects, one per line.

    - The image: a column `image`, `path`, `file` or `filename`. Relative paths start at the file's folder.
    - Its classes: `label` or `labels`, several separated by `|` or `;`, in JSON also as a list.
    - Boxes in pixels: `xmin, ymin, xmax, ymax` (or `x1, y1, x2, y2`), right and bottom exclusive; or `x, y, w, h`. In JSON also `boxes`,
      a list of [x1, y1, x2, y2], of [x1, y1, x2, y2, label] or of {"box": […], "label": …}. A box without a label of its own has the
      row's, of which there must be one.
    - In CSV, an apostrophe before `=`, `+`, `-` or `@` at the start of a name or class is taken off: it keeps spreadsheet programs from
      taking them for formulas, and is written by lucidcam, too.
    - The photo's size, which it must then have: `image_width, image_height`, or `width, height` where these are not the box's.

    Several rows of one image are one sample. A row that is malformed makes its image unusable, with the line's number. Where some rows call
    a class 1 and others 1.0, it is one class, 1.

    Attributes:
        images: the folder that relative paths start from; "": the file's.
    """

    about = "a CSV, TSV or JSON-lines file with a column image"
    precedence = 40

    images: str = ""

    def recognises(self, source: Any) -> bool:
        """A file called so."""
        return isinstance(source, Path) and source.is_file() and source.suffix.lower() in LINES | COLUMNS

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        path = path_of(source, "table", "a CSV, TSV or JSON-lines file")
        if not path.is_file():
            raise DataError(f"table: {str(path)!r} is a folder; give the CSV, TSV or JSON-lines file in it.")
        root = option_folder(self.images, "table", "images") if self.images else path.parent
        grouped: dict[str, _Rows] = {}
        for name, rows in _json_rows(path) if path.suffix.lower() in LINES else _csv_rows(path, root):
            grouped.setdefault(name, _Rows()).add(rows)

        listed = {label: label for rows in grouped.values() for label in rows.labels}
        spellings = {label: listed[plain] for label in listed if (plain := without_zeros(label)) != label and plain in listed}
        for rows in grouped.values() if spellings else ():
            rows.respell(spellings)

        bounds = self.bounds(root, path.parent)
        bounds.check_first((name, root / name) for name, rows in grouped.items() if rows.error is None)

        def stream() -> Iterator[Sample | Problem]:
            for name, rows in grouped.items():
                if rows.error is None and not bounds.allow(root / name):
                    yield Problem(name, str(bounds.refused(name, [root / name])))
                    continue
                file = spelled(root / name)
                if rows.error is not None:
                    yield Problem(name, rows.error)
                elif not is_file(file):
                    yield missing(name, file)
                else:
                    yield Sample(file, name, tuple(dict.fromkeys(rows.labels)), tuple(rows.objects), size=rows.size)

        classes = sorted({label for rows in grouped.values() for label in rows.labels})
        return Dataset(path.stem, "table", stream, len(grouped), tuple(classes) or None)


@dataclass
class _Rows:
    """What the rows of one image say; the first error stays."""

    labels: list[str] = field(default_factory=list)
    objects: list[Object] = field(default_factory=list)
    error: str | None = None
    size: tuple[int, int] | None = None

    def add(self, other: _Rows) -> None:
        sizes = {size for size in (self.size, other.size) if size is not None}
        if len(sizes) > 1:
            self.error = self.error or f"its rows declare unlike sizes, {' and '.join(f'{w}×{h}' for w, h in sorted(sizes))}"
        self.size = next(iter(sizes), None)
        self.labels += other.labels
        self.objects += other.objects
        self.error = self.error or other.error

    def respell(self, spellings: Mapping[str, str]) -> None:
        """Call labels as they are called elsewhere in the table."""
        self.labels = [spellings.get(label, label) for label in self.labels]
        self.objects = [replace(each, label=spellings.get(each.label, each.label)) for each in self.objects]


def _csv_rows(path: Path, root: Path) -> Iterator[tuple[str, _Rows]]:
    text = read_text(path)
    first = text.partition("\n")[0]
    tabs = path.suffix.lower() == ".tsv"
    reader = csv.reader(io.StringIO(text), delimiter="\t" if tabs else max(",;\t", key=first.count), strict=True)
    try:
        header = [column.strip().casefold() for column in next(reader, [])]
        image = _column(header, IMAGE)
        if image is None:
            raise DataError(f"{str(path)!r}, line 1: expected a column {', '.join(IMAGE[:3])} or {IMAGE[3]}; got {first.strip()[:80]!r}.")
        label = _column(header, LABEL)
        corners = next((columns for columns in CORNERS if set(columns) <= set(header)), None)
        sizes = next((columns for columns in SIZES if set(columns) <= set(header)), None)
        partly = [columns for columns in CORNERS if not corners and 0 < len(set(columns) & set(header)) < 4]
        if partly:
            lacking = ", ".join(column for column in partly[0] if column not in header)
            raise DataError(f"{str(path)!r}, line 1: a box needs the columns {', '.join(partly[0])}; {lacking} is missing.")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(header):
                known = cells[header.index(image)].strip() if len(cells) > header.index(image) else ""
                yield known or where, _Rows(error=f"{where}: expected {len(header)} values, as in the header; got {len(cells)}.")
                continue
            row = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
            labels: list[str] = _split(restore_cell(row[label])) if label is not None else []
            columns = corners or sizes
            numbers = [row[column] for column in columns] if columns else []
            boxes = [numbers] if any(numbers) else []
            yield _row(
                where, _restored(row[image], root), labels, boxes, xywh=corners is None, size=_declared(row, () if corners else sizes or ())
            )
    except csv.Error as error:
        raise DataError(f"{str(path)!r}, line {reader.line_num}: {error}; expected a CSV file.") from error


def _restored(cell: str, root: Path) -> str:
    """A file's name, without the apostrophe that keeps spreadsheet programs from taking it for a formula; unless it is called like that."""
    name = restore_cell(cell)
    return cell if name != cell and is_file(root / cell) and not is_file(root / name) else name


def _json_rows(path: Path) -> Iterator[tuple[str, _Rows]]:
    seen = False
    for number, line in lines_of(path):
        where = f"{path.name}, line {number}"
        try:
            row = parsed_json(line)
        except ValueError as error:
            yield where, _Rows(error=f"{where}: no JSON ({error}); is the line cut off?")
            continue
        image = _column(row, IMAGE) if isinstance(row, dict) else None
        if image is None:
            if not seen:
                raise DataError(f"{str(path)!r}, line {number}: expected a JSON object with image, path or file; got {line[:80]!r}.")
            yield where, _Rows(error=f"{where}: expected a JSON object with image, path or file; got {line[:80]!r}.")
            continue
        seen = True
        label = _column(row, LABEL)
        given = row[label] if label is not None else []
        labels = [word for each in (given if isinstance(given, list) else [given]) for word in _words(each, isinstance(given, list))]
        corners = next((columns for columns in CORNERS if set(columns) <= set(row)), None)
        sizes = next((columns for columns in SIZES if set(columns) <= set(row)), None)
        if "boxes" in row or corners:
            boxes = row["boxes"] or [] if "boxes" in row else [[row[column] for column in corners or ()]]
            yield _row(where, str(row[image]), labels, boxes, xywh=False, size=_declared(row, ()))
        else:
            boxes = [[row[column] for column in sizes]] if sizes else []
            yield _row(where, str(row[image]), labels, boxes, xywh=True, size=_declared(row, sizes or ()))


def _column(row: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _declared(row: dict[str, Any], of_the_box: tuple[str, ...]) -> tuple[int, int] | None:
    """The photo's size, from columns that are not its box's."""
    pair = next((pair for pair in DECLARED if set(pair) <= set(row) and not set(pair) & set(of_the_box)), None)
    return None if pair is None else declared_size(row[pair[0]], row[pair[1]])


def _words(value: Any, listed: bool) -> list[str]:
    """The classes that a JSON value means: a number is a class id, a text one class of a list, or several."""
    if value is None:
        return []
    number = None if isinstance(value, str) else whole_number(value)
    if number is not None:
        return [ClassId(number)]
    text = value if isinstance(value, str) else str(value)
    return [text] if listed else _split(text)


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[|;]", text) if part.strip()]


def _row(where: str, image: str, labels: list[str], boxes: Any, *, xywh: bool, size: tuple[int, int] | None) -> tuple[str, _Rows]:
    if not image:
        return where, _Rows(error=f"{where}: it names no image.")
    try:
        if not isinstance(boxes, list):
            raise ValueError(f"expected boxes as a list; got {boxes!r}")
        objects = [_object(box, labels, xywh) for box in boxes]
    except ValueError as error:
        return image, _Rows(error=f"{where}: {error}.")
    return image, _Rows(labels + [each.label for each in objects], objects, size=size)


def _object(given: Any, labels: list[str], xywh: bool) -> Object:
    label, numbers = None, given
    if isinstance(given, dict):
        label, numbers = given.get("label"), given.get("box", given.get("bbox"))
    elif isinstance(given, (list, tuple)) and len(given) == 5:
        *numbers, label = given
    box = box_of(numbers)
    if label is None:
        if len(labels) != 1:
            raise ValueError(f"the box has no label, and the row has {len(labels)}; expected one")
        label = labels[0]
    return Object(next(iter(_words(label, True))), from_xywh(box) if xywh else box)
