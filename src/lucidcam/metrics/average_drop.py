"""Average drop, increase in confidence and win rate (Chattopadhay et al., "Grad-CAM++", WACV 2018, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Batch, Figure, divide, mean_over_groups, register
from lucidcam.metrics._masked import MaskedMetric


@register("average_drop")
@dataclass(frozen=True, kw_only=True)
class AverageDrop(MaskedMetric):
    """By how much the class's probability falls when only what the map shows is left: `100 · mean max(0, Y − O) / Y`, in percent.

    Y is the class's probability for the image I, O that for `L ∘ I`, with L the map resized to the image and min-maxed to [0, 1]. The
    mean is over all images. What the map hides turns black, a black pixel of the image: multiplying the normalised tensor, as is often
    done, turns it into the mean grey instead (`space="normalised"`). A flat map shows nothing.

    Attributes:
        keep: 0: the soft mask above; otherwise the share of pixels that stay, those of the highest map values, whole, while all others
            turn black: exactly `round(keep · pixels)`, ties in reading order. Score-CAM's protocol is 0.5.
        space: where hidden pixels are black: "image", or "normalised": 0 in the network's input space.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> AverageDrop()(net, torch.rand(1, 3, 2, 2), torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]))["average_drop"].shape
    torch.Size([1])
    """

    figures = (Figure("average_drop", "%", higher_is_better=False),)
    paper = "Chattopadhay 2018"

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        return 100 * self.fall(batch)[:, None]


@register("increase_in_confidence")
@dataclass(frozen=True, kw_only=True)
class IncreaseInConfidence(MaskedMetric):
    """How often the class becomes more probable when only what the map shows is left: `100 · mean [Y < O]`, in percent.

    Attributes:
        keep: as in `average_drop`.
        space: as in `average_drop`.
    """

    figures = (Figure("increase_in_confidence", "%"),)
    paper = "Chattopadhay 2018"

    def measure(self, batch: Batch) -> Tensor:
        """See `FaithfulnessMetric.measure`."""
        return 100 * (batch.clean < self.score(batch)).to(batch.clean)[:, None]


@register("win_rate")
@dataclass(frozen=True, kw_only=True)
class WinRate(MaskedMetric):
    """How often a method's fall in confidence is smaller than a rival's, in percent; against several rivals the mean of the rates.

    A tie counts half for each, so that the two rates of a pair make 100. The paper leaves ties open, and they are common: no fall at
    all on both sides, say. `measure` gives each image's fall; `against` makes the records, of which a rival is the group.

    Attributes:
        keep: as in `average_drop`.
        space: as in `average_drop`.

    >>> WinRate().against(np.array([0.1, 0.0, 0.5]), np.array([0.2, 0.0, 0.4])).tolist()
    [1.0, 0.5, 0.0]
    """

    figures = (Figure("win_rate", "%"),)
    paper = "Chattopadhay 2018"

    def measure(self, batch: Batch) -> Tensor:
        """Each image's fall in confidence, `[B, 1]`: not yet a record."""
        return self.fall(batch)[:, None]

    def against(self, own: Array, rival: Array) -> Array:
        """1 where a method wins, ½ at a tie, 0 where it loses.

        Args:
            own: the method's falls `[B]`.
            rival: the rival's, of the same images.
        """
        return np.asarray(np.where(own == rival, 0.5, own < rival))

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        return {"win_rate": mean_over_groups(100 * divide(sums[:, :, 0], count))}

    def __call__(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Refused: one method alone wins nothing.

        Raises:
            OptionError: always.
        """
        raise OptionError("win_rate compares methods: evaluate several at once, or give `against` the average_drop of two of them.")
