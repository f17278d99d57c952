"""What every label format is: boxes and masks of many images, written one image after the other.

Whatever ends the run, an exception or the power cable, the labels of the images written so far stay. The folder has a list of the files
that were written, `.lucidcam-files`, each entered before it is made; only those are ever removed or replaced.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from lucidcam.errors import InputError, OptionError
from lucidcam.io.images import SUFFIXES
from lucidcam.io.ownership import LIST as LIST
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.ownership import append_line as append_line
from lucidcam.io.ownership import check_owned as check_owned
from lucidcam.io.ownership import remove_owned as remove_owned
from lucidcam.io.storage import check_writable, json_text, writing
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Mask

LARGEST = 254
"""Index images have a byte per pixel: 0 is the background, and 255 is left free, since many readers ignore such pixels."""


@dataclass(frozen=True, eq=False)
class Found(OneLineRepr):
    """One thing that was found in an image.

    Attributes:
        label: its class in words.
        box: xyxy in original pixels; left and top inclusive, right and bottom exclusive.
        score: how sure that is, in [0, 1].
        mask: the pixels that belong to it, in the image's size `[H, W]`; None: the box is all that is known.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float
    mask: Mask | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Labels(OneLineRepr):
    """What was found in one image.

    Attributes:
        name: the sample's.
        path: the image file; None for an image that is no file.
        width: of the image in pixels, EXIF orientation applied.
        height: of the image.
        objects: what was found; none is an answer too.
        image: the image itself, for one that is no file.
    """

    name: str
    path: Path | None
    width: int
    height: int
    objects: tuple[Found, ...] = ()
    image: Image.Image | None = field(default=None, repr=False)


class Exporter(ABC):
    """Writes labels in one format; a context manager. Subclasses are final.

    Class attributes:
        name: the registered name.
        about: what it is, in one line.
        images: the folder for images within the format's.

    Args:
        path: the folder to write to.
        classes: the classes, where they are known beforehand: their order is their number. Others are added as they come.
        copy_images: put copies of the images beside the labels, rather than links, or paths where the format has them.
        overwrite: replace what an earlier run wrote in the folder, as its list tells; other files stay.

    Raises:
        OptionError: when there are files in the folder already, and they may not be replaced; or one that is to be written is there, and is
            on no list of an earlier run.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    images: ClassVar[str] = "images"

    def __init__(
        self, path: str | os.PathLike[str], *, classes: Iterable[str] = (), copy_images: bool = False, overwrite: bool = False
    ) -> None:
        self.folder = Path(path).expanduser()
        self.classes = list(dict.fromkeys(classes))
        self.copy_images = copy_images
        self._numbers = {label: i for i, label in enumerate(self.classes)}
        self._written: set[str] = set()
        self._owned: OwnedFiles | None = None
        check_writable(self.folder)
        if not overwrite and self.folder.is_dir() and any(self.folder.iterdir()):
            raise OptionError(f"{str(self.folder)!r} is not empty; give another folder, or overwrite (--overwrite) to replace its labels.")

    def __enter__(self: E) -> E:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_owned(self.folder)
            self._owned = OwnedFiles(self.folder)
            self.announce()
        except OSError as error:
            raise OptionError(f"cannot write to {str(self.folder)!r}: {error.strerror or error}.") from None
        return self

    def file(self, name: str) -> Path:
        """Enter a file in the list of those that were written, before it is made.

        Args:
            name: within the folder, "labels/cat.txt".

        Returns:
            Its path; the folder that it is in is made.

        Raises:
            OptionError: a file of this name is there that was not written by this run.
        """
        if name in self._written:
            return self.folder / name
        self._owned = self._owned or OwnedFiles(self.folder)
        path = self._owned.path(name)
        self._written.add(name)
        return path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish()

    @abstractmethod
    def write(self, labels: Labels) -> None:
        """Write the labels of one image."""

    @abstractmethod
    def announce(self) -> None:
        """Write down `classes`: at the start, and whenever one came to them."""

    def finish(self) -> None:
        """Put together what is only complete at the end, also after an exception; here the classes."""
        self.announce()

    def number(self, label: str) -> int:
        """The number of a class, from 0."""
        if label not in self._numbers:
            self._numbers[label] = len(self.classes)
            self.classes.append(label)
            self.announce()
        return self._numbers[label]

    def place(self, labels: Labels, stem: str) -> Path:
        """Bring the image into the format's folder of images, under a name of its own; a link unless copies are wanted."""
        if labels.path is None:
            if labels.image is None:
                raise InputError(f"{labels.name}: expected labels with the path of the image, or the image itself.")
            target = self.file(f"{self.images}/{stem}.png")
            _write(target, _png(labels.image))
            return target
        source, name = labels.path.resolve(), f"{self.images}/{stem}{labels.path.suffix.lower()}"
        target = self.folder / name
        if target.exists() and target.samefile(source):
            return target
        target = self.file(name)
        with writing(target):
            target.unlink(missing_ok=True)
        if not self.copy_images:
            try:
                target.symlink_to(source)
                return target
            except OSError:  # not everywhere: Windows, network shares
                pass
        with writing(target):
            shutil.copyfile(source, target)
        return target

    def reference(self, labels: Labels) -> Path:
        """Where the image is, for formats that have paths: copied into the folder only when asked for, or when it is no file."""
        if labels.path is not None and not self.copy_images:
            return labels.path.resolve()
        suffix = ".png" if labels.path is None else labels.path.suffix.lower()
        return self.place(labels, free_stem(labels.name, self.folder / self.images, suffix))


