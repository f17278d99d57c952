"""Zarr: arrays in chunks, here or in an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lucidcam.compat import import_optional
from lucidcam.outputs._packs import Array, Pack, Packable, Read
from lucidcam.registry import packs

ROOT = "maps.zarr"


@packs.register_class("zarr")
class ZarrPack(Pack):
    """`maps.zarr`, a Zarr v3 group with an array `[n, h, w]` per unit, "000012"; a group of arrays "0", "1", … where sizes differ."""

    about = "one Zarr v3 group, an array per unit"

    def files(self, number: int, maps: Sequence[Packable]) -> Iterator[tuple[str, bytes]]:
        """See `Pack.files`."""
        zarr = import_optional("zarr", "run", "maps as Zarr")
        kept: dict[str, Any] = {}
        root = zarr.open_group(zarr.storage.MemoryStore(kept), mode="w", zarr_format=3)
        name = f"{number:06d}"
        if len({each.raw.shape for each in maps}) == 1:
            stacked = np.stack([each.raw for each in maps])
            root.create_array(name, data=stacked, chunks=stacked.shape)
        else:
            group = root.create_group(name)
            for i, each in enumerate(maps):
                group.create_array(str(i), data=each.raw, chunks=each.raw.shape)
        for key, value in sorted(kept.items()):
            yield f"{ROOT}/{key}", value.to_bytes()

    def maps(self, read: Read, number: int) -> list[Array]:
        """See `Pack.maps`."""
        zarr = import_optional("zarr", "run", "maps as Zarr")
        found = zarr.open_group(_reader(zarr, read), mode="r", zarr_format=3)[f"{number:06d}"]
        if not isinstance(found, zarr.Group):
            return list(found[:])
        apart: list[Array] = []
        while (name := str(len(apart))) in found:  # the store can read, but not list
            apart.append(found[name][:])
        return apart


def _reader(zarr: Any, read: Read) -> Any:
    """A Zarr store that reads what the run's own store has."""

    class Reader(zarr.storage.MemoryStore):  # type: ignore[misc]
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if key not in self._store_dict:
                try:
                    self._store_dict[key] = prototype.buffer.from_bytes(read(f"{ROOT}/{key}"))
                except FileNotFoundError:
                    return None
            return await super().get(key, prototype, byte_range)

    return Reader({})
