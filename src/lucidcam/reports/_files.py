"""What lies in the folder of a result: it may be damaged, cut short, or of another version."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from lucidcam.errors import DataError, LucidcamError, first_line
from lucidcam.io.images import read as read_image


@contextmanager
def reading(place: object, what: str) -> Iterator[None]:
    """Make one line of whatever a damaged file does to its reader.

    Args:
        place: that is read.
        what: it should be: "an evaluation".

    Raises:
        DataError: what is there is not what it should be.
    """
    try:
        yield
    except LucidcamError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{place} cannot be read as {what}: {type(error).__name__}: {first_line(error)[:200]}; make it again.") from None


def opened(place: str | Path) -> Image.Image | None:
    """A picture `[H, W]` in RGB; None where there is none any more, or none that can be read."""
    try:
        return read_image(place)[0] if Path(place).is_file() else None
    except (LucidcamError, OSError, ValueError):
        return None


def kept(folder: Path, name: Any) -> Image.Image | None:
    """A picture that a folder keeps; None where it cannot be read, or where the name leads out of the folder."""
    try:
        place = (folder / name).resolve()
        return opened(place) if place.is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, TypeError, ValueError):  # links that go round, names that no file may have
        return None
