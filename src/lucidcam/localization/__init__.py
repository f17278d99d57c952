"""From image-level labels to boxes and masks: where a classifier looks is where the thing is."""

from __future__ import annotations

from lucidcam.localization.calibration import Calibration, calibrate
from lucidcam.localization.crops import Concept, Part
from lucidcam.localization.discover import Discovery, discover
from lucidcam.localization.localize import localize
from lucidcam.outputs._labels import Found, Labels

__all__ = ["Calibration", "Concept", "Discovery", "Found", "Labels", "Part", "calibrate", "discover", "localize"]
