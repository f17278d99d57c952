"""Excitation Backprop (Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016): MWP and c-MWP."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lucidcam.engine.rules import Excitation
from lucidcam.engine.run import Run
from lucidcam.methods._base import CHANNELS, Method, register


@dataclass(frozen=True, kw_only=True)
class _Excitation(Method):
    """What the two share: where they stop.

    Attributes:
        strict: refuse networks whose non-linearities are not ReLUs (SiLU, GELU, …).
        exact: the paper's equation to the letter also at the image. It is made for inputs that are not negative: dark pixels of a
            standardised photo then lose their share. By default it goes to those that excite the first layer through negative weights.
    """

    kind = "pixel"
    layered = "optional"
    paper = "Zhang 2016"

    strict: bool = True
    exact: bool = False

    def _shares(self, run: Run, contrastive: bool) -> Tensor:
        to_layer = run.named_layers > 0
        rule = Excitation(contrastive, self.strict, signed=not (self.exact or to_layer))
        return run.backpropagate(rule, to_layer)


@register("excitation_backprop")
@dataclass(frozen=True, kw_only=True)
class ExcitationBackprop(_Excitation):
    """Marginal winning probability: `P_in = x⁺ ⊙ W⁺ᵀ(P_out ⊘ (W⁺x⁺))` from the class down to the layer, or to the image (Eq. 5).

    Channels are summed. The map is a probability distribution: its sum is 1 on networks whose activations are not negative. Without a layer
    it goes down to the pixels; the paper's figures stop at a middle layer (VGG-16: `features.23`).
    """

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        return self._shares(run, contrastive=False).sum(CHANNELS)


@register("contrastive_excitation_backprop")
@dataclass(frozen=True, kw_only=True)
class ContrastiveExcitationBackprop(_Excitation):
    """c-MWP: the winning probability of the class minus that of its dual, "anything but this class" (section 3.3).

    The class is sent down its classifier once with W and once with −W; the difference goes on: `relu(Σ_c (P_c − P̄_c))`. Channels are summed
    before what is negative is cut off, as in the authors' evaluation code: right under the classifier W and −W excite different channels,
    so that cutting off first would leave plain MWP.
    """

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        return self._shares(run, contrastive=True).sum(CHANNELS).clamp(min=0)
