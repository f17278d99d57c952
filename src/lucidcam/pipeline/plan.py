"""A data set cut into units of work, always the same ones, so that a run that was killed finds its place again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from lucidcam.data import Dataset
from lucidcam.samples import Problem, Sample


@dataclass(frozen=True, eq=False)
class Unit:
    """Some samples in a row: what one worker does at a time, and what one file of each kind holds.

    Attributes:
        number: of the unit in the run, from 0.
        start: number of its first sample in the data set.
        samples: of the data set, problems in the place of what cannot be used.
    """

    number: int
    start: int
    samples: tuple[Sample | Problem, ...]

    def identity(self, without: Collection[int] = ()) -> str:
        """A short text that changes with the samples: their names, classes, boxes and files.

        Args:
            without: numbers of samples, in the data set, that it does not change with.
        """
        digest = hashlib.blake2b(digest_size=12)
        for number, each in enumerate(self.samples, self.start):
            digest.update(b"-\n" if number in without else f"{each.identity()}\n".encode())
        return digest.hexdigest()


def units(data: Dataset, size: int) -> Iterator[Unit]:
    """Cut a data set into units of `size` samples. Images are not read.

    >>> from lucidcam.data import open_data
    >>> import numpy as np
    >>> [(unit.number, unit.start, len(unit.samples)) for unit in units(open_data([np.zeros((8, 8, 3), np.uint8)] * 5), 2)]
    [(0, 0, 2), (1, 2, 2), (2, 4, 1)]
    """
    samples = iter(data)
    number = 0
    while some := tuple(islice(samples, size)):
        yield Unit(number, number * size, tuple(map(_light, some)))
        number += 1


def _light(sample: Sample | Problem) -> Sample | Problem:
    """Without masks: they are made by functions, which cannot travel to another process, and a run does not ask for them."""
    name = sample.name.encode("utf-8", "backslashreplace").decode()  # Linux has file names that are no text
    if isinstance(sample, Problem):
        return replace(sample, name=name)
    image = os.path.abspath(os.path.expanduser(sample.image)) if isinstance(sample.image, (str, os.PathLike)) else sample.image  # noqa: PTH100, PTH111
    return replace(sample, image=image, name=name, objects=tuple(replace(each, mask=None) for each in sample.objects), ignore=None)
