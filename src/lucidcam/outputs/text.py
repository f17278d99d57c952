"""JSON: what was explained and where the evidence lies, without the map."""

from __future__ import annotations

from pathlib import Path

from lucidcam.imaging.explanation import Explanation
from lucidcam.io.storage import json_text, write_whole
from lucidcam.registry import writers


@writers.register("json")
def write(explanation: Explanation, path: Path, *, threshold: float = 0.2) -> None:
    """Write `Explanation.to_dict(threshold)`."""
    write_whole(path, text(explanation, threshold).encode())


def text(explanation: Explanation, threshold: float = 0.2) -> str:
    """What `write` writes."""
    return json_text(explanation.to_dict(threshold), indent=2) + "\n"
