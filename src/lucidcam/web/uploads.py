"""Uploaded files as photos: known by their content, checked before they are decoded, small enough to look at."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from lucidcam.errors import InputError
from lucidcam.imaging import render
from lucidcam.io import images
from lucidcam.utils.rollback import SavedWarnings, closes_scopes
from lucidcam.web.limits import Limits
from lucidcam.web.store import MILLION, Upload

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""As Pillow calls them. Nothing else is tried on an uploaded file: each decoder that is left out is one that cannot be attacked."""

SHOWN_SIDE = 768
"""Pixels of a photo's longer side on the page; downloads have all of them."""

SLENDER = 20
"""How many times as long as wide a photo may be. Networks get the short side in a fixed length: of a line of few pixels, the long one would
become millions."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo that a visitor asks about.

    Attributes:
        digest: of the file's content: what is kept about a photo is found by it alone, so nobody gets anything about a file they have not.
        name: what the visitor calls it.
        size: (width, height) of the whole photo, upright.
        shown: the photo as the page shows it, RGB, its longer side `SHOWN_SIDE` at most.
        whole: all pixels, RGB, upright.
    """

    digest: str
    name: str
    size: tuple[int, int]
    shown: Image.Image = field(repr=False)
    whole: Image.Image = field(repr=False)


def decode(upload: Upload, limits: Limits, window: images.Window | None = None) -> Photo:
    """Check what a file is by its content, and its size by its header; then decode it.

    Args:
        upload: the file.
        limits: of its pixels.
        window: (width, level) of grey values that are shown.

    Raises:
        InputError: with what was expected.
    """
    name, content = upload.shown_name, upload.read()
    _check(content, name, limits)
    try:
        whole = images.read(content, window)[0]
    except InputError as error:
        raise InputError(str(error).replace("'bytes'", name)) from None
    return Photo(upload.digest, name, whole.size, render.reduced(whole, SHOWN_SIDE, reducing_gap=2), whole)


@closes_scopes
def _check(content: bytes, name: str, limits: Limits) -> None:
    expected = f"expected a photo (JPEG, PNG, WebP, TIFF or BMP); {name}"
    with SavedWarnings():
        warnings.simplefilter("ignore")  # sizes are checked here
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
        except Image.DecompressionBombError:
            raise InputError(f"{expected} promises far more than {limits.megapixels:g} million pixels: make it smaller.") from None
        except Exception:  # damaged headers make Pillow raise anything
            what = "is empty" if not content else "is none of these, whatever its name says, or is damaged"
            raise InputError(f"{expected} {what}.") from None
    if width * height > limits.megapixels * MILLION:
        raise InputError(
            f"{expected} has {width}×{height} pixels, more than {limits.megapixels:g} million: make it smaller. Nothing of it was decoded."
        )
    if max(width, height) > SLENDER * min(width, height):
        raise InputError(f"{expected} has {width}×{height} pixels, one side more than {SLENDER} times the other: give a part of it.")
    if frames > 1:
        raise InputError(f"{expected} is an animation of {frames} pictures: give one of them.")
