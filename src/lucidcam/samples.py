"""What a data set gives: images with their classes and, where somebody marked them, boxes and masks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lucidcam.errors import InputError, LucidcamError, first_line
from lucidcam.reprs import OneLineRepr
from lucidcam.utils.text import printable

Mask = npt.NDArray[np.bool_]
"""`[H, W]` in the original image's size."""

SLACK = 2.0
"""Pixels by which a box may stick out of its image (rounding, one-based coordinates); it is cut back. More is an error."""


class DegenerateError(ValueError):
    """An outline or a box that holds no pixel, or cannot be read as one: its object is left out, the others of its image stay."""


class ClassId(str):
    """A label that is a class id by the data set's own definition, such as "10" for class 10: it is never compared with class names."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Object(OneLineRepr):
    """One thing that is marked in an image.

    Attributes:
        label: its class, in the data set's words; accents are composed (macOS writes file names with accents apart).
        box: xyxy in original pixels; left and top inclusive, right and bottom exclusive, so that width = right − left. None: unknown.
        mask: makes the pixels that belong to it when asked, so that no mask is in memory before its turn. None: unknown.
        difficult: marked as such by the annotators (Pascal VOC).
        corners: the box's numbers as the annotation file has them, xyxy, where they differ from `box` because the last pixel is counted
            in: a published evaluation may take them as they stand (see `lucidcam.metrics.maxboxacc`). None: those of `box`.
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    mask: Callable[[], Mask] | None = field(default=None, repr=False)
    difficult: bool = False
    corners: tuple[float, float, float, float] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", composed(self.label))


@dataclass(frozen=True, eq=False)
class Sample(OneLineRepr):
    """One image of a data set.

    Attributes:
        image: whatever `lucidcam.io.images.read` takes, usually a path. One that is to be read late has `read()`, which gives the bytes
            of an image file, a `name` and `identity()`, a text that changes with it; `lucidcam.io.remote.Stored` is one.
        name: what it is called in reports, in printable characters; no two samples of a data set share a name.
        labels: the classes that are in the image, in the data set's words, each once. Empty: those of the objects.
        objects: what is marked in it.
        ignore: makes the pixels that count neither way (void, crowds); None: there are none.
        size: (width, height) of the photo that the annotations declare; boxes and masks are refused where the image has another one.
            None: they declare none.
    """

    image: Any = field(repr=False)
    name: str
    labels: tuple[str, ...] = ()
    objects: tuple[Object, ...] = ()
    ignore: Callable[[], Mask] | None = field(default=None, repr=False)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        labels = tuple(map(composed, self.labels)) or labels_of(self.objects)
        object.__setattr__(self, "labels", labels)

    def identity(self) -> str:
        """A short text that changes with the sample: its name, classes and boxes; its file's size and date, or the pixels in memory.

        Of images that are read late it is their own: nothing is read for it.
        """
        things = [(each.label, each.box, each.difficult, each.mask is not None) for each in self.objects]
        file: tuple[Any, ...] = ()
        if isinstance(self.image, (str, os.PathLike)):
            with contextlib.suppress(OSError):
                status = Path(self.image).expanduser().stat()
                file = (status.st_size, status.st_mtime_ns)
        elif hasattr(self.image, "identity"):
            file = (self.image.identity(),)
        else:
            file = _pixels(self.image)
        declared = () if self.size is None else (self.size,)
        digest = hashlib.blake2b(repr((self.name, self.labels, things, file, *declared)).encode(), digest_size=8).hexdigest()
        return f"{self.name} {digest}"

    def fitted(self, width: int, height: int) -> Sample:
        """The sample with its boxes cut back to an image of `width` × `height` pixels, and masks that are checked when they are made.

        Raises:
            InputError: for annotations that declare another size than the image's, and for a box that lies outside the image by more than
                rounding explains, or is empty. The masks raise it for another size than the image's.
        """
        self._check_size(width, height)
        objects = tuple(self._fitted(each, width, height) for each in self.objects)
        return replace(self, objects=objects, ignore=self._checked(self.ignore, "the pixels to ignore", width, height))

    def _check_size(self, width: int, height: int) -> None:
        """Compare the declared size with the image's; nothing is scaled or turned by guess."""
        marked = self.ignore is not None or any(thing.box is not None or thing.mask is not None for thing in self.objects)
        if self.size is None or self.size == (width, height) or not marked:
            return
        if self.size == (height, width):
            reason = (
                "were they made before the photo was turned upright (EXIF orientation)? Give the photo as it was annotated, "
                "or without its EXIF tag"
            )
        else:
            reason = "was it resized or cropped since? Give the photo as it was annotated, or scale the annotations with it"
        declared = "×".join(map(str, self.size))
        raise InputError(f"{self.name}: its annotations are for a photo of {declared} pixels, the image has {width}×{height}; {reason}.")

    def _checked(self, mask: Callable[[], Mask] | None, what: str, width: int, height: int) -> Callable[[], Mask] | None:
        def make() -> Mask:
            assert mask is not None
            made = mask()
            if made.shape != (height, width):
                turned = "; was it made before the photo was turned upright (EXIF)?" if made.shape == (width, height) else ""
                size = "×".join(str(side) for side in made.shape[::-1])
                raise InputError(f"{self.name}: the mask of {what} is {size}, the image {width}×{height}{turned}")
            return made

        return None if mask is None else make

    def _fitted(self, thing: Object, width: int, height: int) -> Object:
        thing = replace(thing, mask=self._checked(thing.mask, repr(thing.label), width, height))
        if thing.box is None:
            return thing
        left, top, right, bottom = thing.box
        where = f"{self.name}: the box ({left:g}, {top:g}, {right:g}, {bottom:g}) of {thing.label!r}"
        if not (np.isfinite(thing.box).all() and left < right and top < bottom):
            raise InputError(f"{where} is empty: expected left < right and top < bottom, in pixels (x from the left, y from the top).")
        if left < -SLACK or top < -SLACK or right > width + SLACK or bottom > height + SLACK:
            raise InputError(
                f"{where} lies outside the image of {width}×{height} pixels: expected xyxy in original pixels; "
                "was the image resized, or are the annotation's coordinates in another order?"
            )
        box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise InputError(f"{where} lies outside the image of {width}×{height} pixels.")
        return replace(thing, box=box)


