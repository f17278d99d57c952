"""Score-CAM (Wang et al., CVPR Workshops 2020) and its smoothed and integrated descendants, SS-CAM and IS-CAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.maps import unit
from lucidcam.methods._base import Method, register, upsample, weighted_sum
from lucidcam.perturb.baselines import baseline

Weights = Literal["increase", "softmax", "probability"]
Change = Callable[[Tensor, slice], Tensor]


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
    """

    kind = "perturbation"
    paper = "Wang 2020"
    cost = "1 forward per live channel"

    weights: Weights = "increase"
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        _check_weights(self.weights)

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        channels = _Channels.of(run, self.baseline)
        return channels.map(self.weights, channels.scores(self.weights))


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
    """

    kind = "perturbation"
    paper = "Wang 2020b"
    cost = "samples × Score-CAM"

    samples: int = 10
    noise: float = 0.2
    on: Literal["activation", "input"] = "activation"
    weights: Weights = "increase"
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        if self.samples < 1 or self.noise < 0 or self.on not in ("activation", "input"):
            raise OptionError(
                f'expected samples ≥ 1, noise ≥ 0 and on "activation" or "input"; got {self.samples}, {self.noise}, {self.on!r}.'
            )

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        channels = _Channels.of(run, self.baseline)
        spread = run.image.flatten(1).amax(1) - run.image.flatten(1).amin(1)

        def noise(shape: torch.Size, sample: int, part: slice) -> Tensor:
            """A draw per channel and sample: the same whatever the batch size and the other images."""
            drawn = []
            for channel in channels.index[part].tolist():
                generator = torch.Generator().manual_seed(((run.seed * 1009 + sample) * 1_000_003 + channel) % 2**63)
                drawn.append(torch.randn(shape[1:], generator=generator))
            return torch.stack(drawn).to(run.image) * self.noise

        total: Tensor | None = None
        for sample in run.stream.steps(self.samples):

            def on_mask(mask: Tensor, part: slice, sample: int = sample) -> Tensor:
                return unit(mask + noise(mask.shape, sample, part))

            def on_image(image: Tensor, part: slice, sample: int = sample) -> Tensor:
                wide = spread[channels.rows[part]].reshape(-1, *[1] * (image.ndim - 1))
                return image + noise(image.shape, sample, part) * wide

            keep = {"on_mask": on_mask} if self.on == "activation" else {"on_image": on_image}
            scores = channels.scores(self.weights, **keep)
            total = scores if total is None else total + scores
        assert total is not None
        return channels.map(self.weights, total / self.samples)


@register("iscam")
@dataclass(frozen=True, kw_only=True)
class ISCAM(Method):
    """Score-CAM with scores integrated along the masks' strength (Naidu et al., "IS-CAM", 2020): the mean over `i` of `f(X ∘ i/N H_k)`.

    Attributes:
        steps: N (the paper takes 10).
        weights: as for `scorecam`.
        baseline: as for `scorecam`.
    """

    kind = "perturbation"
    paper = "Naidu 2020"
    cost = "steps × Score-CAM"

    steps: int = 10
    weights: Weights = "increase"
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        if self.steps < 1:
            raise OptionError(f"expected steps ≥ 1; got {self.steps}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        channels = _Channels.of(run, self.baseline)
        strengths = ((i + 1) / self.steps for i in run.stream.steps(self.steps))
        scores = [channels.scores(self.weights, on_mask=partial(_faded, strength)) for strength in strengths]
        return channels.map(self.weights, torch.stack(scores).mean(0))


@dataclass(frozen=True)
class _Channels:
    """The live channels of a batch: those whose activations are not constant.

    Attributes:
        run: the question.
        activations: `[B, 1, C, *grid]`.
        rows: image of each live channel `[L]`.
        index: its number in the image `[L]`.
        empty: the baseline `[B, C, *spatial]`.
    """

    run: Run
    activations: Tensor
    rows: Tensor
    index: Tensor
    empty: Tensor

    @classmethod
    def of(cls, run: Run, name: str | float) -> _Channels:
        activations = run.capture().activations
        flat = activations[:, 0].flatten(2)
        rows, index = (flat.amax(-1) > flat.amin(-1)).nonzero(as_tuple=True)
        return cls(run, activations, rows, index, baseline(run.image, name))

    def scores(self, weights: Weights, on_mask: Change | None = None, on_image: Change | None = None) -> Tensor:
        """Scores `[L, T]` of the images masked with each live channel."""
        run = self.run.as_probability() if weights == "probability" else self.run
        if not len(self.rows):
            return self.activations.new_zeros(0, self.run.count)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            rows = self.rows[part]
            mask = unit(upsample(self.activations[rows, 0, self.index[part]].unsqueeze(1), run.inputs.size))
            mask = (on_mask(mask, part) if on_mask else mask).to(run.image.dtype)
            image = torch.lerp(self.empty[rows], run.image[rows], mask)
            return (on_image(image, part) if on_image else image), rows

        return run.masked(len(self.rows), make)

    def map(self, weights: Weights, scores: Tensor) -> Tensor:
        """Maps `[B, T, *grid]` from the scores of the live channels."""
        batch, channels = self.activations.shape[0], self.activations.shape[2]
        alpha = self.activations.new_zeros(batch, channels, self.run.count)
        if weights == "increase":
            images = torch.arange(batch, device=self.rows.device)
            scores = scores - self.run.scores(self.empty, images)[self.rows]
        if weights == "softmax":
            dense = alpha.fill_(-torch.inf)
            dense[self.rows, self.index] = scores.to(alpha.dtype)
            alpha = dense.softmax(1).nan_to_num(0)  # an image without live channels
        else:
            alpha[self.rows, self.index] = scores.to(alpha.dtype)
        return weighted_sum(alpha.transpose(1, 2), self.activations).relu()


def _faded(strength: float, mask: Tensor, _: slice) -> Tensor:
    return mask * strength


def _check_weights(weights: str) -> None:
    if weights not in ("increase", "softmax", "probability"):
        raise OptionError(f'expected weights "increase", "softmax" or "probability"; got {weights!r}.')
