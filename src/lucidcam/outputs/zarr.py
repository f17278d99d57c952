"""Zarr: arrays in chunks, here or in an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lucidcam.errors import DataError
from lucidcam.outputs.map_archive import LARGEST, Array, Pack, Packable, Read
from lucidcam.registry import packs
from lucidcam.utils.optional import import_optional

ROOT = "maps.zarr"
CODECS = ["bytes", "zstd"]
"""How a chunk, which is a whole array, is packed."""
ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""What every frame of Zstandard begins with."""
EXPECTED = f"expected one chunk an array, packed by {' and '.join(CODECS)}, of at most {LARGEST} bytes: is it a file of lucidcam's?"


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
            root.create_array(name, data=stacked, chunks=stacked.shape, compressors=zarr.codecs.ZstdCodec())
        else:
            group = root.create_group(name)
            for i, each in enumerate(maps):
                group.create_array(str(i), data=each.raw, chunks=each.raw.shape, compressors=zarr.codecs.ZstdCodec())
        for key, value in sorted(kept.items()):
            yield f"{ROOT}/{key}", value.to_bytes()

    def maps(self, read: Read, number: int) -> list[Array]:
        """See `Pack.maps`."""
        zarr = import_optional("zarr", "run", "maps as Zarr")
        found = zarr.open_group(_reader(zarr, read), mode="r", zarr_format=3)[f"{number:06d}"]
        if not isinstance(found, zarr.Group):
            _check_array(found, LARGEST)
            return list(found[:])
        apart: list[Array] = []
        room = LARGEST
        while (name := str(len(apart))) in found:  # the store can read, but not list
            room -= _check_array(found[name], room)
            apart.append(found[name][:])
        return apart


def _check_array(array: Any, room: int) -> int:
    """Refuse an array that is not as `ZarrPack` writes them, or takes more memory than there is room for; returns its bytes.

    Raises:
        DataError: it is, or does.
    """
    codecs = [codec["name"] for codec in array.metadata.to_dict()["codecs"]]
    if array.chunks != array.shape or codecs != CODECS:
        raise DataError(f"{ROOT}/{array.path} has chunks {array.chunks} of {array.shape}, packed by {', '.join(codecs)}; {EXPECTED}.")
    if array.nbytes > room:
        raise DataError(f"{ROOT}/{array.path} declares {array.nbytes} bytes of maps; expected at most {room}: is it a file of lucidcam's?")
    return int(array.nbytes)


def _unpacked_size(frame: bytes) -> int | None:
    """Bytes that a frame of Zstandard is unpacked to, by its header (RFC 8878, 3.1.1.1); None: it does not say, or is none."""
    if len(frame) < 5 or not frame.startswith(ZSTANDARD):
        return None
    is_single, dictionary = frame[4] >> 5 & 1, frame[4] & 3
    width = (is_single, 2, 4, 8)[frame[4] >> 6]
    start = 6 - is_single + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
    return size if width and len(frame) >= start + width else None


def _reader(zarr: Any, read: Read) -> Any:
    """A Zarr store that reads what the run's own store has."""

    class Reader(zarr.storage.MemoryStore):  # type: ignore[misc]
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if key not in self._store_dict:
                try:
                    content = read(f"{ROOT}/{key}")
                except FileNotFoundError:
                    return None
                size = len(content) if key.endswith(".json") else _unpacked_size(content)
                if size is None or size > LARGEST:
                    raise DataError(f"{ROOT}/{key} is unpacked to {'any' if size is None else size} bytes; {EXPECTED}.")
                self._store_dict[key] = prototype.buffer.from_bytes(content)
            return await super().get(key, prototype, byte_range)

    return Reader({})
