"""COCO's instances JSON (`coco`)."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._bounds import FIRST, Bounds
from lucidcam.data._files import (
    box_of,
    declared_size,
    file_in,
    files_with,
    folder_in,
    folders_in,
    from_xywh,
    is_file,
    missing,
    once,
    option_folder,
    outline,
    path_of,
    read_json,
    spelled,
    start_of,
    whole_number,
)
from lucidcam.errors import DataError, InputError, MissingExtraError
from lucidcam.io import images
from lucidcam.samples import DegenerateError, Mask, Object, Problem, Sample, left_out
from lucidcam.utils.optional import import_optional

ANNOTATIONS = frozenset({"annotations", "annotation", "labels", "json", "jsons"})
"""Names of a folder, in lower case, that is for annotation files, and lies beside that of the images."""

SMALL = 2.0
"""Outlines narrower than this, in pixels, may hold no pixel and are drawn when they are read."""

FAR = 1_000_000
"""Pixels from the corner that a polygon's points may lie at; pycocotools draws along every pixel, and crashes further out."""

DIGITS = 60
"""Bits of a run length at most."""

_KEYS = re.compile(r'\A\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:\s*[\[{"]')


@register("coco")
@dataclass(frozen=True, kw_only=True)
class COCO(Format):
    """COCO's instances (Lin et al. 2014): one JSON file with `images`, `annotations` and `categories`.

    Boxes are x, y, width, height and become (x, y, x + width, y + height). Masks are polygons or run lengths, compressed or not, made by
    pycocotools when asked. A crowd (`iscrowd`) is no object: its pixels are ignored, its class counts among the image's. An object whose
    outline or box has no area is left out, with a problem of its own. `width` and `height` are compared with the photo's.

    Attributes:
        split: which file of a folder: the one with this word in its name, "val" for `instances_val2017.json`.
        images: the folder of the images; "": looked for beside the file.
    """

    about = "COCO's instances JSON"
    precedence = 20

    split: str = ""
    images: str = ""

    def recognises(self, source: Any) -> bool:
        """A JSON file that starts like COCO's, or a folder with one in it or in its `annotations/`."""
        return isinstance(source, Path) and bool(_files(source))

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        path = self._file(path_of(source, "coco", "an instances JSON file, or a folder with annotations/*.json"))
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
            raise DataError(f"coco: {str(path)!r} has no lists images, annotations and categories; expected an instances file.")
        pictures, broken = _by_id(content["images"], "file_name")
        names, _ = _by_id(content["categories"], "name")
        grouped: dict[Any, list[dict[str, Any]]] = {}
        for each in content["annotations"]:
            if isinstance(each, dict):
                grouped.setdefault(_key(each.get("image_id")), []).append(each)
        files = [each["file_name"] for each in pictures.values()]
        bounds = self.bounds(*_own_folders(path, Path(source)))
        root = option_folder(self.images, "coco", "images") if self.images else _images(path, files, bounds)
        bounds = replace(bounds, roots=(root, *bounds.roots))
        bounds.check_first((file, root / file) for file in files)
        orphans = sum(len(found) for id, found in grouped.items() if id not in pictures)
        classes = {id: each["name"] for id, each in names.items()}

        def stream() -> Iterator[Sample | Problem]:
            for id, entry in pictures.items():
                named = root / entry["file_name"]
                if not bounds.allow(named):
                    yield Problem(entry["file_name"], str(bounds.refused(entry["file_name"], [named])))
                    continue
                file = spelled(named)
                if not is_file(file):
                    yield missing(entry["file_name"], file)
                    continue
                try:
                    sample, skipped = _sample(file, entry, grouped.get(id, []), classes)
                except ValueError as error:
                    yield Problem(entry["file_name"], f"{path.name}: {error}.")
                    continue
                yield sample
                yield from skipped
            if broken:
                yield Problem(path.name, f"{broken} entries of images have no id or file_name.")
            if orphans:
                yield Problem(path.name, f"{orphans} annotations are of an image_id that images does not list.")

        return Dataset(path.stem, "coco", lambda: once(stream()), len(pictures), tuple(classes.values()))

    def _file(self, source: Path) -> Path:
        if source.is_file():
            return source
        found = [each for each in _files(source) if not self.split or self.split in (*re.findall(r"[a-z]+", each.stem), each.parent.name)]
        found = [each for each in found if each.stem.startswith("instances")] or found
        if len(found) == 1:
            return found[0]
        if not found:
            what = f" with {self.split!r} in its name" if self.split else ""
            raise DataError(f"coco: no instances JSON{what} is in {str(source)!r}; looked for annotations/*.json and *.json.")
        raise DataError(f"coco: {str(source)!r} holds {', '.join(each.name for each in found)}; give one of them, or split=….")


