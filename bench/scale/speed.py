"""Images per second of a run: beside the bare network, beside the bare decoder, on Ray beside on this machine."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

import lucidcam
from lucidcam.benchmark.timing import Ratio
from lucidcam.data import Dataset, open_data
from lucidcam.localization.regions import Regions
from lucidcam.pipeline.hands import Hands
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.map_writer import read
from lucidcam.samples import Problem, Sample
from lucidcam.types import Model
from report import table
from scale.apart import Apart, records, waited
from scale.fodder import network, photos

TOGETHER = 8
"""Images in the network together, as `lucidcam.run` takes them on a processor."""

Samples = list[Sample | Problem]


def verdict(share: Ratio, least: float) -> str:
    """Whether a target holds: the median decides, the spread says how surely."""
    return "holds" if share.median >= least else "**misses**"


# ------------------------------------------------------------------------------------------------------------------- throughput


@dataclass(frozen=True)
class Turn:
    """Some images by the run, or by the bare network.

    Attributes:
        cpu: processor seconds.
        free: seconds on the clock, without those that the first thread was ready and had no core.
        wall: seconds on the clock.
    """

    cpu: float
    free: float
    wall: float

    @classmethod
    def since(cls, mark: Turn, own: bool = False) -> Turn:
        """From a mark till now; `own`: this thread's processor time."""
        now = cls.now(own)
        return cls(now.cpu - mark.cpu, now.free - mark.free, now.wall - mark.wall)

    @classmethod
    def now(cls, own: bool = False) -> Turn:
        """A mark."""
        wall = time.perf_counter()
        return cls(time.thread_time() if own else time.process_time(), wall - waited(os.getpid()), wall)


