"""The pass over a data set: batches in, sums kept, a report out."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.data import ClassMap, Dataset, open_data
from lucidcam.errors import DataError, LucidcamError, ModelError, OptionError, nearest
from lucidcam.evaluation.contenders import Contender, Judge, contenders, judges
from lucidcam.evaluation.gallery import save_contact_sheets
from lucidcam.evaluation.journal import Journal, Part
from lucidcam.evaluation.measure import Measure
from lucidcam.evaluation.mosaics import Mosaics
from lucidcam.evaluation.presets import Preset
from lucidcam.evaluation.presets import preset as preset_named
from lucidcam.evaluation.report import Comparison, Report, Row
from lucidcam.metrics import MosaicMetric, Record, State
from lucidcam.runner import IMAGES_AT_ONCE, Settings, named, optimize
from lucidcam.samples import Problem, Sample
from lucidcam.types import Model, fold

DEFAULT_METRICS = ("average_drop", "increase_in_confidence", ("deletion", {"steps": 32}), ("insertion", {"steps": 32}))
"""What needs images alone, in steps that are a first look rather than a publication."""

DEFAULT_BOX_METRICS = ("localization_error", "maxboxacc", "pointing_game", "energy_pointing_game")
"""What is asked, too, where there are boxes or masks."""

IMAGES_ON_CPU = 4
"""A CPU gains nothing from more, and an interruption loses less."""

FEW = 30
"""Images below which a bootstrap says little."""

LOOK_AHEAD = 1000
"""Samples whose annotations are looked at before the work begins."""


def evaluate(
    model: Model,
    data: Any,
    methods: Any = None,
    metrics: Any = None,
    *,
    target: Any = None,
    layer: Any = None,
    class_map: Any = None,
    preset: str | None = None,
    baselines: str | Iterable[str] | None = None,
    limit: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    images_at_once: int | None = None,
    optimized: bool = True,
    out: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: bool | None = None,
    format: str | None = None,
    **options: Any,
) -> Report:
    """Rank methods on a data set, beside trivial baselines, with 95 % bootstrap intervals.

    Each batch of images is prepared, explained by every method, judged by every metric, and forgotten; what stays are sums.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`, with a preprocessing.
        data: a folder, an annotation file, a list of images or of samples, a Hugging Face data set (see `lucidcam.data`).
        methods: names, method objects or (name, options) pairs; None: the preset's, or gradcam.
        metrics: likewise; None: the preset's, or drop, increase, deletion and insertion in 32 steps; with boxes localisation metrics, too.
        target: the class that metrics on masked images are about: None (predicted), "label" (the image's first label), a class id or label.
            Localisation metrics are always about the classes that are marked.
        layer: as for `lucidcam.attribute`.
        class_map: from the data's class names to the model's: a mapping, "name=id" texts, or a file of them.
        preset: "gradcam-paper", "gradcam++-paper", "scorecam-paper" or "wsol": a paper's methods and metrics, with its figures beside ours.
        baselines: names of trivial baselines; None: all six.
        limit: at most so many samples.
        resamples: of the bootstrap; 0: no intervals.
        seed: of every random draw.
        batch_size: masked images at a time.
        images_at_once: images that are measured together, and kept together for going on after an interruption; None: 4, on a GPU 16.
        optimized: measure on a folded, channels-last copy of the network that gives the same scores; see `lucidcam.optimize`.
        out: a folder for the results and for what is needed to go on after an interruption.
        restart: begin anew in a folder that holds an earlier evaluation.
        progress: a bar with the time left; None: when standard error is a terminal.
        format: the data's format; None: found out.
        options: the format's own (`split`, `images`, …).

    Returns:
        The report; with `out` it is written there, too: results.json, images.csv, images.parquet, curves/, gallery/.

    Raises:
        DataError: nothing in the data can be used, or it lacks what a metric needs.
        OptionError: a name or option that does not exist; a folder with an evaluation of other settings.
    """
    if not isinstance(model, Model):
        raise ModelError(f"expected a lucidcam Model to evaluate; got {type(model).__name__}: use lucidcam.load(…) or lucidcam.wrap(…).")
    if images_at_once is None:
        images_at_once = IMAGES_ON_CPU if model.device.type == "cpu" else IMAGES_AT_ONCE
    if images_at_once < 1 or resamples < 0 or (limit is not None and limit < 1):
        raise OptionError(f"expected images_at_once ≥ 1, resamples ≥ 0, limit ≥ 1; got {images_at_once}, {resamples}, {limit}.")
    protocol = None if preset is None else preset_named(preset)
    dataset = open_data(data, format, **options).first(limit)
    classes = ClassMap.of(model, class_map)
    ahead = _Ahead.of(dataset, classes)
    asked_metrics = metrics if metrics is not None else protocol.metrics if protocol is not None else ahead.metrics()
    entered = contenders(
        methods if methods is not None else protocol.methods if protocol is not None else "gradcam",
        baselines,
        layer,
        model.layer,
        Settings(seed=seed, batch_size=batch_size),
    )
    asked = judges(asked_metrics)
    left_out: list[str] = []
    if metrics is None:
        asked, left_out = ahead.answerable(asked)
    about = target if target in (None, "label") else _class_id(target, model)
    ahead.check(asked, about, classes, dataset)
    settings = {
        "version": _version(),
        "model": model.name,
        "weights": model.fingerprint(),
        "preprocess": repr(model.preprocess),
        "prepared": _probe(model),
        "data": dataset.name,
        "format": dataset.format,
        "limit": limit,
        "methods": {each.label: each.described() for each in entered},
        "metrics": {each.label: each.described() for each in asked},
        "target": about,
        "class_map": dict(classes.given),
        "preset": preset,
        "resamples": resamples,
        "seed": seed,
        "images_at_once": images_at_once,
        "optimized": optimized,
    }
    folder = None if out is None else Path(out)
    # What was measured serves any number of bootstrap samples; and a function's repr changes from one process to the next.
    journal = Journal(folder, {name: value for name, value in settings.items() if name not in ("resamples", "preprocess")}, restart)
    fast, notes = _optimized(model, optimized)
    notes += left_out
    measure = Measure(fast, model.module, entered, asked, classes.resolve, about)
    tally = Tally(entered, asked, resamples, seed)
    with _bar(dataset.count, progress) as advance:
        _measure_all(dataset, measure, journal, tally, images_at_once, advance)
        if not tally.names:
            raise DataError(_nothing(dataset, tally))
        for mosaics in tally.mosaics:
            mosaics.measure(measure, dataset, journal, tally.add_mosaic)
    report = tally.report(settings, classes, [*notes, *ahead.notes(asked, classes, model)], protocol)
    if folder is not None:
        report.save(folder)
        main = next((judge for judge in asked if judge.metric.single and not isinstance(judge.metric, MosaicMetric)), None)
        if main is not None:
            save_contact_sheets(report, measure, dataset, main, folder / "gallery")
    return report


@dataclass
class Tally:
    """The sums of all methods and metrics, and one value per image."""

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
            samples: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
            for contender in self.contenders:
                state = self.states[contender.label, judge.label]
                found, intervals, drawn = state.figures(), state.intervals(), state.samples()
                for own, name in names.items():
                    rows.append(Row(contender.label, name, found[own], *intervals[own], state.n if np.isfinite(found[own]) else 0))
                    samples[name][contender.label] = (found[own], drawn[own])
                if state.curves():
                    curves.setdefault(judge.label, {})[contender.label] = state.curves()
                if len(state.groups()) > 1:
                    groups.setdefault(judge.label, {})[contender.label] = state.groups()
            for name, each in samples.items():
                comparisons += list(_compared(name, each)) if len(self.names) > 1 else []
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
        if len(self.names) < FEW and self.resamples:
            notes.append(f"{len(self.names)} image{'s are' if len(self.names) > 1 else ' is'} few: intervals and ≈ are rough below {FEW}.")
        return notes


def _measure_all(dataset: Dataset, measure: Measure, journal: Journal, tally: Tally, size: int, advance: Callable[[float], None]) -> None:
    for number, batch in enumerate(_batches(dataset, size)):
        asked = [each.identity() for each in batch]
        part = journal.read("images", number, asked)
        if part is None:
            part = measure(batch, advance)
            if number == 0:
                _check_first(batch, part)
            journal.write("images", number, asked, part)
            advance(len(batch) - len(part.names))
        else:
            advance(len(batch))
        tally.add(part)


def _check_first(batch: Sequence[Sample | Problem], part: Part) -> None:
    """Give up where every image fails in the same way: then it is not the images.

    Raises:
        DataError: with what they have in common.
    """
    asked = {each.name for each in batch if isinstance(each, Sample)}
    failed = [each for each in part.problems if each.name in asked]
    if len(asked) > 1 and len(failed) == len(asked) and len({each.error.replace(each.name, "") for each in failed}) == 1:
        raise DataError(f"none of the first {len(asked)} images can be measured: {failed[0].error}")


def _batches(samples: Iterable[Sample | Problem], size: int) -> Iterator[list[Sample | Problem]]:
    stream = iter(samples)
    while batch := list(itertools.islice(stream, size)):
        yield batch


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


def _compared(metric: str, samples: Mapping[str, tuple[float, Any]]) -> Iterator[Comparison]:
    for (first, (a, drawn_a)), (second, (b, drawn_b)) in itertools.combinations(samples.items(), 2):
        difference = drawn_a - drawn_b
        difference = difference[np.isfinite(difference)]
        if not len(difference) or not np.isfinite(a - b):
            continue
        low, high = np.quantile(difference, [0.025, 0.975])
        rarer = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
        p = min(1.0, 2 * (rarer + 1) / (len(difference) + 1))  # never 0: so many samples cannot tell
        yield Comparison(metric, first, second, a - b, float(low), float(high), p)


@dataclass(frozen=True)
class _Ahead:
    """What the annotations of the first samples hold."""

    seen: int
    all: bool
    labels: bool
    boxes: bool
    masks: bool
    matched: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, classes: ClassMap) -> _Ahead:
        names: dict[str, None] = {}
        seen, more, boxes, masks = 0, False, False, False
        for number, sample in enumerate(dataset):
            if number == LOOK_AHEAD:
                more = True
                break
            if isinstance(sample, Sample):
                seen += 1
                names |= dict.fromkeys(sample.labels)
                masks |= any(thing.mask is not None for thing in sample.objects)
                boxes |= masks or any(thing.box is not None for thing in sample.objects)
        matched = sum(classes.resolve(name) is not None for name in names)
        return cls(seen, not more, bool(names), boxes, masks, matched, tuple(names))

    def metrics(self) -> tuple[Any, ...]:
        """What is asked when nothing is."""
        return (*DEFAULT_METRICS, *DEFAULT_BOX_METRICS) if self.boxes and self.matched else DEFAULT_METRICS

    def answerable(self, asked: Sequence[Judge]) -> tuple[list[Judge], list[str]]:
        """Of the metrics that nobody asked for by name, those that the data can answer; and a note on the others."""
        found = [judge for judge in asked if not self.all or not judge.metric.needs or getattr(self, judge.metric.needs)]
        out = [judge for judge in asked if judge not in found]
        if not found:
            return list(asked), []
        return found, [f"{judge.label} is left out: it needs {judge.metric.needs}, and no sample has any." for judge in out]

    def check(self, asked: Sequence[Judge], target: Any, classes: ClassMap, dataset: Dataset) -> None:
        """Refuse what cannot be had, before any work.

        Raises:
            DataError: a metric or the target needs classes, boxes or masks that the data does not have.
        """
        if not self.all or not self.seen:
            return
        for judge in asked:
            needs = judge.metric.needs
            if needs and not getattr(self, needs):
                raise DataError(
                    f"{judge.label} needs {needs}; none of the {self.seen} samples of {dataset.name} (read as {dataset.format}) has any. "
                    "Another format can be asked for: --data-format, format=…."
                )
        wants = [judge.label for judge in asked if judge.metric.needs] + (['target "label"'] if target == "label" else [])
        if wants and not self.labels:
            raise DataError(f"{wants[0]} needs the images' classes; none of the {self.seen} samples has any.")
        if wants and not self.matched:
            name = self.names[0]
            listed = ", ".join(self.names[:5]) + (", …" if len(self.names) > 5 else "")
            raise DataError(
                f"{wants[0]} needs the data's classes in the model's, and none of {listed} is one: {classes.reasons.get(name, '')} "
                f"Say which is meant: --class-map '{name}=ID', class_map={{{name!r}: …}}."
            )

    def notes(self, asked: Sequence[Judge], classes: ClassMap, model: Model) -> list[str]:
        """What may not be as it was meant."""
        found = []
        if any(judge.metric.needs in ("boxes", "masks") for judge in asked) and getattr(model.preprocess, "fit", None) == "crop":
            found.append("the network sees the photos' centre crop; objects outside cannot be found. See --fit squash, --fit whole.")
        met = {fold(name): name for name in self.names}
        for name in classes.given if self.all else ():
            if name not in met:
                close = nearest(name, met)
                meant = f"; did you mean {met[close[0]]!r}?" if close else f"; it has {', '.join(self.names[:5]) or 'none'}."
                found.append(f"class map: {name!r} is no class of the data{meant}")
        return found + self._unasked(asked)

    def _unasked(self, asked: Sequence[Judge]) -> list[str]:
        if self.boxes and not self.matched and not any(judge.metric.needs for judge in asked):
            return [f"the data has boxes, but none of its classes ({', '.join(self.names[:5])}) is one of the model's: see --class-map."]
        return []


def _probe(model: Model) -> str:
    """A short text that changes with what the preprocessing makes of a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
    return hashlib.blake2b(model.prepare([noise])[0].tensor.numpy().tobytes(), digest_size=8).hexdigest()


def _class_id(target: Any, model: Model) -> int:
    found = named(target, model)
    if not isinstance(found, int):
        raise OptionError(f'expected one class as target, None (predicted) or "label"; got {target!r}.')
    return found


def _optimized(model: Model, wanted: bool) -> tuple[Model, list[str]]:
    if not wanted:
        return model, []
    try:
        return optimize(model), []
    except LucidcamError as error:
        return model, [f"measured on the network as it is, because the optimised copy is not the same: {error}"]


def _nothing(dataset: Dataset, tally: Tally) -> str:
    if not tally.problems:
        return f"{dataset.name}: no image was found."
    first = tally.problems[0].error
    return f"{dataset.name}: none of the {len(tally.problems)} samples can be used; the first: {first}"


def _version() -> str:
    from importlib.metadata import version

    return version("lucidcam")


@contextmanager
def _bar(count: int | None, wanted: bool | None) -> Iterator[Callable[[float], None]]:
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=count)
        yield lambda done: bar.advance(task, done)
