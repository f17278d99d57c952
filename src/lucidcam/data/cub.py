"""Caltech-UCSD Birds 200-2011 (`cub`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import (
    box_of,
    declared_size,
    file_in,
    folder_in,
    from_xywh,
    is_file,
    lines_of,
    missing,
    once,
    path_of,
    read_values,
    spelled,
)
from lucidcam.errors import DataError, OptionError
from lucidcam.samples import Mask, Object, Problem, Sample

MAJORITY = 127
"""Above it a pixel of a segmentation counts as bird: its grey value is the share of five annotators, 255 for all of them."""


@register("cub")
@dataclass(frozen=True, kw_only=True)
class CUB(Format):
    """CUB-200-2011 (Wah et al. 2011): `images.txt`, `image_class_labels.txt`, `classes.txt`, `bounding_boxes.txt`, `images/`.

    Boxes are x, y, width, height in pixels and become (x, y, x + width, y + height). The class "001.Black_footed_Albatross" is called
    "Black footed Albatross". Masks come from `segmentations/`, in the folder or beside it: where most annotators saw a bird. Where
    there is a `sizes.txt` (NABirds: id, width, height), each photo must have the size that it declares.

    Attributes:
        split: "train" or "test" as in `train_test_split.txt`; "": both.
    """

    about = "Caltech-UCSD Birds 200-2011"
    precedence = 10

    split: Literal["", "train", "test"] = ""

    def __post_init__(self) -> None:
        if self.split not in ("", "train", "test"):
            raise OptionError(f"expected split 'train', 'test' or ''; got {self.split!r}.")

    def recognises(self, source: Any) -> bool:
        """A folder with CUB's lists."""
        return isinstance(source, Path) and file_in(_root(source), "image_class_labels.txt") is not None

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        root = _root(path_of(source, "cub", "the folder CUB_200_2011"))
        listed = _table(root, "images.txt")
        classes = {id: re.sub(r"^\d+\.", "", name).replace("_", " ") for id, name in _table(root, "classes.txt").items()}
        class_of = _table(root, "image_class_labels.txt")
        boxes = _table(root, "bounding_boxes.txt") if file_in(root, "bounding_boxes.txt") else {}
        sizes = _table(root, "sizes.txt") if file_in(root, "sizes.txt") else {}
        if self.split:
            flag = "1" if self.split == "train" else "0"
            parts = _table(root, "train_test_split.txt")
            listed = {id: name for id, name in listed.items() if parts.get(id) == flag}
        pictures = folder_in(root, "images") or root
        masks = folder_in(root, "segmentations") or folder_in(root.parent, "segmentations")

        bounds = self.bounds(root)
        bounds.check_first((name, pictures / name) for name in listed.values())

        def stream() -> Iterator[Sample | Problem]:
            for id, name in listed.items():
                if not bounds.allow(pictures / name):
                    yield Problem(name, str(bounds.refused(name, [pictures / name])))
                    continue
                if not is_file(spelled(pictures / name)):
                    yield missing(name, pictures / name)
                    continue
                try:
                    yield _sample(name, pictures, classes[class_of[id]], boxes.get(id), masks, sizes.get(id, ""))
                except KeyError:
                    yield Problem(name, f"image_class_labels.txt gives it no class of classes.txt (image id {id}).")
                except ValueError as error:
                    yield Problem(name, f"bounding_boxes.txt, image id {id}: {error}.")

        return Dataset(root.resolve().name, "cub", lambda: once(stream()), len(listed), tuple(classes.values()))


def _root(source: Path) -> Path:
    return folder_in(source, "CUB_200_2011") or source


def _table(root: Path, name: str) -> dict[str, str]:
    """A list of CUB: an id, a space, and the rest."""
    path = root / name
    if not path.is_file():
        raise DataError(f"cub: {name} is missing in {str(root)!r}; expected the unpacked folder CUB_200_2011.")
    found: dict[str, str] = {}
    for number, line in lines_of(path):
        id, _, rest = line.partition(" ")
        if not rest:
            raise DataError(f"{str(path)!r}, line {number}: expected an id and a value, separated by a space; got {line!r}.")
        found[id] = rest.strip()
    return found


def _sample(name: str, pictures: Path, label: str, numbers: str | None, masks: Path | None, size: str) -> Sample:
    box = None if numbers is None else from_xywh(box_of(numbers.split()))
    path = None if masks is None else spelled((masks / name).with_suffix(".png"))

    def mask() -> Mask:
        assert path is not None
        return np.asarray(read_values(path) > MAJORITY)

    thing = Object(label, box, mask if path is not None and is_file(path) else None)
    objects = () if thing.box is None and thing.mask is None else (thing,)
    return Sample(spelled(pictures / name), name, (label,), objects, size=declared_size(*(*size.split(), "", "")[:2]))
