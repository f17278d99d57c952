"""What objects say of themselves in a console: one line, under 200 characters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

LONGEST = 199
"""Characters of a line at most."""

ROOMS = 160, 60, 36, 20, 10
"""Characters that each value may take; where the line is too long with one, the next is tried."""

SHOWN = 3
"""Items of a longer sequence that are shown."""

DIGITS = 8
"""Characters up to which a number with a point is written in full."""

WHOLE = 20
"""Characters that every whole number may have."""

HUGE = 10**100
"""Whole numbers from here on are not written out."""

FEW = 8
"""Numbers of an array that are shown; of larger ones only the shape is."""


class OneLineRepr:
    """Gives dataclasses that inherit from it a `repr` of one line: as Python's own, but that long values are cut, and those that are as
    usual left out, where it would be too long.
    """  # noqa: D205

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # `dataclass` would write its own
            cls.__repr__ = OneLineRepr.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        line = _line(type(self).__qualname__, self._shown(), ROOMS[0])
        return line if len(line) <= LONGEST and "…" not in line else one_line(type(self).__qualname__, self._shown(changed=True))

    def _within(self, room: int) -> str:
        """In so many characters: the first of those fields that are not as usual."""
        pairs = list(self._shown(changed=True))
        for count in range(len(pairs), -1, -1):
            dots = ", …" if 0 < count < len(pairs) else "…" if pairs and not count else ""
            line = f"{_line(type(self).__qualname__, pairs[:count], room)[:-1]}{dots})"
            if len(line) <= room:
                return line
        return cut(line, room)

    def _shown(self, changed: bool = False) -> list[tuple[str, Any]]:
        """Names and values of the fields; of those alone that are not as usual, where only what is `changed` is asked for."""
        shown: list[Field[Any]] = [each for each in fields(self) if each.repr] if is_dataclass(self) else []
        pairs = ((each, getattr(self, each.name)) for each in shown)
        return [(each.name, value) for each, value in pairs if not (changed and _is_default(each, value))]


def one_line(name: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """A `repr` of one line.

    Args:
        name: of the class.
        pairs: names and values of what is shown; a value without a name stands by itself.

    >>> one_line("Model", [("", "demo"), ("classes", range(1000))])
    "Model('demo', classes=range(0, 1000))"
    """
    pairs = list(pairs)
    for room in ROOMS:
        line = _line(name, pairs, room)
        if len(line) <= LONGEST:
            return line
    return cut(line, LONGEST - 1) + ")"


def brief(value: Any, room: int = 60) -> str:
    """A value in one line of at most `room` characters.

    >>> brief("a" * 100, 10), brief(list(range(100)), 30)
    ("'aaaaaaa…'", '[0, 1, 2, … 100 in all]')
    """
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= room else f"{text[: room - 2]}…{text[-1]}"
    if isinstance(value, float):
        text = repr(float(value))
        return text if len(text) <= DIGITS else f"{value:.6g}"
    if type(value) is int:
        return cut(repr(value), max(room, WHOLE)) if abs(value) < HUGE else "int(…)"  # Python writes out 4,300 digits at most
    if isinstance(value, os.PathLike):
        return brief(os.fspath(value), room)
    if type(value) in (list, tuple, set, frozenset, dict):
        return _sequence(value, room)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return cut(_array(value), room)
    if hasattr(value, "__qualname__"):
        return cut(value.__qualname__, room)
    if callable(getattr(value, "forward", None)):  # a network's own runs over many lines
        return cut(type(value).__name__, room)
    try:
        text = _joined(repr(value))
    except Exception:  # of the user's own, or of a value that was not made whole
        return cut(f"{type(value).__name__}(…)", room)
    if len(text) <= room:
        return text
    return value._within(room) if isinstance(value, OneLineRepr) else cut(f"{type(value).__name__}(…)", room)


def cut(text: str, room: int) -> str:
    """A text of at most `room` characters; what is left out is an ellipsis."""
    text = _joined(text)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _line(name: str, pairs: Iterable[tuple[str, Any]], room: int) -> str:
    return f"{name}({', '.join(f'{key}={brief(value, room)}' if key else brief(value, room) for key, value in pairs)})"


def _joined(text: str) -> str:
    """A text on one line, with single spaces."""
    return " ".join(text.split())


def _sequence(value: Any, room: int) -> str:
    first, last = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    texts = []
    for item in value if len(value) <= SHOWN + 1 else list(value)[:SHOWN]:
        texts.append(f"{brief(item, room)}: {brief(value[item], room)}" if isinstance(value, Mapping) else brief(item, room))
    if len(value) > len(texts) or len(", ".join(texts)) > room - 2:
        while texts and len(", ".join(texts)) > room - len(f", … {len(value)} in all") - 2:
            texts.pop()
        texts.append(f"… {len(value)} in all")
    elif isinstance(value, tuple) and len(value) == 1:
        texts.append("")
    return f"{first}{', '.join(texts).removesuffix(' ')}{last}"


def _array(value: Any) -> str:
    shape, kind = list(value.shape), type(value).__name__
    count = 1
    for length in shape:
        count *= length
    if count <= FEW and len(shape) <= 1:
        try:
            return str(value.tolist())
        except (RuntimeError, NotImplementedError, TypeError):  # without values: sparse ones, meta tensors
            pass
    return f"{kind} {str(value.dtype).removeprefix('torch.')} {shape}"


def _is_default(each: Field[Any], value: Any) -> bool:
    if each.default is not MISSING:
        return value is each.default or (type(value) in (bool, int, float, str, tuple) and value == each.default)
    return each.default_factory is not MISSING and type(value) in (list, dict, tuple, set) and not value
