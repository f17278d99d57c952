"""Intervals cover as often as they say, and tests reject as seldom, with few images, too: by formula, exactly, and by simulation."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest

from in_turn import in_turn
from lucidcam import registry
from lucidcam.metrics import Record, State
from lucidcam.metrics._state import KEPT
from lucidcam.metrics.average_drop import AverageDrop, WinRate
from lucidcam.metrics.localization_error import LocalizationError
from lucidcam.metrics.max_sensitivity import MaxSensitivity
from lucidcam.metrics.maxboxacc import LEVELS, MaxBoxAcc
from lucidcam.metrics.pointing_game import PointingGame
from lucidcam.stats.distributions import beta_cdf, beta_quantile, student_quantile, student_tail
from lucidcam.stats.interval import mean_interval, share_interval, weighted_means, wilson
from lucidcam.stats.paired import mean_p, normal_p, sign_flip, signed_rank

LEAST = 0.93
"""Share of samples whose interval covers the truth, at least."""

SIZE = 0.06
"""Share of samples in which a true hypothesis is rejected, at most."""


# ----------------------------------------------------------------------------------------------------------------- by formula


def test_distributions_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    for a, b in ((0.5, 0.5), (1, 10), (7, 4), (300.5, 12), (5e5, 5e5)):
        for x in (0.0, 1e-6, 0.1, 0.4999, 0.9, 1.0):
            assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-9, abs=1e-14)
        for q in (0.005, 0.025, 0.5, 0.975):
            assert beta_quantile(q, a, b) == pytest.approx(stats.beta.ppf(q, a, b), rel=1e-9)
    for freedom in (1, 2, 9, 500):
        assert student_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
        assert student_tail(1.7, freedom) == pytest.approx(2 * stats.t.sf(1.7, freedom), rel=1e-9)


def test_intervals_of_shares_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 5, 10, 200, 100_000):
        for hits in {0, 1, n // 3, n - 1, n}:
            exact, approximate = (stats.binomtest(hits, n).proportion_ci(method=method) for method in ("exact", "wilson"))
            assert share_interval(hits, n) == pytest.approx((exact.low, exact.high), abs=1e-9)
            assert wilson(hits, n) == pytest.approx((approximate.low, approximate.high), abs=1e-9)


@pytest.mark.parametrize("differences", [[3.0, 1.0, 2.0, -0.5], [1.0, 1.0, -1.0, 2.0, 2.0, 0.0], [-1.0, -2.0], [5.0] * 7])
def test_the_signed_rank_test_counts_all_signs(differences):
    x = np.array([value for value in differences if value])
    ranks = np.array([(np.abs(x) < abs(value)).sum() + (1 + (np.abs(x) == abs(value)).sum()) / 2 for value in x])
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=len(x))]
    assert signed_rank(differences) == pytest.approx(np.mean([total >= ranks[x > 0].sum() for total in sums]))


def test_the_signed_rank_test_of_many_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = np.round(np.random.default_rng(0).normal(0.15, 1, 300), 1)
    values = values[values != 0]
    expected = stats.wilcoxon(values, alternative="greater", method="approx", correction=True).pvalue
    assert signed_rank(values) == pytest.approx(expected, rel=0.02)
    assert signed_rank(values[:150]) == pytest.approx(stats.wilcoxon(values[:150], alternative="greater", method="approx").pvalue, rel=0.05)


def test_the_sign_flip_test_counts_all_signs():
    x = np.array([0.3, -0.1, 0.7, 0.2, 0.5, -0.2])
    flipped = [abs(np.dot(signs, x)) for signs in itertools.product((-1, 1), repeat=6)]
    assert sign_flip(x) == pytest.approx(np.mean([value >= abs(x.sum()) - 1e-12 for value in flipped]))
    assert sign_flip(np.random.default_rng(0).normal(0, 1, 40)) > 0.05
    assert sign_flip(np.random.default_rng(0).normal(2, 1, 40)) == pytest.approx(1 / 1001)


def test_the_further_observation_makes_hits_an_exact_share():
    """Weights uniform on the simplex, with one more value at the end: for hits and misses these are Clopper and Pearson's quantiles."""
    values = np.array([0.0] * 7 + [1.0] * 3)
    low, high = share_interval(3, 10)
    assert np.quantile(weighted_means(values, 0.0, 200_000), 0.025) == pytest.approx(low, abs=0.002)
    assert np.quantile(weighted_means(values, 1.0, 200_000), 0.975) == pytest.approx(high, abs=0.003)
    assert mean_interval(values, (0, 1)) == pytest.approx((low, high))
    assert mean_interval(100 * values, (0, 100)) == pytest.approx((100 * low, 100 * high))


