"""Segmentations: a class's score over a region."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lucidcam.errors import InputError, TargetError, TargetNotFoundError
from lucidcam.io import images
from lucidcam.targets._base import Bound, Label, Target, kind_of, part
from lucidcam.types import Frame
from lucidcam.utils.class_scores import ClassScores
from lucidcam.utils.text import short

HALF = 128
"""From this grey on a pixel of a mask's picture is meant."""

SLACK = 2
"""Rows or columns by which a grid of pixels may differ from the image's proportions."""


@dataclass(frozen=True, eq=False)
class Segmentation(Target):
    """The sum of a class's logits over a region (Seg-Grad-CAM, Vinogradova et al., AAAI 2020, Eq. 2).

    Reads `[B, K, h, w]`, by itself or as `logits` or `out`, or the finest of a list (deep supervision); and queries with masks
    (Mask2Former), which make each pixel's. One channel has two classes: the pixels above the threshold, and the others (the background).

        >>> outputs = torch.zeros(1, 2, 4, 4)
        >>> outputs[0, 1, :2] = 3.0                                            # the upper half is class 1
        >>> Segmentation(1).bind(outputs, 1).scores(outputs)
        tensor([[24.]])

    Args:
        label: class id, or label text for `explain`; None: the class of most pixels, of the region where one is given.
        region: a mask: for `explain` `[H, W]` of the photo's size (an array, a picture or its path: white is meant), for `attribute` one
            that covers the input, whatever its resolution, `[H, W]` or one of each image `[B, H, W]`; None: where the clean image is of the
            class.
        ignored: classes that None does not mean, the background say; of one channel always the background.

    Raises:
        TargetNotFoundError: no pixel of an image is of the class.
    """

    label: int | str | None = None
    region: Any = None
    ignored: Collection[int] = ()

    local: ClassVar[bool] = True

    def labelled(self, find: Any) -> Target:
        """See `Target.labelled`."""
        return replace(self, label=find(self.label)) if isinstance(self.label, str) else self

    def placed(self, frame: Frame, size: tuple[int, int]) -> Target:
        """See `Target.placed`."""
        if self.region is None:
            return self
        region = _mask(self.region).cpu()
        height, width = frame.height, frame.width
        if tuple(region.shape) != (height, width):
            raise TargetError(f"expected the region as a mask [H, W] of the photo's size [{height}, {width}]; got {list(region.shape)}.")
        rows, columns = (
            low + (torch.arange(count, dtype=torch.float32, device="cpu") + 0.5) / count * (high - low)
            for count, low, high in zip(frame.upright_size(size), (frame.box[1], frame.box[0]), (frame.box[3], frame.box[2]), strict=True)
        )
        seen = region[rows.long().clamp(0, height - 1)][:, columns.long().clamp(0, width - 1)] > 0
        seen &= ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        if not bool(seen.any()):
            raise TargetNotFoundError("the region lies outside what the network sees of the photo, or is empty; fit='squash' shows it all.")
        return replace(self, region=frame.turned(seen))

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        if isinstance(self.label, str):
            raise TargetError(f"the label {self.label!r} needs a model with labels: use lucidcam.explain, or give a class id.")
        columns = dense(outputs, batch).detach()
        if len(columns) != batch:
            raise TargetError(f"expected class scores [{batch}, K, h, w] for {batch} images; got {list(columns.shape)}.")
        _check_axes(columns, self.reader.size)
        # sums over queries are no probabilities, and their highest wins
        meaning = ClassScores("none") if _queries(outputs) is not None else self.reader(columns)
        count = meaning.count(columns.shape[1])
        if self.label is not None and not 0 <= self.label < count:
            raise TargetError(f"class id {self.label} is out of range: the model has {count} classes, 0 to {count - 1}.")
        given = None if self.region is None else self._weights(batch, columns)
        winners = meaning.predicted(columns)
        parts = [None] * batch if given is None else list(given)
        ignored = {1 - meaning.positive} if columns.shape[1] == 1 else set(self.ignored)  # what a single column does not mark is background
        labels = [self._commonest(winners[i], count, parts[i], ignored) if self.label is None else self.label for i in range(batch)]
        ids = torch.tensor(labels, device=columns.device)
        weights = meaning.holds(columns, ids).to(columns) if given is None else given
        empty = [i for i in range(batch) if not bool(weights[i].any())]
        if self.label is None and columns.shape[1] == 1:  # nothing is marked
            empty += [i for i in range(batch) if labels[i] != meaning.positive and i not in empty]
        if empty:
            row = empty[0]
            if columns.shape[1] == 1 and (self.label is None or self.label == meaning.positive):
                highest = float(meaning.probabilities(columns[row : row + 1])[:, meaning.positive].max())
                raise TargetNotFoundError(
                    f"no pixel of image {row} is above the threshold {meaning.threshold:g} (the highest probability is {highest:.3g}); "
                    "give a region, or a lower threshold."
                )
            seen = ", ".join(map(str, sorted(set(winners[row].flatten().tolist()))[:10]))
            raise TargetNotFoundError(f"no pixel of image {row} is of class {labels[row]}, but of {seen}; give a region, or another class.")

        def read(out: Any, rows: Tensor | None) -> Tensor:
            found = meaning.of(dense(out, batch if rows is None else len(rows)))
            which = torch.arange(batch, device=found.device) if rows is None else rows.to(found.device)
            chosen = found[torch.arange(len(found), device=found.device), ids[which]]
            if chosen.dtype in (torch.float16, torch.bfloat16):
                chosen = chosen.float()  # a sum over many pixels leaves the range of half precision
            return (chosen * weights[which].to(chosen)).flatten(1).sum(1)[:, None]

        def say(image: int, target: int, label: Label) -> str:
            return short(label(labels[image])) + ("" if given is None else " in the region")

        return Bound(read, 1, say=say)

    def _weights(self, batch: int, scores: Tensor) -> Tensor:
        """The region at the scores' resolution `[B, h, w]`: of each cell the share that it covers."""
        region = _mask(self.region).to(scores)
        region = region.expand(batch, *region.shape) if region.ndim == 2 else region
        if region.ndim != 3 or len(region) != batch:
            raise TargetError(f"expected the region as a mask [H, W] or [{batch}, H, W]; got {list(region.shape)}.")
        return F.interpolate((region > 0).to(scores)[:, None], size=scores.shape[2:], mode="area")[:, 0]

    def _commonest(self, winners: Tensor, count: int, weights: Tensor | None, ignored: Collection[int]) -> int:
        """The class of most pixels, of the classes that win them `[h, w]`; an ignored one only where there is no other."""
        counts = torch.bincount(winners.flatten(), None if weights is None else weights.flatten(), minlength=count).float()
        others = counts.clone()
        others[[id for id in ignored if id < len(others)]] = 0
        return int((others if bool(others.any()) else counts).argmax())


