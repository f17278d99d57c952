"""The regions of a map that count as things, with boxes, masks and scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.imaging import maps
from lucidcam.imaging.explanation import Explanation
from lucidcam.localization.grabcut import grabcut
from lucidcam.outputs._labels import Found
from lucidcam.samples import Mask

Keep = Literal["all", "largest"]
Refine = Literal["", "grabcut"]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Which parts of a map count as things.

    Attributes:
        threshold: pixels at or above this share of the map's maximum belong to a region.
        keep: "all": each connected region is a thing; "largest": only the largest of each map.
        min_area: smaller regions are left out; a share of the image.
        refine: "grabcut": follow the image's colours (see `grabcut`); "": masks are the regions themselves.
        masks: False: boxes only.

    Raises:
        OptionError: for a value outside its range.
    """

    threshold: float = 0.2
    keep: Keep = "all"
    min_area: float = 0.0
    refine: Refine = ""
    masks: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"expected a threshold between 0 and 1 (a share of the map's maximum); got {self.threshold}.")
        if self.keep not in get_args(Keep):
            raise OptionError(f'expected regions "all" or "largest"; got {self.keep!r}.')
        if not 0 <= self.min_area <= 1:
            raise OptionError(f"expected min_area between 0 and 1 (a share of the image); got {self.min_area}.")
        if self.refine not in get_args(Refine):
            raise OptionError(f'expected refine "grabcut" or "" (none); got {self.refine!r}.')

    def of(self, heatmap: maps.Array) -> list[maps.Region]:
        """The regions of a map `[H, W]` in [0, 1] that count, largest first."""
        found = maps.regions(heatmap, self.threshold)[: 1 if self.keep == "largest" else None]
        return [region for region in found if region.area >= self.min_area * heatmap.size]

    def things(self, explanation: Explanation, label: str) -> Iterator[Found]:
        """The things a map shows.

        The score of a region is the class's probability × the mean of the heatmap in the region (before it is refined): in [0, 1], low
        when the network is not sure of the class, and low where the region is faint beside the map's maximum. Targets without a
        probability have the mean alone.

        Args:
            explanation: of one class.
            label: what to call it.
        """
        heatmap = explanation.heatmap
        probability = 1.0 if explanation.probability is None else explanation.probability
        for region in self.of(heatmap):
            box, mask = region.box, region.mask(heatmap.shape)
            score = probability * float(heatmap[mask].mean())
            if self.refine:
                mask = grabcut(explanation.image, heatmap, mask, box, self.threshold, explanation.frame)
                box = bounds(mask)
            yield Found(label, box, score, mask if self.masks else None)


def bounds(mask: Mask) -> maps.Box:
    """The bounding box of a mask that is not empty.

    >>> bounds(np.array([[0, 0, 0], [0, 1, 1]], bool))
    (1, 1, 3, 2)
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
