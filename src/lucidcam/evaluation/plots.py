"""Curves behind the figures, with matplotlib, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lucidcam.errors import OptionError, unknown
from lucidcam.evaluation.entries import slug
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.picture_files import save_figure
from lucidcam.metrics._base import Curve

if TYPE_CHECKING:
    from pathlib import Path

    from lucidcam.evaluation.report import Report


def plot(report: Report, metric: str) -> Any:
    """One panel per curve of a metric, one line per method.

    Raises:
        OptionError: for a metric without curves.
    """
    if metric not in report.curves:
        known = ", ".join(report.curves) or "none of this report's"
        raise OptionError(f"{unknown('metric with curves', metric, report.curves) if report.curves else 'no metric has curves'} ({known}).")
    return _figure(report.curves[metric], metric, report.trivial)


def save_plots(report: Report, owned: OwnedFiles) -> list[Path]:
    """Write every metric's curves as PNG and SVG into `curves/`."""
    from matplotlib import rc_context

    written = []
    for metric, curves in report.curves.items():
        figure = _figure(curves, metric, report.trivial)
        stem = slug(metric)
        for suffix in ("png", "svg"):
            path = owned.path(f"curves/{stem}.{suffix}")
            # No date and no random names in the file: the same figures give the same bytes.
            with rc_context({"svg.hashsalt": stem}):
                save_figure(figure, path, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
    return written


def _figure(curves: Mapping[str, Sequence[Curve]], metric: str, trivial: Sequence[str]) -> Any:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(curve.name for each in curves.values() for curve in each))
    with rc_context({"svg.hashsalt": "lucidcam"}):
        figure = Figure(figsize=(max(5.0, 4.2 * len(panels)), 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, axis in zip(panels, axes, strict=True):
            for method, each in curves.items():
                for curve in each:
                    if curve.name == panel:
                        axis.plot(curve.x, curve.y, label=method, **_style(method, trivial))
                        axis.set_xlabel(curve.x_label)
                        axis.set_ylabel(curve.y_label)
            axis.set_title(panel if len(panels) > 1 else metric.replace("_", " "))
            axis.grid(alpha=0.25)
        axes[-1].legend(fontsize="small", frameon=False)
        if len(panels) > 1:
            figure.suptitle(metric.replace("_", " "))
    return figure


def _style(method: str, trivial: Sequence[str]) -> dict[str, Any]:
    """Methods in colours; trivial baselines in greys, each with dashes of its own."""
    if method not in trivial:
        return {"linewidth": 2}
    number = list(trivial).index(method)
    dashes = [(1, 1), (4, 1), (4, 1, 1, 1), (2, 2), (7, 2), (1, 3)][number % 6]
    return {"linewidth": 1.2, "linestyle": (0, dashes), "color": str(0.25 + 0.1 * (number % 6))}
