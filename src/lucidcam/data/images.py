"""A list of images, or of samples (`images`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import is_file, missing
from lucidcam.errors import DataError
from lucidcam.io.images import SUFFIXES
from lucidcam.io.remote import Stored, is_url, without_query
from lucidcam.samples import Problem, Sample


@register("images")
@dataclass(frozen=True, kw_only=True)
class Images(Format):
    """A list or tuple of images (paths, addresses, bytes, PIL images, arrays, tensors), without labels; or of `lucidcam.samples.Sample`s.

    Images are called by their paths or addresses; others by their place, "image 0". Samples and problems pass through as they are.
    """

    about = "an image, or a list of images or samples"
    precedence = 10

    def recognises(self, source: Any) -> bool:
        """Any list or tuple, or one image file, or its address."""
        if is_url(source):
            return PurePosixPath(without_query(source)).suffix.lower() in SUFFIXES
        return isinstance(source, (list, tuple)) or (isinstance(source, Path) and source.suffix.lower() in SUFFIXES and source.is_file())

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        if is_url(source) or (isinstance(source, Path) and self.recognises(source)):
            source = [source]
        if not isinstance(source, (list, tuple)):
            raise DataError(f"images: expected a list of images or samples; got a {type(source).__name__}.")
        found = [_entry(i, each) for i, each in enumerate(source)]
        twice = [name for name, count in Counter(each.name for each in found).items() if count > 1]
        if twice:
            raise DataError(
                f"images: {len(twice)} names come more than once, {twice[0]!r} for instance; give each sample a name of its own."
            )

        def stream() -> Iterator[Sample | Problem]:
            for each in found:
                path = each.image if isinstance(each, Sample) else None
                gone = isinstance(path, (str, os.PathLike)) and not is_file(Path(path).expanduser())
                yield missing(each.name, Path(path)) if gone and path is not None else each

        return Dataset("images", "images", stream, len(found))


def _entry(i: int, thing: Any) -> Sample | Problem:
    if isinstance(thing, Sample) and is_url(thing.image):
        return replace(thing, image=Stored(thing.image))
    if isinstance(thing, (Sample, Problem)):
        return thing
    if is_url(thing) or isinstance(thing, Stored):
        stored = thing if isinstance(thing, Stored) else Stored(thing)
        return Sample(stored, stored.name)
    if isinstance(thing, (str, os.PathLike)):
        return Sample(thing, str(os.fspath(thing)))
    if isinstance(thing, (Image.Image, np.ndarray, Tensor, bytes, bytearray, memoryview)) or hasattr(thing, "read"):
        return Sample(thing, f"image {i}")
    raise DataError(f"images: expected paths, bytes, PIL images, arrays, tensors or samples; entry {i} is a {type(thing).__name__}.")
