"""What the page is sent: the photo once, and each map as a grey picture that the browser colours, cuts and boxes by itself.

Opacity, threshold and colours then change without asking the server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lucidcam.imaging import maps, render
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.maps import Array
from lucidcam.utils.text import short

COLORMAPS = ("turbo", "viridis", "magma", "inferno", "cividis", "jet", "gray")
"""Those the page offers."""


def palettes() -> dict[str, str]:
    """Each colormap's 256 colours as hexadecimal digits, six per colour."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return {name: render.colour(ramp, name).tobytes().hex() for name in COLORMAPS}


def levels(heatmap: Array) -> Any:
    """A heatmap in [0, 1] as 256 levels `[H, W]`, rounded to the nearest."""
    return (heatmap * 255).round().astype(np.uint8)


def viewed(explanations: Sequence[Explanation], queries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page draws.

    Args:
        explanations: of one photo, in the size that is shown.
        queries: what each of them answers, as `questions.read_one` reads it.

    Returns:
        The photo as a data address, its `width` and `height` as shown, the `box` of it that the network saw (in the same pixels), and for
        each of the `maps` its levels as a data address, what it is in words and numbers, and the question that it answers.
    """
    first = explanations[0]
    return {
        "picture": render.data_address(first.image, "JPEG", quality=90),
        "width": first.frame.width,
        "height": first.frame.height,
        "box": [round(side) for side in first.frame.box],
        "maps": [
            {
                **_describe(explanation),
                "question": query,
                "levels": render.data_address(Image.fromarray(levels(explanation.heatmap)), "PNG", compress_level=1),
            }
            for explanation, query in zip(explanations, queries, strict=True)
        ],
    }


def picture(explanation: Explanation, colormap: str, opacity: float, threshold: float, boxes: bool, hide: bool) -> Image.Image:
    """The picture that the page shows, with all of the photo's pixels.

    Args:
        explanation: the explanation, in full size.
        colormap: of matplotlib.
        opacity: share of the heatmap, in [0, 1].
        threshold: share of the maximum at which boxes are drawn and evidence is hidden.
        boxes: draw them.
        hide: leave the photo as it is below the threshold.
    """
    overlay = explanation.overlay(colormap, opacity)
    if hide:
        overlay = Image.composite(
            overlay, explanation.image.convert("RGB"), Image.fromarray(maps.threshold(explanation.heatmap, threshold))
        )
    return render.draw_boxes(overlay, explanation.boxes(threshold)) if boxes else overlay


def _describe(explanation: Explanation) -> dict[str, Any]:
    """What a map is, in words and numbers."""
    return {
        "label": short(explanation.label) if explanation.target is not None else explanation.label,
        "id": explanation.target,
        "score": None if math.isnan(explanation.score) else explanation.score,
        "probability": explanation.probability,
        "method": explanation.method,
        "layer": explanation.layer,
        "grid": list(explanation.raw.shape),
        "maximum": float(explanation.raw.max()),
        "note": explanation.note,
    }
