"""Images seen through their maps: what average drop and its relatives, coherency and ADCC have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Batch, FaithfulnessMetric
from lucidcam.metrics._pixels import ranks


@dataclass(frozen=True, kw_only=True)
class MaskedMetric(FaithfulnessMetric):
    """A metric that looks at `L ∘ I`: the image where the map L is high, black where it is low."""

    keep: float = 0.0
    space: Literal["image", "normalised"] = "image"

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise OptionError(f"expected keep between 0 and 1 (0: the soft mask; 0.5: the top half of the pixels); got {self.keep}.")
        if self.space not in ("image", "normalised"):
            raise OptionError(f'expected space "image" or "normalised"; got {self.space!r}.')

    def masked(self, batch: Batch, rows: Tensor | slice) -> Tensor:
        """Some of the images, seen through their maps: `black + L (x − black)`, `[n, C, H, W]`.

        The maps are resized bilinearly. `keep` = 0 takes them min-maxed to [0, 1]; `keep` > 0 keeps exactly `round(keep · H · W)` pixels,
        ties in reading order.
        """
        image = batch.run.image[rows]
        mask = ranks(batch)[rows] < round(self.keep * image[0, 0].numel()) if self.keep else batch.unit[rows]
        black = batch.black if self.space == "image" else torch.zeros_like(batch.black)
        return torch.lerp(black.to(image)[:, None, None], image, mask.to(image)[:, None])

    def score(self, batch: Batch) -> Tensor:
        """The class's probability O for the masked images, `[B]`."""
        key = ("masked", self.keep, self.space)
        if key not in batch.cache:

            def make(part: slice) -> tuple[Tensor, Tensor]:
                rows = torch.arange(part.start, part.stop, device=batch.run.image.device)
                return self.masked(batch, rows), rows

            batch.cache[key] = batch.probability.masked(len(batch.run.image), make)[:, 0]
        return batch.cache[key]

    def fall(self, batch: Batch) -> Tensor:
        """The fall in confidence `max(0, Y − O) / Y` in [0, 1], `[B]`; 0 where Y is 0: there is nothing to lose."""
        clean = batch.clean
        return torch.where(clean > 0, (clean - self.score(batch)).clamp(min=0) / clean, torch.zeros_like(clean))
