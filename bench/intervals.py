"""How often intervals cover the truth, and how often tests reject a true hypothesis, with few images.

Run it from the root of the repository:

    python bench/intervals.py

Writes the section `intervals` of docs/benchmarks.md. No network is asked: records are drawn from populations whose mean is known and summed
in the states that an evaluation sums. It takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lucidcam.auditing.trials import Outcome, Trial
from lucidcam.metrics import Metric, Record, State
from lucidcam.metrics.localization_error import LocalizationError
from lucidcam.metrics.maxboxacc import LEVELS, MaxBoxAcc
from lucidcam.metrics.pointing_game import PointingGame
from lucidcam.metrics.seed_miou import SeedMeanIoU
from lucidcam.stats.interval import Bounds, mean_interval
from lucidcam.stats.paired import mean_p
from report import circumstances, table, write_section

Values = npt.NDArray[np.float64]
Rng = np.random.Generator

FREE: Bounds = (-np.inf, np.inf)
MANY = 400_000
"""Draws that a population's mean is taken from, where it is not known."""


@dataclass(frozen=True)
class Population:
    """What images are drawn from.

    Attributes:
        name: in the table.
        draw: n values.
        mean: of all; None: taken from many draws.
        bounds: the ends of the scale.
    """

    name: str
    draw: Callable[[Rng, int], Values]
    mean: float | None = None
    bounds: Bounds = FREE

    @property
    def truth(self) -> float:
        """The mean of all."""
        return float(self.draw(np.random.default_rng(99), MANY).mean()) if self.mean is None else self.mean


def hits(share: float) -> Population:
    return Population(f"hits, {share:.0%}", lambda rng, n: (rng.random(n) < share).astype(np.float64), share, (0, 1))


def rare(share: float) -> Population:
    return Population(
        f"0, but {share:.0%} uniform in 0.5 to 1", lambda rng, n: (rng.random(n) < share) * rng.uniform(0.5, 1, n), share * 0.75, (0, 1)
    )


POPULATIONS = [
    *map(hits, (0.02, 0.05, 0.1, 0.3, 0.5, 0.9, 0.98)),
    *map(rare, (0.05, 0.1, 0.3, 0.5)),
    Population("beta(0.1, 0.9): nearly 0, some nearly 1", lambda rng, n: rng.beta(0.1, 0.9, n), 0.1, (0, 1)),
    Population("beta(0.5, 4.5)", lambda rng, n: rng.beta(0.5, 4.5, n), 0.1, (0, 1)),
    Population("beta(9, 0.5)", lambda rng, n: rng.beta(9, 0.5, n), 9 / 9.5, (0, 1)),
    Population("uniform", lambda rng, n: rng.random(n), 0.5, (0, 1)),
    Population("lognormal, σ = 1, a tenth, at most 1", lambda rng, n: np.minimum(rng.lognormal(0, 1, n) / 10, 1), None, (0, 1)),
    Population("difference of hits, 15 % − 10 %", lambda rng, n: (rng.random(n) < 0.15) - (rng.random(n) < 0.1) * 1.0, 0.05, (-1, 1)),
    Population("normal", lambda rng, n: rng.normal(0, 1, n), 0),
    Population("Student, 3 degrees of freedom", lambda rng, n: rng.standard_t(3, n), 0),
    Population("exponential", lambda rng, n: rng.exponential(1, n), 1),
    Population("lognormal, σ = 0.5", lambda rng, n: rng.lognormal(0, 0.5, n), np.exp(0.125)),
    Population("lognormal, σ = 1", lambda rng, n: rng.lognormal(0, 1, n), np.exp(0.5)),
    Population("lognormal, σ = 1.5", lambda rng, n: rng.lognormal(0, 1.5, n), np.exp(1.125)),
    Population("0, but 30 % lognormal, σ = 1", lambda rng, n: (rng.random(n) < 0.3) * rng.lognormal(0, 1, n), 0.3 * np.exp(0.5)),
]


def means(sizes: Sequence[int], trials: int) -> Iterator[list[str]]:
    """Of each population: coverage at each size, the percentile bootstrap's in brackets, and the width beside that of the percentiles."""
    for population in POPULATIONS:
        truth, cells = population.truth, []
        for n in sizes:
            rng = np.random.default_rng(n)
            weights = rng.multinomial(n, np.full(n, 1 / n), 1000) / n
            covered, plain, width, plain_width = 0, 0, 0.0, 0.0
            for _ in range(trials):
                values = population.draw(rng, n)
                low, high = mean_interval(values, population.bounds)
                first, last = np.quantile(weights @ values, [0.025, 0.975])
                covered += not (truth < low - 1e-12 or truth > high + 1e-12)
                plain += bool(first - 1e-12 <= truth <= last + 1e-12)
                if np.isfinite(high - low):
                    width, plain_width = width + high - low, plain_width + last - first
            cells.append(f"{covered / trials:.3f} ({plain / trials:.2f}; ×{width / plain_width:.1f})")
        yield [population.name, *cells]


