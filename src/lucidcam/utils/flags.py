"""How the fields of a group of options become flags of a command, and keywords of a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import wraps
from typing import Any, TypeVar

R = TypeVar("R")

OPTION = "option"
"""The key of a field's metadata under which its `Flag` stands."""


@dataclass(frozen=True)
class Flag:
    """How an option is presented.

    Attributes:
        help: what it means, with rich's markup.
        names: the flags, where they are not the field's name with dashes.
        metavar: what its value is called.
        panel: the heading that it is listed under.
        min: the least value.
    """

    help: str
    names: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str | None = None
    min: int | None = None


def option(default: Any, help: str, *names: str, metavar: str | None = None, panel: str | None = None, min: int | None = None) -> Any:
    """A field of a group; the arguments are the default and those of `Flag`."""
    return field(default=default, metadata={OPTION: Flag(help, names, metavar, panel, min)})


def flags_of_group(group: type) -> Mapping[str, Flag]:
    """The flag of each field of a group."""
    return {entry.name: entry.metadata[OPTION] for entry in fields(group)}


def takes(**groups: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a function a keyword for each field of the groups that it takes.

    Args:
        groups: of the function's parameters those that are groups, by name, with their dataclasses.

    Returns:
        A decorator. What it returns is called with the fields as keywords, which its signature and its docstring list in the group's place.
    """
    names = {group_name: [entry.name for entry in fields(group)] for group_name, group in groups.items()}

    def decorated(function: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            parameters += _keywords(groups[name]) if name in groups else [parameter]

        @wraps(function)
        def call(*args: Any, **values: Any) -> R:
            built = {
                name: group(**{field_name: values.pop(field_name) for field_name in names[name] if field_name in values})
                for name, group in groups.items()
            }
            return function(*args, **values, **built)

        call.__doc__ = _documented(function.__doc__ or "", groups)
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": signature.return_annotation}
        return call

    return decorated


def _documented(text: str, groups: Mapping[str, type]) -> str:
    """A docstring in which what a group's own docstring says of its fields stands in the place of the group."""
    text = inspect.cleandoc(text)
    for name, group in groups.items():
        attributes = inspect.cleandoc(group.__doc__ or "").partition("Attributes:\n")[2].rstrip()
        text = re.sub(rf"^ +{name}: keywords, .*$", lambda _, fields=attributes: fields, text, count=1, flags=re.MULTILINE)
    return text


def _keywords(group: type) -> list[inspect.Parameter]:
    """A keyword of each field."""
    return [
        inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=_default(entry), annotation=entry.type)
        for entry in fields(group)
    ]


def _default(entry: Field[Any]) -> Any:
    return inspect.Parameter.empty if entry.default is MISSING else entry.default
