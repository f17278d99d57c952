"""The pass over a data set: batches in, sums kept, a report out."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.attribution import given_up, on_any_image, optimized_if_possible
from lucidcam.data import ClassMap, Dataset, open_data
from lucidcam.errors import DataError, ModelError, OptionError
from lucidcam.evaluation.accumulator import Tally
from lucidcam.evaluation.batch import Measure
from lucidcam.evaluation.entries import contenders, judges
from lucidcam.evaluation.gallery import save_gallery
from lucidcam.evaluation.journal import Journal, Part
from lucidcam.evaluation.preflight import Ahead
from lucidcam.evaluation.presets import preset as preset_named
from lucidcam.evaluation.report import Report
from lucidcam.io.storage import check_writable
from lucidcam.methods.settings import IMAGES_AT_ONCE, Settings
from lucidcam.metrics import MosaicMetric
from lucidcam.samples import Problem, Sample
from lucidcam.targets.resolve import resolve_target
from lucidcam.types import Model
from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.fingerprint import architecture, code_of, steadied, steady
from lucidcam.utils.progress import bar, say

IMAGES_ON_CPU = 4
"""A CPU gains nothing from more, and an interruption loses less."""


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
    """Rank methods on a data set, beside trivial baselines, with 95 % intervals.

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
        resamples: random samples behind intervals and p; 0: no intervals.
        seed: of every random draw.
        batch_size: masked images at a time.
        images_at_once: images that are measured together, and kept together for going on after an interruption; None: 4, on a GPU 16.
        optimized: measure on a folded, channels-last copy of the network that gives the same scores; see `lucidcam.optimize`.
        out: a folder for the results and for what is needed to go on after an interruption.
        restart: begin anew in a folder that holds an earlier evaluation.
        progress: a bar with the time left; None: in a terminal or notebook.
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
    if model.task is not None:
        raise ModelError(f"metrics compare the scores of classes; {model.name} does {model.task.name}: use lucidcam.explain.")
    if images_at_once is None:
        images_at_once = IMAGES_ON_CPU if model.device.type == "cpu" else IMAGES_AT_ONCE
    if images_at_once < 1 or resamples < 0 or (limit is not None and limit < 1):
        raise OptionError(f"expected images_at_once ≥ 1, resamples ≥ 0, limit ≥ 1; got {images_at_once}, {resamples}, {limit}.")
    if out is not None:
        check_writable(out, "results.json")
    protocol = None if preset is None else preset_named(preset)
    dataset = open_data(data, format, **options).first(limit)
    classes = ClassMap.of(model, class_map)
    ahead = Ahead.of(dataset, classes)
    asked_metrics = metrics if metrics is not None else protocol.metrics if protocol is not None else ahead.metrics()
    entered = contenders(
        methods if methods is not None else protocol.methods if protocol is not None else "gradcam",
        baselines,
        layer,
        model,
        Settings(seed=seed, batch_size=batch_size),
    )
    asked = judges(asked_metrics)
    if not asked:
        raise OptionError("expected at least one metric; got none: give None for the usual ones.")
    left_out: list[str] = []
    if metrics is None:
        asked, left_out = ahead.answerable(asked)
    about = target if target in (None, "label") else _class_id(target, model)
    ahead.check(asked, about, classes, dataset)
    settings = {
        "version": _version(),
        "model": model.name,
        "weights": model.fingerprint(),
        "outputs": model.outputs,
        "threshold": model.threshold,
        "preprocess": steady(model.preprocess),
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
    folder = None if out is None else Path(out).expanduser()
    # What was measured serves any number of bootstrap samples; and a function's repr changes from one process to the next.
    deciding = {
        **{name: value for name, value in settings.items() if name not in ("resamples", "preprocess")},
        "architecture": architecture(model.module),
        "labels": None if model.labels is None else behaviour(tuple(model.labels)),
        "steps": steady(model.preprocess),
        **{f"method {each.label}": code for each in entered if (code := code_of(each.method))},
        **{f"metric {each.label}": code for each in asked if (code := code_of(each.metric))},
    }
    with Journal(folder, steadied(deciding), restart) as journal:
        fast, notes = _optimized(model, optimized)
        notes += left_out
        measure = Measure(fast, model.module, entered, asked, classes.resolve, about)
        tally = Tally(entered, asked, resamples, seed)
        with bar(dataset.count, "evaluating", progress) as advance:
            _measure_all(dataset, measure, journal, tally, images_at_once, advance)
            if not tally.names:
                raise DataError(_nothing(dataset, tally))
            for mosaics in tally.mosaics:
                mosaics.measure(measure, dataset, journal, tally.add_mosaic)
        if journal.damaged:
            say(f"{', '.join(journal.damaged[:5])}: not as written ({len(journal.damaged)} files); that was measured again.", progress)
        if (fallback := given_up(fast)) is not None:
            notes.append(f"measured {fallback}")
        report = replace(tally.report(settings, classes, [*notes, *ahead.notes(asked, classes, model)], protocol), folder=folder)
        if folder is not None:
            report.save(folder)
            main = next((judge for judge in asked if judge.metric.single and not isinstance(judge.metric, MosaicMetric)), None)
            if main is not None:
                save_gallery(report, measure, dataset, main, folder / "gallery")
        return report


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


def _probe(model: Model) -> str:
    """A short text that changes with what the preprocessing makes of a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
    with on_any_image(model):
        [prepared] = model.prepare([noise])
    return hashlib.blake2b(prepared.tensor.numpy().tobytes(), digest_size=8).hexdigest()


def _class_id(target: Any, model: Model) -> int:
    found = resolve_target(target, model)
    if not isinstance(found, int):
        raise OptionError(f'expected one class as target, None (predicted) or "label"; got {target!r}.')
    return found


def _optimized(model: Model, wanted: bool) -> tuple[Model, list[str]]:
    if not wanted:
        return model, []
    fast, note = optimized_if_possible(model)
    return fast, [] if note is None else [f"measured {note}"]


def _nothing(dataset: Dataset, tally: Tally) -> str:
    if not tally.problems:
        return f"{dataset.name}: no image was found."
    first = tally.problems[0].error
    return f"{dataset.name}: none of the {len(tally.problems)} samples can be used; the first: {first}"


def _version() -> str:
    from importlib.metadata import version

    return version("lucidcam")
