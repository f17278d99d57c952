"""What torchvision's video classifiers take: so many frames, with the transforms of their weights."""

from __future__ import annotations

import re
from typing import Any

from lucidcam.imaging.preprocess import Clips, from_torchvision
from lucidcam.utils.optional import import_torchvision

FRAMES = 16
"""What a network gets whose weights do not say on how many frames they were judged."""


def video_classifier(name: str, module: Any, preset: Any) -> tuple[Clips, None, None]:
    """From torchvision's `VideoClassification` preset; no layer and no task of its own.

    The preset itself makes the input, as it resizes without antialiasing; there are as many frames as the weights were evaluated on.
    """
    weights = import_torchvision().models.get_model_weights(name)["DEFAULT"]
    judged = re.search(r"clip_len=(\d+)", weights.meta.get("_docs", ""))
    return Clips(still=from_torchvision(preset), count=int(judged[1]) if judged else FRAMES, whole=preset), None, None
