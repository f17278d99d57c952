"""Removed pixels, filled in from their surroundings: linear imputation (Rong et al., ICML 2022).

Every removed pixel becomes the weighted mean of its neighbours, 1/6 for the direct and 1/12 for the diagonal ones; at the border those
that exist count, with weights that sum to 1. Neighbours that are removed too are unknowns, so that each image is one linear system:

    `Σ_j w_ij (x_i − x_j) = 0` for every removed pixel i, where x_j is given for the pixels that stay.

That is Kirchhoff's law for a net of resistors, symmetric and positive definite. It is solved by conjugate gradients, many images at once,
with a multigrid cycle as preconditioner: coarser nets, in which a square of four pixels is one, carry the given values across large holes,
so that the number of steps hardly grows with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import InputError

DIRECT, DIAGONAL = 2.0, 1.0
"""Conductances in twelfths: whole numbers add up without rounding."""
DAMPING = 0.9
"""Of the smoother (Jacobi): it converges on every net below 1."""
COARSENING = 0.65
"""Between two squares the value jumps, which is steeper than the slope it stands for: sums of conductances are too large by up to 2."""
MOST_STEPS = 200
"""About 15 steps do for the default tolerance, 40 for 1e-9; the bound is for numbers that overflow."""

_AXES = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(down, right) from a pixel to its right, lower, lower right and lower left neighbour."""


def impute(images: Tensor, removed: Tensor, tolerance: float = 2e-5) -> Tensor:
    """Replace removed pixels by the weighted means of their eight neighbours, solved jointly; no noise is added.

    Args:
        images: `[n, C, H, W]`.
        removed: `[n, H, W]`, true where a pixel is removed; at least one pixel of each image stays.
        tolerance: the error at which the solver stops, as a fraction of each image's value range. It is estimated by the
            preconditioner; the true one may be ten times as large.

    Returns:
        `[n, C, H, W]` in the images' type; pixels that stay are untouched.

    Raises:
        InputError: when all pixels of an image are removed.

    Example:
        >>> image = torch.tensor([[[[0.0, 9.0, 1.0], [9.0, 9.0, 9.0], [2.0, 9.0, 3.0]]]])
        >>> impute(image, image[:, 0] == 9)[0, 0, 1]                   # the middle is the mean of the corners
        tensor([1.2500, 1.5000, 1.7500])
    """
    if bool(removed.all(-1).all(-1).any()):
        raise InputError("expected at least one pixel of each image to stay; all are removed.")
    wide = images if images.dtype == torch.float64 else images.float()
    hole = removed[:, None]
    unknown, known = hole.to(wide.dtype), (~hole).to(wide.dtype)
    mean = (wide * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    given = torch.where(hole, 0, wide - mean)
    spread = given.flatten(1).amax(1) - given.flatten(1).amin(1)
    found = _solve(_nets(_Net.of(unknown, known)), unknown * _weighted(given), tolerance * spread[:, None, None, None])
    return torch.where(hole, (mean + found).to(images.dtype), images)


def _weighted(values: Tensor) -> Tensor:
    """Sum of each pixel's neighbours times their conductances, `[n, C, H, W]`."""
    rows = F.pad(values, (1, 1, 1, 1))
    rows = rows[..., :-2] + rows[..., 2:] + 2 * rows[..., 1:-1]
    return rows[..., :-2, :] + rows[..., 2:, :] + 2 * rows[..., 1:-1, :] - 4 * values


def _ends(down: int, right: int) -> tuple[Any, Any]:
    """Indices of the pixels where the edges of one direction begin, and of those where they end."""
    begin = (..., slice(0, -down or None), slice(1, None) if right < 0 else slice(0, -right or None))
    end = (..., slice(down, None), slice(0, -1) if right < 0 else slice(right, None))
    return begin, end


_EDGES = tuple(_ends(*axis) for axis in _AXES)


@dataclass(frozen=True)
class _Net:
    """Resistors between the unknowns of a grid, and from each unknown to the pixels that stay ("the ground").

    Attributes:
        edges: conductances of the edges in each of `_AXES`, `[n, 1, …]`.
        ground: conductances to the ground, `[n, 1, H, W]`.
        total: the sum of all conductances of a pixel.
        inverse: 1 / total; 0 where there is no unknown.
    """

    edges: Sequence[Tensor]
    ground: Tensor
    total: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, unknown: Tensor, known: Tensor) -> _Net:
        """The net of the pixels themselves; both `[n, 1, H, W]`, 0 or 1."""
        weights = [DIAGONAL if down and right else DIRECT for down, right in _AXES]
        edges = [unknown[a] * unknown[b] * w for (a, b), w in zip(_EDGES, weights, strict=True)]
        return cls._made(edges, unknown * _weighted(known))

    @classmethod
    def _made(cls, edges: Sequence[Tensor], ground: Tensor) -> _Net:
        total = ground.clone()
        for (a, b), edge in zip(_EDGES, edges, strict=True):
            total[a] += edge
            total[b] += edge
        return cls(edges, ground, total, torch.where(total > 0, 1 / total, 0))

    def currents(self, x: Tensor) -> Tensor:
        """`A x`: what flows out of each pixel, `[n, C, H, W]`."""
        found = self.total * x
        for (a, b), edge in zip(_EDGES, self.edges, strict=True):
            found[a].addcmul_(edge, x[b], value=-1)
            found[b].addcmul_(edge, x[a], value=-1)
        return found

    def smoothed(self, x: Tensor, b: Tensor) -> Tensor:
        """One step of damped Jacobi towards `A x = b`."""
        return torch.addcmul(x, self.inverse, b - self.currents(x), value=DAMPING)

    def coarser(self) -> _Net:
        """The net of squares of four: edges between two squares are parallel resistors, those within one vanish."""
        height, width = self.ground.shape[-2:]
        odd = (0, width % 2, 0, height % 2)
        right, down, falling, rising = (
            F.pad(F.pad(edge, (0, r, 0, d) if r >= 0 else (-r, 0, 0, d)), odd) for edge, (d, r) in zip(self.edges, _AXES, strict=True)
        )  # each edge at the pixel where it begins
        rights = (_part(right, 0, 1) + _part(right, 1, 1) + _part(falling, 0, 1))[..., :-1] + _part(rising, 0, 0)[..., 1:]
        downs = (_part(down, 1, 0) + _part(down, 1, 1) + _part(falling, 1, 0) + _part(rising, 1, 1))[..., :-1, :]
        edges = (rights, downs, _part(falling, 1, 1)[..., :-1, :-1], _part(rising, 1, 0)[..., :-1, 1:])
        return self._made([COARSENING * edge for edge in edges], COARSENING * _gathered(self.ground))


