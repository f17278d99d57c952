"""What every kind of report is: from a result, or its folder, to a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lucidcam.registry import Registry

if TYPE_CHECKING:
    from lucidcam.outputs.html import Page


class Kind(ABC):
    """A kind of result. Subclasses are final, have no state, and are registered by name.

    Class attributes:
        name: the registered name.
        about: what it is, in one line.
        file: what a finished folder of it holds at its top.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    file: ClassVar[str] = ""

    @abstractmethod
    def fits(self, result: Any) -> bool:
        """Whether a result is of this kind."""

    @abstractmethod
    def page(self, result: Any, **options: Any) -> Page:
        """The page of a result.

        Args:
            result: of this kind.
            options: the kind's own, by name.
        """

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """The result that a finished folder keeps.

        Raises:
            DataError: it cannot be read.
        """

    def holds(self, folder: Path) -> bool:
        """Whether a folder is one of this kind."""
        return (folder / self.file).is_file()


kinds: Registry[type[Kind]] = Registry("kind of report", "lucidcam.reports")
"""Every kind by name."""
