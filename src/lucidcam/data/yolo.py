"""YOLO: a YAML file with the classes, and a text file beside each image (`yolo`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._bounds import Bounds
from lucidcam.data._files import (
    IMAGE_FOLDERS,
    file_in,
    files_with,
    folder_in,
    folders_in,
    images_in,
    is_file,
    lines_of,
    missing,
    name_in,
    numbered_names,
    once,
    outline,
    path_of,
    read_yaml,
    spelled,
    start_of,
    whole_number,
)
from lucidcam.errors import DataError, InputError
from lucidcam.io import images
from lucidcam.samples import DegenerateError, Mask, Object, Problem, Sample, composed, left_out

SMALL = 2.0
"""Polygons narrower than this, in pixels, may hold no pixel and are drawn when they are read."""

PARTS = ("train", "val", "test")
_NAMES = re.compile(r"^names\s*:", re.MULTILINE)
Floats = npt.NDArray[np.float64]
_IMAGE_FOLDERS = frozenset(name.casefold() for name in IMAGE_FOLDERS)
_LINE = re.compile(r"\s*\d+(\.0*)?(\s+-?(\d*\.)?\d+([eE]-?\d+)?){4,}\s*")
_OUTSIDE = 1e-3  # what rounding adds to coordinates in 0..1


@register("yolo")
@dataclass(frozen=True, kw_only=True)
class YOLO(Format):
    """YOLO's text files (Ultralytics): a YAML file with `names` and, where there are, `path`, `train`, `val`, `test`.

    The text file of `images/a/b.jpg` is `labels/a/b.txt`, or `b.txt` beside it where there is no `labels` (darknet), with lines
    `class cx cy w h` or `class x1 y1 x2 y2 …` (a polygon, or the four corners of an oriented box), as shares of the image's width and
    height. A polygon's mask are the pixels whose centres lie inside, its box is the upright one around it. An image without text file is
    background: it has no objects.

    Where the YAML file has `kpt_shape: [K, D]`, every line is `class cx cy w h` and K keypoints of D numbers (x, y, and with D = 3 the
    visibility); the object is the box. A line with another number of columns is a problem. A polygon or a box without area, and a
    polygon with an odd number of coordinates, is left out with a problem of its own.

    Attributes:
        split: "train", "val" or "test"; "": all that are there.
    """

    about = "YOLO text files with a YAML file of classes"
    precedence = 30

    split: str = ""

    def recognises(self, source: Any) -> bool:
        """A YAML file with names, or a folder with `labels/*.txt`, or with text files of boxes beside the images (darknet)."""
        if not isinstance(source, Path):
            return False
        if source.is_file():
            return source.suffix.lower() in (".yaml", ".yml") and _NAMES.search(start_of(source, 1 << 20)) is not None
        if _has_labels(source) or _has_texts(source):
            return True
        if not _yamls(source) and not files_with(source, ".names", ".data") and file_in(source, "classes.txt") is None:
            return False
        inner = folders_in(source)
        return any(
            _has_labels(each) or _has_texts(each) for each in (*inner, *(deeper for each in inner for deeper in folders_in(each)[:5]))
        )

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        path = path_of(source, "yolo", "a YAML file with names, or a folder with images/, labels/ and such a file")
        if path.is_dir():
            found = _yamls(path)
            if len(found) != 1:
                what = f"several YAML files with names ({', '.join(each.name for each in found)}); give one of them" if found else (
                    "no YAML file with names; write one: 'names: [cat, dog]' in data.yaml"
                )  # fmt: skip
                raise DataError(f"yolo: {str(path)!r} has {what}.")
            path = found[0]
        content = read_yaml(path, "the data format yolo")
        names = _names(content, path)
        keypoints = _keypoints(content, path)
        bounds = self.bounds(*([path.parent.resolve(), source] if (source := Path(source)).is_dir() else [path.parent.resolve()]))
        folders = self._folders(content, path, bounds)
        listed = {file for folder in folders if not folder.is_dir() for file in _listed(folder)}
        files = [file for folder in folders for file in _listed(folder)]
        bounds.check_first((str(file), file) for file in files if file in listed)
        if not files:
            raise DataError(f"yolo: no images are in {', '.join(str(each) for each in folders)}; check path, train and val in {path.name}.")
        root = path.parent

        def stream() -> Iterator[Sample | Problem]:
            unlabelled = True
            for file in dict.fromkeys(files):
                if file in listed and not bounds.allow(file):
                    yield Problem(name_in(root, file), str(bounds.refused(str(file), [file])))
                    continue
                file = spelled(file)
                text = spelled(_text_of(file))
                unlabelled = unlabelled and not is_file(text)
                yield from _sample(file, text, name_in(root, file), names, keypoints)
            if unlabelled:
                where = name_in(root, _text_of(files[0]))
                yield Problem(path.name, f"no image has a text file, so all are background; looked for {where!r}: are labels elsewhere?")
            for folder in folders:
                for text in _strays(folder):
                    yield Problem(name_in(root, text), "no image of this name is there; copy it, or take the text file away.")

        name = root.resolve().name if path.stem.lower() in ("data", "dataset", "classes") else path.stem
        return Dataset(name, "yolo", lambda: once(stream()), len(set(files)), tuple(names.values()))

    def _folders(self, content: dict[str, Any], path: Path, bounds: Bounds) -> list[Path]:
        """The folders, or lists, of the images that are asked for."""
        base = path.parent / str(content.get("path") or ".")
        bases = [base, path.parent] if bounds.exists(base) else [path.parent]
        found: list[Path] = []
        tried: list[Path] = []
        for part in [self.split] if self.split else PARTS:
            given = content.get(part) or []
            parts = [given] if isinstance(given, str) else given
            if not isinstance(parts, list) or not all(isinstance(each, str) for each in parts):
                raise DataError(f"yolo: {str(path)!r}: expected {part} as a path, or a list of paths; got {str(given)[:60]!r}.")
            for each in parts:
                inner = Path(*(piece for piece in Path(each).parts if piece != ".."))  # Roboflow writes ../train/images for train/images
                places = [start / way for way in dict.fromkeys((Path(each), inner)) for start in bases]
                tried += places
                found += [bounds.checked(place, str(each)) for place in [place for place in places if bounds.exists(place)][:1]]
        if not found:
            usual = [path.parent / way for way in ("images", ".") if not self.split]
            usual += [path.parent / "images" / self.split, path.parent / self.split / "images"] if self.split else []
            tried += usual
            found = [place for place in usual if place.is_dir()][:1]
        if not found:
            raise DataError(
                f"yolo: no images {'of split ' + repr(self.split) if self.split else ''} for {str(path)!r}; tried {_shown(tried)}."
            )
        return list(dict.fromkeys(found))


def _shown(paths: list[Path]) -> str:
    return ", ".join(str(each) for each in dict.fromkeys(paths))


def _has_labels(root: Path) -> bool:
    """Whether a folder has `labels/` with text files, at most one folder deep."""
    labels = folder_in(root, "labels")
    return folder_in(root, *IMAGE_FOLDERS) is not None and any(files_with(each, ".txt") for each in (labels, *folders_in(labels)[:5]))


def _has_texts(folder: Path) -> bool:
    """Whether a folder has text files of boxes beside images of the same names, as darknet has them."""
    for text in files_with(folder, ".txt")[:20]:
        lines = start_of(text).splitlines()
        if lines and _LINE.fullmatch(lines[0]) and any(spelled(text.with_suffix(suffix)).is_file() for suffix in _suffixes()):
            return True
    return False


def _suffixes() -> list[str]:
    """The suffixes of images, small and capital."""
    return [spelling for suffix in sorted(images.SUFFIXES) for spelling in (suffix, suffix.upper())]


def _yamls(root: Path) -> list[Path]:
    return [each for each in files_with(root, ".yaml", ".yml") if _NAMES.search(start_of(each, 1 << 20))]


def _names(content: Any, path: Path) -> dict[int, str]:
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {i: str(name) for i, name in enumerate(names)}
    try:
        if isinstance(names, dict) and names:
            return numbered_names(names)
    except ValueError:
        pass
    raise DataError(f"yolo: {str(path)!r} has no names; expected a list of classes, or a mapping from class number to class.")


def _keypoints(content: dict[str, Any], path: Path) -> tuple[int, int] | None:
    """The shape of a pose data set's keypoints: how many, and how many numbers each has; None: there are none."""
    shape = content.get("kpt_shape")
    if shape is None:
        hints = [key for key in ("flip_idx", "kpt_names") if key in content]
        if hints:
            raise DataError(f"yolo: {str(path)!r} has {hints[0]} but no kpt_shape; expected 'kpt_shape: [K, 2]' or [K, 3] for poses.")
        return None
    numbers = [whole_number(each) for each in shape] if isinstance(shape, (list, tuple)) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise DataError(f"yolo: {str(path)!r}: expected kpt_shape as [number of keypoints, 2 or 3], [17, 3] say; got {shape!r}.")
    return numbers[0], numbers[1]


