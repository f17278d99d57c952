"""Masks that follow the image's colours: GrabCut (Rother 2004), started from the map.

A dense CRF would be the other usual choice; its libraries (pydensecrf and forks) are no longer kept, and need a compiler.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from lucidcam.imaging.maps import Array, Box
from lucidcam.samples import Mask
from lucidcam.types import Frame
from lucidcam.utils.optional import import_optional

PIXELS = 20_000
"""Larger windows are reduced to about this many pixels: a tenth of a second each. The mask's edge is that coarse, too."""

ROUNDS = 3
"""GrabCut's iterations; more changed nothing on photos."""

MARGIN = 0.5
"""The window is the region's box, grown on each side by this share of its width and height."""

PEAK = 0.4
"""Pixels of the region above this share of the way from the threshold to its peak are sure to be the thing."""

FAINT = 0.5
"""Pixels below this share of the threshold are sure to be background."""


def grabcut(image: Image.Image, heatmap: Array, region: Mask, box: Box, threshold: float, frame: Frame) -> Mask:
    """Refine one region of a map.

    The region is probably foreground, its peak surely; what the map leaves cold is surely background, except where the network did not
    look; the rest is probably background. Of the result only parts that hold a piece of the peak are kept. Where GrabCut has nothing to
    work with (no background, one colour, an empty or full result) the region stays as it is.

    Args:
        image: RGB.
        heatmap: `[H, W]` in [0, 1].
        region: `[H, W]`, one connected region of the map.
        box: of the region.
        threshold: at which the region was cut out.
        frame: what the network saw.

    Returns:
        `[H, W]`, never empty.
    """
    cv2 = import_optional("cv2", "data", "refining masks by GrabCut")
    height, width = region.shape
    left, top, right, bottom = box
    across, down = math.ceil((right - left) * MARGIN), math.ceil((bottom - top) * MARGIN)
    window = slice(max(0, top - down), min(height, bottom + down)), slice(max(0, left - across), min(width, right + across))
    size = (window[1].stop - window[1].start, window[0].stop - window[0].start)
    scale = min(1.0, math.sqrt(PIXELS / (size[0] * size[1])))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))

    pixels = cv2.resize(np.asarray(image)[window], small, interpolation=cv2.INTER_AREA)
    heat = cv2.resize(heatmap[window], small, interpolation=cv2.INTER_AREA)

    def resized(mask: Mask, to: tuple[int, int]) -> Mask:
        return np.asarray(cv2.resize(mask.astype(np.float32), to, interpolation=cv2.INTER_LINEAR) > 0.5)

    inside, seen = (resized(mask[window], small) for mask in (region, _seen(frame)))
    if not inside.any() or inside.all():
        return region
    peak = inside & (heat >= threshold + PEAK * (heat[inside].max() - threshold))
    hints = np.full(heat.shape, cv2.GC_PR_BGD, np.uint8)
    hints[seen & (heat < FAINT * threshold)] = cv2.GC_BGD
    hints[inside] = cv2.GC_PR_FGD
    hints[peak] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut clusters colours from a random start
    try:
        cv2.grabCut(pixels, hints, None, None, None, ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # too few pixels or colours
        return region
    thing = (hints == cv2.GC_FGD) | (hints == cv2.GC_PR_FGD)
    parts = cv2.connectedComponents(thing.astype(np.uint8))[1]
    thing &= np.isin(parts, np.unique(parts[peak]))
    if thing.all() or not thing.any():
        return region
    refined = np.zeros_like(region)
    refined[window] = resized(thing, size)
    return refined if refined.any() else region


def _seen(frame: Frame) -> Mask:
    """The pixels of the original image that the network saw `[H, W]`."""
    left, top, right, bottom = (round(side) for side in frame.box)
    seen = np.zeros((frame.height, frame.width), bool)
    seen[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return seen
