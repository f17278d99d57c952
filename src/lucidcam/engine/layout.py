"""How a layer's output holds a spatial map: told from its shape, or from where a sequence of tokens came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lucidcam.engine.inputs import Inputs

MOST_PREFIX_TOKENS = 16
"""Tokens before the patches, where no concatenation was seen that put them there: at most this many are tried."""


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds its spatial map.

    Attributes:
        kind: "channels_first" `[B, C, *grid]`, "channels_last" `[B, *grid, C]` or "tokens" `[B, prefix + h·w + rest, C]`.
        grid: the map's spatial size.
        prefix: tokens before the patches (text, class, distillation, registers).
    """

    kind: str
    grid: tuple[int, ...]
    prefix: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """View an output, with any number of leading axes in place of B, as `[..., C, *grid]`."""
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.movedim(-1, -1 - len(self.grid))
        patches = output[..., self.prefix : self.prefix + prod(self.grid), :].transpose(-1, -2)
        return patches.reshape(*patches.shape[:-1], *self.grid)

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Inverse of `to_maps`: lay maps `[n, C, *grid]` out as the layer does; all other tokens come from `like` `[1 or n, …]`."""
        if self.kind == "channels_first":
            return maps
        if self.kind == "channels_last":
            return maps.movedim(-1 - len(self.grid), -1)
        patches = maps.flatten(-len(self.grid)).transpose(-1, -2)
        like = like.expand(len(maps), -1, -1)
        return torch.cat([like[:, : self.prefix], patches, like[:, self.prefix + prod(self.grid) :]], dim=1)


def layout_of(shape: tuple[int, ...], inputs: Inputs, module: nn.Module | None = None) -> Layout | None:
    """Find how an output with one axis per spatial axis holds a map, or None.

    Args:
        shape: the output's shape.
        inputs: what the module was run on; gives B and the image's size.
        module: the layer; a plain LayerNorm normalises its last axis, so that is the channels' axis.
    """
    size = inputs.size
    if len(shape) != len(size) + 2 or shape[0] != inputs.batch:
        return None
    first, last = shape[2:], shape[1:-1]
    normalises_last = type(module) is nn.LayerNorm and module.normalized_shape == shape[-1:]
    if fits(last, size) and (normalises_last or not fits(first, size)):
        return Layout("channels_last", last) if prod(last) > 1 else None
    return Layout("channels_first", first) if prod(first) > 1 and _inside(first, size) and not normalises_last else None


def fits(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a grid could be a down-scaled image: height and width shrunk by one factor, give or take a pixel of padding at each end.

    The first of three axes (time, or the slices of a volume) may shrink by another.
    """
    if not _inside(grid, size):
        return False
    pairs = [(s, g) for s, g in zip(size, grid, strict=True)][-2:]
    return max(s / (g + 1) for s, g in pairs) <= min(s / max(g - 1, 0.5) for s, g in pairs)


