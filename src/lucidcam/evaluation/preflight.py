"""A look at the annotations before the work begins: what can be asked, and what is amiss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lucidcam.data import ClassMap, Dataset
from lucidcam.errors import DataError, nearest
from lucidcam.evaluation.entries import Judge
from lucidcam.samples import Sample
from lucidcam.types import Model, fold

DEFAULT_METRICS = ("average_drop", "increase_in_confidence", ("deletion", {"steps": 32}), ("insertion", {"steps": 32}))
"""What needs images alone, in steps that are a first look rather than a publication."""

DEFAULT_BOX_METRICS = ("localization_error", "maxboxacc", "pointing_game", "energy_pointing_game")
"""What is asked, too, where there are boxes or masks."""

LOOK_AHEAD = 1000
"""Samples whose annotations are looked at before the work begins."""


@dataclass(frozen=True)
class Ahead:
    """What the annotations of the first samples hold.

    Attributes:
        seen: usable samples among them.
        all: whether there are no others.
        labels: whether any has a class.
        boxes: whether any has a box or mask.
        masks: whether any has a mask.
        matched: how many of their classes are the model's.
        names: their classes.
    """

    seen: int
    all: bool
    labels: bool
    boxes: bool
    masks: bool
    matched: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, classes: ClassMap) -> Ahead:
        """Look at the first samples; no image is read."""
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
