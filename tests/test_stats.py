"""Intervals and paired tests: how often they cover and reject, with few images."""

from __future__ import annotations

import numpy as np
import pytest

from lucidcam.auditing.trials import Outcome, Trial
from lucidcam.metrics import Record, State
from lucidcam.metrics.maxboxacc import MaxBoxAcc
from lucidcam.metrics.pointing_game import PointingGame
from lucidcam.stats.distributions import beta_cdf, student_quantile
from lucidcam.stats.interval import mean_interval, share_interval
from lucidcam.stats.paired import mean_p, sign_flip, signed_rank

FREE = (-np.inf, np.inf)
TRIALS = 600


@pytest.mark.parametrize("n", [2, 5, 10, 30, 300])
def test_nothing_is_certain_that_all_or_none_show(n):
    for hits in (0, n):
        low, high = share_interval(hits, n)
        assert high - low > 0.01
        assert mean_interval([float(hits > 0)] * n, (0, 1)) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize("hit", [0.0, 1.0])
def test_a_figure_of_ten_alike_images_is_not_certain(hit):
    state = State(PointingGame())
    state.update_all([str(i) for i in range(10)], [[Record(np.array([hit, 0, 0]), "a")] for _ in range(10)])
    [(low, high)] = [state.intervals()[figure.name] for figure in PointingGame().figures][:1]
    assert high - low > 20
    assert low <= 100 * hit <= high


def test_shares_are_covered_exactly():
    n, grid = 10, np.linspace(0.002, 0.998, 499)
    log = np.cumsum([0.0, *np.log(np.arange(1, n + 1))])
    k = np.arange(n + 1)
    chances = np.exp(log[n] - log[k] - log[n - k] + k * np.log(grid)[:, None] + (n - k) * np.log1p(-grid)[:, None])
    low, high = np.array([share_interval(int(hits), n) for hits in k]).T
    assert (chances * ((low <= grid[:, None]) & (grid[:, None] <= high))).sum(1).min() >= 0.93


@pytest.mark.parametrize(
    ("draw", "truth", "bounds", "least"),
    [
        (lambda rng: rng.normal(0, 1, 10), 0.0, FREE, 0.93),
        (lambda rng: rng.random(10), 0.5, (0, 1), 0.93),
        (lambda rng: rng.exponential(1, 10), 1.0, FREE, 0.93),
        (lambda rng: (rng.random(10) < 0.05) * 1.0, 0.05, (0, 1), 0.93),
        (lambda rng: (rng.random(10) < 0.1) * rng.uniform(0.5, 1, 10), 0.075, (0, 1), 0.93),
        (lambda rng: rng.lognormal(0, 1, 10), np.exp(0.5), FREE, 0.88),  # heavy tails without an end: no interval of ten values covers
    ],
    ids=["normal", "uniform", "exponential", "rare hits", "rare events", "lognormal"],
)
def test_means_of_ten_are_covered(draw, truth, bounds, least):
    rng = np.random.default_rng(10)
    ends = np.array([mean_interval(draw(rng), bounds) for _ in range(TRIALS)])
    assert ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() >= least


def test_the_larger_of_two_effects_is_covered():
    rng, n, covered = np.random.default_rng(16), 16, 0
    for _ in range(TRIALS):
        start, empty = np.full(n, 0.5), np.zeros(n)
        take, give = (Outcome(start, start + sign * rng.beta(2, 2 / 0.3 - 2, n), start, empty, sign) for sign in (-1, 1))
        effect = Trial(take, give, ()).effect
        covered += effect.low <= 0.3 <= effect.high
    assert covered / TRIALS >= 0.93


@pytest.mark.parametrize("n", [6, 10, 16, 30])
@pytest.mark.parametrize("kind", ["normal", "hits", "rare hits"])
def test_comparisons_reject_as_seldom_as_they_say(n, kind):
    rng = np.random.default_rng(n)
    share = {"hits": 0.5, "rare hits": 0.1}.get(kind)
    bounds = FREE if share is None else (-1, 1)
    p = [
        mean_p(rng.normal(0, 1, n) if share is None else (rng.random(n) < share) * 1.0 - (rng.random(n) < share), bounds)
        for _ in range(TRIALS)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.06


def test_equal_values_do_not_differ():
    for n in (1, 6, 30):
        assert mean_p(np.zeros(n)) == mean_p(np.zeros(n), (-1, 1)) == sign_flip(np.zeros(n)) == signed_rank(np.zeros(n)) == 1


def test_distributions_and_ranks_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for x, a, b in rng.uniform(0.05, 1, (30, 3)) * (1, 40, 40):
        assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-10)
    assert student_quantile(0.95, 9) == pytest.approx(stats.t.ppf(0.975, 9))
    values = rng.normal(0.3, 1, 20)
    assert signed_rank(values) == pytest.approx(stats.wilcoxon(values, alternative="greater", method="exact").pvalue)


@pytest.mark.parametrize("n", [12, 3000])
def test_parts_merge_in_any_order(n):
    rng = np.random.default_rng(n)
    names = [str(i) for i in range(n)]
    records = [[Record(np.array([float(rng.random() < 0.7), 0, 0]), str(i % 3))] for i in range(n)]

    def part(chosen):
        state = State(PointingGame())
        state.update_all([names[i] for i in chosen], [records[i] for i in chosen])
        return state

    def both(first, second):
        state = part(first)
        state.merge(part(second))
        return state.intervals()

    cut = n // 3
    kept = part(range(n)).intervals()
    for found in (both(range(cut), range(cut, n)), both(range(cut, n), range(cut))):
        for name, interval in kept.items():
            assert found[name] == pytest.approx(interval, nan_ok=True)


def test_a_tuned_figure_says_so():
    assert all(figure.tuned for figure in MaxBoxAcc().figures)
    assert not any(figure.tuned for figure in PointingGame().figures)
