"""What maps are judged by, one file per metric or close family, each to its paper's definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lucidcam.utils.lazy import lazy_names

if TYPE_CHECKING:
    from lucidcam.metrics._base import Batch, Comparative, FaithfulnessMetric, Figure, Metric, MosaicMetric, Record, register
    from lucidcam.metrics._localization import LocalizationMetric, Located
    from lucidcam.metrics._state import State

__all__ = [
    "Batch",
    "Comparative",
    "FaithfulnessMetric",
    "Figure",
    "LocalizationMetric",
    "Located",
    "Metric",
    "MosaicMetric",
    "Record",
    "State",
    "register",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lucidcam.metrics._base": (
                "Batch",
                "Comparative",
                "FaithfulnessMetric",
                "Figure",
                "Metric",
                "MosaicMetric",
                "Record",
                "register",
            ),
            "lucidcam.metrics._localization": ("LocalizationMetric", "Located"),
            "lucidcam.metrics._state": ("State",),
        },
    )
