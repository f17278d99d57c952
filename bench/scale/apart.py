"""Runs in processes of their own, which are watched, measured and killed from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

POLL = 0.02
"""Seconds between two looks at a run."""


@dataclass(frozen=True)
class Seen:
    """A run at a moment.

    Attributes:
        units: that are done.
        wall: seconds, from any origin.
        cpu: processor seconds of all its processes that are alive.
        resident: bytes of all its processes together; shared pages count for each.
    """

    units: int
    wall: float
    cpu: float
    resident: int


class Apart:
    """`python bench/pipeline.py --one …` as the head of a process group of its own.

    Args:
        out: the run's folder.
        asked: what to run, for `--one`.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self.out = out
        self.began = time.monotonic()
        self.told = out.with_name(f"{out.name}.txt")
        script = Path(__file__).resolve().parents[1] / "pipeline.py"
        with self.told.open("wb") as told:
            command = [sys.executable, str(script), "--one", json.dumps({**asked, "out": str(out)})]
            self.process = subprocess.Popen(command, start_new_session=True, stdout=told, stderr=told)

    def units(self) -> int:
        """How many units are done."""
        return len(records(self.out))

    def tree(self) -> list[psutil.Process]:
        """All its processes."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def seen(self) -> Seen:
        """How it stands."""
        cpu, resident = 0.0, 0
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess), each.oneshot():
                times = each.cpu_times()
                cpu += times.user + times.system
                resident += each.memory_info().rss
        return Seen(self.units(), time.perf_counter(), cpu, resident)

    def watch(self, every: float = POLL) -> Iterator[Seen]:
        """How it stands, again and again, till it ends.

        Raises:
            RuntimeError: it failed.
        """
        while self.process.poll() is None:
            yield self.seen()
            time.sleep(every)
        self.ended()

    def ended(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.
        """
        if self.process.wait():
            raise RuntimeError(f"the run in {self.out} failed: {self.told.read_text(encoding='utf-8', errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End the whole group at once, as kill -9 does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def records(out: Path) -> list[Path]:
    """The records of the units that are done."""
    return sorted((out / "units").glob("*.json"))


def waited(pid: int) -> float:
    """Seconds that a process' first thread was ready to run and had no core; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
