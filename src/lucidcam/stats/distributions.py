"""The binomial and Student distributions, by the incomplete beta function."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import exp, isclose, lgamma, log, log1p, sqrt


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the probability that a beta variable of parameters `a` and `b` is at most `x`: the regularised incomplete beta function.

    >>> round(beta_cdf(0.5, 2, 3), 6)
    0.6875
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    scale = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):  # where the continued fraction converges quickly
        return scale * _fraction(x, a, b) / a
    return 1 - scale * _fraction(1 - x, b, a) / b


@lru_cache(maxsize=4096)
def beta_quantile(q: float, a: float, b: float) -> float:
    """Return the value that a beta variable stays below with probability `q`."""
    return _invert(lambda x: beta_cdf(x, a, b), q, 0.0, 1.0)


def student_tail(t: float, freedom: int) -> float:
    """Return the probability that a Student variable lies further from 0 than `t`, on either side.

    >>> round(student_tail(2.262157, 9), 6)
    0.05
    """
    return beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=4096)
def student_quantile(level: float, freedom: int) -> float:
    """Return the distance from 0 within which a Student variable lies with probability `level`."""
    share = _invert(lambda x: beta_cdf(x, freedom / 2, 0.5), 1 - level, 0.0, 1.0)
    return sqrt(freedom * (1 / share - 1))


def _invert(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Find where a rising function reaches a value, by bisection down to neighbouring numbers."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < value:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function (NIST DLMF 8.17.22), by Lentz's algorithm."""
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for coefficient in (even, odd):
            d = 1 / (1 + coefficient * d or tiny)
            c = 1 + coefficient / c or tiny
            value *= c * d
        if isclose(before, value, rel_tol=1e-15, abs_tol=0):
            break
    return value
