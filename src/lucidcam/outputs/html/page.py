"""From blocks to the file."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from lucidcam.io.ownership import check_document
from lucidcam.io.storage import write_whole
from lucidcam.outputs.html import charts
from lucidcam.outputs.html.blocks import Cell, Fold, Gallery, Page, Section, Shot, Table
from lucidcam.outputs.html.pictures import BUDGET, encoded

if TYPE_CHECKING:
    from jinja2 import Environment


def write(page: Page, path: str | os.PathLike[str], budget: int = BUDGET) -> Path:
    """Write a page as one HTML file, whole or not at all.

    Args:
        page: what to show.
        path: where to; folders are made.
        budget: bytes that all its pictures may take together; they get smaller the more there are.

    Returns:
        The path.

    Raises:
        OptionError: a file is there that is no page of lucidcam's.
        DataError: when it cannot be written.
    """
    path = Path(path)
    check_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(page, budget).encode())
    return path


def check_page(path: str | os.PathLike[str]) -> None:
    """Refuse to replace a file that is no page of lucidcam's, by what it holds; an empty one may be replaced.

    Raises:
        OptionError: a file of someone else's is there.
    """
    check_document(path, '<meta name="generator" content="lucidcam">')


def render(page: Page, budget: int = BUDGET) -> str:
    """A page as HTML that holds all it shows; the same page gives the same text.

    Args:
        page: what to show.
        budget: bytes that all its pictures may take together.
    """
    pictures = [picture for shot in _shots(page.sections) for picture in shot.pictures]
    uris = dict(zip(map(id, pictures), encoded(pictures, budget), strict=True))
    environment = _environment()
    script = _resource(environment, "script.js")
    shared = {
        "anchors": _Anchors(page),
        "uri": lambda picture: uris[id(picture)],
        "script": Markup(script),
        "style": Markup(_resource(environment, "style.css")),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template("page.html.jinja").render(page=page, **shared)


def _resource(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # when a page is made, not when lucidcam is imported

    environment = Environment(
        loader=PackageLoader("lucidcam.outputs.html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _clean_number, "paragraphs": _paragraphs, "clean": _clean, "fact": _fact}
    environment.globals |= {"chart": charts.chart, "bar_axis": charts.bar_axis, "bar_places": charts.bar_places}
    environment.globals |= {"numeric": _numeric, "cell": _cell, "heads": _heads}
    return environment


class _Anchors:
    """The address of every section, fold and shot: its own anchor, or one made from its title; never the same twice."""

    def __init__(self, page: Page) -> None:
        self._found: dict[int, str] = {}
        used = {"top", "main"}
        wanted = [(each, each.anchor) for each in (*_headed(page.sections), *_shots(page.sections))]
        # Those that were asked for first: what leads to them must not be sent elsewhere.
        for each, own in sorted(wanted, key=lambda pair: not pair[1]):
            if isinstance(each, Shot) and not own:
                continue
            stem = _slug(own or each.title)  # type: ignore[union-attr]
            anchor, count = stem, 2
            while anchor in used:
                anchor, count = f"{stem}-{count}", count + 1
            used.add(anchor)
            self._found[id(each)] = anchor
        self._targets = frozenset(used)

    def of(self, block: Section | Fold | Shot) -> str:
        """The address of a block; "" for a shot that nothing leads to."""
        return self._found.get(id(block), "")

    def to(self, anchor: str) -> str:
        """The address that leads to an anchor; "" where the page has none such."""
        return f"#{_slug(anchor)}" if anchor and _slug(anchor) in self._targets else ""


def _slug(text: str) -> str:
    """Text as an address: letters and digits of any script, everything else a hyphen."""
    return "s-" + re.sub(r"[^\w]+", "-", text.casefold()).strip("-")[:60]


def _headed(parts: Iterable[Any]) -> Iterator[Section | Fold]:
    for part in parts:
        if isinstance(part, (Section, Fold)):
            yield part
            yield from _headed(part.parts)


def _shots(parts: Iterable[Any]) -> Iterator[Shot]:
    for part in parts:
        if isinstance(part, (Section, Fold)):
            yield from _shots(part.parts)
        elif isinstance(part, Gallery):
            yield from part.shots


def _cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _heads(table: Table) -> str:
    return ", ".join(str(_cell(each).value) for each in table.head)


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers."""
    columns: Sequence[Sequence[Any]] = list(zip(*table.rows)) or [()] * len(table.head)
    return [
        i in table.numeric
        or (any(_is_number(_cell(each).value) for each in column) and not any(isinstance(_cell(each).value, str) for each in column))
        for i, column in enumerate(columns)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _clean_number(value: object) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    return _clean(charts.number(value))


def _fact(value: object) -> str:
    """A setting's value in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_clean(str(key))}: {_fact(each)}" for key, each in value.items()) or "–"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_fact(each) for each in value) or "–"
    return _clean_number(value) or "–"


def _clean(text: object) -> str:
    """Text without what no HTML document may hold: control characters and lone surrogates (names of files have some)."""
    whole = str(text).encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", whole)


def _paragraphs(text: str) -> list[str]:
    return [each for each in (part.strip() for part in re.split(r"\n\s*\n", _clean(text))) if each]
