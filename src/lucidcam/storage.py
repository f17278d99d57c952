"""Files that are written whole or not at all, here or wherever fsspec reaches; folders that belong to one run, which may go on."""

from __future__ import annotations

import errno
import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lucidcam.errors import DataError, OptionError
from lucidcam.sources import filesystem

SETTINGS = "settings.json"
HALF = ".tmp"
"""What half a file ends with; a kill may leave one."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whatever happens meanwhile.

    Raises:
        DataError: when it cannot be written.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(str(path), error) from error


def check_writable(place: str | os.PathLike[str], *files: str) -> None:
    """Refuse a folder that results cannot be written to, before any work: by trying. What is made for that is taken away again.

    Args:
        place: the folder, which need not exist yet. Addresses (s3://…) are not tried.
        files: names of files that will be written in it.

    Raises:
        OptionError: it is a file, lies beneath one, has a name that no file can have, may not be written to, or holds a folder where a file
            is to be.
    """
    text = os.fspath(place)
    if "://" in text:
        return
    folder = Path(text).expanduser()
    made: list[Path] = []
    try:
        for each in reversed([folder, *folder.parents]):
            if not each.is_dir():
                if each.exists():
                    raise NotADirectoryError(errno.ENOTDIR, f"{str(each)!r} is a file")
                each.mkdir()
                made.append(each)
        for name in files or ("lucidcam",):
            path = folder / name
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name!r} is a folder there" if files else os.strerror(errno.EISDIR))
            if path.exists():
                path.open("ab").close()
            temporary = _temporary(path)
            temporary.touch(exist_ok=False)
            temporary.unlink()
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise _refused(text, error) from None
    finally:
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()


def check_writable_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that cannot be written, before any work; see `check_writable`.

    Raises:
        OptionError: it is a folder, lies beneath a file, has a name that no file can have, or may not be written.
    """
    text = os.fspath(path)
    file = Path(text).expanduser()
    try:
        if file.name in ("", "..") or text.endswith(("/", os.sep)) or file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except (OSError, ValueError) as error:
        raise _refused(text, error) from None
    try:
        check_writable(file.parent, file.name)
    except OptionError as error:
        raise OptionError(str(error).replace(repr(str(file.parent)), repr(text), 1)) from None


def _refused(place: str, error: OSError | ValueError) -> OptionError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return OptionError(f"cannot write to {place!r}: {reason[:1].lower()}{reason[1:]}; give another place (out=…, --out).")


def _temporary(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{HALF}")


class Store(ABC):
    """A folder, here or elsewhere, of files that are written whole or not at all. Names have slashes, "index/000001.parquet"."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            DataError: when it cannot be written: a full disk, say; the file is then what it was before.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def names(self, folder: str = "") -> Iterator[str]:
        """Names of the files in a folder of the store and below it, in order; none where there is no such folder."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder, where that can be done.

        Raises:
            OptionError: another one is at it.
        """
        yield


class Folder(Store):
    """A folder of this machine.

    Args:
        root: made when something is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()

    def __str__(self) -> str:
        return str(self.root)

    def write(self, name: str, content: bytes) -> None:
        """See `Store.write`."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(str(path), error) from error
        write_whole(path, content)

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        return (self.root / name).read_bytes()

    def names(self, folder: str = "") -> Iterator[str]:
        """See `Store.names`."""
        found = (each for each in (self.root / folder).rglob("*") if each.is_file())
        yield from sorted(each.relative_to(self.root).as_posix() for each in found)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Store.held`; the system lets go of it when the process ends, however that is. Not on Windows."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        with (self.root / SETTINGS).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OptionError(f"another process writes to {self.root}; wait for it, or choose another folder.") from None
            except OSError:  # file systems without locks
                pass
            yield


class Remote(Store):
    """A folder of any file system that fsspec knows; object stores put an object whole or not at all.

    Args:
        url: "s3://bucket/folder", "gs://…", "memory://…".

    Raises:
        OptionError: for a protocol that fsspec does not know.
        MissingExtraError: when the protocol's library is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._files, self._root = filesystem(self.url)
        except DataError as error:
            raise OptionError(f"cannot keep results in {url!r}: {error}") from None

    def __str__(self) -> str:
        return self.url

    def write(self, name: str, content: bytes) -> None:
        """See `Store.write`."""
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, content)
        except OSError as error:
            raise _unwritable(f"{self.url}/{name}", error) from error

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def names(self, folder: str = "") -> Iterator[str]:
        """See `Store.names`."""
        self._files.invalidate_cache()
        try:
            found = self._files.find(f"{self._root}/{folder}".rstrip("/"))
        except FileNotFoundError:
            found = []
        root = self._files._strip_protocol(self._root)
        yield from sorted(each[len(root) :].lstrip("/") for each in found)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        path = f"{self._root}/{name}"
        if self._files.exists(path):
            self._files.rm_file(path)


def open_store(place: str | os.PathLike[str]) -> Store:
    """A folder by its path, or by a URL that fsspec knows."""
    text = os.fspath(place)
    return Remote(text) if "://" in text else Folder(text)


def claim(place: Path | Store, settings: Mapping[str, Any], what: str, restart: bool = False) -> None:
    """Make a folder for a run, or find that it holds the same one.

    Args:
        place: where the run keeps things.
        settings: of the run; one with others must not go on here.
        what: is going on, for messages: "an evaluation".
        restart: forget the settings of an earlier run; its files are the caller's to forget.

    Raises:
        OptionError: the folder holds a run with other settings, or cannot be made.
        DataError: the settings cannot be written.
    """
    store = Folder(place) if isinstance(place, Path) else place
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    try:
        old = None if restart else claimed(store)
        if old is None:
            if isinstance(store, Folder):
                store.root.mkdir(parents=True, exist_ok=True)
            store.write(SETTINGS, text.encode())
            return
        new = json.loads(text)
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    except OSError as error:
        raise OptionError(f"cannot keep results in {store}: {error.strerror or error}.") from None
    if changed:
        raise OptionError(
            f"{store} holds {what} with other settings ({', '.join(sorted(changed))}); choose another folder, or restart it "
            "(restart=True, --restart)."
        )


def claimed(store: Store) -> dict[str, Any] | None:
    """The settings of the run that a folder holds; None: it holds none.

    Raises:
        OptionError: they cannot be read.
    """
    try:
        found = json.loads(store.read(SETTINGS))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OptionError(f"cannot keep results in {store}: {error.strerror or error}.") from None
    except ValueError as error:
        raise OptionError(f"{store}/{SETTINGS} cannot be read ({error}); take it away, or restart (restart=True, --restart).") from None
    return found if isinstance(found, dict) else {}


def _unwritable(what: str, error: OSError) -> DataError:
    return DataError(f"{what} cannot be written: {error.strerror or error}; mend that and run again: what was written before is kept.")
