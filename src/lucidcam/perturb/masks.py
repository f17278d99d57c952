"""Masks of randomised and sliding-window methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import OptionError


def rise_masks(count: int, size: tuple[int, int], cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """Random masks of RISE (Petsiuk et al., BMVC 2018, section 3.2).

    Binary grids of `cells`×`cells`, each cell kept with probability `keep`, bilinearly enlarged to `(cells + 1)` cells' size and cropped
    to the image with a random shift.

    Returns:
        `[count, 1, H, W]` in [0, 1], float32.
    """
    device = generator.device
    step = [-(-side // cells) for side in size]
    grid = (torch.rand(count, 1, cells, cells, generator=generator, device=device) < keep).float()
    large = F.interpolate(grid, size=[(cells + 1) * s for s in step], mode="bilinear", align_corners=False).clamp_(0, 1)
    shifts = [torch.randint(0, s, (count,), generator=generator, device=device) for s in step]
    rows = shifts[0][:, None] + torch.arange(size[0], device=device)
    columns = shifts[1][:, None] + torch.arange(size[1], device=device)
    return large[torch.arange(count, device=device)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def windows(size: Sequence[int], window: int, stride: int) -> list[tuple[slice, ...]]:
    """Places of a sliding window over an image, in reading order; the last ones end at the image's edge.

    Raises:
        OptionError: when the window does not fit the image, or the stride leaves gaps.
    """
    if not 1 <= window <= min(size) or not 1 <= stride <= window:
        raise OptionError(f"expected 1 ≤ stride ≤ window ≤ {min(size)} (the image's shorter side); got window {window}, stride {stride}.")
    starts = [sorted({*range(0, side - window + 1, stride), side - window}) for side in size]
    places: list[tuple[slice, ...]] = [()]
    for axis in starts:
        places = [(*place, slice(start, start + window)) for place in places for start in axis]
    return places
