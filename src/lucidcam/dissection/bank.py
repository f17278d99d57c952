"""Banks of concepts: images of which it is known what they show, to name channels by."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lucidcam.data import Dataset, open_data
from lucidcam.data.synthetic import FORMS
from lucidcam.dissection import patterns
from lucidcam.dissection.texts import labelled
from lucidcam.errors import DataError, OptionError
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem, Sample
from lucidcam.types import Model

FEWEST = 4
"""Images with a concept, and images without it: two to choose names by, two to test them on."""


@dataclass(frozen=True, eq=False)
class Bank(OneLineRepr):
    """Images with the concepts that each of them shows.

    What an image is not labelled with counts as not shown: a folder's image does not show what the other folders are about.

    Attributes:
        data: the images, each with its concepts as labels, and with their masks where those are known.
        concepts: the names, in order.
        kinds: what each is ("texture", "colour", …); an image says nothing of the places of kinds that none of its masks is of.
    """

    data: Dataset = field(repr=False)
    concepts: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.data.name

    @classmethod
    def of(cls, data: Any, kinds: Mapping[str, str] | None = None, format: str | None = None) -> Bank:
        """A bank of any data set: its classes are the concepts.

        Args:
            data: a folder with a sub-folder of images for each concept; a folder with `images/<concept>/` and `masks/<concept>/`; or any
                other data set that `lucidcam.data.open_data` knows.
            kinds: of the concepts; a concept that is not named there is of the kind "".
            format: of the data; None: found out.

        Raises:
            DataError: fewer than four images show a concept, or fewer than four do not.
        """
        dataset = open_data(data, format)
        counts: Counter[str] = Counter()
        images = 0
        for sample in dataset:
            if isinstance(sample, Sample):
                images += 1
                counts.update(set(sample.labels))
        if not counts:
            raise DataError(f"{dataset.name}: no image shows a concept; expected a folder of images for each, or labels.")
        names = tuple(dict.fromkeys([*(dataset.classes or ()), *sorted(counts)]))
        for name in names:
            if counts[name] < FEWEST:
                raise DataError(f"{dataset.name}: expected at least {FEWEST} images of the concept {name!r}; there are {counts[name]}.")
            if images - counts[name] < FEWEST:
                without = images - counts[name]
                raise DataError(f"{dataset.name}: expected at least {FEWEST} images without the concept {name!r}; there are {without}.")
        return cls(dataset, names, {name: (kinds or {}).get(name, "") for name in names})

    @classmethod
    def folder(cls, path: str | os.PathLike[str], kinds: Mapping[str, str] | None = None) -> Bank:
        """The same as `of`, for a folder.

        Raises:
            DataError: it does not exist, or its images do not suffice.
        """
        return cls.of(path, kinds)

    @classmethod
    def builtin(cls, count: int = 660, size: int = 128, seed: int = 0) -> Bank:
        """Generated images with masks: 11 textures (three of them cut from scikit-image's pictures), 7 colours and 6 shapes.

        The three are drawn independently of each other, so that a channel that sees red things is not taken for one that sees circles.

        Args:
            count: images.
            size: their side in pixels; that of the network's input is best.
            seed: of every random draw.

        Raises:
            OptionError: too few images for the concepts, or too small ones.
            MissingExtraError: scikit-image is not installed.
        """
        fewest = 2 * FEWEST * len(patterns.TEXTURES)
        if count < fewest or size < 16:
            raise OptionError(f"expected count ≥ {fewest} images of size ≥ 16; got {count} of {size}.")
        kinds = {
            **dict.fromkeys(patterns.TEXTURES, "texture"),
            **dict.fromkeys([*patterns.COLOURS, patterns.GREY], "colour"),
            **dict.fromkeys(FORMS, "shape"),
        }
        name = f"builtin(count={count}, size={size}, seed={seed})"
        stream = partial(patterns.samples, count, size, seed)
        return cls(Dataset(name, "generated", stream, count, tuple(kinds)), tuple(kinds), kinds)

    @classmethod
    def texts(
        cls,
        images: Any,
        texts: Sequence[str],
        clip: Model,
        *,
        share: float = 0.1,
        prompt: str = "a photo of {}",
        progress: bool | None = None,
    ) -> Bank:
        """A bank of photos that nobody labelled: a model of images and texts says what they show.

        An image shows a text when it is among the `share` of all images that fit it best, after the mean over all texts is taken away.

        Args:
            images: any data set, or images.
            texts: the concepts, in words.
            clip: such a model: `lucidcam.load("hf:openai/clip-vit-base-patch16")`. The names are as good as what it says.
            share: of the images that show a text, 0 to 0.5.
            prompt: how a text is asked, with "{}" in its place.
            progress: a bar; None: in a terminal or notebook.

        Raises:
            ModelError: `clip` is no model of images and texts.
            OptionError: fewer than two texts, or a value outside its range.
            DataError: the images do not suffice.
        """
        return cls.of(labelled(images, texts, clip, share, prompt, progress))

    def identity(self) -> str:
        """A short text that changes with the images and what they are said to show."""
        digest = hashlib.blake2b(repr((self.concepts, sorted(self.kinds.items()))).encode(), digest_size=12)
        for sample in self.data:
            if not isinstance(sample, Problem):
                digest.update(sample.identity().encode())
        return digest.hexdigest()
