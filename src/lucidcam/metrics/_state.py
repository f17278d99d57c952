"""Sums over a data set: of the records, and of as many bootstrap samples of the data set as are asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Curve, Figure, Metric, Record
from lucidcam.stats.interval import LEVEL, TINY, Bounds, mean_interval, mean_of_intervals, share_interval
from lucidcam.stats.paired import mean_p, normal_p

KEPT = 1000
"""Up to so many images each one's sums are kept, so that intervals hold for few images, too; of more the bootstrap samples are enough."""


@dataclass
class _Sums:
    """Of one group: the number of records and the sum of their values, for each weighting of the images."""

    count: Array
    values: Array


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each image contributes to a figure, as values `[n]` of which the figure is the mean, or nearly so.

    For a mean over images they are the images' own values. For any other figure they are Tukey's (1958) pseudo-values: how the figure
    changes when the image is left out, times n. Of a figure that is the best over thresholds, an image that is left out lets the others
    choose, which gives values that are too small; an image that is added once more gives values that are too large.

    Attributes:
        names: of the images that count.
        low: values for the lower end of an interval.
        high: values for the upper end.
        groups: of a figure that is a mean over groups, what each image contributes to each group's.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    groups: Mapping[str, Contributions] = field(default_factory=dict)

    def interval(self, bounds: Bounds) -> tuple[float, float]:
        """Return the 95 % interval of the figure, within the ends of its scale."""
        low, high = mean_interval(self.low, bounds)
        if self.high is not self.low:
            high = mean_interval(self.high, bounds)[1]
        if self.groups:
            # A class of one image, or two, has a spread that cannot be seen: its own interval knows that.
            ends = mean_of_intervals([(float(own.low.mean()), *own.interval(bounds)) for own in self.groups.values()])
            low, high = min(low, ends[0]), max(high, ends[1])
        return max(low, bounds[0]), min(high, bounds[1])

    def against(self, other: Contributions, values: tuple[float, float], span: float, draws: int) -> tuple[float, float, float]:
        """Return the 95 % interval of this figure's difference to another's, and the p of no difference.

        Args:
            other: the other's contributions.
            values: both figures.
            span: how far two figures can be apart.
            draws: as for `mean_p`.
        """
        # What choosing a threshold adds, it adds to both: it need not be allowed for twice.
        pairs = [_differences(self, other, values, which) for which in (("low",) if self.high is self.low else ("low", "high"))]
        ends = [mean_interval(differences, (-span, span)) for differences in pairs]
        p = max(mean_p(differences, (-span, span), draws) for differences in pairs)
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        if self.groups and self.groups.keys() == other.groups.keys():
            groups = []
            for group, own in self.groups.items():
                means = float(own.low.mean()), float(other.groups[group].low.mean())
                groups.append((means[0] - means[1], *own.against(other.groups[group], means, span, draws)[:2]))
            ends = [mean_of_intervals(groups)]
            p = max(p, normal_p(values[0] - values[1], *ends[0]))
            low, high = min(low, ends[0][0]), max(high, ends[0][1])
        return max(low, -span), min(high, span), p


