"""Masks of randomised and sliding-window methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import OptionError


@dataclass(frozen=True)
class RiseMasks:
    """Random masks of RISE (Petsiuk et al., BMVC 2018, section 3.2), along any number of axes: drawn, and enlarged when they are needed.

    Binary grids of `cells` cells along each axis (fewer where the axis is shorter), each cell kept with probability `keep`, linearly
    enlarged to `(cells + 1)` cells' size and cropped to the image with a random shift.

    Attributes:
        grids: the cells `[count, 1, *parts]`, 0 or 1.
        shifts: along each axis `[count]`.
        size: of the image.
    """

    grids: Tensor
    shifts: tuple[Tensor, ...]
    size: tuple[int, ...]

    @classmethod
    def draw(cls, count: int, size: Sequence[int], cells: int, keep: float, generator: torch.Generator) -> RiseMasks:
        """Draw the masks; what is drawn does not depend on how many of them are enlarged together."""
        device = generator.device
        parts = [min(cells, side) for side in size]
        grids = (torch.rand(count, 1, *parts, generator=generator, device=device, dtype=torch.float32) < keep).float()
        steps = [-(-side // part) for side, part in zip(size, parts, strict=True)]
        # An axis without room to shift draws nothing, so that a volume of one slice is masked like the picture it is.
        still = torch.zeros(count, dtype=torch.long, device=device)
        shifts = tuple(torch.randint(0, s, (count,), generator=generator, device=device) if s > 1 else still for s in steps)
        return cls(grids, shifts, tuple(size))

    def enlarged(self, rows: slice) -> Tensor:
        """Some of the masks `[n, 1, *size]` in [0, 1], float32."""
        grids = self.grids[rows]
        steps = [-(-side // part) for side, part in zip(self.size, grids.shape[2:], strict=True)]
        mode = ("linear", "bilinear", "trilinear")[len(self.size) - 1]
        large = F.interpolate(
            grids, size=[(part + 1) * s for part, s in zip(grids.shape[2:], steps, strict=True)], mode=mode, align_corners=False
        )
        places = [torch.arange(len(grids), device=grids.device)]
        for side, shift in zip(self.size, self.shifts, strict=True):
            places.append(shift[rows, None] + torch.arange(side, device=grids.device))
        index = [place.reshape(len(grids), *[-1 if axis == i else 1 for axis in range(1, len(places))]) for i, place in enumerate(places)]
        return large.clamp_(0, 1)[:, 0][tuple(index)].unsqueeze(1)


def rise_masks(count: int, size: Sequence[int], cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """Random masks `[count, 1, *size]` of RISE, all of them enlarged (see `RiseMasks`)."""
    return RiseMasks.draw(count, size, cells, keep, generator).enlarged(slice(None))


def windows(size: Sequence[int], window: int | Sequence[int], stride: int | Sequence[int]) -> list[tuple[slice, ...]]:
    """Places of a sliding window over an image, in reading order; the last ones end at the image's edge.

    Args:
        size: of the image.
        window: its side, the same along all axes or one for each.
        stride: how far it moves, likewise.

    Raises:
        OptionError: when the window does not fit the image, or the stride leaves gaps.
    """
    if isinstance(window, int) and isinstance(stride, int) and not (1 <= window <= min(size) and 1 <= stride <= window):
        raise OptionError(f"expected 1 ≤ stride ≤ window ≤ {min(size)} (the image's shorter side); got window {window}, stride {stride}.")
    wide = [window] * len(size) if isinstance(window, int) else window
    steps = [stride] * len(size) if isinstance(stride, int) else stride
    starts = [sorted({*range(0, side - w + 1, step), side - w}) for side, w, step in zip(size, wide, steps, strict=True)]
    places: list[tuple[slice, ...]] = [()]
    for axis, w in zip(starts, wide, strict=True):
        places = [(*place, slice(start, start + w)) for place in places for start in axis]
    return places
