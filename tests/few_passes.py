"""Methods that need no memory and no attention, with options that make few passes."""

from __future__ import annotations

from typing import Any

from lucidcam.registry import methods

OPTIONS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 12},
    "sscam": {"samples": 2},
    "iscam": {"steps": 2},
    "smoothgradcam++": {"samples": 2},
    "occlusion": {"window": 4},
}
METHODS = sorted(set(methods) - {"mcam", "rollout", "attention_relevance", "legrad"})
