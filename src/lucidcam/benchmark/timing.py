"""Ratios of run times that hold on a machine with other work to do."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from lucidcam.utils.rollback import Scope, closes_scopes

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


@dataclass(frozen=True)
class Stopwatch:
    """Takes the time of a step, all that it left to its device included.

    Attributes:
        device: where the step computes.
        clock: "wall", or "cpu": the processor time of this process, which other processes' turns do not count into.
    """

    device: torch.device
    clock: Clock = "wall"

    def seconds(self, step: Step) -> float:
        """Run a step once."""
        gc.collect()
        self._finish()
        now = CLOCKS[self.clock]
        start = now()
        step()
        self._finish()
        return now() - start

    @closes_scopes
    def beside(self, base: Step, step: Step, repeats: int = 1) -> tuple[list[float], list[float]]:
        """Run base, step, base, step, …, base.

        What slows the machine for longer than one run cancels in a step's ratio to the mean of its neighbours.

        Returns:
            For each repeat the step's ratio to the mean of the base before and after it, and the step's seconds.
        """
        with old_objects_aside():
            bases, took = [self.seconds(base)], []
            for _ in range(repeats):
                took.append(self.seconds(step))
                bases.append(self.seconds(base))
        return [2 * each / (before + after) for each, before, after in zip(took, bases, bases[1:], strict=False)], took

    def _finish(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@contextmanager
def old_objects_aside() -> Iterator[None]:
    """Within the block Python collects only garbage that is made there: looking at all modules again takes longer than a forward pass."""
    if gc.get_freeze_count():  # a block around this one has put them aside, or the user
        yield
        return
    gc.collect()
    with Scope() as scope:
        scope.undo(gc.unfreeze)
        gc.freeze()
        yield


@closes_scopes
def paired(
    base: Step, steps: Mapping[str, tuple[Step, int]], clock: Clock, told: Callable[[str], None], warm: bool = True
) -> tuple[dict[str, Ratio], float]:
    """Time steps on the CPU against a base that runs before and after each of them.

    A repeat goes through all steps: base, step 1, base, step 2, base, … Each step is divided by the mean of the base's runs before and
    after it, and the median over the repeats drops what disturbs a single run.

    Args:
        base: what the ratios are to.
        steps: by name a step and its repeats. A step that raises is told of and left out.
        clock: see `Stopwatch`.
        told: takes notices.
        warm: run everything once before it counts; not worth it where a step takes a minute.

    Returns:
        The ratios by name, and the base's median in seconds.
    """
    watch = Stopwatch(torch.device("cpu"), clock)
    live = dict(steps)
    found: dict[str, list[float]] = {name: [] for name in live}
    bases: list[float] = []

    def tried(name: str) -> float:
        try:
            return watch.seconds(live[name][0])
        except Exception as error:
            told(f"{name}: left out: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            del live[name], found[name]
            return float("nan")

    if warm:
        base()
        for name in steps:
            tried(name)
    with old_objects_aside():
        bases.append(watch.seconds(base))
        for repeat in range(max((repeats for _, repeats in live.values()), default=0)):
            for name, (_, repeats) in list(live.items()):
                if repeat < repeats:
                    seconds = tried(name)
                    bases.append(watch.seconds(base))
                    if name in found:
                        found[name].append(seconds / statistics.mean(bases[-2:]))
    return {name: Ratio(tuple(sorted(values))) for name, values in found.items()}, statistics.median(bases)
