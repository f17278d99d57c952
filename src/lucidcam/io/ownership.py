"""Which files in a folder lucidcam wrote: a list in the folder tells, and nothing else there is replaced or removed.

Each name is entered in the list before its file is made, so that a kill leaves no file that is on no list. A folder of work that is
resumed (`lucidcam.io.storage.workplace`) has its `settings.json` instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lucidcam.errors import OptionError
from lucidcam.io.storage import HOLDS, MADE_BY, SETTINGS, Folder, claimed, parsed_json

LIST = ".lucidcam-files"
"""The list of the files that were written to a folder, one a line."""

LARGEST_LIST = 2**28
"""Bytes of a list at most."""

LARGEST_IN_DATA = 2**24
"""Bytes of a `settings.json`, or of a list, at most that tells which files among data are lucidcam's: it may come with data of others."""

START = 2**16
"""Bytes of a file that tell what it is."""


class OwnedFiles:
    """The files of one folder that lucidcam may replace.

    Args:
        folder: is made when the first file is.
        inputs: files that are read meanwhile, and never replaced.
        works: kinds of work, "an evaluation", whose folder this may be: there the work's own files need no list.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = (), works: Iterable[str] = ()) -> None:
        self.folder = Path(folder).expanduser()
        self._inputs = frozenset(os.path.realpath(path) for path in inputs)
        self._listed = set(listed(self.folder))
        self._is_claimed = _is_claimed(self.folder, frozenset(works))

    def check(self, *patterns: str) -> None:
        """Refuse, before any work, a folder in which a file that is to be written is someone else's.

        Args:
            patterns: of the names, "evidence/*.png"; folders are looked into no deeper than these say.

        Raises:
            OptionError: one is.
        """
        for pattern in patterns:
            self._check_inside(self.folder / pattern)
            for path in sorted(self.folder.glob(pattern)):
                self._check(path.relative_to(self.folder).as_posix())

    def path(self, name: str) -> Path:
        """Enter a file in the list, before it is made or replaced.

        Args:
            name: within the folder, "classes/cat.png".

        Returns:
            Its path; the folder that it is in is made. A link is taken away: the file that it leads to is not written.

        Raises:
            OptionError: a file of this name is there that is someone else's, or is read meanwhile.
        """
        path = self.folder / name
        self._check_inside(path)
        self._check(name)
        try:
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                path.rmdir()  # an empty one, in the place of a file of ours, holds nothing of anyone's
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in self._listed and not self._is_claimed:
                append_line(self.folder / LIST, name)
                self._listed.add(name)
        except (OSError, ValueError) as error:  # a name with a null character is a ValueError
            raise OptionError(f"cannot write to {str(self.folder)!r}: {getattr(error, 'strerror', None) or error}.") from None
        return path

    def _check(self, name: str) -> None:
        path = self.folder / name
        if self._inputs and os.path.realpath(path) in self._inputs:
            raise OptionError(f"{str(path)!r} is read here and would be replaced; give another folder.")
        if not self._is_claimed and name not in self._listed and os.path.lexists(path):
            raise OptionError(
                f"{str(path)!r} is there, and was not written by lucidcam (it is not in {LIST}); give another folder, or take it away."
            )

    def _check_inside(self, path: Path) -> None:
        if path.parent != self.folder and not is_inside(path.parent, self.folder):
            raise OptionError(f"{str(path.parent)!r} leads out of {str(self.folder)!r}; take that link away, or give another folder.")


def check_document(path: str | os.PathLike[str], *marks: str) -> None:
    """Refuse to replace a named file that does not begin like what lucidcam writes to it; an empty one may be replaced.

    Args:
        path: of the file.
        marks: texts that are in its first lines.

    Raises:
        OptionError: it is someone else's.
    """
    file = Path(path).expanduser()
    try:
        if not file.is_file():
            return
        with file.open("rb") as content:
            start = content.read(START)
    except (OSError, ValueError):  # what cannot be read cannot be written either, which is told when it is tried
        return
    if start and not all(mark.encode() in start for mark in marks):
        raise OptionError(
            f"{os.fspath(path)!r} is there, and is not what lucidcam writes to such a file; give another name, or take it away."
        )


def check_not_input(path: str | os.PathLike[str], source: str) -> None:
    """Refuse to write over the picture that a result is of.

    Args:
        path: of the file that is to be written.
        source: what the picture is called: its path, where it has one.

    Raises:
        OptionError: both are one file.
    """
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):  # noqa: PTH110, PTH121
        raise OptionError(f"{os.fspath(path)!r} is the picture that is explained, and would be replaced; give another name.")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, links followed."""
    try:
        outer, inner = os.path.realpath(folder), os.path.realpath(path)
        return os.path.commonpath([outer, inner]) == outer
    except ValueError:  # names that no file can have, other drives
        return False


