"""Masks of randomised and sliding-window methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import OptionError


def rise_masks(count: int, size: Sequence[int], cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """Random masks of RISE (Petsiuk et al., BMVC 2018, section 3.2), along any number of axes.

    Binary grids of `cells` cells along each axis (fewer where the axis is shorter), each cell kept with probability `keep`, linearly
    enlarged to `(cells + 1)` cells' size and cropped to the image with a random shift.

    Returns:
        `[count, 1, *size]` in [0, 1], float32.
    """
    device = generator.device
    parts = [min(cells, side) for side in size]
    step = [-(-side // part) for side, part in zip(size, parts, strict=True)]
    grid = (torch.rand(count, 1, *parts, generator=generator, device=device, dtype=torch.float32) < keep).float()
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    enlarged = [(part + 1) * s for part, s in zip(parts, step, strict=True)]
    large = F.interpolate(grid, size=enlarged, mode=mode, align_corners=False).clamp_(0, 1)
    each = torch.arange(count, device=device)
    places = [each]
    for side, s in zip(size, step, strict=True):
        # An axis without room to shift draws nothing, so that a volume of one slice is masked like the picture it is.
        shift = torch.randint(0, s, (count,), generator=generator, device=device) if s > 1 else torch.zeros_like(each)
        places.append(shift[:, None] + torch.arange(side, device=device))
    index = [place.reshape(count, *[-1 if axis == i else 1 for axis in range(1, len(places))]) for i, place in enumerate(places)]
    return large[:, 0][tuple(index)].unsqueeze(1)


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
