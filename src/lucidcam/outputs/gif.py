"""Animations: the frames of a clip in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lucidcam.imaging.animation import animate
from lucidcam.imaging.explanation import Explanation
from lucidcam.registry import writers


@writers.register("gif")
def write(explanation: Explanation, path: Path, **options: Any) -> None:
    """Write a clip's frames as an animated GIF (an image's explanation stands still); `options` are those of `lucidcam.animate`."""
    animate([explanation], path, **options)
