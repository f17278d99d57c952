"""Where the lines of a chart run: scales, ticks and points in the drawing's units. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lucidcam.outputs.html.blocks import Bars, Curves

WIDTH, HEIGHT = 460.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 46.0
COLOURS = 8
"""Series that have a colour of their own; the next ones begin anew, with other dashes."""

DASHES = ("", "7 4", "2 3", "9 3 2 3")
DENSE = 20
"""Characters at the ticks of an axis below bars, at most: on a phone it is short."""

ROWS = 41
"""Rows of the table below a chart, at most: evenly chosen."""


@dataclass(frozen=True)
class Line:
    """A series in the drawing."""

    name: str
    points: str
    end: tuple[float, float]
    colour: int
    dash: str
    quiet: bool


@dataclass(frozen=True)
class Chart:
    """A drawing: ticks as (place, text), lines, and the values as rows of a table."""

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    head: list[str]
    rows: list[list[float | None]]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def chart(curves: Curves) -> Chart:
    """Lay curves out."""
    series = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in curves.series.items()
    }
    series = {name: points for name, points in series.items() if points}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks, (x0, x1) = _axis(xs, tight=True)
    y_ticks, (y0, y1) = _axis(ys)

    def across(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    lines: list[Line] = []
    loud = 0
    for name, points in series.items():
        quiet = name in curves.quiet
        colour, dash = (0, DASHES[1 + len(lines) % 3]) if quiet else (loud % COLOURS, DASHES[loud // COLOURS % len(DASHES)])
        loud += not quiet
        drawn = [(across(x), down(y)) for x, y in points]
        lines.append(Line(name, " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn), drawn[-1], colour, dash, quiet))
    head, rows = _table(series, curves.x)
    return Chart([(across(t), number(t)) for t in x_ticks], [(down(t), number(t)) for t in y_ticks], lines, head, rows)


def _table(series: dict[str, list[tuple[float, float]]], x: str) -> tuple[list[str], list[list[float | None]]]:
    places = sorted({place for points in series.values() for place, _ in points})
    every = -(-len(places) // ROWS) if places else 1
    shown = sorted({*places[::every], *places[-1:]})
    values = {name: dict(points) for name, points in series.items()}
    return [x, *series], [[place, *(values[name].get(place) for name in series)] for place in shown]


def _axis(values: Sequence[float], tight: bool = False) -> tuple[list[float], tuple[float, float]]:
    """Ticks at 1, 2 or 5 times a power of ten, and the axis' ends: the values' own where it is tight, else the next ticks."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    if not tight and 0 < low < 0.4 * high:
        low = 0.0
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = (
        (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
        if tight
        else (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
    )
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return ticks, ((low, high) if tight else (ticks[0], ticks[-1]))


@dataclass(frozen=True)
class BarPlace:
    """A bar in percent of the drawing's width: from `start`, `length` long; its whisker, where it has one; its figures as text."""

    start: float
    length: float
    whisker: tuple[float, float] | None
    words: str
    interval: str


@dataclass(frozen=True)
class BarAxis:
    """The axis below bars, in percent of the drawing's width: ticks as (place, text), and the place of chance, if it is drawn."""

    ticks: list[tuple[float, str]]
    chance: float | None


def bar_axis(bars: Bars) -> BarAxis:
    """Lay the axis of bars out."""
    low, high = _bar_ends(bars)
    values = _axis((low, high), tight=True)[0]
    words = [number(value) for value in values]
    if len("".join(words)) > DENSE:  # every second one has no words; 0 has some
        words = [text if (k - values.index(0)) % 2 == 0 else "" for k, text in enumerate(words)]
    ticks = [(_percent(value, low, high), text) for value, text in zip(values, words)]
    return BarAxis(ticks, None if bars.chance is None else _percent(bars.chance, low, high))


def _bar_ends(bars: Bars) -> tuple[float, float]:
    """The ends of a scale that holds 0, all intervals, chance, and the ends that were asked for."""
    values = [v for each in bars.items for v in (each.value, each.low, each.high) if math.isfinite(v)]
    ends = [0.0, *values, *(bars.ends or ()), *(() if bars.chance is None else (bars.chance,))]
    low, high = min(ends), max(ends)
    return low, high if high > low else low + 1.0


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)


def bar_places(bars: Bars) -> list[BarPlace]:
    """Where bars lie, in percent, on the scale of their axis."""
    low, high = _bar_ends(bars)

    def at(value: float) -> float:
        return _percent(value, low, high)

    places = []
    for each in bars.items:
        value = each.value if math.isfinite(each.value) else 0.0
        whisker = (at(each.low), at(each.high)) if math.isfinite(each.low) and math.isfinite(each.high) else None
        interval = f"{_digits(each.low, bars.digits)} to {_digits(each.high, bars.digits)}" if whisker else ""
        places.append(BarPlace(min(at(0), at(value)), abs(at(value) - at(0)), whisker, _digits(each.value, bars.digits), interval))
    return places


def _digits(value: float, digits: int | None) -> str:
    return number(value) if digits is None else fixed(value, digits)


def fixed(value: float | None, digits: int, signed: bool = False) -> str:
    """A figure with so many digits behind the point, and a plus where it is signed and positive; a dash where there is none.

    >>> fixed(-0.25, 1), fixed(0.25, 2, signed=True), fixed(math.nan, 2)
    ('−0.2', '+0.25', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{'+' if signed and value > 0 else ''}{value:.{digits}f}".replace("-", "−")


def number(value: object) -> str:
    """A value as text: numbers with four significant digits, NaN and None as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        text = f"{value:.4g}"
        return (f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e7 else text).replace("-", "−")
    return str(value)
