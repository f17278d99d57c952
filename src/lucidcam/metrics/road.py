"""ROAD, remove and debias (Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Batch, Curve, FaithfulnessMetric, Figure, divide, register
from lucidcam.metrics._pixels import ranks
from lucidcam.metrics._random import draws
from lucidcam.perturb.imputation import impute
from lucidcam.targets import All


@register("road")
@dataclass(frozen=True, kw_only=True)
class ROAD(FaithfulnessMetric):
    """What the network still knows without p % of the pixels: the most relevant first (MoRF), or the least relevant first (LeRF).

    Removed pixels are imputed from their neighbours (see `lucidcam.perturb.imputation`) plus Gaussian noise, in the network's input space,
    so that the shape of the hole tells little. The map is resized to the image; exactly `round(p / 100 · H · W)` pixels go, ties in reading
    order in both orders, so that a flat map scores 0. `road` is `(LeRF − MoRF) / 2` on the class's probability, averaged over the
    percentiles. The accuracy is the share of images for which the network still predicts the class.

    An image's noise is one field, drawn by the seed and its name; all its copies share it, so that they differ by what is removed alone.

    Attributes:
        percentiles: how many per cent of the pixels are removed, separated by commas.
        noise: standard deviation, in the network's input space (0.01 in the paper, for standardised inputs).

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    >>> ROAD(percentiles="25, 50")(net, torch.rand(3, 3, 4, 4), torch.zeros(3, 1, 1))["road"].tolist()
    [0.0, 0.0, 0.0]
    """

    figures = (
        Figure("road", bounds=(-0.5, 0.5)),
        Figure("road_morf_confidence", higher_is_better=False, bounds=(0.0, 1.0)),
        Figure("road_lerf_confidence", bounds=(0.0, 1.0)),
        Figure("road_morf_accuracy", "%", higher_is_better=False),
        Figure("road_lerf_accuracy", "%"),
    )
    paper = "Rong 2022"

    percentiles: str = "20,40,60,80"
    noise: float = 0.01

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < each < 100 for each in self.shares):
            raise OptionError(f'expected percentiles between 0 and 100, as in "20,40,60,80"; got {self.percentiles!r}.')
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise OptionError(f"expected noise ≥ 0; got {self.noise}.")

    @property
    def shares(self) -> tuple[float, ...]:
        """The percentiles as numbers, ascending; empty where they are no numbers."""
        try:
            return tuple(sorted({float(each) for each in self.percentiles.split(",")}))
        except (ValueError, AttributeError):
            return ()

    def measure(self, batch: Batch) -> Tensor:
        """The class's probability and whether it is predicted, `[B, 2 · (1 + 2P)]`: clean, then MoRF, then LeRF at each percentile."""
        image, shares = batch.run.image, self.shares
        places = torch.stack([ranks(batch), ranks(replace(batch, maps=-batch.maps, cache={}))], dim=1)  # [B, 2, H, W]
        pixels = places[0, 0].numel()
        counts = torch.tensor([min(round(p / 100 * pixels), pixels - 1) for p in shares], device=image.device)
        noise = self._drawn(batch)

        def make(part: slice) -> tuple[Tensor, Tensor]:
            flat = torch.arange(part.start, part.stop, device=image.device)
            rows, order, share = flat // (2 * len(shares)), flat // len(shares) % 2, flat % len(shares)
            removed = places[rows, order] < counts[share, None, None]
            filled = impute(image[rows], removed)
            return torch.where(removed[:, None], filled + noise[rows], filled), rows

        run = batch.run.about(All())
        ids = batch.run.bound.ids
        assert ids is not None
        scores = run.masked(len(image) * 2 * len(shares), make).reshape(len(image), 2 * len(shares), -1)
        scores = torch.cat([run.clean_scores()[:, None], scores], dim=1)  # [B, 1 + 2P, classes]
        meaning, is_single_column = run.class_scores(), run.class_columns().shape[1] == 1
        confidence = meaning.to_probabilities(scores, 2).gather(2, ids[:, None].expand(-1, scores.shape[1], -1))[..., 0]
        predicted = meaning.predicted_by(scores, is_single_column, 2)
        return torch.cat([confidence, (predicted == ids).to(confidence)], dim=1)

    def _drawn(self, batch: Batch) -> Tensor:
        """The noise of each image, `[B, C, H, W]`."""
        image = batch.run.image
        drawn = [
            torch.randn(image.shape[1:], generator=generator, device=image.device, dtype=torch.float32)
            for generator in (draws(batch.run.seed, name, device=image.device) for name in batch.names)
        ]
        return self.noise * torch.stack(drawn).to(image.dtype)

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """Means over images and percentiles: see `Metric.compute`."""
        confidence, accuracy = np.split(divide(sums.sum(0), count.sum(0)[:, None]), 2, axis=1)
        means = [half.mean(1) for each in (confidence, 100 * accuracy) for half in np.split(each[:, 1:], 2, axis=1)]
        return dict(zip((figure.name for figure in self.figures), [(means[1] - means[0]) / 2, *means], strict=True))

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """Confidence and accuracy against the percentile, for both orders: see `Metric.curves`."""
        confidence, accuracy = np.split(divide(sums.sum(0), np.asarray(count.sum(0))), 2)
        x = np.array([0.0, *self.shares])
        found = []
        for kind, values, label in (("confidence", confidence, "probability of the class"), ("accuracy", 100 * accuracy, "accuracy, %")):
            for order, half in zip(("morf", "lerf"), np.split(values[1:], 2), strict=True):
                found.append(Curve(f"road_{order}_{kind}", x, np.array([values[0], *half]), "% of pixels removed", label))
        return found
