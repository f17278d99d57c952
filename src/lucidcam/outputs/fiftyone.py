"""FiftyOne: a samples.json that `fiftyone.Dataset.from_dir(…, dataset_type=fiftyone.types.FiftyOneDataset)` reads."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np

from lucidcam.outputs._labels import Exporter, Found, Labels, Lists
from lucidcam.registry import exporters


@exporters.register("fiftyone")
class FiftyOne(Exporter):
    """`samples.json`: for each image its absolute path and `predictions`: boxes as shares of the image, scores, and masks.

    A mask is the part of it within its box: a NumPy file, compressed, in base64. fiftyone itself is not needed.
    """

    name = "fiftyone"
    about = "samples.json with boxes, masks and scores, for the FiftyOne app"

    def __enter__(self) -> FiftyOne:
        super().__enter__()
        self._lists = Lists(self.file, "samples.json", ("samples",))
        return self

    def write(self, labels: Labels) -> None:
        """See `Exporter.write`."""
        self._lists.append(
            "samples",
            {
                "filepath": str(self.reference(labels).resolve()),
                "tags": [],
                "predictions": {"_cls": "Detections", "detections": [_detection(thing, labels) for thing in labels.objects]},
            },
        )

    def announce(self) -> None:
        """See `Exporter.announce`. Each detection has its class in words; there is nothing to write."""

    def finish(self) -> None:
        """See `Exporter.finish`."""
        self._lists.finish({})


def _detection(thing: Found, labels: Labels) -> dict[str, Any]:
    left, top, right, bottom = thing.box
    across, down = labels.width, labels.height
    entry: dict[str, Any] = {
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": thing.label,
        "bounding_box": [left / across, top / down, (right - left) / across, (bottom - top) / down],
        "confidence": round(thing.score, 6),
    }
    if thing.mask is not None:
        file = io.BytesIO()
        np.save(file, thing.mask[round(top) : round(bottom), round(left) : round(right)], allow_pickle=False)
        entry["mask"] = {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode("ascii"), "subType": "00"}}
    return entry
