"""The samples of a data set with the maps of the classes that are asked for, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from lucidcam.data import Dataset
from lucidcam.data.class_map import ClassMap, Given
from lucidcam.errors import DataError, TargetError
from lucidcam.imaging.explanation import Explanation
from lucidcam.methods._base import Method
from lucidcam.methods.settings import IMAGES_AT_ONCE, resolve_method
from lucidcam.samples import Problem, Sample
from lucidcam.stream.explain import explain_images
from lucidcam.stream.problems import check_general, isolate_failures, prepare
from lucidcam.targets import by_word
from lucidcam.targets.resolve import resolve_target
from lucidcam.types import Model, Prepared, fold

OnProblem = Callable[[Problem], None]

LABEL = "label"
"""The target that means: the image's own labels."""

PREDICTED = "predicted"
"""The target that means: each image's predicted class."""

LOOKED_AT = 16
"""Samples that are looked at to see whether the data has labels."""


@dataclass(frozen=True, eq=False)
class Explained:
    """A sample with its maps.

    Attributes:
        sample: from the data set.
        prepared: its image.
        maps: of each class that is asked for, after what to call it; none for an image of which no class is told.
        number: of the sample, where whoever asks counts them.
    """

    sample: Sample
    prepared: Prepared
    maps: tuple[tuple[str, Explanation], ...]
    number: int = 0


@dataclass(frozen=True, eq=False)
class Explainer:
    """What is asked of every sample.

    Attributes:
        model: the network.
        method: as for `lucidcam.explain`, like `layer` and `options`.
        target: None (the predicted class), "label" (the image's own labels), a label or class id, several of them, "top5", or a target.
        layer: where.
        class_map: from the data's names of classes to the model's labels or ids, where they differ; see `lucidcam.data`.
        options: of the method.
    """

    model: Model
    method: str | Method = "gradcam"
    target: Any = None
    layer: Any = None
    class_map: Given = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, data: Dataset, on_problem: OnProblem | None) -> Iterator[Explained]:
        """Explain a data set; what cannot be used goes to `on_problem`, or is raised where there is none.

        Raises:
            DataError: when nothing of it can be used.
            LucidcamError: at once, for a method, option or class that does not exist.
        """
        return self._stream(data, on_problem or _raise, self.asking())

    def asking(self) -> Asking:
        """The questions, checked: what to ask of each sample.

        Raises:
            LucidcamError: for a method, option or class that does not exist.
        """
        resolve_method(self.method, dict(self.options))
        classes = ClassMap.of(self.model, self.class_map)
        return Asking(classes, None if isinstance(self.target, str) and self.target == LABEL else self._fixed(classes))

    def explained(self, ready: Sequence[Ready], failed: Callable[[Ready, Problem], None]) -> list[Explained]:
        """Explain some samples together; where that fails, one by one, and those that fail by themselves go to `failed`.

        Raises:
            LucidcamError: what is asked for is wrong, or the model or method fails on any image whatever.
        """
        return isolate_failures(ready, self._explained, lambda each, error: failed(each, Problem.of(each.sample.name, error)), self._check)

    def _check(self, ready: Ready, error: Exception) -> None:
        check_general(self.model, error, lambda prepared: self._explained([replace(ready, prepared=prepared)]))

    def _stream(self, data: Dataset, tell: OnProblem, asking: Asking) -> Iterator[Explained]:
        first: Problem | None = None
        count = told = 0

        def failed(problem: Problem) -> None:
            nonlocal first
            first = first or problem
            tell(problem)

        samples = iter(data)
        while chunk := list(islice(samples, IMAGES_AT_ONCE)):
            ready = []
            for each in chunk:
                found = self._ready(each, asking)
                if isinstance(found, Problem):
                    failed(found)
                else:
                    ready.append(found)
            for done in self.explained(ready, lambda _, problem: failed(problem)):
                count, told = count + 1, told + bool(done.maps)
                yield done
        if not count:
            raise DataError(f"{data.name}: no image could be used{'; it is empty.' if first is None else f', {first.error}'}")
        if not told:
            raise DataError(f"{data.name}: it tells no classes of its images; give target=None for the predicted ones, or a class.")
        unmatched = asking.classes.unmatched
        if unmatched and asking.fixed is None:
            names = ", ".join(sorted(unmatched))
            tell(
                Problem(data.name, f"{data.name}: these labels are no classes of {self.model.name}: {names}; give class_map (--class-map).")
            )

    def _ready(self, sample: Sample | Problem, asking: Asking) -> Ready | Problem:
        if isinstance(sample, Problem):
            return sample
        prepared = prepare(self.model, sample)
        return prepared if isinstance(prepared, Problem) else asking.ready(sample, prepared, self.model)

    def _fixed(self, classes: ClassMap) -> _Question:
        """The target that is the same for every image."""
        if self.model.task is not None:
            return _Question(resolve_target(self.target, self.model), {})
        given = self.target if isinstance(self.target, (list, tuple)) else [self.target]
        if not len(given):
            raise TargetError("expected at least one target; got none: give None for the predicted class, or leave it out.")
        ids: dict[int | None, str] = {}
        for each in given:
            mapped = classes.given.get(fold(each)) if isinstance(each, str) and by_word(each) is None else None
            found = resolve_target(each, self.model) if mapped is None else mapped
            if not isinstance(found, int):
                if len(given) > 1:
                    raise TargetError(f"{each!r} cannot be combined with other targets.")
                return _Question(found, {})
            ids[found] = str(each) if mapped is not None else self.model.label(found)
        return _Question(list(ids), ids)

    def _explained(self, ready: Sequence[Ready]) -> list[Explained]:
        asked = [each for each in ready if each.question.target != []]
        found: dict[int, list[Explanation]] = {}
        if asked:
            target: Any = asked[0].question.target
            if isinstance(target, list):
                target = [each.question.target for each in asked]
            options = {"progress": False, **self.options}
            # Under their places: data sets may call two images the same.
            images = [replace(each.prepared, name=str(i)) for i, each in enumerate(asked)]
            for one in explain_images(self.model, images, self.method, target, self.layer, with_provenance=False, **options):
                place = int(one.name)
                found.setdefault(id(asked[place]), []).append(replace(one, name=asked[place].prepared.name))
        return [
            Explained(
                each.sample,
                each.prepared,
                tuple((each.question.names.get(one.target, one.label), one) for one in found.get(id(each), ())),
                each.number,
            )
            for each in ready
        ]


