"""Reports to hand over: one HTML file that holds all it shows, of any result.

A kind of result is one file here, a `Kind` registered by name; how a page looks is `lucidcam.outputs.html`'s matter.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import check_writable_file
from lucidcam.reports._base import Kind, kinds

if TYPE_CHECKING:
    from lucidcam.outputs.html import Page

__all__ = ["Kind", "check", "kinds", "open_folder", "page", "report"]


def report(result: Any, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None, **options: Any) -> Path:
    """Write a result as one HTML file that holds all it shows: it opens from disk, without a network, on any screen and on paper.

    Args:
        result: what `lucidcam.explain`, `lucidcam.evaluate`, `lucidcam.run` or `lucidcam.audit` returned; or the folder that one of the
            commands of these names wrote.
        path: of the file; folders are made.
        title: of the page; None: what the result is of.
        command: the command line that made the result, where there is one.
        options: of the kind of result: see `docs/report.md`.

    Returns:
        The path.

    Raises:
        OptionError: for a result that no report is made of, a name that does not end in `.html`, or an unknown option.
        DataError: for a folder without a result, or where the file cannot be written.
    """
    from lucidcam.outputs.html import write

    target = check(path)
    return write(page(result, title=title, command=command, **options), target)


def check(path: str | os.PathLike[str]) -> Path:
    """The path of a report that can be written, found out before any work.

    Raises:
        OptionError: it does not end in `.html`, nothing can be written there, or a file is there that is no page of lucidcam's.
    """
    from lucidcam.outputs.html import check_page

    target = Path(path).expanduser()
    if target.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"a report is one HTML file: expected a name that ends in .html; got {os.fspath(path)!r}.")
    check_writable_file(target)
    check_page(target)
    return target


def page(result: Any, *, title: str | None = None, command: str | None = None, **options: Any) -> Page:
    """The page that `report` writes, as blocks (see `lucidcam.outputs.html`).

    Raises:
        OptionError: for a result that no report is made of, or an unknown option.
        DataError: for a folder without a result.
    """
    from lucidcam.reports._files import reading
    from lucidcam.reports._made import section

    if isinstance(result, (str, os.PathLike)):
        with reading(os.fspath(result), "a result"):  # whatever is damaged may be come upon only when it is drawn
            return page(open_folder(result), title=title, command=command, **options)
    for name in kinds:
        kind = kinds[name]()
        if kind.fits(result):
            try:
                found = kind.page(result, **options)
            except TypeError as error:
                if "unexpected keyword argument" in str(error) and f"{type(kind).__name__}.page" in str(error):
                    raise OptionError(f"a report of {kind.about} has no option {str(error).rpartition(' ')[2]}.") from None
                raise
            return replace(found, title=title or found.title, sections=(*found.sections, section(command)))
    known = ", ".join(kinds[name].about for name in kinds)
    raise OptionError(f"no report is made of {type(result).__name__}; expected {known}, or the folder of one.")


def open_folder(folder: str | os.PathLike[str]) -> Any:
    """The result that a finished folder of a command keeps.

    Raises:
        DataError: there is no such folder, or none of the commands wrote it.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"expected the folder of a result; {place} is {'a file' if place.exists() else 'not there'}.")
    for name in kinds:
        kind = kinds[name]()
        if kind.holds(place):
            return kind.read(place)
    files = ", ".join(f"{kinds[name].file} ({name})" for name in kinds)
    raise DataError(f"{place} holds no result: none of {files} is in it; give the folder that a command wrote (--out).")
