"""What a request says, read field by field: of the kind that is expected, within its bounds, and nothing besides."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lucidcam.errors import OptionError, unknown
from lucidcam.utils.text import printable

LONGEST = 100
"""Letters of a name or label."""


def parsed(body: bytes) -> Any:
    """A request's JSON.

    Raises:
        OptionError: it is none, or holds numbers that are none (NaN, Infinity).
    """
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):  # not UTF-8, no JSON, numbers of thousands of digits, lists in lists in lists
        raise OptionError("expected JSON.") from None


def _no_number(word: str) -> Any:
    raise ValueError(word)


class Fields:
    """The fields of a JSON object.

    Args:
        value: as it was sent.
        known: names of fields that there are.
        what: it is, for messages.

    Raises:
        OptionError: it is no object, or has other fields.
    """

    def __init__(self, value: Any, known: Collection[str], what: str = "a request") -> None:
        if not isinstance(value, Mapping):
            raise OptionError(f"expected {what} as a JSON object with {', '.join(known)}; got {shown(value)}.")
        for name in value:
            if name not in known:
                raise OptionError(unknown(f"field of {what}", printable(name[:LONGEST]), known))
        self._value = value

    def text(self, name: str, default: str | None = None, longest: int = LONGEST) -> str:
        """A text; a field that is missing, or null, is the default.

        Raises:
            OptionError: it is something else, too long, or missing without a default.
        """
        value = self._value.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise OptionError(f"expected a text as {name}; got {shown(value)}.")
        if len(value) > longest:
            raise OptionError(f"expected at most {longest} letters as {name}; got {len(value)}.")
        return value

    def number(self, name: str, default: float | None, low: float, high: float) -> float:
        """A number within bounds, both included.

        Raises:
            OptionError: it is something else, or missing without a default.
        """
        value = self._value.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise OptionError(f"expected a number from {low:g} to {high:g} as {name}; got {shown(value)}.")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds, both included.

        Raises:
            OptionError: it is something else.
        """
        value = self.number(name, default, low, high)
        if value != math.floor(value):
            raise OptionError(f"expected a whole number as {name}; got {value:g}.")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            OptionError: it is something else.
        """
        value = self._value.get(name, default)
        if not isinstance(value, bool):
            raise OptionError(f"expected true or false as {name}; got {shown(value)}.")
        return value

    def several(self, name: str, most: int) -> Sequence[Any]:
        """A list of texts and whole numbers (class ids); missing: an empty one.

        Raises:
            OptionError: it is something else, or longer.
        """
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise OptionError(f"expected a list as {name}; got {shown(value)}.")
        if len(value) > most:
            raise OptionError(f"expected at most {most} entries in {name}; got {len(value)}.")
        return [_entry(each, name) for each in value]

    def class_name(self, name: str) -> str | int | None:
        """A class id or label; None where there is none.

        Raises:
            OptionError: it is something else.
        """
        value = self._value.get(name)
        return None if value is None or value == "" else _entry(value, name)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A JSON object; missing: an empty one.

        Raises:
            OptionError: it is something else.
        """
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise OptionError(f"expected a JSON object as {name}; got {shown(value)}.")
        return value


def _entry(value: Any, name: str) -> str | int:
    if isinstance(value, str) and len(value) <= LONGEST:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return value
    raise OptionError(f"expected texts of at most {LONGEST} letters and ids in {name}; got {shown(value)}.")


def shown(value: Any) -> str:
    """A value in a message: short, and in characters that can be printed."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return printable(str(value)[:40]) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