@dataclass
class State:
    """What a metric remembers of the images it has seen; states of several workers merge.

    The bootstrap is Poisson's: in each of `resamples` samples of the data set an image occurs as often as a Poisson draw of mean one says.
    The draws hang on the image's name alone, so they are the same for every method and metric (differences are paired), for any order
    of the images, and on any number of workers. Of up to 1000 images the sums of each are kept besides: with few images the quantiles
    of a bootstrap are too close together, and intervals are made from what each image contributes.

    Attributes:
        metric: what is measured.
        resamples: bootstrap samples; 0: none, and no intervals.
        seed: of their draws.
        n: images that counted.
    """

    metric: Metric
    resamples: int = 1000
    seed: int = 0
    n: int = 0
    _groups: dict[str, _Sums] = field(default_factory=dict, repr=False)
    _images: dict[str, dict[str, tuple[float, Array]]] | None = field(default_factory=dict, repr=False)
    """Of each image and group the number of records and their sum; None: there are too many images."""
    _levels: dict[str, dict[float, int]] = field(default_factory=dict, repr=False)
    """Of each figure the values that single images have, and how many have each; of three values or more, only that they are so many."""
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Samples and contributions, until more images come."""

    def update(self, name: str, records: Sequence[Record]) -> None:
        """Add one image; without records it does not count."""
        self.update_all([name], [records])

    def update_all(self, names: Sequence[str], records: Sequence[Sequence[Record]]) -> None:
        """Add several images at once."""
        self._cache.clear()
        weights = np.stack([self._weights(name) for name in names], axis=1) if names else np.ones((1 + self.resamples, 0))
        groups: dict[str, tuple[list[int], list[Array]]] = {}
        images: dict[str, dict[str, tuple[float, Array]]] = {}
        for i, own in enumerate(records):
            self.n += bool(own)
            for record in own:
                rows, values = groups.setdefault(record.group, ([], []))
                rows.append(i)
                values.append(record.values)
                _count(images.setdefault(names[i], {}), record.group, 1.0, record.values)
        for group, (rows, values) in groups.items():
            drawn = weights[:, rows]
            self._add(group, _Sums(drawn.sum(1), drawn @ np.stack(values)))
        if self.resamples and images:
            for name, alone in self._alone(images).items():
                self._note(name, zip(*(each.tolist() for each in np.unique(alone[np.isfinite(alone)], return_counts=True)), strict=True))
            self._keep(images)

    def merge(self, other: State) -> None:
        """Add what another state, of other images, has seen.

        Raises:
            OptionError: for a state of another metric, other options or other bootstrap samples.
        """
        if (other.metric, other.resamples, other.seed) != (self.metric, self.resamples, self.seed):
            raise OptionError(f"states merge when metric, resamples and seed agree; got {self.metric} and {other.metric}.")
        self._cache.clear()
        self.n += other.n
        for group, sums in other._groups.items():
            self._add(group, _Sums(sums.count.copy(), sums.values.copy()))
        for name, levels in other._levels.items():
            self._note(name, levels.items())
        self._keep(other._images)

    def figures(self) -> dict[str, float]:
        """Each figure by name; NaN where nothing counted."""
        return {name: float(values[0]) for name, values in self._computed(slice(0, 1)).items()}

    def samples(self) -> dict[str, Array]:
        """Each figure in every bootstrap sample `[resamples]`."""
        if "samples" not in self._cache:
            self._cache["samples"] = {name: np.asarray(values) for name, values in self._computed(slice(1, None)).items()}
        return dict(self._cache["samples"])

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each figure; NaN without bootstrap samples or with fewer than two images.

        Of up to 1000 images it is `lucidcam.stats.interval.mean_interval` of their contributions. Of more it is Clopper and Pearson's
        for a share of images, and the bootstrap's percentile interval for all else; of a figure whose threshold was chosen on the same
        images the percentiles are moved by twice what the choice adds to a bootstrap sample.
        """
        if self._images is not None:
            known = self.contributions()
            return {f.name: known[f.name].interval(f.limits) if f.name in known else (math.nan, math.nan) for f in self.metric.figures}
        intervals, values, drawn = {}, self.figures(), self.samples()
        for figure in self.metric.figures:
            samples = drawn[figure.name][np.isfinite(drawn[figure.name])]
            share = self._share(figure, values[figure.name])
            if not len(samples) or share is not None:
                intervals[figure.name] = share or (math.nan, math.nan)
            else:
                tail = (1 - LEVEL) / 2
                shift = 2 * (float(samples.mean()) - values[figure.name]) if figure.tuned else 0.0
                low, high = np.quantile(samples, [tail, 1 - tail]) - max(0.0, shift)
                intervals[figure.name] = float(low), max(float(high), values[figure.name])
        return intervals

    def contributions(self) -> dict[str, Contributions]:
        """What each image contributes to each figure.

        Figures for which fewer than two images count have no contributions, nor has any in a state of more than 1000 images.
        """
        if "contributions" not in self._cache:
            self._cache["contributions"] = self._contributions()
        return dict(self._cache["contributions"])

    def compare(self, other: State) -> dict[str, tuple[float, float, float]]:
        """Compare with another state of the same images: each figure's difference `self − other` has a 95 % interval and a p.

        Of up to 1000 images they are those of paired differences of what each image contributes (`mean_interval`, `mean_p`). Of more
        they are those of the paired bootstrap: p is twice the share of the samples in which the difference has the rarer sign.

        Returns:
            Low, high and p by figure; figures without bootstrap samples or with fewer than two images are left out.
        """
        mine, others = self.contributions(), other.contributions()
        few = self._images is not None and other._images is not None
        first, second = self.figures(), other.figures()
        drawn = ({}, {}) if few else (self.samples(), other.samples())
        compared = {}
        for figure in self.metric.figures:
            name = figure.name
            if few and name in mine and name in others:
                span = figure.limits[1] - figure.limits[0]
                compared[name] = mine[name].against(others[name], (first[name], second[name]), span, max(self.resamples, 1))
            elif not few:
                difference = drawn[0][name] - drawn[1][name]
                difference = difference[np.isfinite(difference)]
                if len(difference) and math.isfinite(first[name] - second[name]):
                    low, high = (float(end) for end in np.quantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
                    if low == high:  # no image tells the two apart; one that was not seen may
                        span = figure.limits[1] - figure.limits[0]
                        low, high = mean_interval(np.full(min(self.n, other.n), low), (-span, span))
                    rarer = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
                    p = min(1.0, 2 * (rarer + 1) / (len(difference) + 1))  # never 0: so many samples cannot tell
                    compared[name] = (low, high, p)
        return compared

    def groups(self) -> dict[str, dict[str, float]]:
        """Each figure of every group by itself: per class, per rival."""
        return {
            group: {name: float(values[0]) for name, values in self.metric.compute(sums.count[None, :1], sums.values[None, :1]).items()}
            for group, sums in sorted(self._groups.items())
        }

    def curves(self) -> Sequence[Curve]:
        """The curves behind the figures."""
        if not self._groups:
            return ()
        count, sums = self._stacked(slice(0, 1))
        return self.metric.curves(count[:, 0], sums[:, 0])

    def _contributions(self) -> dict[str, Contributions]:
        if not self._images:
            return {}
        names, groups = sorted(self._images), sorted(self._groups)
        count, sums = self._separate([self._images[name] for name in names], groups)
        contributions = {}
        by_group: list[dict[str, Contributions]] = []
        for figure in self.metric.figures:
            contribution = self._contribution(figure, names, count, sums)
            if contribution is None or len(contribution.names) < 2:
                continue
            if len(groups) > 1 and not figure.tuned:
                if not by_group:
                    by_group = [self._group(names, count[i : i + 1], sums[i : i + 1]) for i in range(len(groups))]
                parts = {group: known[figure.name] for group, known in zip(groups, by_group, strict=True) if figure.name in known}
                mean = float(np.mean([part.low.mean() for part in parts.values()]))
                if abs(mean - float(contribution.low.mean())) <= TINY * max(1.0, abs(mean)):
                    contribution = replace(contribution, groups=parts)
            contributions[figure.name] = contribution
        return contributions

    def _group(self, names: Sequence[str], count: Array, sums: Array) -> dict[str, Contributions]:
        """The contributions to one group's figures, of the images that it has."""
        there = np.flatnonzero(count[0])
        by_figure = {
            f.name: self._contribution(f, [names[i] for i in there.tolist()], count[:, there], sums[:, there]) for f in self.metric.figures
        }
        return {name: contributions for name, contributions in by_figure.items() if contributions is not None}

    def _contribution(self, figure: Figure, names: Sequence[str], count: Array, sums: Array) -> Contributions | None:
        """The contributions to one figure from the counts `[G, n]` and sums `[G, n, K]` of every image by itself; None: no image counts."""
        total, summed = count.sum(1, keepdims=True), sums.sum(1, keepdims=True)
        value = float(self.metric.compute(total, summed)[figure.name][0])
        alone = self.metric.compute(count, sums)[figure.name]
        counted = np.isfinite(alone)
        n, own = int(counted.sum()), alone[counted]
        which = tuple(name for name, counts in zip(names, counted, strict=True) if counts)
        if n < 2:
            return Contributions(which, own, own) if n else None
        low = n * value - (n - 1) * self.metric.compute(total - count, summed - sums)[figure.name][counted]
        if figure.tuned:
            return Contributions(which, low, (n + 1) * self.metric.compute(total + count, summed + sums)[figure.name][counted] - n * value)
        if np.allclose(low, own, rtol=0, atol=1e-6 * max(1.0, abs(value))):
            return Contributions(which, own, own)  # a mean over images, without the rounding of the detour
        # Of all else the mean of pseudo-values is another figure, nearly; and of few images the figure varies more than in a straight line.
        low = value + (low - low.mean()) * n / (n - 1)
        return Contributions(which, low, low)

    def _computed(self, which: slice) -> Mapping[str, Array]:
        size = len(range(1 + self.resamples)[which])
        if not self._groups or not size:
            return {figure.name: np.full(size, np.nan) for figure in self.metric.figures}
        return self.metric.compute(*self._stacked(which))

    def _stacked(self, which: slice) -> tuple[Array, Array]:
        groups = [self._groups[name] for name in sorted(self._groups)]
        return np.stack([each.count[which] for each in groups]), np.stack([each.values[which] for each in groups])

    def _add(self, group: str, sums: _Sums) -> None:
        have = self._groups.get(group)
        if have is None:
            self._groups[group] = sums
        else:
            have.count += sums.count
            have.values += sums.values

    def _keep(self, images: Mapping[str, Mapping[str, tuple[float, Array]]] | None) -> None:
        """Keep the sums of some images, unless there are too many."""
        if self._images is None or images is None or len(self._images.keys() | images.keys()) > KEPT:
            self._images = None
            return
        for name, groups in images.items():
            own = self._images.setdefault(name, {})
            for group, (count, values) in groups.items():
                _count(own, group, count, values)

    def _note(self, name: str, levels: Iterable[tuple[float, int]]) -> None:
        """Count the values that single images have; of three values or more the first three stand for all."""
        have = self._levels.setdefault(name, {})
        for value, number in levels:
            if len(have) < 3 or value in have:
                have[value] = have.get(value, 0) + number

    def _alone(self, images: Mapping[str, Mapping[str, tuple[float, Array]]]) -> Mapping[str, Array]:
        """Each figure of every image by itself `[n]`; NaN where the image does not count."""
        return self.metric.compute(*self._separate(list(images.values()), sorted({group for own in images.values() for group in own})))

    def _separate(self, images: Sequence[Mapping[str, tuple[float, Array]]], groups: Sequence[str]) -> tuple[Array, Array]:
        """The counts `[G, n]` and sums `[G, n, K]` of every image by itself."""
        place = {group: i for i, group in enumerate(groups)}
        size = len(next(iter(images[0].values()))[1])
        count, sums = np.zeros((len(groups), len(images))), np.zeros((len(groups), len(images), size))
        for i, own in enumerate(images):
            for group, (number, values) in own.items():
                count[place[group], i], sums[place[group], i] = number, values
        return count, sums

    def _share(self, figure: Figure, value: float) -> tuple[float, float] | None:
        """The interval of a figure that is a share of images, each of which has one of two values; None: it is something else."""
        levels = sorted(self._levels.get(figure.name, {}).items())
        n = sum(number for _, number in levels)
        if figure.tuned or not 0 < len(levels) <= 2 or n < 2:
            return None
        scale = levels[-1][0] - levels[0][0]
        if abs(sum(level * number for level, number in levels) / n - value) > TINY * max(1.0, abs(value)):
            return None
        if not scale:
            return mean_interval(np.full(n, value), figure.limits)
        low, high = share_interval(levels[-1][1], n)
        return levels[0][0] + low * scale, levels[0][0] + high * scale

    def _weights(self, name: str) -> Array:
        """1 for the data set as it is, then how often the image occurs in each bootstrap sample."""
        if not self.resamples:
            return np.ones(1)
        digest = hashlib.blake2b(f"{self.seed}\n{name}".encode(), digest_size=8).digest()
        drawn: Any = np.random.default_rng(int.from_bytes(digest, "little")).poisson(1.0, self.resamples)
        return np.concatenate([[1.0], drawn.astype(np.float64)])


def _differences(first: Contributions, second: Contributions, values: tuple[float, float], which: str) -> Array:
    """What each image contributes to the difference of two figures; an image that counts for one of them alone contributes to that one."""
    x, y = getattr(first, which), getattr(second, which)
    if first.names == second.names:
        return np.asarray(x - y)
    place = {name: i for i, name in enumerate(sorted({*first.names, *second.names}))}
    difference = np.full(len(place), values[0] - values[1])
    for sign, names, own, value in ((1, first.names, x, values[0]), (-1, second.names, y, values[1])):
        difference[[place[name] for name in names]] += sign * (own - value) * len(place) / len(names)
    return difference


def _count(groups: dict[str, tuple[float, Array]], group: str, count: float, values: Array) -> None:
    """Add some records of one group to an image's."""
    number, have = groups.get(group, (0.0, None))
    groups[group] = (number + count, values if have is None else have + values)
