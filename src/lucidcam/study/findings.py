"""What a study found: accuracy, trust, agreement, each with its interval; who was left out, and why."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.errors import DataError, OptionError
from lucidcam.storage import write_whole
from lucidcam.study.agreement import fleiss_kappa, krippendorff_alpha
from lucidcam.study.answers import Answers, Given
from lucidcam.study.plan import ANSWERS, Item, Kind, Plan
from lucidcam.study.plan import read as read_plan
from lucidcam.study.resampling import Draws, Floats, Interval, wilson


@dataclass(frozen=True)
class People:
    """Who took part.

    Attributes:
        started: agreed to take part, and did not withdraw.
        kept: their answers count.
        failed: too few of the checks that they answered are right.
        unchecked: stopped before their first check; nothing is known of them.
        finished: of those kept, answered all questions.
        luck: the probability that one who clicks at random passes all checks of the study.
        seconds: the median time of an answer, of those kept.
    """

    started: int
    kept: int
    failed: int
    unchecked: int
    finished: int
    luck: float
    seconds: float


@dataclass(frozen=True)
class Accuracy:
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
class Difference:
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
class Trusted:
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
    majority: Interval
    against: float


@dataclass(frozen=True)
class Agreement:
    """How far people agree about the same items. NaN: not defined.

    Attributes:
        question: which.
        items: with two answers or more.
        answers: to them.
        nominal: Krippendorff's alpha of answers that are alike or not.
        ordinal: of answers in an order; NaN for classes.
        interval: of answers as numbers; NaN for classes.
        fleiss: Fleiss' kappa; NaN unless each item has as many answers.
    """

    question: Kind
    items: int
    answers: int
    nominal: float
    ordinal: float
    interval: float
    fleiss: float


@dataclass(frozen=True)
class Answered:
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
class Findings:
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON; null where a figure is not known."""
        plan = self.plan
        study = {"title": plan.title, "id": plan.id, "passed": plan.passed, "better": plan.better or None, **plan.facts}
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
        if path.suffix not in (".json", ".html"):
            raise OptionError(f"expected a .json or .html file for a study's report; got {path.name}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            write_whole(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False).encode())
        else:
            html.write(page(self), path)
        return path


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
    plan = read_plan(folder)
    root = Path(folder).expanduser()
    if not (root / ANSWERS).exists():
        raise DataError(f"nobody has answered yet: {root} has no {ANSWERS}; serve the study with `lucidcam study serve {root}`.")
    answers = Answers(root, plan)
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
    counted = [each for each in given if each.participant in kept and not each.item.check]
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


def _kept(plan: Plan, given: Sequence[Given], started: int) -> tuple[People, set[int]]:
    checks: dict[int, list[bool]] = defaultdict(list)
    count = Counter(each.participant for each in given)
    for each in given:
        if each.item.check:
            checks[each.participant].append(each.value == each.item.expected)
    kept = {who for who, right in checks.items() if plan.passes(sum(right), len(right))}
    if not any(block.checks for block in plan.blocks):
        kept = set(count)
    failed = len(checks) - len(kept & set(checks))
    seconds = [each.seconds for each in given if each.participant in kept and each.seconds is not None]
    people = People(
        started=started,
        kept=len(kept),
        failed=failed,
        unchecked=started - len(kept) - failed,
        finished=sum(count[who] == plan.count for who in kept),
        luck=plan.luck(),
        seconds=float(np.median(seconds)) if seconds else float("nan"),
    )
    return people, kept


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
    drawn: dict[str, tuple[float, Floats]] = {}
    for k, method in enumerate(table.conditions):
        chosen = table.condition == k
        n, hits = int(chosen.sum()), int(right[chosen].sum())
        drawn[method] = hits / n, table.means(right, chosen)
        rows.append(Accuracy(method, hits, n, table.draws.interval(*drawn[method]), wilson(hits, n)))
    return tuple(sorted(rows, key=lambda row: -row.share.value)), tuple(_differences(table, drawn))


def _differences(table: _Table, drawn: Mapping[str, tuple[float, Floats]]) -> Iterable[Difference]:
    ranked = sorted(drawn, key=lambda name: -drawn[name][0])
    for first, second in itertools.combinations(ranked, 2):
        (a, many), (b, others) = drawn[first], drawn[second]
        yield Difference(first, second, table.draws.interval(a - b, many - others))


def _trust(table: _Table, plan: Plan) -> tuple[tuple[Trusted, ...], tuple[Difference, ...]]:
    rows = []
    drawn: dict[str, tuple[float, Floats]] = {}
    for k, condition in enumerate(table.conditions):
        chosen = table.condition == k
        first, second = next(each.sides for each in table.items if each.condition == condition)
        towards, other, sign = (first, second, -1) if plan.better == first else (second, first, 1)
        values = table.values * sign
        drawn[condition] = float(values[chosen].mean()), table.means(values, chosen)
        own = np.unique(table.item[chosen])
        sums = np.array([np.sign(values[table.item == item]).sum() for item in own])
        rows.append(
            Trusted(
                condition,
                towards,
                other,
                table.draws.interval(*drawn[condition]),
                int(chosen.sum()),
                len(own),
                table.draws.interval(float((sums > 0).mean()), _majorities(table, values, chosen)),
                float((sums < 0).mean()),
            )
        )
    compared = {(each.towards, each.other) for each in rows}
    return tuple(rows), tuple(_differences(table, drawn)) if len(compared) == 1 else ()


def _answered(table: _Table, plan: Plan) -> list[Answered]:
    found = []
    for k, item in enumerate(table.items):
        values = table.values[table.item == k]
        sign = -1 if item.sides and plan.better == item.sides[0] else 1
        found.append(Answered(item, len(values), float(((values == 0) if item.kind == "which_class" else sign * values).mean())))
    return found


def _majorities(table: _Table, values: Floats, chosen: Any) -> Floats:
    """The share of items whose majority is positive, in each bootstrap sample."""
    items, place = np.unique(table.item[chosen], return_inverse=True)
    votes = np.zeros((table.draws.people.shape[1], len(items)))
    np.add.at(votes, (table.who[chosen], place), np.sign(values[chosen]))
    answered = np.zeros_like(votes)
    np.add.at(answered, (table.who[chosen], place), 1)
    photo = np.zeros(len(items), np.int64)
    photo[place] = table.photo[chosen]
    weight = table.draws.photos[:, photo] * (table.draws.people @ answered > 0)
    with np.errstate(invalid="ignore"):
        return np.asarray((weight * (table.draws.people @ votes > 0)).sum(1) / weight.sum(1))


def _agreement(kind: Kind, given: Sequence[Given]) -> Agreement:
    """Classes are named: that all choose "horse" where it is shown and "person" where that is agrees by more than by one word."""
    items = {each.id: k for k, each in enumerate({g.item.id: g.item for g in given}.values())}
    people = {who: k for k, who in enumerate(sorted({each.participant for each in given}))}
    names = {name: k for k, name in enumerate(sorted({name for each in given for name in each.item.options}))}
    ratings = np.full((len(people), len(items)), np.nan)
    for each in given:
        value = names[each.item.options[each.value]] if kind == "which_class" else each.value
        ratings[people[each.participant], items[each.item.id]] = value
    rated = np.isfinite(ratings).sum(0)
    several = ratings[:, rated >= 2]
    ordered = kind == "trust"
    fleiss = float("nan")
    if len(set(rated.tolist())) == 1 and rated[0] >= 2:
        values = np.unique(ratings[np.isfinite(ratings)])
        fleiss = fleiss_kappa((ratings[:, :, None] == values).sum(0))
    return Agreement(
        question=kind,
        items=several.shape[1],
        answers=int(np.isfinite(several).sum()),
        nominal=krippendorff_alpha(ratings),
        ordinal=krippendorff_alpha(ratings, "ordinal") if ordered else float("nan"),
        interval=krippendorff_alpha(ratings, "interval") if ordered else float("nan"),
        fleiss=fleiss,
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