# -------------------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize("n", [2, 5, 10, 16, 30, 200])
def test_shares_are_covered_for_every_truth(n):
    """Counted exactly, for every share on a grid, and where the ends of the intervals are, where coverage jumps."""
    stats = pytest.importorskip("scipy.stats")
    low, high = np.array([share_interval(hits, n) for hits in range(n + 1)]).T
    truth = np.concatenate([np.linspace(0.001, 0.999, 999), low[1:] - 1e-9, high[:-1] + 1e-9])
    chance = stats.binom.pmf(np.arange(n + 1), n, truth[:, None])
    covered = (chance * ((low <= truth[:, None]) & (truth[:, None] <= high))).sum(1)
    assert covered.min() >= 0.95 - 1e-9


POPULATIONS = {
    "hits 2 %": (lambda rng, n: (rng.random(n) < 0.02) * 1.0, 0.02, (0, 1)),
    "hits 10 %": (lambda rng, n: (rng.random(n) < 0.1) * 1.0, 0.1, (0, 1)),
    "hits 90 %": (lambda rng, n: (rng.random(n) < 0.9) * 1.0, 0.9, (0, 1)),
    "rare, 5 % large": (lambda rng, n: (rng.random(n) < 0.05) * rng.uniform(0.5, 1, n), 0.0375, (0, 1)),
    "rare, 30 % of any size": (lambda rng, n: (rng.random(n) < 0.3) * rng.random(n), 0.15, (0, 1)),
    "nearly 0, some nearly 1": (lambda rng, n: rng.beta(0.1, 0.9, n), 0.1, (0, 1)),
    "skewed to 0": (lambda rng, n: rng.beta(0.5, 4.5, n), 0.1, (0, 1)),
    "skewed to 1": (lambda rng, n: rng.beta(9, 0.5, n), 9 / 9.5, (0, 1)),
    "difference of hits": (lambda rng, n: (rng.random(n) < 0.15) * 1.0 - (rng.random(n) < 0.1), 0.05, (-1, 1)),
    "normal": (lambda rng, n: rng.normal(0, 1, n), 0.0, None),
    "heavy tails": (lambda rng, n: rng.standard_t(3, n), 0.0, None),
    "exponential": (lambda rng, n: rng.exponential(1, n), 1.0, (0, math.inf)),
    "lognormal": (lambda rng, n: rng.lognormal(0, 1, n), math.exp(0.5), (0, math.inf)),
    "lognormal, negative": (lambda rng, n: -rng.lognormal(0, 1, n), -math.exp(0.5), None),
    "0, or lognormal": (lambda rng, n: (rng.random(n) < 0.3) * rng.lognormal(0, 1, n), 0.3 * math.exp(0.5), None),
}


@pytest.mark.parametrize(("name", "n"), in_turn(POPULATIONS, [10, 16]))
def test_means_are_covered(name, n):
    draw, truth, bounds = POPULATIONS[name]
    rng = np.random.default_rng(n)
    ends = np.array([mean_interval(draw(rng, n), bounds) for _ in range(1000)])
    # Where all values are alike on a scale without an end, no interval is given: that is no claim, and no miss.
    ends = ends[np.isfinite(ends).all(1)]
    assert len(ends) > 950
    assert ((ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])).mean() >= LEAST


