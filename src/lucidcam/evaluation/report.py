"""What an evaluation found: figures with intervals, differences, values per image, curves; as tables, files and plots."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lucidcam.errors import MissingExtraError, OptionError
from lucidcam.evaluation.presets import Published
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.storage import json_text, replaced, write_whole
from lucidcam.metrics._base import Curve, Figure
from lucidcam.reprs import OneLineRepr, one_line
from lucidcam.samples import Problem
from lucidcam.stats.ties import leaders
from lucidcam.utils import optional
from lucidcam.utils.csv_rows import write_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

WORKS = ("an evaluation", "a run")
"""Whose folders hold a report, see `lucidcam.io.storage.workplace`."""

COLUMNS = ["image", "method", "metric", "value"]
CHUNK = 100_000
"""Rows of a Parquet file that are in memory at a time."""

SIGNIFICANT = 0.05
"""Two-sided level of the marks in the table."""


@dataclass(frozen=True)
class Row(OneLineRepr):
    """One figure of one method.

    Attributes:
        method: a method's label, or a trivial baseline's.
        metric: the figure's name.
        mean: over the data set.
        low: end of the 95 % interval.
        high: its other end.
        n: images that counted.
    """

    method: str
    metric: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison(OneLineRepr):
    """The difference of two methods' figures on the same images.

    Attributes:
        metric: the figure's name.
        first: a method.
        second: another.
        difference: the first's figure minus the second's.
        low: end of the difference's 95 % interval, of paired values.
        high: its other end.
        p: two-sided, of the hypothesis that there is no difference; see `lucidcam.stats.paired.mean_p`.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, eq=False)
