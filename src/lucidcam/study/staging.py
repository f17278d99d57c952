"""Results that appear in their folder all together, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from lucidcam.errors import OptionError
from lucidcam.io.ownership import LIST, OwnedFiles, listed
from lucidcam.io.storage import HALF


class Stage:
    """A temporary folder whose files become those of another folder at once; until then, that one is as it was.

    It lies beside the folder, or in it where the folder is there already: then a file system has no border between them. Its files are on
    a list of its own (`lucidcam.io.ownership`), so that even what a kill leaves is not taken for anybody's photos.

    Use `open` and `commit` in a `try` block, and `clear` in its `finally`: whenever that is reached, either all is there or nothing.

    Args:
        folder: where the results are to be.
        last: the name of the file that makes them whole: it comes last.
    """

    def __init__(self, folder: Path, last: str) -> None:
        self.folder, self.last = folder, last
        self._is_inside = folder.is_dir()
        name = f"{folder.name if not self._is_inside else '.lucidcam'}.{uuid.uuid4().hex[:12]}{HALF}"
        self.place = folder / name if self._is_inside else folder.with_name(name)
        self.files = OwnedFiles(self.place)
        self._made: list[Path] = []
        self._moved: list[str] = []
        self._list_bytes = 0

    def open(self) -> None:
        """Make the temporary folder.

        Raises:
            OptionError: it cannot be made.
        """
        try:
            self._make_parents(self.place)
            self.place.mkdir()
        except OSError as error:
            raise OptionError(f"cannot write to {str(self.folder)!r}: {error.strerror or error}; give another place.") from None

    def commit(self) -> None:
        """Put the files in their folder.

        Raises:
            OptionError: somebody else's files are there, of the same names; or the folder cannot be written to.
        """
        try:
            if not self._is_inside:
                self.place.rename(self.folder)
                return
            names = sorted(listed(self.place), key=lambda name: name == self.last)
            owned = OwnedFiles(self.folder)
            self._list_bytes = (self.folder / LIST).stat().st_size if (self.folder / LIST).exists() else 0
            for name in names:
                target = self.folder / name
                if name == self.last and os.path.lexists(target):
                    raise FileExistsError(None, f"{name} is there")
                self._make_parents(target)
                self._moved.append(name)
                (self.place / name).replace(owned.path(name))
        except OSError as error:
            raise OptionError(f"cannot write to {str(self.folder)!r}: {error.strerror or error}; give another place.") from None

    def clear(self) -> None:
        """Remove all that was made, unless it was committed; a second time there is nothing to do."""
        if self._moved and os.path.lexists(self.place / self.last):
            with suppress(OSError):
                self._take_back()
        shutil.rmtree(self.place, ignore_errors=True)
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir()  # only those that are empty

    def _take_back(self) -> None:
        """Take away what was moved, and its lines at the end of the list: without writing, for which there may be no space."""
        for name in self._moved:
            if not os.path.lexists(self.place / name):
                (self.folder / name).unlink(missing_ok=True)
        path = self.folder / LIST
        if path.exists():
            with path.open("rb") as file:
                before, after = file.read(self._list_bytes), file.read().decode(errors="replace")
            if before and set(after.splitlines()) <= set(self._moved):
                os.truncate(path, self._list_bytes)
            elif not before:
                path.unlink()

    def _make_parents(self, path: Path) -> None:
        for parent in reversed(path.parents):
            if not parent.exists():
                self._made.append(parent)
                parent.mkdir()
