"""COCO: one JSON file with boxes, masks as run lengths, and scores; loads in pycocotools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.io.storage import json_text
from lucidcam.outputs._labels import Exporter, Found, Labels, Lists, write_text
from lucidcam.registry import exporters
from lucidcam.samples import Mask
from lucidcam.utils.optional import import_optional


@exporters.register("coco")
class Coco(Exporter):
    """`annotations.json`: images, categories (numbered from 1), annotations with `bbox` [x, y, width, height], `area` and `score`.

    Masks are compressed run lengths. Images stay where they are; `file_name` is their path from the annotation file's folder. The
    entries are streamed to `annotations.json.*.part`, one a line, and put together at the end, so that memory stays flat.
    """

    name = "coco"
    about = "one annotations.json, with masks and scores"

    def __enter__(self) -> Coco:
        super().__enter__()
        self._lists = Lists(self.file, "annotations.json", ("images", "annotations"))
        self._images = self._annotations = 0
        return self

    def write(self, labels: Labels) -> None:
        """See `Exporter.write`."""
        self._images += 1
        file = _relative(self.reference(labels), self.folder)
        for entry in [self._annotation(thing) for thing in labels.objects]:
            self._annotations += 1
            self._lists.append("annotations", {"id": self._annotations, **entry})
        # After its annotations: an image that is listed is complete.
        self._lists.append("images", {"id": self._images, "file_name": file, "width": labels.width, "height": labels.height})

    def announce(self) -> None:
        """See `Exporter.announce`."""
        write_text(self.file("annotations.json.categories.part"), json_text(self._categories(), indent=1) + "\n")

    def finish(self) -> None:
        """See `Exporter.finish`."""
        self._lists.finish({"info": {"description": "made by lucidcam localize"}, "licenses": [], "categories": self._categories()})
        (self.folder / "annotations.json.categories.part").unlink()

    def _categories(self) -> list[dict[str, Any]]:
        return [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(self.classes, 1)]

    def _annotation(self, thing: Found) -> dict[str, Any]:
        left, top, right, bottom = thing.box
        entry: dict[str, Any] = {
            "image_id": self._images,
            "category_id": self.number(thing.label) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "score": round(thing.score, 6),
        }
        if thing.mask is not None:
            entry.update(area=int(thing.mask.sum()), segmentation=_run_lengths(thing.mask))
        return entry


def _run_lengths(mask: Mask) -> dict[str, Any]:
    coder = import_optional("pycocotools.mask", "data", "masks in COCO's format")
    found = coder.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": found["counts"].decode("ascii")}


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.as_posix()
