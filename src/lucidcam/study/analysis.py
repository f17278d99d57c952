"""What a study found: accuracy, trust, agreement, each with its interval; who was left out, and why."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.errors import DataError, OptionError
from lucidcam.io.ownership import check_document
from lucidcam.io.storage import check_writable_file, json_text, write_whole
from lucidcam.reprs import OneLineRepr
from lucidcam.stats.agreement import fleiss_kappa, krippendorff_alpha, randolph_kappa
from lucidcam.stats.bootstrap import Draws, Floats, Interval, difference_interval, mean_interval
from lucidcam.stats.interval import wilson
from lucidcam.study.answers import Answers, Given
from lucidcam.study.plan import ANSWERED, ANSWERS, Item, Kind, Plan
from lucidcam.study.plan import read as read_plan

BASES: Mapping[str, str | None] = {"author": "named by the author", "accuracy": "measured", "": None}
"""How it is known which model is better, in words, by `Plan.better_by`."""


@dataclass(frozen=True)
class People(OneLineRepr):
    """Who took part.

    Attributes:
        started: agreed to take part, and did not withdraw.
        kept: their answers to one question at least count: they answered all its checks, and enough of them rightly.
        failed: of the others, those who failed a question's checks.
        unchecked: of the others, those who stopped before the last check; nothing is known of them.
        silent: agreed, and answered nothing.
        finished: of those kept, answered all questions.
        counted: people whose answers count, by question.
        luck: the probability that one who clicks at random passes a question's checks, by question.
        seconds: the median time of an answer, of those kept.
    """

    started: int
    kept: int
    failed: int
    unchecked: int
    silent: int
    finished: int
    counted: Mapping[Kind, int]
    luck: Mapping[Kind, float]
    seconds: float


@dataclass(frozen=True)
class Accuracy(OneLineRepr):
    """How often the class that a method shows was recognised.

    Attributes:
        method: whose maps.
        right: answers.
        n: answers in all.
        share: with the interval over participants and photos.
        wilson: the interval that takes each answer for itself; for reference.
    """

    method: str
    right: int
    n: int
    share: Interval
    wilson: tuple[float, float]


@dataclass(frozen=True)
class Difference(OneLineRepr):
    """Two methods on the same people and photos.

    Attributes:
        first: one of them.
        second: the other.
        difference: of the first's accuracy, or score, and the second's.
    """

    first: str
    second: str
    difference: Interval


@dataclass(frozen=True)
class Trusted(OneLineRepr):
    """How much more one of two was trusted.

    Attributes:
        condition: the method that explains; or the pair of methods.
        towards: what positive scores mean: the more accurate model, else the second of the two.
        other: the other of the two.
        score: from −2 to 2.
        n: answers.
        items: photos.
        majority: the share of items on which more answers are for `towards` than for `other`.
        against: the share on which it is the other way round; the rest are ties.
    """

    condition: str
    towards: str
    other: str
    score: Interval
    n: int
    items: int
    majority: float
    against: float


@dataclass(frozen=True)
class Agreement(OneLineRepr):
    """How far people agree about the same items. NaN: not defined.

    An item of "which class" offers two classes of many: chance is ½ there, whatever is answered elsewhere, which only Randolph's kappa
    takes it for. Reliability has one scale for all items, and the others suit it.

    Attributes:
        question: which.
        items: with two answers or more.
        answers: to them.
        randolph: Randolph's kappa, of classes.
        nominal: Krippendorff's alpha of answers that are alike or not.
        ordinal: of answers in an order.
        interval: of answers as numbers.
        fleiss: Fleiss' kappa; NaN unless each item has as many answers.
    """

    question: Kind
    items: int
    answers: int
    randolph: float = float("nan")
    nominal: float = float("nan")
    ordinal: float = float("nan")
    interval: float = float("nan")
    fleiss: float = float("nan")


@dataclass(frozen=True)
class Answered(OneLineRepr):
    """One item.

    Attributes:
        item: what was asked about.
        n: answers.
        mean: the share of right ones; or the mean score towards `Trusted.towards`.
    """

    item: Item
    n: int
    mean: float


@dataclass(frozen=True)
class Findings(OneLineRepr):
    """A study's result.

    Attributes:
        plan: the study.
        people: who took part.
        accuracy: of "which class", by method.
        accuracy_differences: of each two methods.
        trust: by condition.
        trust_differences: of each two methods; none where methods themselves are compared.
        agreement: by question.
        items: one by one.
        folder: of the study, where its pictures are.
        resamples: of the bootstrap.
        seed: of its draws.
    """

    plan: Plan = field(repr=False)
    people: People
    accuracy: tuple[Accuracy, ...] = ()
    accuracy_differences: tuple[Difference, ...] = ()
    trust: tuple[Trusted, ...] = ()
    trust_differences: tuple[Difference, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    items: tuple[Answered, ...] = field(default=(), repr=False)
    folder: Path | None = None
    resamples: int = 0
    seed: int = 0

    @property
    def chance(self) -> dict[Kind, float]:
        """What mere chance would have, by question: the share of right answers, and the score."""
        options = [len(item.options) for item in self.plan.of("which_class", check=False) if item.options]
        by_question: dict[Kind, float] = {"which_class": float(np.mean([1 / count for count in options])) if options else 0.5, "trust": 0.0}
        return {block.kind: by_question[block.kind] for block in self.plan.blocks}

    def to_dict(self) -> dict[str, Any]:
        """For JSON; null where a figure is not known."""
        plan = self.plan
        better = {"better": plan.better or None, "better_by": BASES[plan.better_by]}
        study = {"title": plan.title, "id": plan.id, "passed": plan.passed, **better, "chance": self.chance, **plan.facts}
        items = [
            {"image": e.item.image, "question": e.item.kind, "condition": e.item.condition, "classes": e.item.options or [e.item.said]}
            | {"n": e.n, "mean": e.mean}
            for e in self.items
        ]
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("plan", "items", "folder")}
        return _plain({"study": study, **found, "items": items})  # type: ignore[no-any-return]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the findings: `.json`, or `.html`, one page that opens without a network.

        Raises:
            OptionError: for another suffix.
        """
        from lucidcam.outputs import html
        from lucidcam.study.show import page

        path = Path(path)
        _check_out(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            write_whole(path, json_text(self.to_dict(), indent=2, ensure_ascii=False).encode())
        else:
            html.write(page(self), path)
        return path


def _check_out(path: Path) -> None:
    from lucidcam.outputs.html import check_page

    if path.suffix.lower() not in (".json", ".html"):
        raise OptionError(f"expected a .json or .html file for a study's report; got {path.name}.")
    check_writable_file(path)
    if path.suffix.lower() == ".json":
        check_document(path, '"study": {', '"passed"')
    else:
        check_page(path)


def report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, resamples: int = 2000, seed: int = 0) -> Findings:
    """Judge the answers of a study; it may be going on.

    Args:
        folder: of the study.
        out: a `.json` or `.html` file to write, too.
        resamples: of the bootstrap over participants and photos.
        seed: of its draws.

    Raises:
        OptionError: the folder holds no study, or `out` has another suffix.
        DataError: nobody has answered yet.
    """
    if resamples < 0:
        raise OptionError(f"expected resamples ≥ 0; got {resamples}.")
    if out is not None:
        _check_out(Path(out))
    plan = read_plan(folder)
    root = Path(folder).expanduser()
    if not (root / ANSWERS).exists():
        raise DataError(f"nobody has answered yet: {root} has no {ANSWERS}; serve the study with `lucidcam study serve {root}`.")
    answers = Answers(root, plan, read_only=True)
    try:
        found = replace(judge(plan, answers.given(), answers.participants(), resamples, seed), folder=root)
    finally:
        answers.close()
    if out is not None:
        found.save(out)
    return found


