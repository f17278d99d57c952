"""Deletion and insertion (Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Batch, Curve, FaithfulnessMetric, Figure, divide, register
from lucidcam.metrics._pixels import check_baseline, filled, ranks


@dataclass(frozen=True, kw_only=True)
class _PixelCurve(FaithfulnessMetric):
    """The class's probability along a way between the image and a baseline, the pixels of the highest map values first."""

    steps: int = 224
    baseline: str | float = "zeros"

    deletes: ClassVar[bool]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"expected steps ≥ 1; got {self.steps}.")
        check_baseline(self.baseline)

    def measure(self, batch: Batch) -> Tensor:
        """The curve `[B, steps + 1]`, both ends included."""
        image, empty, places = batch.run.image, filled(batch, self.baseline), ranks(batch)
        first, rest = (empty, image) if self.deletes else (image, empty)
        # An image with fewer pixels than steps stays as it is at some of them: each state is asked once, the clean one not again.
        states, at = np.unique(self._amounts(places[0].numel()), return_inverse=True)
        asked = torch.from_numpy(states[1:] if self.deletes else states[:-1]).to(places)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            flat = torch.arange(part.start, part.stop, device=image.device)
            rows, which = flat // len(asked), flat % len(asked)
            taken = places[rows] < asked[which, None, None]
            return torch.where(taken[:, None], first[rows], rest[rows]), rows

        scores = batch.probability.masked(len(image) * len(asked), make).reshape(len(image), len(asked))
        ends = (batch.clean[:, None], scores) if self.deletes else (scores, batch.clean[:, None])
        return torch.cat(ends, dim=1)[:, torch.from_numpy(at).to(image.device)]

    def _amounts(self, pixels: int) -> npt.NDArray[np.int64]:
        """How many pixels are taken at each point, `[steps + 1]`: `pixels · i / steps`, rounded half up."""
        return (2 * pixels * np.arange(self.steps + 1) + self.steps) // (2 * self.steps)

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """The area under the mean curve, which is the mean of the areas: see `Metric.compute`."""
        curve = divide(sums.sum(0), count.sum(0)[:, None])
        return {self.figures[0].name: (curve[:, :-1] + curve[:, 1:]).sum(1) / (2 * self.steps)}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """The mean curve: see `Metric.curves`."""
        mean = divide(sums.sum(0), np.asarray(count.sum(0)))
        done = "deleted" if self.deletes else "inserted"
        return (
            Curve(self.figures[0].name, np.linspace(0, 1, self.steps + 1), mean, f"share of pixels {done}", "probability of the class"),
        )


@register("deletion")
@dataclass(frozen=True, kw_only=True)
class Deletion(_PixelCurve):
    """Area under the class's probability while the image is deleted, the pixels of the highest map values first.

    The area is the trapezoid rule's over `steps + 1` points, both ends included, on an axis from 0 to 1. The map is resized to the image;
    ties go in reading order. Point i has `pixels · i / steps` pixels deleted, rounded: 224 at a time at 224×224, as in the paper.

    Attributes:
        steps: points after the first; 100 for steps of 1 %.
        baseline: what deleted pixels become: "zeros" (in the network's input space, as in the paper), "black", "mean", "blur" (Gaussian,
            11×11 pixels, σ = 5), or a number in the input space.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> Deletion(steps=4)(net, torch.rand(5, 3, 2, 2), torch.rand(5, 2, 2))["deletion"].shape
    torch.Size([5])
    """

    figures = (Figure("deletion", higher_is_better=False, bounds=(0.0, 1.0)),)
    paper = "Petsiuk 2018"
    deletes = True


@register("insertion")
@dataclass(frozen=True, kw_only=True)
class Insertion(_PixelCurve):
    """Area under the class's probability while the image is inserted into a baseline, the pixels of the highest map values first.

    Points, area and order are those of `deletion`.

    Attributes:
        steps: as in `deletion`.
        baseline: what the image is inserted into: "blur" (as in the paper: Gaussian, 11×11 pixels, σ = 5; edges are reflected, where
            the authors' code pads with zeros), or any other of `deletion`.
    """

    baseline: str | float = "blur"

    figures = (Figure("insertion", bounds=(0.0, 1.0)),)
    paper = "Petsiuk 2018"
    deletes = False
