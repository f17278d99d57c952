"""Grad-CAM++ (Chattopadhay et al., WACV 2018) and Smooth Grad-CAM++ (Omeiza et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.run import Capture, Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, over_grid, register, spatial_sum, warn_of_pole, weighted_sum
from lucidcam.perturb.noise import noisy

SMALLEST_DENOMINATOR = 0.5
"""Of α, where a gradient is positive; without negative activations it is at least 2."""


@register("gradcam++")
@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(Method):
    """Pixel-wise weighted positive gradients: `w_k = Σ_ij α_k^ij ReLU(g_k^ij)`, `ReLU(Σ_k w_k A_k)`.

    `α_k^ij = 1 / (2 + g_k^ij Σ_ab A_k^ab)` where `g ≠ 0`, else 0: Eq. 19 of the paper for the exponential of the score, whose second and
    third derivatives are powers of the first; one factor `g²` cancels, so that nothing needs an epsilon.

    Meant for activations that are not negative, for which the denominator is 2 or more wherever it counts. At a layer with negative ones
    it has a pole at `g Σ A = −2` and changes its sign there: where it comes near, a `SignedLayerWarning` says so. The default layer is
    taken after its ReLU, also where that has no module of its own.
    """

    kind = "gradient"
    paper = "Chattopadhay 2018"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture_rectified()
        warn_of_pole(run, (c.gradients > 0) & (self._denominators(c) < SMALLEST_DENOMINATOR), "2 + g·ΣA")
        return weighted_sum(self.weights(c), c.activations).relu()

    @staticmethod
    def _denominators(c: Capture) -> Tensor:
        return 2 + over_grid(spatial_sum(c.activations), c.gradients) * c.gradients

    @staticmethod
    def weights(c: Capture) -> Tensor:
        """What each channel is weighted with: `w_k`, `[B, T, C]`."""
        below = GradCAMPlusPlus._denominators(c)
        alpha = torch.where((c.gradients != 0) & (below != 0), 1 / below, 0)
        return spatial_sum(alpha * c.gradients.relu())


@register("smoothgradcam++")
@dataclass(frozen=True, kw_only=True)
class SmoothGradCAMPlusPlus(Method):
    """Grad-CAM++ with derivatives averaged over noisy copies; the activations are those of the clean image (Omeiza et al. 2019).

    `α = D₂ / (2 D₂ + D₃ Σ_ab A)` with `D_n` the mean of `gⁿ` over the copies, `w_k = Σ_ij α ReLU(D₁)`.

    Attributes:
        samples: noisy copies.
        noise: standard deviation of the Gaussian noise, as a fraction of each image's value range.
    """

    kind = "gradient"
    paper = "Omeiza 2019"
    cost = "1 + samples forwards"

    samples: int = 8
    noise: float = 0.15

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise OptionError(f"expected samples ≥ 1 and noise ≥ 0; got {self.samples} and {self.noise}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        activations = run.capture_rectified().activations
        generator = run.generator()
        sums = [torch.zeros((), device=run.image.device)] * 3
        for _ in run.stream.steps(self.samples):
            g = run.on(noisy(run.image, self.noise, generator)).capture_rectified().gradients
            sums = [total + g**power / self.samples for power, total in enumerate(sums, start=1)]
        first, second, third = sums
        below = 2 * second + over_grid(spatial_sum(activations), third) * third
        warn_of_pole(run, (first > 0) & (below < SMALLEST_DENOMINATOR * second), "2 D₂ + D₃·ΣA")
        alpha = torch.where((second != 0) & (below != 0), second / below, 0)
        return weighted_sum(spatial_sum(alpha * first.relu()), activations).relu()
