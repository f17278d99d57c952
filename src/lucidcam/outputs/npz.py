"""NumPy archives: the maps themselves, for further work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.explanation import Explanation
from lucidcam.registry import writers


@writers.register("npz")
def write(explanation: Explanation, path: Path) -> None:
    """Write `map` (original size), `raw` (layer resolution), `pixels` where there are any, and `info` (JSON text)."""
    arrays: dict[str, Any] = {"map": explanation.map, "raw": explanation.raw.numpy(), "info": json.dumps(explanation.to_dict())}
    if explanation.pixels is not None:
        arrays["pixels"] = explanation.pixels.numpy()
    np.savez_compressed(path, **arrays)
