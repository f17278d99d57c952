"""Files that are written whole or not at all, here or wherever fsspec reaches; folders that belong to one run, which may go on.

What lucidcam did not write it does not remove. A folder is taken for a run only if it is empty, or if its `settings.json` says that
lucidcam wrote it, for work of the same kind; and of what lies in it, only files with the names of such work are ever removed (`ours` of
`workplace`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import uuid
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lucidcam.errors import DataError, OptionError, first_line
from lucidcam.io.remote import filesystem, trouble

SETTINGS = "settings.json"
LOCK = ".lucidcam.lock"
"""A file in the folder of a run that is at work; it is held by the process, and taken away at the end."""

MADE_BY, HOLDS, DIGEST = "made_by", "holds", "digest"
"""Entries of `settings.json` that tell a folder of lucidcam's from others, for what it is, and whether the file is as it was written."""

DIGEST_BYTES = 12
PIECE = 2**20
"""Bytes of a file that are read at a time."""

HALF = ".tmp"
"""What half a file ends with; a kill may leave one."""

HALF_NAME = re.compile(r"(?P<name>.+)\.[0-9a-f]{12}\.tmp")
"""What half a file is called, after the file that it was to become."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whatever happens meanwhile.

    Raises:
        DataError: when it cannot be written.
    """
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another place to write a file at; when the block ends it takes the file's name, at once. A link of that name is not followed.

    Raises:
        DataError: when it cannot be written.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(str(path), error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong while a file is written, by whatever library, is one error of ours.

    Raises:
        DataError: when it cannot be written: a full disk, say.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(os.fspath(path), error) from error


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


def digest_of(content: Any) -> str:
    """A short text that changes with the content of a file, or an array in one piece."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def damaged_entry(path: Path) -> str | None:
    """The first entry of a zip file whose content is not what its checksum says; None: there is none.

    torch, which keeps tensors in such files, does not compare them. Entries without a checksum (0) are passed over.

    Raises:
        zipfile.BadZipFile: the file is none, or cut off.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as file:
                    while entry.CRC and file.read(PIECE):
                        pass
            except (zipfile.BadZipFile, zlib.error, EOFError):
                return entry.filename
    return None


def sealed(content: bytes) -> bytes:
    """The content of a file, its digest behind it: see `unsealed`."""
    return content + hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def unsealed(content: bytes) -> bytes:
    """What was `sealed`.

    Raises:
        ValueError: it is not as it was written.
    """
    inner = content[:-DIGEST_BYTES]
    if len(content) < DIGEST_BYTES or sealed(inner) != content:
        raise ValueError("the file is not as it was written")
    return inner


def plain_json(value: Any) -> Any:
    """A value in JSON's own types: NaN and infinities, which JSON does not have, become None; numbers of NumPy become Python's.

    >>> plain_json({"low": float("nan"), "box": (1, float("inf"))})
    {'low': None, 'box': [1, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(inner) for inner in value]
    if isinstance(value, Real) and not isinstance(value, (bool, int)):
        return int(value) if isinstance(value, Integral) else float(value) if math.isfinite(value) else None
    return value


def json_text(value: Any, *, indent: int | None = None, ensure_ascii: bool = True, sort_keys: bool = False) -> str:
    """A value as JSON that every reader takes; what JSON has no type for is written as its text.

    Args:
        value: mappings, lists, text and numbers.
        indent: spaces of each level; None: all on one line.
        ensure_ascii: escape what is not ASCII.
        sort_keys: entries in the order of their names.
    """
    return json.dumps(plain_json(value), indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys, default=str, allow_nan=False)


def parsed_json(text: str) -> Any:
    """Parse JSON of anyone's.

    Raises:
        ValueError: it is none, is nested too deeply, or has numbers of thousands of digits; with the line, in one line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None
    except ValueError:
        raise ValueError("it has a number of thousands of digits") from None


_locks: set[int] = set()
"""Files that this process holds as locks."""


def let_go() -> None:
    """Close the locks that a fork has of its parent: they would hold folders for longer than that lives."""
    for file in _locks:
        with suppress(OSError):
            os.close(file)
    _locks.clear()


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
            OSError: it is no file, or cannot be read; DataError where the storage is elsewhere and does not answer.
        """

    def digest(self, name: str) -> str | None:
        """The digest of a file's content (see `digest_of`); None: there is no such file, or it cannot be read."""
        try:
            return digest_of(self.read(name))
        except OSError:
            return None

    @abstractmethod
    def names(self, folder: str = "") -> Iterator[str]:
        """Names of the files in a folder of the store and below it, in order; none where there is no such folder."""

    def walk(self) -> Iterator[str]:
        """Names of the files in the store, in any order, each as it is come upon."""
        yield from self.names()

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
            if path.is_dir() and not path.is_symlink():
                path.rmdir()  # an empty one, in the place of a file of ours, holds nothing of anyone's
        except OSError as error:
            raise _unwritable(str(path), error) from error
        write_whole(path, content)

    def read(self, name: str) -> bytes:
        """See `Store.read`. What is no file, a pipe say, is not opened."""
        self._check_file(name)
        return (self.root / name).read_bytes()

    def digest(self, name: str) -> str | None:
        """See `Store.digest`; the file is never whole in memory."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        try:
            self._check_file(name)
            with (self.root / name).open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
        except OSError:
            return None
        return digest.hexdigest()

    def _check_file(self, name: str) -> None:
        path = self.root / name
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(kind, "it is a folder" if stat.S_ISDIR(mode) else "it is no file", str(path))

    def names(self, folder: str = "") -> Iterator[str]:
        """See `Store.names`."""
        found = (each for each in (self.root / folder).rglob("*") if each.is_file())
        yield from sorted(each.relative_to(self.root).as_posix() for each in found)

    def walk(self) -> Iterator[str]:
        """See `Store.walk`."""
        for folder, _, files in os.walk(self.root):
            yield from ((Path(folder) / name).relative_to(self.root).as_posix() for name in files)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Store.held`; the system lets go of it when the process ends, however that is. Not on Windows.

        Raises:
            OptionError: another process is at it; or the folder cannot be made.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        is_new = not self.root.exists()
        file = self._locked(fcntl)
        _locks.add(file)
        try:
            yield
        finally:
            _locks.discard(file)
            with suppress(OSError):
                (self.root / LOCK).unlink()  # while it is held: who opened it meanwhile sees that it is gone, and makes another
            os.close(file)
            if is_new:
                with suppress(OSError):  # something was written to it
                    self.root.rmdir()

    def _locked(self, fcntl: Any) -> int:
        """Open the lock file, hold it, and see that it is still the one in the folder."""
        path = self.root / LOCK
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OptionError(f"cannot keep results in {self.root}: {error.strerror or error}.") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise OptionError(f"another process writes to {self.root}; wait for it, or choose another folder.") from None
            except OSError:  # file systems without locks
                return file
            with suppress(OSError):
                if os.path.samestat(path.stat(), os.fstat(file)):
                    return file
            os.close(file)


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
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except (FileNotFoundError, IsADirectoryError):
            raise
        except Exception as error:  # each storage's library has errors of its own; a file that cannot be reached is not one that is gone
            raise trouble(f"{self.url}/{name}", error) from error

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


@contextmanager
def workplace(
    place: str | os.PathLike[str] | Store, settings: Mapping[str, Any], what: str, ours: Callable[[str], bool], restart: bool = False
) -> Iterator[Store]:
    """Hold a folder for a run until the block ends: made for it, or found to hold the same one, which goes on.

    The folder is locked before anything in it is looked at or changed. What a kill left half-written is removed; with `restart` all that
    such work writes. Files of other names stay.

    Args:
        place: where the run keeps things.
        settings: of the run; one with others must not go on here.
        what: is going on, for messages: "an evaluation".
        ours: whether a name in the folder, "index/000001.parquet", is of such work.
        restart: begin anew in a folder that holds such work with other settings.

    Yields:
        The folder.

    Raises:
        OptionError: another process is at it; the folder holds files that are not of such work, or a run with other settings; it cannot be
            made.
        DataError: the settings cannot be written.
    """
    store = place if isinstance(place, Store) else open_store(place)
    with store.held():
        _claim(store, settings, what, ours, restart)
        yield store


def _claim(store: Store, settings: Mapping[str, Any], what: str, ours: Callable[[str], bool], restart: bool) -> None:
    content = plain_json({**settings, MADE_BY: "lucidcam", HOLDS: what})
    text = json_text({**content, DIGEST: _digest_of_settings(content)}, indent=2, sort_keys=True)
    try:
        old = _settings(store)
        if old is None and (foreign := next((name for name in store.walk() if not _is_trace(name)), None)) is not None:
            raise OptionError(
                f"{store} holds files that are not of {what} ({foreign}), and no {SETTINGS} of one; give a new folder, for instance "
                f"{str(store).rstrip('/')}/results."
            )
        if old is not None and (old.get(MADE_BY), old.get(HOLDS)) != ("lucidcam", what):
            raise OptionError(f"the {SETTINGS} in {store} is not of {what}, or of another version of lucidcam; give another folder.")
        if old is not None and not restart:
            _check_unchanged(old, store)
        new = json.loads(text)
        changed = [key for key in {**(old or new), **new} if key != DIGEST and (old or new).get(key) != new.get(key)]
        if changed and not restart:
            raise OptionError(
                f"{store} holds {what} with other settings ({', '.join(sorted(changed))}); choose another folder, or restart it "
                "(restart=True, --restart)."
            )
        clear(store, ours, everything=restart)
        if old is None or changed:
            store.write(SETTINGS, text.encode())
    except OSError as error:
        raise OptionError(f"cannot keep results in {store}: {error.strerror or error}.") from None


def clear(store: Store, ours: Callable[[str], bool], everything: bool) -> None:
    """Remove what a kill left half-written of files that are ours; with `everything`, those files too."""
    for name in list(store.names()):
        half = HALF_NAME.fullmatch(name)
        if (half is not None and (ours(half["name"]) or half["name"] == SETTINGS)) or (everything and ours(name)):
            store.remove(name)


def _is_trace(name: str) -> bool:
    """Whether a file may be in a folder that no run was begun in: the lock, and what a kill left of the first settings."""
    half = HALF_NAME.fullmatch(name)
    return name == LOCK or (half is not None and half["name"] == SETTINGS)


def claimed(store: Store) -> dict[str, Any] | None:
    """The settings of the run that a folder holds; None: it holds none.

    Raises:
        OptionError: they cannot be read, or are not as they were written.
    """
    found = _settings(store)
    if found is not None:
        _check_unchanged(found, store)
    return found


def _digest_of_settings(settings: Mapping[str, Any]) -> str:
    return digest_of(json.dumps({key: value for key, value in settings.items() if key != DIGEST}, sort_keys=True, default=str).encode())


def _check_unchanged(settings: Mapping[str, Any], store: Store) -> None:
    if DIGEST in settings and settings[DIGEST] != _digest_of_settings(settings):
        raise OptionError(
            f"{store}/{SETTINGS} is not as lucidcam wrote it (edited, or damaged); choose another folder, or restart it (restart=True, "
            "--restart)."
        )


def _settings(store: Store) -> dict[str, Any] | None:
    try:
        content = parsed_json(store.read(SETTINGS).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OptionError(f"cannot keep results in {store}: {error.strerror or error}.") from None
    except ValueError as error:
        raise OptionError(f"{store}/{SETTINGS} cannot be read ({first_line(error)}); give another folder.") from None
    return content if isinstance(content, dict) else {}


def _unwritable(what: str, error: OSError) -> DataError:
    return DataError(f"{what} cannot be written: {error.strerror or error}; mend that and run again: what was written before is kept.")