class Report:
    """What `lucidcam.evaluate` returns.

    Attributes:
        rows: method by method.
        figures: what the rows' metrics are: unit and direction.
        comparisons: each pair of methods, metric by metric.
        settings: all that the figures depend on.
        skipped: samples that could not be used, and why.
        unmatched: the data's classes that are none of the model's, and why.
        trivial: which of the methods are trivial baselines.
        published: figures of the papers for the same metrics.
        curves: by metric and method.
        groups: by metric and method: the figures of each class, or against each rival.
        names: of the images, for `values`.
        values: by method and metric: one value per image, NaN where it did not count.
        notes: what a reader should know.
        classes: the data's classes that were matched, with the model's ids.
        folder: where it was written, with a gallery; None: it was not.
    """

    rows: tuple[Row, ...] = field(repr=False)
    figures: Mapping[str, Figure] = field(repr=False)
    comparisons: tuple[Comparison, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    skipped: tuple[Problem, ...] = field(default=(), repr=False)
    unmatched: Mapping[str, str] = field(default_factory=dict)
    trivial: tuple[str, ...] = ()
    published: tuple[Published, ...] = field(default=(), repr=False)
    curves: Mapping[str, Mapping[str, Sequence[Curve]]] = field(default_factory=dict, repr=False)
    groups: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = field(default_factory=dict, repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    values: Mapping[tuple[str, str], npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict, repr=False)
    folder: Path | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        counts = [("images", len(self.names)), ("skipped", len(self.skipped))]
        return one_line("Report", [("methods", self.methods), ("figures", list(self.figures)), *counts])

    @property
    def methods(self) -> list[str]:
        """The methods and baselines, in the order of the rows."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def row(self, method: str, metric: str) -> Row:
        """One figure of one method; the figure without its options, where that is clear.

        Raises:
            OptionError: when there is no such row.
        """
        alike = [name for name in self.figures if name.partition(":")[0] == metric]
        name = alike[0] if metric not in self.figures and len(alike) == 1 else metric
        for row in self.rows:
            if (row.method, row.metric) == (method, name):
                return row
        raise OptionError(f"no row {method!r} × {metric!r}; methods: {', '.join(self.methods)}; metrics: {', '.join(self.figures)}.")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON: NaN becomes None."""
        return {
            "rows": [_plain(row) for row in self.rows],
            "settings": dict(self.settings),
            "skipped": [_plain(each) for each in self.skipped],
            "comparisons": [_plain(each) for each in self.comparisons],
            "metrics": {
                name: {"unit": f.unit, "higher_is_better": f.higher_is_better, "tuned": f.tuned} for name, f in self.figures.items()
            },
            "trivial": list(self.trivial),
            "classes": dict(self.classes),
            "unmatched": dict(self.unmatched),
            "published": [_plain(each) for each in self.published],
            "groups": _clean(self.groups),
            "curves": {
                metric: {method: [_curve(c) for c in each] for method, each in found.items()} for metric, found in self.curves.items()
            },
            "notes": list(self.notes),
        }

    def best(self, metric: str) -> str | None:
        """The method with the best figure; None where the metric has no direction or nothing counted."""
        return next(iter(self.leaders(metric)), None)

    def leaders(self, metric: str, among: Iterable[str] | None = None) -> list[str]:
        """The method with the best figure, and those that tie with it.

        A method ties with the best that has the same figure, as it is printed, or that does not differ from it significantly on the same
        images.

        Args:
            metric: the figure's name.
            among: methods that are compared; None: all, baselines too.

        Returns:
            The best first; empty where the metric has no direction or nothing counted.
        """
        figure, wanted = self.figures[metric], None if among is None else set(among)
        if figure.higher_is_better is None:
            return []
        means = {row.method: row.mean for row in self.rows if row.metric == metric and (wanted is None or row.method in wanted)}
        return leaders(means, figure.higher_is_better, figure.digits, lambda first, second: self.differs(metric, first, second))

    def differs(self, metric: str, first: str, second: str) -> bool | None:
        """Whether two methods' figures differ on the same images, at the 5 % level; None where they were not compared."""
        found = (c for c in self.comparisons if c.metric == metric and {c.first, c.second} == {first, second})
        return next((c.p < SIGNIFICANT for c in found), None)

    def table(self, width: int | None = None) -> RenderableType:
        """Methods × metrics for a terminal, in as many parts as its width needs.

        The best figure is bold, and so are those that tie with it; one that does not differ from it significantly is marked with ≈.

        Args:
            width: in characters; None: the terminal's.
        """
        from lucidcam.evaluation.tables import table

        return table(self, width)

    def images(self) -> Iterator[tuple[str, str, str, float]]:
        """Values per image: its name, the method, the metric and the value, without those that did not count."""
        for (method, metric), values in self.values.items():
            for i in np.flatnonzero(np.isfinite(values)):
                yield self.names[i], method, metric, float(values[i])

    def frame(self) -> Any:
        """Values per image as a pandas DataFrame: image, method, metric, value.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = optional.import_optional("pandas", "data", "Report.frame()")
        return pandas.DataFrame(self.images(), columns=COLUMNS)

    def plot(self, metric: str) -> Any:
        """The curves behind a metric (deletion, insertion, maxboxacc, road, sanity, …) as a matplotlib figure.

        Raises:
            OptionError: for a metric without curves.
        """
        from lucidcam.evaluation.plots import plot

        return plot(self, metric)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `results.json`, `images.csv`, `images.parquet` and the curves as PNG and SVG.

        Parquet is left out where pyarrow is not installed. Files of these names are replaced, where lucidcam wrote them.

        Raises:
            OptionError: a file of these names is someone else's.
            DataError: a file cannot be written.
        """
        from lucidcam.evaluation.plots import save_plots

        owned = OwnedFiles(folder, works=WORKS)
        owned.check("results.json", "images.csv", "images.parquet", "curves/*.png", "curves/*.svg")
        write_whole(owned.path("results.json"), (json_text(self.to_dict(), indent=2) + "\n").encode())
        with replaced(owned.path("images.csv")) as place, place.open("w", newline="", encoding="utf-8") as file:
            write_rows(file, itertools.chain([COLUMNS], self.images()))
        _parquet(self.images(), owned)
        save_plots(self, owned)
        return owned.folder


def _parquet(rows: Iterator[tuple[str, str, str, float]], owned: OwnedFiles) -> None:
    try:
        arrow = optional.import_optional("pyarrow", "data", "Parquet")
        parquet = optional.import_optional("pyarrow.parquet", "data", "Parquet")
    except MissingExtraError:
        return
    schema = arrow.schema([("image", arrow.string()), ("method", arrow.string()), ("metric", arrow.string()), ("value", arrow.float64())])
    with replaced(owned.path("images.parquet")) as place, parquet.ParquetWriter(place, schema) as writer:
        while chunk := list(itertools.islice(rows, CHUNK)):
            writer.write_table(arrow.table(list(zip(*chunk, strict=True)), schema=schema))


def _plain(thing: Any) -> dict[str, Any]:
    return {name: _clean(getattr(thing, name)) for name in thing.__dataclass_fields__}


def _curve(curve: Curve) -> dict[str, Any]:
    points = {axis: [_clean(float(value)) for value in getattr(curve, axis)] for axis in ("x", "y")}
    return {"name": curve.name, **points, "x_label": curve.x_label, "y_label": curve.y_label}


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _clean(each) for key, each in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
