"""NumPy archives: the maps themselves, for further work."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from lucidcam.errors import DataError
from lucidcam.imaging.explanation import Explanation
from lucidcam.io.storage import json_text, replaced
from lucidcam.outputs.map_archive import LARGEST, Array, Pack, Packable, Read
from lucidcam.registry import packs, writers


@writers.register("npz")
def write(explanation: Explanation, path: Path, *, threshold: float = 0.2) -> None:
    """Write `map` (original size), `raw` (layer resolution), `pixels` where there are any, and `info`: `to_dict` as JSON text."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        write_to(file, explanation, threshold)


def write_to(file: IO[bytes], explanation: Explanation, threshold: float = 0.2) -> None:
    """What `write` writes, to a file that is open."""
    info = json_text(explanation.to_dict(threshold))
    arrays: dict[str, Any] = {"map": explanation.map, "raw": explanation.raw.numpy(), "info": info}
    if explanation.pixels is not None:
        arrays["pixels"] = explanation.pixels.numpy()
    np.savez_compressed(file, **arrays)


@packs.register_class("npz")
class NpzPack(Pack):
    """`maps/000012.npz`: `maps` `[n, h, w]` where all have one size, else one array per map, "0", "1", …."""

    about = "NumPy archives of raw maps, one per unit"

    def files(self, number: int, maps: Sequence[Packable]) -> Iterator[tuple[str, bytes]]:
        """See `Pack.files`."""
        alike = len({each.raw.shape for each in maps}) == 1
        arrays = {"maps": np.stack([each.raw for each in maps])} if alike else {str(i): each.raw for i, each in enumerate(maps)}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        yield _path(number), content.getvalue()

    def maps(self, read: Read, number: int) -> list[Array]:
        """See `Pack.maps`."""
        content = io.BytesIO(read(_path(number)))
        check_archive(content, _path(number))
        with np.load(content) as found:
            return list(found["maps"]) if "maps" in found else [found[str(i)] for i in range(len(found.files))]


def check_archive(content: IO[bytes], name: str) -> None:
    """Refuse an archive whose arrays would take more memory than any unit's do, by what it declares.

    Raises:
        DataError: it declares more than `LARGEST`.
        zipfile.BadZipFile: it is no archive.
    """
    with zipfile.ZipFile(content) as archive:
        size = sum(each.file_size for each in archive.infolist())
    content.seek(0)
    if size > LARGEST:
        raise DataError(f"{name} declares {size} bytes of maps; expected at most {LARGEST}: is it a file of lucidcam's?")


def _path(number: int) -> str:
    return f"maps/{number:06d}.npz"
