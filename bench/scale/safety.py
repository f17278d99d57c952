"""What a run survives, and the memory it takes."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lucidcam.pipeline.results import Results
from report import table
from scale.apart import Apart, Seen, records
from scale.fodder import crops

SIDE = 64
"""Of the small pictures, and of the demo network's input where many images matter more than what they show."""

ENDED = 5
"""Times that a run may give up before this does."""

Say = Callable[[str], None]

# ------------------------------------------------------------------------------------------------------------------------ kills


@dataclass(frozen=True)
class Survived:
    """What became of a run that was killed.

    Attributes:
        kills: how many.
        ended: how often the run ended with an error by itself, and was begun again.
        equal: files that are equal to those of the undisturbed run, to the byte.
        other: files that differ, are missing, or are too many.
        again: units that were done, and done again.
        once: whether every sample is in the index once.
    """

    kills: int
    ended: int
    equal: int
    other: int
    again: int
    once: bool

    def row(self, title: str) -> list[str]:
        """A row of the table."""
        counts = [str(each) for each in (self.kills, self.ended, self.equal, self.other, self.again)]
        holds = self.once and not (self.ended or self.other or self.again)
        return [title, *counts, "yes" if self.once else "no", "holds" if holds else "**misses**"]


def kills(options: argparse.Namespace, folder: Path, say: Say) -> str:
    """Runs killed at random moments end with the files of one that was left alone."""
    count, unit = max(60, round(2000 * options.share)), 10
    asked: dict[str, Any] = {
        "network": "demo",
        "side": SIDE,
        "photos": str(crops(folder / "photos", count, SIDE, options.data)),
        "unit": unit,
        "write": ["npz", "zarr"],
        "workers": 2,
    }
    whole = Apart(folder / "whole", asked)
    seen = list(whole.watch(0.1))
    start = next(each.wall for each in seen if each.units) - seen[0].wall
    say(f"kills: undisturbed, {seen[-1].wall - seen[0].wall:.0f} s, the first unit after {start:.0f} s")
    rows = []
    for title, disturbed in (("processes, all killed", _processes), ("Ray, actors killed", _actors)):
        if options.engines and title.split(",")[0].lower() not in options.engines:
            continue
        draw = random.Random(options.seed)
        out = folder / title.split(",")[0]
        before, done, ended = disturbed(out, asked, count // unit, start, options.kills, draw, say)
        rows.append(_compared(folder / "whole", out, done, ended, before).row(title))
        say(" | ".join(rows[-1]))
    return "\n\n".join(
        [
            "### Killed at random moments",
            f"{count} pictures of {SIDE}², demo network at {SIDE}², units of {unit}, maps as npz and zarr, two workers. *Processes*: the "
            "whole process group gets SIGKILL at random moments of start, work and writing, and is started again with the same command. "
            "*Ray*: a random actor gets SIGKILL at random moments of one run; Ray replaces it. Then all files are compared with those of a "
            "run of two processes that was left alone. *Ended by itself*: with an error, and begun again. *Done twice*: units whose record "
            "was there before a kill, and was written anew.",
            table(["", "kills", "ended by itself", "files equal to the byte", "other", "units done twice", "each image once", ""], rows),
        ]
    )


def _processes(
    out: Path, asked: dict[str, Any], units: int, start: float, count: int, draw: random.Random, say: Say
) -> tuple[dict[str, int], int, int]:
    """Kill the whole run, again and again; gives when each unit was first done, how often it was killed, and how often it gave up."""
    before: dict[str, int] = {}
    kills = 0
    while True:
        run = Apart(out, asked)
        known = len(records(out))
        more = _more(draw, units - known, count - kills)
        late = draw.random() * (start if more == 0 else 0.3)  # one kill in so many comes while the run starts
        while run.process.poll() is None and kills < count:
            if len(records(out)) >= known + more:
                time.sleep(late)
                break
            time.sleep(0.005)
        if run.process.poll() is None and kills < count:
            run.kill()
            kills += 1
            for path in records(out):
                before.setdefault(path.name, path.stat().st_mtime_ns)
            say(f"kills: {kills}: {len(before)} of {units} units done")
        else:
            run.ended()
            return before, kills, 0


def _actors(
    out: Path, asked: dict[str, Any], units: int, start: float, count: int, draw: random.Random, say: Say
) -> tuple[dict[str, int], int, int]:
    """Kill Ray's actors, one at a time, while the run goes on."""
    run = Apart(out, {**asked, "engine": "ray"})
    before: dict[str, int] = {}
    kills = ended = 0
    due = _more(draw, units, count)
    while (code := run.process.poll()) is None or code:
        if code:
            ended += 1
            say(f"kills: ray: ended by itself: {run.told.read_text(encoding='utf-8', errors='replace').strip().splitlines()[-1]}")
            if ended > ENDED:
                run.ended()
            run = Apart(out, {**asked, "engine": "ray"})
        time.sleep(0.01)
        for path in records(out):
            with contextlib.suppress(FileNotFoundError):
                before.setdefault(path.name, path.stat().st_mtime_ns)
        if kills < count and len(before) >= due:
            time.sleep(draw.random() * 0.3)
            actors = [each for each in run.tree() if _is_actor(each)]
            if actors:
                with contextlib.suppress(psutil.NoSuchProcess):
                    draw.choice(actors).kill()
                    kills += 1
                    say(f"kills: ray: {kills}: {len(before)} of {units} units done")
                due = len(before) + _more(draw, units - len(before), count - kills)
    return before, kills, ended


def _more(draw: random.Random, units: int, kills: int) -> int:
    """After how many more units to kill, so that the kills that are left spread over the units that are left."""
    return draw.randint(0, max(1, 2 * units // (kills + 1) - 1))


def _is_actor(process: psutil.Process) -> bool:
    try:
        return "MapWorker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _compared(whole: Path, killed: Path, kills: int, ended: int, before: dict[str, int]) -> Survived:
    expected, found = _digests(whole), _digests(killed)
    equal = sum(found.get(name) == digest for name, digest in expected.items())
    again = sum((killed / "units" / name).stat().st_mtime_ns != stamp for name, stamp in before.items())
    rows = [row["sample"] for row in Results(killed).rows()]
    failed = [each["sample"] for each in Results(killed).failures()]
    once = sorted([*rows, *failed]) == list(range(sum(each["samples"] for each in Results(whole).manifest["units"])))
    return Survived(kills, ended, equal, len(expected.keys() | found.keys()) - equal, again, once)


def _digests(folder: Path) -> dict[str, str]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): hashlib.blake2b(each.read_bytes()).hexdigest() for each in files}


# ----------------------------------------------------------------------------------------------------------------------- memory


def memory(options: argparse.Namespace, folder: Path, say: Say) -> str:
    """Resident memory of a run, own and children, after few and many images."""
    count, unit = max(200, round(10_000 * options.share)), 50
    asked: dict[str, Any] = {
        "network": "demo",
        "side": SIDE,
        "photos": str(crops(folder / "photos", count, SIDE, options.data)),
        "unit": unit,
        "decoders": 1,
    }
    seen: list[Seen] = []
    for each in Apart(folder / "out", asked).watch(0.5):
        if not seen or each.units // 20 > seen[-1].units // 20:
            say(f"memory: {each.units * unit} images, {each.resident / 2**20:.0f} MiB")
        seen.append(each)
    marks = [count * share // 100 for share in (10, 20, 40, 60, 80, 100)]
    values = [_around(seen, mark // unit, count // unit) for mark in marks]
    difference = (values[-1] - values[0]) / 2**20
    per_image = (values[-1] - values[0]) / (marks[-1] - marks[0])
    flat = difference <= 0.02 * values[0] / 2**20
    return "\n\n".join(
        [
            "### Memory of a run",
            f"{count} pictures of {SIDE}², demo network at {SIDE}², gradcam, one worker and one decoder; resident memory of all processes, "
            "pages that they share counted for each. Median over the twentieth of the images before each mark.",
            table(["images", *[f"{mark:,}" for mark in marks]], [["MiB", *[f"{value / 2**20:.0f}" for value in values]]]),
            f"From {marks[0]:,} to {marks[-1]:,} images: {difference:+.1f} MiB, {per_image:+.0f} bytes per image. Flat, to 2 %: "
            f"{'holds' if flat else '**misses**'}.",
        ]
    )


def _around(seen: list[Seen], unit: int, units: int) -> float:
    """Median memory while the units before this one were done."""
    return statistics.median(each.resident for each in seen if unit - max(1, units // 20) <= each.units <= unit and each.units)