def _listed(place: Path) -> list[Path]:
    """The images of a folder, or of a text file that lists them."""
    if place.is_dir():
        return images_in(place)
    found = []
    for _, line in lines_of(place):
        found.append(Path(line) if Path(line).is_absolute() else place.parent / line)
    return found


def _text_of(image: Path) -> Path:
    """The text file of an image: the last folder of images (`images`, or `imgs` and the like beside `labels`) becomes `labels`."""
    parts = image.parts
    folders = [i for i, part in enumerate(parts[:-1]) if part.casefold() in _IMAGE_FOLDERS]
    for i in reversed(folders):
        labels = folder_in(Path(*parts[:i]), "labels")
        if labels is None and is_file(_with_suffix(image)):
            break
        if labels is not None or parts[i] == "images":
            return (labels or Path(*parts[:i], "labels")).joinpath(*parts[i + 1 :]).with_suffix(".txt")
    return _with_suffix(image)


def _with_suffix(image: Path) -> Path:
    """The text file beside an image; "." and "/" have none."""
    return image.with_suffix(".txt") if image.name else image


def _strays(place: Path) -> Iterator[Path]:
    """The label files (nothing but numbers) that belong to no image of a folder."""
    if not place.is_dir():
        return
    wanted = {composed(str(text)): text.parent for text in map(_text_of, images_in(place))}
    for folder in dict.fromkeys(wanted.values()):
        for text in files_with(folder, ".txt"):
            if composed(str(text)) not in wanted and re.fullmatch(r"[-+.\deE\s]*", start_of(text)):
                yield text


