"""How well a channel's values tell images with a concept from those without: area under the ROC curve, its interval, its test."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

SURE = 1.959964
"""Standard deviations on either side of a 95 % interval."""


def ranks(values: Values) -> Values:
    """Ranks from 1 within each column `[n, C]`; equal values share the mean of theirs."""
    found = np.empty_like(values)
    for column in range(values.shape[1]):
        _, place, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        found[:, column] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def areas(values: Values, truth: Truth) -> Values:
    """AUC `[C, K]` of each column of values `[n, C]` for each concept `[n, K]`, by the rank sum.

    >>> areas(np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([[0], [0], [1], [1]], bool))
    array([[0.75]])
    """
    present = truth.sum(0)
    absent = len(truth) - present
    summed = ranks(values).T @ truth
    return np.asarray((summed - present * (present + 1) / 2) / (present * absent))


def interval(values: Values, truth: Truth) -> tuple[float, float, float]:
    """AUC of one column `[n]` for one concept `[n]` with its 95 % interval.

    The standard error is DeLong's (DeLong, DeLong & Clarke-Pearson 1988), from how each image with the concept is placed among those
    without and the other way round; the interval is made on the logit scale, where it stays within 0 and 1. Of an AUC of 1 or 0 that error
    is 0, however few images there are: there it is Hanley & McNeil's (1982), as if half an image of the fewer were misplaced.
    """
    yes, no = values[truth], values[~truth]
    both, first, second = (ranks(each[:, None])[:, 0] for each in (np.concatenate([yes, no]), yes, no))
    placed = (both[: len(yes)] - first) / len(no)
    placed_no = 1 - (both[len(yes) :] - second) / len(yes)
    area = float(placed.mean())
    if area in (0.0, 1.0):
        inner = abs(area - 0.5 / min(len(yes), len(no)))
        error = _hanley(max(inner, 1 - inner), len(yes), len(no))
    else:
        inner = area
        error = math.sqrt(_variance(placed) / len(yes) + _variance(placed_no) / len(no))
    logit, step = math.log(inner / (1 - inner)), SURE * error / (inner * (1 - inner))
    low, high = (1 / (1 + math.exp(-min(max(edge, -700.0), 700.0))) for edge in (logit - step, logit + step))
    return area, min(low, area), max(high, area)


def chance(values: Values, truth: Truth) -> float:
    """Probability that a column `[n]` without relation to the concept `[n]` would have as large an AUC (Mann–Whitney, one-sided).

    By the normal approximation with the correction for ties; from about eight images on each side it is close.
    """
    count, present = len(truth), int(truth.sum())
    absent = count - present
    _, ties = np.unique(values, return_counts=True)
    variance = present * absent / 12 * (count + 1 - float((ties**3 - ties).sum()) / (count * (count - 1)))
    if variance <= 0:
        return 1.0
    above = float(areas(values[:, None], truth[:, None])[0, 0]) * present * absent - present * absent / 2 - 0.5
    return 0.5 * math.erfc(above / math.sqrt(2 * variance))


def _variance(placed: Values) -> float:
    return float(placed.var(ddof=1)) if len(placed) > 1 else 0.25


def _hanley(area: float, yes: int, no: int) -> float:
    one, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (yes - 1) * (one - area**2) + (no - 1) * (other - area**2)
    return math.sqrt(max(spread, 0.0) / (yes * no))