def _mask(region: Any) -> Tensor:
    """A mask as a tensor, true where it is not 0; of a picture, or its path, where it is rather white than black."""
    if isinstance(region, Tensor):
        return region.detach()
    if isinstance(region, (str, os.PathLike)):
        try:
            region = images.read_grey(region)
        except InputError as error:
            raise TargetError(f"the region {str(region)!r} cannot be read as a picture: {error}") from None
    if isinstance(region, Image.Image):
        region = np.asarray(region.convert("L")) >= HALF
    try:
        return torch.as_tensor(np.asarray(region))
    except (TypeError, ValueError):
        raise TargetError(f"expected the region as a mask [H, W] of numbers; got {type(region).__name__}.") from None


def dense(outputs: Any, batch: int | None = None) -> Tensor:
    """Find the class scores of each pixel `[B, K, h, w]` in a module's outputs.

    A list or tuple of several such tensors (deep supervision), by itself or as `logits` or `out`, lists within it included, is read where
    one of them has the highest resolution. Outputs without the axes of size one (`[B, h, w]` of one class, `[K, h, w]` or `[h, w]` of one
    image) get them back where `batch` is given.

    Args:
        outputs: what the module returned.
        batch: how many rows there are; None: outputs must have all four axes.

    Raises:
        TargetError: there are none, or several of which it is open which are meant; a callable target then says what to explain.
    """
    found = outputs if isinstance(outputs, Tensor) else part(outputs, "logits", "out")
    if found is None and isinstance(outputs, (list, tuple)):
        found = outputs
    if isinstance(found, (list, tuple)):
        found = _finest(found, batch)
    if isinstance(found, Tensor):
        found = _with_axes(found, batch)
        if found.ndim == 4 and found.is_floating_point():
            return found
    queries = _queries(outputs)
    if queries is not None:
        classes, masks = queries
        probabilities = ClassScores("softmax").to_probabilities(classes, -1)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", probabilities, ClassScores("sigmoid").to_probabilities(masks))
    named = [key for key, each in outputs.items() if isinstance(each, (Tensor, list, tuple))] if isinstance(outputs, Mapping) else []
    how = f"lucidcam.Head({named[0]!r}, lucidcam.Segmentation(…)) reads one of them, " if named else "for other outputs give "
    raise TargetError(
        "expected class scores of each pixel, [B, K, h, w], by themselves or as 'logits' or 'out', or queries with masks; "
        f"got {kind_of(found if isinstance(found, Tensor) else outputs)}; {how}a callable target=lambda outputs: … one score per image."
    )


