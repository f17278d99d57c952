"""Backpropagation to the pixels: the plain gradient, Deconvnet, Guided Backprop and Guided Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lucidcam.engine.rules import Deconvnet as DeconvnetRule
from lucidcam.engine.rules import Guided
from lucidcam.engine.run import Run
from lucidcam.methods._base import register, spatial_mean, upsample, weighted_sum
from lucidcam.methods._pixel import PixelMethod


@register("gradient")
@dataclass(frozen=True, kw_only=True)
class Gradient(PixelMethod):
    """The score's gradient at the image: `max_channels |dY/dX|` (Simonyan et al. 2014; "Backprop" in the Grad-CAM paper's tables)."""

    layered = "never"
    paper = "Simonyan 2014"

    def pixels(self, run: Run) -> Tensor:
        """See `PixelMethod.pixels`."""
        return run.backpropagate()


@register("deconvnet")
@dataclass(frozen=True, kw_only=True)
class Deconvnet(PixelMethod):
    """At every ReLU only positive gradients pass: `g·[g > 0]` (Zeiler & Fergus, ECCV 2014).

    Attributes:
        strict: refuse networks whose non-linearities are not ReLUs (SiLU, GELU, …); False: the plain gradient there.
    """

    layered = "never"
    paper = "Zeiler 2014"

    strict: bool = True

    def pixels(self, run: Run) -> Tensor:
        """See `PixelMethod.pixels`."""
        return run.backpropagate(DeconvnetRule(strict=self.strict))


@register("guided_backprop")
@dataclass(frozen=True, kw_only=True)
class GuidedBackprop(PixelMethod):
    """At every ReLU only positive gradients of positive inputs pass: `g·[g > 0]·[x > 0]` (Springenberg et al., ICLR Workshop 2015).

    Attributes:
        strict: refuse networks whose non-linearities are not ReLUs (SiLU, GELU, …); False: the plain gradient there.
    """

    layered = "never"
    paper = "Springenberg 2015"

    strict: bool = True

    def pixels(self, run: Run) -> Tensor:
        """See `PixelMethod.pixels`."""
        return run.backpropagate(Guided(strict=self.strict))


@register("guided_gradcam")
@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM(PixelMethod):
    """Guided Backprop times the upsampled Grad-CAM, pixel by pixel (Selvaraju et al. 2017, section 3.1): fine detail of one class.

    Attributes:
        strict: as for `guided_backprop`.
    """

    paper = "Selvaraju 2017"

    strict: bool = True

    def pixels(self, run: Run) -> Tensor:
        """See `PixelMethod.pixels`."""
        c = run.capture(gradients=True)
        cam = weighted_sum(spatial_mean(c.gradients), c.activations).relu()
        guided = run.backpropagate(Guided(strict=self.strict))
        return guided * upsample(cam, run.inputs.size).unsqueeze(2).to(guided.dtype)
