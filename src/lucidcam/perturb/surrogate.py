"""A score as a function of its mask, known at a few masks and predicted at all others, with the error of the prediction.

A network's score changes smoothly from mask to mask, and a layer's masks live in the few dimensions of its grid. So the score is taken
for a Gaussian process over that grid (kriging; Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2) with a
Matérn 3/2 covariance: masks run give the posterior mean of those that are not, and the posterior covariance says how far off a sum of
them may be. Which masks to run next follows from the covariance alone: those that reduce the expected error of the sum most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUGGET = 1e-3
"""Variance, relative to the process's own, of what the smooth process does not explain."""


@dataclass(frozen=True)
class Posterior:
    """What is known of the scores after some were seen.

    Attributes:
        mean: `[n, T]`; what was seen where it was.
        variance: of the process, by target `[T]`.
        explained: `[n, m]`, rows whose inner products are the part of the covariance that what was seen explains.
        covariance: of the process before anything was seen, relative to its variance `[n, n]`.
        seen: which scores are known `[m]`.
        lower: Cholesky factor of the covariance of what was seen `[m, m]`.
    """

    mean: Tensor
    variance: Tensor
    explained: Tensor
    covariance: Tensor
    seen: list[int]
    lower: Tensor

    def samples(self, draws: Tensor) -> Tensor:
        """Scores `[S, n, T]` as they may be, each sample in agreement with what was seen.

        A draw from before anything was seen becomes one from after it by what the seen part of it predicts (Matheron's rule).

        Args:
            draws: `[n, S]`, of `Surrogate.draws`; the targets share them, each at its own scale.
        """
        known: Tensor = torch.linalg.solve_triangular(self.lower, draws[self.seen], upper=False)
        away = draws - self.explained @ known
        away[self.seen] = 0
        return self.mean + away.T[..., None] * self.variance.sqrt()

    def squared_error(self, directions: Tensor) -> float:
        """Expected `‖Σ_k (s_k − mean_k) d_k‖²` of the scores s, relative to their variance, for directions `d` `[n, p]`."""
        directions = directions.to(self.covariance)
        whole = (directions * (self.covariance @ directions)).sum()
        known = (self.explained.T @ directions).square().sum()
        return float((whole - known).clamp(min=0))


class Surrogate:
    """The scores of one image's masks.

    Args:
        points: the masks `[n, d]`.
    """

    def __init__(self, points: Tensor) -> None:
        # Apple's GPUs have no float64
        points = points if points.device.type == "mps" else points.double()
        distance = torch.cdist(points, points)
        scale = distance[distance > 0].median() if bool((distance > 0).any()) else distance.new_ones(())
        near = distance.mul_(3**0.5 / scale)
        self.covariance = torch.exp(-near).mul_(1 + near).add_(1)  # the 1: a constant of unknown size

    def pick(self, seen: list[int], directions: Tensor, count: int) -> list[int]:
        """Choose masks to run next, one by one, each the one that most reduces the expected error of `Σ_k s_k d_k`.

        Args:
            seen: masks whose scores are known.
            directions: `d` `[n, p]`.
            count: how many; fewer when no more are left.
        """
        directions = directions.to(self.covariance)
        factor = self._explained(seen)
        left = self.covariance.diagonal() - factor.square().sum(1) + NUGGET
        reach = self.covariance @ directions - factor @ (factor.T @ directions)
        blocked = torch.zeros(len(left), dtype=torch.bool, device=left.device)
        blocked[seen] = True
        picked: list[int] = []
        for _ in range(min(count, len(left) - len(seen))):
            gain = (reach.square().sum(1) / left).masked_fill(blocked, -1)
            best = int(gain.argmax())
            column = (self.covariance[:, best] - factor @ factor[best]) / left[best].sqrt()
            reach = reach - torch.outer(column, reach[best] / left[best].sqrt())
            left = (left - column.square()).clamp(min=NUGGET)
            factor = torch.cat([factor, column[:, None]], dim=1)
            blocked[best] = True
            picked.append(best)
        return picked

    def fit(self, seen: list[int], scores: Tensor) -> Posterior:
        """The posterior.

        Args:
            seen: masks whose scores are known.
            scores: those `[m, T]`.
        """
        scores = scores.to(self.covariance)
        lower = self._lower(seen)
        weights = torch.cholesky_solve(scores, lower)
        mean = self.covariance[:, seen] @ weights
        mean[seen] = scores
        variance = (scores * weights).sum(0) / max(len(seen), 1)
        return Posterior(mean, variance, self._explained(seen), self.covariance, list(seen), lower)

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the process from before anything is seen, in units of its standard deviation, `[n, count]`."""
        normal = torch.randn(len(self.covariance), count, generator=generator, dtype=torch.float64)
        return self._lower(list(range(len(normal)))) @ normal.to(self.covariance)

    def _lower(self, seen: list[int]) -> Tensor:
        among = self.covariance[seen][:, seen]
        among.diagonal().add_(NUGGET)
        lower: Tensor = torch.linalg.cholesky(among)
        return lower

    def _explained(self, seen: list[int]) -> Tensor:
        if not seen:
            return self.covariance.new_zeros(len(self.covariance), 0)
        found: Tensor = torch.linalg.solve_triangular(self._lower(seen), self.covariance[seen], upper=False)
        return found.T