def _sample(file: Path, text: Path, name: str, names: dict[int, str], keypoints: tuple[int, int] | None) -> Iterator[Sample | Problem]:
    """The image's sample, and a problem for each of its objects that is left out; or the problem of the image."""
    if not is_file(file):
        yield missing(name, file)
        return
    if not is_file(text):
        yield Sample(file, name)
        return
    labels: list[str] = []
    objects: list[Object] = []
    skipped: list[Problem] = []
    try:
        lines = list(lines_of(text))
        size = images.size(file) if lines else (0, 0)
        for number, line in lines:
            where = f"{text.name}, line {number}"
            label, numbers = _numbers(line, where, names, keypoints)
            labels.append(label)
            try:
                objects.append(_object(label, numbers, *size))
            except DegenerateError as error:
                skipped.append(left_out(name, where, error))
    except (DataError, InputError) as error:
        yield Problem(name, str(error))
        return
    yield Sample(file, name, tuple(dict.fromkeys(labels)), tuple(objects))
    yield from skipped


def _numbers(line: str, where: str, names: dict[int, str], keypoints: tuple[int, int] | None) -> tuple[str, Floats]:
    """The class of a line, and its numbers: four of a box, or the coordinates of a polygon."""
    words = line.split()
    id = whole_number(words[0])  # NumPy writes 0.0
    try:
        numbers = np.array([float(word) for word in words[1:]])
    except ValueError:
        numbers = np.zeros(0)
        id = None
    if id is None:
        raise DataError(f"{where}: expected a class number and coordinates; got {line[:60]!r}.")
    expected = 4 if keypoints is None else 4 + keypoints[0] * keypoints[1]
    if keypoints is not None and len(numbers) != expected:
        raise DataError(
            f"{where}: expected {1 + expected} columns, 'class cx cy w h' and {keypoints[0]} keypoints of {keypoints[1]} numbers "
            f"(kpt_shape); got {1 + len(numbers)}."
        )
    if len(numbers) < 4 or len(numbers) == 5:
        hint = ": is the last a confidence? Predictions are no labels" if len(numbers) == 5 else ""
        raise DataError(f"{where}: expected 'class cx cy w h', or a polygon of at least three points; got {len(numbers)} numbers{hint}.")
    if id not in names:
        raise DataError(f"{where}: class {id} is not among the {len(names)} names.")
    shares = numbers
    if keypoints is not None:
        points = numbers[4:].reshape(keypoints)
        shares = np.concatenate([numbers[:4], points[:, :2].ravel()])
        visible = points[:, 2:]
        if not ((visible >= 0) & (visible <= 2)).all():
            raise DataError(f"{where}: expected 0, 1 or 2 as each keypoint's visibility; got {line[:60]!r}: is kpt_shape right?")
    if not (shares >= -_OUTSIDE).all() or not (shares <= 1 + _OUTSIDE).all():
        raise DataError(f"{where}: expected shares of the image's size, in 0–1; got {line[:60]!r}.")
    return names[id], numbers if keypoints is None else numbers[:4]


def _object(label: str, numbers: Floats, width: int, height: int) -> Object:
    if len(numbers) == 4:
        x, y, w, h = (float(number) for number in numbers * (width, height, width, height))
        if 0 in (w, h):
            raise DegenerateError(f"its box is {w:g}×{h:g} pixels")
        return Object(label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    points = outline(numbers)
    if points is None:
        raise DegenerateError("expected a polygon of at least three points that are not on one line")
    points = points * (width, height)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    if min(right - left, bottom - top) < SMALL and not polygon(points, width, height).any():
        raise DegenerateError(f"its polygon is {right - left:g}×{bottom - top:g} pixels and holds the centre of none")
    return Object(label, (float(left), float(top), float(right), float(bottom)), partial(polygon, points, width, height))


def polygon(points: Any, width: int, height: int) -> Mask:
    """The pixels `[height, width]` whose centres lie inside a polygon `[n, 2]` of x, y in pixels (even-odd rule).

    Pillow's polygons are not used: they hold the pixels of their outline too, a row and a column too many.

    >>> polygon(np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [1.0, 2.0]]), 4, 3).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    # Each edge turns inside to outside, and back, at the first centre to its right, in the rows whose centres it crosses.
    turns = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        rows = np.arange(max(0, np.ceil(min(y0, y1) - 0.5)), min(height, np.ceil(max(y0, y1) - 0.5)), dtype=int)
        if len(rows):
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(turns, (rows, np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)), 1)
    return np.asarray(turns.cumsum(axis=1)[:, :width] % 2 == 1)
