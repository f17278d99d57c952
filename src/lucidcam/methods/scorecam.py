"""Score-CAM (Wang et al., CVPR Workshops 2020) and its smoothed and integrated descendants, SS-CAM and IS-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.imaging.maps import unit
from lucidcam.methods._base import Method, register
from lucidcam.methods._channels import Channels, Weights, check_weights
from lucidcam.methods._shortcuts import Shortcut, explained


@register("scorecam")
@dataclass(frozen=True, kw_only=True)
class ScoreCAM(Method):
    """Scores of masked images as channel weights: `ReLU(Σ_k α_k A_k)`, no gradients (Wang et al. 2020).

    `H_k = s(Up(A_k))`, min-max to [0, 1]; the image is kept where `H_k` is 1 and fades to the baseline where it is 0. A constant
    channel has
    no `H_k`: it contributes nothing and is never run.

    Attributes:
        weights: "increase": the channel-wise increase of confidence of the paper's Eq. 5 and 6, `α_k = f(X∘H_k) − f(X_b)`, the default
            because it is what the paper defines and it can be negative; "softmax": Algorithm 1 of the paper, the softmax of the
            scores over channels; "probability": the authors' published code, the class probability of the masked image.
        baseline: `X_b`: "zeros" in pre-processed space, "mean", "blur", or a number.
        budget: masks that are run per image at most, chosen so that they tell most of the map; the scores of the others are
            predicted from them. 0: all of them, exactly. `Explanation.error` holds the estimated error.
        tolerance: run masks until the estimated error is at most this, or the budget is used up; 0: use the budget.
        clusters: group the masks into this many by k-means; the mask nearest to a group's mean is run for all of it. 0: not used.
        top_channels: only the channels with the largest variance, this many, as published shortcuts do; all others are left out of
            the map. 0: not used.
    """

    kind = "perturbation"
    paper = "Wang 2020"
    cost = "1 forward per live channel"

    weights: Weights = "increase"
    baseline: str | float = "zeros"
    budget: int = 0
    tolerance: float = 0.0
    clusters: int = 0
    top_channels: int = 0

    def __post_init__(self) -> None:
        check_weights(self.weights)
        _shortcut(self)

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        channels = Channels.of(run, self.baseline)
        return explained(channels, self.weights, partial(channels.scores, self.weights), _shortcut(self), anchored=True)


@register("sscam")
@dataclass(frozen=True, kw_only=True)
class SSCAM(Method):
    """Score-CAM with scores averaged over noise (Wang et al., "SS-CAM: Smoothed Score-CAM", 2020).

    Attributes:
        samples: noisy copies per channel (the paper takes 35).
        noise: standard deviation: of the noise on the [0, 1] mask, or on the masked image as a fraction of its value range.
        on: "activation" (the paper's first variant) or "input" (its second).
        weights: as for `scorecam`.
        baseline: as for `scorecam`.
        budget: as for `scorecam`, in masks; each is run with all its noisy samples. The same holds for `clusters` and `top_channels`.
        tolerance: as for `scorecam`.
        clusters: as for `scorecam`.
        top_channels: as for `scorecam`.
    """

    kind = "perturbation"
    paper = "Wang 2020b"
    cost = "samples × Score-CAM"

    samples: int = 10
    noise: float = 0.2
    on: Literal["activation", "input"] = "activation"
    weights: Weights = "increase"
    baseline: str | float = "zeros"
    budget: int = 0
    tolerance: float = 0.0
    clusters: int = 0
    top_channels: int = 0

    def __post_init__(self) -> None:
        check_weights(self.weights)
        _shortcut(self)
        if self.samples < 1 or self.noise < 0 or self.on not in ("activation", "input"):
            raise OptionError(
                f'expected samples ≥ 1, noise ≥ 0 and on "activation" or "input"; got {self.samples}, {self.noise}, {self.on!r}.'
            )

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        shortcut = _shortcut(self)
        channels = Channels.of(run, self.baseline, merge=bool(shortcut))  # exactly, channels with equal masks have noise of their own
        spread = run.image.flatten(1).amax(1) - run.image.flatten(1).amin(1)

        def noise(shape: torch.Size, sample: int, numbers: Tensor) -> Tensor:
            """A draw per channel and sample: the same whatever the batch size and the other images."""
            drawn = []
            for channel in channels.index[numbers].tolist():
                generator = torch.Generator().manual_seed(((run.seed * 1009 + sample) * 1_000_003 + channel) % 2**63)
                drawn.append(torch.randn(shape[1:], generator=generator, dtype=torch.float32, device="cpu"))
            return torch.stack(drawn).to(run.image) * self.noise

        def score(numbers: Tensor) -> Tensor:
            total = run.image.new_zeros(())
            for sample in run.stream.steps(self.samples):

                def on_mask(mask: Tensor, some: Tensor, sample: int = sample) -> Tensor:
                    return unit(mask + noise(mask.shape, sample, some))

                def on_image(image: Tensor, some: Tensor, sample: int = sample) -> Tensor:
                    wide = spread[channels.rows[some]].reshape(-1, *[1] * (image.ndim - 1))
                    return image + noise(image.shape, sample, some) * wide

                keep = {"on_mask": on_mask} if self.on == "activation" else {"on_image": on_image}
                total = total + channels.scores(self.weights, numbers, **keep)
            return total / self.samples

        return explained(channels, self.weights, score, shortcut)


@register("iscam")
@dataclass(frozen=True, kw_only=True)
class ISCAM(Method):
    """Score-CAM with scores integrated along the masks' strength (Naidu et al., "IS-CAM", 2020): the mean over `i` of `f(X ∘ i/N H_k)`.

    Attributes:
        steps: N (the paper takes 10).
        weights: as for `scorecam`.
        baseline: as for `scorecam`.
        budget: as for `scorecam`, in masks; each is run with all its strengths. The same holds for `clusters` and `top_channels`.
        tolerance: as for `scorecam`.
        clusters: as for `scorecam`.
        top_channels: as for `scorecam`.
    """

    kind = "perturbation"
    paper = "Naidu 2020"
    cost = "steps × Score-CAM"

    steps: int = 10
    weights: Weights = "increase"
    baseline: str | float = "zeros"
    budget: int = 0
    tolerance: float = 0.0
    clusters: int = 0
    top_channels: int = 0

    def __post_init__(self) -> None:
        check_weights(self.weights)
        _shortcut(self)
        if self.steps < 1:
            raise OptionError(f"expected steps ≥ 1; got {self.steps}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        channels = Channels.of(run, self.baseline)

        def score(numbers: Tensor) -> Tensor:
            strengths = ((i + 1) / self.steps for i in run.stream.steps(self.steps))
            found = [channels.scores(self.weights, numbers, on_mask=partial(_faded, strength)) for strength in strengths]
            return torch.stack(found).mean(0)

        return explained(channels, self.weights, score, _shortcut(self))


def _faded(strength: float, mask: Tensor, _: Tensor) -> Tensor:
    return mask * strength


def _shortcut(method: ScoreCAM | SSCAM | ISCAM) -> Shortcut:
    return Shortcut(method.budget, method.tolerance, method.clusters, method.top_channels)
