"""What a study shows: items with their pictures, made beforehand and kept in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import ceil, comb
from pathlib import Path
from typing import Any, Literal

from lucidcam.errors import OptionError, first_line
from lucidcam.io.storage import json_text, parsed_json, write_whole
from lucidcam.reprs import OneLineRepr

PLAN = "plan.json"
PICTURES = "pictures"
ANSWERS = "answers.sqlite"
VERSION = 1

Kind = Literal["which_class", "trust"]
ANSWERED: Mapping[Kind, tuple[int, ...]] = {"which_class": (0, 1), "trust": (-2, -1, 0, 1, 2)}
"""What can be answered: which of the options, as they stand on the page; or from "A clearly" to "B clearly"."""


BETTER_BY = ("author", "accuracy", "")
"""How it may be known which model is better, see `Plan`."""


@dataclass(frozen=True)
class Item(OneLineRepr):
    """One thing that is asked about. Names of pictures, and its own, are random: they tell nothing.

    Attributes:
        id: its name.
        kind: the question.
        image: the photo's name; items about one photo hang together.
        condition: the method, or the pair of methods, whose explanation is shown.
        pictures: one for "which_class"; one of each side for "trust".
        photo: the photo itself; "": not shown.
        options: of "which_class": the class that is shown, or that a check asks for in words; then the other.
        sides: of "trust": whose explanations the pictures are.
        said: of "trust": the class that was predicted.
        expected: of a check: the right answer. For "which_class" 0, the first option; for "trust" the answer as it stands on the page.
        told: of a check: the answer that the page asks for in words; "": the picture itself is obvious.
    """

    id: str
    kind: Kind
    image: str
    condition: str
    pictures: tuple[str, ...]
    photo: str = ""
    options: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    said: str = ""
    expected: int | None = None
    told: str = ""

    @property
    def check(self) -> bool:
        """Whether its answer is obvious, and counts for nothing else."""
        return self.expected is not None

    def canonical(self, given: int, flipped: bool) -> int:
        """An answer from the page without the page's order: 0 the first option; or from −2 (clearly the first side) to 2."""
        if not flipped:
            return given
        return 1 - given if self.kind == "which_class" else -given


@dataclass(frozen=True)
class Block(OneLineRepr):
    """One question with its items.

    Attributes:
        kind: the question.
        items: questions of each participant that count.
        checks: questions with an obvious answer among them.
        ask: the question in words.
        help: a line below it.
        says: goes before the class that was predicted.
    """

    kind: Kind
    items: int
    checks: int
    ask: str
    help: str = ""
    says: str = ""

    @property
    def count(self) -> int:
        """Questions of each participant."""
        return self.items + self.checks


@dataclass(frozen=True)
class Plan(OneLineRepr):
    """A study, ready to be served.

    Attributes:
        id: random; answers belong to one plan.
        title: on every page.
        consent: what participants agree to.
        blocks: questions, in the order they are asked.
        items: all that can be asked about, checks among them.
        passed: the share of a question's checks that a participant has to pass.
        participants: no more are let in.
        better: of "trust" between models: the more accurate one; "": nobody knows.
        better_by: how that is known: "author", who named it in the config; "accuracy", measured on the labelled photos; "": not recorded.
        facts: models, their accuracy, methods, data, versions: for the report.
        problems: photos that could not be used, and why.
    """

    id: str
    title: str
    consent: str
    blocks: tuple[Block, ...]
    items: tuple[Item, ...] = field(repr=False)
    passed: float
    participants: int
    better: str = ""
    better_by: Literal["author", "accuracy", ""] = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Questions of each participant."""
        return sum(block.count for block in self.blocks)

    def of(self, kind: Kind, check: bool) -> list[Item]:
        """The items of a question that count, or its checks."""
        return [each for each in self.items if each.kind == kind and each.check == check]

    def passes(self, right: int, of: int) -> bool:
        """Whether so many right checks are enough."""
        return right >= needed(self.passed, of)

    def luck(self) -> dict[Kind, float]:
        """The probability that one who clicks at random passes the checks of each question."""
        found: dict[Kind, float] = {}
        for block in self.blocks:
            chance, of = 1 / len(ANSWERED[block.kind]), block.checks
            passing = range(needed(self.passed, of), of + 1)
            found[block.kind] = sum(comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in passing)
        return found

    def write(self, folder: Path) -> None:
        """Write the plan, whole or not at all."""
        content = {"version": VERSION, **asdict(self)}
        write_whole(folder / PLAN, json_text(content, indent=1, ensure_ascii=False).encode())


def needed(share: float, of: int) -> int:
    """How many checks of so many have to be right. 0.75 of 4 is 3, whatever floating point makes of it.

    >>> needed(0.75, 4), needed(0.7, 10), needed(0.75, 3)
    (3, 7, 3)
    """
    return ceil(Fraction(str(share)) * of)


def read(folder: str | os.PathLike[str]) -> Plan:
    """Read the plan that `make` wrote.

    Raises:
        OptionError: there is none in the folder, or it cannot be read.
    """
    path = Path(folder).expanduser() / PLAN
    try:
        found = parsed_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(f"{path.parent} holds no study; make one with `lucidcam study make CONFIG.toml --out {path.parent}`.") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.pop("version", None) != VERSION:
        raise OptionError(f"{path} is no plan of this version of lucidcam; make the study again.")
    try:
        blocks = tuple(Block(**each) for each in found.pop("blocks"))
        items = tuple(Item(**{name: _tuple(value) for name, value in each.items()}) for each in found.pop("items"))
        plan = Plan(blocks=blocks, items=items, **{name: _tuple(value) for name, value in found.items()})
        _check(plan)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path} is damaged ({type(error).__name__}: {first_line(error)}); make the study again.") from None
    return plan


def _check(plan: Plan) -> None:
    """Raise where a plan holds what `make` does not write."""
    if plan.better_by not in BETTER_BY or not isinstance(plan.better, str):
        raise ValueError("it does not say which model is better, and how that is known")
    if not isinstance(plan.facts, dict):
        raise ValueError("its facts are no names with values")
    for each in plan.blocks:
        if each.kind not in ANSWERED or not all(isinstance(number, int) and number >= 0 for number in (each.items, each.checks)):
            raise ValueError("a block is of no known kind, or counts no whole numbers")
    for item in plan.items:
        if item.kind not in ANSWERED or not isinstance(item.id, str) or not all(map(_is_name, (*item.pictures, item.photo))):
            raise ValueError("an item is of no known kind, or has no id, or pictures outside of the study's folder")


def _is_name(name: Any) -> bool:
    """Whether something is the name of a file in the folder of pictures; "": there is none."""
    return (isinstance(name, str) and name == Path(name).name.replace("\\", "").replace("\0", "")) or name == ""


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