@dataclass(frozen=True)
class Figure:
    """A figure of a metric on images whose truth is known."""

    name: str
    metric: Metric
    draw: Callable[[Rng], Sequence[Record]]
    truth: float
    figure: str = ""


def classes(shares: Sequence[float], frequencies: Sequence[float]) -> Figure:
    def draw(rng: Rng) -> Sequence[Record]:
        label = int(rng.choice(len(shares), p=frequencies))
        return [Record(np.array([float(rng.random() < shares[label]), 0, 0]), str(label))]

    name = f"mean over {len(shares)} classes ({', '.join(f'{share:.0%}' for share in frequencies)} of the images)"
    return Figure(name, PointingGame(), draw, 100 * float(np.mean(shares)))


def ratio() -> Figure:
    def draw(rng: Rng) -> Sequence[Record]:
        area, share = rng.lognormal(4, 1), rng.beta(4, 2)
        return [Record(np.array([area * share, area]), "a"), Record(np.array([area * share * 2, area * 2.5]), "b")]

    return Figure("ratio of sums, mean over 2 classes", SeedMeanIoU(), draw, 50 * (2 / 3) * 1.8)


def ranked(share: float) -> Figure:
    def draw(rng: Rng) -> Sequence[Record]:
        wrong = float(rng.random() < share)
        return [Record(np.array([wrong, wrong, wrong, 1.0]) if rng.random() < 0.8 else np.array([0, 0, wrong, 0.0]))]

    return Figure("share of the images that count, 4 of 5", LocalizationError(), draw, 100 * share)


def repeated() -> Figure:
    def draw(rng: Rng) -> Sequence[Record]:
        wrong = rng.beta(2, 2)
        return [Record(np.array([0, 0, float(rng.random() < wrong), 0.0])) for _ in range(rng.integers(1, 4))]

    return Figure("1 to 3 records per image that hang together", LocalizationError(), draw, 50.0, "localization_error_gt_known")


def tuned(rng: Rng, n: int, height: float = 25, centres: Values | None = None) -> Values:
    """Whether the box is right at each grey level, for n maps: within some levels of where each map has its best one."""
    best = rng.normal(100, 30, n) if centres is None else centres
    return (np.abs(np.arange(LEVELS) - best[:, None]) <= rng.gamma(2, height, n)[:, None]).astype(np.float64)


def threshold() -> Figure:
    truth = float(np.mean([tuned(np.random.default_rng(seed), 5000).mean(0) for seed in range(20)], axis=0).max())
    return Figure("best over thresholds (MaxBoxAcc)", MaxBoxAcc(), lambda rng: [Record(tuned(rng, 1)[0])], 100 * truth)


def figures(sizes: Sequence[int], trials: int) -> Iterator[list[str]]:
    """Coverage of figures that are no means of images."""
    even = classes((0.5, 0.7, 0.9), (1 / 3,) * 3)
    for case in (
        even,
        classes((0.5, 0.7, 0.9), (0.8, 0.1, 0.1)),
        classes((0.9,) * 5, (0.2,) * 5),
        ratio(),
        ranked(0.1),
        repeated(),
        threshold(),
    ):
        cells = []
        for n in sizes:
            rng = np.random.default_rng(n)
            covered, known = 0, 0
            for _ in range(trials):
                state = State(case.metric, resamples=2)
                state.update_all([str(i) for i in range(n)], [case.draw(rng) for _ in range(n)])
                low, high = state.intervals()[case.figure or case.metric.figures[0].name]
                known += bool(np.isfinite(low))
                covered += bool(low <= case.truth <= high)
            cells.append(f"{covered / known:.3f}")
        yield [case.name, *cells]


def effects(sizes: Sequence[int], trials: int) -> Iterator[list[str]]:
    """An audit's effect: the larger of what two trials changed, of images whose probabilities move by a known amount."""
    for name, sizes_of in (
        ("equal effects", (0.3, 0.3)),
        ("effects of 0.1 and 0.3", (0.1, 0.3)),
        ("a third of the images moves, by 0.9", (0.3, 0.3)),
    ):
        cells = []
        for n in sizes:
            rng = np.random.default_rng(n)
            covered = 0
            for _ in range(trials):
                parts = []
                for size, sign in zip(sizes_of, (-1, 1), strict=True):
                    moved = (rng.random(n) < 1 / 3) * 0.9 if "third" in name else rng.beta(2, 2 / size - 2, n)
                    start, empty = np.full(n, 0.5), np.zeros(n)
                    parts.append(Outcome(start, start + sign * moved, start, empty, sign))
                effect = Trial(parts[0], parts[1], ()).effect
                truth = sizes_of[0] if effect.mean == parts[0].effect.mean else sizes_of[1]
                covered += effect.low <= truth <= effect.high
            cells.append(f"{covered / trials:.3f}")
        yield [name, *cells]


