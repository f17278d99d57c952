"""Uploaded photos: in files without a name, which nobody else can open, and which go with the process, however it ends."""

from __future__ import annotations

import errno
import hashlib
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

from lucidcam.errors import InputError
from lucidcam.utils.text import printable
from lucidcam.web.errors import NoRoomError, PhotoGoneError
from lucidcam.web.limits import Limits

MILLION = 1_000_000

BLOCK = 4096
"""Bytes that the smallest file takes on a disk."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""How a system tells that there is room for no more files."""


@dataclass(frozen=True, eq=False)
class Upload:
    """A file that a visitor sent.

    Attributes:
        id: what the visitor calls it by; nobody can guess it.
        name: the file's, as the visitor has it.
        digest: of its content: what is kept about a photo is found by it alone.
        length: in bytes.
    """

    id: str
    name: str
    digest: str
    length: int
    _file: IO[bytes] = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def shown_name(self) -> str:
        """The name without folders, short enough for a message and without characters that could not be printed."""
        return printable(PurePosixPath(self.name.replace("\\", "/")).name)[:80] or "photo"

    def read(self) -> bytes:
        """The content.

        Raises:
            PhotoGoneError: it went meanwhile.
        """
        try:
            with self._lock:
                self._file.seek(0)
                return self._file.read(self.length)
        except ValueError:  # the file is closed
            raise _gone() from None

    def close(self) -> None:
        """Give its room back."""
        with self._lock:
            self._file.close()


@dataclass(eq=False)
class Arriving:
    """An upload that is under way: its room is taken before the first byte comes.

    Attributes:
        limit: bytes that may come.
        room: bytes that are kept free for it; 0: it is a photo now, or was given up.
        length: bytes that came.
    """

    limit: int
    room: int
    length: int = 0
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile, repr=False)
    _digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16), repr=False)

    def write(self, part: bytes) -> None:
        """Take the next part.

        Raises:
            InputError: there is more than the visitor said.
        """
        self.length += len(part)
        if self.length > self.limit:
            raise InputError(f"expected a file of {self.limit} bytes, as the request said; more came.")
        self._digest.update(part)
        self._file.write(part)


class Store:
    """The photos of all visitors.

    Args:
        limits: how many there may be, how large, for how long.
        clock: seconds from any moment on.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._photos: OrderedDict[str, tuple[Upload, float]] = OrderedDict()  # by when they were asked about last
        self._stored = self._coming = self._uploads = 0

    @property
    def occupied(self) -> int:
        """Bytes that are taken or promised."""
        with self._lock:
            return self._stored + self._coming

    def __len__(self) -> int:
        return len(self._photos)

    @contextmanager
    def arriving(self, length: int) -> Iterator[Arriving]:
        """Keep room for an upload of so many bytes while it comes; what is not kept by `keep` within the block is given up.

        Raises:
            InputError: it is larger than a file may be, or empty.
            NoRoomError: everything that may lie here is under way already; or, also from within the block, the disk is full.
        """
        if length > self.limits.megabytes * MILLION:
            size = f"{length / MILLION:.1f} MB"
            raise InputError(f"expected a file of at most {self.limits.megabytes:g} MB; this one has {size}: make it smaller.")
        if length <= 0:
            raise InputError("expected a photo; the file is empty.")
        room = max(BLOCK, length)
        with self._lock:
            if self._coming + room > self.limits.room * MILLION or self._uploads >= self.limits.photos:
                raise NoRoomError("too many photos are being uploaded; try again in a minute.")
            self._coming += room
            self._uploads += 1
            going = self._make_room()
        for upload in going:
            upload.close()
        arriving = None
        try:
            arriving = Arriving(length, room)
            yield arriving
        except OSError as error:
            if error.errno in FULL:
                raise NoRoomError("there is no more room on the server; try again later.") from None
            raise
        finally:
            if arriving is None or arriving.room:
                with self._lock:
                    self._coming -= room
                    self._uploads -= 1
                if arriving is not None:
                    arriving._file.close()

    def keep(self, arriving: Arriving, name: str) -> Upload:
        """Make a photo of an upload that has come whole."""
        upload = Upload(secrets.token_urlsafe(16), name[:500], arriving._digest.hexdigest(), arriving.length, arriving._file)
        arriving._file.flush()
        with self._lock:  # no moment in which its room counts twice, which would push others out
            self._coming -= arriving.room
            self._uploads -= 1
            arriving.room = 0
            self._photos[upload.id] = upload, self._clock()
            self._stored += max(BLOCK, upload.length)
        return upload

    def add(self, content: bytes, name: str) -> Upload:
        """Keep a content that is there already.

        Raises:
            LucidcamError: as for `arriving`.
        """
        with self.arriving(len(content)) as arriving:
            arriving.write(content)
            return self.keep(arriving, name)

    def get(self, photo_id: str) -> Upload:
        """A photo by its id.

        Raises:
            PhotoGoneError: there is none.
        """
        with self._lock:
            going = self._make_room()
            entry = self._photos.get(photo_id)
            if entry is not None:
                self._photos[photo_id] = entry[0], self._clock()
                self._photos.move_to_end(photo_id)
        for upload in going:
            upload.close()
        if entry is None:
            raise _gone()
        return entry[0]

    def sweep(self) -> None:
        """Let go what nobody has asked about for too long."""
        with self._lock:
            going = self._make_room()
        for upload in going:
            upload.close()

    def remove(self, photo_id: str) -> None:
        """Let a photo go; one that is not there is no error."""
        with self._lock:
            entry = self._photos.pop(photo_id, None)
            if entry is not None:
                self._stored -= max(BLOCK, entry[0].length)
        if entry is not None:
            entry[0].close()

    def close(self) -> None:
        """Let all of them go."""
        with self._lock:
            going = [upload for upload, _ in self._photos.values()]
            self._photos.clear()
            self._stored = 0
        for upload in going:
            upload.close()

    def _make_room(self) -> list[Upload]:
        """Take out what is too old, and as many of the oldest as have to go for what is coming."""
        going, old = [], self._clock() - self.limits.kept
        while self._photos:
            upload, used = next(iter(self._photos.values()))
            fits = self._stored + self._coming <= self.limits.room * MILLION and len(self._photos) + self._uploads <= self.limits.photos
            if fits and used >= old:
                break
            del self._photos[upload.id]
            self._stored -= max(BLOCK, upload.length)
            going.append(upload)
        return going


def _gone() -> PhotoGoneError:
    return PhotoGoneError("the photo is no longer on the server; give it again.")
