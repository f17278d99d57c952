"""What an audit keeps of an image: a small map, small colours, where its objects are, and what the network said."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lucidcam.metrics._localization import Located
from lucidcam.samples import Mask, Object, Sample
from lucidcam.types import Frame

GRID = 16
"""Cells along each side of the small maps."""

Grid = npt.NDArray[np.float32]
"""`[GRID, GRID]`, over the network's input."""


@dataclass(frozen=True, eq=False)
class View:
    """One image, asked for one class.

    Attributes:
        sample: from the data set, its boxes cut back to the image; of its objects those of the network's classes, and no others.
        frame: where in the image the network's input lies.
        label: the class, in the data set's words.
        id: of the class.
        heat: the map's positive energy `[GRID, GRID]`, which sums to 1; 0 everywhere for a map without any.
        colours: what the network sees, small and in colours: RGB from 0 to 255, `[GRID, GRID, 3]`.
        own: how much of each cell the class's objects cover; None: none is marked.
        others: the same of the other classes of the network that are marked in the image, by label.
        probability: of the class.
        present: the ids of all classes that the data says are in the image; of the class alone where it tells none.
        order: by which images are drawn: a number that hangs on the name alone.
    """

    sample: Sample = field(repr=False)
    frame: Frame = field(repr=False)
    label: str
    id: int
    heat: Grid = field(repr=False)
    colours: npt.NDArray[np.uint8] = field(repr=False)
    own: Grid | None = field(repr=False)
    others: Mapping[str, Grid] = field(repr=False)
    probability: float
    present: frozenset[int] = frozenset()
    order: int = 0

    @property
    def context(self) -> Mask:
        """The cells that hold no object of any class; where nothing is marked, the rim of the image."""
        if self.own is None and not self.others:
            return rim()
        covered = np.maximum.reduce([each for each in (self.own, *self.others.values()) if each is not None])
        return np.asarray(covered <= 0)


def rim() -> Mask:
    """The outermost cells, an eighth of the image's side deep: where photographers rarely put what they mean."""
    whole = np.ones((GRID, GRID), bool)
    deep = GRID // 8
    whole[deep:-deep, deep:-deep] = False
    return whole


def heat_of(raw: Tensor) -> Grid:
    """The positive energy of a raw map `[h, w]` in `GRID` × `GRID` cells, as shares."""
    positive = raw.detach().float().cpu().clamp(min=0)[None, None]
    larger = min(raw.shape) >= GRID
    small = F.interpolate(positive, (GRID, GRID), mode="area") if larger else F.interpolate(positive, (GRID, GRID), mode="bilinear")
    total = float(small.sum())
    return np.asarray((small / total if total > 0 else small)[0, 0].numpy(), np.float32)


def colours_of(image: Image.Image, frame: Frame) -> npt.NDArray[np.uint8]:
    """What lies in the frame, in `GRID` × `GRID` cells of RGB."""
    left, top, right, bottom = frame.box
    box = (max(left, 0.0), max(top, 0.0), min(right, float(frame.width)), min(bottom, float(frame.height)))
    colours = np.asarray(image.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX, box))
    return turned_colours(colours, frame)


def region_of(objects: Iterable[Object], frame: Frame) -> Mask:
    """The pixels of some objects in the original image `[H, W]`."""
    return Located(torch.zeros(1, 1), frame, "", tuple(objects)).region


def seen(region: Mask, frame: Frame, size: tuple[int, int]) -> Mask:
    """A region of the original image `[H, W]` as it lies in the network's input of `size`; false where that is padded."""
    height, width = frame.upright_size(size)
    left, top, right, bottom = frame.box
    y = np.floor(top + (np.arange(height) + 0.5) * (bottom - top) / height).astype(int)
    x = np.floor(left + (np.arange(width) + 0.5) * (right - left) / width).astype(int)
    found = np.zeros((height, width), bool)
    rows, columns = (y >= 0) & (y < region.shape[0]), (x >= 0) & (x < region.shape[1])
    found[np.ix_(rows, columns)] = region[np.ix_(y[rows], x[columns])]
    return np.asarray(frame.turned(torch.from_numpy(found)).numpy())


def turned_colours(colours: npt.NDArray[np.uint8], frame: Frame) -> npt.NDArray[np.uint8]:
    """Colours `[h, w, 3]` of the original as they lie in the network's input."""
    pixels = frame.turned(torch.from_numpy(colours.copy()).movedim(-1, 0)).movedim(0, -1)
    return np.asarray(pixels.contiguous().numpy())


def covered(objects: Iterable[Object], frame: Frame) -> Grid:
    """How much of each cell some objects cover."""
    fine = seen(region_of(objects, frame), frame, (4 * GRID, 4 * GRID))
    return np.asarray(fine.reshape(GRID, 4, GRID, 4).mean((1, 3)), np.float32)


def order_of(name: str, label: str) -> int:
    """By which images are drawn, so that the choice hangs on nothing but their names."""
    return int.from_bytes(hashlib.blake2b(f"{label}\n{name}".encode(), digest_size=8).digest(), "little")


@dataclass(eq=False)
class Drawer:
    """At most so many views of each class: a random sample of the data, however long it is, in any order.

    Attributes:
        most: views of one class.
        counts: how many there were.
    """

    most: int
    counts: dict[int, int] = field(default_factory=dict)
    _heaps: dict[int, list[tuple[int, int, View]]] = field(default_factory=dict, repr=False)

    def offer(self, view: View) -> None:
        """Keep a view if its number is among the smallest of its class."""
        self.counts[view.id] = self.counts.get(view.id, 0) + 1
        heap = self._heaps.setdefault(view.id, [])
        entry = (-view.order, self.counts[view.id], view)
        if len(heap) < self.most:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)

    def wanted(self, id: int, order: int) -> bool:
        """Whether a view of this number would be kept, so that nothing is made in vain."""
        heap = self._heaps.get(id, [])
        return len(heap) < self.most or -order > heap[0][0]

    def of(self, id: int) -> list[View]:
        """The views of a class, in the order of their numbers."""
        return [view for *_, view in sorted(self._heaps.get(id, []), key=lambda entry: (-entry[0], entry[1]))]

    def ids(self) -> Iterator[int]:
        """The classes, those of most images first."""
        yield from sorted(self._heaps, key=lambda id: (-self.counts[id], id))


def groups(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    """Items by what a function gives of them, in order."""
    found: dict[Any, list[Any]] = {}
    for each in items:
        found.setdefault(key(each), []).append(each)
    return found
