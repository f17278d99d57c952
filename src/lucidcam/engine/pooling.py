"""Global pooling, recognised by the numbers that go in and come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Pool = Callable[[Tensor], Tensor]
"""From maps `[B, C, *grid]` to features `[B, C]`."""

SHARPNESS = 1e-2, 1e6
"""Between which log-sum-exp's sharpness is looked for, in units of one over what lies between mean and maximum."""

BISECTIONS = 50
"""They find it to fifteen digits, more than the features have."""


def tolerance(dtype: torch.dtype) -> float:
    """How far two results of one computation may lie apart, relative to their largest magnitude."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 2e-2


def same(values: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of the second one's type."""
    if values.shape != expected.shape:
        return False
    return bool((values - expected).abs().max() <= tolerance(expected.dtype) * expected.abs().max().clamp(min=1e-12))


def mean(maps: Tensor) -> Tensor:
    """Average over the grid."""
    return maps.flatten(2).mean(-1)


def total(maps: Tensor) -> Tensor:
    """Sum over the grid."""
    return maps.flatten(2).sum(-1)


def maximum(maps: Tensor) -> Tensor:
    """Largest value of the grid."""
    return maps.flatten(2).amax(-1)


def matching(maps: Tensor, features: Tensor) -> Pool | None:
    """Return the pooling that turns maps `[B, C, *grid]` into features `[B, C]`: mean, sum, maximum or log-sum-exp; None: none does."""
    if features.ndim != 2 or maps.shape[:2] != features.shape:
        return None
    return next((pool for pool in _candidates(maps, features) if same(pool(maps), features)), None)


def _candidates(maps: Tensor, features: Tensor) -> Iterator[Pool]:
    yield from (mean, total, maximum)
    # What is pooled in another way lies between mean and maximum; so does much else, hence one sharpness must fit every channel.
    yield _log_sum_exp(maps, features)


def _log_sum_exp(maps: Tensor, features: Tensor) -> Pool:
    """Log-sum-exp over the grid, with the one sharpness that gives the wanted feature where mean and maximum differ most.

    Features above the maximum are those of a sum, `torch.logsumexp`; else it is a mean over the grid whose logarithm is taken.
    """
    pixels = _pixels(maps)
    spread = pixels.amax(-1) - pixels.mean(-1)
    if features.numel() < 2 or not bool(spread.max() > 0):  # one number alone fits always
        return mean
    widest = pixels.flatten(0, 1)[spread.argmax()]
    goal = features.flatten()[spread.argmax()].to(pixels.dtype)
    pool, rises = (_soft_sum, False) if bool(goal > widest.max()) else (_soft_maximum, True)
    low, high = (math.log(factor / float(spread.max())) for factor in SHARPNESS)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_below = bool(pool(widest, math.exp(middle)) < goal)
        low, high = (middle, high) if is_below == rises else (low, middle)
    sharpness = math.exp(low)
    return lambda values: pool(_pixels(values), sharpness)


def _pixels(maps: Tensor) -> Tensor:
    pixels = maps.flatten(2)
    return pixels if pixels.dtype == torch.float64 else pixels.float()


def _soft_maximum(pixels: Tensor, sharpness: float) -> Tensor:
    """`1/r · log(1/Z · Σ exp(r·x))`: the mean for r towards 0, the maximum for r towards ∞; it grows with r."""
    return (torch.logsumexp(sharpness * pixels, -1) - math.log(pixels.shape[-1])) / sharpness


def _soft_sum(pixels: Tensor, sharpness: float) -> Tensor:
    """`1/r · log Σ exp(r·x)`: above the maximum, which it falls to for r towards ∞."""
    return torch.logsumexp(sharpness * pixels, -1) / sharpness
