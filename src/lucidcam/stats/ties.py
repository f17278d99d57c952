"""Who leads by a figure, and who leads with them: a tie is told as a tie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

TINY = 1e-9
"""Figures whose distance is this share of their size differ by rounding alone."""


def leaders(
    figures: Mapping[str, float],
    higher_is_better: bool = True,
    digits: int | None = None,
    differs: Callable[[str, str], bool | None] = lambda first, second: None,
) -> list[str]:
    """Names with the best figure: one, or all that tie with it.

    The best figure is that of the first name which has it. Another one ties with it that is equal to it as both are printed, or that a
    paired test does not tell from it. Figures that are not finite are left out.

    Args:
        figures: by name.
        higher_is_better: False: the lowest is the best.
        digits: after the point, as the figures are printed; None: they are compared by value.
        differs: whether a test tells two names apart; None: they were not compared, and only their figures count.

    Returns:
        The best one first, then those that tie with it, in the order of `figures`; empty where no figure is finite.

    >>> leaders({"a": 0.41, "b": 0.52, "c": 0.524}, digits=2)
    ['c', 'b']
    >>> leaders({"a": 0.41, "b": 0.52}, differs=lambda first, second: False)
    ['b', 'a']
    """
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    if not known:
        return []
    best = (max if higher_is_better else min)(known, key=lambda name: known[name])
    alike = (name for name in known if name != best and (_equal(known[name], known[best], digits) or differs(name, best) is False))
    return [best, *alike]


def _equal(first: float, second: float, digits: int | None) -> bool:
    """Whether two figures read the same."""
    if math.isclose(first, second, rel_tol=TINY):
        return True
    return digits is not None and f"{first:.{digits}f}" == f"{second:.{digits}f}"
