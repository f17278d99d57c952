"""How far people agree: Krippendorff's alpha, Fleiss' kappa and Randolph's."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lucidcam.errors import InputError

Level = Literal["nominal", "ordinal", "interval"]
Ratings = npt.NDArray[np.float64]


def krippendorff_alpha(ratings: Any, level: Level = "nominal") -> float:
    """Krippendorff's alpha, `1 − D_o / D_e` (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    With the coincidences `o_ck` of the values `c` and `k` within units, of which each has as many raters as it happens to have, their
    sums `n_c`, and `n = Σ n_c`: `α = 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck`. The distance `δ²` is 0 or 1 (nominal), `(c − k)²`
    (interval), or `(Σ_{g=c..k} n_g − (n_c + n_k) / 2)²` (ordinal).

    Args:
        ratings: `[raters, units]`; numbers, NaN where a rater did not rate.
        level: of measurement: what distances mean.

    Returns:
        1: all agree; 0: as by chance; below 0: less than by chance. NaN where it is not defined: no unit has two raters, or all values
        are the same.

    Raises:
        InputError: for another shape or level.
    """
    values = np.asarray(ratings, np.float64)
    if values.ndim != 2 or level not in ("nominal", "ordinal", "interval"):
        raise InputError(f"expected ratings [raters, units], and nominal, ordinal or interval; got {list(values.shape)} and {level!r}.")
    categories = np.unique(values[np.isfinite(values)])
    counts = (values[:, :, None] == categories).sum(0).astype(np.float64)  # [units, categories]
    counts = counts[counts.sum(1) >= 2]
    if not len(counts) or np.count_nonzero(counts.sum(0)) < 2:
        return float("nan")
    raters = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :]
    pairs[:, range(len(categories)), range(len(categories))] -= counts
    coincidences = (pairs / (raters - 1)[:, None, None]).sum(0)
    totals = coincidences.sum(1)
    distance = _distance(categories, totals, level)
    expected = float((np.outer(totals, totals) * distance).sum())
    return 1 - (float(totals.sum()) - 1) * float((coincidences * distance).sum()) / expected


def _distance(categories: Ratings, totals: Ratings, level: Level) -> Ratings:
    if level == "nominal":
        return 1 - np.eye(len(categories))
    if level == "interval":
        return np.asarray((categories[:, None] - categories[None]) ** 2)
    below = np.cumsum(totals) - totals / 2  # the middle of each category's ranks
    return np.asarray((below[:, None] - below[None]) ** 2)


def fleiss_kappa(counts: Any) -> float:
    """Fleiss' kappa, `(P̄ − P̄_e) / (1 − P̄_e)` (Fleiss, Psychological Bulletin 1971).

    Args:
        counts: `[units, categories]`: how many raters gave a unit a category; as many raters, two at least, for each unit.

    Returns:
        1: all agree; 0: as by chance. NaN where all ratings are the same.

    Raises:
        InputError: for another shape, or units with different numbers of raters.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or not len(table):
        raise InputError(f"expected counts [units, categories]; got {list(table.shape)}.")
    raters = table.sum(1)
    n = raters[0]
    if n < 2 or (raters != n).any():
        raise InputError("Fleiss' kappa needs the same number of raters for each unit, two at least; Krippendorff's alpha does not.")
    shares = table.sum(0) / table.sum()
    chance = float((shares**2).sum())
    if chance == 1:
        return float("nan")
    agreed = float(((table**2).sum(1) - n).mean() / (n * (n - 1)))
    return (agreed - chance) / (1 - chance)


def randolph_kappa(counts: Any) -> float:
    """Randolph's free-marginal kappa, `(P̄ − 1/k) / (1 − 1/k)` (Randolph 2005; of two raters: Bennett, Alpert and Goldstein's S, 1954).

    Chance is the same for each of a unit's `k` options, and not how often they were given elsewhere. It fits units that offer options of
    their own, few of the many that there are.

    Args:
        counts: `[units, options]`: how many raters gave a unit each of its options; units with less than two raters are left out.

    Returns:
        1: all agree; 0: as by chance. NaN where no unit has two raters.

    Raises:
        InputError: for another shape.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise InputError(f"expected counts [units, options], two options at least; got {list(table.shape)}.")
    table = table[table.sum(1) >= 2]
    if not len(table):
        return float("nan")
    raters, chance = table.sum(1), 1 / len(table[0])
    agreed = float((((table**2).sum(1) - raters) / (raters * (raters - 1))).mean())
    return (agreed - chance) / (1 - chance)
