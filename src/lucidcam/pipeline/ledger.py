"""What is done so far: a record per unit, written last, and the summary of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lucidcam.errors import DataError
from lucidcam.pipeline.plan import Unit
from lucidcam.storage import Store

REPORTED = ("results.json", "images.csv", "images.parquet")
FOLDER = "units"
MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"
UNITS = re.compile(r"(index|maps|pictures|labels|metrics|units)/\d{6,}\.[a-z0-9]+|maps\.zarr/(zarr\.json|\d{6,}/.+)")
"""Files of single units, and those of their kinds' own folders."""

CURVES = re.compile(r"curves/[\w.=:,-]+\.(png|svg)")


@dataclass(frozen=True, eq=False)
class Record:
    """What one unit gave. A unit without a record counts as not begun, whatever files of it there are.

    Attributes:
        number: of the unit.
        start: number of its first sample in the data set.
        samples: how many.
        identity: of the samples.
        images: that were explained.
        maps: that were written.
        failures: number of the sample, its name and what is wrong with it.
        files: digests of what was written, by name.
        notes: what was done otherwise than asked for, in sentences.
    """

    number: int
    start: int
    samples: int
    identity: str
    images: int
    maps: int
    failures: tuple[tuple[int, str, str], ...]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def write(self, store: Store) -> None:
        """Write it down: from now on the unit is done."""
        store.write(_path(self.number), json.dumps(asdict(self), ensure_ascii=False).encode())

    @classmethod
    def read(cls, store: Store, number: int) -> Record | None:
        """The record of a unit; None: it is not done, or its record cannot be read."""
        try:
            told = json.loads(store.read(_path(number)))
            failures = tuple((int(i), str(name), str(error)) for i, name, error in told["failures"])
            return cls(**{**told, "failures": failures, "notes": tuple(told.get("notes", ()))})
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # a disk that lost its power may keep half of one
            return None


def done(store: Store) -> set[int]:
    """Numbers of the units that are done."""
    names = [name.rpartition("/")[2] for name in store.names(FOLDER)]
    return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}


def records(store: Store) -> Iterator[Record]:
    """The records there are, in order."""
    for number in sorted(done(store)):
        found = Record.read(store, number)
        if found is not None:
            yield found


def checked(store: Store, unit: Unit) -> Record | None:
    """The record of a unit, if it is done.

    Raises:
        DataError: it was made from other samples.
    """
    found = Record.read(store, unit.number)
    if found is not None and found.identity != unit.identity():
        raise DataError(
            f"the data changed since {store} was begun (unit {unit.number} is of other images, classes or boxes); choose another folder, "
            "or restart it (restart=True, --restart)."
        )
    return found


def is_written(name: str) -> bool:
    """Whether a file of this name, "index/000001.parquet", is one that runs write. Exporters have lists of theirs."""
    return name in (MANIFEST, FAILURES, *REPORTED) or UNITS.fullmatch(name) is not None or CURVES.fullmatch(name) is not None


def summarise(store: Store, settings: Mapping[str, Any], complete: bool) -> dict[str, Any]:
    """Write the failures and the manifest, from the records; returns the manifest."""
    failures: list[str] = []
    units: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for each in records(store):
        failures += [
            json.dumps({"sample": sample, "image": name, "error": error}, ensure_ascii=False) for sample, name, error in each.failures
        ]
        units.append({key: value for key, value in asdict(each).items() if key not in ("identity", "failures", "files", "notes")})
        notes.update(dict.fromkeys(each.notes))
    manifest = {
        "complete": complete,
        "images": sum(each["images"] for each in units),
        "maps": sum(each["maps"] for each in units),
        "failed": len(failures),
        "notes": list(notes),
        "settings": dict(settings),
        "units": units,
    }
    store.write(FAILURES, "".join(f"{line}\n" for line in failures).encode())
    store.write(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False, default=str).encode())
    return manifest


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"