def judge(plan: Plan, given: Sequence[Given], started: int, resamples: int = 2000, seed: int = 0) -> Findings:
    """Judge some answers to a plan."""
    people, kept = _kept(plan, given, started)
    counted = [each for each in given if (each.participant, each.item.kind) in kept and not each.item.check]
    kinds: tuple[Kind, ...] = ("which_class", "trust")
    tables = {kind: _Table.of([each for each in counted if each.item.kind == kind], resamples, seed) for kind in kinds}
    accuracy, accuracy_differences = _accuracy(tables["which_class"])
    trust, trust_differences = _trust(tables["trust"], plan)
    return Findings(
        plan=plan,
        people=people,
        accuracy=accuracy,
        accuracy_differences=accuracy_differences,
        trust=trust,
        trust_differences=trust_differences,
        agreement=tuple(_agreement(kind, [e for e in counted if e.item.kind == kind]) for kind, each in tables.items() if each.n),
        items=tuple(_answered(tables["which_class"], plan) + _answered(tables["trust"], plan)),
        resamples=resamples,
        seed=seed,
    )


def _kept(plan: Plan, given: Sequence[Given], started: int) -> tuple[People, set[tuple[int, Kind]]]:
    """Who counts for which question. Some of the checks say nothing yet: who clicks at random may stop after a lucky one."""
    answers: dict[int, list[Given]] = defaultdict(list)
    for answer in given:
        answers[answer.participant].append(answer)
    count = {who: len(own) for who, own in answers.items()}
    passed = {(who, kind): passes for who, own in answers.items() for kind, passes in judge_checks(plan, own).items()}
    done = passed.keys()
    kept = {place for place, passes in passed.items() if passes}
    people = {who for who, _ in kept}
    failed = {who for who, _ in done} - people
    seconds = [each.seconds for each in given if (each.participant, each.item.kind) in kept and each.seconds is not None]
    found = People(
        started=started,
        kept=len(people),
        failed=len(failed),
        unchecked=len(count) - len(people) - len(failed),
        silent=started - len(count),
        finished=sum(count[who] == plan.count for who in people),
        counted={block.kind: sum(kind == block.kind for _, kind in kept) for block in plan.blocks},
        luck=plan.luck(),
        seconds=float(np.median(seconds)) if seconds else float("nan"),
    )
    return found, kept