def test_values_that_spread_are_not_given_an_interval_of_the_whole_scale():
    """On a scale from 0 to 1, values between 0.4 and 0.6: Student's interval, within a factor."""
    rng = np.random.default_rng(0)
    for n, factor in ((10, 2.0), (30, 1.5), (300, 1.3)):
        values = rng.normal(0.5, 0.03, n)
        low, high = mean_interval(values, (0, 1))
        student = 2 * student_quantile(0.95, n - 1) * values.std(ddof=1) / math.sqrt(n)
        assert student <= high - low <= factor * student
        assert low <= values.mean() <= high


def test_the_interval_depends_on_the_values_alone():
    values = np.random.default_rng(0).beta(1, 3, 15)
    assert mean_interval(values, (0, 1)) == mean_interval(values[::-1], (0, 1))
    assert mean_interval(1 - values, (0, 1)) == pytest.approx(tuple(1 - end for end in reversed(mean_interval(values, (0, 1)))), abs=0.02)
    wide, narrow = mean_interval(values, (0, 1), 0.99), mean_interval(values, (0, 1), 0.8)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_what_is_not_known_has_no_interval():
    assert np.isnan(mean_interval([])).all()
    assert np.isnan(mean_interval([3.0] * 9)).all()  # alike, and no end of a scale says what others could be
    assert np.isnan(mean_interval([1.0, math.nan], (0, 1))).all()
    assert mean_interval([0.4] * 9, (0, 1)) == pytest.approx((0.4 * share_interval(9, 9)[0], 1 - 0.6 * share_interval(9, 9)[0]))
    low, high = mean_interval([2.0, 3.0, 2.5], (0, 1))  # beyond the scale: it reaches as far as they do
    assert low < 2.5 < high


# ------------------------------------------------------------------------------------------------------------------------ size


NULLS = {
    "normal": (lambda rng, n: rng.normal(0, 1, n), None),
    "heavy tails": (lambda rng, n: rng.standard_t(3, n), None),
    "two lognormals": (lambda rng, n: rng.lognormal(0, 1, n) - rng.lognormal(0, 1, n), None),
    "two hits 10 %": (lambda rng, n: (rng.random(n) < 0.1) * 1.0 - (rng.random(n) < 0.1), (-1, 1)),
    "two hits 50 %": (lambda rng, n: (rng.random(n) < 0.5) * 1.0 - (rng.random(n) < 0.5), (-1, 1)),
    "ratings with ties": (lambda rng, n: rng.integers(-2, 3, n) - rng.integers(-2, 3, n) * 1.0, (-4, 4)),
    "skewed": (lambda rng, n: rng.exponential(1, n) - 1, None),
    "a rare gain": (lambda rng, n: np.where(rng.random(n) < 0.1, 0.45, -0.05), (-1, 1)),
}


@pytest.mark.parametrize(("name", "n"), in_turn(NULLS, [6, 10, 16, 30]))
def test_where_nothing_differs_little_is_significant(name, n):
    draw, bounds = NULLS[name]
    rng = np.random.default_rng(n)
    assert np.mean([mean_p(draw(rng, n), bounds) <= 0.05 for _ in range(600)]) <= SIZE


def test_what_differs_is_significant_and_agrees_with_its_interval():
    rng = np.random.default_rng(3)
    significant = 0
    for _ in range(200):
        values = rng.normal(0.15, 0.15, 12)
        low, high = mean_interval(values, (-1, 1))
        p = mean_p(values, (-1, 1))
        assert mean_p(-values, (-1, 1)) == pytest.approx(p, rel=0.2, abs=0.01)
        if p < 0.045:
            assert low > 0 or high < 0
        significant += p < 0.05
    assert significant > 120


