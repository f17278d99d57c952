"""What needs no network: reading images before it, finishing maps after it. Done by the worker, or by processes beside it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lucidcam.errors import MissingExtraError
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.outputs._labels import Found
from lucidcam.outputs.map_archive import Packable
from lucidcam.pipeline.cache import Cache
from lucidcam.pipeline.index import row_of
from lucidcam.pipeline.job import Job
from lucidcam.samples import Object, Problem, Sample
from lucidcam.stream.explainer import Explained
from lucidcam.stream.problems import prepare
from lucidcam.types import Frame, Prepared
from lucidcam.utils.fingerprint import steady

NOWHERE = Image.new("RGB", (1, 1))
"""Stands for a photo that stays where it was read; its size is in the frame."""


@dataclass(frozen=True, eq=False)
class Read:
    """Images on their way to the network.

    Attributes:
        found: images, their tensors taken out, and problems.
        tensors: the images' tensors, stacked where they have one size: one block of shared memory travels faster than many.
    """

    found: tuple[Prepared | Problem, ...]
    tensors: Tensor | tuple[Tensor, ...]

    @classmethod
    def packed(cls, found: Sequence[Prepared | Problem]) -> Read:
        """Take the tensors out."""
        tensors = tuple(each.tensor for each in found if not isinstance(each, Problem))
        alike = len({each.shape for each in tensors}) == 1
        light = tuple(each if isinstance(each, Problem) else replace(each, tensor=_NOTHING) for each in found)
        return cls(light, torch.stack(tensors) if alike else tensors)

    def unpacked(self) -> list[Prepared | Problem]:
        """The images with their tensors."""
        tensors = iter(self.tensors)
        return [each if isinstance(each, Problem) else replace(each, tensor=next(tensors)) for each in self.found]


def read(job: Job, samples: Sequence[Sample | Problem]) -> Read:
    """Read and prepare images; what cannot be read is a problem. From the cache, where they were read before."""
    usable = job.cache is not None and not job.photos and isinstance(job.model.preprocess, Preprocess)
    made_from = [steady(job.model.preprocess), *(f"{each.identity()} {_place(each)}" for each in samples)] if usable else []
    cache = Cache(job.cache) if job.cache is not None and usable else None
    kept = None if cache is None else cache.get("inputs", made_from)
    known = {} if kept is None else _recalled(*kept)
    found = [each if isinstance(each, Problem) else known[i] if i in known else prepare(job.model, each) for i, each in enumerate(samples)]
    if not job.photos:
        found = [each if isinstance(each, Problem) else replace(each, image=NOWHERE) for each in found]
    good = {i: each for i, each in enumerate(found) if isinstance(each, Prepared)}
    if cache is not None and len(good) > len(known):  # what could not be read may be readable another time
        told = [[i, each.name, asdict(each.frame)] for i, each in good.items()]
        cache.put("inputs", made_from, {str(i): each.tensor for i, each in good.items()}, told)
    return Read.packed(found)


def is_safe(job: Job, sample: Sample | Problem) -> bool:
    """Whether reading it runs nothing but lucidcam's own steps on pixels in memory."""
    pixels = isinstance(getattr(sample, "image", None), (np.ndarray, Tensor, Image.Image))
    return isinstance(sample, Problem) or (pixels and type(job.model.preprocess) is Preprocess)


def _recalled(tensors: Mapping[str, Tensor], told: Sequence[tuple[int, str, Mapping[str, Any]]]) -> dict[int, Prepared]:
    """Images of a cache by their place in the chunk."""
    return {i: Prepared(tensors[str(i)], NOWHERE, Frame(**{**frame, "box": tuple(frame["box"])}), name) for i, name, frame in told}


def _place(sample: Sample | Problem) -> str:
    """Where a sample's image is: two folders may hold files of one name, size and date."""
    image = getattr(sample, "image", None)
    return os.path.abspath(image) if isinstance(image, (str, os.PathLike)) else str(getattr(image, "file", ""))  # noqa: PTH100


@dataclass(frozen=True, eq=False)
class Made:
    """A map on its way from the network: an explanation whose numbers are an array, since tensors travel slowly.

    Attributes:
        sample: number of the image in the data set.
        label: what to call the class.
        marked: the things of this class that are marked in the image.
        explanation: without its map.
        raw: the map `[h, w]`.
        pixels: signed values `[C, H, W]` of pixel methods, where pictures are drawn.
    """

    sample: int
    label: str
    marked: tuple[Object, ...]
    explanation: Explanation
    raw: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Finished:
    """One map, finished.

    Attributes:
        row: its row of the index.
        packable: the map, for the formats that keep maps.
        objects: the things it shows, where labels are written.
    """

    row: dict[str, Any]
    packable: Packable
    objects: tuple[Found, ...] = field(default=(), repr=False)


def made(job: Job, explained: Explained) -> list[Made]:
    """The maps of one image, ready to travel."""
    return [
        Made(
            explained.number,
            label,
            tuple(each for each in explained.sample.objects if each.label == label),
            replace(explanation, raw=_NOTHING, pixels=None),
            explanation.raw.numpy(),
            explanation.pixels.numpy() if explanation.pixels is not None and job.pictures else None,
        )
        for label, explanation in explained.maps
    ]


def finish(job: Job, maps: list[Made]) -> tuple[list[Finished], list[tuple[int, Problem]]]:
    """Measure maps, find their boxes, draw them; beside them what failed, by the number of the sample."""
    found: list[Finished] = []
    lost: list[tuple[int, Problem]] = []
    for each in maps:
        try:
            found.append(_finished(job, each))
        except MissingExtraError:
            raise
        except Exception as error:
            lost.append((each.sample, Problem.of(each.explanation.name, error)))
    return found, lost


def _finished(job: Job, one: Made) -> Finished:
    pixels = None if one.pixels is None else torch.from_numpy(one.pixels)
    explanation = replace(one.explanation, raw=torch.from_numpy(one.raw), pixels=pixels)
    row = row_of(explanation, one.sample, one.label, one.marked, job.regions.threshold)
    objects = tuple(job.regions.things(explanation, one.label)) if job.labels else ()
    name = f"{one.sample:09d}-{_plain(Path(explanation.name).stem)}-{_plain(one.label)}"
    return Finished(row, Packable(name, one.raw, _png(explanation.drawn()) if job.pictures else None), objects)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text.partition(",")[0]).strip("._")[:60] or "image"


_NOTHING = torch.empty(0)