def judge_checks(plan: Plan, answers: Iterable[Given]) -> dict[Kind, bool]:
    """Whether one participant passes the checks of each question of which they answered all checks, and something at all."""
    checks: dict[Kind, list[bool]] = defaultdict(list)
    for answer in answers:
        checks[answer.item.kind] += [answer.value == answer.item.expected] if answer.item.check else []
    wanted = {block.kind: block.checks for block in plan.blocks}
    return {kind: plan.passes(sum(right), len(right)) for kind, right in checks.items() if len(right) == wanted[kind]}


@dataclass(frozen=True, eq=False)
class _Table:
    """Answers as columns."""

    values: Floats
    who: Any
    photo: Any
    item: Any
    items: list[Item]
    conditions: list[str]
    condition: Any
    draws: Draws

    @property
    def n(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, given: Sequence[Given], resamples: int, seed: int) -> _Table:
        people = sorted({each.participant for each in given})
        photos = sorted({each.item.image for each in given})
        items = list({each.item.id: each.item for each in given}.values())
        conditions = list(dict.fromkeys(each.condition for each in items))
        order = {each.id: k for k, each in enumerate(items)}
        return cls(
            values=np.array([each.value for each in given], np.float64),
            who=np.array([people.index(each.participant) for each in given], np.int64),
            photo=np.array([photos.index(each.item.image) for each in given], np.int64),
            item=np.array([order[each.item.id] for each in given], np.int64),
            items=items,
            conditions=conditions,
            condition=np.array([conditions.index(each.item.condition) for each in given], np.int64),
            draws=Draws.of(len(people), len(photos), resamples, seed),
        )

    def means(self, values: Floats, chosen: Any) -> Floats:
        return self.draws.means(values[chosen], self.who[chosen], self.photo[chosen])


