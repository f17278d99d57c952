"""Ratios of run times that hold on a machine with other work to do, and peaks of resident memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Step = Callable[[], object]
Clock = Literal["wall", "cpu"]

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Ratio:
    """Ratios of a step's time to the base's, over all repeats.

    Attributes:
        values: one per repeat, sorted.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which the middle half lies; the extremes where there are fewer than four repeats."""
        if len(self.values) < 4:
            return self.values[0], self.values[-1]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        low, high = self.quartiles
        return f"{self.median:.2f} ({low:.2f}–{high:.2f})"


def paired(
    base: Step, steps: Mapping[str, tuple[Step, int]], clock: Clock, told: Callable[[str], None], warm: bool = True
) -> tuple[dict[str, Ratio], float]:
    """Time steps against a base that runs before and after each of them.

    A repeat goes through all steps: base, step 1, base, step 2, base, … Each step is divided by the mean of the base's runs before and
    after it, so what slows the machine for longer than one run cancels, and the median over the repeats drops what is shorter.

    Args:
        base: what the ratios are to.
        steps: by name a step and its repeats. A step that raises is told of and left out.
        clock: "wall", or "cpu": the processor time of this process, which other processes' turns do not count into.
        told: takes notices.
        warm: run everything once before it counts; not worth it where a step takes a minute.

    Returns:
        The ratios by name, and the base's median in seconds.
    """
    now = CLOCKS[clock]

    def timed(step: Step) -> float:
        gc.collect()
        start = now()
        step()
        return now() - start

    live = dict(steps)
    found: dict[str, list[float]] = {name: [] for name in live}
    bases: list[float] = []

    def tried(name: str) -> float:
        try:
            return timed(live[name][0])
        except Exception as error:
            told(f"{name}: left out: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            del live[name], found[name]
            return float("nan")

    if warm:
        base()
        for name in steps:
            tried(name)
    bases.append(timed(base))
    for repeat in range(max((repeats for _, repeats in live.values()), default=0)):
        for name, (_, repeats) in list(live.items()):
            if repeat < repeats:
                seconds = tried(name)
                bases.append(timed(base))
                if name in found:
                    found[name].append(seconds / statistics.mean(bases[-2:]))
    return {name: Ratio(tuple(sorted(values))) for name, values in found.items()}, statistics.median(bases)


def peak_of(step: Step) -> int:
    """Highest resident memory of this process, in bytes, while `step` runs.

    Linux alone can forget an earlier peak (`/proc/self/clear_refs`).

    Raises:
        OSError: on other systems.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    kept = step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    del kept
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
