"""From the masks' scores to maps: all of them, or some, with an estimate of what the others would have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.methods._channels import Channels, Image, Weights, asked
from lucidcam.perturb.redundancy import clusters
from lucidcam.perturb.surrogate import Posterior, Surrogate

Ask = Callable[[Tensor], Tensor]
"""From numbers of masks `[n]` to their scores `[n, T]`."""

FIRST = 16
"""Masks that are run before the others are chosen by what those showed."""

LATER = 4
"""From then on as many at a time as make a quarter of those known, at least four."""


@dataclass(frozen=True)
class Shortcut:
    """Which masks are run; the fields are options of `scorecam`, `sscam` and `iscam`, and 0 turns each of them off."""

    budget: int = 0
    tolerance: float = 0.0
    clusters: int = 0
    top_channels: int = 0

    def __post_init__(self) -> None:
        if min(self.budget, self.clusters, self.top_channels) < 0 or not 0 <= self.tolerance < 1:
            raise OptionError(
                "expected budget, clusters and top_channels ≥ 0 and 0 ≤ tolerance < 1 (0: not used); got "
                f"{self.budget}, {self.clusters}, {self.top_channels} and {self.tolerance}."
            )
        if bool(self.budget or self.tolerance) + bool(self.clusters) + bool(self.top_channels) > 1:
            raise OptionError("expected one of budget (with or without tolerance), clusters and top_channels; got several: give one.")

    def __bool__(self) -> bool:
        return bool(self.budget or self.tolerance or self.clusters or self.top_channels)


def explained(channels: Channels, weights: Weights, score: Ask, shortcut: Shortcut, anchored: bool = False) -> Tensor:
    """Maps `[B, T, *grid]`; with a shortcut the run is told their estimated errors.

    Args:
        channels: the masks.
        weights: what the scores become.
        score: runs masks.
        shortcut: which of them.
        anchored: the score of an empty mask is the baseline's and that of a full one the image's own, so both are known beforehand.
    """
    floor = channels.floor(weights)

    def ask(numbers: Tensor) -> Tensor:
        return score(numbers) - floor[channels.rows[numbers]]

    if not shortcut:
        scores = ask(torch.arange(len(channels.rows), device=channels.rows.device))
        return channels.shaped([image.summed(weights, scores[image.masks]) for image in channels.images])
    known = asked(channels.run, weights).clean_scores() - floor if anchored else floor.new_zeros(len(floor), 0)
    plans = [
        _Plan(image, weights, shortcut, _anchors(weights, full) if anchored else None, channels.run.seed)
        for image, full in zip(channels.images, known, strict=True)
    ]
    while wanted := [(plan, picks) for plan in plans if len(picks := plan.next())]:
        scores = ask(torch.cat([plan.image.masks[picks] for plan, picks in wanted]))
        for (plan, picks), part in zip(wanted, torch.split(scores, [len(picks) for _, picks in wanted]), strict=True):
            plan.tell(picks, part)
    found = [plan.result(channels.run.count) for plan in plans]
    channels.run.note_error(torch.stack([error for _, error in found]))
    return channels.shaped([signed for signed, _ in found])


def _anchors(weights: Weights, full: Tensor) -> Tensor:
    """Known scores `[1 or 2, T]`: that of a full mask, and before it, where scores count from the baseline's, an empty one's."""
    return torch.stack([torch.zeros_like(full), full]) if weights == "increase" else full[None]


class _Plan:
    """Which masks of one image to run, and what follows from those that were.

    Args:
        image: its masks.
        weights: what scores become.
        shortcut: how to choose.
        anchors: scores known beforehand, as of `_anchors`.
        seed: of the clusters.
    """

    def __init__(self, image: Image, weights: Weights, shortcut: Shortcut, anchors: Tensor | None, seed: int) -> None:
        self.image = image
        self.weights = weights
        self.shortcut = shortcut
        self.count = len(image.masks)
        self.limit = min(shortcut.budget or self.count, self.count)
        self.run: list[int] = []
        self.scores: list[Tensor] = []
        self.groups: Tensor | None = None
        self.part: Image | None = None
        self.fixed = self._fixed(seed)
        points = image.points
        self.anchors: list[int] = []  # numbered after the masks
        if anchors is not None:
            ends = torch.stack([torch.zeros_like(points[0]), torch.ones_like(points[0])]) if self.count else points
            points = torch.cat([points, ends[-len(anchors) :]])
            self.anchors = list(range(self.count, len(points)))
            self.scores.append(anchors[: len(self.anchors)])
        self.surrogate = Surrogate(points)

    def _fixed(self, seed: int) -> Tensor | None:
        """The masks to run where scores have no say in it."""
        image, count = self.image, self.count
        if self.shortcut.clusters and count:
            members, self.groups = clusters(image.points, min(self.shortcut.clusters, count), torch.Generator().manual_seed(seed))
            return members
        if self.shortcut.top_channels and count:
            spread = image.activations.var(1)
            top = spread.topk(min(self.shortcut.top_channels, len(spread))).indices.sort().values
            self.part = image.only(top)
            return self.part.masks - image.masks[0]
        return None

    def next(self) -> Tensor:
        """Masks to run now `[n]`; none: it is done."""
        picks: list[int] = []
        done = len(self.run)
        if self.fixed is not None:
            return self.fixed[: 0 if done else None]
        if done < self.limit and not (done and self.shortcut.tolerance and self._close_enough()):
            step = self.limit
            if self.shortcut.tolerance or self.weights == "softmax":  # else what was seen does not change what to run next
                step = max(LATER, done // LATER) if done else min(FIRST, -(-self.limit // 2))
            picks = self.surrogate.pick(self.anchors + self.run, self._directions(), min(step, self.limit - done))
        return torch.tensor(picks, dtype=torch.long, device=self.image.masks.device)

    def tell(self, picks: Tensor, scores: Tensor) -> None:
        """Take the scores `[n, T]` of masks that were run."""
        self.run += picks.tolist()
        self.scores.append(scores)

    def result(self, targets: int) -> tuple[Tensor, Tensor]:
        """The signed map `[T, P]` and its estimated error `[T]`."""
        points = self.image.points
        if not self.count:
            return points.new_zeros(targets, points.shape[1]), points.new_zeros(targets)
        posterior = self._posterior()
        found = best = self.image.summed(self.weights, self._expected(posterior))
        seen = torch.cat(self.scores)[len(self.anchors) :]
        if self.groups is not None:
            found = self.image.summed(self.weights, seen[self.groups])
        if self.part is not None:
            found = self.part.summed(self.weights, seen)
        return found, self._error(posterior, found, best)

    def _posterior(self) -> Posterior:
        return self.surrogate.fit(self.anchors + self.run, torch.cat(self.scores))

    def _expected(self, posterior: Posterior) -> Tensor:
        """Scores `[m, T]` that give the expected map; the exponential of an uncertain score is larger than that of its mean."""
        mean = posterior.mean[: self.count]
        if self.weights == "softmax":
            spread = posterior.spread()[: self.count]
            spread[self.run] = 0
            mean = mean + spread / 2
        return mean.to(self.image.activations)

    def _parts(self, scores: Tensor | None) -> Tensor:
        """How the map changes with each mask's score, near these `[m]`: `[m, P]`, and nothing for the anchors."""
        parts = self.image.parts if scores is None else self.image.softmax_parts(scores)
        return torch.cat([parts, parts.new_zeros(len(self.anchors), parts.shape[1])])

    def _directions(self) -> Tensor:
        """What the error is made of `[n, p]`: the masks' parts of the map, of every target where they depend on scores."""
        if self.weights != "softmax" or not self.run:
            return self._parts(None)
        parts = [self._parts(scores) for scores in self._expected(self._posterior()).T]
        return torch.cat([one / one.norm().clamp(min=torch.finfo(one.dtype).tiny) for one in parts], dim=1)

    def _close_enough(self) -> bool:
        posterior = self._posterior()
        best = self.image.summed(self.weights, self._expected(posterior))
        return bool((self._error(posterior, best, best) <= self.shortcut.tolerance).all())

    def _error(self, posterior: Posterior, found: Tensor, best: Tensor) -> Tensor:
        """Expected distance of `found` from the exact map, as a share of that map's expected size, by target `[T]`."""
        if len(self.run) == self.count:
            squared = torch.zeros_like(posterior.variance)
        elif self.weights == "softmax":
            each = [posterior.squared_error(self._parts(scores)) for scores in self._expected(posterior).T]
            squared = posterior.variance * posterior.variance.new_tensor(each)
        else:
            squared = posterior.variance * posterior.squared_error(self._parts(None))
        squared = squared.to(found)
        whole = squared + best.relu().square().sum(1)
        return ((squared + (found - best).square().sum(1)) / torch.where(whole > 0, whole, 1)).sqrt()