def _files(source: Path) -> list[Path]:
    if source.is_file():
        places = [source]
    else:
        places = [each for folder in (folder_in(source, "annotations"), source) for each in files_with(folder, ".json")]
        places += [each for folder in folders_in(source) for each in [file_in(folder, "_annotations.coco.json")] if each is not None]
    found = dict.fromkeys(each for each in places if each.suffix.lower() == ".json" and _KEYS.match(start_of(each)))
    return list(found)


def _key(id: Any) -> Any:
    return id if isinstance(id, (int, str)) else whole_number(id)  # tables of floating-point columns write 3.0


def _by_id(found: list[Any], needed: str) -> tuple[dict[Any, dict[str, Any]], int]:
    """The entries by their id, and how many lack it or what is needed."""
    usable = [
        {**each, needed: str(each[needed])}  # a class may be called 10
        for each in found
        if isinstance(each, dict) and _key(each.get("id")) is not None and isinstance(each.get(needed), (str, int))
    ]
    return {_key(each["id"]): each for each in usable}, len(found) - len(usable)


def _own_folders(path: Path, source: Path) -> list[Path]:
    """The folders of a data set: the annotation file's, or the one above where that is for annotations; and the one that was given."""
    folder = path.resolve().parent
    above = [folder.parent] if folder.name.casefold() in ANNOTATIONS else []
    return list(dict.fromkeys([source.resolve() if source.is_dir() else folder, *above, folder]))


def _images(path: Path, files: list[str], bounds: Bounds) -> Path:
    """The folder in which one of the first images lies.

    Raises:
        DataError: there is none; or they all lie outside of the data set's folder.
    """
    folder = path.resolve().parent
    split = path.stem.partition("_")[2].strip(".")
    places = [folder, folder / "images", folder.parent / "images", folder.parent]
    if split:
        places += [above / split for above in (folder.parent, folder.parent / "images", folder, folder / "images")]
    if not files:
        return folder
    for place in places:
        # The folder above is a data set's only where this one is for annotations; folders for images beside this one are, by their names.
        own = bounds if place == folder.parent else replace(bounds, roots=(place, *bounds.roots))
        if any(own.allow(place / file) and is_file(spelled(place / file)) for file in files[:FIRST]):
            return place
    bounds.check_first((file, folder / file) for file in files)
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise DataError(f"coco: the images of {str(path)!r} were not found; give their folder as images=… (tried {tried} for {files[0]!r}).")


def _sample(file: Path, entry: dict[str, Any], annotations: list[dict[str, Any]], classes: dict[Any, str]) -> tuple[Sample, list[Problem]]:
    """The image's sample, and a problem for each of its objects that is left out."""
    name = entry["file_name"]
    declared = declared_size(entry.get("width"), entry.get("height"))
    size = partial(_size, file, declared)
    skipped: list[Problem] = []
    objects: list[Object] = []
    labels: list[str] = []
    crowds: list[Callable[[], Mask]] = []
    for each in annotations:
        where = f"annotation {each.get('id')}"
        label = classes.get(_key(each.get("category_id")))
        if label is None:
            raise ValueError(f"{where}: category_id {each.get('category_id')!r} is not among the categories")
        labels.append(label)
        try:
            box = _box(each["bbox"]) if each.get("bbox") else None
            mask = _mask(each.get("segmentation"), size, box)
        except DegenerateError as error:
            skipped.append(left_out(name, where, error))
            continue
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not each.get("iscrowd"):
            objects.append(Object(label, box, mask))
        elif mask is not None:
            crowds.append(mask)
        elif box is not None:
            crowds.append(partial(_filled, box, size))
    ignore = partial(_union, crowds) if crowds else None
    return Sample(file, name, tuple(dict.fromkeys(labels)), tuple(objects), ignore, declared), skipped


def _size(file: Path, declared: tuple[int, int] | None) -> tuple[int, int]:
    size = images.size(file) if declared is None else declared
    images.check_size(*size, str(file))
    return size


def _box(numbers: Any) -> tuple[float, float, float, float]:
    box = box_of(numbers)
    if 0 in box[2:]:
        raise DegenerateError(f"its box is {box[2]:g}×{box[3]:g} pixels")
    return from_xywh(box)


