"""One batch of samples: prepared, explained by every contender, judged by every metric. Nothing but numbers leaves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lucidcam.engine.run import open_run
from lucidcam.errors import MissingExtraError, OptionError
from lucidcam.evaluation.entries import Contender, Judge
from lucidcam.evaluation.journal import Part
from lucidcam.metrics import Batch, Comparative, FaithfulnessMetric, LocalizationMetric, Located, MosaicMetric, Record
from lucidcam.samples import Problem, Sample
from lucidcam.stream.problems import check_general, isolate_failures, prepare
from lucidcam.types import Model, Prepared
from lucidcam.utils.rollback import closes_scopes

Records = dict[tuple[str, str], list[list[Record]]]


@dataclass(frozen=True, eq=False)
class Item:
    """A sample that can be measured.

    Attributes:
        sample: with its boxes cut back to the image.
        prepared: its image.
        classes: the class ids of its labels that the model knows, by label.
        asked: the class that is asked for; None: the predicted one.
    """

    sample: Sample
    prepared: Prepared
    classes: dict[str, int]
    asked: int | None


@dataclass(frozen=True, eq=False)
class Measure:
    """What is done with every batch.

    Attributes:
        model: the network.
        as_it_is: the user's module, where `model` has a faster copy of it.
        contenders: who is judged.
        judges: by what.
        class_of: from a label of the data to a class id, or None.
        target: None (predicted), "label" (the image's own first label), or a class id.
    """

    model: Model
    as_it_is: nn.Module
    contenders: Sequence[Contender]
    judges: Sequence[Judge]
    class_of: Any
    target: Any

    def __call__(self, samples: Sequence[Sample | Problem], advance: Callable[[float], None]) -> Part:
        """Measure a batch; what cannot be used becomes a problem.

        Args:
            samples: the batch.
            advance: told how many images, with fractions, are done.

        Raises:
            LucidcamError: what is asked for is wrong, or the model or a method fails, whatever the images.
        """
        items: list[Item] = []
        problems: list[Problem] = []
        for sample in samples:
            found = sample if isinstance(sample, Problem) else self.item(sample)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                items.append(found)
        return self.judged(items, problems, advance)

    def judged(self, items: Sequence[Item], problems: list[Problem], advance: Callable[[float], None]) -> Part:
        """Measure items; those that cannot be measured join the problems.

        Raises:
            LucidcamError: what is asked for is wrong, or the model or a method fails, whatever the images.
        """
        groups: dict[Any, list[Item]] = {}
        for item in items:
            groups.setdefault(tuple(item.prepared.tensor.shape), []).append(item)
        names: list[str] = []
        classes: list[tuple[int, float]] = []
        records: Records = {(c.label, j.label): [] for c in self.contenders for j in self.judges if not isinstance(j.metric, MosaicMetric)}
        for group in groups.values():
            for part in isolate_failures(
                group,
                lambda some: [self._measured(some, advance)],
                lambda item, error: problems.append(Problem.of(item.sample.name, error)),
                self._check,
            ):
                names += part.names
                classes += part.classes
                for key in records:
                    records[key] += [list(each) for each in part.records[key]]
        return Part(tuple(names), records, tuple(problems), tuple(classes))

    def item(self, sample: Sample) -> Item | Problem:
        """Read and prepare a sample, or say why that fails."""
        prepared = prepare(self.model, sample)
        if isinstance(prepared, Problem):
            return prepared
        try:
            return self.item_of(sample, prepared)
        except (OptionError, MissingExtraError):
            raise
        except Exception as error:  # one bad sample does not end the run
            return Problem.of(sample.name, error)

    def _check(self, item: Item, error: Exception) -> None:
        sample = replace(item.sample, objects=(), ignore=None)
        check_general(self.model, error, lambda prepared: self._measured([replace(item, sample=sample, prepared=prepared)], lambda _: None))

    def item_of(self, sample: Sample, prepared: Prepared) -> Item | Problem:
        """A sample whose image is prepared; a problem where its class is asked for and not known.

        Raises:
            InputError: for a box outside the image.
        """
        fitted = sample.fitted(prepared.frame.width, prepared.frame.height)
        classes = {label: self.class_of(label) for label in fitted.labels}
        known = {label: found for label, found in classes.items() if found is not None}
        if self.target == "label" and not known:
            what = f"none of its labels ({', '.join(fitted.labels)}) is a class of the model" if fitted.labels else "it has no label"
            return Problem(sample.name, f"{sample.name}: {what}, and the target is the label.")
        return Item(fitted, prepared, known, next(iter(known.values())) if self.target == "label" else self.target)

    @closes_scopes
    def class_shown(self, judge: Judge, item: Item, inputs: Tensor) -> int:
        """The class to draw: the first that is marked in the image where localisation is judged, else the one that was asked for."""
        marked = [item.classes[each.label] for each in item.sample.objects if each.label in item.classes]
        if marked and isinstance(judge.metric, LocalizationMetric):
            return marked[0]
        if item.asked is not None:
            return item.asked
        with open_run(self.model.module, inputs, progress=False, stated=self.model.class_scores) as run:
            return int(run.class_scores().predicted(run.class_columns()))

    @closes_scopes
    def _measured(self, items: Sequence[Item], advance: Callable[[float], None]) -> Part:
        inputs = torch.stack([item.prepared.tensor for item in items]).to(self.model.device, self.model.dtype)
        with open_run(self.model.module, inputs, progress=False, stated=self.model.class_scores) as run:
            columns, scores = run.class_columns().cpu().double(), run.class_scores()
        order = scores.order(columns)
        predicted = order[:, 0]
        ids = [int(predicted[i]) if item.asked is None else item.asked for i, item in enumerate(items)]
        confidence = scores.of(columns) if scores.kind == "none" else scores.probabilities(columns)
        records: Records = {}
        for contender in self.contenders:
            for judge, found in self._judged(contender, inputs, items, ids, order.argsort(1)).items():
                records[contender.label, judge.label] = found
            advance(len(items) / len(self.contenders))
        self._compare(records)
        names = tuple(item.sample.name for item in items)
        classes = tuple((int(c), float(confidence[i, c])) for i, c in enumerate(predicted.tolist()))
        return Part(names, records, (), classes)

    def _judged(
        self, contender: Contender, inputs: Tensor, items: Sequence[Item], ids: list[int], ranks: Tensor
    ) -> dict[Judge, list[list[Record]]]:
        names = [item.sample.name for item in items]
        found: dict[Judge, list[list[Record]]] = {}
        maps: dict[tuple[int, int], Tensor] = {}
        asking = [(judge, judge.metric) for judge in self.judges if isinstance(judge.metric, FaithfulnessMetric)]
        target = torch.tensor(ids, device=inputs.device)
        for module, metrics in (
            (self.model.module, [each for each in asking if not each[1].exact]),
            (self.as_it_is, [each for each in asking if each[1].exact]),
        ):
            if not metrics:
                continue
            with contender.open(self.model, inputs, target, module) as run:
                made = contender.maps(run, names)[:, 0]
                maps = {(i, each): made[i].float().cpu() for i, each in enumerate(ids)}
                wide = made if made.dtype == torch.float64 else made.float()
                batch = Batch(run, wide, lambda other: contender.maps(other, names)[:, 0], self.black, tuple(names))
                for judge, metric in metrics:
                    found[judge] = [[Record(row)] for row in metric.measure(batch).cpu().double().numpy()]
        comparing = [(judge, judge.metric) for judge in self.judges if isinstance(judge.metric, LocalizationMetric)]
        if comparing:
            wanted = [list(item.classes.values()) for item in items]
            maps |= self._missing(contender, inputs, items, wanted, maps)
            for i, item in enumerate(items):  # maps in the photos' size are large: one image at a time
                views = _located(item, {each: maps[i, each] for each in wanted[i]}, ranks[i])
                for judge, comparison in comparing:
                    found.setdefault(judge, []).append(list(comparison.measure(views)) if views else [])
        return found

    def _missing(
        self, contender: Contender, inputs: Tensor, items: Sequence[Item], wanted: list[list[int]], maps: dict[tuple[int, int], Tensor]
    ) -> dict[tuple[int, int], Tensor]:
        """The maps of classes that were not made yet: images with equally many of them together, all classes in one pass."""
        groups: dict[int, list[tuple[int, list[int]]]] = {}
        for i, classes in enumerate(wanted):
            missing = [each for each in dict.fromkeys(classes) if (i, each) not in maps]
            if missing:
                groups.setdefault(len(missing), []).append((i, missing))
        found: dict[tuple[int, int], Tensor] = {}
        for group in groups.values():
            rows = [i for i, _ in group]
            target = torch.tensor([classes for _, classes in group], device=inputs.device)
            with contender.open(self.model, inputs[rows], target) as run:
                made = contender.maps(run, [items[i].sample.name for i in rows]).float().cpu()
            for (i, classes), ours in zip(group, made, strict=True):
                found |= {(i, each): ours[t] for t, each in enumerate(classes)}
        return found

    def _compare(self, records: Records) -> None:
        """Turn what a comparative metric measured of each method into how it fares against each other method."""
        methods = [contender.label for contender in self.contenders if contender.method is not None]
        for judge in self.judges:
            metric = judge.metric
            if not isinstance(metric, Comparative):
                continue
            own = {c.label: [row[0].values for row in records[c.label, judge.label]] for c in self.contenders}
            for label, values in own.items():
                rivals = [rival for rival in methods if rival != label]
                records[label, judge.label] = [
                    [Record(metric.against(mine, own[rival][i]), rival) for rival in rivals] for i, mine in enumerate(values)
                ]

    @cached_property
    def black(self) -> Tensor:
        """What a black pixel is in the network's input space `[C]`."""
        tensor = self.model.prepare([Image.new("RGB", (256, 256))])[0].tensor
        return tensor.flatten(1).mean(1).to(self.model.device, self.model.dtype)


def _located(item: Item, maps: dict[int, Tensor], ranks: Tensor) -> list[Located]:
    """The maps of the classes that are marked in an image, with the objects of each."""
    sample = item.sample
    unknown = tuple(each for each in sample.objects if each.label not in item.classes)
    found = []
    for label, number in item.classes.items():
        objects = tuple(each for each in sample.objects if each.label == label)
        if objects:
            alone = len(sample.labels) == 1
            found.append(Located(maps[number], item.prepared.frame, label, objects, sample.ignore, unknown, int(ranks[number]), alone))
    return found
