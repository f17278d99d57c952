"""Evaluations: who is best and by how much, the curves, the images behind the figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.csv_rows import restore_cell
from lucidcam.evaluation.gallery import read_gallery
from lucidcam.evaluation.presets import Published
from lucidcam.evaluation.report import Comparison, Report, Row
from lucidcam.metrics._base import Curve, Figure
from lucidcam.outputs.html import Bar, Bars, Cell, Curves, Facts, Fold, Page, Part, Section, Table, Text, fixed
from lucidcam.pipeline import ledger
from lucidcam.reports import _galleries
from lucidcam.reports._base import Kind, kinds
from lucidcam.reports._files import reading
from lucidcam.samples import Problem
from lucidcam.storage import parsed_json
from lucidcam.wording import counted, listed

ROWS = 1_000
"""Rows of a table of classes or skipped samples; results.json has all."""


@kinds.register_class("evaluate")
class Evaluation(Kind):
    """What `lucidcam.evaluate` returns, or writes."""

    about = "an evaluation"
    file = "results.json"

    def fits(self, result: Any) -> bool:
        """See `Kind.fits`."""
        return isinstance(result, Report)

    def page(self, result: Report, *, gallery: str | Path | None = None) -> Page:  # type: ignore[override]
        """The page.

        Args:
            result: the report.
            gallery: the folder with the pictures of its images; None: `gallery` in the folder it was written to.
        """
        folder = Path(gallery) if gallery is not None else None if result.folder is None else result.folder / "gallery"
        shots = [] if folder is None else read_gallery(folder)
        sections = [
            Section("Summary", _summary(result)),
            *figures(result),
            *(_galleries.sections(shots, folder, result) if folder is not None and shots else []),
            *_classes(result),
        ]
        if result.skipped:
            rows = [[each.name, each.error] for each in result.skipped[:ROWS]]
            more = "" if len(result.skipped) <= ROWS else f"The first {ROWS} of {len(result.skipped)}; results.json lists all."
            sections.append(Section("Skipped", (Table(["sample", "why"], rows, "Samples that could not be used", more),)))
        sections.append(Section("Settings", _settings(result)))
        facts = {
            "images": _images(result),
            "skipped": len(result.skipped),
            "methods": len(_methods(result)),
            "metrics": len(_counted(result)),
        }
        name = Path(str(result.settings.get("data", "the data"))).name
        return Page(f"Which method to believe: {result.settings.get('model')} on {name}", _lead(result), sections, facts)

    def holds(self, folder: Path) -> bool:
        """See `Kind.holds`; a run that judged its maps has such a file, too."""
        return super().holds(folder) and not (folder / ledger.MANIFEST).is_file()

    def read(self, folder: Path) -> Report:
        """See `Kind.read`; the curves of versions that did not write them down are missing."""
        with reading(folder / self.file, "an evaluation"):
            return _read(folder)


def figures(report: Report) -> list[Section]:
    """The leaderboard, and all about each figure."""
    return [Section("Leaderboard", _leaderboard(report)), Section("Figure by figure", [_figure(report, name) for name in _counted(report)])]


def _methods(report: Report) -> list[str]:
    return [each for each in report.methods if each not in report.trivial]


def _images(report: Report) -> int:
    return len(report.names) or max((row.n for row in report.rows), default=0)


def _counted(report: Report) -> list[str]:
    """Metrics for which something counted."""
    return list(dict.fromkeys(row.metric for row in report.rows if math.isfinite(row.mean)))


def _lead(report: Report) -> str:
    """The result in a sentence or two."""
    methods, names = _methods(report), [name for name in _counted(report) if report.figures[name].higher_is_better is not None]
    wins = {method: [name for name in names if _top(report, name, methods) == [method]] for method in methods}
    told = f"{counted(len(methods), 'method')} judged on {counted(_images(report), 'image')} of {report.settings.get('data')}. "
    if len(methods) > 1 and names:
        ranked = sorted(((len(won), method) for method, won in wins.items() if won), reverse=True)
        level = len(names) - sum(count for count, _ in ranked)
        words = [f"{method} is best by {count} of {counted(len(names), 'metric')}" for count, method in ranked]
        told += listed([*words, *([f"by {level} the best are level"] if level else [])]) + "; "
        clear = sum(_clear(report, name, methods) for name in names)
        told += f"the lead over the next method is significant by {clear or 'none'} of them."
    below = [name for name in names if _best(report, name) in report.trivial]
    if below:
        told += (
            f"\n\nBy {listed([_words(name) for name in below])} a baseline that knows nothing of the network is better than every method."
        )
    return told


def _clear(report: Report, name: str, methods: Sequence[str]) -> bool:
    """Whether the best method differs significantly from the next one."""
    best = _best(report, name, methods)
    following = _best(report, name, [each for each in methods if each != best])
    return best is not None and following is not None and report.differs(name, best, following) is True


def _summary(report: Report) -> list[Part]:
    parts: list[Part] = [Text(note, "warning") for note in report.notes]
    rows = []
    methods = _methods(report)
    for name in _counted(report):
        best, rival = _best(report, name, methods), _best(report, name, report.trivial)
        if best is None:
            continue
        others = [each for each in methods if each != best]
        next_best = _best(report, name, others)
        rows.append(
            [
                _heading(report, name),
                listed(_top(report, name, methods)),
                _value(report, best, name),
                _against(report, name, best, next_best),
                _against(report, name, best, rival),
            ]
        )
    if rows:
        head = ["metric", "best method", "value", "against the next method", "against the best baseline"]
        note = (
            "Differences on the same images, with 95 % intervals of paired values; ≈: not significant at 5 %. "
            "↑: more is better, ↓: less is."
        )
        parts.append(Table(head, rows, "The best method by each metric", note))
    return parts


def _against(report: Report, name: str, best: str, other: str | None) -> Cell | str:
    if other is None:
        return "–"
    found = next((c for c in report.comparisons if c.metric == name and {c.first, c.second} == {best, other}), None)
    if found is None:
        return other
    sign = 1 if found.first == best else -1
    low, high = sorted((sign * found.low, sign * found.high))
    unit = report.figures[name].unit
    tied = " ≈" if report.differs(name, best, other) is False else ""
    return Cell(f"{_signed(sign * found.difference, unit)}{tied}", small=f"{_signed(low, unit)} to {_signed(high, unit)}, {other}")


def _leaderboard(report: Report) -> list[Part]:
    names = _counted(report)
    rows: list[list[Any]] = []
    for method in report.methods:
        quiet = method in report.trivial
        rows.append([Cell(method, quiet=quiet), *(_cell(report, method, name, quiet) for name in names)])
    table = Table(
        ["method", *(_heading(report, name) for name in names)],
        rows,
        "Every method and baseline, with 95 % intervals",
        "Bold: the best. ≈: not significantly different from it, on the same images. Pale: baselines that know nothing of the network.",
        numeric=range(1, len(names) + 1),
    )
    plain = {name.partition(":")[0]: name for name in names}
    printed = [each for each in report.published if each.metric in plain]
    if not printed:
        return [table]
    published = Table(
        ["method", "metric", "published", "paper", "network", "data", "here"],
        [[p.method, _words(p.metric), p.value, p.paper, p.network, p.data, _value(report, p.method, plain[p.metric])] for p in printed],
        "What papers published for the same metrics",
        "On other images, and often another network: for orientation, not for comparison.",
        numeric=[6],
    )
    return [table, published]


def _cell(report: Report, method: str, name: str, quiet: bool) -> Cell:
    row = next((each for each in report.rows if (each.method, each.metric) == (method, name)), None)
    if row is None or not math.isfinite(row.mean):
        return Cell("–", quiet=quiet)
    unit, best = report.figures[name].unit, report.best(name)
    top = next((each.mean for each in report.rows if (each.method, each.metric) == (best, name)), None)
    small = f"{_number(row.low, unit)} to {_number(row.high, unit)}" if math.isfinite(row.low) else ""
    if best is not None and row.mean != top and report.differs(name, method, best) is False:
        small += " ≈"
    return Cell(_number(row.mean, unit), best=row.mean == top, small=small, quiet=quiet)


def _figure(report: Report, name: str) -> Fold:
    """All about one figure."""
    rows = sorted((row for row in report.rows if row.metric == name and math.isfinite(row.mean)), key=lambda row: row.mean)
    better, unit = report.figures[name].higher_is_better, report.figures[name].unit
    rows = rows[::-1] if better else rows
    bars = Bars(
        [Bar(row.method, row.mean, row.low, row.high, quiet=row.method in report.trivial) for row in rows],
        _heading(report, name),
        " %" if unit == "%" else unit,
        1 if unit == "%" else 3,
    )
    parts: list[Part] = [bars]
    judge = next((label for label in report.curves if label == name or label.partition(":")[0] == name.partition(":")[0]), None)
    if judge is not None:
        parts += _curves(report.curves[judge], report.trivial)
    compared = [c for c in report.comparisons if c.metric == name]
    if compared:
        head = ["first", "second", "difference", "95 % interval", "p"]
        table = Table(
            head,
            [
                [c.first, c.second, c.difference, f"{_signed(c.low, '')} to {_signed(c.high, '')}", Cell(_p(c.p), best=False)]
                for c in compared
            ],
            f"{_heading(report, name)}: the first minus the second on the same images",
            "p: two-sided, of paired values, not corrected for the number of pairs.",
            numeric=[3, 4],
        )
        parts.append(Fold(f"{counted(len(compared), 'paired comparison')}", (table,)))
    return Fold(_heading(report, name), parts, anchor=f"figure-{name}", heading=True, open=True)


def _curves(curves: Any, trivial: Sequence[str]) -> list[Part]:
    panels: dict[str, dict[str, Curve]] = {}
    for method, each in curves.items():
        for curve in each:
            panels.setdefault(curve.name, {})[method] = curve
    return [
        Curves(
            {method: list(zip(curve.x, curve.y)) for method, curve in found.items()},
            next(iter(found.values())).x_label,
            next(iter(found.values())).y_label,
            panel.replace("_", " "),
            quiet=trivial,
        )
        for panel, found in panels.items()
    ]


def _classes(report: Report) -> list[Section]:
    """A metric's figures of each class, or against each rival."""
    folds = []
    for metric, by_method in report.groups.items():
        groups = list(dict.fromkeys(group for each in by_method.values() for group in each))
        figures = list(dict.fromkeys(name for each in by_method.values() for found in each.values() for name in found))
        for figure in figures:
            methods = list(by_method)
            rows = [[_group(report, group), *(by_method[m].get(group, {}).get(figure) for m in methods)] for group in groups[:ROWS]]
            folds.append(
                Fold(
                    f"{_words(figure)} ({_words(metric)})" if figure != metric else _words(figure),
                    (Table(["class or rival", *methods], rows, _words(figure)),),
                    heading=True,
                )
            )
    return [Section("Class by class", folds, "Figures of each class, or against each rival, by themselves.")] if folds else []


