"""Metrics of a run: records of each unit, summed when all is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lucidcam.errors import OptionError
from lucidcam.evaluation.accumulator import Tally
from lucidcam.evaluation.batch import Item, Measure
from lucidcam.evaluation.entries import Judge, contenders, judges
from lucidcam.evaluation.journal import Part
from lucidcam.evaluation.report import Report
from lucidcam.io.storage import Folder, Store, json_text
from lucidcam.methods.settings import Settings
from lucidcam.metrics import Comparative, MosaicMetric
from lucidcam.pipeline import ledger
from lucidcam.pipeline.job import Job
from lucidcam.samples import Problem
from lucidcam.stream.explainer import LABEL, Asking, Ready
from lucidcam.types import Model

RESAMPLES = 1000
"""Of the bootstrap."""


def measure(job: Job, model: Model, asking: Asking) -> Measure:
    """What judges the maps of a run.

    Args:
        job: with the metrics.
        model: that makes the maps.
        asking: with the classes.

    Raises:
        OptionError: for a metric that does not exist, or that a run cannot answer.
    """
    asked = judges(job.metrics)
    for judge in asked:
        _check(judge)
    target = job.target[0] if isinstance(job.target, (list, tuple)) and len(job.target) == 1 else job.target
    if asking.fixed is not None and target is not None:
        ids = [each for each in asking.fixed.names if each is not None]
        if len(ids) != 1:
            raise OptionError(f'metrics are about one class per image: give target as None, "label" or one class; got {job.target!r}.')
        target = ids[0]
    name = job.method if isinstance(job.method, str) else job.method.name
    entered = contenders({name: (job.method, dict(job.options))}, (), job.layer, model, Settings(seed=job.options.get("seed", 0)))
    return Measure(model, job.model.module, entered, asked, asking.classes.resolve, LABEL if asking.fixed is None else target)


def judged(measure: Measure, ready: Sequence[Ready]) -> tuple[Part, list[tuple[int, Problem]]]:
    """The records of some images; beside them what could not be measured, by the number of the sample."""
    items: list[Item] = []
    problems: list[Problem] = []
    for each in ready:
        found = measure.item_of(each.sample, each.prepared)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            items.append(found)
    part = measure.judged(items, problems, lambda _: None)
    numbers = {each.sample.name: each.number for each in ready}
    return part, [(numbers[each.name], each) for each in part.problems]


def report(store: Store, measure: Measure, asking: Asking, settings: Mapping[str, Any]) -> Report:
    """Sum the records of all units, and write the report beside them."""
    tally = Tally(measure.contenders, measure.judges, RESAMPLES, int(settings["options"]["seed"]))
    for record in ledger.records(store):
        tally.add(Part.decoded(store.read(name_of(record.number)))[0])
    found = tally.report(settings, asking.classes, (), None)
    if isinstance(store, Folder):
        found.save(store.root)
    else:
        store.write("results.json", (json_text(found.to_dict(), indent=2) + "\n").encode())
    return found


def name_of(number: int) -> str:
    """The file of a unit's records."""
    return f"metrics/{number:06d}.npz"


def _check(judge: Judge) -> None:
    why = ""
    if isinstance(judge.metric, (MosaicMetric, Comparative)):
        why = "compares images or methods with each other"
    elif judge.metric.needs == "masks":
        why = "takes masks"
    if why:
        raise OptionError(f"{judge.label} {why}, which a run does not keep; use lucidcam.evaluate (lucidcam evaluate).")