E = TypeVar("E", bound=Exporter)


class Lists:
    """Lists of JSON entries in one document, of any length: each entry is on disk at once, the document comes at the end.

    Until then, and after a kill, the entries are in `DOCUMENT.LIST.part`, one a line.

    Args:
        file: gives the path of a file that is to be written, by its name (`Exporter.file`).
        document: its name.
        names: of the lists.
    """

    def __init__(self, file: Callable[[str], Path], document: str, names: Iterable[str]) -> None:
        self.path, self._whole = file(document), file(f"{document}.part")
        self._files: dict[str, IO[str]] = {
            name: file(f"{document}.{name}.part").open("w+", encoding="utf-8", newline="\n") for name in names
        }

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add an entry to a list."""
        with writing(self.path):
            self._files[name].write(json_text(entry) + "\n")
            self._files[name].flush()

    def finish(self, head: Mapping[str, Any]) -> None:
        """Write the document: `head`, then the lists."""
        with writing(self.path):
            self._finish(head)

    def _finish(self, head: Mapping[str, Any]) -> None:
        with self._whole.open("w", encoding="utf-8", newline="\n") as out:
            out.write("{\n")
            out.write("".join(f"{json_text(key)}: {json_text(value)},\n" for key, value in head.items()))
            for i, (name, file) in enumerate(self._files.items()):
                file.seek(0)
                out.write(f"{',' if i else ''}{json_text(name)}: [\n")
                for j, line in enumerate(file):
                    out.write(f"{',' if j else ''}{line}")
                out.write("]\n")
            out.write("}\n")
        self._whole.replace(self.path)
        for file in self._files.values():
            file.close()
            Path(file.name).unlink()


def free_stem(name: str, folder: Path, suffix: str) -> str:
    """A file name for a sample, that no file in `folder` has yet, without its suffix.

    >>> free_stem("photos/two dogs.JPG", Path("no such folder"), ".txt")
    'two_dogs'
    """
    last = Path(name).name
    plain = last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in SUFFIXES else last
    plain = re.sub(r"[^\w.-]+", "_", plain).strip("._")[:120] or "image"
    number, stem = 2, plain
    while (folder / f"{stem}{suffix}").exists():
        number, stem = number + 1, f"{plain}-{number}"
    return stem


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)


def _png(image: Image.Image) -> bytes:
    """The file of a picture; Pillow itself would not tell where a disk took only a part of it."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def numbered(classes: Iterable[str]) -> str:
    """The lines `1: name` that tell what the values of an index image mean."""
    return "".join(f"{i}: {label}\n" for i, label in enumerate(classes, 1))


def write_index_image(path: Path, labels: Labels, values: Sequence[int]) -> None:
    """Write a palette PNG that has a value of each object in its pixels, and 0 elsewhere; the surest object is on top.

    Raises:
        OptionError: when a value is larger than there is room for.
    """
    if max(values, default=0) > LARGEST:
        raise OptionError(
            f"{path.name}: an index image has room for {LARGEST} classes, or objects; got {max(values)}: "
            "write coco, which has no limit, or leave small regions out (--min-area)."
        )
    index = np.zeros((labels.height, labels.width), np.uint8)
    for thing, value in sorted(zip(labels.objects, values, strict=True), key=lambda pair: pair[0].score):
        if thing.mask is not None:
            index[thing.mask] = value
        else:
            left, top, right, bottom = (round(side) for side in thing.box)
            index[top:bottom, left:right] = value
    image = Image.fromarray(index)
    image.putpalette(_palette())
    _write(path, _png(image))


def _palette() -> bytes:
    """Pascal VOC's colours: bit k of red, green and blue, from the highest, is bit 3·(7 − k) + 0, 1, 2 of the number."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()
