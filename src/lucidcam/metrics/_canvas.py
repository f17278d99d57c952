"""Score maps as the evaluation of Choe et al. (CVPR 2020) takes them: on a small square canvas of the whole image."""

from __future__ import annotations

import numpy as np

from lucidcam.imaging import maps
from lucidcam.metrics._base import Array
from lucidcam.metrics._localization import Located

THRESHOLDS = np.arange(0, 1, 0.001)
"""Shares of the map's maximum that are tried."""


def score_map(view: Located, resolution: int) -> Array:
    """The raw map on a `resolution` × `resolution` canvas of the whole image, bicubic, min-maxed; 0 everywhere for a flat map."""
    height, width = view.size
    scale = np.array([resolution / width, resolution / height] * 2)
    left, top, right, bottom = (float(x) for x in view.frame.box * scale)
    canvas = maps.finish(view.frame.upright(view.raw), (resolution, resolution), (left, top, right, bottom), "bicubic").astype(np.float64)
    canvas -= canvas.min()
    peak = canvas.max()
    return np.asarray(canvas / peak if peak > 0 else canvas)