@dataclass(frozen=True, eq=False)
class _Question:
    """What is asked of one image: a target as for `explain`, and what to call the classes."""

    target: Any
    names: Mapping[int | None, str]


@dataclass(frozen=True, eq=False)
class Ready:
    """A sample that can be explained: its image prepared, its question asked."""

    sample: Sample
    prepared: Prepared
    question: _Question
    number: int = 0


@dataclass(frozen=True, eq=False)
class Asking:
    """What to ask of each sample.

    Attributes:
        classes: from the data's names of classes to the model's.
        fixed: the same for every image; None: each image's own labels.
    """

    classes: ClassMap
    fixed: _Question | None

    def ready(self, sample: Sample, prepared: Prepared, model: Model, number: int = 0) -> Ready | Problem:
        """A prepared sample with its question; a problem where none of its labels is a class of the model."""
        if self.fixed is not None:
            return Ready(sample, prepared, self.fixed, number)
        ids: dict[int | None, str] = {}
        for label in sample.labels:
            id = self.classes.resolve(label)
            if id is not None:
                ids.setdefault(id, label)
        if sample.labels and not ids:
            why = self.classes.reasons.get(sample.labels[0], "")
            told = f"none of its labels ({', '.join(sample.labels)}) is a class of {model.name}: {why} See --class-map, class_map."
            return Problem(sample.name, f"{sample.name}: {told}")
        return Ready(sample, prepared, _Question(list(ids), ids), number)


def _raise(problem: Problem) -> None:
    raise DataError(problem.error)


def asked_of(target: Any, dataset: Dataset) -> Any:
    """The target as `Explainer` takes it: by default the images' own labels where the first of them have any.

    Raises:
        TargetError: "label" or "predicted" beside other targets.
    """
    if isinstance(target, (list, tuple)) and {LABEL, PREDICTED} & {each for each in target if isinstance(each, str)}:
        if len(target) > 1:
            raise TargetError(f'"{LABEL}" and "{PREDICTED}" cannot be combined with other targets.')
        [target] = target
    if target is None:
        return LABEL if any(getattr(sample, "labels", ()) for sample in islice(dataset, LOOKED_AT)) else None
    return None if isinstance(target, str) and target == PREDICTED else target
