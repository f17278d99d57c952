"""The leaderboard in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lucidcam.metrics._base import Figure

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from lucidcam.evaluation.report import Report, Row

COLUMN = 19
"""Characters that a figure with its interval takes, at most."""


def table(report: Report, width: int | None) -> Group:
    """Methods × metrics; as many parts below each other as the width needs."""
    from rich.console import Console, Group

    width = width or Console().width
    names = list(dict.fromkeys(row.metric for row in report.rows if math.isfinite(row.mean)))  # what counted somewhere
    first = max((len(label) for label in [*report.methods, *(_source(p) for p in report.published)]), default=6)
    first = min(first, max(12, width // 3))
    per_part = max(1, (width - first) // (COLUMN + 1))
    parts = [names[i : i + per_part] for i in range(0, len(names), per_part)]
    return Group(*(_part(report, part, first, last=part is parts[-1]) for part in parts))


def _part(report: Report, names: list[str], first: int, last: bool) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    found.add_column("method", overflow="fold", min_width=min(first, 12), max_width=first)
    for name in names:
        found.add_column(_heading(report.figures[name]), justify="right", overflow="fold", min_width=12)
    rows = {(row.method, row.metric): row for row in report.rows}
    leaders = {name: report.leaders(name) for name in names}
    for method in report.methods:
        style = "dim" if method in report.trivial else ""
        cells = [_cell(report, rows.get((method, name)), leaders[name]) for name in names]
        found.add_row(Text(method, style), *cells)
    for source in dict.fromkeys(_source(p) for p in report.published if p.metric in {n.partition(":")[0] for n in names}):
        values = {p.metric: p.value for p in report.published if _source(p) == source}
        printed = [values.get(name.partition(":")[0]) for name in names]
        cells = [Text("– " if value is None else f"{value:g} ", "italic cyan") for value in printed]
        found.add_row(Text(source, "italic cyan"), *cells)
    return Group(found, Text("" if last else " "))


def _heading(figure: Figure) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[figure.higher_is_better]
    return f"{figure.name.replace('_', ' ')}{' %' if figure.unit else ''}{arrow}{' †' if figure.tuned else ''}"


def _cell(report: Report, row: Row | None, leaders: Sequence[str]) -> Text:
    from rich.text import Text

    if row is None or not math.isfinite(row.mean):
        return Text("– ")
    digits = report.figures[row.metric].digits
    mean, low, high = (_number(value, digits) for value in (row.mean, row.low, row.high))
    found = Text(mean, "bold" if row.method in leaders else "")
    if math.isfinite(row.low):
        found.append(f" {low}–{high}" if row.low >= 0 else f" {low} to {high}", "dim not bold")
    tied = row.method in leaders[1:] and report.differs(row.metric, row.method, leaders[0]) is False
    found.append("≈" if tied else " ", "not bold")
    return found


def _number(value: float, digits: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def _source(each: object) -> str:
    return f"published: {getattr(each, 'method')} ({getattr(each, 'paper')}, {getattr(each, 'network')}, {getattr(each, 'data')})"  # noqa: B009
