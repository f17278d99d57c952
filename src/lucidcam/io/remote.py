"""Bytes that lie somewhere, in a file, in a part of one, or behind an address, and are read when they are asked for.

Addresses ("s3://bucket/cat.jpg") go through fsspec. Credentials and other storage options are fsspec's own: its configuration files and
`FSSPEC_…` variables, and what the storage's library looks up by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidcam.errors import DataError, InputError, LucidcamError, first_line
from lucidcam.utils.optional import import_optional

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created", "updated")
"""What listings of storages call what changes with a file's content."""


@dataclass(frozen=True)
class Stored:
    """Bytes that are read when asked: a small, picklable thing that any process may read. `lucidcam.io.images.read` takes it.

    Nothing stays open between two reads, so that threads, forks and other machines need no care. Opening costs little beside decoding.

    Attributes:
        file: a path or an address.
        offset: where in the file they begin.
        size: how many they are; None: all from the offset on.
        member: what this part of the file is called there; "": it is the whole file.
        stamp: changes with the file: its size and date, or the storage's ETag; "": not known.
    """

    file: str
    offset: int = 0
    size: int | None = None
    member: str = ""
    stamp: str = ""

    @property
    def name(self) -> str:
        """What it is called in reports and errors."""
        return f"{self.file}/{self.member}" if self.member else self.file

    def identity(self) -> str:
        """A text that changes with the place, and with the file where its stamp is known; nothing is read.

        An address's signature doesn't count, nor where a file of this machine lies: it may be moved.
        """
        file = without_query(self.file) if is_url(self.file) else Path(self.file).name
        return f"{file} {self.offset} {self.size} {self.stamp}"

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            InputError: they cannot be read, or are fewer than they should be.
        """
        try:
            found = self._remote() if is_url(self.file) else self._local()
        except LucidcamError as error:
            raise InputError(str(error)) from error
        except Exception as error:  # each storage's library has errors of its own
            raise InputError(str(trouble(self.name, error))) from error
        if self.size is not None and len(found) < self.size:
            told = f"{self.name!r} is cut off: expected {self.size} bytes, {len(found)} are there"
            raise InputError(f"{told}; copy or download {self.file!r} again.")
        if self.size is not None and len(found) > self.size:
            raise InputError(f"the server of {self.file!r} gives no parts of files (HTTP ranges); download it and give its path.")
        return found

    def _local(self) -> bytes:
        with Path(self.file).open("rb", buffering=0 if self.size is not None else -1) as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)

    def _remote(self) -> bytes:
        system, path = filesystem(self.file)
        if self.size is None and not self.offset:
            return bytes(system.cat_file(path))
        return bytes(system.cat_file(path, start=self.offset, end=None if self.size is None else self.offset + self.size))


def is_url(thing: Any) -> bool:
    """Whether something is the text of an address.

    >>> is_url("s3://bucket/cat.jpg"), is_url("simplecache::s3://bucket/cat.jpg"), is_url("photos/cat.jpg"), is_url("C:/cat.jpg")
    (True, True, False, False)
    """
    return isinstance(thing, str) and _SCHEME.match(thing) is not None


def local(url: str) -> str | None:
    """The path that a `file://` address means; None for others."""
    return str(filesystem(url)[1]) if _LOCAL.match(url) else None


def without_query(url: str) -> str:
    """An address as far as it names a file: signed web addresses go on after it.

    >>> without_query("https://host/a.tar?Signature=.x"), without_query("s3://bucket/what?.tar")
    ('https://host/a.tar', 's3://bucket/what?.tar')
    """
    return re.split(r"[?#]", url, maxsplit=1)[0] if re.search(r"\bhttps?://", url, re.IGNORECASE) else url


def inside(url: str, own: str, path: str) -> str:
    """The address of another path of a storage, reached in the same way: on the same host, through a cache, out of an archive.

    Args:
        url: any address of the storage.
        own: the path that it means there.
        path: the other path, as listings have it.

    >>> inside("simplecache::s3://bucket/photos/", "bucket/photos", "bucket/photos/cat.jpg")
    'simplecache::s3://bucket/photos/cat.jpg'
    >>> inside("zip://photos::s3://bucket/a.zip", "photos", "photos/cat.jpg"), inside("sftp://host/photos", "/photos", "/photos/cat.jpg")
    ('zip://photos/cat.jpg::s3://bucket/a.zip', 'sftp://host/photos/cat.jpg')
    """
    links = url.split("::")
    at = next(i for i, link in enumerate(links) if "://" in link)
    link, own = links[at].rstrip("/"), own.rstrip("/")
    start = link.removesuffix(own) if own and link.endswith(own) else f"{link.partition(':')[0]}://"
    links[at] = start + path
    return "::".join(links)


def child(url: str, name: str) -> str:
    """The address of what is called so in a folder."""
    own = filesystem(url)[1].rstrip("/")
    return inside(url, own, f"{own}/{name}")


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it. fsspec keeps one per storage and process.

    Raises:
        DataError: no such kind of address is known, or the library that it needs is not installed.
    """
    fsspec = import_optional("fsspec", "data", f"{url!r}")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        library = getattr(error.__cause__ or error, "name", None)
        hint = f"{library}, which is not installed: pip install {library}" if library else first_line(error).rstrip(".")
        raise DataError(f"{url!r} needs {hint}.") from error
    except Exception as error:
        told = "; expected s3://, gs://, http:// or another that fsspec knows" if "rotocol" in str(error) else ""
        raise DataError(f"{url!r} cannot be opened: {first_line(error).rstrip('.')}{told}.") from error
    return system, str(path)


