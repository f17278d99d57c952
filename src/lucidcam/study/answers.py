"""Who is asked what, and what they answered: SQLite, one transaction for each step, nothing about the person."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidcam.errors import LucidcamError, OptionError
from lucidcam.study.plan import ANSWERED, ANSWERS, Block, Item, Plan

LEFT_OPEN = 3600.0
"""Seconds after which who was shown a question, and does nothing, may be taken for gone."""

PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS study (plan TEXT NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS participants (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    seed INTEGER NOT NULL,
    epoch INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
    participant INTEGER NOT NULL REFERENCES participants (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    token TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL,
    flipped INTEGER NOT NULL,
    answer INTEGER,
    seconds REAL,
    PRIMARY KEY (participant, position),
    UNIQUE (participant, item)
);
"""


class UnknownError(LucidcamError):
    """Nobody takes part under this token, or the question was not asked of them."""


class FullError(LucidcamError):
    """No more participants are let in."""


@dataclass(frozen=True)
class Task:
    """A question as one participant gets it.

    Attributes:
        token: random; an answer names it.
        number: from 1.
        item: what is asked about.
        flipped: options or sides have changed places.
    """

    token: str
    number: int
    item: Item
    flipped: bool


@dataclass(frozen=True)
class Given:
    """An answer.

    Attributes:
        participant: a number without a meaning.
        item: what was asked about.
        value: without the page's order, see `Item.canonical`; of a check for "trust" as it stood on the page.
        seconds: from when the question was first shown to the answer; None: the server was started anew between them.
    """

    participant: int
    item: Item
    value: int
    seconds: float | None


@dataclass(frozen=True)
class Participant:
    """What is known of one participant.

    Attributes:
        number: counts participants in the order in which they started; no number is given twice.
        is_idle: was not there in this hour of the study's use, nor in the one before.
        answers: in the order of the questions.
    """

    number: int
    is_idle: bool
    answers: tuple[Given, ...]


