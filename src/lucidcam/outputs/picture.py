"""Pictures: the overlay, or the signed colours of guided maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lucidcam import render
from lucidcam.explanation import Explanation
from lucidcam.maps import Box
from lucidcam.registry import writers


@writers.register("png")
@writers.register("jpg")
@writers.register("webp")
def write(explanation: Explanation, path: Path, *, colormap: str = "turbo", alpha: float = 0.5, boxes: Sequence[Box] = ()) -> None:
    """Write the method's picture in the original image's size, with boxes (xyxy) if given; Pillow chooses the encoder by the suffix."""
    picture = explanation.picture(colormap, alpha)
    (render.draw_boxes(picture, boxes) if boxes else picture).save(path)
