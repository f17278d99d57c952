"""How a layer's output holds a spatial map, and what its shape alone says of that."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs

BATCH, CHANNELS, COPIES = -3, -2, -1
"""What an axis of a tensor holds: images, channels, several inputs beside each other; 0, 1, …: a spatial axis of the image."""

CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
"""Modules whose outputs have their channels first, whatever their shape."""

Axes = tuple[tuple[int, ...], ...]
"""For each axis of a tensor what it holds: one thing, several folded into one (the slowest first), or, of length one, nothing."""


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds its spatial map.

    Attributes:
        kind: "channels_first" `[B, C, *grid]`, "channels_last" `[B, *grid, C]`, "tokens" `[B, prefix + h·w + rest, C]`, or "mixed": in any
            other way, which `axes` says (frames folded into the batch `[B·T, C, h, w]`, a sequence with its time first `[L, B, C]`).
        grid: the map's spatial size; 1 along an axis over which the network has averaged already.
        prefix: tokens before the patches (text, class, distillation, registers).
        axes: of a mixed layout, what each axis holds; spatial axes are numbered as in `grid`.
        copies: where several inputs lie beside each other along an axis, how many, and which is the explained one.
    """

    kind: str
    grid: tuple[int, ...]
    prefix: int = 0
    axes: Axes = ()
    copies: tuple[int, int] = (1, 0)

    @property
    def complete(self) -> bool:
        """Whether the map still has all of the image's axes."""
        return not self.axes or {role for axis in self.axes for role in axis} >= set(range(len(self.grid)))

    @property
    def channels_axis(self) -> int:
        """The (last) axis that holds channels."""
        if self.axes:
            return max((i for i, axis in enumerate(self.axes) if CHANNELS in axis), default=0)
        return 1 if self.kind == "channels_first" else -1

    @property
    def batch_axis(self) -> int:
        """The axis that holds the images, alone or with something else."""
        return next((i for i, axis in enumerate(self.axes) if BATCH in axis), 0)

    def rows(self, output: Tensor, index: slice | Tensor) -> Tensor:
        """Select images of an output, which stays laid out as it is."""
        if not self.axes:
            return output[index]
        if isinstance(index, slice):
            index = torch.arange(*index.indices(self._lengths(output)[BATCH]), device=output.device)
        roles, lengths = self._parted(output)
        at = roles.index(BATCH)
        chosen = output.reshape(lengths).index_select(at, index)
        shape = list(output.shape)
        shape[self.batch_axis] = shape[self.batch_axis] // lengths[at] * len(index)
        return chosen.reshape(shape)

    def to_maps(self, output: Tensor) -> Tensor:
        """View an output as `[B, C, *grid]`; any number of axes may lead it (of all but mixed layouts: take the place of B)."""
        if self.axes:
            return self._mixed_to_maps(output)
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.movedim(-1, -1 - len(self.grid))
        patches = output[..., self.prefix : self.prefix + prod(self.grid), :].transpose(-1, -2)
        return patches.reshape(*patches.shape[:-1], *self.grid)

    def gradients(self, found: Tensor) -> Tensor:
        """View gradients of T targets, `[n, T, …]` after the layer's first axis, as `[B, T, C, *grid]`."""
        return self.to_maps(found.transpose(0, 1)).transpose(0, 1) if self.axes else self.to_maps(found)

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Inverse of `to_maps`: lay maps `[n, C, *grid]` out as the layer does; everything else comes from `like` (1 or n images)."""
        if self.axes:
            return self._mixed_from_maps(maps, like)
        if self.kind == "channels_first":
            return maps
        if self.kind == "channels_last":
            return maps.movedim(-1 - len(self.grid), -1)
        patches = maps.flatten(-len(self.grid)).transpose(-1, -2)
        like = like.expand(len(maps), -1, -1)
        return torch.cat([like[:, : self.prefix], patches, like[:, self.prefix + prod(self.grid) :]], dim=1)

    def _lengths(self, output: Tensor) -> dict[int, int]:
        """The length of everything that the last axes of an output hold; channels over several axes are left out."""
        found = {**dict(enumerate(self.grid)), COPIES: self.copies[0]}
        for axis, length in zip(self.axes, output.shape[-len(self.axes) :], strict=True):
            for role in axis:
                if role in (BATCH, CHANNELS):
                    found[role] = length // prod(found[other] for other in axis if other != role)
        return found

    def _parted(self, output: Tensor) -> tuple[list[int | None], list[int]]:
        """What the axes hold, and how long each is, when nothing is folded; the axis of tokens with others around them stays one."""
        lengths = self._lengths(output)
        roles: list[int | None] = []
        sizes: list[int] = []
        for axis, length in zip(self.axes, output.shape[-len(self.axes) :], strict=True):
            if len(axis) < 2 or self._around(axis, length):
                roles.append(axis[0] if axis else None)
                sizes.append(length)
            else:
                roles += axis
                sizes += [lengths[role] for role in axis]
        return roles, sizes

    def _around(self, axis: tuple[int, ...], length: int) -> bool:
        """Whether an axis of tokens has others beside the patches."""
        return bool(axis) and min(axis) >= 0 and length != prod(self.grid[role] for role in axis)

    def _patches(self, output: Tensor) -> Tensor:
        """An output without the tokens around the patches."""
        for i, axis in enumerate(self.axes):
            at = i - len(self.axes)
            if self._around(axis, output.shape[at]):
                output = output.narrow(at, self.prefix, prod(self.grid[role] for role in axis))
        return output

    def _mixed_to_maps(self, output: Tensor) -> Tensor:
        output = self._patches(output)
        lead = output.shape[: output.ndim - len(self.axes)]
        roles, sizes = self._parted(output)
        found = output.reshape(*lead, *sizes)
        if COPIES in roles:
            at = roles.index(COPIES)
            found = found.select(len(lead) + at, self.copies[1])
            del roles[at]
        spatial = [i for i in range(len(self.grid)) if i in roles]
        channels = [i for i, role in enumerate(roles) if role in (CHANNELS, None)]
        order = [roles.index(BATCH), *channels, *(roles.index(i) for i in spatial)]
        found = found.permute(*range(len(lead)), *(len(lead) + i for i in order))
        batch = found.shape[len(lead)]
        return found.reshape(*lead, batch, prod(sizes_of(found, len(lead) + 1, len(channels))), *self.grid)

    def _mixed_from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        count = len(maps)
        if self._lengths(like)[BATCH] != count:
            like = self.rows(like, torch.zeros(count, dtype=torch.long, device=like.device))
        inner = self._patches(like)
        roles, sizes = self._parted(inner)
        kept = [role for role in roles if role != COPIES]
        channels = [size for role, size in zip(roles, sizes, strict=True) if role in (CHANNELS, None)]
        spatial = [i for i in range(len(self.grid)) if i in kept]
        parts = maps.reshape(count, *channels, *(self.grid[i] for i in spatial))
        filled = iter(range(1, 1 + len(channels)))
        order = [
            0 if role == BATCH else next(filled) if role in (CHANNELS, None) else 1 + len(channels) + spatial.index(role) for role in kept
        ]
        parts = parts.permute(order)
        if COPIES in roles:
            whole = inner.reshape(sizes).clone()
            whole.select(roles.index(COPIES), self.copies[1]).copy_(parts)
            parts = whole
        parts = parts.reshape(inner.shape)
        if inner.shape == like.shape:
            return parts
        at = next(i for i, (a, b) in enumerate(zip(inner.shape, like.shape, strict=True)) if a != b)
        after = self.prefix + inner.shape[at]
        return torch.cat([like.narrow(at, 0, self.prefix), parts, like.narrow(at, after, like.shape[at] - after)], dim=at)


def sizes_of(tensor: Tensor, start: int, count: int) -> tuple[int, ...]:
    """The lengths of `count` axes from `start` on."""
    return tuple(tensor.shape[start : start + count])


def is_plain(shape: tuple[int, ...], inputs: Inputs, module: nn.Module | None = None) -> bool:
    """Whether an output's shape, or its module's kind, leaves no doubt which of its axes holds channels; else only its origin tells."""
    size = inputs.size
    if len(shape) != len(size) + 2 or shape[0] != inputs.batch:
        return False
    if isinstance(module, CHANNELS_FIRST) or type(module) is nn.LayerNorm:
        return True
    if len(size) == 1:
        return inside(shape[2:], size) != inside(shape[1:-1], size)
    return fits(shape[2:], size) != fits(shape[1:-1], size)


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
    return Layout("channels_first", first) if prod(first) > 1 and inside(first, size) and not normalises_last else None


def fits(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a grid could be a down-scaled image: height and width shrunk by one factor, give or take a pixel of padding at each end.

    The first of three axes (time, or the slices of a volume) may shrink by another.
    """
    if not inside(grid, size):
        return False
    pairs = [(s, g) for s, g in zip(size, grid, strict=True)][-2:]
    return max(s / (g + 1) for s, g in pairs) <= min(s / max(g - 1, 0.5) for s, g in pairs)


def inside(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a grid is no larger than an image along any axis."""
    return all(g <= s for g, s in zip(grid, size, strict=True))
