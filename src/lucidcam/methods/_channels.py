"""The channels of a layer as masks of the image: which differ, what scores they leave, and the map that scores make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.imaging.maps import unit
from lucidcam.methods._base import upsample
from lucidcam.perturb.baselines import baseline
from lucidcam.perturb.redundancy import equal_rows, unit_rows

Weights = Literal["increase", "softmax", "probability"]
Change = Callable[[Tensor, Tensor], Tensor]
"""Of masks or masked images `[n, …]`, given the numbers of the masks `[n]`."""


@dataclass(frozen=True)
class Image:
    """The live channels of one image: those whose activations are not constant.

    Attributes:
        masks: numbers, in `Channels`, of its masks that differ from each other `[m]`.
        points: those masks on the layer's grid, in [0, 1] `[m, P]`.
        activations: of the live channels `[l, P]`.
        mask_of: for each of them its mask's position in `masks` `[l]`.
    """

    masks: Tensor
    points: Tensor
    activations: Tensor
    mask_of: Tensor

    def only(self, channels: Tensor) -> Image:
        """The same with some of the live channels `[k]`; masks that no other channel has are left out."""
        used, mask_of = torch.unique(self.mask_of[channels], return_inverse=True)
        return Image(self.masks[used], self.points[used], self.activations[channels], mask_of)

    def summed(self, weights: Weights, scores: Tensor) -> Tensor:
        """Signed maps `[T, P]` from the scores of the masks `[m, T]`."""
        return channel_weights(weights, scores[self.mask_of]).T.to(self.activations) @ self.activations

    @property
    def parts(self) -> Tensor:
        """What each mask's score is multiplied with in the map `[m, P]`."""
        return self._by_mask(self.activations)

    def softmax_parts(self, scores: Tensor) -> Tensor:
        """How a map with softmax weights changes with each mask's score, near these `[m]` of one target: `[m, P]`."""
        alpha = scores[self.mask_of].softmax(0)[:, None]
        return self._by_mask(alpha * (self.activations - (alpha * self.activations).sum(0)))

    def _by_mask(self, channels: Tensor) -> Tensor:
        return channels.new_zeros(self.points.shape).index_add_(0, self.mask_of, channels)


@dataclass(frozen=True)
class Channels:
    """The masks of a batch.

    Attributes:
        run: the question.
        activations: `[B, 1, C, *grid]`.
        rows: image of each mask `[L]`.
        index: the channel it is made of `[L]`.
        images: what belongs to each image.
        empty: the baseline `[B, C, *spatial]`.
    """

    run: Run
    activations: Tensor
    rows: Tensor
    index: Tensor
    images: tuple[Image, ...]
    empty: Tensor

    @classmethod
    def of(cls, run: Run, empty: str | float, merge: bool = True) -> Channels:
        """Look at the layer.

        Args:
            run: the question.
            empty: the baseline's name.
            merge: channels that make the same mask share one. Equal they are where activations differ by a factor and an offset only;
                most often because a single cell is active.
        """
        activations = run.capture().activations
        images, rows, index = [], [], []
        count = 0
        for row, flat in enumerate(activations[:, 0].flatten(2)):
            live = (flat.amax(-1) > flat.amin(-1)).nonzero()[:, 0]
            points = unit_rows(flat[live])
            every = torch.arange(len(live), device=live.device)
            first, mask_of = equal_rows(points) if merge else (every, every)
            images.append(Image(count + every[: len(first)], points[first], flat[live], mask_of))
            rows.append(torch.full_like(first, row))
            index.append(live[first])
            count += len(first)
        return cls(run, activations, torch.cat(rows), torch.cat(index), tuple(images), baseline(run.image, empty))

    def scores(self, weights: Weights, numbers: Tensor, on_mask: Change | None = None, on_image: Change | None = None) -> Tensor:
        """Scores `[n, T]` of the images masked with the masks `numbers`."""
        if not len(numbers):
            return self.activations.new_zeros(0, self.run.count)
        run = asked(self.run, weights)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            chosen = numbers[part]
            rows = self.rows[chosen]
            mask = unit(upsample(self.activations[rows, 0, self.index[chosen]].unsqueeze(1), run.inputs.size))
            mask = (on_mask(mask, chosen) if on_mask else mask).to(run.image.dtype)
            image = torch.lerp(self.empty[rows], run.image[rows], mask)
            return (on_image(image, chosen) if on_image else image), rows

        return run.masked(len(numbers), make)

    def floor(self, weights: Weights) -> Tensor:
        """Scores `[B, T]` that count as nothing: the baseline's, where the weights are an increase."""
        if weights != "increase":
            return self.activations.new_zeros(len(self.images), self.run.count)
        return self.run.scores(self.empty, torch.arange(len(self.images), device=self.rows.device))

    def shaped(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps `[T, P]` of all images as `[B, T, *grid]`, without what speaks against the class."""
        return torch.stack(list(maps)).relu().reshape(len(maps), -1, *self.activations.shape[3:])


def asked(run: Run, weights: Weights) -> Run:
    """What the weights are made of: the target's score, or its probability."""
    return run.as_probability() if weights == "probability" else run


def channel_weights(weights: Weights, scores: Tensor) -> Tensor:
    """Weights `[l, T]` of channels with these scores."""
    return scores.softmax(0) if weights == "softmax" else scores


def check_weights(weights: str) -> None:
    """Refuse a name that is none.

    Raises:
        OptionError: with the names there are.
    """
    if weights not in ("increase", "softmax", "probability"):
        raise OptionError(f'expected weights "increase", "softmax" or "probability"; got {weights!r}.')
