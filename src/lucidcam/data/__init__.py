"""Data sets, one file per format: each streams samples with boxes in original pixels, and what could not be used."""

from __future__ import annotations

from lucidcam.data._base import Dataset, Format, generated, open_data, register
from lucidcam.data.class_map import ClassMap

__all__ = ["ClassMap", "Dataset", "Format", "generated", "open_data", "register"]