def test_ties_and_few_differences_are_not_significant():
    assert mean_p([0.0] * 20, (-1, 1)) == mean_p([0.0] * 20) == 1
    assert mean_p([0.1, -0.1] * 5, (-1, 1)) == 1
    assert mean_p([0.3, 0.31, 0.29, 0.3, 0.32]) > 0.05  # five images: 2 of 32 signs
    assert mean_p([1.0] * 6, (-1, 1)) == pytest.approx(2 * 0.5**6)  # McNemar's exact test
    assert mean_p([1.0] * 5 + [0.0] * 5, (-1, 1)) > 0.05
    assert math.isnan(mean_p([]))
    assert normal_p(1.0, -0.5, 2.5) > 0.05 > normal_p(-1.0, -2.0, -0.1)
    assert normal_p(0.0, 0.0, 0.0) == 1


# ----------------------------------------------------------------------------------------------------------------------- states


def state(metric, records, resamples=50):
    found = State(metric, resamples=resamples)
    found.update_all([f"image {i}" for i in range(len(records))], records)
    return found


def drops(values, resamples=50):
    return state(AverageDrop(), [[Record(np.array([float(value)]))] for value in values], resamples)


@pytest.mark.parametrize("n", [5, 10, 400, KEPT + 200])
@pytest.mark.parametrize("value", [0.0, 100.0])
def test_all_hits_or_none_are_not_certain(n, value):
    low, high = drops([value] * n).intervals()["average_drop"]
    assert (low, high) == pytest.approx(tuple(100 * end for end in share_interval(n if value else 0, n)))
    assert high - low > 100 / n


@pytest.mark.parametrize("name", registry.metrics)
def test_no_figure_of_a_scale_is_certain_where_all_images_agree(name):
    """Every metric, all figures at an end of their scale or in its middle: the interval is never a point."""
    made = registry.metrics[name]()
    size = {"maxboxacc": LEVELS, "maxboxacc_v2": 3 * LEVELS, "road": 18, "sanity": 44}.get(name)
    if size is None:
        size = next(k for k in range(1, 3000) if works(made, k))
    for value in (0.0, 1.0):
        found = state(made, [[Record(np.full(size, value))] for _ in range(10)])
        for figure in made.figures:
            low, high = found.intervals()[figure.name]
            assert math.isnan(low) or low < high, (figure.name, value, low, high)


def works(made, size):
    """Whether records of so many numbers make figures."""
    try:
        figures = made.compute(np.ones((1, 1)), np.ones((1, 1, size)))
    except (ValueError, IndexError):
        return False
    return len(figures) == len(made.figures) and all(len(values) == 1 for values in figures.values())


def test_a_share_of_many_images_is_exact_and_all_else_is_the_bootstraps():
    values = np.zeros(KEPT + 500)
    values[:2] = 100
    low, high = drops(values).intervals()["average_drop"]
    assert (low, high) == pytest.approx(tuple(100 * end for end in share_interval(2, len(values))))
    many = np.random.default_rng(0).uniform(0, 100, KEPT + 500)
    found = drops(many, resamples=200)
    assert found.intervals()["average_drop"] == pytest.approx(tuple(np.quantile(found.samples()["average_drop"], [0.025, 0.975])))


def test_few_images_and_many_agree_where_they_meet():
    values = np.random.default_rng(0).uniform(0, 100, KEPT + 1)
    few, many = drops(values[:KEPT], 1000).intervals()["average_drop"], drops(values, 1000).intervals()["average_drop"]
    assert few == pytest.approx(many, abs=0.5)


