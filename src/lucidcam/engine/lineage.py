"""Where a tensor comes from: what its axes hold is followed from the image through every operation of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import BATCH, CHANNELS, COPIES, Axes, Layout, inside, layout_of

MOST_PREFIX_TOKENS = 16
"""Tokens before the patches, where no concatenation was seen that put them there: at most this many are tried."""

REORDERING = ("getitem", "gather", "index", "take", "sort", "flip", "roll", "topk", "scatter", "shuffle", "fold", "einsum")
"""Operations that may bring tokens into another order."""
PERMUTING = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "t")
RESHAPING = ("reshape", "view", "flatten", "unflatten", "squeeze", "view_as", "reshape_as")
JOINING = ("cat", "concat", "concatenate", "hstack")
PARTING = ("unbind", "chunk", "split", "tensor_split", "split_with_sizes")
INDEXING = ("__getitem__", "select", "narrow")
LINEAR = ("linear", "matmul", "__matmul__", "mm")
"""Linear layers, where the second operand is a matrix."""
MIXING = ("matmul", "bmm", "attention")
"""Operations whose first input alone says what the rows of the output are."""
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
REDUCING = ("mean", "sum", "amax", "amin", "max", "min", "median", "std", "var", "logsumexp", "norm", "prod")
COLOURS = 4
"""No image with more channels than this is one of colours."""
CROPPED = 2
"""Places that may be cut off at the ends of an axis without what is left being taken for a part of the map."""


@dataclass(frozen=True)
class Mark:
    """What the axes of a tensor hold. Spatial axes are numbered as in the tensor that the module takes.

    Attributes:
        axes: for each axis of the tensor.
        sizes: how long each of the image's axes is by now.
        prefix: tokens before the patches.
        copies: as for a layout.
        fixed: axes of the image of which a single place was taken (a frame), and which.
        ordered: whether the places are still in the order of the image's.
    """

    axes: Axes
    sizes: tuple[int, ...]
    prefix: int = 0
    copies: tuple[int, int] = (1, 0)
    fixed: frozenset[tuple[int, int]] = frozenset()
    ordered: bool = True

    @property
    def roles(self) -> set[int]:
        """Everything that the axes hold."""
        return {role for axis in self.axes for role in axis}

    def resized(self, axis: Sequence[int], length: int) -> Mark | None:
        """The mark with another length of what an axis holds; None: it holds several things, or none of the image's axes."""
        if len(axis) != 1 or axis[0] < 0:
            return None
        return replace(self, sizes=(*self.sizes[: axis[0]], length, *self.sizes[axis[0] + 1 :]))

    def with_axis(self, at: int, axis: tuple[int, ...]) -> Mark:
        """The mark with something else along an axis."""
        return replace(self, axes=(*self.axes[:at], axis, *self.axes[at + 1 :]))


