"""How masks resemble each other: equal ones, and groups of similar ones.

Masks that are enlarged linearly from an h×w grid live in h·w dimensions, so they are compared there, before they are enlarged.
"""

from __future__ import annotations

import torch
from torch import Tensor

LLOYD_STEPS = 25
"""Most rounds of k-means; a few hundred masks settle in fewer."""


def unit_rows(rows: Tensor) -> Tensor:
    """Stretch each row `[n, d]` to [0, 1]; no row may be constant."""
    low = rows.amin(1, keepdim=True)
    return (rows - low) / (rows.amax(1, keepdim=True) - low)


def equal_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find rows that are equal but for rounding.

    Args:
        rows: `[n, d]` in [0, 1].

    Returns:
        The first row of each set of equal ones `[m]`, ascending, and for each row the number of its set in that order `[n]`.
    """
    if not len(rows):
        return torch.zeros(0, dtype=torch.long, device=rows.device), torch.zeros(0, dtype=torch.long, device=rows.device)
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")  # a matrix product would lose what is small
    first = (distance <= 64 * torch.finfo(rows.dtype).eps).byte().argmax(1)
    kept, sets = torch.unique(first[first], return_inverse=True)
    return kept, sets


def clusters(points: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Group points by k-means (Lloyd, started by k-means++, Arthur & Vassilvitskii 2007).

    Args:
        points: `[n, d]`.
        count: groups, at most n.
        generator: on the CPU, so that every device draws the same.

    Returns:
        The member nearest to each group's mean `[m]`, and each point's group `[n]`; m may be less than `count` where points coincide.
    """
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    nearest = (points - points[first]).square().sum(1)
    for _ in range(count - 1):
        share = nearest.double().cumsum(0)
        if not share[-1] > 0:
            break
        drawn = torch.rand(1, generator=generator, dtype=torch.float64).to(share) * share[-1]
        chosen.append(min(int(torch.searchsorted(share, drawn, right=True)), len(points) - 1))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    centres = points[torch.tensor(chosen, device=points.device)]
    groups = torch.cdist(points, centres).argmin(1)
    for _ in range(LLOYD_STEPS):
        sizes = torch.bincount(groups, minlength=len(centres)).to(points)[:, None]
        means = torch.zeros_like(centres).index_add_(0, groups, points) / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
        before, groups = groups, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, groups):
            break
    used, groups = torch.unique(groups, return_inverse=True)
    return _nearest_members(points, centres[used], groups), groups


def _nearest_members(points: Tensor, centres: Tensor, groups: Tensor) -> Tensor:
    """Of each group the member nearest to its centre `[m]`."""
    distance = torch.cdist(points, centres)
    others = groups[:, None] != torch.arange(len(centres), device=points.device)
    return distance.masked_fill(others, torch.inf).argmin(0)
