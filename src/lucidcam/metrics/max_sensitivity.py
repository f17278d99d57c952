"""Max-sensitivity (Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, Def. 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.errors import InputError, OptionError
from lucidcam.metrics._base import Batch, FaithfulnessMetric, Figure, register
from lucidcam.metrics._random import draws


@register("max_sensitivity")
@dataclass(frozen=True, kw_only=True)
class MaxSensitivity(FaithfulnessMetric):
    """By how much a map changes, at worst, when the image changes a little: `max_δ ‖φ(x + δ) − φ(x)‖ / ‖φ(x)‖`, L2 norms.

    δ is drawn uniformly from the L∞ ball, by the seed and the image's name alone; φ is the raw map. The class stays that of the clean
    image. For a map of zeros the ratio is not defined: it counts as 0 while the map stays so, and as 1 once anything appears.

    Attributes:
        radius: of the ball, in the network's input space (0.02 suits standardised inputs).
        samples: draws per image.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> def brightness(module, images, classes):
    ...     return images.mean(1)
    >>> MaxSensitivity(radius=0.0)(net, torch.rand(2, 3, 2, 2), explain=brightness)["max_sensitivity"].tolist()
    [0.0, 0.0]
    """

    figures = (Figure("max_sensitivity", higher_is_better=False, bounds=(0.0, math.inf)),)
    paper = "Yeh 2019"

    radius: float = 0.02
    samples: int = 10

    def __post_init__(self) -> None:
        if not (self.radius >= 0 and math.isfinite(self.radius)) or self.samples < 1:
            raise OptionError(f"expected radius ≥ 0 and samples ≥ 1; got {self.radius} and {self.samples}.")

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        run, before = batch.run, batch.maps.flatten(1)
        norm = before.norm(dim=1)
        worst = torch.zeros_like(norm)
        for number in run.stream.steps(self.samples):
            after = batch.explain(run.on(run.image + self._change(batch, number)))
            if after.shape != batch.maps.shape:
                raise InputError(f"expected maps {list(batch.maps.shape)}, as of the clean images, from explain; got {list(after.shape)}.")
            change = (after.to(before).flatten(1) - before).norm(dim=1)
            worst = worst.maximum(torch.where(norm > 0, change / norm, (change > 0).to(change)))
        return worst[:, None]

    def _change(self, batch: Batch, number: int) -> Tensor:
        """One draw δ for every image, `[B, C, H, W]`."""
        image = batch.run.image
        generators = [draws(batch.run.seed, name, number, image.device) for name in batch.names]
        drawn = [torch.rand(image.shape[1:], generator=each, device=image.device, dtype=torch.float32) for each in generators]
        return (2 * torch.stack(drawn).to(image.dtype) - 1) * self.radius
