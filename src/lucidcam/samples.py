"""What a data set gives: images with their classes and, where somebody marked them, boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lucidcam.compat import first_line
from lucidcam.errors import InputError, LucidcamError

Mask = npt.NDArray[np.bool_]
"""`[H, W]` in the original image's size."""

SLACK = 2.0
"""Pixels by which a box may stick out of its image (rounding, one-based coordinates); it is cut back. More is an error."""


@dataclass(frozen=True, eq=False)
class Object:
    """One thing that is marked in an image.

    Attributes:
        label: its class, in the data set's words.
        box: xyxy in original pixels; left and top inclusive, right and bottom exclusive, so that width = right − left. None: unknown.
        mask: makes the pixels that belong to it when asked, so that no mask is in memory before its turn. None: unknown.
        difficult: marked as such by the annotators (Pascal VOC).
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    mask: Callable[[], Mask] | None = field(default=None, repr=False)
    difficult: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set.

    Attributes:
        image: whatever `lucidcam.images.read` takes, usually a path.
        name: what it is called in reports; no two samples of a data set share a name.
        labels: the classes that are in the image, in the data set's words, each once. Empty: not told.
        objects: what is marked in it.
        ignore: makes the pixels that count neither way (void, crowds); None: there are none.
    """

    image: Any = field(repr=False)
    name: str
    labels: tuple[str, ...] = ()
    objects: tuple[Object, ...] = ()
    ignore: Callable[[], Mask] | None = field(default=None, repr=False)

    def fitted(self, width: int, height: int) -> Sample:
        """The sample with its boxes cut back to an image of `width` × `height` pixels.

        Raises:
            InputError: for a box that lies outside the image by more than rounding explains, or is empty.
        """
        return replace(self, objects=tuple(self._fitted(each, width, height) for each in self.objects))

    def _fitted(self, thing: Object, width: int, height: int) -> Object:
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
class Problem:
    """Something of a data set that cannot be used; it is reported and skipped.

    Attributes:
        name: of the sample, the file or the line.
        error: what is wrong with it, and what to do, in one line.
    """

    name: str
    error: str

    @classmethod
    def of(cls, name: str, error: Exception) -> Problem:
        """The problem that an exception tells of; the name comes first where the message does not have it."""
        told = str(error) if isinstance(error, LucidcamError) else f"{type(error).__name__}: {first_line(error)}"
        return cls(name, told if name in told else f"{name}: {told}")


def labels_of(objects: Iterable[Object]) -> tuple[str, ...]:
    """The classes of some objects, each once, in order.

    >>> labels_of([Object("cat"), Object("dog"), Object("cat")])
    ('cat', 'dog')
    """
    return tuple(dict.fromkeys(each.label for each in objects))
