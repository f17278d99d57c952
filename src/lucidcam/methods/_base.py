"""What every method is, and the sums that most of them share."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam import registry
from lucidcam.engine.run import Run
from lucidcam.errors import SignedLayerWarning
from lucidcam.reprs import OneLineRepr

CHANNELS = 2
"""The channels' axis in `[B, T, C, *grid]`."""

Kind = Literal["activation", "gradient", "perturbation", "pixel"]


@dataclass(frozen=True, kw_only=True)
class Method(OneLineRepr, ABC):
    """A way to explain a score. Subclasses are final; their fields are the method's options.

    Class attributes:
        name: the registered name.
        kind: "activation" (one forward pass), "gradient" (one forward pass and the gradient at the layer), "perturbation" (many forward
            passes) or "pixel" (backpropagation through the whole network; maps have the input's resolution).
        paper: where it was published.
        cost: what it takes, in words, where that is not what its kind takes.
        ranged: its values have no zero of their own, so that pictures start at the map's minimum.
        needs_target: whether its maps depend on what is explained; if not, outputs without class scores will do when no target is given.
        layered: whether it looks at a layer: "always", "never", or "optional": at the image unless a layer is given.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Kind]
    paper: ClassVar[str]
    cost: ClassVar[str] = ""
    ranged: ClassVar[bool] = False
    needs_target: ClassVar[bool] = True
    layered: ClassVar[Literal["always", "never", "optional"]] = "always"

    def layer_of(self, module: nn.Module, asked: Any, usual: str | None = None) -> Any:
        """Which layer to look at in a network, or layers; None: the engine's default.

        Called before anything is run; a method that belongs to one network refuses others here.

        Args:
            module: the user's.
            asked: what the user asked for; None: nothing.
            usual: the model's own default.
        """
        return usual if asked is None and self.layered == "always" else asked

    def identity(self) -> dict[str, Any]:
        """What decides its maps beyond its options, for reports and for runs that go on."""
        return {}

    def reason_for_zero(self, run: Run, image: int, target: int) -> str:
        """Why the map of an image and target has no positive value, as far as can be said; it is called for such maps alone."""
        if self.layered != "always":
            return "no evidence for the target in this image"
        if self.kind == "gradient":
            c = run.capture(gradients=True)
            if not bool(c.gradients[image, target].any()):
                return "the score's gradient at the layer is zero"
            activations = c.activations
        else:
            activations = run.capture().activations
        if not bool(activations[image].any()):
            return "the layer's activations are zero"
        return "nothing at the layer speaks for the target"

    @abstractmethod
    def maps(self, run: Run) -> Tensor:
        """Return raw maps `[B, T, *grid]`, neither resized nor normalised; signed unless the paper rectifies."""


M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Register a method under `name`."""
    return registry.methods.register_class(name)


def spatial_sum(x: Tensor) -> Tensor:
    """Sum `[B, T, C, *grid]` over the grid."""
    return x.flatten(CHANNELS + 1).sum(-1)


def spatial_mean(x: Tensor) -> Tensor:
    """Average `[B, T, C, *grid]` over the grid."""
    return x.flatten(CHANNELS + 1).mean(-1)


def over_grid(weights: Tensor, like: Tensor) -> Tensor:
    """Give `[B, T, C]` one trailing axis of size one for each of the grid's axes of `like`."""
    return weights.reshape(*weights.shape, *[1] * (like.ndim - weights.ndim))


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """`Σ_k w_k A_k`: weights `[B, T, C]`, or `[1, T, C]` for all images, and activations `[B, 1, C, *grid]` to maps `[B, T, *grid]`."""
    grid = activations.shape[CHANNELS + 1 :]
    pixels = activations[:, 0].flatten(2)
    if len(weights) < len(pixels):  # one large product is faster than a batch of small ones
        flat = weights[0] @ pixels.transpose(0, 1).flatten(1)
        found = flat.reshape(len(flat), len(pixels), -1).transpose(0, 1)
    else:
        found = weights @ pixels
    return found.reshape(*found.shape[:-1], *grid)


def warn_of_pole(run: Run, poles: Tensor, denominator: str) -> None:
    """Warn that a method divides by a sum of activations that is zero, near it, or of the wrong sign; the maps concerned have it as a note.

    Args:
        run: the question.
        poles: where that is so `[B, T, …]`.
        denominator: the sum, in symbols.
    """
    if bool(poles.any()):
        text = (
            f"the layer {run.layer.name!r} has negative activations, and {denominator}, which the method divides by, is zero, near it or "
            "below in some channels: their weights say little; choose a layer after a ReLU, or gradcam or hirescam"
        )
        run.note(text, poles.flatten(2).any(2))
        warnings.warn(f"{text}.", SignedLayerWarning, stacklevel=2)


def upsample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize `[n, C, *grid]` linearly to `size` (pixel centres aligned as in all the papers' code: `align_corners=False`)."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(maps, size=size, mode=mode, align_corners=False)