def nulls(rng: Rng) -> Iterator[tuple[str, Callable[[int], Values], Bounds]]:
    """Differences whose mean is 0: of things that can be exchanged, and skewed ones."""
    yield "normal", lambda n: rng.normal(0, 1, n), FREE
    yield "Student, 3 degrees of freedom", lambda n: rng.standard_t(3, n), FREE
    yield "two lognormals, σ = 1", lambda n: rng.lognormal(0, 1, n) - rng.lognormal(0, 1, n), FREE
    for share in (0.05, 0.1, 0.3, 0.5, 0.9):
        yield f"two hits, {share:.0%} each", lambda n, p=share: (rng.random(n) < p) - (rng.random(n) < p) * 1.0, (-1, 1)
    yield "two rare events, 20 % uniform in 0.5 to 1", lambda n: rare(0.2).draw(rng, n) - rare(0.2).draw(rng, n), (-1, 1)
    yield "skewed: exponential − 1", lambda n: rng.exponential(1, n) - 1, FREE
    yield "skewed: lognormal, σ = 1, minus its mean", lambda n: rng.lognormal(0, 1, n) - np.exp(0.5), FREE
    yield "skewed: −0.05, but one in ten +0.45", lambda n: np.where(rng.random(n) < 0.1, 0.45, -0.05), (-1, 1)


def sizes_of_tests(sizes: Sequence[int], trials: int) -> Iterator[list[str]]:
    """How often p ≤ 0.05 where there is no difference."""
    for name, draw, bounds in nulls(np.random.default_rng(7)):
        yield [name, *(f"{np.mean([mean_p(draw(n), bounds) <= 0.05 for _ in range(trials)]):.3f}" for n in sizes)]


def share_coverage(sizes: Sequence[int], trials: int) -> list[str]:
    """The least coverage of a share over all shares, exactly."""
    from lucidcam.stats.interval import share_interval, wilson

    cells = []
    grid = np.linspace(0.002, 0.998, 499)
    for n in sizes:
        choose = np.cumsum([0.0, *np.log(np.arange(1, n + 1))])
        counts = np.arange(n + 1)
        chance = np.exp(
            choose[n] - choose[counts] - choose[n - counts] + counts * np.log(grid)[:, None] + (n - counts) * np.log1p(-grid)[:, None]
        )
        least = []
        for kind in (share_interval, wilson):
            low, high = np.array([kind(int(k), n) for k in counts]).T
            least.append(float((chance * ((low <= grid[:, None]) & (grid[:, None] <= high))).sum(1).min()))
        cells.append(f"{least[0]:.3f} ({least[1]:.3f})")
    return ["shares, the least of 499 from 0.002 to 0.998, counted exactly; in brackets Wilson's", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="data sets per number (default 1000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks.md", help="Markdown page to write")
    options = parser.parse_args()
    sizes, tested = (10, 16, 30), (6, 10, 16, 30)
    heads = [f"n = {n}" for n in sizes]
    few = max(options.trials * 2 // 5, 10)
    parts = [
        "## Intervals",
        "How often 95 % intervals cover the truth with few images, and how often p ≤ 0.05 where there is no difference: records are drawn "
        f"from populations that are known, {options.trials} data sets per number ({few} for figures and effects), so a number is right to "
        "about ±0.015. Written by `bench/intervals.py`.",
        "**Means.** Coverage of the interval that is given; in brackets the percentile bootstrap's, and the ratio of their lengths.",
        table(["population", *heads], means(sizes, options.trials)),
        table(["", *heads], [share_coverage(sizes, options.trials)]),
        "**Figures that are no means of images**, and an **audit's effect**: coverage.",
        table(["figure", *heads], [*figures(sizes, few), *([f"audit: {row[0]}", *row[1:]] for row in effects(sizes, few))]),
        "**Comparisons.** How often p ≤ 0.05 for differences whose mean is 0.",
        table(["differences", *(f"n = {n}" for n in tested)], sizes_of_tests(tested, options.trials)),
        circumstances(["numpy", "lucidcam"], [("command", f"`python bench/intervals.py --trials {options.trials}`")]),
    ]
    write_section(options.out, "intervals", "\n\n".join(parts))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