def test_intervals_and_comparisons_do_not_depend_on_workers_or_order():
    rng = np.random.default_rng(0)
    made = PointingGame()
    names = [f"{i}" for i in range(24)]
    records = [[Record(np.array([hit, 0, 0]), label)] for hit, label in zip(rng.random(24) < 0.6, rng.choice(["a", "b", "c"], 24))]
    rival = State(made, resamples=50)
    for name, record in zip(names, records, strict=True):
        rival.update(name, [Record(np.array([float(rng.random() < 0.3), 0, 0]), record[0].group)])
    whole = State(made, resamples=50)
    whole.update_all(names, records)
    parts = [State(made, resamples=50) for _ in range(3)]
    for i in rng.permutation(24).tolist():
        parts[i % 3].update(names[i], records[i])
    parts[2].merge(pickle.loads(pickle.dumps(parts[0])))
    parts[2].merge(parts[1])
    assert parts[2].intervals()["pointing_game"] == pytest.approx(whole.intervals()["pointing_game"])
    assert parts[2].compare(rival)["pointing_game"] == pytest.approx(whole.compare(rival)["pointing_game"])
    many = [drops([100.0] * 700), State(AverageDrop(), resamples=50)]
    many[1].update_all([f"other {i}" for i in range(700)], [[Record(np.array([100.0]))]] * 700)
    many[0].merge(many[1])
    assert many[0].intervals()["average_drop"] == pytest.approx(tuple(100 * end for end in share_interval(1400, 1400)))


def test_contributions_to_a_mean_are_the_images_own_values():
    values = np.random.default_rng(0).uniform(0, 100, 12)
    found = drops(values)
    assert found.contributions()["average_drop"].low.tolist() == [values[int(name[6:])] for name in sorted(f"image {i}" for i in range(12))]
    assert found.intervals()["average_drop"] == mean_interval(values, (0, 100))


def test_images_that_do_not_count_make_an_interval_no_narrower():
    """Five images whose class was ranked, five without: five of five, not ten of ten."""
    right, unranked = np.array([0.0, 0, 0, 1]), np.array([0.0, 0, 0, 0])
    found = state(LocalizationError(), [[Record(values)] for values in (right, unranked) for _ in range(5)])
    assert found.intervals()["localization_error_top1"] == pytest.approx(tuple(100 * end for end in share_interval(0, 5)))
    assert found.intervals()["localization_error_gt_known"] == pytest.approx(tuple(100 * end for end in share_interval(0, 10)))


@pytest.mark.parametrize(("shares", "frequencies"), [((0.5, 0.7, 0.9), (1, 1, 1)), ((0.5, 0.7, 0.9), (8, 1, 1)), ((0.95, 0.9), (7, 3))])
def test_means_over_classes_are_covered(shares, frequencies):
    rng = np.random.default_rng(0)
    chances = np.array(frequencies) / sum(frequencies)
    covered = 0
    for _ in range(200):
        labels = rng.choice(len(shares), 12, p=chances)
        hits = rng.random(12) < np.array(shares)[labels]
        found = state(PointingGame(), [[Record(np.array([hit, 0, 0]), str(label))] for hit, label in zip(hits, labels)], resamples=2)
        low, high = found.intervals()["pointing_game"]
        covered += low <= 100 * np.mean(shares) <= high
        assert 0 <= low <= found.figures()["pointing_game"] <= high <= 100
    assert covered >= LEAST * 200


def tuned(rng, centres, width):
    """Whether the box is right at each grey level: within some levels of where each map has its best one."""
    reach = rng.gamma(2, width, len(centres))
    return [[Record((np.abs(np.arange(LEVELS) - c) <= r) * 1.0)] for c, r in zip(centres, reach, strict=True)]


def test_a_threshold_that_is_chosen_on_the_images_is_allowed_for():
    many = tuned(np.random.default_rng(5), np.random.default_rng(6).normal(100, 30, 20_000), 25)
    truth = 100 * np.mean([record.values for [record] in many], 0).max()
    rng = np.random.default_rng(0)
    covered = flattered = 0.0
    for _ in range(150):
        found = state(MaxBoxAcc(), tuned(rng, rng.normal(100, 30, 12), 25), resamples=2)
        low, high = found.intervals()["maxboxacc"]
        value = found.figures()["maxboxacc"]
        assert low < value <= high
        assert low <= 100 * share_interval(round(value * 12 / 100), 12)[0] + 1e-9  # a threshold that was fixed would say more
        covered += low <= truth <= high
        flattered += (value - truth) / 150
    assert flattered > 3  # percentage points
    assert covered >= LEAST * 150


