"""JSON: what was explained and where the evidence lies, without the map."""

from __future__ import annotations

import json
from pathlib import Path

from lucidcam.explanation import Explanation
from lucidcam.registry import writers


@writers.register("json")
def write(explanation: Explanation, path: Path) -> None:
    """Write `Explanation.to_dict()`."""
    path.write_text(json.dumps(explanation.to_dict(), indent=2) + "\n", encoding="utf-8")
