"""Data sets of Hugging Face's `datasets` (`hf`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import box_of, declared_size, from_xywh, is_file, once, whole_number
from lucidcam.errors import DataError, OptionError, first_line, unknown
from lucidcam.samples import ClassId, Object, Problem, Sample

NAMES = ("file_name", "filename", "image_id", "id")
LABELS = ("label", "labels", "fine_label")
BOXES = ("bbox", "box", "boxes", "bboxes")
SIZES = (("width", "height"), ("image_width", "image_height"))
CATEGORIES = ("category", "categories", "label", "labels", "category_id", "class")


@register("hf")
@dataclass(frozen=True, kw_only=True)
class HuggingFace(Format):
    """A `datasets.Dataset` or `IterableDataset`, as `datasets.load_dataset(…, split="test")` returns it.

    Images are taken undecoded, so that a damaged one is a problem of its own. Class numbers become names where the column is a
    `ClassLabel`, and are class ids elsewhere; −1, None and NaN are no label. Without labels of its own a row has those of its objects. The
    columns `width` and `height` (or `image_width`, `image_height`) declare the photo's size, which it must then have.

    Attributes:
        image: the column of the image.
        label: the column of the class or classes; "": `label` or `labels`, where there is one.
        objects: the column of the objects: `bbox` and `category` (or `label`), lists in one mapping or a list of mappings.
        box_format: "xywh" as in COCO, or "xyxy".
    """

    about = "a datasets.Dataset of Hugging Face"
    precedence = 10

    image: str = "image"
    label: str = ""
    objects: str = "objects"
    box_format: Literal["xywh", "xyxy"] = "xywh"

    def __post_init__(self) -> None:
        if self.box_format not in ("xywh", "xyxy"):
            raise OptionError(f"expected box_format 'xywh' or 'xyxy'; got {self.box_format!r}.")

    def recognises(self, source: Any) -> bool:
        """Any object of the library `datasets`, which is not imported for it."""
        return type(source).__module__.partition(".")[0] == "datasets"

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        if isinstance(source, dict):
            raise DataError(
                f"hf: expected one split; got a DatasetDict of {', '.join(map(repr, source))}: give data[{next(iter(source), '')!r}]."
            )
        if not self.recognises(source) or not hasattr(source, "features"):
            raise DataError(f"hf: expected a datasets.Dataset or IterableDataset; got a {type(source).__name__}.")
        columns = list(source.column_names or [])  # an iterable data set may not know them
        for option, column in (("image", self.image), ("label", self.label)):
            if column and columns and column not in columns:
                raise DataError(f"hf: {option}: {unknown('column', column, columns)}")
        features = dict(source.features or {})
        library = importlib.import_module("datasets")  # the source is one of its objects
        rows = source
        if isinstance(features.get(self.image), library.Image):
            rows = source.cast_column(self.image, library.Image(decode=False))
        reader = _Reader(self, features)

        def stream() -> Iterator[Sample | Problem]:
            names = None
            for i, row in enumerate(rows):
                names = names or next((column for column in NAMES if isinstance(row.get(column), (str, int))), "")
                name = str(row[names]) if names else str(i)
                try:
                    yield reader.sample(row, name)
                except (ValueError, TypeError, IndexError) as error:
                    yield Problem(name, f"row {i}: {first_line(error).rstrip('.')}.")

        title = getattr(getattr(source, "info", None), "dataset_name", None) or "hf"
        count = len(source) if hasattr(source, "__len__") else None
        return Dataset(title, "hf", lambda: once(stream()), count, reader.classes)


class _Reader:
    """From rows to samples."""

    def __init__(self, options: HuggingFace, features: dict[str, Any]) -> None:
        self.options = options
        self.label_column = options.label or next((column for column in LABELS if column in features), "label")
        self.label_names = _names_of(features.get(self.label_column))
        objects = _inner(features.get(options.objects))
        self.object_names = (
            next((_names_of(objects[key]) for key in CATEGORIES if key in objects), None) if isinstance(objects, dict) else None
        )
        names = dict.fromkeys([*(self.label_names or ()), *(self.object_names or ())])
        self.classes = tuple(names) or None

    def sample(self, row: dict[str, Any], name: str) -> Sample | Problem:
        image = row.get(self.options.image)
        if isinstance(image, dict):  # undecoded
            image = image.get("bytes") or image.get("path")
        if image is None:
            return Problem(name, f"it has no image in the column {self.options.image!r}.")
        if isinstance(image, str) and not is_file(Path(image)):
            return Problem(name, f"the image {image!r} does not exist.")
        objects = tuple(self._objects(row.get(self.options.objects)))
        given = row.get(self.label_column)
        labels = [_word(each, self.label_names) for each in (given if isinstance(given, (list, tuple)) else [given])]
        found = [label for label in labels if label is not None] or [each.label for each in objects]
        size = next((size for columns in SIZES if (size := declared_size(*map(row.get, columns))) is not None), None)
        return Sample(image, name, tuple(dict.fromkeys(found)), objects, size=size)

    def _objects(self, given: Any) -> Iterator[Object]:
        for each in _listed(given or []):
            numbers = next((each[key] for key in BOXES if key in each), None)
            label = _word(next((each[key] for key in CATEGORIES if key in each), None), self.object_names)
            if label is None:
                raise ValueError(f"an object has no category; expected one of the keys {', '.join(CATEGORIES)}")
            box = None if numbers is None else box_of(numbers)
            yield Object(label, from_xywh(box) if box is not None and self.options.box_format == "xywh" else box)


def _listed(given: Any) -> list[dict[str, Any]]:
    """From a mapping of lists, or a list of mappings, to the latter."""
    if not isinstance(given, dict):
        return list(given)
    lists = {key: values for key, values in given.items() if isinstance(values, (list, tuple))}
    lengths = {len(values) for key, values in lists.items() if key in BOXES or key in CATEGORIES}
    if len(lengths) > 1:
        raise ValueError(f"its objects have lists of unequal lengths ({', '.join(map(str, sorted(lengths)))})")
    return [{key: values[i] for key, values in lists.items() if i < len(values)} for i in range(max(lengths, default=0))]


def _inner(feature: Any) -> Any:
    """The feature of a list's entries; older versions of the library wrap them in `Sequence`, newer in `List`, or a plain list."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return getattr(feature, "feature", feature)


def _names_of(feature: Any) -> tuple[str, ...] | None:
    names = getattr(_inner(feature), "names", None)
    return tuple(names) if names else None


def _word(value: Any, names: tuple[str, ...] | None) -> str | None:
    if value is None or value == -1 or value != value:
        return None
    number = None if isinstance(value, str) else whole_number(value)
    if number is None:
        return str(value)
    if names is None:
        return ClassId(number)
    if not 0 <= number < len(names):
        raise ValueError(f"class {number} is not among the {len(names)} names")
    return names[number]