def _accuracy(table: _Table) -> tuple[tuple[Accuracy, ...], tuple[Difference, ...]]:
    right = (table.values == 0).astype(np.float64)
    rows = []
    drawn: dict[str, tuple[Interval, Floats]] = {}
    for k, method in enumerate(table.conditions):
        chosen = table.condition == k
        n, hits = int(chosen.sum()), int(right[chosen].sum())
        samples = table.means(right, chosen)
        share = mean_interval(right[chosen], samples, 0, 1)
        drawn[method] = share, samples
        rows.append(Accuracy(method, hits, n, share, wilson(hits, n)))
    rows.sort(key=lambda row: (not isfinite(row.share.low), -row.share.value))  # first those of which something is known
    return tuple(rows), tuple(_differences(drawn))


def _differences(drawn: Mapping[str, tuple[Interval, Floats]]) -> Iterable[Difference]:
    ranked = sorted(drawn, key=lambda name: -drawn[name][0].value)
    for first, second in itertools.combinations(ranked, 2):
        (a, many), (b, others) = drawn[first], drawn[second]
        yield Difference(first, second, difference_interval(a, b, (many, others)))


def _trust(table: _Table, plan: Plan) -> tuple[tuple[Trusted, ...], tuple[Difference, ...]]:
    rows = []
    drawn: dict[str, tuple[Interval, Floats]] = {}
    for k, condition in enumerate(table.conditions):
        chosen = table.condition == k
        first, second = next(each.sides for each in table.items if each.condition == condition)
        towards, other, sign = (first, second, -1) if plan.better == first else (second, first, 1)
        values = table.values * sign
        n, samples = int(chosen.sum()), table.means(values, chosen)
        score = mean_interval(values[chosen], samples, min(ANSWERED["trust"]), max(ANSWERED["trust"]))
        drawn[condition] = score, samples
        own = np.unique(table.item[chosen])
        sums = np.array([np.sign(values[table.item == item]).sum() for item in own])
        majority, against = float((sums > 0).mean()), float((sums < 0).mean())
        rows.append(Trusted(condition, towards, other, score, n, len(own), majority, against))
    compared = {(each.towards, each.other) for each in rows}
    return tuple(rows), tuple(_differences(drawn)) if len(compared) == 1 else ()


def _answered(table: _Table, plan: Plan) -> list[Answered]:
    found = []
    for k, item in enumerate(table.items):
        values = table.values[table.item == k]
        sign = -1 if item.sides and plan.better == item.sides[0] else 1
        found.append(Answered(item, len(values), float(((values == 0) if item.kind == "which_class" else sign * values).mean())))
    return found


def _agreement(kind: Kind, given: Sequence[Given]) -> Agreement:
    items = {each.id: k for k, each in enumerate({g.item.id: g.item for g in given}.values())}
    people = {who: k for k, who in enumerate(sorted({each.participant for each in given}))}
    ratings = np.full((len(people), len(items)), np.nan)
    for each in given:
        ratings[people[each.participant], items[each.item.id]] = each.value
    counts = (ratings[:, :, None] == ANSWERED[kind]).sum(0)  # [items, what can be answered]
    rated = counts.sum(1)
    several = int((rated >= 2).sum()), int(rated[rated >= 2].sum())
    if kind == "which_class":
        return Agreement(kind, *several, randolph=randolph_kappa(counts))
    return Agreement(
        kind,
        *several,
        nominal=krippendorff_alpha(ratings),
        ordinal=krippendorff_alpha(ratings, "ordinal"),
        interval=krippendorff_alpha(ratings, "interval"),
        fleiss=fleiss_kappa(counts) if rated[0] >= 2 and (rated == rated[0]).all() else float("nan"),
    )


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
