"""Occlusion sensitivity (Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, register
from lucidcam.perturb.baselines import baseline
from lucidcam.perturb.masks import windows


@register("occlusion")
@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """Drop of the score when a patch slides over the image; a pixel's value is the mean over the patches that hide it. Signed.

    Maps have the input's resolution.

    Attributes:
        window: the patch's side in pixels; 0: a seventh of the image's shorter side.
        stride: how far it moves; 0: half the window.
        baseline: what hidden pixels become.
    """

    kind = "perturbation"
    layered = "never"
    paper = "Zeiler 2014"
    cost = "1 forward per patch"

    window: int = 0
    stride: int = 0
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        if self.window < 0 or self.stride < 0:
            raise OptionError(f"expected window ≥ 1 and stride ≥ 1 (0: chosen by the image's size); got {self.window} and {self.stride}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        size = run.inputs.size
        window = self.window or max(1, min(size) // 7)
        places = windows(size, window, self.stride or max(1, window // 2))
        batch = run.inputs.batch
        empty = baseline(run.image, self.baseline)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            rows = torch.arange(part.start, part.stop, device=run.image.device) % batch
            image = run.image[rows]
            for i, flat in enumerate(range(part.start, part.stop)):
                there = (slice(None), *places[flat // batch])
                image[i][there] = empty[flat % batch][there]
            return image, rows

        drops = run.clean_scores() - run.masked(len(places) * batch, make).reshape(len(places), batch, run.count)
        total = drops.new_zeros(batch, run.count, *size)
        seen = drops.new_zeros(size)
        for place, drop in zip(places, drops, strict=True):
            there = (slice(None), slice(None), *place)
            total[there] += drop.reshape(batch, run.count, *[1] * len(size))
            seen[place] += 1
        return total / seen
