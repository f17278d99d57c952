"""Where channels are most active, and how that overlaps with where concepts are: network dissection's IoU (Bau et al., CVPR 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.imaging.maps import resize
from lucidcam.samples import Sample
from lucidcam.types import Frame, Prepared

FINER = 4
"""Masks and maps are compared on a grid so many times as fine as the layer's."""


class Peaks:
    """The largest activations of each channel, of as many images as come.

    Args:
        quantile: share of places whose activations are to be kept.
        images: how many will come at most.
    """

    def __init__(self, quantile: float, images: int) -> None:
        self.quantile = quantile
        self.images = images
        self.seen = 0
        self.kept: Tensor | None = None

    def see(self, flat: Tensor) -> None:
        """Take activations `[n, C, P]` into account."""
        places = flat.transpose(0, 1).flatten(1)
        self.seen += places.shape[1]
        most = max(1, math.ceil(self.quantile * self.images * flat.shape[2]) + 1)
        every = places if self.kept is None else torch.cat([self.kept, places], dim=1)
        self.kept = every.topk(min(most, every.shape[1]), dim=1).values

    def thresholds(self) -> Tensor:
        """Activation `[C]` above which `quantile` of the places lie."""
        assert self.kept is not None, "thresholds are asked for after something was seen"
        above = min(max(math.floor(self.quantile * self.seen), 1), self.kept.shape[1] - 1)
        return self.kept[:, above]


class Overlap:
    """Counts, over images, of places where a channel is active, a concept is, and both are.

    Args:
        concepts: the names.
        kinds: what each is; an image counts for the concepts of the kinds that its masks are of.
        thresholds: `[C]`.
    """

    def __init__(self, concepts: Sequence[str], kinds: Mapping[str, str], thresholds: Tensor) -> None:
        self.concepts = list(concepts)
        names = sorted({kinds.get(name, "") for name in concepts})
        self.kind_of = torch.tensor([names.index(kinds.get(name, "")) for name in concepts])
        self.thresholds = thresholds
        self.active = torch.zeros(len(thresholds), len(names), dtype=torch.float64)
        self.there = torch.zeros(len(self.concepts), dtype=torch.float64)
        self.both = torch.zeros(len(thresholds), len(self.concepts), dtype=torch.float64)

    def see(self, samples: Sequence[Sample], prepared: Sequence[Prepared], maps: Tensor) -> None:
        """Take images with their activations `[n, C, h, w]` into account."""
        size = (maps.shape[2] * FINER, maps.shape[3] * FINER)
        for sample, one, found in zip(samples, prepared, maps, strict=True):
            places = {
                self.concepts.index(each.label): _on_grid(each.mask(), one.frame, size)
                for each in sample.objects
                if each.mask is not None and each.label in self.concepts
            }
            if not places:
                continue
            active = (resize(found, size) > self.thresholds[:, None, None]).flatten(1).double().cpu()
            numbers = torch.tensor(list(places))
            masks = torch.stack(list(places.values())).flatten(1).double()
            self.both[:, numbers] += active @ masks.T
            self.there[numbers] += masks.sum(1)
            for kind in set(self.kind_of[numbers].tolist()):
                self.active[:, kind] += active.sum(1)

    def iou(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """`[C, K]`; NaN for a concept that no mask is of."""
        union = self.active[:, self.kind_of] + self.there - self.both
        found = torch.where((self.there > 0) & (union > 0), self.both / union.clamp(min=1e-12), torch.nan)
        return np.asarray(found.numpy())


def _on_grid(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], frame: Frame, size: tuple[int, int]) -> Tensor:
    """A mask `[H, W]` of the photo on a grid over the network's input: cells that it fills by half or more."""
    left, top, right, bottom = (round(side) for side in frame.box)
    given = torch.from_numpy(np.ascontiguousarray(mask)).float()
    cut = F.pad(given, (-left, right - mask.shape[1], -top, bottom - mask.shape[0]))  # negative padding cuts
    return frame.turned(F.adaptive_avg_pool2d(cut[None, None], frame.upright_size(size))[0, 0]) >= 0.5
