"""A folder of images and a folder of mask images (`masks`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import (
    IMAGE_FOLDERS,
    by_stem,
    doubled,
    file_in,
    folder_in,
    lines_of,
    name_in,
    numbered_names,
    path_of,
    read_json,
    read_values,
    read_yaml,
)
from lucidcam.errors import DataError, InputError, OptionError
from lucidcam.io import images
from lucidcam.samples import Mask, Object, Problem, Sample, labels_of

FOLDERS = ("masks", "mask")
CLASSES = tuple(f"{stem}.{suffix}" for suffix in ("txt", "yaml", "yml", "json") for stem in ("classes", "labels"))
IGNORED = 255
PROBED = 20
"""How many masks are looked at to tell binary masks from class indices."""


@register("masks")
@dataclass(frozen=True, kw_only=True)
class Masks(Format):
    """`images/` and `masks/`: a PNG of the same name and size per image, of class indices or binary.

    In masks of class indices 0 is background and 255 ignored; the classes' names come from `classes.txt` (lines `id name` or `id: name`;
    lines without an id count from 0 when the first is a background, else from 1), `classes.yaml` or `classes.json` (a list or mapping,
    also under `names`), else a class is called "value 7". In binary masks (0 and 255, or 0 and 1 with 255 ignored) the class is the
    image's sub-folder, or "object".

    Attributes:
        values: "index" or "binary"; "auto": index where there is a classes file or the first masks hold values other than 0, 1, 255.
        classes: the classes file; "": looked for in the folder.
    """

    about = "folders images/ and masks/"
    precedence = 40

    values: Literal["auto", "index", "binary"] = "auto"
    classes: str = ""

    def __post_init__(self) -> None:
        if self.values not in ("auto", "index", "binary"):
            raise OptionError(f"expected values 'auto', 'index' or 'binary'; got {self.values!r}.")

    def recognises(self, source: Any) -> bool:
        """A folder with both folders."""
        return isinstance(source, Path) and folder_in(source, *FOLDERS) is not None and folder_in(source, *IMAGE_FOLDERS) is not None

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        root = path_of(source, "masks", "a folder with images/ and masks/")
        pictures_in, masks_in = folder_in(root, *IMAGE_FOLDERS), folder_in(root, *FOLDERS)
        if pictures_in is None or masks_in is None:
            raise DataError(f"masks: {str(root)!r} has no folders images and masks; looked for {', '.join((*IMAGE_FOLDERS, *FOLDERS))}.")
        (pictures, doubles), (masks, double_masks) = by_stem(pictures_in), by_stem(masks_in)
        if not pictures or not masks:
            raise DataError(f"masks: no images are in {str(masks_in if pictures else pictures_in)!r}; expected PNG masks and their images.")
        file = path_of(self.classes, "masks", "a classes file") if self.classes else file_in(root, *CLASSES)
        names = None if file is None else _names(file)
        binary = self.values == "binary" or (self.values == "auto" and names is None)
        foreground = 255
        if binary:
            present = _present([masks[stem] for stem in pictures if stem in masks][:PROBED])
            if self.values == "auto" and not present <= {0, 1, IGNORED}:
                binary = False
            elif 1 in present:
                foreground = 1

        def stream() -> Iterator[Sample | Problem]:
            for stem, path in pictures.items():
                name = name_in(root, path)
                if stem not in masks:
                    yield Problem(name, f"it has no mask {name_in(root, masks_in / stem)}.png.")
                    continue
                try:
                    values = _checked(path, masks[stem])
                    found = _binary(values, foreground, stem) if binary else _index(values, names or {})
                except InputError as error:
                    yield Problem(name, str(error))
                    continue
                objects = tuple(Object(label, mask=_equal(masks[stem], value)) for value, label in found.items())
                ignored = IGNORED in values and not (binary and foreground == IGNORED)
                yield Sample(path, name, labels_of(objects), objects, _equal(masks[stem], IGNORED) if ignored else None)
            for path, kept in doubles.items():
                yield doubled(root, path, kept, "mask")
            for path, kept in double_masks.items():
                yield doubled(root, path, kept, "image")
            for stem, path in masks.items():
                if stem not in pictures:
                    yield Problem(name_in(root, path), "no image of this name is there; copy it, or take the mask away.")

        return Dataset(root.resolve().name, "masks", stream, len(pictures), None if names is None else tuple(names.values()))


def _present(paths: list[Path]) -> set[int]:
    found: set[int] = set()
    for path in paths:
        try:
            found.update(np.unique(read_values(path)).tolist())
        except InputError:  # told when its turn comes
            continue
    return found


def _checked(image: Path, mask: Path) -> npt.NDArray[np.int64]:
    values, (width, height) = read_values(mask), images.size(image)
    if values.shape != (height, width):
        raise InputError(
            f"its mask {mask.name} has {values.shape[1]}×{values.shape[0]} pixels, the image {width}×{height}"
            + ("; was it made before the photo was turned upright (EXIF)?" if values.shape == (width, height) else "; expected the same.")
        )
    return values


def _binary(values: npt.NDArray[np.int64], foreground: int, stem: str) -> dict[int, str]:
    odd = sorted(set(np.unique(values).tolist()) - {0, foreground, IGNORED})
    if odd:
        raise InputError(f"expected a binary mask of 0 and {foreground}, as the first ones; it holds {odd[0]}: give values='index'.")
    parts = Path(stem).parts
    return {foreground: parts[0] if len(parts) > 1 else "object"} if foreground in values else {}


def _index(values: npt.NDArray[np.int64], names: dict[int, str]) -> dict[int, str]:
    present = [value for value in np.unique(values).tolist() if value not in (0, IGNORED)]
    nameless = [value for value in present if names and value not in names]
    if nameless:
        known = f"{min(names)} to {max(names)}"
        raise InputError(f"its mask holds the value {nameless[0]}, and the classes file names {known}; is it the file of these masks?")
    return {value: names.get(value, f"value {value}") for value in present}


def _equal(path: Path, value: int) -> Callable[[], Mask]:
    return lambda: np.asarray(read_values(path) == value)


def _names(path: Path) -> dict[int, str]:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml", ".json"):
        content = read_json(path) if suffix == ".json" else read_yaml(path, "the data format masks")
        if isinstance(content, dict) and "names" in content:
            content = content["names"]
        if isinstance(content, list):
            return dict(enumerate(map(str, content)))
        try:
            if isinstance(content, dict):
                return numbered_names(content)
        except ValueError:
            pass
        raise DataError(f"masks: {str(path)!r} lists no classes; expected a list of names, or a mapping from pixel value to name.")
    lines = [line for _, line in lines_of(path)]
    numbered = [re.fullmatch(r"(\d+)\s*[:\s]\s*(.+)", line) for line in lines]
    if lines and all(numbered):
        return {int(each[1]): each[2].strip() for each in numbered if each is not None}
    return dict(enumerate(lines, start=0 if lines and "background" in lines[0].casefold() else 1))
