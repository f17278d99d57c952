"""How much room uploaded and made files take on the disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

BLOCK = 4096
"""Bytes that the smallest file takes on a disk."""

FRESH = 60.0
"""Seconds in which an empty folder may be about to get its file."""


def occupied(folder: Path) -> int:
    """Bytes that a folder's files take. Empty folders, whose files were deleted when they were old, are removed on the way."""
    total, now = 0, time.time()
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            try:
                total += max(BLOCK, Path(place, name).lstat().st_size)
            except OSError:  # deleted meanwhile
                continue
        if not names and Path(place) != folder:
            _remove(Path(place), now)
    return total


def _remove(place: Path, now: float) -> None:
    try:
        if now - place.stat().st_mtime > FRESH:
            place.rmdir()  # refuses where a folder lies in it
    except OSError:
        return
