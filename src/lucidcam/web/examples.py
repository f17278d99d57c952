"""Photos to begin with: those that come inside scikit-image's package, where it is installed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lucidcam.compat import import_optional
from lucidcam.errors import MissingExtraError

PHOTOS = {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket", "astronaut": "astronaut"}
"""What scikit-image calls them, and what the page does."""


def write_examples(folder: Path) -> tuple[str, ...]:
    """Write the photos into a folder as JPEG files; gives their paths, none where there are no photos."""
    try:
        data = import_optional("skimage.data", "demo", "examples")
        folder.mkdir(parents=True, exist_ok=True)
        for source, name in PHOTOS.items():
            Image.fromarray(getattr(data, source)()).save(folder / f"{name}.jpg", quality=92)
    except (MissingExtraError, OSError, AttributeError):
        return ()
    return tuple(str(folder / f"{name}.jpg") for name in PHOTOS.values())