def _with_axes(scores: Tensor, batch: int | None) -> Tensor:
    """Scores of pixels `[B, K, h, w]` with the axes of size one that a network squeezed away; any others as they are."""
    if batch is None or not scores.is_floating_point():
        return scores
    if scores.ndim == 3:
        return scores[:, None] if len(scores) == batch and batch > 1 else scores[None] if batch == 1 else scores
    if scores.ndim == 2 and batch == 1 and len(scores) > 1:  # one row would be scores of the image
        return scores[None, None]
    return scores


def _check_axes(scores: Tensor, size: tuple[int, ...] | None) -> None:
    """Refuse scores `[B, K, h, w]` whose grid is not the image's but lies along other axes, as far as the shapes tell.

    Raises:
        TargetError: the classes are the last axis, or the pixels are one axis.
    """
    if size is None or len(size) != 2 or _is_grid(scores.shape[2:], size):
        return
    count, height, width = scores.shape[1:]
    flat = count == 1 and any(_is_flat_grid(pixels, size) for pixels in (height, width))
    if flat or _is_grid((count, height), size):
        shape, came = list(scores.shape), "the pixels as one axis" if flat else "the classes last"
        raise TargetError(
            f"expected class scores of each pixel, [B, K, h, w], of images {list(size)}; got {shape}, which has {came}: let the network "
            "return them as expected, or give a callable target=lambda outputs: … one score per image."
        )


def _is_grid(shape: Sequence[int], size: tuple[int, ...]) -> bool:
    """Whether pixels `[h, w]` cover an image `[H, W]` evenly, up to the rounding of a stride."""
    height, width = shape
    return abs(height * size[1] - width * size[0]) <= SLACK * max(size)


def _is_flat_grid(pixels: int, size: tuple[int, ...]) -> bool:
    """Whether that many pixels are an image `[H, W]` at a stride of its own, row after row."""
    return pixels > 1 and any(pixels == -(-size[0] // stride) * -(-size[1] // stride) for stride in range(1, min(size)))


def _queries(outputs: Any) -> tuple[Tensor, Tensor] | None:
    """Class logits `[B, Q, K + 1]`, the last of "no object", and mask logits `[B, Q, h, w]` of queries; None where there are none."""
    if isinstance(outputs, Tensor):
        return None
    classes, masks = part(outputs, "class_queries_logits"), part(outputs, "masks_queries_logits")
    return (classes, masks) if isinstance(classes, Tensor) and isinstance(masks, Tensor) else None


def _finest(outputs: Sequence[Any], batch: int | None) -> Tensor | None:
    """Of the per-pixel scores that deep supervision returns, those of the highest resolution; None where there are none.

    Raises:
        TargetError: several have it, or those that do have more channels than others, as features would.
    """
    leaves = [(path, tensor) for path, tensor in _listed(outputs) if tensor.is_floating_point()]
    maps = [(path, tensor) for path, tensor in leaves if tensor.ndim == 4]
    maps = maps or [(path, wide) for path, tensor in leaves if (wide := _with_axes(tensor, batch)).ndim == 4]
    if not maps:
        return None
    largest = max(tensor.shape[2] * tensor.shape[3] for _, tensor in maps)
    finest = [(path, tensor) for path, tensor in maps if tensor.shape[2] * tensor.shape[3] == largest]
    if len(finest) == 1 and finest[0][1].shape[1] == min(tensor.shape[1] for _, tensor in maps):
        return finest[0][1]
    same = f"{len(finest)} maps of class scores of the same size" if len(finest) > 1 else f"{len(maps)} maps of different channels"
    listed = ", ".join(f"{_path(path)}: {list(tensor.shape)}" for path, tensor in (finest if len(finest) > 1 else maps))
    raise TargetError(
        f"the model returned {same} ({listed}); say which one is meant: lucidcam.Head({_path(maps[0][0])}, lucidcam.Segmentation(…)) for "
        "the first."
    )


def _listed(outputs: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The tensors in lists and tuples, and where they are."""
    if isinstance(outputs, Tensor):
        yield path, outputs
    elif isinstance(outputs, (list, tuple)):
        for i, value in enumerate(outputs):
            yield from _listed(value, (*path, i))


def _path(path: tuple[int, ...]) -> str:
    """Where something is, as `Head` takes it."""
    return str(path[0]) if len(path) == 1 else str(path)