def below(url: str) -> dict[str, Stored]:
    """Return all files of a folder and its sub-folders by their paths in it; "" where the address is a file's.

    Raises:
        DataError: the storage cannot list it.
    """

    def walk(system: Any, path: str) -> dict[str, Any]:  # not find: that leaves out, in silence, folders which it cannot list
        folders = system.walk(path, detail=True, on_error="raise")
        return {info["name"]: info for _, _, files in folders for info in files.values()}

    return _listed(url, walk)


def directly_in(url: str) -> list[Stored]:
    """Return the files of a folder, not of its sub-folders.

    Raises:
        DataError: the storage cannot list it.
    """
    return list(_listed(url, lambda system, path: {each["name"]: each for each in system.ls(path, detail=True)}).values())


def matching(pattern: str) -> list[Stored]:
    """Return the files that an address with `*` and the like matches.

    Raises:
        DataError: the storage cannot list them.
    """
    return list(_listed(pattern, lambda system, path: system.glob(path, detail=True)).values())


def stamp_of(info: Mapping[str, Any]) -> str:
    """What a listing tells of a file that changes with its content."""
    known = [str(info[key]) for key in _STAMPS if info.get(key)]
    return " ".join([str(info.get("size")), *known[:1]]) if known else ""


def trouble(name: str, error: Exception) -> DataError:
    """The error, in one line, of something that could not be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name!r} does not exist; check the path or address.")
    told = (getattr(error, "strerror", None) or first_line(error)).rstrip(".")
    return DataError(f"{name!r} cannot be read ({type(error).__name__}: {told}); check the address, your rights and the connection.")


def _listed(url: str, listing: Any) -> dict[str, Stored]:
    system, path = filesystem(url)
    try:
        found: Iterable[tuple[str, Mapping[str, Any]]] = listing(system, path).items()
    except Exception as error:
        raise trouble(url, error) from error
    path = path.rstrip("/")
    files = ((name, info) for name, info in found if info.get("type") != "directory")
    return {
        name.removeprefix(path).lstrip("/"): Stored(inside(url, path, name), size=info.get("size"), stamp=stamp_of(info))
        for name, info in files
    }
