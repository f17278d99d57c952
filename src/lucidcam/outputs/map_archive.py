"""What every way to keep many maps is: the maps of some images in a row, packed into a few files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Read = Callable[[str], bytes]
LARGEST = 2**30
"""Bytes of the maps of one unit at most, as they are in memory."""


@dataclass(frozen=True, eq=False)
class Packable:
    """One map.

    Attributes:
        name: of the image and the class, for formats that name things.
        raw: the map `[h, w]`, float32, at the method's own resolution.
        picture: the overlay as PNG; only where the format asks for it.
    """

    name: str
    raw: Array = field(repr=False)
    picture: bytes | None = field(default=None, repr=False)


class Pack(ABC):
    """A format. Subclasses are final and have no state: the same maps give the same bytes.

    Class attributes:
        name: the registered name.
        about: what it is, in one line.
        pictures: whether it keeps overlays.
        keeps: whether the maps can be read back from it.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    pictures: ClassVar[bool] = False
    keeps: ClassVar[bool] = True

    @abstractmethod
    def files(self, number: int, maps: Sequence[Packable]) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files for the maps of unit `number`."""

    def maps(self, read: Read, number: int) -> list[Array]:
        """The maps of unit `number`, in order."""
        raise NotImplementedError(f"{self.name} keeps pictures, not maps")
