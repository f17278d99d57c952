"""What a study found, in words: a table for a terminal, and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from PIL import Image
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text as Line

from lucidcam.outputs import html
from lucidcam.stats.bootstrap import Interval
from lucidcam.stats.ties import leaders
from lucidcam.study.analysis import BASES, Agreement, Answered, Difference, Findings, People
from lucidcam.study.plan import ANSWERED, PICTURES
from lucidcam.utils.text import listed

QUESTIONS = {"which_class": "which class", "trust": "reliability"}
Row = list["html.Cell | str | float | int | None"]

SHOWN = 12
"""Items in a gallery."""

HOW = (
    "Intervals are of 95 %: a bootstrap that draws participants and photos, both with replacement, so that answers of one person, "
    "and those about one photo, go together. They are at least as long as the exact interval that takes each answer for itself, so that "
    "answers that are all alike are not certain. Wilson's takes each answer for itself, too, and is mostly too short. Where answers are of "
    "one person or one photo, there is no interval (–)."
)
ALPHA = (
    "1: all agree; 0: as by chance. Which class: Randolph's kappa, as each item offers two classes of its own, with a chance of ½. "
    "Reliability is on one scale: ordinal alpha fits it. Alpha takes any number of answers per item; Fleiss' kappa needs as many for each "
    "(–: they are not)."
)
PAIRED = "On the same people and photos; not corrected for the number of pairs."


def table(found: Findings) -> Group:
    """For a terminal of 80 columns."""
    parts: list[Grid | Line] = [Line(people(found.people))]
    if found.accuracy:
        chance = f"Which class is shown ({_number(found.chance['which_class'])}: by chance)"
        grid = _grid("method", "right", "95 %", "Wilson", "answers", title=chance)
        for row in found.accuracy:
            grid.add_row(row.method, _number(row.share.value), _span(row.share), "{:.2f} to {:.2f}".format(*row.wilson), str(row.n))
        parts += [Line(), grid]
    if found.trust:
        grid = _grid(
            "explained by", "score", "95 %", "majority", "against", "answers", title="Which is more reliable (−2 to 2; 0: by chance)"
        )
        for each in found.trust:
            cells = (_signed(each.score.value), _span(each.score, signed=True), _number(each.majority), _number(each.against))
            grid.add_row(each.condition, *cells, str(each.n))
        parts += [Line(), grid, *(Line(each) for each in _towards(found))]
    differences = [("right", each) for each in found.accuracy_differences] + [("score", each) for each in found.trust_differences]
    if differences:
        grid = _grid("of", "difference", "by", "95 %", title="Differences")
        for of, row_ in differences:
            words = f"{row_.first} − {row_.second}"
            grid.add_row(of, words, _signed(row_.difference.value), _span(row_.difference, signed=True))
        parts += [Line(), grid, Line(PAIRED)]
    if found.agreement:
        grid = _grid("question", "Randolph κ", "α nominal", "α ordinal", "α interval", "Fleiss κ", "items", title="Agreement")
        for own in found.agreement:
            grid.add_row(QUESTIONS[own.question], *(_number(value) for value in _coefficients(own)), str(own.items))
        parts += [Line(), grid]
    return Group(*parts)


def people(found: People) -> str:
    """Who counts, and who does not, in one line."""
    left = [f"{found.failed} failed the checks"] if found.failed else []
    left += [f"{found.unchecked} stopped before the last check"] if found.unchecked else []
    left += [f"{found.silent} answered nothing"] if found.silent else []
    told = f"; left out: {', '.join(left)}" if left else ""
    each = ", ".join(f"{QUESTIONS[kind]}: {n}" for kind, n in found.counted.items())
    return f"{found.started} participants, {found.kept} count ({found.finished} finished; {each}){told}"


def page(found: Findings) -> html.Page:
    """The report as a page."""
    sections = [*_accuracy(found), *_trust(found), *_agreement(found)]
    sections.append(html.Section("How it was judged", [html.Text(HOW), html.Facts(_settings(found))]))
    facts = {"participants who count": found.people.kept, "left out": found.people.started - found.people.kept}
    return html.Page(f"Study: {found.plan.title}", "\n\n".join(_lead(found)), sections, facts)


def _lead(found: Findings) -> Iterator[str]:
    yield people(found.people) + "."
    if found.accuracy:
        shares = {row.method: row.share.value for row in found.accuracy}
        best = leaders(shares, digits=2, differs=_told_apart(found.accuracy_differences))
        first = next(row for row in found.accuracy if row.method == best[0])
        share = f"{first.share.value:.0%} of the answers ({_span(first.share)}; chance: {_number(found.chance['which_class'])})"
        yield f"The class that {best[0]} shows was recognised in {share}{_best_of(len(found.accuracy), best)}."
    if found.trust and found.plan.better:
        known = [row for row in found.trust if isfinite(row.score.low)] or found.trust
        best = leaders({row.condition: row.score.value for row in known}, digits=2, differs=_told_apart(found.trust_differences))
        most = next(row for row in known if row.condition == best[0])
        score = f"{_signed(most.score.value)} ({_span(most.score, signed=True)})"
        scale = f"on a scale from −2 (trust {most.other}) to 2 (trust {most.towards}; chance: 0)"
        yield f"Explained by {most.condition}, the score is {score}, {scale}{_best_of(len(found.trust), best)}."
        yield f"The better model is {found.plan.better}: {_basis(found)}."


def _told_apart(differences: Sequence[Difference]) -> Callable[[str, str], bool | None]:
    """Whether the interval of two methods' difference leaves out 0; None where it is not known."""
    known = {frozenset((each.first, each.second)): each.difference for each in differences if isfinite(each.difference.low)}

    def differs(first: str, second: str) -> bool | None:
        difference = known.get(frozenset((first, second)))
        return None if difference is None else difference.low > 0 or difference.high < 0

    return differs


