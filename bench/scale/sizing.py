"""What each stage of a run takes, and what follows for clusters."""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import resource
import statistics
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lucidcam
from lucidcam import registry
from lucidcam.data import open_data
from lucidcam.io.storage import Store, open_store
from lucidcam.localization.regions import Regions
from lucidcam.pipeline import ledger
from lucidcam.pipeline.index import encoded
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.ledger import Record
from lucidcam.pipeline.map_writer import Finished, finish, made, read
from lucidcam.pipeline.plan import Unit, units
from lucidcam.pipeline.run import UNIT
from lucidcam.pipeline.scale import WAVE
from lucidcam.samples import Problem, Sample
from lucidcam.stream.explainer import Ready
from report import table, write_section
from scale.apart import Apart
from scale.fleet import Costs, Fleet, Outcome, simulated
from scale.fodder import crops, network, photos

TOGETHER = 8
"""Images in the network together, as `lucidcam.run` takes them on a processor."""

IMAGES = 10**9
CORES = (16, 256, 4096)
UNITS = (128, 512, 2048, 8192)
SIDES = (16, 64)
"""Runs side by side, each over a part of the data and of the largest cluster, in the simulation's last rows."""

Say = Callable[[str], None]
Times = dict[str, float]


@functools.cache
def _measured(name: str, data: Path | None, share: float, temporary: Path | None, say: Say) -> tuple[Times, Costs]:
    """Seconds of a worker per image by stage, and all that the simulation needs."""
    with tempfile.TemporaryDirectory(dir=temporary, ignore_cleanup_errors=True) as folder:
        return _measure(name, data, share, Path(folder), say)


def _measure(name: str, data: Path | None, share: float, place: Path, say: Say) -> tuple[Times, Costs]:
    say(f"stages: {name}")
    times, kept, write_unit = _worker(name, place, data, max(4, round(64 * share)))
    say("stages: the driver")
    listing, held = _listing(place, data, max(1000, round(20_000 * share)))
    summing, record = _summing(place / "records", max(50, round(1000 * share)), kept["files"])
    say("stages: a start, and Ray")
    start = _start(name, place, data, sum(times.values()))
    handing = _handing(place, data, max(40, round(600 * share))) if find_spec("ray") else 0.0
    times = {"listing": listing["a folder"], **times}
    costs = Costs(
        image=sum(times.values()) - times["listing"],
        unit=write_unit,
        start=start,
        listing=listing["tar shards"],
        handing=handing,
        summing=summing,
        files=kept["files"] + 1,  # and the record
        photo=kept["photo"],
        index=kept["index"],
        maps=kept["maps"],
        record=record,
        held=held,
    )
    return {**times, "listing, tar shards": listing["tar shards"]}, costs


# ----------------------------------------------------------------------------------------------------------------------- worker


def _worker(name: str, folder: Path, data: Path | None, chunks: int) -> tuple[Times, dict[str, int], float]:
    """Each stage of a worker on its own: seconds of one thread per image, bytes per image and files per unit, seconds per unit."""
    model = network(name)
    samples = [each for each in open_data(photos(folder / "photos", chunks * TOGETHER, data)) if isinstance(each, Sample)]
    job = Job(out="", model=model, method="gradcam", options={}, regions=Regions(), images_at_once=TOGETHER)
    explainer = job.explainer(lucidcam.optimize(model))
    asking = explainer.asking()
    seconds: dict[str, list[float]] = {"read and prepare": [], "network": [], "finish": []}
    found: list[Finished] = []
    for first in range(0, len(samples), TOGETHER):
        some = samples[first : first + TOGETHER]
        got = _timed(seconds["read and prepare"], lambda some=some: read(job, some).unpacked())
        both = [(each, one) for each, one in zip(some, got, strict=True) if not isinstance(one, Problem)]
        ready = [asking.ready(each, one, model, number) for number, (each, one) in enumerate(both, first)]
        done = _timed(seconds["network"], lambda ready=ready: explainer.explained(ready, _fail))
        maps = [each for one in done for each in made(job, one)]
        found += _timed(seconds["finish"], lambda maps=maps: finish(job, maps))[0]
    times = {stage: statistics.median(each[1:]) / TOGETHER for stage, each in seconds.items()}
    few, _ = _written(folder / "few", samples[:32], found[:32], 32)
    many, sizes = _written(folder / "many", samples, found, UNIT)
    times["write"] = max(0.0, (many - few) / (UNIT - 32))
    photo = sum(Path(each.image).stat().st_size for each in samples) // len(samples)
    kept = {"photo": photo, "maps": sizes["maps"] // UNIT, "index": sizes["index"] // UNIT, "files": len(sizes)}
    return times, kept, max(0.0, few - 32 * times["write"])


def _written(folder: Path, samples: list[Sample], found: list[Finished], count: int) -> tuple[float, dict[str, int]]:
    """A unit of `count` maps, written as a worker does: seconds of one thread, and bytes by file."""
    rows = [found[i % len(found)] for i in range(count)]
    unit = Unit(0, 0, tuple(samples[i % len(samples)] for i in range(count)))
    taken: list[float] = []
    sizes: dict[str, int] = {}
    for number in range(4):
        store = open_store(folder / str(number))

        def write(store: Store = store) -> None:
            for name, content in registry.packs["npz"]().files(0, [each.packable for each in rows]):
                store.write(name, content)
                sizes["maps"] = len(content)
            content = encoded([each.row for each in rows])
            store.write("index/000000.parquet", content)
            sizes["index"] = len(content)
            unit.identity()

        _timed(taken, write)
    return statistics.median(taken[1:]), sizes


def _timed(seconds: list[float], step: Callable[[], Any]) -> Any:
    """Do a step, and write down the processor time it took in this thread."""
    start = time.thread_time()
    result = step()
    seconds.append(time.thread_time() - start)
    return result


def _fail(_: Ready, problem: Problem) -> None:
    raise SystemExit(problem.error)


def _start(name: str, folder: Path, data: Path | None, image: float) -> float:
    """Processor seconds of a process till it has its network: those of a run over a few images, without the images."""
    asked = {"network": name, "photos": str(photos(folder / "few-photos", TOGETHER, data)), "unit": TOGETHER}
    taken = []
    for number in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        Apart(folder / f"start-{number}", asked).ended()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken) - TOGETHER * image


