"""From the masks' scores to maps: all of them, or some, with an estimate of what the others would have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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

SAMPLES = 128
"""Draws of the scores that are not known, where the map is no linear function of them."""

TRIED = 8
"""Of these, draws for which it is looked at what each mask would tell."""


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
        seed: of the clusters, and of samples.
    """

    def __init__(self, image: Image, weights: Weights, shortcut: Shortcut, anchors: Tensor | None, seed: int) -> None:
        self.image = image
        self.weights = weights
        self.shortcut = shortcut
        self.count = len(image.masks)
        self.seed = seed
        self.limit = min(shortcut.budget or self.count, self.count)
        self.run: list[int] = []
        self.scores: list[Tensor] = []
        self.groups: Tensor | None = None
        self.part: Image | None = None
        self.fixed = self._fixed()
        points = image.points
        self.anchors: list[int] = []  # numbered after the masks
        if anchors is not None:
            ends = torch.stack([torch.zeros_like(points[0]), torch.ones_like(points[0])]) if self.count else points
            points = torch.cat([points, ends[-len(anchors) :]])
            self.anchors = list(range(self.count, len(points)))
            self.scores.append(anchors[: len(self.anchors)])
        self.surrogate = Surrogate(points)

    def _fixed(self) -> Tensor | None:
        """The masks to run where scores have no say in it."""
        image, count = self.image, self.count
        if self.shortcut.clusters and count:
            members, self.groups = clusters(image.points, min(self.shortcut.clusters, count), torch.Generator().manual_seed(self.seed))
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
        best, squared = self._estimate(self._posterior())
        found, seen = best, torch.cat(self.scores)[len(self.anchors) :]
        if self.groups is not None:
            found = self.image.summed(self.weights, seen[self.groups])
        if self.part is not None:
            found = self.part.summed(self.weights, seen)
        return found, _relative(best, squared, found)

    def _posterior(self) -> Posterior:
        return self.surrogate.fit(self.anchors + self.run, torch.cat(self.scores))

    @cached_property
    def _draws(self) -> Tensor:
        return self.surrogate.draws(SAMPLES, torch.Generator().manual_seed(self.seed))

    def _samples(self, posterior: Posterior) -> Tensor:
        """Scores of the masks as they may be `[S, m, T]`."""
        return posterior.samples(self._draws)[:, : self.count].to(self.image.activations)

    def _estimate(self, posterior: Posterior) -> tuple[Tensor, Tensor]:
        """The expected map `[T, P]`, and its expected squared distance from the exact one `[T]`.

        Maps with softmax weights are no linear function of the scores, and one uncertain score may decide such a map: theirs are the
        mean and the variance over samples of the scores.
        """
        if len(self.run) == self.count or self.weights != "softmax":
            best = self.image.summed(self.weights, posterior.mean[: self.count].to(self.image.activations))
            known = len(self.run) == self.count
            return best, (posterior.variance * (0 if known else posterior.squared_error(self._parts(None)))).to(best)
        maps = torch.stack([self.image.summed(self.weights, scores) for scores in self._samples(posterior)])
        best = maps.mean(0)
        return best, (maps - best).square().sum(2).mean(0)

    def _parts(self, scores: Tensor | None) -> Tensor:
        """How the map changes with each mask's score, near these `[m]`: `[m, P]`, and nothing for the anchors."""
        parts = self.image.parts if scores is None else self.image.softmax_parts(scores)
        return torch.cat([parts, parts.new_zeros(len(self.anchors), parts.shape[1])])

    def _directions(self) -> Tensor:
        """What the error is made of `[n, p]`: the masks' parts of the map, of every target where they depend on scores."""
        if self.weights != "softmax" or not self.run:
            return self._parts(None)
        samples = self._samples(self._posterior())[:TRIED]
        parts = [self._parts(scores) for sample in samples for scores in sample.T]
        return torch.cat([one / one.norm().clamp(min=torch.finfo(one.dtype).tiny) for one in parts], dim=1)

    def _close_enough(self) -> bool:
        best, squared = self._estimate(self._posterior())
        return bool((_relative(best, squared, best) <= self.shortcut.tolerance).all())


def _relative(best: Tensor, squared: Tensor, found: Tensor) -> Tensor:
    """Expected distance of a map from the exact one, as a share of that one's expected size, by target `[T]`.

    Args:
        best: the expected map `[T, P]`.
        squared: its own expected squared distance `[T]`.
        found: the map `[T, P]`.
    """
    whole = squared + best.relu().square().sum(1)
    return ((squared + (found - best).square().sum(1)) / torch.where(whole > 0, whole, 1)).sqrt()