def _inside(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    return all(g <= s for g, s in zip(grid, size, strict=True))


@dataclass(frozen=True)
class _Mark:
    """What the axes of a tensor are: BATCH, CHANNELS, TOKENS or the number of a spatial axis."""

    axes: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0

    def moved(self, order: Sequence[int]) -> _Mark:
        return _Mark(tuple(self.axes[i] for i in order), self.grid, self.prefix)


BATCH, CHANNELS, TOKENS = -3, -2, -1
REORDERING = ("getitem", "gather", "index", "take", "sort", "flip", "roll", "topk", "scatter", "shuffle", "fold", "einsum")
"""Operations that may bring tokens into another order."""
PERMUTING = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")
RESHAPING = ("reshape", "view", "flatten", "unflatten")
JOINING = ("cat", "concat", "concatenate", "hstack")
PARTING = ("unbind", "chunk", "split", "tensor_split", "split_with_sizes")
MIXING = ("matmul", "bmm", "attention")
"""Operations whose first input alone says what the rows of the output are."""


class Lineage:
    """Follows a map from the convolution that made it through every operation, so that a sequence of tokens is known by its origin.

    A sequence whose number of tokens happens to be that of some map (words, queries of a decoder, tokens sorted by windows) has no such
    origin; for it there are only `candidates`.
    """

    def __init__(self, inputs: Inputs) -> None:
        spatial = range(len(inputs.size))
        self.inputs = inputs
        self.first, self.last = (BATCH, CHANNELS, *spatial), (BATCH, *spatial, CHANNELS)
        self.marks: Any = WeakTensorKeyDictionary()
        self.grids: dict[tuple[int, ...], None] = {}
        self.joined: dict[int, Layout] = {}

    def of(self, tensor: Tensor) -> Layout | None:
        """The layout of a sequence `[B, N, C]` that came from a map, or None."""
        mark: _Mark | None = self.marks.get(tensor)
        return Layout("tokens", mark.grid, mark.prefix) if mark is not None and mark.axes == (BATCH, TOKENS, CHANNELS) else None

    def note(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
        """Follow one operation."""
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        for each in outputs if name in PARTING else outputs[:1]:
            if isinstance(each, Tensor) and each.ndim >= 3:
                mark = self._made(name, args, kwargs, each)
                if mark is not None:
                    self.marks[each] = mark

    def _made(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> _Mark | None:
        inputs = [t for t in _tensors([*args, *kwargs.values()]) if t.ndim >= 3]
        shape = tuple(output.shape)
        if ("conv" in name or "pool" in name or "interpolate" in name) and len(shape) == len(self.first):
            return self._map(shape)
        if not inputs:
            return None
        source = inputs[0]
        mark: _Mark | None = self.marks.get(source)
        if name in JOINING:
            return self._joined(inputs, args, kwargs, output)
        if name in RESHAPING:
            return self._reshaped(mark, tuple(source.shape), shape)
        if name in PERMUTING:
            return None if mark is None else mark.moved(_order(name, args, kwargs, source.ndim))
        if name == "__getitem__" or name in PARTING:
            return None if mark is None else self._part(mark, source, args[1] if name == "__getitem__" else None, output)
        if any(part in name for part in REORDERING):
            return None
        if any(part in name for part in MIXING):
            inputs = inputs[:1]
        return next((m for t in inputs if (m := self.marks.get(t)) is not None and self._keeps(m, t, output)), None)

    def _map(self, shape: tuple[int, ...]) -> _Mark | None:
        """A convolution's or a pooling's output; its size is kept even where heads or windows took the place of the batch."""
        grid = shape[2:]
        if prod(grid) == 1 or not _inside(grid, self.inputs.size):
            return None
        if grid != self.inputs.size:
            self.grids.pop(grid, None)
            self.grids[grid] = None
        return _Mark(self.first, grid) if shape[0] == self.inputs.batch else None

    def _keeps(self, mark: _Mark, source: Tensor, output: Tensor) -> bool:
        """Whether an output has the batch, spatial and token axes of what it was made from."""
        return source.ndim == output.ndim and all(
            a == b for axis, a, b in zip(mark.axes, source.shape, output.shape, strict=True) if axis != CHANNELS
        )

    def _reshaped(self, mark: _Mark | None, before: tuple[int, ...], after: tuple[int, ...]) -> _Mark | None:
        """Spatial axes may become tokens and back, and channels be split and merged; anything else loses the map."""
        if mark is None and len(before) == len(self.last):
            found = layout_of(before, self.inputs)
            mark = _Mark(self.last, found.grid) if found is not None and found.kind == "channels_last" else None
        groups = None if mark is None else _groups(before, after)
        if mark is None or groups is None:
            return None
        axes: list[int] = []
        spatial = self.last[1:-1]
        for old, new in groups:
            roles, lengths = mark.axes[old], after[new]
            if roles == spatial and len(lengths) == 1 < len(roles):
                axes.append(TOKENS)
            elif roles == (TOKENS,) and lengths == mark.grid and not mark.prefix:
                axes += spatial
            elif len(roles) == len(lengths):
                axes += roles
            elif set(roles) == {CHANNELS}:
                axes += [CHANNELS] * len(lengths)
            else:
                return None
        if TOKENS in axes and mark.grid not in self.grids:
            self.grids[mark.grid] = None
        return _Mark(tuple(axes), mark.grid, mark.prefix)

    def _part(self, mark: _Mark, source: Tensor, index: Any, output: Tensor) -> _Mark | None:
        """Some of the channels, or tokens cut off before or after the patches."""
        parts = index if isinstance(index, tuple) else () if index is None else (index,)
        if any(not isinstance(p, (slice, int)) for p in parts):
            return None
        if output.ndim == source.ndim - 1:  # one of the channels
            gone = next((i for i, p in enumerate(parts) if isinstance(p, int)), None)
            options = [gone] if gone is not None else [i for i, axis in enumerate(mark.axes) if axis == CHANNELS]
            for i in options:
                if mark.axes[i] == CHANNELS and source.shape[:i] + source.shape[i + 1 :] == output.shape:
                    return _Mark(mark.axes[:i] + mark.axes[i + 1 :], mark.grid, mark.prefix)
            return None
        if self._keeps(mark, source, output):
            return mark
        if TOKENS not in mark.axes or output.ndim != source.ndim or not parts:
            return None
        at = mark.axes.index(TOKENS)
        cut = parts[at] if at < len(parts) else slice(None)
        start, stop, step = cut.indices(source.shape[at]) if isinstance(cut, slice) else (0, 0, 0)
        whole = start <= mark.prefix and mark.prefix + prod(mark.grid) <= stop and step == 1
        return _Mark(mark.axes, mark.grid, mark.prefix - start) if whole else None

    def _joined(self, pieces: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> _Mark | None:
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % output.ndim
        starts = [0, *accumulate(piece.shape[dim] for piece in pieces)]
        if dim == output.ndim - 2 and len(output) == self.inputs.batch:  # a candidate, whether or not its origin is known
            for piece, start in zip(pieces, starts, strict=False):
                found = next(self._exact(piece.shape[dim]), None)
                if found is not None:
                    self.joined[output.shape[dim]] = Layout("tokens", found.grid, start + found.prefix)
        for piece, start in zip(pieces, starts, strict=False):
            mark: _Mark | None = self.marks.get(piece)
            if mark is not None and mark.axes[dim] == TOKENS:
                return _Mark(mark.axes, mark.grid, start + mark.prefix)
            if mark is not None and mark.axes[dim] == CHANNELS and self._keeps(mark, piece, output):
                return mark
        return None

    def _sizes(self) -> Iterator[tuple[int, ...]]:
        """Sizes of maps, the newest first; then of maps that pooling among tokens may have left."""
        yield from reversed(self.grids)
        for grid in reversed(self.grids):
            while max(grid[-2:]) > 1:
                grid = (*grid[:-2], *(-(-g // 2) for g in grid[-2:]))
                yield grid

    def _exact(self, tokens: int) -> Iterator[Layout]:
        if tokens in self.joined:
            yield self.joined[tokens]
        yield from (Layout("tokens", grid) for grid in self._sizes() if prod(grid) == tokens > 1)

    def candidates(self, shape: tuple[int, ...]) -> tuple[Layout, ...]:
        """Layouts that an output `[B, N, C]` of unknown origin could have by its number of tokens, the likeliest first."""
        if len(shape) != 3 or shape[0] != self.inputs.batch or shape[1] < 2 or len(self.inputs.size) < 2:
            return ()
        rests = ((grid, shape[1] - prod(grid)) for grid in self._sizes() if prod(grid) > 1)
        prefixed = [Layout("tokens", grid, rest) for grid, rest in rests if 0 < rest <= MOST_PREFIX_TOKENS]
        guessed = [] if self.grids else _guessed(shape[1], self.inputs.size)
        return tuple(dict.fromkeys([*self._exact(shape[1]), *prefixed, *guessed]))


def _guessed(tokens: int, size: tuple[int, ...]) -> list[Layout]:
    """Grids of about the image's shape, with as few prefix tokens as possible: for images that were cut into patches without a trace."""
    found: list[tuple[float, int, tuple[int, int]]] = []
    for prefix in range(min(MOST_PREFIX_TOKENS, tokens - 2) + 1 if len(size) == 2 else 0):
        for h in range(1, tokens - prefix + 1):
            w, rest = divmod(tokens - prefix, h)
            if not rest:
                ratio = (h / w) / (size[0] / size[1])
                found.append((round(max(ratio, 1 / ratio), 6), prefix, (h, w)))
    return [Layout("tokens", grid, prefix) for ratio, prefix, grid in sorted(found)[:4] if ratio <= 1.5]


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[slice, slice]] | None:
    """Pair the axes of a tensor with those that a reshape makes of them, as few at a time as possible."""
    groups = []
    i = j = 0
    while i < len(before) and j < len(after):
        start_i, start_j = i, j
        i, j = i + 1, j + 1
        while (left := prod(before[start_i:i])) != (right := prod(after[start_j:j])):
            if left < right and i < len(before):
                i += 1
            elif right < left and j < len(after):
                j += 1
            else:
                return None
        if prod(before[i:]) == 1 and j == len(after):
            i = len(before)
        groups.append((slice(start_i, i), slice(start_j, j)))
    return groups if i == len(before) and j == len(after) else None


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (each for each in value if isinstance(each, Tensor))


def _order(name: str, args: Sequence[Any], kwargs: dict[str, Any], ndim: int) -> list[int]:
    """Which axis of the input each axis of the output is, asked of torch itself: the axes of a tensor are told by their lengths."""
    small = torch.empty(tuple(range(1, ndim + 1)), device="meta")
    with torch._C.DisableTorchFunction():
        return [length - 1 for length in getattr(small, name)(*args[1:], **kwargs).shape]
