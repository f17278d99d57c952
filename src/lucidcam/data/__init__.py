"""Data sets, one file per format: each streams samples with boxes in original pixels, and what could not be used."""

from __future__ import annotations

from lucidcam.data._base import Dataset, Format, open_data

__all__ = ["Dataset", "Format", "open_data"]
