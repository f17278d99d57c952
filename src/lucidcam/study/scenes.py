"""The photos of a study: with two classes, as they are or joined from two; and pictures whose answer is obvious."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from lucidcam.data import ClassMap
from lucidcam.imaging import render
from lucidcam.io import images
from lucidcam.samples import Mask, Sample
from lucidcam.types import Model
from lucidcam.utils.text import short

SIDE = 640
"""Pixels per side of each of two photos that are joined."""

OVERLAP = 0.1
"""Regions of two classes that share more, as a part of the smaller one, tell nobody which class is meant."""

SMALLEST = 0.02
"""A region that is a smaller part of the photo is easily overlooked."""

Word = tuple[str, int]
"""A class in words, and its id."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo with two classes.

    Attributes:
        name: in the study.
        image: what the network sees.
        classes: the two.
        shown: the part (xyxy) that is shown.
        regions: makes the pixels of each of the two; None: nobody marked them.
    """

    name: str
    image: Image.Image = field(repr=False)
    classes: tuple[Word, Word]
    shown: tuple[int, int, int, int]
    regions: Callable[[], tuple[Mask, Mask] | None] = field(repr=False)

    def obvious(self) -> tuple[Image.Image, tuple[str, str]] | None:
        """The photo with heat drawn exactly on one of the classes, and the classes in words, that one first.

        None where nobody marked them, they lie on each other, or are small.
        """
        both = self.regions()
        if both is None:
            return None
        (first, _), (second, _) = self.classes
        pixels = [int(each.sum()) for each in both]
        if max(pixels) < SMALLEST * both[0].size or (both[0] & both[1]).sum() > OVERLAP * min(pixels):
            return None
        inside, words = (both[0], (first, second)) if pixels[0] >= pixels[1] else (both[1], (second, first))
        soft = Image.fromarray(np.uint8(inside) * 255).filter(ImageFilter.GaussianBlur(min(self.image.size) / 40))
        return render.overlay(self.image, np.asarray(soft, np.float32) / np.float32(255)).crop(self.shown), words


def known(sample: Sample, classes: ClassMap) -> dict[str, int]:
    """A sample's labels that the model knows, with their ids; each class once."""
    found: dict[int, str] = {}
    for label in sample.labels:
        id = classes.resolve(label)
        if id is not None:
            found.setdefault(id, label)
    return {label: id for id, label in found.items()}


def spoken(label: str, *asked: tuple[Model, int]) -> str:
    """A label as people say it: for a number or a synset's id the word of a model that has one, with the class's id there."""
    if re.fullmatch(r"n\d{8}|\d+", label):
        return next((short(model.label(id)) for model, id in asked if model.labels is not None), label)
    return label.replace("_", " ")


def _words(sample: Sample, classes: ClassMap, model: Model) -> list[Word]:
    return [(spoken(label, (model, id)), id) for label, id in known(sample, classes).items()]


def two_classed(samples: Iterable[Sample], classes: ClassMap, model: Model) -> list[Callable[[], Scene]]:
    """Makers of scenes from samples of exactly two classes."""
    found: list[Callable[[], Scene]] = []
    for sample in samples:
        both = _words(sample, classes, model)
        if len(both) == 2 == len(sample.labels):
            found.append(_Whole(sample, (both[0], both[1]), model.window))
    return found


def joined(samples: Sequence[Sample], classes: ClassMap, model: Model) -> list[Callable[[], Scene]]:
    """Makers of scenes from pairs of samples that have one class each; each sample is in one pair at most."""
    single = [(sample, own[0]) for sample in samples if len(own := _words(sample, classes, model)) == 1 == len(sample.labels)]
    return [_Joined(*first, *second, right=bool(k % 2), window=model.window) for k, (first, second) in enumerate(_pairs(single))]


def _pairs(single: list[tuple[Sample, Word]]) -> Iterator[tuple[tuple[Sample, Word], tuple[Sample, Word]]]:
    waiting: list[tuple[Sample, Word]] = []
    for each in single:
        other = next((k for k, one in enumerate(waiting) if one[1][1] != each[1][1]), None)
        if other is None:
            waiting.append(each)
        else:
            yield waiting.pop(other), each


@dataclass(frozen=True, eq=False)
class _Whole:
    sample: Sample
    classes: tuple[Word, Word]
    window: images.Window | None

    def __call__(self) -> Scene:
        image, _ = images.read(self.sample.image, self.window)
        sample = self.sample.fitted(*image.size)

        def regions() -> tuple[Mask, Mask] | None:
            first, second = (_marked(sample, label, image.size) for label in sample.labels)
            return None if first is None or second is None else (first, second)

        return Scene(sample.name, image, self.classes, (0, 0, *image.size), regions)


@dataclass(frozen=True, eq=False)
class _Joined:
    """Side by side in the middle of a grey square, so that no preprocessing squashes them or cuts one of them off."""

    first: Sample
    word: Word
    second: Sample
    other: Word
    right: bool
    """The first of them stands to the right."""
    window: images.Window | None

    def __call__(self) -> Scene:
        canvas = Image.new("RGB", (2 * SIDE, 2 * SIDE), (128, 128, 128))
        top = SIDE // 2
        left, right = (self.second, self.first) if self.right else (self.first, self.second)
        for k, sample in enumerate((left, right)):
            canvas.paste(ImageOps.fit(images.read(sample.image, self.window)[0], (SIDE, SIDE)), (k * SIDE, top))

        def regions() -> tuple[Mask, Mask]:
            halves = np.zeros((2, 2 * SIDE, 2 * SIDE), bool)
            halves[int(self.right), top : top + SIDE, :SIDE] = True
            halves[1 - int(self.right), top : top + SIDE, SIDE:] = True
            return halves[0], halves[1]

        name = f"{left.name} | {right.name}"
        return Scene(name, canvas, (self.word, self.other), (0, top, 2 * SIDE, top + SIDE), regions)


def _marked(sample: Sample, label: str, size: tuple[int, int]) -> Mask | None:
    """The pixels of a class's objects, from their masks, else their boxes; None where there is none."""
    inside = np.zeros(size[::-1], bool)
    for each in sample.objects:
        if each.label != label:
            continue
        if each.mask is not None:
            inside |= each.mask()
        elif each.box is not None:
            left, top, right, bottom = (round(side) for side in each.box)
            inside[top:bottom, left:right] = True
    return inside if inside.any() else None