def throughput(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> str:
    """A run with gradcam against the bare forward pass, taking turns within one run."""
    rows = []
    for name in options.networks:
        model = network(name)
        unit = TOGETHER * (8 if name == "demo" else 4)
        samples = list(open_data(photos(folder / name, unit * options.turns, options.data)))
        asked = {"target": "predicted", "unit": unit, "images_at_once": TOGETHER, "progress": False}
        cached = {"cache": folder / f"{name}-cache"}
        lucidcam.run(model, Dataset("photos", "images", partial(iter, samples), len(samples)), folder / f"{name}-first", **asked, **cached)
        batch, bare = _bare(model, samples[:unit])
        ways: dict[str, dict[str, Any]] = {
            "photos, `decoders=1`": {"decoders": 1},
            "photos, all in one process": {"decoders": 0},
            "a second run with a cache": {"decoders": 0, **cached},
        }
        for title, way in ways.items():
            say(f"throughput: {name}: {title}")
            ran, base = _turns(model, samples, folder / f"{name}-out-{len(rows)}", {**asked, **way}, bare)
            cpu, free, wall = (
                _shares([getattr(each, clock) for each in ran], [getattr(each, clock) for each in base])
                for clock in ("cpu", "free", "wall")
            )
            rates = [f"{unit / statistics.median(each.cpu for each in turns):.1f}" for turns in (base, ran)]
            rows.append([f"{name}, {title}", *rates, str(cpu), str(free), str(wall), verdict(free, 0.85) if way == {"decoders": 1} else ""])
        say(f"throughput: {name}: the bare network's best batch is {batch}")
    return "\n\n".join(
        [
            "### Run against the bare network",
            "`lucidcam.run` with gradcam beside plain forward passes of the same optimised copy over tensors in memory (the "
            f"best of batches of 1 to {TOGETHER}); one thread each. They take turns within one run, a unit of images each, so that its "
            f"start does not count; {options.turns - 2} turns. Share: images/s of the run by those of the bare forward pass before and "
            "after it, median and quartiles; by processor time of the process with the network, its writing thread included; by the clock "
            "without the time that its first thread was ready and had no core, since other work was on the machine; and by the wall. "
            "Target: ≥ 0.85 by the second, where decoding is not the limit: another process reads the photos and finishes the maps. "
            "For information: all in one process; and a second run over the same images, which takes their tensors and activations from "
            "the cache.",
            table(["", "bare, images/s", "run, images/s", "share, processor", "without waits for a core", "wall", ""], rows),
        ]
    )


def _bare(model: Model, samples: Samples) -> tuple[int, Callable[[], object]]:
    """The bare forward pass over some images at its best batch size."""
    module = lucidcam.optimize(model).module
    tensors = torch.stack([each.tensor for each in model.prepare([each.image for each in samples if isinstance(each, Sample)])])

    def forward(batch: int, count: int | None = None) -> None:
        with torch.inference_mode():
            for part in tensors[:count].split(batch):
                module(part)

    seconds: dict[int, list[float]] = {batch: [] for batch in (1, 2, 4, TOGETHER)}
    for _ in range(4):
        for batch, found in seconds.items():
            start = time.thread_time()
            forward(batch, TOGETHER)
            found.append(time.thread_time() - start)
    best = min(seconds, key=lambda batch: min(seconds[batch][1:]))
    return best, lambda: forward(best)


def _turns(model: Model, samples: Samples, out: Path, asked: dict[str, Any], bare: Callable[[], object]) -> tuple[list[Turn], list[Turn]]:
    """A run that stops before every unit, while the bare network has its turn; seconds of both. The first and last unit do not count."""
    ran: list[Turn] = []
    base: list[Turn] = []
    mark: Turn | None = None

    def stream() -> Iterator[Sample | Problem]:
        nonlocal mark
        for i, sample in enumerate(samples):
            if i and i % asked["unit"] == 0:
                if mark is not None:
                    ran.append(Turn.since(mark))
                before, own = Turn.now(), Turn.now(own=True)
                bare()
                base.append(Turn.since(own, own=True))
                mark = replace(Turn.now(), cpu=before.cpu + base[-1].cpu)  # what the run's other threads took meanwhile counts for the run
            yield sample

    lucidcam.run(model, Dataset("photos", "images", stream, len(samples)), out, **asked)
    return ran, base


def _shares(ran: Sequence[float], base: Sequence[float]) -> Ratio:
    """The mean of the base's neighbouring turns by each turn."""
    return Ratio(tuple(sorted((before + after) / 2 / each for each, (before, after) in zip(ran, pairwise(base), strict=True))))


# ---------------------------------------------------------------------------------------------------------------------- decoder


@dataclass(frozen=True)
class Decoded:
    """What a decoding process did: images, seconds on the clock, without those it waited for a core, and of processor time."""

    images: int
    wall: float
    free: float
    cpu: float


class _Meter:
    """Takes the times of another process."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.start = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = self.process.cpu_times()
        return time.perf_counter(), waited(self.process.pid), times.user + times.system

    def read(self, images: int) -> Decoded:
        """What it did since the meter was made."""
        wall, starved, cpu = (now - then for now, then in zip(self._now(), self.start, strict=True))
        return Decoded(images, wall, wall - starved, cpu)


def prepare_only(job: Job, samples: Sequence[Sample | Problem]) -> int:
    """Prepare images, and keep none."""
    return len(read(job, samples).found)


def decoder(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> str:
    """A run with one decoder and a network that costs next to nothing, against a process that only prepares the images."""
    model = network("means")
    unit = 16 * TOGETHER
    count = unit * max(4, round(8 * options.share))
    samples = list(open_data(photos(folder / "photos", count, options.data)))
    job = Job(out="", model=model, method="gradcam", options={}, regions=Regions(), images_at_once=TOGETHER, decoders=1)
    hands = Hands(1, job.without_network())
    try:
        hands.begin(prepare_only, samples[:TOGETHER]).result()
        [base] = _decoders(set())
        bare, ran = [_alone(hands, base, samples)], []
        for repeat in range(options.repeats):
            say(f"decoder: {repeat + 1} of {options.repeats}")
            ran.append(_beside(model, samples, folder / f"out-{repeat}", unit, base))
            bare.append(_alone(hands, base, samples))
    finally:
        hands.close()
    pairs = list(zip(ran, pairwise(bare), strict=True))

    def shares(clock: str) -> Ratio:
        def per_image(each: Decoded) -> float:
            return float(getattr(each, clock)) / each.images

        return Ratio(tuple(sorted((per_image(before) + per_image(after)) / 2 / per_image(each) for each, (before, after) in pairs)))

    def row(title: str, found: list[Decoded]) -> list[str]:
        free, wall = (statistics.median(each.images / getattr(each, clock) for each in found) for clock in ("free", "wall"))
        cpu = statistics.median(1e3 * each.cpu / each.images for each in found)
        return [title, f"{free:.1f}", f"{wall:.1f}", f"{cpu:.2f}"]

    free, wall = shares("free"), shares("wall")
    return "\n\n".join(
        [
            "### Run against the decoder",
            f"{count} photos, a network that costs next to nothing, `decoders=1`, beside one process that prepares the same photos and "
            f"keeps none; {options.repeats} repeats, the bare decoder before and after each, the run's start left out. The clock leaves "
            "out the time that the decoding process was ready and had no core, since other work on the machine has it wait; the next "
            "column has the wall's.",
            table(
                ["", "images/s", "images/s, wall", "decoding process, ms of processor per image"],
                [row("decoder alone", bare), row("run", ran)],
            ),
            f"The run's share of the decoder's rate: {free} (wall: {wall}); target ≥ 0.90: {verdict(free, 0.9)}. In the run the decoding "
            "process also hands the images over.",
        ]
    )


def _decoders(known: set[int]) -> list[psutil.Process]:
    """Processes of this one's pools, without the known."""
    found = []
    for each in psutil.Process().children():
        try:
            if each.pid not in known and "--multiprocessing-fork" in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def _alone(hands: Hands, process: psutil.Process, samples: Samples) -> Decoded:
    meter = _Meter(process)
    waiting = [hands.begin(prepare_only, samples[i : i + TOGETHER]) for i in range(0, len(samples), TOGETHER)]
    return meter.read(sum(each.result() for each in waiting))


def _beside(model: Model, samples: Samples, out: Path, unit: int, base: psutil.Process) -> Decoded:
    """From the third unit's first image to the last unit's."""
    meter: _Meter | None = None
    found: Decoded | None = None

    def stream() -> Iterator[Sample | Problem]:
        nonlocal meter, found
        for i, sample in enumerate(samples):
            if i == 2 * unit:
                [process] = _decoders({base.pid})
                meter = _Meter(process)
            elif i == len(samples) - unit and meter is not None:
                found = meter.read(i - 2 * unit)
            yield sample

    asked: dict[str, Any] = {"target": "predicted", "unit": unit, "images_at_once": TOGETHER, "decoders": 1, "progress": False}
    lucidcam.run(model, Dataset("photos", "images", stream, len(samples)), out, **asked)
    assert found is not None
    return found


# -------------------------------------------------------------------------------------------------------------------------- ray


@dataclass(frozen=True)
class Pace:
    """What a run sustained between its first units and its last.

    Attributes:
        rate: images/s.
        cpu: processor seconds of all its processes per image.
    """

    rate: float
    cpu: float


def ray(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> str:
    """Two workers on Ray against two processes of this machine."""
    unit, count = 2 * TOGETHER, 2 * TOGETHER * max(10, round(40 * options.share))
    asked = {
        "network": "demo",
        "photos": str(photos(folder / "photos", count, options.data)),
        "unit": unit,
        "images_at_once": TOGETHER,
        "workers": 2,
    }
    found: dict[str, list[Pace]] = {"local": [], "ray": []}
    order = ["local", *["ray", "local"] * options.repeats]
    for number, engine in enumerate(order):
        found[engine].append(_pace(Apart(folder / f"out-{number}", {**asked, "engine": engine}), unit))
        say(f"ray: {engine}: {found[engine][-1].rate:.1f} images/s, {1e3 * found[engine][-1].cpu:.1f} ms of processor per image")
    local = list(pairwise(found["local"]))
    rate = Ratio(tuple(sorted(2 * each.rate / (a.rate + b.rate) for each, (a, b) in zip(found["ray"], local, strict=True))))
    cpu = Ratio(tuple(sorted((a.cpu + b.cpu) / 2 / each.cpu for each, (a, b) in zip(found["ray"], local, strict=True))))
    rows = [
        [title, f"{statistics.median(each.rate for each in paces):.1f}", f"{1e3 * statistics.median(each.cpu for each in paces):.1f}"]
        for title, paces in (("2 processes", found["local"]), ("Ray, 2 workers", found["ray"]))
    ]
    return "\n\n".join(
        [
            "### Ray against processes",
            f"{count} photos, demo network, gradcam, units of {unit}; {options.repeats} runs on Ray, each between two local ones, on the "
            "same cores. Images/s between the fourth unit's record and the third last one's, so that no start counts; processor time is "
            "that of all processes of the run, Ray's own and the driver included.",
            table(["", "images/s", "ms of processor per image"], rows),
            f"Ray's share of the local images/s: {rate} in wall time, other work on the machine included: {verdict(rate, 0.9)} (≥ 0.90); "
            f"{cpu} by processor time, which is what decides where all cores are busy: {verdict(cpu, 0.9)}.",
        ]
    )


def _pace(run: Apart, unit: int) -> Pace:
    """Follow a run to its end."""
    seen = list(run.watch(0.25))
    stamps = sorted(path.stat().st_mtime for path in records(run.out))[3:-2]
    counted = [each for each in seen if 4 <= each.units <= len(stamps) + 3]
    first, last = counted[0], counted[-1]
    return Pace(unit * (len(stamps) - 1) / (stamps[-1] - stamps[0]), (last.cpu - first.cpu) / (unit * (last.units - first.units)))
