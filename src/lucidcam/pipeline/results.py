"""What a run wrote, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from lucidcam import registry
from lucidcam.errors import DataError
from lucidcam.evaluation import Report
from lucidcam.outputs._packs import Array
from lucidcam.pipeline import ledger
from lucidcam.pipeline.rows import decoded
from lucidcam.storage import Store, open_store

RECENT = 4
"""Units whose maps are kept in memory."""


class Results:
    """The folder of a run: its index, its maps, its failures. Nothing is read before it is asked for.

    Args:
        out: the folder, or its URL.
        report: of the metrics.

    Raises:
        DataError: there is no run.

    Attributes:
        report: of the metrics, where `run` was asked for some and has just made it; `results.json` keeps it.
        manifest: what the run was and what it gave: `images`, `maps`, `failed`, `complete`, `notes`, `settings`, and its units.
    """

    def __init__(self, out: str | os.PathLike[str] | Store, report: Report | None = None) -> None:
        self.report = report
        self.store = out if isinstance(out, Store) else open_store(out)
        try:
            self.manifest: dict[str, Any] = json.loads(self.store.read(ledger.MANIFEST))
        except FileNotFoundError:
            raise DataError(f"{self.store} holds no run, or one that never came to its end: run it, or run it again.") from None
        self._unit = lru_cache(RECENT)(self._maps_of)

    def __repr__(self) -> str:
        return f"Results({str(self.store)!r}, images={self.manifest['images']}, maps={len(self)}, failed={self.manifest['failed']})"

    def __len__(self) -> int:
        return int(self.manifest["maps"])

    def index(self) -> Any:
        """All rows of the index, as a pyarrow table. For runs that are larger than the memory open `index/` with pyarrow.dataset."""
        return decoded(self._index(unit) for unit in self.manifest["units"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the index, one after the other."""
        for unit in self.manifest["units"]:
            yield from decoded([self._index(unit)]).to_pylist()

    def map(self, number: int) -> Array:
        """The raw map of row `number` of the index `[h, w]`.

        Raises:
            IndexError: there is no such row.
            DataError: the run kept no maps.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        for unit in self.manifest["units"]:
            if number < unit["maps"]:
                return self._unit(unit["number"])[number]
            number -= unit["maps"]
        raise AssertionError("the manifest counts more maps than its units have")

    def maps(self) -> Iterator[Array]:
        """The raw maps `[h, w]`, in the order of the index.

        Raises:
            DataError: the run kept no maps.
        """
        for unit in self.manifest["units"]:
            if unit["maps"]:
                yield from self._unit(unit["number"])

    def failures(self) -> list[dict[str, Any]]:
        """What could not be explained: number of the sample, name and error."""
        return [json.loads(line) for line in self.store.read(ledger.FAILURES).decode().split("\n") if line]

    def _index(self, unit: dict[str, Any]) -> bytes:
        return self.store.read(f"index/{unit['number']:06d}.parquet")

    def _maps_of(self, number: int) -> list[Array]:
        for name in self.manifest["settings"]["write"]:
            if name in registry.packs and registry.packs[name].keeps:
                found: list[Array] = registry.packs[name]().maps(self.store.read, number)
                return found
        raise DataError(f"{self.store} keeps no maps; run with write=('npz',) or ('zarr',) (--write npz).")