def _group(report: Report, group: str) -> str:
    names = {str(number): name for name, number in report.classes.items()}
    return names.get(group, group)


def _settings(report: Report) -> list[Part]:
    told = {key: value for key, value in report.settings.items() if key not in ("methods", "metrics")}
    parts: list[Part] = [Facts(told)]
    for what in ("methods", "metrics"):
        found = report.settings.get(what) or {}
        parts.append(Facts({label: _options(each) for label, each in found.items()}, caption=what.capitalize()))
    if report.classes or report.unmatched:
        rows = [[name, str(number)] for name, number in list(report.classes.items())[:ROWS]]
        rows += [[name, why] for name, why in list(report.unmatched.items())[:ROWS]]
        table = Table(["the data's class", "the model's"], rows, "How the data's classes were matched")
        parts.append(Fold(f"{len(report.classes)} of the data's classes matched, {len(report.unmatched)} not", (table,)))
    return parts


def _options(described: Any) -> Any:
    """A method's or metric's options as they differ from the default, in words."""
    rest = {key: value for key, value in described.items() if key not in ("method", "metric", "trivial")}
    return {key: value for key, value in rest.items() if value is not None} or "as it comes"


def _best(report: Report, metric: str, among: Iterable[str] | None = None) -> str | None:
    """The method with the best figure, of some; None where the metric has no direction or nothing counted."""
    better = report.figures[metric].higher_is_better
    rows = [row for row in report.rows if row.metric == metric and math.isfinite(row.mean) and (among is None or row.method in set(among))]
    if better is None or not rows:
        return None
    return (max if better else min)(rows, key=lambda row: row.mean).method