def _best_of(count: int, best: Sequence[str]) -> str:
    """One of several that is named for its figure has it partly by luck, and may share it."""
    if len(best) > 1:
        tie = f"It ties with {listed(best[1:])}: the figures are equal, or the interval of their difference holds 0"
        return f"; its interval is not corrected for being the highest of {count}. {tie}"
    return f"; the highest of {count}, and its interval is not corrected for that" if count > 1 else ""


def _accuracy(found: Findings) -> Iterator[html.Section]:
    if not found.accuracy:
        return
    rows: list[Row] = [
        [e.method, _number(e.share.value), _span(e.share), "{:.2f} to {:.2f}".format(*e.wilson), e.right, e.n] for e in found.accuracy
    ]
    bars = [html.Bar(e.method, e.share.value, e.share.low, e.share.high) for e in found.accuracy]
    parts: list[html.Part] = [
        html.Bars(
            bars,
            f"Share of right answers, with 95 % intervals; {_number(found.chance['which_class'])} is chance",
            digits=2,
            ends=(0, 1),
            chance=found.chance["which_class"],
        ),
        html.Table(("method", "right", "95 %", "Wilson", "right answers", "answers"), rows, "Share of right answers", numeric=(1, 2, 3)),
    ]
    if found.accuracy_differences:
        parts.append(_differences(found.accuracy_differences, "Differences in the share of right answers"))
    items = sorted((e for e in found.items if e.item.kind == "which_class"), key=lambda e: e.mean)
    parts += _galleries(found, items, "Least often recognised", "Most often recognised")
    yield html.Section("Which class is shown", parts, "People saw the map of one of a photo's two classes, and said which one it is.")


def _trust(found: Findings) -> Iterator[html.Section]:
    if not found.trust:
        return
    rows: list[Row] = [
        [e.condition, e.towards, _signed(e.score.value), _span(e.score, True), _number(e.majority), _number(e.against), e.items, e.n]
        for e in found.trust
    ]
    head = ("explained by", "positive: towards", "score", "95 %", "majority", "against", "items", "answers")
    bars = [html.Bar(e.condition, e.score.value, e.score.low, e.score.high) for e in found.trust]
    note = "Majority: the share of items on which more answers are for it than against it; against: the other way round. The rest are ties."
    parts: list[html.Part] = [
        html.Bars(
            bars,
            "Mean score from −2 to 2, with 95 % intervals; 0 is chance",
            digits=2,
            ends=(min(ANSWERED["trust"]), max(ANSWERED["trust"])),
            chance=found.chance["trust"],
        ),
        html.Table(head, rows, "Trust", note, numeric=(2, 3, 4, 5)),
    ]
    if found.trust_differences:
        parts.append(_differences(found.trust_differences, "Differences in the score"))
    items = sorted((e for e in found.items if e.item.kind == "trust"), key=lambda e: e.mean)
    parts += _galleries(found, items, "Lowest scores", "Highest scores")
    yield html.Section("Which is more reliable", parts, " ".join(_towards(found)))


