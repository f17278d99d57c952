"""What is done so far: a record per unit, written last, and the summary of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lucidcam.errors import DataError
from lucidcam.io.storage import DIGEST, Store, digest_of, json_text
from lucidcam.pipeline.plan import Unit

REPORTED = ("results.json", "images.csv", "images.parquet")
FOLDER = "units"
MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"
EXPORTED = "exported.json"
"""The digest of each file of labels, by format and name."""
UNITS = re.compile(r"(index|maps|pictures|labels|metrics|units)/\d{6,}\.[a-z0-9]+|maps\.zarr/(zarr\.json|\d{6,}/.+)")
"""Files of single units, and those of their kinds' own folders."""

SHOWN = 5
"""Names of damaged files that are told."""

CURVES = re.compile(r"curves/[\w.=:,-]+\.(png|svg)")


@dataclass(frozen=True, eq=False)
class Record:
    """What one unit gave. A unit without a record counts as not begun, whatever files of it there are.

    Attributes:
        number: of the unit.
        start: number of its first sample in the data set.
        samples: how many.
        identity: of the samples.
        usable: identity of those that did not fail.
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
    usable: str
    images: int
    maps: int
    failures: tuple[tuple[int, str, str], ...]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def write(self, store: Store) -> None:
        """Write it down: from now on the unit is done."""
        told = _text(asdict(self))
        store.write(_path(self.number), _text({**json.loads(told), DIGEST: digest_of(told.encode())}).encode())

    @classmethod
    def read(cls, store: Store, number: int) -> Record | None:
        """The record of a unit; None: it is not done, or its record is not as it was written."""
        try:
            told = json.loads(store.read(_path(number)))
            if told.pop(DIGEST) != digest_of(_text(told).encode()) or told["number"] != number:
                return None
            failures = tuple((int(i), str(name), str(error)) for i, name, error in told["failures"])
            return cls(**{**told, "failures": failures, "notes": tuple(told.get("notes", ()))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a disk that lost its power may keep half
            return None

    def damaged(self, store: Store) -> list[str]:
        """Names of files of the unit that are gone, or not as they were written."""
        return [name for name, digest in self.files.items() if store.digest(name) != digest]


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


class Inspection:
    """Looks at units that are said to be done: what is damaged, or failed and is to be tried again, is not.

    Args:
        store: of the run.
        retry_failed: whether units with failures are done again, also where the samples that failed are others now.

    Attributes:
        repaired: names of damaged files that come with what is done again.
    """

    def __init__(self, store: Store, retry_failed: bool) -> None:
        self.store, self.retry_failed = store, retry_failed
        self.known = done(store)
        self.repaired: dict[str, None] = {}

    def record(self, unit: Unit) -> Record | None:
        """The record of a unit; None: it is to be done.

        Raises:
            DataError: it was made from other samples.
        """
        if unit.number not in self.known:
            return None
        found = Record.read(self.store, unit.number)
        if found is None:
            self.repaired[_path(unit.number)] = None
            return None
        if found.identity != unit.identity():
            self._check_mended(found, unit)
        if self.retry_failed and found.failures:
            return None
        damaged = [name for name in found.damaged(self.store) if name not in self.repaired]  # units share a few files
        self.repaired.update(dict.fromkeys(damaged))
        return None if damaged else found

    def _check_mended(self, found: Record, unit: Unit) -> None:
        failed = {number: name for number, name, _ in found.failures}
        if not failed or found.usable != unit.identity(failed):
            raise DataError(
                f"the data changed since {self.store} was begun (unit {unit.number} is of other images, classes or boxes); choose another "
                "folder, or restart it (restart=True, --restart)."
            )
        if not self.retry_failed:
            raise DataError(
                f"images that failed in {self.store} changed since (unit {unit.number}: {', '.join(failed.values())}); try them again "
                "(retry_failed=True, --retry-failed)."
            )

    def notes(self) -> tuple[str, ...]:
        """What was found damaged, in sentences."""
        if not self.repaired:
            return ()
        first = list(self.repaired)[:SHOWN]
        more = len(self.repaired) - len(first)
        files = ", ".join(first) + (f" and {more} more" if more else "")
        return (f"{files}: gone, or not as written; the units they are of were done again.",)


def is_written(name: str) -> bool:
    """Whether a file of this name, "index/000001.parquet", is one that runs write. Exporters have lists of theirs."""
    return name in (MANIFEST, FAILURES, EXPORTED, *REPORTED) or UNITS.fullmatch(name) is not None or CURVES.fullmatch(name) is not None


def summarise(store: Store, settings: Mapping[str, Any], complete: bool, versions: Mapping[str, str]) -> dict[str, Any]:
    """Write the failures and the manifest, from the records; returns the manifest.

    Args:
        store: of the run.
        settings: what decides its files.
        complete: whether all units are done.
        versions: of the libraries; a run may go on with others, so that they are no settings.
    """
    failures: list[str] = []
    units: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for each in records(store):
        failures += [
            json_text({"sample": sample, "image": name, "error": error}, ensure_ascii=False) for sample, name, error in each.failures
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
        "versions": dict(versions),
        "units": units,
    }
    store.write(FAILURES, "".join(f"{line}\n" for line in failures).encode())
    store.write(MANIFEST, json_text(manifest, indent=1, ensure_ascii=False).encode())
    return manifest


def _text(content: Mapping[str, Any]) -> str:
    return json_text(content, ensure_ascii=False)


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"
