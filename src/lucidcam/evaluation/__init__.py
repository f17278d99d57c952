"""Judge methods on a data set: prepared, explained, measured a batch at a time; reported with intervals and trivial baselines."""

from __future__ import annotations

from lucidcam.evaluation.evaluate import evaluate
from lucidcam.evaluation.report import Comparison, Report, Row

__all__ = ["Comparison", "Report", "Row", "evaluate"]