class Answers:
    """The answers of a study. Threads and processes may share them.

    Args:
        folder: of the study.
        plan: of the study.
        read_only: for a report, while a server may be writing.

    Raises:
        OptionError: the folder holds answers to another study, or they cannot be kept there, or read.
    """

    def __init__(self, folder: Path, plan: Plan, read_only: bool = False) -> None:
        self.plan = plan
        self._items = {each.id: each for each in plan.items}
        self._lock = threading.Lock()
        # When questions were first shown, by their tokens. Not in the file: the time of day might tell who it was.
        self._shown: dict[str, float] = {}
        self._epoch = -1, 0.0  # the last that was seen, and since when
        path = folder / ANSWERS
        address = path.resolve().as_uri() + ("?mode=ro" if read_only else "")
        try:
            self._base = sqlite3.connect(address, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
            if not read_only:
                self._prepare()
            found = self._base.execute("SELECT plan FROM study").fetchone()
        except sqlite3.Error as error:
            raise OptionError(f"answers cannot be {'read from' if read_only else 'kept in'} {path}: {error}.") from None
        if found != (plan.id,):
            self.close()
            raise OptionError(f"{path} holds answers to another study; take it away, or serve the study that it belongs to.")

    def _prepare(self) -> None:
        # WAL: readers do not wait. FULL: an answer is on the disk before the next question is shown. secure_delete: so that withdrawn
        # answers are overwritten, not only unlinked.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.executescript(SCHEMA)
        with self._transaction() as base:
            base.execute("INSERT INTO study SELECT ?, 0 WHERE NOT EXISTS (SELECT * FROM study)", (self.plan.id,))

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def start(self) -> str:
        """Let somebody in; returns their token, which is kept nowhere else.

        Raises:
            FullError: there are as many as the study wants.
        """
        token = secrets.token_urlsafe(32)
        with self._transaction() as base:
            now = self._now(base)
            if self._count(base) >= self.plan.participants:
                self._make_room(base, now)
            full = self._count(base) >= self.plan.participants
            if not full:
                values = _hash(token), secrets.randbits(62), now
                base.execute("INSERT INTO participants (token, seed, epoch) VALUES (?, ?, ?)", values)
        if full:
            raise FullError("The study has as many participants as it needs.")
        return token

    def known(self, token: str) -> bool:
        """Whether somebody takes part under this token."""
        with self._lock:
            return self._base.execute("SELECT 1 FROM participants WHERE token = ?", (_hash(token),)).fetchone() is not None

    def next(self, token: str) -> Task | None:
        """The question that is to be answered now; None: all are. The same one until it is answered.

        Of the items that a participant has not had, they get: first one about a photo that they have not seen; then of the method that
        they have had least; then the one that was asked least, of anybody; then by their own seed.

        Raises:
            UnknownError: nobody takes part under this token.
        """
        with self._transaction() as base:
            participant, seed = self._participant(base, token)
            now = self._now(base)
            base.execute("UPDATE participants SET epoch = ? WHERE id = ? AND epoch <> ?", (now, participant, now))
            had = base.execute(
                "SELECT position, item, token, flipped, answer FROM tasks WHERE participant = ? ORDER BY position", (participant,)
            ).fetchall()
            for position, item, own, flipped, answer in had:
                if answer is None:
                    return Task(own, position + 1, self._items[item], bool(flipped))
            if len(had) >= self.plan.count:
                return None
            position = len(had)
            item, flipped = self._choose(base, now, position, [self._items[each[1]] for each in had], seed)
            task = Task(secrets.token_urlsafe(16), position + 1, item, flipped)
            base.execute(
                "INSERT INTO tasks (participant, position, token, item, flipped) VALUES (?, ?, ?, ?, ?)",
                (participant, position, task.token, item.id, int(flipped)),
            )
            self._note_shown(base, task.token)
            return task

    def answer(self, token: str, task: str, value: int) -> bool:
        """Keep an answer. The first one stays: False, where there was one.

        Args:
            token: of the participant.
            task: of the question.
            value: as it stood on the page.

        Raises:
            UnknownError: nobody takes part under this token, or the question was not asked of them.
            OptionError: the value is none of those that can be answered.
        """
        with self._transaction() as base:
            participant, _ = self._participant(base, token)
            found = base.execute("SELECT item, answer FROM tasks WHERE participant = ? AND token = ?", (participant, task)).fetchone()
            if found is None:
                raise UnknownError("This question was not asked here.")
            if value not in ANSWERED[self._items[found[0]].kind]:
                raise OptionError("This cannot be answered to the question.")
            if found[1] is not None:
                return False
            shown = self._shown.get(task)
            seconds = None if shown is None else round(time.monotonic() - shown, 1)
            base.execute("UPDATE tasks SET answer = ?, seconds = ? WHERE token = ?", (value, seconds, task))
        self._shown.pop(task, None)
        return True

    def withdraw(self, token: str) -> bool:
        """Delete somebody with all that they answered; False, where nobody takes part under this token.

        The file is overwritten where it was; if another process is just reading, then after the next withdrawal, or when the last process
        closes the file.
        """
        with self._transaction() as base:
            found = base.execute("SELECT id FROM participants WHERE token = ?", (_hash(token),)).fetchone()
            if found is None:
                return False
            self._delete(base, found[0])
        with self._lock:
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log has what was deleted, too
        return True

    def remove(self, is_removed: Callable[[Participant], bool]) -> list[Participant]:
        """Delete the participants that meet a condition, with all that they answered, in one transaction; see `withdraw`.

        Args:
            is_removed: the condition. It is asked in the transaction: what happened before counts, and nothing happens meanwhile.

        Returns:
            Those who were deleted.
        """
        with self._transaction() as base:
            removed = [each for each in self._everybody(base) if is_removed(each)]
            for participant in removed:
                self._delete(base, participant.number)
        with self._lock:
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def everybody(self) -> list[Participant]:
        """All participants, in the order in which they started."""
        with self._lock:
            self._base.execute("BEGIN")  # one state of the file for all that is read
            try:
                return self._everybody(self._base)
            finally:
                self._base.execute("COMMIT")

    def given(self) -> list[Given]:
        """All answers, checks among them."""
        with self._lock:
            return self._given(self._base)

    def _everybody(self, base: sqlite3.Connection) -> list[Participant]:
        answers: dict[int, list[Given]] = defaultdict(list)
        for answer in self._given(base):
            answers[answer.participant].append(answer)
        epoch = base.execute("SELECT epoch FROM study").fetchone()[0]
        rows = base.execute("SELECT id, epoch FROM participants ORDER BY id").fetchall()
        return [Participant(number, seen < epoch - 1, tuple(answers[number])) for number, seen in rows]

    def _given(self, base: sqlite3.Connection) -> list[Given]:
        rows = base.execute(
            "SELECT participant, item, flipped, answer, seconds FROM tasks WHERE answer IS NOT NULL ORDER BY participant, position"
        ).fetchall()
        return [
            Given(who, item := self._items[name], item.canonical(answer, bool(flipped)), seconds)
            for who, name, flipped, answer, seconds in rows
        ]

    def participants(self) -> int:
        """How many take part, or took."""
        with self._lock:
            return self._count(self._base)

    def _count(self, base: sqlite3.Connection) -> int:
        return int(base.execute("SELECT COUNT(*) FROM participants").fetchone()[0])

    def _make_room(self, base: sqlite3.Connection, now: int) -> None:
        """Forget those who agreed and never answered, but for those who may be at it."""
        answered = "SELECT participant FROM tasks WHERE answer IS NOT NULL"
        for (who,) in base.execute(f"SELECT id FROM participants WHERE epoch < ? AND id NOT IN ({answered})", (now - 1,)).fetchall():
            self._delete(base, who)

    def _delete(self, base: sqlite3.Connection, participant: int) -> None:
        for (task,) in base.execute("SELECT token FROM tasks WHERE participant = ?", (participant,)):
            self._shown.pop(task, None)
        base.execute("DELETE FROM participants WHERE id = ?", (participant,))

    def _note_shown(self, base: sqlite3.Connection, task: str) -> None:
        if len(self._shown) > 2 * self.plan.participants:  # of participants that another process deleted
            is_open = {token for (token,) in base.execute("SELECT token FROM tasks WHERE answer IS NULL")}
            self._shown = {token: since for token, since in self._shown.items() if token in is_open}
        self._shown[task] = time.monotonic()

    def _now(self, base: sqlite3.Connection) -> int:
        """A counter that goes up once in `LEFT_OPEN` seconds at most, and only while the study is used.

        Processes share it: what has an epoch before the last one is older than `LEFT_OPEN`. It tells nobody the time of day.
        """
        epoch = int(base.execute("SELECT epoch FROM study").fetchone()[0])
        seen, since = self._epoch
        if epoch == seen and time.monotonic() - since >= LEFT_OPEN:
            epoch += 1
            base.execute("UPDATE study SET epoch = ?", (epoch,))
        if epoch != seen:
            self._epoch = epoch, time.monotonic()
        return epoch

    def _choose(self, base: sqlite3.Connection, now: int, position: int, had: list[Item], seed: int) -> tuple[Item, bool]:
        block, check = _place(self.plan, position, seed)
        rng = np.random.default_rng([seed, 1, position])
        flipped = bool(rng.integers(2))
        taken = {each.id for each in had}
        left = [each for each in self.plan.of(block.kind, check) if each.id not in taken]
        photos = {each.image for each in had if each.kind == block.kind}
        conditions = Counter(each.condition for each in had if each.kind == block.kind)
        asked = self._asked(base, now)
        drawn = rng.random(len(left))
        best = min(
            range(len(left)),
            key=lambda k: (left[k].image in photos, conditions[left[k].condition], asked.get(left[k].id, 0), drawn[k]),
        )
        item = left[best]
        return item, flipped and not (item.check and item.kind == "trust")  # its words name a side as it stands

    def _asked(self, base: sqlite3.Connection, now: int) -> dict[str, int]:
        """How often each item was answered, or may be just being answered."""
        counted = (
            "SELECT item, COUNT(*) FROM tasks JOIN participants ON participant = id WHERE answer IS NOT NULL OR epoch >= ? GROUP BY item"
        )
        return dict(base.execute(counted, (now - 1,)).fetchall())

    def _participant(self, base: sqlite3.Connection, token: str) -> tuple[int, int]:
        found = base.execute("SELECT id, seed FROM participants WHERE token = ?", (_hash(token),)).fetchone()
        if found is None:
            raise UnknownError("Nobody takes part from this browser.")
        return int(found[0]), int(found[1])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")


def _place(plan: Plan, position: int, seed: int) -> tuple[Block, bool]:
    """The question at a participant's position, and whether it is a check. The first check comes in the first half of a block."""
    for number, block in enumerate(plan.blocks):
        if position < block.count:
            rng = np.random.default_rng([seed, 0, number])
            checks: set[int] = set()
            if block.checks:
                first = int(rng.integers((block.count + 1) // 2))
                rest = [k for k in range(block.count) if k != first]
                checks = {first, *rng.choice(rest, block.checks - 1, replace=False).tolist()}
            return block, position in checks
        position -= block.count
    raise IndexError(position)


def _hash(token: str) -> str:
    """So that who reads the answers cannot go on in somebody's place."""
    return hashlib.sha256(token.encode()).hexdigest()
