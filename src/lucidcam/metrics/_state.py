"""Sums over a data set: of the records, and of as many bootstrap samples of the data set as are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Curve, Metric, Record

LEVEL = 0.95
"""Of the intervals."""


@dataclass
class _Sums:
    """Of one group: the number of records and the sum of their values, for each weighting of the images."""

    count: Array
    values: Array


@dataclass
class State:
    """What a metric remembers of the images it has seen; states of several workers merge.

    The bootstrap is Poisson's: in each of `resamples` samples of the data set an image occurs as often as a Poisson draw of mean one says.
    The draws hang on the image's name alone, so they are the same for every method and metric (differences are paired), for any order
    of the images, and on any number of workers.

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

    def update(self, name: str, records: Sequence[Record]) -> None:
        """Add one image; without records it does not count."""
        self.update_all([name], [records])

    def update_all(self, names: Sequence[str], records: Sequence[Sequence[Record]]) -> None:
        """Add several images at once."""
        weights = np.stack([self._weights(name) for name in names], axis=1) if names else np.ones((1 + self.resamples, 0))
        groups: dict[str, tuple[list[int], list[Array]]] = {}
        for i, each in enumerate(records):
            self.n += bool(each)
            for record in each:
                rows, values = groups.setdefault(record.group, ([], []))
                rows.append(i)
                values.append(record.values)
        for group, (rows, values) in groups.items():
            own = weights[:, rows]
            self._add(group, _Sums(own.sum(1), own @ np.stack(values)))

    def merge(self, other: State) -> None:
        """Add what another state, of other images, has seen.

        Raises:
            OptionError: for a state of another metric, other options or other bootstrap samples.
        """
        if (other.metric, other.resamples, other.seed) != (self.metric, self.resamples, self.seed):
            raise OptionError(f"states merge when metric, resamples and seed agree; got {self.metric} and {other.metric}.")
        self.n += other.n
        for group, sums in other._groups.items():
            self._add(group, _Sums(sums.count.copy(), sums.values.copy()))

    def figures(self) -> dict[str, float]:
        """Each figure by name; NaN where nothing counted."""
        return {name: float(values[0]) for name, values in self._computed(slice(0, 1)).items()}

    def samples(self) -> dict[str, Array]:
        """Each figure in every bootstrap sample `[resamples]`."""
        return {name: np.asarray(values) for name, values in self._computed(slice(1, None)).items()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The percentile interval of each figure; NaN without bootstrap samples or with fewer than two images."""
        found = {}
        for name, values in self.samples().items():
            finite = values[np.isfinite(values)]
            tail = (1 - LEVEL) / 2
            usable = len(finite) > 0 and self.n > 1
            low, high = np.quantile(finite, [tail, 1 - tail]) if usable else (np.nan, np.nan)
            found[name] = (float(low), float(high))
        return found

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

    def _weights(self, name: str) -> Array:
        """1 for the data set as it is, then how often the image occurs in each bootstrap sample."""
        if not self.resamples:
            return np.ones(1)
        digest = hashlib.blake2b(f"{self.seed}\n{name}".encode(), digest_size=8).digest()
        drawn: Any = np.random.default_rng(int.from_bytes(digest, "little")).poisson(1.0, self.resamples)
        return np.concatenate([[1.0], drawn.astype(np.float64)])
