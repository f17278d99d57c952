"""What a run wrote, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from lucidcam import registry
from lucidcam.errors import DamagedFileError, DataError, LucidcamError
from lucidcam.evaluation import Report
from lucidcam.io.storage import Store, digest_of, open_store
from lucidcam.outputs.map_archive import Array
from lucidcam.pipeline import ledger
from lucidcam.pipeline.index import decoded
from lucidcam.reprs import one_line

RECENT = 4
"""Units whose maps are kept in memory."""


class Results:
    """The folder of a run: its index, its maps, its failures. Nothing is read before it is asked for.

    Args:
        out: the folder, or its URL.
        report: of the metrics.
        repairs: what the call that made it found damaged.

    Raises:
        DataError: there is no run.

    Attributes:
        report: of the metrics, where `run` was asked for some and has just made it; `results.json` keeps it.
        repairs: what `run` has just found damaged and done again, in sentences.
        manifest: what the run was and what it gave: `images`, `maps`, `failed`, `complete`, `notes`, `settings`, and its units.
    """

    def __init__(self, out: str | os.PathLike[str] | Store, report: Report | None = None, repairs: tuple[str, ...] = ()) -> None:
        self.report, self.repairs = report, repairs
        self.store = out if isinstance(out, Store) else open_store(out)
        try:
            self.manifest: dict[str, Any] = json.loads(self.store.read(ledger.MANIFEST))
        except FileNotFoundError:
            raise DataError(f"{self.store} holds no run, or one that never came to its end: run it, or run it again.") from None
        except (OSError, ValueError) as error:
            raise self._damaged(ledger.MANIFEST) from error
        self._unit = lru_cache(RECENT)(self._maps_of)

    def __repr__(self) -> str:
        counts = [("images", self.manifest["images"]), ("maps", len(self)), ("failed", self.manifest["failed"])]
        return one_line("Results", [("", str(self.store)), *counts])

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
        try:
            return [json.loads(line) for line in self.store.read(ledger.FAILURES).decode().split("\n") if line]
        except (OSError, ValueError) as error:
            raise self._damaged(ledger.FAILURES) from error

    def _index(self, unit: dict[str, Any]) -> bytes:
        return self._reader(unit["number"])(f"index/{unit['number']:06d}.parquet")

    def _reader(self, number: int) -> Callable[[str], bytes]:
        """Reads files of a unit, and refuses what is not as it was written."""
        record = ledger.Record.read(self.store, number)

        def read(name: str) -> bytes:
            if record is None:
                raise self._damaged(f"the record of unit {number}")
            try:
                content = self.store.read(name)
            except OSError as error:
                if name not in record.files:  # formats look for files that a unit may have
                    raise
                raise self._damaged(name) from error
            if name in record.files and record.files[name] != digest_of(content):
                raise self._damaged(name)
            return content

        return read

    def _damaged(self, name: str) -> DamagedFileError:
        return DamagedFileError(f"{name} in {self.store} is gone, or not as it was written: run it again, which does what is damaged anew.")

    def _maps_of(self, number: int) -> list[Array]:
        for name in self.manifest["settings"]["write"]:
            if name in registry.packs and registry.packs[name].keeps:
                try:
                    found: list[Array] = registry.packs[name]().maps(self._reader(number), number)
                except LucidcamError:
                    raise
                except Exception as error:  # readers of NumPy and Zarr raise anything
                    raise self._damaged(f"the maps of unit {number}") from error
                count = next(unit["maps"] for unit in self.manifest["units"] if unit["number"] == number)
                are_maps = all(isinstance(each, np.ndarray) and each.ndim >= 2 and each.dtype.kind == "f" for each in found)
                if len(found) != count or not are_maps:
                    raise self._damaged(f"the maps of unit {number}")
                return found
        raise DataError(f"{self.store} keeps no maps; run with write=('npz',) or ('zarr',) (--write npz).")