def listed(folder: Path) -> list[str]:
    """The names on a folder's list; none where there is no list, or where it is no plain text file.

    Raises:
        OptionError: the list cannot be read, or is no list.
    """
    path = folder / LIST
    try:
        if path.is_symlink() or not path.is_file():
            return []
        if path.stat().st_size > LARGEST_LIST:
            raise OptionError(f"{str(path)!r} has more than {LARGEST_LIST} bytes; give another folder.")
        return list(filter(None, path.read_text(encoding="utf-8").split("\n")))
    except UnicodeDecodeError:
        return []
    except (OSError, ValueError) as error:
        raise OptionError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def check_owned(folder: Path) -> None:
    """Refuse a folder with files of which there is no list of lucidcam's.

    Raises:
        OptionError: it holds some.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LIST).is_file():
        raise OptionError(f"{str(folder)!r} holds files that lucidcam did not write; give another folder, or take them away.")


def remove_owned(folder: Path) -> None:
    """Remove the files that a folder's list tells of, and the list. Names that lead out of the folder are passed over."""
    for name in listed(folder):
        path = folder / name.replace("\0", "")
        inside = ".." not in Path(name).parts and is_inside(path.parent, folder)
        if inside and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    if (folder / LIST).is_file():
        (folder / LIST).unlink()


class Written:
    """What lucidcam wrote below a folder that is looked through for data: its own pictures and labels are no photos to explain.

    A folder below it that holds a run, an evaluation or a training is lucidcam's with all that lies in it; of other folders, and of the one
    that is looked through, what their lists tell.

    Args:
        root: the folder that is looked through.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = _text(Path(root))
        self._known: dict[str, tuple[bool, frozenset[str]]] = {}

    def wrote(self, path: Path) -> bool:
        """Whether lucidcam wrote a file below the folder; its path begins as the folder's does."""
        folder, name = os.path.split(_text(path))
        while True:
            has_work, names = self._entry(folder)
            if name in names:
                return True
            if len(folder) <= len(self._root):
                return False
            if has_work:
                return True
            folder, last = os.path.split(folder)
            name = f"{last}/{name}"

    def without(self, files: Iterable[Path]) -> list[Path]:
        """Return the files that are not lucidcam's; all of them, where there are no others: then its results are what is meant."""
        every = list(files)
        return [path for path in every if not self.wrote(path)] or every

    def _entry(self, folder: str) -> tuple[bool, frozenset[str]]:
        if folder not in self._known:
            place = Path(folder)
            self._known[folder] = (holds_work(place), frozenset(_listed_or_none(place)))
        return self._known[folder]


def is_result(folder: Path) -> bool:
    """Whether all that a folder holds is lucidcam's: a run, an evaluation, a training, or files of its list."""
    if holds_work(folder):
        return True
    first = {name.split("/", 1)[0] for name in _listed_or_none(folder)}
    with suppress(OSError):
        return bool(first) and all(name in first for name in _visible(folder))
    return False


def holds_work(folder: Path) -> bool:
    """Whether a folder holds a run, an evaluation or a training of lucidcam's, by its `settings.json`."""
    path = folder / SETTINGS
    with suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size <= LARGEST_IN_DATA:
            content = parsed_json(path.read_text(encoding="utf-8"))
            return isinstance(content, dict) and content.get(MADE_BY) == "lucidcam" and HOLDS in content
    return False


def _listed_or_none(folder: Path) -> list[str]:
    """The names on a folder's list; none where it cannot be read, or is longer than one among data may be."""
    with suppress(OSError, OptionError):
        if (folder / LIST).stat().st_size <= LARGEST_IN_DATA:
            return listed(folder)
    return []


def _visible(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (each.name for each in entries if not each.name.startswith("."))


def _text(path: Path) -> str:
    """A path as text; the current folder is the empty one, as in the paths of its files."""
    return "" if path == Path() else str(path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file that grows; a link in its place is not followed.

    Raises:
        OSError: it cannot be written, or is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="\n") as file:
        file.write(f"{line}\n")
        file.flush()  # here, where an interrupt still closes the file: not later, when the line may have been taken back


def _is_claimed(folder: Path, works: frozenset[str]) -> bool:
    settings = claimed(Folder(folder)) if works else None
    return settings is not None and settings.get(MADE_BY) == "lucidcam" and settings.get(HOLDS) in works
