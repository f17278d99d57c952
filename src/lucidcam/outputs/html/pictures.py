"""Pictures as data URIs, within a budget of the whole page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from lucidcam.imaging import render

BUDGET = 9_000_000
"""Bytes that all pictures of a page may take in the file, base64 included: the page stays below 10 MB."""

LADDER = (
    (720, 80),
    (600, 81),
    (480, 82),
    (400, 80),
    (360, 78),
    (320, 75),
    (280, 74),
    (240, 72),
    (200, 70),
    (160, 68),
    (128, 62),
    (96, 55),
    (64, 45),
)
"""(longer side in pixels, WebP quality), from the best to the smallest."""

PROBES = 24
"""Pictures that are encoded to choose a step of the ladder."""

EFFORT = 2
"""Of the encoder: 4 takes twice the time of 2 and saves a thirtieth of the bytes."""


def encoded(pictures: Sequence[Image.Image], budget: int = BUDGET) -> list[str]:
    """Data URIs of pictures, all in the best quality with which they fit the budget together.

    A few of the pictures, evenly chosen, tell where on the ladder to begin; should all of them not fit after all, the next step is taken.
    On the last step they are taken as they are. A picture that is there twice is encoded once, and counts twice.
    """
    if not pictures:
        return []
    keys = [(each.size, hashlib.blake2b(each.tobytes(), digest_size=16).digest()) for each in pictures]
    probes = list(range(0, len(pictures), -(-len(pictures) // PROBES)))
    for number, (side, quality) in enumerate(LADDER):
        last = number == len(LADDER) - 1
        known: dict[object, str] = {}

        def uri(i: int, side: int = side, quality: int = quality, known: dict[object, str] = known) -> str:
            if keys[i] not in known:
                known[keys[i]] = _uri(pictures[i], side, quality)
            return known[keys[i]]

        if not last and sum(len(uri(i)) for i in probes) / len(probes) * len(pictures) > budget:
            continue
        found, total = [], 0
        for i in range(len(pictures)):
            found.append(uri(i))
            total += len(found[-1])
            if total > budget and not last:
                break
        else:
            return found
    raise AssertionError("the last step takes every picture")


def _uri(picture: Image.Image, side: int, quality: int) -> str:
    return render.data_address(render.reduced(picture, side), "WEBP", quality=quality, method=EFFORT)