def _agreement(found: Findings) -> Iterator[html.Section]:
    if not found.agreement:
        return
    head = ("question", "Randolph κ", "α nominal", "α ordinal", "α interval", "Fleiss κ", "items", "answers")
    rows: list[Row] = [
        [QUESTIONS[e.question], *(_number(value) for value in _coefficients(e)), e.items, e.answers] for e in found.agreement
    ]
    caption = "Randolph's kappa, Krippendorff's alpha and Fleiss' kappa, on items with two answers or more"
    yield html.Section("Agreement between people", [html.Table(head, rows, caption, ALPHA, numeric=(1, 2, 3, 4, 5))])


def _galleries(found: Findings, items: Sequence[Answered], low: str, high: str) -> list[html.Part]:
    half = min(SHOWN, len(items) // 2)
    if found.folder is None or not half:
        return []
    return [
        html.Fold(title, [html.Gallery([_shot(found, each) for each in chosen])])
        for title, chosen in ((f"{low}: {half} pictures", items[:half]), (f"{high}: {half} pictures", items[: -half - 1 : -1]))
    ]


def _shot(found: Findings, each: Answered) -> html.Shot:
    item = each.item
    assert found.folder is not None
    opened = [Image.open(found.folder / PICTURES / name).convert("RGB") for name in item.pictures]
    if item.kind == "which_class":
        shown, other = item.options
        caption, alt = f"{shown}, not {other}: {each.mean:.0%} right", f"{item.condition} of {shown}"
    else:
        caption, alt = f"{item.said}: {_signed(each.mean)}", f"{item.condition} of {item.said}"
    return html.Shot(opened, caption, alt, f"{item.condition}, {each.n} answers", labels=item.sides)


def _differences(rows: Sequence[Difference], caption: str) -> html.Table:
    cells: list[Row] = [[f"{e.first} − {e.second}", _signed(e.difference.value), _span(e.difference, True)] for e in rows]
    return html.Table(("difference", "by", "95 %"), cells, caption, PAIRED, numeric=(1, 2))


def _settings(found: Findings) -> dict[str, object]:
    plan = found.plan
    return {
        "study": plan.id,
        "checks that have to be right": f"{plan.passed:.0%}",
        "one who clicks at random passes with": ", ".join(f"{QUESTIONS[kind]}: {luck:.2%}" for kind, luck in plan.luck().items()),
        "seconds per answer (median)": _number(found.people.seconds),
        "bootstrap samples": found.resamples,
        **{str(name): value for name, value in plan.facts.items()},
    }


def _towards(found: Findings) -> list[str]:
    if found.plan.better:
        first = found.trust[0]
        return [f"Positive: towards {first.towards}, the better model ({_basis(found)}); negative: towards {first.other}."]
    return [f"{each.condition}: positive is towards {each.towards}." for each in found.trust]


def _basis(found: Findings) -> str:
    """How it is known which model is the better one, with the figures that were measured."""
    basis = BASES[found.plan.better_by] or "whether it was named by the author or measured is not recorded"
    figures = _measured(found.plan.facts)
    if not figures:
        return basis
    return f"measured: {figures}" if found.plan.better_by == "accuracy" else f"{basis}; measured: {figures}"


def _measured(facts: Mapping[str, Any]) -> str:
    """How often the compared models are right; "" where that was not measured, or somebody has changed the facts."""
    try:
        compared = facts["which model is more accurate"]
        shares = [(name, each["accuracy"]) for name, each in facts["models"].items() if each["accuracy"] is not None]
        words = ", ".join(f"{name} is right on {share:.1%}" for name, share in shares)
        p = "p < 0.001" if compared["p"] < 0.001 else f"p = {html.fixed(compared['p'], 3)}"
        return f"{words} of {compared['photos']} labelled photos, {p}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def _coefficients(own: Agreement) -> tuple[float, ...]:
    return own.randolph, own.nominal, own.ordinal, own.interval, own.fleiss


def _grid(*columns: str, title: str) -> Grid:
    found = Grid(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold", header_style="bold")
    for k, column in enumerate(columns):
        found.add_column(column, overflow="fold", justify="left" if k == 0 or column == "difference" else "right")
    return found


def _number(value: float) -> str:
    return html.fixed(value, 2)


def _signed(value: float) -> str:
    return html.fixed(value, 2, signed=True)


def _span(interval: Interval, signed: bool = False) -> str:
    write = _signed if signed else _number
    return f"{write(interval.low)} to {write(interval.high)}" if isfinite(interval.low) else "–"