def _mask(
    segmentation: Any, size: Callable[[], tuple[int, int]], box: tuple[float, float, float, float] | None
) -> Callable[[], Mask] | None:
    """Check a segmentation and return what makes the mask of it.

    Raises:
        ValueError: it is none.
        DegenerateError: it holds no pixel of the photo. Where the object's box lies outside, too, the box is what is complained of.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        counts, shape = segmentation.get("counts"), segmentation.get("size")
        sides = shape if isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape) else []
        if len(sides) != 2 or not isinstance(counts, (list, str)):
            raise ValueError("expected run lengths as {counts, size: [height, width]}")
        height, width = sides
        if height * width > images.MAX_PIXELS:
            raise ValueError(f"its mask has {width}×{height} pixels; expected at most {images.MAX_PIXELS}")
        runs = unpack(counts) if isinstance(counts, str) else counts
        if not all(isinstance(run, int) and run >= 0 for run in runs):
            raise ValueError("its run lengths are not all whole numbers from 0 on")
        if sum(runs) != height * width:
            raise ValueError(f"its run lengths add up to {sum(runs)}; expected {height}×{width} pixels")
        if not any(runs[1::2]):
            raise DegenerateError("its run lengths hold no pixel")
        return partial(_painted, runs, height, width)
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        raise ValueError("expected polygons as lists of points x, y")
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for part in segmentation for number in part):
        raise ValueError("expected polygons of numbers")
    if any(abs(number) > FAR for part in segmentation for number in part):
        raise ValueError(f"its polygons reach further than {FAR:,} pixels")
    if not any(segmentation):  # [[]]: marked by its box only
        return None
    # Parts without area add no pixel; four numbers would be taken for a box by pycocotools.
    parts = [part for part in segmentation if outline(part) is not None]
    if not parts:
        raise DegenerateError("expected polygons of at least three points x, y that are not on one line")
    _check_pixels(parts, size, box)
    return partial(_outlined, parts, size)


def _check_pixels(parts: list[list[float]], size: Callable[[], tuple[int, int]], box: tuple[float, float, float, float] | None) -> None:
    """Raise `DegenerateError` for polygons without a pixel in the photo. Only small ones are drawn for it: all would take long."""
    try:
        width, height = size()
    except InputError:  # reported when the photo is read
        return
    if box is not None and (box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height):
        return
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
    (left, top), (right, bottom) = points.min(0), points.max(0)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise DegenerateError(
            f"its outline ({left:g} to {right:g}, {top:g} to {bottom:g}) lies outside the photo of {width}×{height} pixels"
        )
    sides = min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)
    if min(sides) < SMALL:
        with contextlib.suppress(MissingExtraError):
            if not _outlined(parts, size).any():
                raise DegenerateError(f"its outline is {sides[0]:g}×{sides[1]:g} pixels and holds the centre of none")


def unpack(counts: str) -> list[int]:
    """From COCO's compressed run lengths to numbers.

    A number is written in groups of 5 bits, lowest first, each as a character from "0" on; bit 6 says that more follow, the highest bit
    of the last group is the sign. From the fourth number on, what is written is the difference to the number two before.

    >>> unpack("0480")
    [0, 4, 8, 4]
    """
    found: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if shift > DIGITS:
            raise ValueError("its run lengths are damaged")
        if not group & 32:
            value -= (group & 16) << (shift - 4)  # two's complement
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    return found


def _painted(runs: list[int], height: int, width: int) -> Mask:
    """Runs of pixels, outside and inside by turns, down the columns."""
    return np.asarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def _outlined(polygons: list[list[float]], size: Callable[[], tuple[int, int]]) -> Mask:
    coder = import_optional("pycocotools.mask", "data", "masks of COCO")
    width, height = size()
    packed = coder.merge(coder.frPyObjects(polygons, height, width))
    return _painted(unpack(packed["counts"].decode()), height, width)


def _filled(box: tuple[float, float, float, float], size: Callable[[], tuple[int, int]]) -> Mask:
    width, height = size()
    whole = np.zeros((height, width), bool)
    left, top, right, bottom = (max(0, round(edge)) for edge in box)
    whole[top:bottom, left:right] = True
    return whole


def _union(masks: list[Callable[[], Mask]]) -> Mask:
    return np.asarray(np.logical_or.reduce([mask() for mask in masks]), bool)
