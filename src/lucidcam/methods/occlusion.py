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
        window: the patch's side in pixels; 0: a seventh of the image's shorter side, and of each side of a clip or volume. In those a side
            that is shorter than the window is hidden whole.
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
        places = self._places(size)
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

    def _places(self, size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        if len(size) < 3:
            window = self.window or max(1, min(size) // 7)
            return windows(size, window, self.stride or max(1, window // 2))
        if self.window and self.stride > self.window:
            raise OptionError(f"expected 1 ≤ stride ≤ window; got window {self.window}, stride {self.stride}.")
        # Time and depth have units of their own: a frame's patch would be longer than most clips.
        sides = [min(self.window, side) if self.window else max(1, side // 7) for side in size]
        return windows(size, sides, [min(self.stride, side) if self.stride else max(1, side // 2) for side in sides])
