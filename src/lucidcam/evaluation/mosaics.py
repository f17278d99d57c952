"""Metrics that ask about mosaics of several images: the second stage of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lucidcam.data import Dataset
from lucidcam.errors import InputError
from lucidcam.evaluation.batch import Item, Measure
from lucidcam.evaluation.entries import Judge, slug
from lucidcam.evaluation.journal import Journal, Part
from lucidcam.imaging import maps as maps_
from lucidcam.metrics import MosaicMetric, Record
from lucidcam.samples import Problem, Sample
from lucidcam.stream.problems import isolate_failures

PER_CLASS = 100
"""Candidates kept of each class: enough for any number of mosaics, whatever the data set's size."""

Candidate = tuple[str, int, float]
"""An image's name, its predicted class and that class's probability."""


@dataclass
class Mosaics:
    """One metric's mosaics.

    Attributes:
        judge: the metric under its label.
        metric: the same.
        seed: of the choice.
        found: by class, the images that may take part, with the place that chance gave them.
    """

    judge: Judge
    metric: MosaicMetric
    seed: int
    found: dict[int, list[tuple[bytes, Candidate]]] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """Consider the images of one batch. Which are kept does not depend on their order."""
        for name, (number, confidence) in zip(part.names, part.classes, strict=True):
            if confidence >= self.metric.confidence:
                kept = self.found.setdefault(number, [])
                kept.append((hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest(), (name, number, confidence)))
                if len(kept) > 2 * PER_CLASS:
                    self.found[number] = sorted(kept)[:PER_CLASS]

    def measure(self, measure: Measure, dataset: Dataset, journal: Journal, add: Callable[[Part], None]) -> None:
        """Choose mosaics, and measure every method on them."""
        listed = [candidate for _, kept in sorted(self.found.items()) for _, candidate in sorted(kept)[:PER_CLASS]]
        mosaics = [[listed[i] for i in each] for each in self.metric.choose(listed, self.seed)]
        wanted = {name for each in mosaics for name, _, _ in each}
        samples = {each.name: each for each in dataset if isinstance(each, Sample) and each.name in wanted}
        for number, mosaic in enumerate(mosaics):
            asked = [samples[name].identity() for name, _, _ in mosaic]
            part = journal.read(slug(self.judge.label), number, asked)
            if part is None:
                name = " | ".join(each for each, _, _ in mosaic)
                part = self._part(measure, mosaic, samples, name)
                journal.write(slug(self.judge.label), number, asked, part)
            add(part)

    def _part(self, measure: Measure, mosaic: Sequence[Candidate], samples: dict[str, Sample], name: str) -> Part:
        """Measure a mosaic; one that fails is a problem, and the others stay."""
        problems: list[Problem] = []
        found = isolate_failures(
            [mosaic], lambda _: [self._measured(measure, mosaic, samples, name)], lambda _, e: problems.append(Problem.of(name, e))
        )
        return found[0] if found else Part(problems=tuple(problems))

    def _measured(self, measure: Measure, mosaic: Sequence[Candidate], samples: dict[str, Sample], name: str) -> Part:
        """One image, and the class of each of its cells as target."""
        tensors = []
        for each, _, _ in mosaic:
            item = measure.item(samples[each])
            if not isinstance(item, Item):
                raise InputError(item.error)
            tensors.append(item.prepared.tensor.to(measure.model.device, measure.model.dtype))
        image = self.metric.assemble(tensors, measure.model.module)
        ids = torch.tensor([[number for _, number, _ in mosaic]], device=image.device)
        records: dict[tuple[str, str], list[list[Record]]] = {}
        for contender in measure.contenders:
            with contender.open(measure.model, image[None], ids) as run:
                made = contender.maps(run, [name])[0]
            values = self.metric.measure(maps_.resize(made.float(), (image.shape[1], image.shape[2]))).cpu().double().numpy()
            records[contender.label, self.judge.label] = [[Record(row) for row in values]]
        return Part((name,), records)
