"""How much of a map there is: complexity (Bhatt et al., IJCAI 2020; Poppi et al., CVPRW 2021) and sparseness (Chalasani et al., ICML 2020).

Both look at the map in the image's resolution and ask the network nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Batch, FaithfulnessMetric, Figure, register


@register("complexity")
@dataclass(frozen=True, kw_only=True)
class Complexity(FaithfulnessMetric):
    """How spread out a map is; a short explanation is the better one.

    Attributes:
        measure_by: "mean": the mean of the map min-maxed to [0, 1], `‖L‖₁ / pixels` (Poppi 2021, as in ADCC), 0 for a flat map;
            "entropy": `−Σ p ln p` with `p = |φ| / Σ|φ|` (Bhatt 2020, Eq. 10), `ln pixels` for a flat map, a map of zeros included.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> Complexity()(net, torch.rand(1, 3, 2, 2), torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]))["complexity"].item()
    0.375
    """

    figures = (Figure("complexity", higher_is_better=False, bounds=(0.0, math.inf)),)
    paper = "Bhatt 2020, Poppi 2021"

    measure_by: Literal["mean", "entropy"] = "mean"

    def __post_init__(self) -> None:
        if self.measure_by not in ("mean", "entropy"):
            raise OptionError(f'expected measure_by "mean" or "entropy"; got {self.measure_by!r}.')

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        return (batch.unit.mean((1, 2)) if self.measure_by == "mean" else _entropy(batch.resized))[:, None]


@register("sparseness")
@dataclass(frozen=True, kw_only=True)
class Sparseness(FaithfulnessMetric):
    """The Gini index of |φ|: 0 for a flat map, a map of zeros included, and `1 − 1 / pixels` for a single pixel.

    `1 − 2 Σ_k (v_(k) / ‖v‖₁) (d − k + ½) / d` with the d values v = |φ| in ascending order, k = 1…d.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> Sparseness()(net, torch.rand(1, 3, 2, 2), torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))["sparseness"].item()
    0.75
    """

    figures = (Figure("sparseness", bounds=(0.0, 1.0)),)
    paper = "Chalasani 2020"

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        shares = _shares(batch.resized).sort(dim=1).values
        pixels = shares.shape[1]
        weights = (torch.arange(pixels, 0, -1, device=shares.device, dtype=shares.dtype) - 0.5) / pixels
        return 1 - 2 * (shares * weights).sum(1, keepdim=True)


def _entropy(values: Tensor) -> Tensor:
    surprise: Tensor = torch.special.entr(_shares(values))
    return surprise.sum(1)


def _shares(values: Tensor) -> Tensor:
    """Each pixel's share of the map's absolute values `[B, pixels]`; equal ones where all are zero."""
    # By the peak first, so that neither huge nor tiny values leave the floating-point range in the sum.
    size = values.flatten(1).abs()
    peak = size.amax(1, keepdim=True)
    size = torch.where(peak > 0, size / peak, torch.ones_like(size))
    return size / size.sum(1, keepdim=True)