def test_a_tuned_threshold_of_many_images_is_moved_by_its_optimism():
    rng = np.random.default_rng(1)
    found = state(MaxBoxAcc(), tuned(rng, rng.normal(100, 30, KEPT + 100), 25), resamples=60)
    low, high = found.intervals()["maxboxacc"]
    plain = np.quantile(found.samples()["maxboxacc"], [0.025, 0.975])
    assert low < plain[0]
    assert low < found.figures()["maxboxacc"] <= high <= plain[1]


# -------------------------------------------------------------------------------------------------------------------- comparisons


def test_comparisons_of_states():
    rng = np.random.default_rng(0)
    rejected = covered = found = 0
    for _ in range(200):
        images = rng.uniform(0, 60, 10)
        first, second, better = (drops(np.clip(images + rng.normal(by, 8, 10), 0, 100)) for by in (20, 20, 35))
        rejected += first.compare(second)["average_drop"][2] <= 0.05
        low, high, p = better.compare(first)["average_drop"]
        covered += low <= 15 <= high
        found += p <= 0.05
        back = first.compare(better)["average_drop"]
        assert (back[0], back[1]) == pytest.approx((-high, -low), abs=2)
    assert rejected <= SIZE * 200
    assert covered >= LEAST * 200
    assert found > 140
    assert first.compare(first)["average_drop"][2] == 1
    assert drops([1.0, 2.0], resamples=0).compare(drops([2.0, 1.0], resamples=0)) == {}


def test_comparisons_of_classes_and_tuned_thresholds_reject_little():
    rng = np.random.default_rng(0)
    rejected = {"pointing_game": 0, "maxboxacc": 0}
    for _ in range(100):
        labels = rng.choice(3, 12, p=(0.8, 0.1, 0.1))
        games = [
            state(PointingGame(), [[Record(np.array([rng.random() < 0.6, 0.0, 0.0]), str(label))] for label in labels]) for _ in range(2)
        ]
        centres = rng.normal(100, 30, 12)
        boxes = [state(MaxBoxAcc(), tuned(rng, centres, 25), resamples=20) for _ in range(2)]
        for name, (first, second) in {"pointing_game": games, "maxboxacc": boxes}.items():
            low, high, p = first.compare(second)[name]
            rejected[name] += p <= 0.05
            assert p > 0.05 or low > 0 or high < 0
    assert max(rejected.values()) <= SIZE * 100


def test_comparisons_of_win_rates_are_paired_by_image():
    """The groups of a win rate are its rivals, which differ from method to method."""
    rng = np.random.default_rng(0)
    won = rng.random(14) < 0.95
    first = state(WinRate(), [[Record(np.array([float(each)]), "second")] for each in won])
    second = state(WinRate(), [[Record(np.array([1.0 - each]), "first")] for each in won])
    low, high, p = first.compare(second)["win_rate"]
    assert 0 < low <= first.figures()["win_rate"] - second.figures()["win_rate"] <= high
    assert p < 0.05


def test_an_image_that_counts_for_one_method_alone_takes_part():
    values = np.random.default_rng(0).uniform(0, 100, 14)
    fewer = State(AverageDrop(), resamples=50)
    fewer.update_all([f"image {i}" for i in range(10)], [[Record(np.array([value / 3]))] for value in values[:10]])
    low, high, p = drops(values).compare(fewer)["average_drop"]
    assert low < values.mean() - values[:10].mean() / 3 < high
    assert p < 0.05


def test_a_scale_without_an_end_says_nothing_of_values_that_are_alike():
    found = state(MaxSensitivity(), [[Record(np.array([0.5]))] for _ in range(8)])
    assert np.isnan(found.intervals()["max_sensitivity"]).all()


def test_methods_that_many_images_do_not_tell_apart_may_differ_on_others():
    first = drops([100.0] * (KEPT + 1))
    low, high, p = first.compare(first)["average_drop"]
    assert low < 0 < high
    assert p == 1
