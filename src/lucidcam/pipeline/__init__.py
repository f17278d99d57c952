"""Data sets of any size: cut into units, explained by one worker or many, written so that nothing is lost or done twice."""

from __future__ import annotations

from lucidcam.pipeline.results import Results
from lucidcam.pipeline.run import run

__all__ = ["Results", "run"]
