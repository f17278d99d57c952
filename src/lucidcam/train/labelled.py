"""A data set as training takes it: samples with (multi-)hot labels, split, and weighed so that rare classes or combinations count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam.data import open_data
from lucidcam.errors import DataError, OptionError
from lucidcam.samples import Problem, Sample, composed
from lucidcam.types import without_zeros

Array = npt.NDArray[np.float64]
Sampling = Literal["uniform", "balanced", "decorrelated"]
MOST_WEIGHT = 20.0
"""No image is drawn more than so many times as often as another one of average weight, under decorrelated sampling."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples with the classes they hold.

    Attributes:
        name: of the data set.
        samples: n of them.
        labels: multi-hot `[n, K]`.
        classes: K words.
        multi_label: whether an image may hold several classes, or none.
        problems: what could not be used.
    """

    name: str
    samples: tuple[Sample, ...]
    labels: Array
    classes: tuple[str, ...]
    multi_label: bool
    problems: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Labelled:
        """Some of the samples."""
        return replace(self, samples=tuple(self.samples[i] for i in rows), labels=self.labels[np.asarray(rows, np.int64)])

    def lean(self) -> Labelled:
        """Without what is marked in the images: for processes that read photos, which need none of it."""
        return replace(self, samples=tuple(Sample(each.image, each.name, each.labels) for each in self.samples))

    def digest(self) -> str:
        """A short text that changes with the samples."""
        return hashlib.blake2b("".join(each.identity() for each in self.samples).encode(), digest_size=8).hexdigest()

    def split(self, share: float, seed: int) -> tuple[Labelled, Labelled]:
        """Split off a share, taken from each combination of labels alike; a combination's only image stays in the first part.

        Where that gives no image, one of the most frequent combination is taken.

        Raises:
            OptionError: a share that is none.
            DataError: no combination has two images.
        """
        if not 0 < share < 1:
            raise OptionError(f"expected 0 < validation_share < 1; got {share}.")
        rng = np.random.default_rng(seed)
        groups = [rng.permutation(group).tolist() for group in self._combinations().values()]
        largest = max(groups, key=len)
        if len(largest) < 2:
            raise DataError(f"{self.name}: {len(self)} images are too few to keep some for validation; give more.")
        second = sorted(row for group in groups for row in group[: min(round(share * len(group)), len(group) - 1)]) or largest[:1]
        first = sorted(set(range(len(self))) - set(second))
        return self.part(first), self.part(second)

    def class_weights(self) -> Tensor:
        """Weights `[K]` of the loss that make rare classes count: `n / (K n_c)`; for several labels per image `(n − n_c) / n_c`."""
        count = self.labels.sum(0).clip(min=1)
        weights = (len(self) - count).clip(min=1) / count if self.multi_label else len(self) / (len(self.classes) * count)
        return torch.tensor(weights, dtype=torch.float32)

    def sampling_weights(self, sampling: Sampling) -> Array | None:
        """How often each image is drawn, relative to the others `[n]`; None: each once.

        "balanced": each class (and having none) as often as any other; an image of several classes as its rarest.
        "decorrelated": label combinations as often as if labels were independent, `Π_k P(y_k) / P(y)`, at most 20 times the average.
        """
        if sampling == "uniform":
            return None
        if sampling == "balanced":
            count = np.concatenate([self.labels.sum(0), [max(1, (self.labels.sum(1) == 0).sum())]])
            present = np.concatenate([self.labels, self.labels.sum(1, keepdims=True) == 0], axis=1)
            return np.asarray((present / count.clip(min=1)).max(1) * len(self))
        chance = self.labels.mean(0)
        independent = np.where(self.labels > 0, chance, 1 - chance).prod(1)
        weights = np.empty(len(self))
        for group in self._combinations().values():
            weights[group] = independent[group] / (len(group) / len(self))
        return np.asarray((weights / weights.mean()).clip(max=MOST_WEIGHT))

    def _combinations(self) -> dict[tuple[float, ...], list[int]]:
        groups: dict[tuple[float, ...], list[int]] = {}
        for i, row in enumerate(self.labels.tolist()):
            groups.setdefault(tuple(row), []).append(i)
        return groups


def read(
    data: Any,
    classes: Sequence[str] | Literal["present"] | None = None,
    multi_label: bool | None = None,
    limit: int | None = None,
    format: str | None = None,
    complete: bool = True,
    **options: Any,
) -> Labelled:
    """Read a data set's labels; no image is opened.

    Args:
        data: as for `lucidcam.data.open_data`.
        classes: which, in this order, by their names: "10" is the class called "10", never class id 10. "present": those that have
            images, sorted; None: those the data set lists, else "present".
        multi_label: whether an image may hold several classes, or none; None: whether one does.
        limit: at most so many samples, drawn from all of them; always the same ones.
        format: the data's format; None: found out.
        complete: every class must have an image.
        options: the format's own.

    Raises:
        DataError: a class without images, a label outside the list, fewer than two classes, several labels where one is asked for.
    """
    dataset = open_data(data, format, **options)
    samples: list[Sample] = []
    problems: list[Problem] = []
    for each in dataset:
        if isinstance(each, Problem):
            problems.append(each)
        else:
            samples.append(each)
    if limit is not None and limit < len(samples):  # of all of them: a folder's first images are of one class
        samples = [samples[i] for i in sorted(np.random.default_rng(0).permutation(len(samples))[:limit])]
    found = Counter(label for sample in samples for label in sample.labels)
    if not found:
        first = f" Of {len(problems)} that cannot be used the first: {problems[0].error}" if problems else ""
        raise DataError(f"{dataset.name}: no image has a label; training needs image-level labels, a sub-folder per class say.{first}")
    if classes == "present" or (classes is None and dataset.classes is None):
        names = tuple(sorted(found))
    else:
        names = tuple(map(composed, dataset.classes or () if classes is None else classes))
    spellings = {label: name for label in found for name in names if label not in names and without_zeros(label) == without_zeros(name)}
    if spellings:  # a table of floating-point columns calls class 1 "1.0"
        samples = [replace(each, labels=tuple(dict.fromkeys(spellings.get(label, label) for label in each.labels))) for each in samples]
        found = Counter(label for sample in samples for label in sample.labels)
    _check_classes(dataset.name, names, found, complete)
    several = any(len(sample.labels) > 1 for sample in samples)
    if multi_label is False and several:
        raise DataError(f"{dataset.name}: some images have several labels; train multi-label, or give data with one label each.")
    multi_label = several if multi_label is None else multi_label
    if not multi_label:
        problems += [Problem(each.name, f"{each.name}: it has no label") for each in samples if not each.labels]
        samples = [each for each in samples if each.labels]
    number = {name: k for k, name in enumerate(names)}
    labels = np.zeros((len(samples), len(names)))
    for i, sample in enumerate(samples):
        labels[i, [number[label] for label in sample.labels]] = 1
    return Labelled(dataset.name, tuple(samples), labels, names, multi_label, problems)


def _check_classes(data: str, names: tuple[str, ...], found: Counter[str], complete: bool) -> None:
    strange = {label: count for label, count in found.items() if label not in names}
    if strange:
        shown = ", ".join(f"{label!r} ({count} images)" for label, count in list(strange.items())[:5])
        raise DataError(f"{data}: labels outside the list of classes: {shown}; the list is {', '.join(names[:10])}. Add them, or relabel.")
    empty = [name for name in names if name not in found]
    if empty and complete:
        shown = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise DataError(
            f"{data}: {len(empty)} of {len(names)} classes have no images: {shown}; add images, or train on those that have some "
            '(classes="present", --classes present).'
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"{data}: expected two classes or more, each once; got {', '.join(names)}.")
