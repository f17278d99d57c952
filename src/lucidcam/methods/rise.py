"""RISE (Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import Method, register
from lucidcam.perturb.baselines import baseline
from lucidcam.perturb.masks import rise_masks


@register("rise")
@dataclass(frozen=True, kw_only=True)
class RISE(Method):
    """Masks weighted by the probability they leave: `1 / (p N) Σ_i f(X ∘ M_i) M_i` (Eq. 6). Maps have the input's resolution.

    Attributes:
        masks: N, random masks (the paper takes 4000 to 8000); every image sees the same.
        cells: side of the coarse grid.
        keep: p, the probability that a cell is kept.
        weigh_by: "probability" (softmax, as in the paper) or "score" (the target's own: logits unless told otherwise).
        baseline: what masked pixels become.
    """

    kind = "perturbation"
    layered = "never"
    paper = "Petsiuk 2018"
    ranged = True
    cost = "1 forward per mask"

    masks: int = 2000
    cells: int = 7
    keep: float = 0.5
    weigh_by: Literal["probability", "score"] = "probability"
    baseline: str | float = "zeros"

    def __post_init__(self) -> None:
        if self.weigh_by not in ("probability", "score"):
            raise OptionError(f'expected weigh_by "probability" or "score"; got {self.weigh_by!r}.')
        if self.masks < 1 or self.cells < 2 or not 0 < self.keep < 1:
            raise OptionError(f"expected masks ≥ 1, cells ≥ 2 and 0 < keep < 1; got {self.masks}, {self.cells}, {self.keep}.")

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        height, width = _picture_size(run)
        batch = run.inputs.batch
        empty = baseline(run.image, self.baseline)
        asked = run.as_probability() if self.weigh_by == "probability" else run
        generator = torch.Generator().manual_seed(run.seed)
        total = torch.zeros(batch, run.count, height * width, dtype=torch.float64 if run.image.dtype == torch.float64 else torch.float32)
        total = total.to(run.image.device)
        block = 64  # masks are drawn by the block, so that the batch size does not change them
        for number in run.stream.steps(-(-self.masks // block)):
            count = min(block, self.masks - number * block)
            masks = rise_masks(block, (height, width), self.cells, self.keep, generator)[:count].to(run.image)

            def make(part: slice, masks: Tensor = masks) -> tuple[Tensor, Tensor]:
                flat = torch.arange(part.start, part.stop, device=masks.device)
                rows, which = flat % batch, flat // batch
                return torch.lerp(empty[rows], run.image[rows], masks[which]), rows

            scores = asked.masked(count * batch, make).reshape(count, batch, run.count)
            total += torch.einsum("nbt,np->btp", scores.to(total.dtype), masks.flatten(1).to(total.dtype))
        return (total / (self.masks * self.keep)).reshape(batch, run.count, height, width)


def _picture_size(run: Run) -> tuple[int, int]:
    if len(run.inputs.size) != 2:
        raise OptionError(f"expected images [B, C, H, W]; got {list(run.image.shape)}.")
    return run.inputs.size[0], run.inputs.size[1]
