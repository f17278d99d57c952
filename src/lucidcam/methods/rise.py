"""RISE (Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, register
from lucidcam.perturb.baselines import baseline
from lucidcam.perturb.masks import RiseMasks

BLOCK = 64
"""Masks are drawn this many at a time, so that the batch size does not change them."""

MASK_BYTES = 2**28
"""Masks that are enlarged together take at most this: all of a block up to a million pixels, four of 4096²."""


@register("rise")
@dataclass(frozen=True, kw_only=True)
class RISE(Method):
    """Masks weighted by the probability they leave: `1 / (p N) Σ_i f(X ∘ M_i) M_i` (Eq. 6). Maps have the input's resolution.

    The map is a mean over random masks, and how its terms vary says how far it is from its limit, the map of endless masks.
    `Explanation.error` is an estimate of `‖M − M_∞‖ / ‖M_∞‖`: the norm is the root of the sum of squares over the pixels, after each
    map's own mean over the image is taken off (a constant says nothing about where). 0.1: the expected squared distance is one hundredth
    of the limit map's variance over the image. It ends at 1: the noise is as large as the map, or larger, and nothing is known.

    Attributes:
        masks: N, random masks (the paper takes 4000 to 8000); every image sees the same.
        tolerance: stop an image when its estimated error is at most this, looked at every 64 masks; 0: run all the masks.
        cells: side of the coarse grid (of a clip or volume: a cube; an axis that is shorter has as many cells as places).
        keep: p, the probability that a cell is kept.
        weigh_by: "probability" (of the class, as in the paper; the score of outputs that have no probabilities) or "score" (the target's
            own: logits unless told otherwise).
        baseline: what masked pixels become.
    """

    kind = "perturbation"
    layered = "never"
    paper = "Petsiuk 2018"
    ranged = True
    cost = "1 forward per mask"

    masks: int = 2000
    tolerance: float = 0.0
    cells: int = 7
    keep: float = 0.5
    weigh_by: Literal["probability", "score"] = "probability"
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        if self.weigh_by not in ("probability", "score"):
            raise OptionError(f'expected weigh_by "probability" or "score"; got {self.weigh_by!r}.')
        if self.masks < 1 or self.cells < 2 or not 0 < self.keep < 1:
            raise OptionError(f"expected masks ≥ 1, cells ≥ 2 and 0 < keep < 1; got {self.masks}, {self.cells}, {self.keep}.")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"expected 0 ≤ tolerance < 1 (0: run all the masks); got {self.tolerance}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        size = run.inputs.size
        batch = run.inputs.batch
        empty = baseline(run.image, self.baseline)
        has_probability = run.bound.logit and run.class_scores().kind != "none"
        asked = run.as_probability() if self.weigh_by == "probability" and has_probability else run
        generator = torch.Generator().manual_seed(run.seed)
        wide = torch.float64 if run.image.dtype == torch.float64 else torch.float32
        total = torch.zeros(batch, run.count, prod(size), dtype=wide, device=run.image.device)
        squares = total.new_zeros(batch, run.count)  # Σ_i ‖f_i (M_i − mean of M_i)‖²
        counts = total.new_zeros(batch, 1)
        error = total.new_ones(batch, run.count)
        together = max(1, min(BLOCK, MASK_BYTES // (4 * prod(size))))
        for number in run.stream.steps(-(-self.masks // BLOCK)):
            open_ = ((error > self.tolerance).any(1) | (not self.tolerance)).nonzero()[:, 0]
            if not len(open_):
                break
            count = min(BLOCK, self.masks - number * BLOCK)
            drawn = RiseMasks.draw(BLOCK, size, self.cells, self.keep, generator)
            for start in range(0, count, together):
                masks = drawn.enlarged(slice(start, min(start + together, count))).to(run.image)

                def make(part: slice, masks: Tensor = masks, open_: Tensor = open_) -> tuple[Tensor, Tensor]:
                    flat = torch.arange(part.start, part.stop, device=masks.device)
                    rows, which = open_[flat % len(open_)], flat // len(open_)
                    return torch.lerp(empty[rows], run.image[rows], masks[which]), rows

                scores = asked.masked(len(masks) * len(open_), make).reshape(len(masks), len(open_), run.count).to(wide)
                flat = masks.flatten(1).to(wide)
                total[open_] += torch.einsum("nbt,np->btp", scores, flat)
                squares[open_] += torch.einsum("nbt,n->bt", scores.square(), (flat - flat.mean(1, keepdim=True)).square_().sum(1))
            counts[open_] += count
            error[open_] = _error(total[open_], squares[open_], counts[open_])
        run.note_error(error)
        return (total / (counts * self.keep)[..., None]).reshape(batch, run.count, *size)


def _error(total: Tensor, squares: Tensor, counts: Tensor) -> Tensor:
    """Estimated distance `[B, T]` of means over masks from their limit, as a share of the limit's size, at most 1.

    What is the same at all pixels is left out of both.

    Args:
        total: sums over masks `[B, T, P]`.
        squares: sums of the terms' squared norms `[B, T]`.
        counts: how many masks `[B, 1]`.
    """
    mean = total / counts[..., None]
    size = (mean - mean.mean(2, keepdim=True)).square().sum(2)
    variance = (squares / counts - size).clamp(min=0) / (counts - 1).clamp(min=1)
    truth = size - variance  # noise adds its own to the size of what is seen
    share = (variance / torch.where(truth > variance, truth, variance.clamp(min=torch.finfo(variance.dtype).tiny))).sqrt()
    return torch.where(counts > 1, share, 1)  # one mask does not vary
