"""The metadata of Choe et al.'s benchmark of weakly supervised localisation (`wsol`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import (
    box_of,
    declared_size,
    file_in,
    fit_mask,
    is_file,
    lines_of,
    missing,
    once,
    option_folder,
    path_of,
    read_values,
    spelled,
    whole_number,
)
from lucidcam.errors import DataError, InputError
from lucidcam.io import images
from lucidcam.samples import ClassId, Mask, Object, Problem, Sample

PARTS = ("train", "val", "test")
ALIKE = 1.05
"""By how much the proportions of a mask may differ from its image's: rounding of small masks, not another photo."""


@register("wsol")
@dataclass(frozen=True, kw_only=True)
class WSOL(Format):
    """Metadata of clovaai/wsolevaluation (Choe et al. 2020), for ImageNet, CUB and OpenImages30k.

    `image_ids.txt` lists images, `class_labels.txt` has lines `path,id`, and `localization.txt` lines `path,x0,y0,x1,y1` or, for
    OpenImages, `path,mask,ignore`. Labels are class ids, never names. Several lines of one image are several objects. Where there is an
    `image_sizes.txt` (lines `path,width,height`), each photo must have the size that it declares.

    The numbers of boxes stay as they are in the file: the benchmark scales x1 and y1 like x0 and y0, and takes both ends as part of the
    box when it computes an IoU (a width is x1 − x0 + 1); for ImageNet the file holds the numbers of ILSVRC's XML files. Masks are true
    where the PNG is not black, and brought to the image's size by the nearest pixel, since OpenImages' masks have sizes of their own, but
    its proportions (within 5 %); ignored is what the ignore mask marks and no object covers.

    Attributes:
        split: "train", "val" or "test", where the folder has these parts.
        images: the folder the paths start from; "": looked for beside the metadata (`dataset/NAME`, as the benchmark's scripts put it).
        masks: the folder the masks' paths start from; "": that of the images.
    """

    about = "metadata folder of clovaai/wsolevaluation"
    precedence = 10

    split: str = ""
    images: str = ""
    masks: str = ""

    def recognises(self, source: Any) -> bool:
        """A folder with `image_ids.txt` and `class_labels.txt`, or with parts that have them."""
        return isinstance(source, Path) and bool(_has_lists(source) or _parts(source))

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        root = given = path_of(source, "wsol", "a metadata folder with image_ids.txt, class_labels.txt and localization.txt")
        parts = _parts(root)
        if self.split or not _has_lists(root):
            if self.split not in parts:
                what = (
                    f"give split='{parts[-1]}' or another of {', '.join(parts)}" if parts else "looked for image_ids.txt, class_labels.txt"
                )
                raise DataError(f"wsol: {str(root)!r} has no split {self.split!r}; {what}.")
            root = given / self.split
        ids = [line for _, line in lines_of(root / "image_ids.txt")]
        labels = {name: _class_id(number) for name, number in _rows(root / "class_labels.txt", (2,))}
        sizes: dict[str, tuple[int, int] | None] = {}
        if file_in(root, "image_sizes.txt"):
            sizes = {name: declared_size(width, height) for name, width, height in _rows(root / "image_sizes.txt", (3,))}
        located: dict[str, list[list[str]]] = {}
        if file_in(root, "localization.txt"):
            for name, *rest in _rows(root / "localization.txt", (3, 5)):
                located.setdefault(name, []).append(rest)
        pictures = option_folder(self.images, "wsol", "images") if self.images else _images(root, ids)
        masks = option_folder(self.masks, "wsol", "masks") if self.masks else pictures

        bounds = self.bounds(root, pictures, masks)
        bounds.check_first((id, pictures / id) for id in ids)

        def files_of(id: str) -> list[tuple[str, Path]]:
            """The files that the lists name for an image, the image first."""
            listed = [word for words in located.get(id, []) if len(words) == 2 for word in words if word]
            return [(id, pictures / id), *((name, masks / name) for name in listed)]

        def stream() -> Iterator[Sample | Problem]:
            for id in ids:
                outside = next((name for name, file in files_of(id) if not bounds.allow(file)), None)
                if outside is not None:
                    yield Problem(id, str(bounds.refused(outside, [file for name, file in files_of(id) if name == outside])))
                    continue
                path = spelled(pictures / id)
                if not is_file(path):
                    yield missing(id, path)
                elif id not in labels:
                    yield Problem(id, "class_labels.txt has no line for it.")
                else:
                    yield _sample(id, path, labels[id], located.get(id, []), masks, sizes.get(id))

        name = f"{root.resolve().parent.name}/{root.name}" if root.name in PARTS else root.resolve().name
        return Dataset(name, "wsol", lambda: once(stream()), len(ids), tuple(dict.fromkeys(labels.values())))


