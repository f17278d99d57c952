"""Infidelity (Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, Def. 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Batch, FaithfulnessMetric, Figure, register
from lucidcam.metrics._pixels import check_baseline, filled
from lucidcam.metrics._random import draws


@register("infidelity")
@dataclass(frozen=True, kw_only=True)
class Infidelity(FaithfulnessMetric):
    """How badly a map, taken as a linear model, foretells what a perturbation I does: `E (Iᵀφ − Δ)²` with `Δ = f(x) − f(x − I)`.

    f is the class's probability; φ the raw map, resized, the same for every channel. "infidelity" takes φ as it is, so it depends on the
    method's scale; "infidelity_scaled" takes it at its best, times `β = E[Iᵀφ Δ] / E[(Iᵀφ)²]` for each image (Sec. 4.1; β = 0 for a map
    of zeros). Perturbations hang on the seed and the image's name alone.

    Attributes:
        perturbation: "noise": independent Gaussian numbers; "square": a square at a random place, inside the image, becomes the baseline.
        noise: standard deviation, in the network's input space (0.2 suits standardised inputs).
        size: side of the square in pixels, cut to the image; 0: a fifth of the image's shorter side.
        baseline: what the square becomes: "zeros" (in the input space), "black", "mean", "blur", or a number.
        samples: perturbations per image.
        logit: f is the class's logit rather than its probability.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> found = Infidelity(logit=True)(net, torch.rand(5, 3, 2, 2), torch.rand(5, 2, 2))
    >>> bool((found["infidelity_scaled"] <= found["infidelity"]).all())
    True
    """

    figures = (
        Figure("infidelity", higher_is_better=False, bounds=(0.0, math.inf)),
        Figure("infidelity_scaled", higher_is_better=False, bounds=(0.0, math.inf)),
    )
    paper = "Yeh 2019"

    perturbation: Literal["noise", "square"] = "noise"
    noise: float = 0.2
    size: int = 0
    baseline: str | float = "zeros"
    samples: int = 50
    logit: bool = False

    def __post_init__(self) -> None:
        if self.perturbation not in ("noise", "square"):
            raise OptionError(f'expected perturbation "noise" or "square"; got {self.perturbation!r}.')
        if not (self.noise > 0 and math.isfinite(self.noise)) or self.size < 0 or self.samples < 1:
            raise OptionError(
                f"expected noise > 0, size ≥ 1 (0: chosen by the image) and samples ≥ 1; got {self.noise}, {self.size}, {self.samples}."
            )
        check_baseline(self.baseline)

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        run = batch.run if self.logit else batch.probability
        image, maps = run.image, batch.resized
        removed = image - filled(batch, self.baseline) if self.perturbation == "square" else None
        foretold = maps.new_empty(len(image) * self.samples)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            places = [divmod(i, self.samples) for i in range(part.start, part.stop)]
            rows = torch.tensor([row for row, _ in places], device=image.device)
            changes = torch.stack([self._change(batch, removed, *place) for place in places])
            foretold[part] = (changes.to(maps).sum(1) * maps[rows]).sum((1, 2))
            return image[rows] - changes, rows

        scores = run.masked(len(foretold), make).reshape(-1, self.samples)
        happened = run.clean_scores() - scores
        said = foretold.reshape(-1, self.samples)
        power = said.square().mean(1, keepdim=True)
        best = torch.where(power > 0, (said * happened).mean(1, keepdim=True) / power, torch.zeros_like(power))
        return torch.stack([(said - happened).square().mean(1), (best * said - happened).square().mean(1)], dim=1)

    def _change(self, batch: Batch, removed: Tensor | None, row: int, number: int) -> Tensor:
        """One perturbation I of one image, `[C, H, W]`."""
        image = batch.run.image[row]
        if removed is None:
            generator = draws(batch.run.seed, batch.names[row], number, image.device)
            return torch.randn(image.shape, generator=generator, device=image.device, dtype=torch.float32).to(image.dtype) * self.noise
        generator = draws(batch.run.seed, batch.names[row], number)
        height, width = image.shape[1:]
        side = min(self.size or max(1, min(height, width) // 5), height, width)
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in (height, width))
        there = (slice(None), slice(top, top + side), slice(left, left + side))
        change = torch.zeros_like(image)
        change[there] = removed[row][there]
        return change
