"""Photos to begin with: those that come inside scikit-image's package, where it is installed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from PIL import Image

from lucidcam.errors import MissingExtraError
from lucidcam.utils.optional import import_optional

PHOTOS = {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket", "astronaut": "astronaut"}
"""What scikit-image calls them, and what the page does."""

SMALL = (160, 120)
"""(width, height) in pixels that a picture to choose from has at most."""


@dataclass(frozen=True)
class Example:
    """A photo to begin with.

    Attributes:
        content: a JPEG file.
        small: another, to choose from.
    """

    content: bytes = field(repr=False)
    small: bytes = field(repr=False)


def examples() -> dict[str, Example]:
    """The photos by name; none where scikit-image is not installed, or its photos are not."""
    try:
        data = import_optional("skimage.data", "demo", "examples")
        return {name: _example(Image.fromarray(getattr(data, source)())) for source, name in PHOTOS.items()}
    except (MissingExtraError, OSError, AttributeError):
        return {}


def _example(photo: Image.Image) -> Example:
    small = photo.copy()
    small.thumbnail(SMALL)
    return Example(_jpeg(photo, 92), _jpeg(small, 85))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
