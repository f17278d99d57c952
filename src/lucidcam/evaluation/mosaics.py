"""Metrics that ask about mosaics of several images: the second stage of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lucidcam.data import Dataset
from lucidcam.evaluation.contenders import Judge
from lucidcam.evaluation.journal import Journal, Part
from lucidcam.evaluation.measure import Item, Measure
from lucidcam.metrics import Batch, MosaicMetric, Record
from lucidcam.samples import Sample

AT_ONCE = 2
"""Mosaics that are measured together."""

PER_CLASS = 100
"""Candidates kept of each class: enough for any number of mosaics, whatever the data set's size."""


@dataclass
class Candidates:
    """The images that mosaics are made of: their names, predicted classes and confidences."""

    found: dict[int, list[tuple[str, float]]] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """Add the images of one batch."""
        for name, (number, confidence) in zip(part.names, part.classes, strict=True):
            kept = self.found.setdefault(number, [])
            if len(kept) < PER_CLASS:
                kept.append((name, confidence))

    def measure(
        self,
        judge: Judge,
        metric: MosaicMetric,
        measure: Measure,
        dataset: Dataset,
        journal: Journal,
        add: Callable[[Part], None],
        advance: Callable[[float], None],
    ) -> None:
        """Choose mosaics, and measure every method on them."""
        listed = [(name, number, confidence) for number, kept in sorted(self.found.items()) for name, confidence in kept]
        mosaics = [[listed[i] for i in each] for each in metric.choose(listed, measure.contenders[0].settings.seed)]
        wanted = {name for each in mosaics for name, _, _ in each}
        samples = {each.name: each for each in dataset if isinstance(each, Sample) and each.name in wanted}
        for number in range(0, len(mosaics), AT_ONCE):
            part = mosaics[number : number + AT_ONCE]
            names = [" | ".join(name for name, _, _ in each) for each in part]
            kept = journal.read(judge.label.partition(":")[0], number // AT_ONCE, names)
            if kept is None:
                kept = _measured(judge, metric, measure, part, names, samples)
                journal.write(judge.label.partition(":")[0], number // AT_ONCE, names, kept)
            add(kept)
            advance(0)


def _measured(
    judge: Judge,
    metric: MosaicMetric,
    measure: Measure,
    mosaics: Sequence[Sequence[tuple[str, int, float]]],
    names: Sequence[str],
    samples: dict[str, Sample],
) -> Part:
    """Each mosaic once per cell, with that cell's class as target."""
    module = measure.model.module
    images, targets, cells = [], [], []
    for name, mosaic in zip(names, mosaics, strict=True):
        items = [measure.item(samples[each]) for each, _, _ in mosaic]
        assert all(isinstance(item, Item) for item in items)  # they could be read a moment ago
        tensors = [item.prepared.tensor for item in items if isinstance(item, Item)]
        image = metric.assemble([each.to(measure.model.device, measure.model.dtype) for each in tensors], module)
        images += [image] * len(mosaic)
        targets += [number for _, number, _ in mosaic]
        cells += [f"{name} [{cell}]" for cell in range(len(mosaic))]
    inputs = torch.stack(images)
    ids = torch.tensor(targets, device=inputs.device)
    records: dict[tuple[str, str], list[list[Record]]] = {}
    for contender in measure.contenders:
        with contender.open(module, inputs, ids) as run:
            maps = contender.maps(run, cells)[:, 0].float()
            batch = Batch(run, maps, lambda other: contender.maps(other, cells)[:, 0], measure.black, tuple(cells))  # noqa: B023
            values = metric.measure(batch).cpu().double().numpy()
        size = len(values) // len(names)
        records[contender.label, judge.label] = [[Record(row) for row in values[i * size : (i + 1) * size]] for i in range(len(names))]
    return Part(tuple(names), records)
