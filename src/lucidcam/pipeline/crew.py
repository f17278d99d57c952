"""Several workers on this machine, each a process; one that dies is replaced, and what it was at is done again."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

import torch.multiprocessing

from lucidcam.errors import DataError, LucidcamError, ModelError
from lucidcam.pipeline.hands import UNPICKLABLE, end_with_parent
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.ledger import Record
from lucidcam.pipeline.plan import Unit
from lucidcam.pipeline.worker import Tell, Worker
from lucidcam.utils.optional import Loaded

ASSIGNED = 2
"""Units a worker has at a time: the one it is at, and the next."""

TRIES = 3
"""Workers that may die at a unit, or be killed before they are ready, until the run stops."""


@dataclass(eq=False)
class _Member:
    """A process and what it was given; its answers come through its own pipe, so that a dying process takes no lock with it."""

    process: Any
    pipe: Connection
    assigned: deque[Unit] = field(default_factory=deque)
    ready: bool = False
    told_end: bool = False


def crew(jobs: list[Job], units: Iterable[Unit], tell: Tell) -> Iterator[Record]:
    """Do units by as many workers as there are jobs, which differ in the device only. Records come as units are done, in any order.

    Args:
        jobs: one per worker.
        units: taken as they are needed.
        tell: told how many images are done, as they are.

    Raises:
        LucidcamError: what a worker cannot go on with.
        DataError: when workers die at the same unit again and again.
    """
    if len(jobs) == 1:
        with Worker(jobs[0], alone=True) as worker:
            yield from worker(units, tell)
        return
    waiting: deque[Unit] = deque()
    rest = iter(units)
    deaths: Counter[int] = Counter()
    unready = 0  # workers killed one after the other before they were ready

    def following() -> Unit | None:
        return waiting.popleft() if waiting else next(rest, None)

    def feed(member: _Member) -> None:
        try:
            while len(member.assigned) < ASSIGNED and not member.told_end:
                unit = following()
                if unit is not None:
                    member.assigned.append(unit)
                member.told_end = unit is None
                member.pipe.send(unit)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died: its pipe says so when it is read

    members: dict[Connection, _Member] = {}
    jobs_of: dict[Connection, Job] = {}

    def hire(job: Job) -> None:
        member = _start(job)
        members[member.pipe], jobs_of[member.pipe] = member, job

    try:
        for job in jobs:
            hire(job)
        while members:
            for pipe in wait(list(members)):
                assert isinstance(pipe, Connection)
                member = members[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):
                    del members[pipe]
                    member.process.join()
                    if not member.ready:
                        unready += 1
                        if (member.process.exitcode or 0) >= 0 or unready >= TRIES:  # an error of its own comes again
                            raise _never_began(member) from None
                        hire(jobs_of[pipe])
                    elif member.assigned:
                        _count(member, deaths)
                        waiting.extendleft(reversed(member.assigned))
                        # Its successor reads images in a process of its own: what kills that one is a bad file, not the run.
                        hire(replace(jobs_of[pipe], decoders=max(1, jobs_of[pipe].decoders)))
                    continue
                if kind == "ready":  # what is sent to a process that reads nothing yet would make this one wait
                    member.ready, unready = True, 0
                    feed(member)
                elif kind == "record":
                    member.assigned.popleft()
                    feed(member)
                    yield value
                elif kind == "done":
                    tell(value)
                else:
                    raise value
    finally:
        for member in members.values():
            member.process.terminate()
        for member in members.values():
            member.process.join()


def _count(member: _Member, deaths: Counter[int]) -> None:
    unit = member.assigned[0]
    deaths[unit.number] += 1
    if deaths[unit.number] >= TRIES:
        code = member.process.exitcode
        raise DataError(
            f"the process that explains images {unit.start} to {unit.start + len(unit.samples) - 1} died {TRIES} times (exit code {code}"
            f"{', killed: out of memory?' if code == -9 else ''}); give less memory to it (max_memory, --max-memory), or leave these out."
        )


def _start(job: Job) -> _Member:
    context = torch.multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, Loaded(), job))
    try:
        process.start()
    except UNPICKLABLE as error:
        raise ModelError(f"the model cannot travel to other processes ({error}); run with workers=1.") from error
    finally:
        theirs.close()
    return _Member(process, ours)


def _never_began(member: _Member) -> LucidcamError:
    code = member.process.exitcode
    if code is not None and code < 0:
        return DataError(
            f"{TRIES} workers' processes, one after the other, were killed before they were ready (signal {-code}"
            f"{': out of memory?' if code == -9 else ''}); give fewer workers, or run with workers=1."
        )
    return ModelError(
        f"a worker's process ended before it began (exit code {member.process.exitcode}; its error is above): the model's classes must be "
        'importable, not defined in __main__ or a notebook, and a script that starts workers needs `if __name__ == "__main__":`. Or run '
        "with workers=1."
    )


def _work(pipe: Connection, _: Loaded, job: Job) -> None:
    """What a worker's process does."""
    end_with_parent()
    units: SimpleQueue[Unit | None] = SimpleQueue()

    def receive() -> None:
        with suppress(EOFError, OSError):
            while True:
                units.put(pipe.recv())

    threading.Thread(target=receive, daemon=True).start()
    try:
        pipe.send(("ready", None))
        with Worker(job) as worker:
            for record in worker(iter(units.get, None), lambda count: pipe.send(("done", count)), lambda: not units.empty()):
                pipe.send(("record", record))
    except LucidcamError as error:
        pipe.send(("error", error))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # nobody waits for this any more
    except Exception as error:
        pipe.send(("error", ModelError(f"a worker failed: {type(error).__name__}: {error}")))
