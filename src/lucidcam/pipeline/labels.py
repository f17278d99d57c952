"""Boxes and masks of a run: a line per image in each unit's file, put together in the formats asked for when all is done."""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.errors import DataError
from lucidcam.io import images
from lucidcam.io.storage import Store, json_text
from lucidcam.outputs._labels import Found, Labels
from lucidcam.pipeline import ledger
from lucidcam.pipeline.map_writer import Finished
from lucidcam.pipeline.plan import Unit
from lucidcam.samples import Mask, Problem


def lines(unit: Unit, found: Sequence[Finished]) -> bytes:
    """The labels of a unit's images, a JSON object per line."""
    written = []
    for number, group in groupby(found, key=lambda each: int(each.row["sample"])):
        maps = list(group)
        sample = unit.samples[number - unit.start]
        assert not isinstance(sample, Problem)
        path = os.path.abspath(os.path.expanduser(sample.image)) if isinstance(sample.image, (str, os.PathLike)) else None  # noqa: PTH100, PTH111
        told = {
            "name": sample.name,
            "path": path,
            "width": maps[0].row["width"],
            "height": maps[0].row["height"],
            "objects": [_written(thing) for each in maps for thing in each.objects],
        }
        written.append(json_text(told, ensure_ascii=False))
    return "".join(f"{line}\n" for line in written).encode()


def labels(store: Store) -> Iterator[Labels]:
    """The labels of all images of a run, in order."""
    for record in ledger.records(store):
        name = f"labels/{record.number:06d}.jsonl"
        if name in record.files:
            for line in filter(None, store.read(name).decode().split("\n")):
                told = json.loads(line)
                size = told["height"], told["width"]
                objects = tuple(_read(each, size) for each in told["objects"])
                path = None if told["path"] is None else Path(told["path"])
                yield Labels(told["name"], path, told["width"], told["height"], objects)


def _written(thing: Found) -> dict[str, Any]:
    told: dict[str, Any] = {"label": thing.label, "box": list(thing.box), "score": thing.score}
    if thing.mask is not None:
        told["mask"] = base64.b85encode(zlib.compress(np.packbits(thing.mask).tobytes())).decode()
    return told


def _read(told: Mapping[str, Any], size: tuple[int, int]) -> Found:
    left, top, right, bottom = told["box"]
    return Found(
        told["label"],
        (left, top, right, bottom),
        math.nan if told["score"] is None else told["score"],
        _mask(told["mask"], size) if "mask" in told else None,
    )


def _mask(text: str, size: tuple[int, int]) -> Mask:
    count = -(-size[0] * size[1] // 8)
    if size[0] * size[1] > images.MAX_PIXELS:
        raise DataError(f"expected masks of at most {images.MAX_PIXELS} pixels in the labels of a run; got {size[1]}×{size[0]}.")
    packed = zlib.decompressobj().decompress(base64.b85decode(text), count + 1)  # which may declare any size
    if len(packed) != count:
        raise DataError(f"expected a mask of {size[1]}×{size[0]} pixels in the labels of a run; got another: run it again with --restart.")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=size[0] * size[1]).astype(bool).reshape(size)
