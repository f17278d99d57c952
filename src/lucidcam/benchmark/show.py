"""Costs as a table in a terminal and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lucidcam.benchmark.result import FORWARD, Cost, Costs

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

COLOURS = {False: "tab:blue", True: "tab:orange"}
"""Of bars: the network as it is, and the optimised copy."""


def table(costs: Costs, width: int | None) -> Group:
    """One part for the network as it is, one for the optimised copy; what could not be measured below."""
    from rich.console import Console, Group
    from rich.text import Text

    width = width or Console().width
    parts: list[Any] = [_part(costs, False, width)]
    if costs.copy:
        parts += [Text(""), Text(f"On an optimised copy ({costs.copy})", "bold"), _part(costs, True, width)]
    told = [f"not measured: {name}: {why}" for name, why in costs.refused.items()] + [f"note: {note}" for note in costs.notes]
    return Group(*parts, *([Text("")] if told else []), *(Text(line, "dim") for line in told))


def _part(costs: Costs, optimized: bool, width: int) -> Table:
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), width=min(width, 100))
    several = costs.batch > 1
    found.add_column("method", overflow="fold", ratio=1)
    found.add_column("× forward,\n1 image", justify="right", no_wrap=True)
    if several:
        found.add_column(f"× forward,\n{costs.batch} images", justify="right", no_wrap=True)
    found.add_column("ms an\nimage", justify="right", no_wrap=True)
    found.add_column("memory,\nMiB", justify="right", no_wrap=True)
    found.add_column("forwards\nan image", justify="right", no_wrap=True)
    rows = [row for row in costs.rows if row.optimized == optimized]
    for method in dict.fromkeys(row.method for row in rows):
        one, *more = sorted((row for row in rows if row.method == method), key=lambda row: row.images)
        last = more[-1] if more else one
        cells = [_ratio(one), *([_ratio(last, costs.batch) if more else "–"] if several else [])]
        least = ">" if last.stopped else ""
        memory = "–" if last.memory is None else f"{last.memory / 2**20:+.0f}"
        found.add_row(method, *cells, f"{least}{_digits(1000 * last.seconds)}", memory, f"{least}{last.forwards:.0f}")
    return found


def _ratio(row: Cost, expected: int | None = None) -> str:
    """The median with half the distance of the quartiles; in brackets the images where they are fewer than expected."""
    if row.method == FORWARD and not row.optimized:
        return "1"
    if row.stopped:
        return f">{_digits(row.ratio)}"
    spread = "" if row.repeats == 1 else f" ±{_digits((row.high - row.low) / 2, row.ratio)}"
    fewer = f" ({row.images})" if expected is not None and row.images < expected else ""
    return f"{_digits(row.ratio)}{spread}{fewer}"


def _digits(value: float, like: float | None = None) -> str:
    """Three figures at least; as many places as `like` is given."""
    size = abs(value if like is None else like)
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:.0f}"


def plot(costs: Costs) -> Any:
    """Two panels of bars, drawn without a display: time beside the forward pass, and memory above it, of most images together."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [False, True] if costs.copy else [False]
    last = {(row.method, row.optimized): row for row in sorted(costs.rows, key=lambda row: row.images)}
    methods = list(dict.fromkeys(method for method, _ in last))
    figure = Figure(figsize=(9.5, 1.4 + 0.3 * len(methods) * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(kinds)
    for k, optimized in enumerate(kinds):
        rows = [(i + k * height, last[method, optimized]) for i, method in enumerate(methods) if (method, optimized) in last]
        places = [place for place, _ in rows]
        errors = [[row.ratio - row.low for _, row in rows], [row.high - row.ratio for _, row in rows]]
        label = f"optimised copy ({costs.copy})" if optimized else "as it is"
        style = {"height": height, "color": COLOURS[optimized], "label": label}
        time.barh(places, [row.ratio for _, row in rows], xerr=errors, error_kw={"elinewidth": 1}, **style)
        for place, row in rows:
            text = f" {'> ' if row.stopped else ''}{_digits(row.ratio)}{f' ({row.images})' if row.images < costs.batch else ''}"
            time.annotate(text, (row.high, place), va="center", fontsize="x-small")
        known = [(place, row.memory / 2**20) for place, row in rows if row.memory is not None]
        memory.barh([place for place, _ in known], [value for _, value in known], **style)
    time.set_yticks([i + height * (len(kinds) - 1) / 2 for i in range(len(methods))], methods)
    time.invert_yaxis()
    time.set_xscale("log")
    time.margins(x=0.2)
    time.axvline(1, color="0.4", linewidth=0.8)
    time.set_xlabel(f"time, in plain forward passes of {costs.batch} images" if costs.batch > 1 else "time, in plain forward passes")
    memory.set_xlabel("peak memory above one, MiB")
    for axis in (time, memory):
        axis.grid(axis="x", alpha=0.25)
    if costs.copy:
        memory.legend(fontsize="small", frameon=False)
    figure.suptitle(f"{costs.model}, {'×'.join(map(str, costs.shape))}, {costs.dtype}, {costs.device}")
    return figure