def _has_lists(root: Path) -> bool:
    return all(file_in(root, name) is not None for name in ("image_ids.txt", "class_labels.txt"))


def _parts(root: Path) -> list[str]:
    return [name for name in PARTS if _has_lists(root / name)]


def _rows(path: Path, widths: tuple[int, ...]) -> Iterator[list[str]]:
    for number, line in lines_of(path):
        words = [word.strip() for word in line.split(",")]
        if len(words) not in widths:
            raise DataError(f"{str(path)!r}, line {number}: expected {' or '.join(map(str, widths))} values between commas; got {line!r}.")
        yield words


def _images(root: Path, ids: list[str]) -> Path:
    """The folder in which the first image that can be found lies."""
    whole = root.resolve()
    names = [each.name for each in (whole, whole.parent)]
    places = [whole, *(each / "images" for each in (whole, whole.parent))]
    for above in list(whole.parents)[:3]:
        places += [above / "dataset" / name for name in names] + [above / "dataset", above]
    for place in places:
        if any(is_file(spelled(place / id)) for id in ids[:20]):
            return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise DataError(f"wsol: the images of {str(root)!r} were not found; give their folder as images=… (tried {tried}).")


def _class_id(text: str) -> str:
    number = whole_number(text)
    return text if number is None else ClassId(number)


def _sample(id: str, path: Path, label: str, located: list[list[str]], masks: Path, size: tuple[int, int] | None) -> Sample | Problem:
    if any(len(words) != len(located[0]) for words in located):
        return Problem(id, "localization.txt has boxes as well as masks for it; expected one or the other.")
    if not located or len(located[0]) == 4:
        try:
            return Sample(path, id, (label,), tuple(Object(label, box_of(words)) for words in located), size=size)
        except ValueError as error:
            return Problem(id, f"localization.txt: {error}.")
    files = [masks / words[0] for words in located]
    ignored = [masks / words[1] for words in located if words[1]]
    for file in (*files, *ignored):
        if not is_file(file):
            return Problem(id, f"the mask {str(file)!r} does not exist; give the folder of the masks as masks=….")
    objects = tuple(Object(label, mask=partial(_marked, path, [file])) for file in files)
    return Sample(path, id, (label,), objects, _ignored(path, files, ignored) if ignored else None, size)


def _marked(image: Path, files: list[Path]) -> Mask:
    """The pixels that any of the files marks, in the image's size."""
    width, height = images.size(image)
    whole = np.zeros((height, width), bool)
    for file in files:
        mask = read_values(file) > 0
        if not ALIKE >= (mask.shape[1] * height) / (mask.shape[0] * width) >= 1 / ALIKE:
            raise InputError(
                f"the mask {file.name} is {mask.shape[1]}×{mask.shape[0]}, the image {width}×{height} pixels: other proportions; "
                "was the photo turned (EXIF), cropped or stretched since?"
            )
        whole |= fit_mask(mask, width, height)
    return whole


def _ignored(image: Path, files: list[Path], ignored: list[Path]) -> Callable[[], Mask]:
    return lambda: _marked(image, ignored) & ~_marked(image, files)