def _part(values: Tensor, row: int, column: int) -> Tensor:
    """One of the four pixels of each square."""
    return values[..., row::2, column::2]


def _gathered(values: Tensor) -> Tensor:
    """Sums over squares of four; an odd row or column has squares of its own."""
    return 4 * F.avg_pool2d(F.pad(values, (0, values.shape[-1] % 2, 0, values.shape[-2] % 2)), 2)


def _nets(net: _Net) -> list[_Net]:
    """The net and all coarser ones, down to a few squares."""
    nets = [net]
    while max(nets[-1].ground.shape[-2:]) > 2:
        nets.append(nets[-1].coarser())
    return nets


def _cycle(nets: Sequence[_Net], b: Tensor) -> Tensor:
    """About the solution of `A x = b`: smoothed, corrected by the coarser nets, smoothed again (a multigrid V-cycle)."""
    net = nets[0]
    x = DAMPING * net.inverse * b
    if len(nets) > 1:
        correction = _cycle(nets[1:], _gathered(b - net.currents(x)))
        spread = F.interpolate(correction, scale_factor=2.0, mode="nearest")[..., : b.shape[-2], : b.shape[-1]]
        x = torch.addcmul(x, spread, (net.inverse > 0).to(x.dtype))
    return net.smoothed(x, b)


def _solve(nets: Sequence[_Net], b: Tensor, tolerance: Tensor) -> Tensor:
    """Solve `A x = b`, `[n, C, H, W]`, each image and channel by itself: one that has converged stands still."""
    x, residual = torch.zeros_like(b), b.clone()
    direction, before = torch.zeros_like(b), b.new_ones(*b.shape[:2], 1, 1)
    for _ in range(MOST_STEPS):
        error = _cycle(nets, residual)
        open_ = error.abs().amax((2, 3), keepdim=True) > tolerance
        if not bool(open_.any()):
            break
        product = _dot(residual, error)
        direction = error + direction * (product / before)
        currents = nets[0].currents(direction)
        step = torch.where(open_, product / _dot(direction, currents), 0)
        x.addcmul_(direction, step)
        residual.addcmul_(currents, step, value=-1)
        before = torch.where(open_, product, 1)
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)
