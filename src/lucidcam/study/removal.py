"""An operator removes participants who are a flood: who answered nothing, too quickly, or failed the checks."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from lucidcam.errors import DataError, OptionError
from lucidcam.reprs import OneLineRepr
from lucidcam.study.analysis import judge_checks
from lucidcam.study.answers import Answers, Participant
from lucidcam.study.plan import ANSWERS, Plan
from lucidcam.study.plan import read as read_plan

Numbers = tuple[tuple[int, int], ...]
"""Ranges of participants' numbers, both ends in them."""

REASONS = {
    "silent": "answered nothing",
    "unfinished": "did not answer all questions",
    "failed": "failed the checks",
    "quick": "answered too quickly",
}
"""Why a participant may be removed, in words."""

LARGEST_NUMBER = 2**63 - 1
"""Of SQLite."""


@dataclass(frozen=True, kw_only=True)
class Criteria(OneLineRepr):
    """Who is to be removed: those to whom one of the first four applies, if the last two apply, too.

    Attributes:
        silent: who answered nothing. Somebody who has just started, and is reading, is among them.
        unfinished: who did not answer all questions; the silent are among them.
        failed: who answered all checks of a question, and passed those of none: those that the report calls so.
        quicker: whose median time of an answer is less than so many seconds; None: not asked. Answers across a restart of the server
            have no time.
        numbers: only participants in these ranges, who started one after the other; where nothing else is asked for, all of them.
            Empty: whatever the number.
        idle: only who was not there in this hour of the study's use, nor in the one before.
    """

    silent: bool = False
    unfinished: bool = False
    failed: bool = False
    quicker: float | None = None
    numbers: Numbers = ()
    idle: bool = False

    def __post_init__(self) -> None:
        if self.quicker is not None and not self.quicker > 0:
            raise OptionError(f"expected quicker > 0, in seconds; got {self.quicker}.")

    @property
    def is_empty(self) -> bool:
        """Whether nobody is asked for."""
        return not (self.silent or self.unfinished or self.failed or self.quicker is not None or self.numbers)

    def reasons(self, participant: Participant, plan: Plan) -> list[str] | None:
        """Why a participant is to be removed, as in `REASONS`; without a word where their number alone is asked for. None: they stay."""
        if self.idle and not participant.is_idle:
            return None
        if self.numbers and not any(low <= participant.number <= high for low, high in self.numbers):
            return None
        known = reasons_of(participant, plan, self.quicker)
        asked = {"silent": self.silent, "unfinished": self.unfinished, "failed": self.failed, "quick": self.quicker is not None}
        reasons = [reason for reason in known if asked[reason]]
        return reasons if reasons or (self.numbers and not any(asked.values())) else None


@dataclass(frozen=True)
class Removal(OneLineRepr):
    """Who is removed, or would be.

    Attributes:
        participants: with their reasons, see `Criteria.reasons`, by number.
        answers: of theirs.
        started: participants before.
        runs: their numbers, as ranges of those who started one after the other with nobody who stays between them.
    """

    participants: Mapping[int, Sequence[str]]
    answers: int
    started: int
    runs: Numbers

    @property
    def counts(self) -> dict[str, int]:
        """Participants by reason; who has several counts for each."""
        return {reason: sum(reason in own for own in self.participants.values()) for reason in REASONS}


def reasons_of(participant: Participant, plan: Plan, quicker: float | None = None) -> list[str]:
    """What is wrong with a participant, as in `REASONS`."""
    answers = participant.answers
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    passed = judge_checks(plan, answers)
    true = {
        "silent": not answers,
        "unfinished": len(answers) < plan.count,
        "failed": bool(passed) and not any(passed.values()),
        "quick": quicker is not None and bool(seconds) and median(seconds) < quicker,
    }
    return [reason for reason in REASONS if true[reason]]


def find_removable(folder: str | os.PathLike[str], criteria: Criteria) -> Removal:
    """Find the participants that meet criteria; nothing is changed.

    Args:
        folder: of the study.
        criteria: empty: everybody with something wrong, for an overview; `idle` counts.

    Raises:
        OptionError: the folder holds no study, or its answers cannot be read.
        DataError: nobody has started yet.
    """
    asked = replace(criteria, silent=True, unfinished=True, failed=True) if criteria.is_empty else criteria
    with _answers_in(folder, read_only=True) as answers:
        everybody = answers.everybody()
        removed = [each for each in everybody if asked.reasons(each, answers.plan) is not None]
        return _removal(removed, everybody, asked, answers.plan)


def remove(folder: str | os.PathLike[str], criteria: Criteria, only: Collection[int] | None = None) -> Removal:
    """Remove the participants that meet criteria, with all that they answered. The study may be going on.

    Their browsers are led to the start page, where they may start anew. Nothing else is changed.

    Args:
        folder: of the study.
        criteria: must ask for somebody.
        only: numbers beyond which nobody is removed, such as those that somebody agreed to; None: no such bound.

    Raises:
        OptionError: the criteria ask for nobody, the folder holds no study, or its answers cannot be changed.
        DataError: nobody has started yet.
    """
    if criteria.is_empty:
        raise OptionError("expected somebody to be removed: silent, unfinished, failed, quicker or numbers.")
    with _answers_in(folder, read_only=False) as answers:
        everybody: list[Participant] = []

        def is_removed(participant: Participant) -> bool:
            everybody.append(participant)
            return (only is None or participant.number in only) and criteria.reasons(participant, answers.plan) is not None

        removed = answers.remove(is_removed)
        return _removal(removed, everybody, criteria, answers.plan)


def parse_numbers(text: str) -> Numbers:
    """Ranges of numbers from their text.

    Raises:
        OptionError: it is none.

    >>> parse_numbers("12-340, 500")
    ((12, 340), (500, 500))
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})\s*(?:[-–]\s*([0-9]{1,19})\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise OptionError(f"expected participants' numbers such as 12-340 or 7,9; got {text!r}.")
        ranges.append((low, min(high, LARGEST_NUMBER)))
    return tuple(ranges)


@contextmanager
def _answers_in(folder: str | os.PathLike[str], read_only: bool) -> Iterator[Answers]:
    plan, root = read_plan(folder), Path(folder).expanduser()
    path = root / ANSWERS
    if not path.exists():
        raise DataError(f"nobody has started yet: {root} has no {ANSWERS}; serve the study with `lucidcam study serve {root}`.")
    answers = Answers(root, plan, read_only)
    try:
        yield answers
    except sqlite3.Error as error:
        raise OptionError(f"answers cannot be {'read from' if read_only else 'removed from'} {path}: {error}.") from None
    finally:
        answers.close()


def _removal(removed: Sequence[Participant], everybody: Sequence[Participant], criteria: Criteria, plan: Plan) -> Removal:
    reasons = {each.number: criteria.reasons(each, plan) or [] for each in removed}
    runs: list[tuple[int, int]] = []
    was_removed = False
    for number in (each.number for each in everybody):
        if number in reasons:
            runs[-1:] = [(runs[-1][0], number)] if was_removed else [*runs[-1:], (number, number)]
        was_removed = number in reasons
    return Removal(reasons, sum(len(each.answers) for each in removed), len(everybody), tuple(runs))
