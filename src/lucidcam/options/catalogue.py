"""What methods and metrics say of themselves, read from a file beside this one: listing them needs neither their code nor torch.

`python -m lucidcam.options.catalogue` writes the file anew; the tests say when that is due. Until then, and wherever methods are
imported already, the registries are asked instead: the answers are the same, and those of a method that was just added are there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lucidcam import registry
from lucidcam.errors import OptionError, unknown

FILE = Path(__file__).with_suffix(".json")

SIMPLE: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
"""The types of options that are no choice between words."""

WORDS = {"bool": "on or off", "int": "whole number", "float": "number", "str": "text"}
"""What each of them is called."""

COSTS = {"activation": "1 forward", "gradient": "1 forward", "pixel": "1 forward and backward"}
"""What a method takes that says nothing more of it, by its kind."""

_DECLARATION = re.compile(rb"^(?:@register|class |    [a-z_]+(?:: | = )).*$", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One option of a method or metric.

    Attributes:
        name: as in Python.
        type: "bool", "int", "float" or "str", or the words that can be chosen.
        default: in words; "" where there is none.
        meaning: what the docstring says of it.
    """

    name: str
    type: str | tuple[str, ...]
    default: str
    meaning: str

    @property
    def annotation(self) -> Any:
        """The type that a text is converted to."""
        return SIMPLE[self.type] if isinstance(self.type, str) else Literal[self.type]


@dataclass(frozen=True)
class Entry:
    """One method or metric.

    Attributes:
        name: the registered name.
        columns: what a table of all says of it.
        paper: where it was published.
        about: a line between text and options.
        paragraphs: of its docstring.
        options: its own.
    """

    name: str
    columns: tuple[str, ...]
    paper: str
    about: str
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]

    @property
    def types(self) -> dict[str, Any]:
        """Name and type of each option."""
        return {option.name: option.annotation for option in self.options}


class Catalogue(Mapping[str, Entry]):
    """Entries by name, in alphabetical order.

    Raises:
        OptionError: on a name that there is none of, with the nearest names.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = entries

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise OptionError(unknown(self.kind, name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def methods() -> Catalogue:
    """Every method."""
    entries = None if _are_imported("methods") else _stored("methods")
    return Catalogue("method", entries or {name: _of_method(name, kind) for name, kind in registry.methods.items()})


def metrics() -> Catalogue:
    """Every metric."""
    entries = None if _are_imported("metrics") else _stored("metrics")
    return Catalogue("metric", entries or {name: _of_metric(name, kind) for name, kind in registry.metrics.items()})


def settings() -> Entry:
    """The options that every method has."""
    entries = None if _are_imported("methods") else _stored("settings")
    return (entries or _of_settings())["settings"]


def _are_imported(package: str) -> bool:
    return f"lucidcam.{package}._base" in sys.modules


def _of_method(name: str, kind: Any) -> Entry:
    return _entry(name, kind, (kind.paper, kind.cost or COSTS.get(kind.kind, "")))


def _of_metric(name: str, kind: Any) -> Entry:
    better = {True: "higher", False: "lower", None: ""}[kind.figures[0].higher_is_better]
    figures = ", ".join(f"{figure.name}{f' in {figure.unit}' if figure.unit else ''}" for figure in kind.figures)
    return _entry(name, kind, (kind.paper, kind.needs or "images", better), f"Figures: {figures}")


def _of_settings() -> dict[str, Entry]:
    from lucidcam.methods.settings import Settings

    return {"settings": _entry("settings", Settings, ())}


def _entry(name: str, kind: Any, columns: tuple[str, ...], about: str = "") -> Entry:
    paragraphs, meanings = described(kind)
    hints = get_type_hints(kind)
    options = tuple(
        Option(field.name, _type_of(hints[field.name]), default_of(field), meanings.get(field.name, "")) for field in fields(kind)
    )
    return Entry(name, columns, getattr(kind, "paper", ""), about, tuple(paragraphs), options)


def _type_of(annotation: Any) -> str | tuple[str, ...]:
    """How an option is written on a command line: of several types the first that is not None."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((name for name, simple in SIMPLE.items() if simple is annotation), "str")


def words_for(annotation: Any) -> str:
    """An option's type in words: its choices, "whole number", "number", …."""
    kind = _type_of(annotation)
    return (
        {"bool": "on or off", "int": "whole number", "float": "number", "str": "text"}[kind] if isinstance(kind, str) else " or ".join(kind)
    )


def default_of(field: Field[Any]) -> str:
    """A field's default in words."""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default is MISSING else str(field.default)


def described(kind: type) -> tuple[list[str], dict[str, str]]:
    """A method's docstring as paragraphs of any width, and what its attributes mean, those of its bases included."""
    paragraphs: list[str] = []
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text, _, remainder = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        attributes = remainder.partition("\nRaises:\n")[0].partition("\n>>> ")[0]
        for entry in re.split(r"\n(?=    \w+: )", "\n" + attributes):
            name, colon, meaning = entry.strip().partition(": ")
            if colon:
                meanings[name] = " ".join(meaning.split())
        if base is kind:
            prose = text.partition("\nRaises:\n")[0].partition("\n>>> ")[0]
            paragraphs = [" ".join(part.split()) for part in prose.split("\n\n") if part.strip()]
    return paragraphs, meanings


# ------------------------------------------------------------------------------------------------------------------------- the file


def digest() -> str:
    """Of the lines that declare methods, metrics and their options: where they changed, the file is out of date."""
    root = FILE.parent.parent
    sources = [*(root / "methods").glob("*.py"), *(root / "metrics").glob("*.py"), *(root / "perturb").glob("*.py")]
    state = hashlib.sha256()
    for path in sorted(sources):
        state.update(f"\0{path.parent.name}/{path.name}\0".encode())
        state.update(b"\n".join(_DECLARATION.findall(path.read_bytes().replace(b"\r\n", b"\n"))))
    return state.hexdigest()


def content() -> dict[str, Any]:
    """All that the file holds, from the registries."""
    return {
        "digest": digest(),
        "settings": [asdict(entry) for entry in _of_settings().values()],
        "methods": [asdict(_of_method(name, kind)) for name, kind in registry.methods.items()],
        "metrics": [asdict(_of_metric(name, kind)) for name, kind in registry.metrics.items()],
    }


@lru_cache(maxsize=1)
def _read() -> dict[str, Any] | None:
    """The file's content; None where it is not there or out of date."""
    try:
        stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
        return stored if stored["digest"] == digest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stored(section: str) -> dict[str, Entry] | None:
    stored = _read()
    return None if stored is None else {raw["name"]: _restored(raw) for raw in stored[section]}


def _restored(raw: Mapping[str, Any]) -> Entry:
    return Entry(
        raw["name"],
        tuple(raw["columns"]),
        raw["paper"],
        raw["about"],
        tuple(raw["paragraphs"]),
        tuple(Option(o["name"], _tuple_or_text(o["type"]), o["default"], o["meaning"]) for o in raw["options"]),
    )


def _tuple_or_text(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
