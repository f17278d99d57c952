"""Evaluations: who is best and by how much, the curves, the images behind the figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.evaluation.gallery import read_gallery
from lucidcam.evaluation.presets import Published
from lucidcam.evaluation.report import Comparison, Report, Row
from lucidcam.io.storage import parsed_json
from lucidcam.metrics._base import Curve, Figure
from lucidcam.outputs.html import Bar, Bars, Cell, Curves, Facts, Fold, Page, Part, Section, Table, Text, fixed
from lucidcam.pipeline import ledger
from lucidcam.reports import _galleries
from lucidcam.reports._base import Kind, kinds
from lucidcam.reports._files import reading
from lucidcam.samples import Problem
from lucidcam.utils.csv_rows import restore_cell
from lucidcam.utils.text import counted, listed

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
            sections.append(Section("Skipped", (Table(["sample", "why"], rows, "Samples that could not be used", more, filtered=True),)))
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
    told = f"{counted(len(methods), 'method')} judged on {counted(_images(report), 'image')} of {report.settings.get('data')}."
    if len(methods) > 1 and names:
        told += f" {_ranking(report, names, methods)}"
    below: list[str] = []
    level: list[str] = []
    for name in names:
        best = report.leaders(name)
        if best and best[0] in report.trivial:
            (level if any(each in methods for each in best) else below).append(name)
        elif any(each in report.trivial for each in best):
            level.append(name)
    if below:
        told += (
            f"\n\nBy {listed([_words(each) for each in below])} a baseline that knows nothing of the network is better than every method."
        )
    if level:
        told += f"\n\nBy {listed([_words(each) for each in level])} the best method and a baseline that knows nothing of the network tie."
    return told


def _ranking(report: Report, names: Sequence[str], methods: Sequence[str]) -> str:
    """Who is best by which metrics, and who tie."""
    metrics: dict[frozenset[str], list[str]] = {}
    for name in names:
        best = report.leaders(name, methods)
        if best:
            metrics.setdefault(frozenset(best), []).append(name)
    told = []
    for tied, own in sorted(metrics.items(), key=lambda pair: (len(pair[0]), -len(pair[1]))):
        by = f"by {len(own)} of {counted(len(names), 'metric')}: {listed([_words(each) for each in own])}"
        ordered = [method for method in methods if method in tied]
        told.append(f"{ordered[0]} is best {by}." if len(ordered) == 1 else f"{_tie(ordered, methods)} {by}.")
    if any(len(tied) > 1 for tied in metrics):
        tested = ", or do not differ significantly on the same images" if report.comparisons else ""
        told.append(f"Methods tie that have the same figure{tested}.")
    return " ".join(told)


def _tie(tied: Sequence[str], methods: Sequence[str]) -> str:
    """That several are the best together."""
    return f"All {len(tied)} methods tie" if len(tied) == len(methods) > 2 else f"{listed(tied)} tie for the best"


def _summary(report: Report) -> list[Part]:
    parts: list[Part] = [Text(note, "warning") for note in report.notes]
    rows: list[list[Cell | str]] = []
    methods = _methods(report)
    for name in _counted(report):
        best, rivals = report.leaders(name, methods), report.leaders(name, report.trivial)
        if not best:
            continue
        following = report.leaders(name, [each for each in methods if each != best[0]])
        rows.append(
            [
                _column(report, name),
                best[0] if len(best) == 1 else _tie([each for each in methods if each in best], methods),
                _value(report, best[0], name),
                _against(report, name, best[0], following[:1]),
                _against(report, name, best[0], rivals),
            ]
        )
    if rows:
        head = ["metric", "best method", "best value", "against the next method", "against the best baseline"]
        note = (
            "Best value: the highest, or lowest, figure. Differences on the same images, with 95 % intervals of paired values; ≈: not "
            "significant at 5 %. Methods tie whose figures are equal as printed, or whose difference is not significant."
        )
        parts.append(Table(head, rows, "The best method by each metric", note))
    return parts


def _against(report: Report, name: str, best: str, others: Sequence[str]) -> Cell | str:
    """The difference of two figures; of several others that tie, the first is compared and all are named."""
    if not others:
        return "–"
    other, more = others[0], others[1:]
    named = f"{other} (ties with {listed(more) if len(more) < 3 else f'{len(more)} others'})" if more else other
    found = next((c for c in report.comparisons if c.metric == name and {c.first, c.second} == {best, other}), None)
    if found is None:
        return named
    sign = 1 if found.first == best else -1
    low, high = sorted((sign * found.low, sign * found.high))
    digits = report.figures[name].digits
    level = " ≈" if report.differs(name, best, other) is False else ""
    small = f"{_signed(low, digits)} to {_signed(high, digits)}, {best} − {named}"
    return Cell(f"{_signed(sign * found.difference, digits)}{level}", small=small)


def _leaderboard(report: Report) -> list[Part]:
    names = _counted(report)
    leaders = {name: report.leaders(name) for name in names}
    rows: list[list[Any]] = []
    for method in report.methods:
        quiet = method in report.trivial
        rows.append([Cell(method, quiet=quiet), *(_cell(report, method, name, leaders[name], quiet) for name in names)])
    tuned = " †: its threshold is chosen on the images that it is measured on." if any(report.figures[name].tuned for name in names) else ""
    table = Table(
        ["method", *(_column(report, name) for name in names)],
        rows,
        "Every method and baseline, with 95 % intervals",
        "Bold: the best; where several are bold, they tie: equal as printed, or (≈) not significantly different from the best figure on "
        f"the same images. Pale: baselines that know nothing of the network.{tuned}",
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


def _cell(report: Report, method: str, name: str, leaders: Sequence[str], quiet: bool) -> Cell:
    row = next((each for each in report.rows if (each.method, each.metric) == (method, name)), None)
    if row is None or not math.isfinite(row.mean):
        return Cell("–", quiet=quiet)
    digits = report.figures[name].digits
    small = f"{fixed(row.low, digits)} to {fixed(row.high, digits)}" if math.isfinite(row.low) else ""
    if method in leaders[1:] and report.differs(name, method, leaders[0]) is False:
        small += " ≈"
    return Cell(fixed(row.mean, digits), best=method in leaders, tied=len(leaders) > 1, small=small, quiet=quiet)


def _figure(report: Report, name: str) -> Fold:
    """All about one figure."""
    rows = sorted((row for row in report.rows if row.metric == name and math.isfinite(row.mean)), key=lambda row: row.mean)
    better, unit, digits = report.figures[name].higher_is_better, report.figures[name].unit, report.figures[name].digits
    rows = rows[::-1] if better else rows
    bars = Bars(
        [Bar(row.method, row.mean, row.low, row.high, quiet=row.method in report.trivial) for row in rows],
        _heading(report, name),
        " %" if unit == "%" else unit,
        digits,
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
                [c.first, c.second, c.difference, f"{_signed(c.low, 3)} to {_signed(c.high, 3)}", Cell(_p(c.p), best=False)]
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


def _value(report: Report, method: str, name: str) -> Cell | str:
    row = next((each for each in report.rows if (each.method, each.metric) == (method, name) and math.isfinite(each.mean)), None)
    if row is None:
        return "–"
    digits = report.figures[name].digits
    small = f"{fixed(row.low, digits)} to {fixed(row.high, digits)}" if math.isfinite(row.low) else ""
    return Cell(fixed(row.mean, digits), small=small)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _title(report: Report, name: str) -> str:
    figure = report.figures[name]
    return f"{_words(name)}{' %' if figure.unit == '%' else ''}{' †' if figure.tuned else ''}"


def _column(report: Report, name: str) -> Cell:
    """A metric as a heading of a table. Its arrow stands with words, as those by which a table is sorted are of another shape."""
    figure = report.figures[name]
    arrow = "" if figure.higher_is_better is None else "↑ " if figure.higher_is_better else "↓ "
    return Cell(_title(report, name), small=f"{arrow}{figure.direction}")


def _heading(report: Report, name: str) -> str:
    """A metric as a title, with what is better in words."""
    direction = report.figures[name].direction
    return f"{_title(report, name)} ({direction})" if direction else _title(report, name)


def _signed(value: float, digits: int) -> str:
    return fixed(value, digits, signed=True)


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