def _top(report: Report, metric: str, among: Iterable[str]) -> list[str]:
    """All that are level with the best."""
    best = _best(report, metric, among)
    return [] if best is None else [each for each in among if report.row(each, metric).mean == report.row(best, metric).mean]


def _value(report: Report, method: str, name: str) -> Cell | str:
    row = next((each for each in report.rows if (each.method, each.metric) == (method, name) and math.isfinite(each.mean)), None)
    if row is None:
        return "–"
    unit = report.figures[name].unit
    return Cell(_number(row.mean, unit), small=f"{_number(row.low, unit)} to {_number(row.high, unit)}" if math.isfinite(row.low) else "")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(report: Report, name: str) -> str:
    figure = report.figures[name]
    arrow = {True: " ↑", False: " ↓", None: ""}[figure.higher_is_better]
    return f"{_words(name)}{' %' if figure.unit == '%' else ''}{arrow}{' †' if figure.tuned else ''}"


def _number(value: float, unit: str) -> str:
    return fixed(value, 1 if unit == "%" else 3)


def _signed(value: float, unit: str) -> str:
    return fixed(value, 1 if unit == "%" else 3, signed=True)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _read(folder: Path) -> Report:
    told = parsed_json((folder / "results.json").read_text(encoding="utf-8"))
    names: dict[str, int] = {}
    cells: dict[tuple[str, str], dict[int, float]] = {}
    images = folder / "images.csv"
    if images.is_file():
        with images.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                image, method, metric = (restore_cell(row[name]) for name in ("image", "method", "metric"))
                number = names.setdefault(image, len(names))
                cells.setdefault((method, metric), {})[number] = float(row["value"])
    values = {}
    for key, found in cells.items():
        values[key] = np.full(len(names), np.nan)
        values[key][list(found)] = list(found.values())
    return Report(
        rows=tuple(Row(**_numbers(each)) for each in told["rows"]),
        figures={name: Figure(name, **each) for name, each in told["metrics"].items()},
        comparisons=tuple(Comparison(**_numbers(each)) for each in told["comparisons"]),
        settings=told["settings"],
        skipped=tuple(Problem(**each) for each in told["skipped"]),
        unmatched=told["unmatched"],
        trivial=tuple(told["trivial"]),
        published=tuple(Published(**each) for each in told["published"]),
        curves={metric: {m: [_curve(c) for c in each] for m, each in found.items()} for metric, found in told.get("curves", {}).items()},
        groups=told["groups"],
        names=tuple(names),
        values=values,
        notes=tuple(told["notes"]),
        classes=told["classes"],
        folder=folder,
    )


def _numbers(told: dict[str, Any]) -> dict[str, Any]:
    """What was NaN is None in JSON."""
    return {key: math.nan if value is None else value for key, value in told.items()}


def _curve(told: dict[str, Any]) -> Curve:
    x, y = (np.array([math.nan if value is None else value for value in told[axis]], np.float64) for axis in ("x", "y"))
    return Curve(told["name"], x, y, told["x_label"], told["y_label"])