class Lineage:
    """Follows one image through every operation of a forward pass.

    The first operation with weights that reads the image tells which of its axes holds the channels. Where the way from the image is lost,
    the next convolution or pooling begins it anew, as its axes say what they are. A sequence whose number of tokens happens to be that of
    some map (words, queries of a decoder, tokens sorted by windows) has no such origin; for it there are only `candidates`.

    Attributes:
        inputs: what the module takes, with the image's axes as far as they are known by now.
        read: whether they are known.
        problem: why they cannot be told from the way the image is read; empty: nothing speaks against them.
        dropped: whether an operation left most of a map's places out (the last step of a sequence); whoever asks resets it.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.read = inputs.axes is not None
        self.problem = ""
        self.dropped = False
        self.marks: Any = WeakTensorKeyDictionary()
        self.grids: dict[tuple[int, ...], None] = {}
        self.joined: dict[int, Layout] = {}
        image, batch = inputs.raw, 0 if inputs.axes is None else inputs.axes[0]
        self.marks[image] = Mark(tuple((BATCH if i == batch else i,) for i in range(image.ndim)), tuple(image.shape))

    # ----------------------------------------------------------------------------------------------------- what a tensor holds

    def of(self, tensor: Tensor) -> Layout | None:
        """The layout of a tensor that came from the image, or None."""
        mark: Mark | None = self.marks.get(tensor)
        return None if mark is None else self.layout(mark, tuple(tensor.shape))

    def layout(self, mark: Mark, shape: tuple[int, ...]) -> Layout | None:
        """The layout of a tensor with such a mark and shape, or None."""
        spatial, size = self.inputs.spatial, self.inputs.size
        if not mark.ordered or any(role in spatial for role, _ in mark.fixed):
            return None
        axes = tuple(tuple(role if role in (BATCH, COPIES) else self._number(role) for role in axis) for axis in mark.axes)
        roles = [role for axis in axes for role in axis]
        grid = tuple(mark.sizes[place] if i in roles else 1 for i, place in enumerate(spatial))
        without = self.inputs.axes is not None and self.inputs.axes[1] is None and CHANNELS not in roles
        alone = roles.count(CHANNELS) == (not without) and all(len(axis) == 1 for axis in axes if CHANNELS in axis)
        if prod(grid) == 1 or not inside(grid, size) or not alone or BATCH not in roles:
            return None
        every = tuple(range(len(size)))
        apart = tuple((i,) for i in every)
        if axes == ((BATCH,), (CHANNELS,), *apart) and shape[2:] == grid:
            return Layout("channels_first", grid)
        if axes == ((BATCH,), *apart, (CHANNELS,)) and shape[1:-1] == grid:
            return Layout("channels_last", grid)
        if axes == ((BATCH,), every, (CHANNELS,)):
            return Layout("tokens", grid, mark.prefix)
        if () in axes and len(axes) == len(size) + 2:  # tokens of one window
            return None
        return Layout("mixed", grid, mark.prefix, axes, mark.copies)

    def plain(self, mark: Mark) -> bool:
        """Whether nothing of an image was chosen, and nothing folded into its batch, so that a shape is what it seems."""
        return mark.ordered and not mark.fixed and (BATCH,) in mark.axes and COPIES not in mark.roles

    def _number(self, role: int) -> int:
        """A spatial axis as the map numbers it; CHANNELS for the image's own channels too."""
        return self.inputs.spatial.index(role) if role in self.inputs.spatial else CHANNELS

    def _spatial(self, axis: Sequence[int]) -> bool:
        """Whether an axis holds places of the image and nothing else."""
        return self.read and bool(axis) and all(role in self.inputs.spatial for role in axis)

    def _channels(self, axis: Sequence[int]) -> bool:
        """Whether an axis holds channels, or nothing."""
        return all(role == CHANNELS or (self.read and role >= 0 and role not in self.inputs.spatial) for role in axis)

    # ------------------------------------------------------------------------------------------------------------- operations

    def note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
        """Follow one operation."""
        name = getattr(func, "__name__", "")
        if name == "__get__":  # a property
            name = {"T": "t", "mT": "mT"}.get(getattr(getattr(func, "__self__", None), "__name__", ""), name)
        outputs = [
            t if isinstance(t, Tensor) and t.ndim >= 2 else None for t in (output if isinstance(output, (tuple, list)) else (output,))
        ]
        sources = [t for t in _tensors([*args, *kwargs.values()]) if t.ndim >= 2]
        if name in PARTING:
            self._note_parts(name, sources, args, kwargs, outputs)
        elif outputs and outputs[0] is not None:
            mark = self._made(name, sources, args, kwargs, outputs[0])
            if mark is not None:
                self.marks[outputs[0]] = mark

    def _made(self, name: str, sources: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> Mark | None:
        mark: Mark | None = self.marks.get(sources[0]) if sources else None
        if "conv" in name or "pool" in name or "interpolate" in name:
            kernel = sources[1].ndim if "conv" in name and len(sources) > 1 else None
            return self._convolved(mark, sources[0] if sources else None, output, kernel)
        if not sources:
            return None
        source = sources[0]
        if name in JOINING:
            return self._joined(sources, args, kwargs, output)
        if name == "stack":
            return self._stacked(sources, args, kwargs, output)
        if name in RESHAPING:
            return self._reshaped(mark, tuple(source.shape), tuple(output.shape))
        if mark is not None and name == "unsqueeze":
            at = kwargs.get("dim", (*args, 0)[1]) % output.ndim
            return replace(mark, axes=(*mark.axes[:at], (), *mark.axes[at:]))
        if mark is not None and name in PERMUTING:
            return replace(mark, axes=tuple(mark.axes[i] for i in _order(name, args, kwargs, source.ndim)))
        if mark is not None and name in INDEXING:
            return self._indexed(mark, source, _index(name, args, kwargs, source.ndim))
        if any(part in name for part in REORDERING):
            self.dropped |= mark is not None and any(map(self._spatial, mark.axes))
            return replace(mark, ordered=False) if mark is not None and output.shape == source.shape else None
        if mark is not None and name in LINEAR and len(sources) > 1 and sources[1].ndim == 2:
            self._read(mark.axes[-1], mark, linear=True)
            return mark.with_axis(-1 % source.ndim, (CHANNELS,)) if source.shape[:-1] == output.shape[:-1] else None
        if mark is not None and name in RECURRENT:
            return self._recurrent(mark, source, args)
        if mark is not None and name in REDUCING and (named := _reduced_axes(args, kwargs, source.ndim)):
            return self._reduced(mark, named, output)
        if mark is not None and name == "pad" and not self.read:
            return self._padded(mark, output)
        if any(part in name for part in MIXING):
            sources = sources[:1]
        return next((m for t in sources if (m := self.marks.get(t)) is not None and self._keeps(m, t, output)), None)

    def _read(self, held: Sequence[int], mark: Mark, linear: bool = False) -> None:
        """See which axis of the image the first operation with weights takes for its channels.

        Args:
            held: what the axis holds that the operation sums over.
            mark: of what it reads.
            linear: it is no convolution, so that an axis alone is taken for the channels': a row of pixels may be features too.
        """
        if self.read or self.problem or CHANNELS in held:
            return
        shape = tuple(self.inputs.raw.shape)
        axes = [role for role in held if role >= 0]
        gone = set(range(1, len(shape))) - mark.roles
        channel: int | None
        if linear:
            left = mark.roles - set(axes)
            if len(axes) != 1 or not any(role > 0 and shape[role] > 1 for role in left):
                return
            channel = 1 if len(shape) > 3 and shape[1] <= COLOURS < shape[axes[0]] else axes[0]
        elif len(axes) > 1:
            self.problem = "the first convolution reads several of them as channels"
            return
        elif axes:
            channel = axes[0]
        elif len(gone) == 1:
            channel = gone.pop()
        elif not gone and all(len(axis) == 1 for axis in mark.axes if BATCH in axis):
            channel = None
        else:
            self.problem = "the first convolution reads none of them as channels"
            return
        self.read, self.inputs = True, replace(self.inputs, axes=(0, channel))

    def _convolved(self, mark: Mark | None, source: Tensor | None, output: Tensor, kernel: int | None) -> Mark | None:
        """A convolution's, a pooling's or an enlargement's output: all axes but the first two are spatial.

        A map's size is kept even where heads or windows took the place of the batch.
        """
        if mark is None or source is None or source.ndim != output.ndim or kernel not in (None, output.ndim):
            mark = None
        else:
            if kernel is not None:
                self._read(mark.axes[1], mark)
                mark = mark.with_axis(1, (CHANNELS,))
            for axis, before, after in zip(mark.axes[2:], source.shape[2:], output.shape[2:], strict=True):
                if mark is not None and before != after:
                    mark = mark.resized(axis, after)
        size, shape = self.inputs.size, tuple(output.shape)
        grid = shape[2:]
        if len(grid) == len(size) and prod(grid) > 1 and inside(grid, size):
            if grid != size:
                self.grids.pop(grid, None)
                self.grids[grid] = None
            if (mark is None or not mark.ordered) and shape[0] == self.inputs.batch:
                return self._anew(((BATCH,), (CHANNELS,), *((i,) for i in self.inputs.spatial)), grid)
        return mark

    def _anew(self, axes: Axes, grid: tuple[int, ...]) -> Mark:
        sizes = dict(zip(self.inputs.spatial, grid, strict=True))
        return Mark(axes, tuple(sizes.get(i, n) for i, n in enumerate(self.inputs.raw.shape)))

    def _recurrent(self, mark: Mark, source: Tensor, args: Sequence[Any]) -> Mark | None:
        """The output of a recurrent layer at every step."""
        if source.ndim != 3 or not isinstance(args[-1], bool):  # a packed sequence
            return None
        if BATCH in mark.axes[1 if args[-1] else 0] and not self.problem:
            self.problem = "the first recurrent layer runs along the first of them, which should be the batch (batch_first)"
        self._read(mark.axes[-1], mark, linear=True)
        return mark.with_axis(2, (CHANNELS,))

    def _padded(self, mark: Mark, output: Tensor) -> Mark | None:
        """The image itself, enlarged at its edges before anything reads it."""
        if len(mark.axes) != output.ndim:
            return None
        for axis, length in zip(mark.axes, output.shape, strict=True):
            mark = mark.resized(axis, length) or mark
        return mark

    def _keeps(self, mark: Mark, source: Tensor, output: Tensor) -> bool:
        """Whether an output has all axes of what it was made from; there may be other channels."""
        return source.ndim == output.ndim and all(
            a == b or self._channels(axis) for axis, a, b in zip(mark.axes, source.shape, output.shape, strict=True)
        )

    def _reduced(self, mark: Mark, gone: set[int], output: Tensor) -> Mark | None:
        """What is left when axes were summed over; along them the map is one place long."""
        held = {role for i in gone for role in mark.axes[i]}
        kept = output.ndim == len(mark.axes)
        axes = tuple(() if i in gone else axis for i, axis in enumerate(mark.axes) if kept or i not in gone)
        if BATCH in held or len(axes) != output.ndim:
            return None
        tokens = any(self._spatial(mark.axes[i]) for i in gone)
        return replace(mark, axes=axes, copies=(1, 0) if COPIES in held else mark.copies, prefix=0 if tokens else mark.prefix)

    # --------------------------------------------------------------------------------------------------------- other shapes

    def _reshaped(self, mark: Mark | None, before: tuple[int, ...], after: tuple[int, ...]) -> Mark | None:
        """Axes may be folded into one and back, and channels be split and merged; anything else loses the map."""
        if mark is None and len(before) == len(self.inputs.size) + 2:
            seen = layout_of(before, self.inputs)
            if seen is not None and seen.kind == "channels_last":
                mark = self._anew(((BATCH,), *((i,) for i in self.inputs.spatial), (CHANNELS,)), seen.grid)
        folded = None if mark is None else self._folded(mark, before, after)
        spatial = self.inputs.spatial
        if folded is not None and len(spatial) > 1 and spatial in folded.axes:
            self.grids.setdefault(tuple(folded.sizes[i] for i in spatial), None)
        return folded

    def _atoms(self, mark: Mark, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
        """What the axes hold, and how long each is, when nothing is folded; an axis of tokens with others around them stays one."""
        atoms: list[tuple[tuple[int, ...], int]] = []
        for axis, length in zip(mark.axes, shape, strict=True):
            lengths = [self.inputs.batch if r == BATCH else mark.copies[0] if r == COPIES else mark.sizes[r] if r >= 0 else 0 for r in axis]
            if len(axis) > 1 and prod(lengths) == length:
                atoms += [((role,), n) for role, n in zip(axis, lengths, strict=True)]
            else:
                atoms.append((axis, length))
        return atoms

    def _folded(self, mark: Mark, before: tuple[int, ...], after: tuple[int, ...]) -> Mark | None:
        """Lay what the axes hold out along other axes, in the same order.

        Lengths alone pair what is longer than one; the one image itself, and other axes of length one, go where there is room for them.
        """
        atoms = self._atoms(mark, before)
        long = [atom for atom in atoms if atom[1] > 1]
        axes: list[tuple[int, ...]] = []
        starts: dict[int, int] = {}  # axes by how many long atoms lie before them, and before their end
        ends: dict[int, int] = {}
        empty: dict[int, list[int]] = {}
        at, left = 0, long[0][1] if long else 1  # the atom at hand, and what is left of it
        for new, length in enumerate(after):
            if length == 1:
                empty.setdefault(at, []).append(new)
                axes.append(())
                continue
            starts[at] = new
            held: list[tuple[int, ...]] = []
            part = 1
            while part < length and at < len(long):
                roles, size = long[at]
                take = min(left, length // part)
                if take < size and not (roles and self._channels(roles)):
                    return None
                held.append(roles)
                part *= take
                if left % take:
                    return None
                left //= take
                if left == 1:
                    at += 1
                    left = long[at][1] if at < len(long) else 1
            if part != length:
                return None
            ends[at] = new
            merged = tuple(role for roles in held for role in roles)
            if len(held) > 1 and self._channels(merged):
                merged = (CHANNELS,)
            elif len(held) > 1 and self.read and ((CHANNELS in merged and BATCH in merged) or any(map(self._around, held))):
                return None
            axes.append(merged)
        if at != len(long):
            return None
        count = 0
        short: dict[int, list[tuple[int, ...]]] = {}
        for roles, length in atoms:
            count += length > 1
            if length == 1 and roles:
                short.setdefault(count, []).append(roles)
        for gap, kept in short.items():
            places = empty.get(gap, [])
            first = sorted(kept, key=lambda roles: (roles != (BATCH,), self._channels(roles)))[: max(1, len(places))]
            kept = [roles for roles in kept if roles in first]
            if places:
                for new, roles in zip(places, kept, strict=False):
                    axes[new] = roles
            elif kept == [(BATCH,)]:
                if gap in ends and self._foldable(axes[ends[gap]]):
                    axes[ends[gap]] = (*axes[ends[gap]], BATCH)
                elif gap in starts and self._foldable(axes[starts[gap]]):
                    axes[starts[gap]] = (BATCH, *axes[starts[gap]])
                else:
                    return None
        return replace(mark, axes=tuple(axes))

    def _around(self, axis: tuple[int, ...]) -> bool:
        """Whether an axis of tokens has others around the patches, so that nothing can be folded into it."""
        return len(axis) > 1 and CHANNELS not in axis

    def _foldable(self, axis: tuple[int, ...]) -> bool:
        """Whether images may be folded into an axis: one of places, or of several inputs beside each other."""
        return bool(axis) and all(role == COPIES or (role >= 0 and not self._channels((role,))) for role in axis)

    # --------------------------------------------------------------------------------------------------------- parts and wholes

    def _indexed(self, mark: Mark, source: Tensor, index: Sequence[Any] | None) -> Mark | None:
        """Some of the channels, one of several inputs, or tokens cut off before or after the patches."""
        if index is None:
            self.dropped |= any(map(self._spatial, mark.axes))
            return None
        axes: list[tuple[int, ...]] = []
        at = 0
        for part in index:
            if part is None:
                axes.append(())
                continue
            axis, length = mark.axes[at], source.shape[at]
            at += 1
            taken = self._taken(mark, axis, length, part)
            if self._spatial(axis) and (taken is None or (isinstance(part, int) and length > 1)):
                self.dropped = True
            if taken is None:
                return None
            mark, axis = taken
            if not isinstance(part, int):
                axes.append(axis)
        return replace(mark, axes=tuple(axes))

    def _taken(self, mark: Mark, axis: tuple[int, ...], length: int, part: int | slice) -> tuple[Mark, tuple[int, ...]] | None:
        """The mark, and what an axis holds, when a part of it is taken; None: most of it is lost."""
        count, which = mark.copies
        if isinstance(part, int):
            if axis == (COPIES,):
                return (replace(mark, copies=(1, 0)), ()) if part % length == which else None
            if not axis or self._channels(axis):
                return mark, ()
            if len(axis) > 1 or axis[0] < 0:
                return None
            return (mark if length == 1 else replace(mark, fixed=mark.fixed | {(axis[0], part % length)})), ()
        start, stop, step = part.indices(length)
        taken = len(range(start, stop, step))
        if taken == length or not axis or self._channels(axis):
            return mark, axis
        if axis[0] == COPIES and step == 1 and taken * count == length and start == which * taken:
            return replace(mark, copies=(1, 0)), axis[1:]
        if min(axis) < 0:
            return None
        patches = prod(mark.sizes[role] for role in axis)
        if self.read and (len(axis) > 1 or patches < length):
            kept = start <= mark.prefix and mark.prefix + patches <= stop and step == 1
            return (replace(mark, prefix=mark.prefix - start), axis) if kept else None
        most = start < step if step > 1 else length - taken <= max(CROPPED, length // 10)
        resized = mark.resized(axis, taken)
        return (resized, axis) if (most or not self.read) and taken and resized is not None else None

    def _note_parts(
        self, name: str, sources: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any], outputs: Sequence[Tensor | None]
    ) -> None:
        mark: Mark | None = self.marks.get(sources[0]) if sources else None
        if mark is None:
            return
        source, place = sources[0], 1 if name == "unbind" else 2
        dim = kwargs.get("dim", args[place] if len(args) > place else 0) % source.ndim
        around = [slice(None)] * dim, [slice(None)] * (source.ndim - dim - 1)
        dropped, start = self.dropped, 0
        for number, output in enumerate(outputs):
            if output is None:
                continue
            part: Any = number if name == "unbind" else slice(start, start + output.shape[dim])
            start = start if name == "unbind" else part.stop
            made = self._indexed(mark, source, [*around[0], part, *around[1]])
            if made is not None:
                self.marks[output] = made
        self.dropped = dropped  # all parts together are the whole

    def _stacked(self, pieces: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> Mark | None:
        """Several inputs along an axis of their own, or all frames, one after the other."""
        at = kwargs.get("dim", args[1] if len(args) > 1 else 0) % output.ndim
        frames = [dict(mark.fixed) if (mark := self.marks.get(piece)) is not None else {} for piece in pieces]
        for role in frames[0]:
            first: Mark = self.marks[pieces[0]]
            if [each.get(role) for each in frames] == list(range(self.inputs.raw.shape[role])):
                axes = (*first.axes[:at], (role,), *first.axes[at:])
                return replace(first, axes=axes, fixed=frozenset(pair for pair in first.fixed if pair[0] != role))
        marks: list[tuple[int, Mark | None]] = [(i, self.marks.get(piece)) for i, piece in enumerate(pieces)]
        marked = [(i, mark) for i, mark in marks if mark is not None]
        if len(marked) != 1 or COPIES in marked[0][1].roles:
            return None
        which, mark = marked[0]
        return replace(mark, axes=(*mark.axes[:at], (COPIES,), *mark.axes[at:]), copies=(len(pieces), which))

    def _joined(self, pieces: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> Mark | None:
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % output.ndim
        starts = [0, *accumulate(piece.shape[dim] for piece in pieces)]
        if dim == output.ndim - 2 and len(output) == self.inputs.batch:  # a candidate, whether or not its origin is known
            for piece, start in zip(pieces, starts, strict=False):
                exact = next(self._exact(piece.shape[dim]), None)
                if exact is not None:
                    self.joined[output.shape[dim]] = Layout("tokens", exact.grid, start + exact.prefix)
        marks: list[tuple[int, Mark | None]] = [(i, self.marks.get(piece)) for i, piece in enumerate(pieces)]
        marked: list[tuple[int, Mark]] = [(i, mark) for i, mark in marks if mark is not None and len(mark.axes) == output.ndim]
        for i, mark in marked:
            axis = mark.axes[dim]
            if self._channels(axis):
                if self._keeps(mark, pieces[i], output):
                    return mark
            elif BATCH in axis:
                if len(marked) == 1 and COPIES not in mark.roles and len({piece.shape for piece in pieces}) == 1:
                    return replace(mark.with_axis(dim, (COPIES, *axis)), copies=(len(pieces), i))
            elif not self.read:  # coordinates or another picture beside the colours
                return mark.resized(axis, output.shape[dim])
            elif len(axis) > 1 or output.ndim == 3:
                return replace(mark, prefix=starts[i] + mark.prefix)
        return None

    # ------------------------------------------------------------------------------------------------------------- candidates

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
        if len(shape) != 3 or shape[0] != self.inputs.batch or (len(self.inputs.size) > 1 and shape[1] < 2):
            return ()
        if len(self.inputs.size) == 1:
            kinds = (("channels_first", shape[2:]), ("channels_last", shape[1:2]))
            return tuple(Layout(kind, grid) for kind, grid in kinds if 1 < grid[0] <= self.inputs.size[0])
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


def _index(name: str, args: Sequence[Any], kwargs: dict[str, Any], ndim: int) -> list[Any] | None:
    """What is taken along each axis, a whole number or a slice, with None for a new axis; None altogether: it cannot be told."""
    if name == "__getitem__":
        parts = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    else:
        values = dict(zip(("input", "dim", "start", "length"), args, strict=False), **kwargs)
        dim, start = values.get("dim"), values.get("start", values.get("index"))
        if not isinstance(dim, int) or not isinstance(start, int):
            return None
        parts = [*[slice(None)] * (dim % ndim), slice(start, start + values["length"]) if name == "narrow" else start]
    if any(not isinstance(part, (slice, int, type(None), type(Ellipsis))) or isinstance(part, bool) for part in parts):
        return None
    used = sum(part is not None and part is not Ellipsis for part in parts)
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    return [*parts[:at], *[slice(None)] * (ndim - used), *parts[at + 1 :]]


def _reduced_axes(args: Sequence[Any], kwargs: dict[str, Any], ndim: int) -> set[int]:
    """The axes that an operation sums over; none where it does not say."""
    named = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    named = (named,) if isinstance(named, int) else named
    return {i % ndim for i in named} if isinstance(named, (tuple, list)) and all(isinstance(i, int) for i in named) else set()


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
        if name == "mT":
            return [length - 1 for length in small.mT.shape]
        return [length - 1 for length in getattr(small, name)(*args[1:], **kwargs).shape]
