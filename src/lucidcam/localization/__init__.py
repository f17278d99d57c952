"""From image-level labels to boxes and masks: where a classifier looks is where the thing is."""

from __future__ import annotations

from lucidcam.localization.calibration import Calibration, calibrate
from lucidcam.localization.discover import Discovery, discover
from lucidcam.localization.loop import localize
from lucidcam.localization.parts import Concept, Part
from lucidcam.outputs._labels import Found, Labels

__all__ = ["Calibration", "Concept", "Discovery", "Found", "Labels", "Part", "calibrate", "discover", "localize"]
