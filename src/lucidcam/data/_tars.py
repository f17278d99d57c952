"""Tar files, here or behind an address: what is in them and where, from the headers alone."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from lucidcam.errors import DataError, first_line
from lucidcam.io.remote import Stored, filesystem, is_url, stamp_of

BLOCK = 2**20
"""Bytes that one request for headers fetches from a storage: small images come with it, large ones are passed over."""

LARGEST_HEADER = 2**20
"""Bytes of one header at most; long names and attributes are headers, too."""

_SIGNATURES = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


@dataclass(frozen=True)
class Tar:
    """One tar: where it is, and what it is called in the names of samples."""

    file: Stored
    name: str


@contextmanager
def opened(tar: Stored) -> Iterator[tuple[IO[bytes], int, str]]:
    """Open a tar to look through its headers: the file, its size and its stamp."""
    if not is_url(tar.file):
        with Path(tar.file).open("rb") as local:
            status = os.fstat(local.fileno())
            yield local, status.st_size, f"{status.st_size} {status.st_mtime_ns}"
        return
    system, path = filesystem(tar.file)
    if tar.size is None or not tar.stamp:
        info = system.info(path)
        tar = replace(tar, size=info.get("size"), stamp=stamp_of(info))
    with system.open(path, "rb", block_size=BLOCK, cache_type="readahead") as remote:
        if tar.size is None or not remote.seekable():
            raise DataError("its server gives no parts of files (HTTP ranges)")
        yield remote, tar.size, tar.stamp


@dataclass(frozen=True)
class Member:
    """One file in a tar that may belong to a sample.

    Attributes:
        key: its path up to the first dot of the file's name.
        suffix: the rest, lower case.
        name: both.
        offset: where its bytes begin in the tar.
        size: how many they are.
    """

    key: str
    suffix: str
    name: str
    offset: int
    size: int


class _Headers:
    """A tar of which only headers are read, none of them large: names and attributes may declare any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def members_of(file: IO[bytes], size: int) -> Iterator[Member]:
    """Walk over the headers; each member's place is checked against the file's size.

    The standard library takes a damaged header, and a tar that is cut off between two members, for the end.
    """
    headers: Any = _Headers(file)
    with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="backslashreplace") as archive:
        last = -1
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
            if archive.offset > size + tarfile.BLOCKSIZE or archive.offset <= last:
                raise tarfile.ReadError(f"cut off within {entry.name}")
            last = archive.offset
            if not entry.isreg() or entry.issparse():  # a link has no bytes, a sparse file fewer than it says
                continue
            if entry.size < 0 or entry.offset_data + entry.size > size:
                raise tarfile.ReadError(f"cut off within {entry.name}")
            if (member := _member(entry)) is not None:
                yield member
        file.seek(archive.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if not end:
            raise tarfile.ReadError("no end mark: more members may be missing")
        if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no header at byte {archive.offset}")


def _member(entry: tarfile.TarInfo) -> Member | None:
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    stem, dot, suffix = parts[-1].partition(".") if parts else ("", "", "")
    hidden = any(part.startswith(".") for part in parts) or (stem.startswith("__") and stem.endswith("__"))
    if hidden or not stem or not dot or not suffix:
        return None
    key = "/".join([*parts[:-1], stem])
    return Member(key, suffix.lower(), f"{key}.{suffix}", entry.offset_data, entry.size)


def what_is_wrong(tar: Tar, error: Exception, count: int) -> str:
    """What to tell of a tar that could be listed no further, after `count` of its samples."""
    shown = repr(tar.file.file)
    if isinstance(error, FileNotFoundError):
        return f"the tar {shown} does not exist; copy it there, or take it out of the list."
    if not isinstance(error, tarfile.TarError):
        return f"the tar {shown} cannot be read after {count} samples ({first_line(error).rstrip('.')}); download it, or try again."
    start = b""
    if not is_url(tar.file.file):
        with Path(tar.file.file).open("rb") as file:
            start = file.read(2)
    if start in _SIGNATURES:
        return f"the tar {shown} is compressed ({_SIGNATURES[start]}); unpack it: parts of a compressed file cannot be read alone."
    return f"the tar {shown} is cut off or damaged after {count} samples ({first_line(error)}); copy or download it again."
