"""A cluster at work on very many images, as `lucidcam.pipeline.scale` deals them out: a discrete simulation."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

PLAYED = 500_000
"""Units that are played through, in whole waves; further waves take as long as these on average."""


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds and bytes.

    Attributes:
        image: a worker's seconds per image.
        unit: a worker's seconds per unit, beside its images.
        start: seconds till a new worker has its network.
        listing: the driver's seconds per image: finding it, putting it into a unit.
        handing: the driver's seconds per unit: giving it to Ray, taking its record.
        summing: the driver's seconds per unit at the end.
        files: files per unit.
        photo: bytes of a photo.
        index: bytes of the index per image.
        maps: bytes of maps per image.
        record: bytes of a unit's record, and of its entry in the manifest.
        held: bytes of the driver's memory per image of a wave.
    """

    image: float
    unit: float
    start: float
    listing: float
    handing: float
    summing: float
    files: int
    photo: float
    index: float
    maps: float
    record: float
    held: float


@dataclass(frozen=True)
class Fleet:
    """A run on a cluster.

    Attributes:
        images: in all.
        cores: a worker each.
        unit: images per unit.
        wave: units that are listed and handed out together; the next wave waits for the last unit of this one.
        deaths: workers that die, per hour of one worker.
    """

    images: int
    cores: int
    unit: int
    wave: int
    deaths: float


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        seconds: in all.
        listing: of these, in which the driver listed and no worker worked.
        busy: share of the cores' time that went into images that counted.
        again: images explained again after a death.
        files: written.
        index: bytes.
        maps: bytes.
        records: bytes of the records and the manifest.
        held: bytes of the driver's memory for a wave.
    """

    seconds: float
    listing: float
    busy: float
    again: float
    files: int
    index: float
    maps: float
    records: float
    held: float


def simulated(fleet: Fleet, costs: Costs, seed: int = 0) -> Outcome:
    """Play a run through.

    In each wave the driver first lists its units. Then workers start, and take units one after the other as the driver hands them out. A
    worker that dies, at a moment drawn from an exponential distribution, loses what it had of its unit; after a new start the unit is done
    from the beginning.
    """
    draw = random.Random(seed)
    units = -(-fleet.images // fleet.unit)
    whole, rest = divmod(units, fleet.wave)
    played = [_wave(fleet, costs, fleet.wave, draw) for _ in range(min(whole, max(1, PLAYED // fleet.wave)))]
    scale = whole / len(played) if played else 0.0
    last = _wave(fleet, costs, rest, draw) if rest else (0.0, 0.0)
    seconds = scale * sum(each for each, _ in played) + last[0] + units * costs.summing
    return Outcome(
        seconds=seconds,
        listing=fleet.images * costs.listing,
        busy=fleet.images * costs.image / (fleet.cores * seconds),
        again=scale * sum(each for _, each in played) + last[1],
        files=units * costs.files,
        index=fleet.images * costs.index,
        maps=fleet.images * costs.maps,
        records=units * costs.record,
        held=min(fleet.images, fleet.wave * fleet.unit) * costs.held,
    )


def _wave(fleet: Fleet, costs: Costs, units: int, draw: random.Random) -> tuple[float, float]:
    """Seconds of one wave, and images explained again."""
    listed = units * fleet.unit * costs.listing
    work = fleet.unit * costs.image + costs.unit
    rate = fleet.deaths / 3600
    free = [listed + costs.start] * min(fleet.cores, units)  # when each worker is: a heap
    again = end = 0.0
    for number in range(units):
        now = max(heapq.heappop(free), listed + number * costs.handing)
        while rate and (alive := draw.expovariate(rate)) < work:
            now += alive + costs.start
            again += alive / work * fleet.unit
        now += work
        end = max(end, now)
        heapq.heappush(free, now)
    return end, again