# ----------------------------------------------------------------------------------------------------------------------- driver


def _listing(folder: Path, data: Path | None, count: int) -> tuple[dict[str, float], float]:
    """The driver's seconds per image of a folder and of tar shards, packed for its way; bytes of its memory per image in a wave."""
    small = crops(folder / "small", 1, 32, data) / "000000.jpg"
    many = folder / "listed"
    many.mkdir()
    for i in range(count):
        (many / f"{i:07d}.jpg").hardlink_to(small)
    content = small.read_bytes()
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i in range(count):
            member = tarfile.TarInfo(f"{i:07d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    places = {"a folder": many, "tar shards": folder / "shard.tar"}
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(3):
        for name, place in places.items():
            _timed(seconds[name], lambda place=place: sum(len(pickle.dumps(each)) for each in units(open_data(place), UNIT)))
    tracemalloc.start()
    held = list(units(open_data(places["tar shards"]), UNIT))
    packed = [pickle.dumps(each) for each in held]
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if sum(len(each.samples) for each in held) != count or not packed:
        raise SystemExit(f"expected {count} samples of the tar; got {sum(len(each.samples) for each in held)}")
    return {name: statistics.median(each) / count for name, each in seconds.items()}, memory / count


def _summing(folder: Path, count: int, files: int) -> tuple[float, float]:
    """The driver's seconds per unit for the manifest, and the bytes of a record and its entry."""
    store = open_store(folder)
    names = [f"maps/{'0' * 6}.npz" if i else f"index/{'0' * 6}.parquet" for i in range(files)]
    for number in range(count):
        Record(number, number * UNIT, UNIT, "0" * 24, UNIT, UNIT, (), dict.fromkeys(names, "0" * 24)).write(store)
    taken: list[float] = []
    for _ in range(3):
        _timed(taken, lambda: ledger.summarise(store, {}, True))
    size = len(store.read(ledger.MANIFEST)) + sum(len(store.read(name)) for name in store.names(ledger.FOLDER))
    return statistics.median(taken) / count, size / count


def _handing(folder: Path, data: Path | None, count: int) -> float:
    """The driver's processor seconds per unit on Ray: those of a run of many tiny units without those of a run of few."""
    place = crops(folder / "tiny", 2 * count, 32, data)
    model = network("means", 32)
    taken = []
    for number, some in enumerate((count // 5, count // 5, count)):  # the first loads Ray, and does not count
        start = time.process_time()
        asked: dict[str, Any] = {"engine": "ray", "workers": 2, "unit": 2, "target": "predicted", "progress": False}
        lucidcam.run(model, open_data(place).first(2 * some), folder / f"handed-{number}", **asked)
        taken.append(time.process_time() - start)
    return max(0.0, taken[2] - taken[1]) / (count - count // 5)


# -------------------------------------------------------------------------------------------------------------------------- page


def stages(options: argparse.Namespace, folder: Path, say: Say) -> str:
    """Milliseconds of one core per image, by stage; what a million images take."""
    rows, sums = [], []
    for name in options.networks:
        times, costs = _measured(name, options.data, options.share, options.temporary, say)
        worker = {stage: each for stage, each in times.items() if not stage.startswith("listing")}
        most = max(worker, key=lambda stage: worker[stage])
        own = [f"{1e3 * costs.unit:.1f}", f"{costs.start:.1f}"]
        shown = [f"**{1e3 * each:.2f}**" if stage == most else f"{1e3 * each:.2f}" for stage, each in worker.items()]
        rows.append(
            [name, *shown, f"{1e3 * costs.image:.1f}", *own, f"{1e3 * times['listing']:.3f}", f"{1e3 * times['listing, tar shards']:.3f}"]
        )
        hours = 1e6 * (costs.image + costs.unit / UNIT) / 3600
        rate = 1e6 / hours / 3600
        written = rate * (costs.index + costs.maps) / 1e3
        thousand = [f"{1e3 * rate:,.0f}", f"{rate * costs.photo / 1e3:,.0f}", f"{written:,.1f}", f"{1e3 * rate * costs.files / UNIT:,.0f}"]
        sums.append([name, f"{rate:.1f}", f"{hours:.2f}", f"{hours * options.price:.2f}", *thousand])
    head = ["network", *worker, "a worker in all", "per unit", "start, s", "listing, a folder", "listing, tar shards"]
    handing, summing = f"{1e3 * costs.handing:.1f} ms per unit", f"{1e3 * costs.summing:.2f} ms per unit"
    driver = f"On Ray the driver takes {handing} beside the listing, and {summing} at the end."
    body = "\n\n".join(
        [
            "Milliseconds of one core per image, gradcam, float32, one thread, photos on the disk; the largest in bold. *Per unit*: what "
            "its files take beside its images. *Start*: seconds of a core till a worker has its network. Listing is the driver's: finding "
            "an image and packing it for its way.",
            table(head, rows),
            driver,
            f"A million images, at {options.price:g} $ per core hour (`--price`; put in yours), and what 1,000 cores then ask of storage "
            f"and driver, in units of {UNIT}, photos of {costs.photo / 1e3:.0f} kB:",
            table(
                [
                    "network",
                    "images/s per core",
                    "core hours per million",
                    f"$ per million at {options.price:g} $",
                    "1,000 cores: images/s",
                    "MB/s read",
                    "MB/s written",
                    "files/s",
                ],
                sums,
            ),
        ]
    )
    write_section(options.out / "cluster.md", "cluster-stages", body)
    return f"### Stages\n\n{body}"


def simulate(options: argparse.Namespace, folder: Path, say: Say) -> str:
    """A billion images on clusters of several sizes."""
    name = options.networks[0]
    _, costs = _measured(name, options.data, options.share, options.temporary, say)
    rows = []
    for cores in CORES:
        for unit in UNITS:
            fleet = Fleet(IMAGES, cores, unit, WAVE, options.deaths / 1000)
            rows.append(_row(f"{cores}", unit, simulated(fleet, costs, options.seed)))
    rows += [_side_by_side(sides, unit, costs, options) for sides in SIDES for unit in UNITS]
    ceiling = 1 / (costs.listing + costs.handing / UNIT)
    body = "\n\n".join(
        [
            f"{IMAGES:,} images in tar shards, {name} network, gradcam, maps as npz; simulated from the measured stages. Assumed, not "
            f"measured: {options.deaths:g} workers die per 1,000 core hours; every core is as fast as the one measured on, and storage "
            f"keeps up. The driver lists and hands out {WAVE:,} units at a time, and lists the next ones when all of these are done, "
            "as the code does.",
            table(
                ["cores", "images per unit", "hours", "of these, listing", "cores busy", "images twice", "files", "index, GB", "maps, GB",
                 "records, GB", "driver's memory, GB"],
                rows,
            ),
            f"One driver lists and hands out at most {ceiling:,.0f} images/s in units of {UNIT}: enough for {ceiling * costs.image:,.0f} "
            f"cores at {1 / costs.image:.1f} images/s each, if they did not wait for it. The last rows are {' and '.join(map(str, SIDES))} "
            "runs side by side, each with a driver of its own, over its part of the data.",
        ]
    )  # fmt: skip
    write_section(options.out / "cluster.md", "cluster-simulation", body)
    return f"### A billion images, simulated\n\n{body}"


def _side_by_side(sides: int, unit: int, costs: Costs, options: argparse.Namespace) -> list[str]:
    fleet = Fleet(IMAGES // sides, CORES[-1] // sides, unit, WAVE, options.deaths / 1000)
    each = simulated(fleet, costs, options.seed)
    sums = {name: sides * getattr(each, name) for name in ("again", "files", "index", "maps", "records")}
    return _row(f"{sides} × {fleet.cores}", unit, replace(each, **sums))


def _row(cores: str, unit: int, found: Outcome) -> list[str]:
    sizes: Iterable[float] = (found.index, found.maps, found.records, found.held)
    return [
        cores,
        f"{unit:,}",
        f"{found.seconds / 3600:,.1f}",
        f"{found.listing / 3600:,.1f}",
        f"{100 * found.busy:.0f} %",
        f"{found.again:,.0f}",
        f"{found.files:,}",
        *[f"{each / 1e9:,.1f}" for each in sizes],
    ]
