"""Coherency and ADCC (Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR workshops 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.imaging import maps
from lucidcam.metrics._base import Batch, Figure, register
from lucidcam.metrics._masked import MaskedMetric


@dataclass(frozen=True, kw_only=True)
class _Coherent(MaskedMetric):
    """A metric that asks the method about the masked image."""

    def coherency(self, batch: Batch) -> Tensor:
        """`(1 + r) / 2`, `[B]`, with r the correlation of the maps of the image and of the masked image."""
        key = ("coherency", self.keep, self.space)
        if key not in batch.cache:
            again = batch.explain(batch.run.on(self.masked(batch, slice(None))))
            size = (batch.resized.shape[1], batch.resized.shape[2])
            batch.cache[key] = _agreement(batch.resized, maps.resize(again.to(batch.resized), size))
        return batch.cache[key]


@register("coherency")
@dataclass(frozen=True, kw_only=True)
class Coherency(_Coherent):
    """Whether the method says the same of what its own map shows: `(1 + r(φ(x), φ(L ∘ x))) / 2`, in [0, 1].

    r is Pearson's correlation over the pixels of the image, the class that of the clean image, `L ∘ x` as in `average_drop`. A flat map,
    of either, has no correlation and counts as 0, as in the authors' code.

    Attributes:
        keep: as in `average_drop`.
        space: as in `average_drop`.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> def place(module, images, classes):
    ...     return torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]).expand(len(images), 2, 2)
    >>> round(Coherency()(net, torch.rand(1, 3, 2, 2), explain=place)["coherency"].item(), 4)
    1.0
    """

    figures = (Figure("coherency", bounds=(0.0, 1.0)),)
    paper = "Poppi 2021"

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        return self.coherency(batch)[:, None]


@register("adcc")
@dataclass(frozen=True, kw_only=True)
class ADCC(_Coherent):
    """The harmonic mean of coherency, 1 − complexity and 1 − average drop, in [0, 1], for each image (Eq. 5); 0 where one of them is 0.

    Complexity is the mean of the map min-maxed to [0, 1].

    Attributes:
        keep: as in `average_drop`.
        space: as in `average_drop`.
    """

    figures = (Figure("adcc", bounds=(0.0, 1.0)),)
    paper = "Poppi 2021"

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        kept = 1 - self.fall(batch).to(batch.resized)
        terms = torch.stack([self.coherency(batch), 1 - batch.unit.mean((1, 2)), kept], dim=1)
        # 1 / 0 is infinite, and 3 / ∞ is the 0 that is wanted.
        return 3 / (1 / terms.clamp(min=0)).sum(1, keepdim=True)


def _agreement(one: Tensor, other: Tensor) -> Tensor:
    """`(1 + r) / 2` with Pearson's r of each pair of maps `[B, H, W]`; 0 where one of the pair is flat."""
    first, second = _standardised(one), _standardised(other)
    r = (first * second).sum(1).clamp(-1, 1)
    varied = (first != 0).any(1) & (second != 0).any(1)
    return torch.where(varied, (1 + r) / 2, torch.zeros_like(r))


def _standardised(values: Tensor) -> Tensor:
    """Each map less its mean, in unit length, `[B, pixels]`; zeros for a flat map."""
    flat = values.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    centred = (flat - low) / torch.where(high > low, high - low, torch.ones_like(high))
    centred = centred - centred.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    return torch.where(high > low, centred / length, torch.zeros_like(centred))
