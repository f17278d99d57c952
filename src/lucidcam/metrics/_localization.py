"""What localisation metrics are, and what they judge: a map beside the place where its class really is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidcam.errors import InputError
from lucidcam.imaging import maps
from lucidcam.metrics._base import Array, Metric, Record
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Mask, Object, Sample
from lucidcam.types import Frame


@dataclass(frozen=True, eq=False)
class Located(OneLineRepr):
    """A map of one class of one image, and where that class really is: what a localisation metric judges.

    Attributes:
        raw: `[h, w]`, float32, on the CPU; its zero is "no evidence".
        frame: where in the original image the map lies, and the image's size.
        label: the class, in the data set's words.
        objects: the marked things of this class.
        ignore: makes the pixels that count neither way.
        unknown: the marked things of classes that the network does not have.
        rank: the place of the class among the network's scores, 0 for the predicted one; None: not known.
        alone: whether it is the only class in the image.
    """

    raw: Tensor
    frame: Frame
    label: str
    objects: tuple[Object, ...]
    ignore: Callable[[], Mask] | None = None
    unknown: tuple[Object, ...] = ()
    rank: int | None = None
    alone: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return self.frame.height, self.frame.width

    @cached_property
    def map(self) -> maps.Array:
        """The raw map in the original image's size `[H, W]`, float32; 0 where the network did not look."""
        return maps.in_photo(self.raw, self.frame)

    @cached_property
    def heatmap(self) -> maps.Array:
        """Positive evidence as a share of its maximum `[H, W]`, in [0, 1]."""
        return maps.normalise(self.map)

    @cached_property
    def boxes(self) -> Array:
        """The objects' boxes `[n, 4]`, xyxy in original pixels, right and bottom exclusive; from the masks where no box is given."""
        return _rows([_box_of(thing) if thing.box is None else thing.box for thing in self.objects])

    @cached_property
    def corners(self) -> Array:
        """The objects' boxes `[n, 4]`, xyxy, with the numbers of the annotation file where the data set keeps them (`Object.corners`)."""
        boxes = [thing.box if thing.corners is None else thing.corners for thing in self.objects]
        return _rows([_box_of(thing) if box is None else box for thing, box in zip(self.objects, boxes, strict=True)])

    @cached_property
    def region(self) -> Mask:
        """The pixels of all objects `[H, W]`: of their masks, of the boxes where there is no mask."""
        height, width = self.size
        whole = np.zeros((height, width), bool)
        for each in self.objects:
            if each.mask is not None:
                whole |= each.mask()
            elif each.box is not None:
                left, top, right, bottom = each.box
                y, x = min(round(top), height - 1), min(round(left), width - 1)  # however thin, a box has a pixel
                whole[y : max(round(bottom), y + 1), x : max(round(right), x + 1)] = True
        return whole


@dataclass(frozen=True, kw_only=True)
class LocalizationMetric(Metric):
    """A metric that compares maps with boxes or masks."""

    @abstractmethod
    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """Return what one image adds.

        Args:
            image: the maps of all classes that are marked in it, in the data set's order; at least one.
        """

    def __call__(
        self,
        maps: Tensor | Sequence[Tensor],
        boxes: Sequence[Any] | None = None,
        *,
        masks: Sequence[Any] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        labels: Sequence[str] | None = None,
        ranks: Sequence[int] | None = None,
        images: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Judge maps of one class each against boxes or masks.

        Args:
            maps: `[B, h, w]`, or a list of `[h, w]`.
            boxes: for each map its boxes `[n, 4]`, xyxy in pixels of the original image, right and bottom exclusive.
            masks: for each map the class's pixels `[H, W]`, true or not.
            sizes: (H, W) of each original image; None: the masks', or the maps' own.
            labels: the class of each map; None: one class for all.
            ranks: the place of each map's class among the network's scores, 0 for the predicted one.
            images: the image each map is of; maps of one image belong together. None: an image each.

        Returns:
            Each figure by name, over all maps.
        """
        from lucidcam.metrics._state import State

        state = State(self, resamples=0)
        for name, views in _views(maps, boxes, masks, sizes, labels, ranks, images).items():
            state.update(name, self.measure(views))
        return state.figures()


def _views(
    given: Tensor | Sequence[Tensor],
    boxes: Sequence[Any] | None,
    masks: Sequence[Any] | None,
    sizes: Sequence[tuple[int, int]] | None,
    labels: Sequence[str] | None,
    ranks: Sequence[int] | None,
    images: Sequence[str] | None,
) -> dict[str, list[Located]]:
    for what, each in (("boxes", boxes), ("masks", masks), ("sizes", sizes), ("labels", labels), ("ranks", ranks), ("images", images)):
        if each is not None and len(each) != len(given):
            raise InputError(f"expected {what} for each of the {len(given)} maps; got {len(each)}.")
    if boxes is None and masks is None:
        raise InputError("expected boxes=… or masks=…, one entry per map.")
    groups: dict[str, list[Located]] = {}
    for i, raw in enumerate(map(torch.as_tensor, given)):
        if raw.ndim != 2 or not bool(torch.isfinite(raw).all()):
            raise InputError(f"expected finite maps [h, w]; map {i} is {list(raw.shape)}{', with NaN' if raw.ndim == 2 else ''}.")
        label = "" if labels is None else str(labels[i])
        mask = None if masks is None else np.asarray(masks[i], bool)
        height, width = sizes[i] if sizes is not None else raw.shape if mask is None else mask.shape
        if mask is not None and mask.shape != (height, width):
            raise InputError(f"expected masks in the images' size, [{height}, {width}]; mask {i} is {list(mask.shape)}.")
        objects = [Object(label, tuple(float(x) for x in box)) for box in boxes[i]] if boxes is not None else []  # type: ignore[arg-type]
        objects += [] if mask is None else [Object(label, mask=_constant(mask))]
        known = Sample(None, f"map {i}", objects=tuple(objects)).fitted(width, height)
        view = Located(raw.detach().cpu(), Frame.whole(width, height), label, known.objects, rank=None if ranks is None else int(ranks[i]))
        groups.setdefault(str(i) if images is None else str(images[i]), []).append(view)
    return {name: [replace(view, alone=len({v.label for v in views}) == 1) for view in views] for name, views in groups.items()}


def _constant(mask: Mask) -> Callable[[], Mask]:
    return lambda: mask


def _rows(boxes: Sequence[tuple[float, float, float, float] | None]) -> Array:
    return np.array([box for box in boxes if box is not None], np.float64).reshape(-1, 4)


def _box_of(thing: Object) -> tuple[float, float, float, float] | None:
    if thing.mask is None:
        return None
    mask = thing.mask()
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)) if len(rows) else None
