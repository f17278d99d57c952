"""The files that a data set's lists name lie in its folder, or where the user allows it: lists may come from strangers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lucidcam.errors import DataError
from lucidcam.utils.text import printable

FIRST = 20
"""Names that are looked at before any image is read."""


@dataclass(frozen=True)
class Bounds:
    """The folders in which the files of one data set may lie.

    Attributes:
        roots: the data set's own folder first, then those that the user named.
    """

    roots: tuple[Path, ...]
    _written: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _resolved: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_written", [os.path.abspath(root) for root in self.roots])  # noqa: PTH100

    def allow(self, path: Path) -> bool:
        """Whether a path lies in one of the folders: as it is written, `..` taken out, and with its links followed.

        A path that is outside as it is written is not looked up on the disk, or on a server that it names.
        """
        written = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow the links
        real_roots = [self._real(str(root)) for root in self.roots]
        if not any(_is_below(written, root) for root in (*self._written, *real_roots)):
            return False
        try:
            folder, name = os.path.split(written)
            real = os.path.realpath(written) if os.path.islink(written) else os.path.join(self._real(folder), name)  # noqa: PTH114, PTH118
        except ValueError:  # no file can have such a name
            return True
        return any(_is_below(real, root) for root in real_roots)

    def exists(self, path: Path) -> bool:
        """Whether something is at a path; servers that it names are not asked."""
        is_share = os.path.abspath(path).startswith(("//", "\\\\"))  # noqa: PTH100
        try:
            return (self.allow(path) or not is_share) and path.exists()
        except OSError:  # a name longer than any can be
            return False

    def checked(self, path: Path, name: str) -> Path:
        """Return a path that a list names.

        Raises:
            DataError: it lies elsewhere.
        """
        if not self.allow(path):
            raise self.refused(name, [path])
        return path

    def check_first(self, paths: Iterable[tuple[str, Path]]) -> None:
        """Refuse a data set of which all first files lie elsewhere, before any work.

        Raises:
            DataError: they do; with the folder that they lie in.
        """
        first = [pair for _, pair in zip(range(FIRST), paths)]
        if first and not any(self.allow(path) for _, path in first):
            raise self.refused(first[0][0], [path for _, path in first])

    def refused(self, name: str, paths: Iterable[Path]) -> DataError:
        """The error of files that lie elsewhere."""
        folders = [str(Path(os.path.abspath(path)).parent) for path in _leading_to(paths)]  # noqa: PTH100
        try:
            folder = os.path.commonpath(folders)
        except ValueError:  # several drives
            folder = folders[0]
        return DataError(
            f"{printable(name)!r} lies outside of the data set's folder, {str(self.roots[0])!r}; if it is meant to, allow files of another "
            f"folder: data_root={printable(folder)!r} (--data-root)."
        )

    def _real(self, folder: str) -> str:
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(folder)
        return self._resolved[folder]


def _leading_to(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths, and for links what they lead to."""
    for path in paths:
        try:
            yield Path(os.path.realpath(path)) if path.is_symlink() else path
        except (OSError, ValueError):
            yield path


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
