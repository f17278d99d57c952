"""What a visitor asks, checked: which method with which options, about which classes."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lucidcam import registry
from lucidcam.errors import OptionError, TargetError, unknown
from lucidcam.methods._base import Method
from lucidcam.settings import resolve_method
from lucidcam.targets import Contrast
from lucidcam.types import Model

TIMES = 4
"""A number may be so many times its default at most: nobody may keep the server busy for hours."""

AT_LEAST = 256
"""But every whole number may be at least this (budgets and the like, whose default is 0)."""

NOT_HERE = frozenset({"mcam"})
"""Methods that read a file of the server."""


@dataclass(frozen=True)
class Choice:
    """One option of a method, as something to be set.

    Attributes:
        name: of the field.
        kind: bool, int, float, str or "one of".
        default: of the field.
        low: the least value of a number.
        high: the largest value of a number.
        among: what can be chosen.
    """

    name: str
    kind: Literal["bool", "int", "float", "str", "one of"]
    default: Any
    low: float | None = None
    high: float | None = None
    among: tuple[str, ...] = ()

    def checked(self, value: Any) -> Any:
        """A value within its bounds.

        Raises:
            OptionError: it is outside them.
        """
        if self.kind in ("int", "float") and isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.kind == "int" and isinstance(value, float) and value.is_integer():
                value = int(value)
            if not (self.low or 0) <= value <= (self.high or 0):
                raise OptionError(f"expected {self.name} between {self.low:g} and {self.high:g} here; got {str(value)[:80]}.")
        if self.kind == "str" and len(str(value)) > 20:
            raise OptionError(f"expected a short text as {self.name}; got {len(str(value))} letters.")
        if self.kind == "one of" and value not in self.among:
            raise OptionError(unknown(self.name, str(value), self.among))
        return value


def choices(method: str) -> list[Choice]:
    """The options of a method that a visitor may set."""
    kind: type[Method] = registry.methods[method]
    hints = get_type_hints(kind)
    return [_choice(each, hints[each.name]) for each in fields(kind)]


def _choice(field: Field[Any], hint: Any) -> Choice:
    if get_origin(hint) is Literal:
        return Choice(field.name, "one of", field.default, among=tuple(map(str, get_args(hint))))
    if get_origin(hint) in (Union, types.UnionType) or hint is str:
        return Choice(field.name, "str", field.default)
    if hint is bool:
        return Choice(field.name, "bool", field.default)
    usual: Any = field.default
    if hint is int:
        return Choice(field.name, "int", usual, 0, max(AT_LEAST, TIMES * usual))
    return Choice(field.name, "float", usual, 0.0, max(1.0, TIMES * usual))


def options(text: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each method, from `{"scorecam": {"budget": 64}}`, checked.

    Raises:
        OptionError: for text that is none of this kind, and for an option or value that there is not.
    """
    try:
        given = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise OptionError('expected options as JSON, {"scorecam": {"budget": 64}} for instance.')
    found = {}
    for method in methods:
        known = {each.name: each for each in choices(method)}
        mine: Mapping[str, Any] = given.get(method, {})
        for name in mine:
            if name not in known:
                raise OptionError(f"{method}: {unknown('option', name, known)}")
        found[method] = {name: known[name].checked(_typed(known[name], value)) for name, value in mine.items()}
        resolve_method(method, found[method])
    return found


def _typed(choice: Choice, value: Any) -> Any:
    """A text that is a number as one, where an option may be either (baselines)."""
    if choice.kind == "str" and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"expected a number that is finite as {choice.name}; got {value}.")
    return value


def whole(number: Any, what: str, count: int) -> int:
    """A whole number from 0, below a count.

    Args:
        number: as it was sent.
        what: it is, for the message.
        count: of those there are.

    Raises:
        OptionError: it is something else.
    """
    # JSON has whole numbers that are too large for a float.
    fits = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    if not fits or not 0 <= number < count:
        raise OptionError(f"expected {what} from 0 to {count - 1}; got {str(number)[:80]}.")
    return int(number)


def targets(model: Model, chosen: Sequence[str], others: str, against: str) -> list[Any]:
    """The classes that are asked about, as targets.

    Args:
        model: the network.
        chosen: class ids as text.
        others: more labels or ids, separated by semicolons.
        against: rather than this label or id; "" for none.

    Returns:
        Class ids, or contrasts.

    Raises:
        TargetError: for a class that there is not.
    """
    words = [*chosen, *(word for word in others.split(";") if word.strip())]
    if any(not isinstance(word, str) or len(word) > 200 for word in words) or len(against) > 200:
        raise TargetError("expected class labels or ids of at most 200 letters.")
    ids = list(dict.fromkeys(model.find_label(word) for word in words))
    if not against.strip():
        return ids
    other = model.find_label(against)
    if ids == [other]:
        raise TargetError(f"{model.label(other)!r} rather than itself cannot be explained; choose another class.")
    return [Contrast(each, other) for each in ids if each != other]
