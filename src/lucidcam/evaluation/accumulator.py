"""What an evaluation has found so far: sums per method and metric, and one value per image."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lucidcam.data import ClassMap
from lucidcam.evaluation.entries import Contender, Judge, judges
from lucidcam.evaluation.journal import Part
from lucidcam.evaluation.mosaics import Mosaics
from lucidcam.evaluation.presets import Preset
from lucidcam.evaluation.report import Comparison, Report, Row
from lucidcam.metrics import MosaicMetric, Record, State
from lucidcam.samples import Problem

FEW = 10
"""Images below which intervals of skewed values cover too seldom (see `bench/intervals.py`)."""


@dataclass
class Tally:
    """The sums of all methods and metrics, and one value per image.

    Attributes:
        contenders: who is judged.
        judges: by what.
        resamples: of the bootstrap.
        seed: of its draws, and of the choice of mosaics.
        names: of the images so far.
        problems: what could not be used.
        mosaics: of the metrics that ask about them.
        states: by method and metric (their labels).
        values: by method and figure, one per image; NaN where it did not count.
    """

    contenders: Sequence[Contender]
    judges: Sequence[Judge]
    resamples: int
    seed: int
    names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mosaics: list[Mosaics] = field(default_factory=list)
    states: dict[tuple[str, str], State] = field(default_factory=dict)
    values: dict[tuple[str, str], array[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mosaics = [Mosaics(j, j.metric, self.seed) for j in self.judges if isinstance(j.metric, MosaicMetric)]
        self.states = {(c.label, j.label): State(j.metric, self.resamples, self.seed) for c in self.contenders for j in self.judges}

    def add(self, part: Part) -> None:
        """Add what one batch gave."""
        self.names += part.names
        self.problems += part.problems
        for mosaics in self.mosaics:
            mosaics.add(part)
        for (contender, label), records in part.records.items():
            judge = next(each for each in self.judges if each.label == label)
            self.states[contender, label].update_all(part.names, records)
            if judge.metric.single:
                for each in records:
                    alone = _alone(judge, each)
                    for figure, own in zip(judge.figures, judge.metric.figures, strict=True):
                        self.values.setdefault((contender, figure.name), array("d")).append(alone[own.name])

    def add_mosaic(self, part: Part) -> None:
        """Add what a mosaic gave; it is no image of the data set."""
        self.problems += part.problems
        for key, records in part.records.items():
            self.states[key].update_all(part.names, records)

    def report(self, settings: Mapping[str, Any], classes: ClassMap, notes: Sequence[str], protocol: Preset | None) -> Report:
        """What was found."""
        rows, comparisons = [], []
        curves: dict[str, dict[str, Any]] = {}
        groups: dict[str, dict[str, Any]] = {}
        figures = {figure.name: figure for judge in self.judges for figure in judge.figures}
        for judge in self.judges:
            names = dict(zip((own.name for own in judge.metric.figures), (each.name for each in judge.figures), strict=True))
            for contender in self.contenders:
                state = self.states[contender.label, judge.label]
                found, intervals = state.figures(), state.intervals()
                for own, name in names.items():
                    rows.append(Row(contender.label, name, found[own], *intervals[own], state.n if np.isfinite(found[own]) else 0))
                if state.curves():
                    curves.setdefault(judge.label, {})[contender.label] = state.curves()
                if len(state.groups()) > 1:
                    groups.setdefault(judge.label, {})[contender.label] = state.groups()
            if len(self.names) > 1:
                comparisons += _compared(names, {c.label: self.states[c.label, judge.label] for c in self.contenders})
        asked = set() if protocol is None else {each.label for each in judges(protocol.metrics)} & {each.label for each in self.judges}
        plain = {own.name for each in self.judges if each.label in asked for own in each.metric.figures}
        order = {each.label: i for i, each in enumerate(self.contenders)}
        rows.sort(key=lambda row: order[row.method])
        return Report(
            rows=tuple(rows),
            figures=figures,
            comparisons=tuple(comparisons),
            settings=settings,
            skipped=tuple(self.problems),
            unmatched=dict(classes.reasons),
            trivial=tuple(each.label for each in self.contenders if each.method is None),
            published=() if protocol is None else tuple(each for each in protocol.published if each.metric in plain),
            curves=curves,
            groups=groups,
            names=tuple(self.names),
            values={key: np.asarray(values) for key, values in self.values.items()},
            classes=dict(classes.matched),
            notes=(*notes, *self._notes()),
        )

    def _notes(self) -> list[str]:
        notes = []
        for judge in self.judges:
            if not any(self.states[contender.label, judge.label].n for contender in self.contenders):
                notes.append(f"{judge.label}: no image counted; see what it needs: lucidcam metrics {judge.metric.name}")
        counted = {judge.label: self.states[self.contenders[0].label, judge.label].n for judge in self.judges if judge.metric.needs}
        for label, n in list(counted.items())[:1]:
            if 0 < n < len(self.names):
                notes.append(f"{label}: {n} of the {len(self.names)} images counted; the others have nothing marked of a known class.")
        for judge in self.judges:
            if any(figure.tuned for figure in judge.metric.figures):
                notes.append(
                    f"† {judge.label}: the threshold is chosen on the images it is measured on, which flatters the figure; "
                    "its interval allows for that."
                )
        if len(self.names) < FEW and self.resamples:
            notes.append(f"{len(self.names)} image{'s are' if len(self.names) > 1 else ' is'} few: intervals and ≈ are rough below {FEW}.")
        return notes


def _alone(judge: Judge, records: Sequence[Record]) -> dict[str, float]:
    """The figures of one image by itself."""
    if not records:
        return {figure.name: np.nan for figure in judge.metric.figures}
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    count = np.array([[float(len(each))] for each in groups.values()])
    sums = np.stack([np.stack([record.values for record in each]).sum(0)[None] for each in groups.values()])
    return {name: float(values[0]) for name, values in judge.metric.compute(count, sums).items()}


def _compared(names: Mapping[str, str], states: Mapping[str, State]) -> list[Comparison]:
    """Each pair of methods, figure by figure.

    Args:
        names: of the figures: the metric's own, and those of the report.
        states: by method.
    """
    pairs = list(itertools.combinations(states, 2))
    compared = {pair: states[pair[0]].compare(states[pair[1]]) for pair in pairs}
    values = {method: state.figures() for method, state in states.items()}
    return [
        Comparison(name, *pair, values[pair[0]][own] - values[pair[1]][own], *compared[pair][own])
        for own, name in names.items()
        for pair in pairs
        if own in compared[pair]
    ]
