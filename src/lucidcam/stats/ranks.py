"""How well a channel's values tell images with a concept from those without: area under the ROC curve, its interval, its test.

Half of the images choose, the other half tests.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

SURE = 1.959964
"""Standard deviations on either side of a 95 % interval."""

FEW = 15
"""With fewer images than this on either side, small probabilities are counted rather than approximated."""

FINEST = 2000
"""Sums of ranks are counted one by one up to this."""


def halves(truth: Truth) -> Truth:
    """Which images `[n]` names are chosen by, the rest being for the test: every other one of those that show the same concepts `[n, K]`.

    So of each concept it is nearly every other one. The order of the concepts makes no difference.
    """
    fit = np.zeros(len(truth), bool)
    turn: Counter[bytes] = Counter()
    spare = 0
    for i, row in enumerate(truth):
        key = row.tobytes()
        if not turn[key]:  # the first of its kind: kinds that come once must not all go to one half
            turn[key] = 1 + spare
            spare = 1 - spare
        fit[i] = turn[key] % 2 == 1
        turn[key] += 1
    return fit


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

    By the normal approximation with the correction for ties; where that is below 0.05 and fewer than 15 images are on one side, exactly:
    far out it is much too small for channels that are 0 on most images.
    """
    count, present = len(truth), int(truth.sum())
    absent = count - present
    _, ties = np.unique(values, return_counts=True)
    variance = present * absent / 12 * (count + 1 - float((ties**3 - ties).sum()) / (count * (count - 1)))
    if variance <= 0:
        return 1.0
    above = float(areas(values[:, None], truth[:, None])[0, 0]) * present * absent - present * absent / 2 - 0.5
    found = 0.5 * math.erfc(above / math.sqrt(2 * variance))
    if found >= 0.05 or min(present, absent) >= FEW:
        return found
    # Images with the concept rank high and those without low: whichever are fewer, their places from their own end have a small sum.
    return _exact(-values, truth) if present <= absent else _exact(values, ~truth)


def _exact(values: Values, few: Truth) -> float:
    """Probability that so many places, drawn at random of all, have as small a sum of ranks as `few` `[n]` have.

    Sums beyond 2000 halves are counted in larger units, always so that the probability comes out larger, by less than a hundredth or so.
    """
    doubled = np.rint(2 * ranks(values[:, None])[:, 0]).astype(np.int64)  # equal values share a rank, that may be half a number
    count, most = int(few.sum()), int(doubled[few].sum())
    unit = max(1, most // FINEST)
    doubled, most = doubled // unit, most // unit
    ways = np.zeros((count + 1, most + 1))  # by how many places were drawn, and their sum
    ways[0, 0] = 1
    for rank, places in zip(*(each.tolist() for each in np.unique(doubled, return_counts=True)), strict=True):
        before = ways.copy()
        for drawn in range(1, min(places, count, most // max(rank, 1)) + 1):
            ways[drawn:, drawn * rank :] += math.comb(places, drawn) * before[: count + 1 - drawn, : most + 1 - drawn * rank]
    return float(ways[count].sum()) / math.comb(len(values), count)


def _variance(placed: Values) -> float:
    return float(placed.var(ddof=1)) if len(placed) > 1 else 0.25


def _hanley(area: float, yes: int, no: int) -> float:
    one, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (yes - 1) * (one - area**2) + (no - 1) * (other - area**2)
    return math.sqrt(max(spread, 0.0) / (yes * no))