@dataclass(frozen=True)
class Problem(OneLineRepr):
    """Something of a data set that cannot be used; it is reported and skipped.

    Attributes:
        name: of the sample, the file or the line.
        error: what is wrong with it, and what to do, in one line.
    """

    name: str
    error: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "error", printable(self.error))

    def identity(self) -> str:
        """A short text that changes with the problem."""
        return f"{self.name} {self.error}"

    @classmethod
    def of(cls, name: str, error: Exception) -> Problem:
        """The problem that an exception tells of; the name comes first where the message does not have it."""
        told = str(error) if isinstance(error, LucidcamError) else f"{type(error).__name__}: {first_line(error)}"
        return cls(name, told if name in told else f"{name}: {told}")


def left_out(name: str, where: str, error: Exception) -> Problem:
    """Return the problem of one object of an image whose others stay; it has a name of its own, since the image is a sample."""
    return Problem(f"{name}, {where}", f"{where} of {name}: {error}; this object is left out, the others stay.")


def _pixels(image: Any) -> tuple[str, ...]:
    """What is in an image that is no file; nothing for what has no bytes."""
    if hasattr(image, "tobytes"):  # arrays, PIL images
        content = image.tobytes()
    elif isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
    elif hasattr(image, "numpy"):
        content = image.detach().cpu().numpy().tobytes()
    else:
        return ()
    return (hashlib.blake2b(content, digest_size=8).hexdigest(),)


def composed(label: Any) -> str:
    """Return a label with its accents composed (Unicode NFC): "é" is one character, however the file system or the file writes it.

    A whole number is a class id, also 3.0 and NumPy's.

    Raises:
        InputError: it is neither a text nor a whole number.
    """
    if not isinstance(label, str):
        try:
            if not isinstance(label, (bool, np.bool_)) and int(label) == label:
                return ClassId(int(label))
        except (TypeError, ValueError, OverflowError):
            pass
        raise InputError(f"expected a label as text or whole number; got {label!r}.")
    return label if label.isascii() or isinstance(label, ClassId) else unicodedata.normalize("NFC", label)


def labels_of(objects: Iterable[Object]) -> tuple[str, ...]:
    """The classes of some objects, each once, in order.

    >>> labels_of([Object("cat"), Object("dog"), Object("cat")])
    ('cat', 'dog')
    """
    return tuple(dict.fromkeys(each.label for each in objects))
