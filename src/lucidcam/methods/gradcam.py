"""Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.methods._base import Method, register, spatial_mean, weighted_sum


@register("gradcam")
@dataclass(frozen=True, kw_only=True)
class GradCAM(Method):
    """Average gradients as channel weights: `α_k = 1/Z Σ_ij g_k`, `ReLU(Σ_k α_k A_k)` (Selvaraju et al. 2017, Eq. 1 and 2).

    Attributes:
        counterfactual: take the gradients' negative: regions that speak against the target (section 3.3 of the paper).
    """

    kind = "gradient"
    paper = "Selvaraju 2017"

    counterfactual: bool = False

    def reason_for_zero(self, run: Run, image: int, target: int) -> str:
        """See `Method.reason_for_zero`."""
        reason = super().reason_for_zero(run, image, target)
        if not reason.startswith("nothing"):
            return reason
        return (
            "nothing at the layer speaks against the target"
            if self.counterfactual
            else f"{reason}; counterfactual shows what speaks against it"
        )

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        c = run.capture(gradients=True)
        weights = spatial_mean(c.gradients)
        return weighted_sum(-weights if self.counterfactual else weights, c.activations).relu()
