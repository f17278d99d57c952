"""The options of methods, among the paths or behind a name: their texts become values of the fields' types."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from lucidcam.cli._usage import flags_of
from lucidcam.errors import OptionError, nearest, unknown
from lucidcam.options import catalogue

if TYPE_CHECKING:
    import typer

CHECKPOINT_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".onnx"})
"""Of files that are taken for a network's weights, never for data."""


def method_flags(context: typer.Context, names: Sequence[str], words: Sequence[str]) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Each method with the flags that are its own (or every method's), checked; and what is left of the words."""
    known_methods = catalogue.methods()
    general = catalogue.settings().types
    own = {name: known_methods[name].types for name in names}
    known = {option: kind for options in [general, *own.values()] for option, kind in options.items()}
    paths, options = split_flags(words, known, flags_of(context.command))
    chosen = [(name, {k: v for k, v in options.items() if k in general or k in own[name]}) for name in names]
    for path in paths:
        if Path(path).suffix.lower() in CHECKPOINT_SUFFIXES:
            raise OptionError(f"{path} is a checkpoint, not data: give it by --model {path}.")
    from lucidcam.methods.settings import resolve_method  # last: it brings torch

    for name, values in chosen:
        resolve_method(name, values)
    return chosen, paths


def split_flags(words: Sequence[str], known: dict[str, type], flags: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take method options (`--weights softmax`, `--samples=20`, `--counterfactual`) out of the paths.

    Args:
        words: paths and unknown flags, in the order given.
        known: option name → its type.
        flags: the command's own flags, for did-you-mean.

    Raises:
        OptionError: for a flag that neither the command nor a chosen method has.
    """
    paths: list[str] = []
    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if word.startswith("-") and len(word) > 1:
                raise OptionError(unknown("option", word, flags))
            paths.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        field = name.replace("-", "_")
        negative = field.startswith("no_") and known.get(field[3:]) is bool
        if negative:
            options[field[3:]] = False
        elif field not in known:
            owners = [name for name, entry in catalogue.methods().items() if field in entry.types]
            if owners:
                hint = " For grey images give --level, too." if name == "window" else ""
                raise OptionError(f"--{name} is an option of {', '.join(owners)}, none of which was asked for.{hint}")
            names = [*flags, *(f"--{each.replace('_', '-')}" for each in known)]
            raise OptionError(unknown("option", f"--{name}", names))
        elif known[field] is bool and not equals:
            options[field] = True
        else:
            if not equals:
                if not rest:
                    raise OptionError(f"--{name} needs a value.")
                value = rest.pop(0)
            options[field] = convert(name, value, known[field])
    return paths, options


def convert(name: str, value: str, kind: Any) -> Any:
    """Turn a flag's text into the field's type.

    Raises:
        OptionError: when it does not fit.
    """
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            close = nearest(value, get_args(kind))
            meant = f"; did you mean {close[0]!r}?" if close else "."
            raise OptionError(f"--{name} expects {catalogue.words_for(kind)}; got {value!r}{meant}")
        return value
    if kind is bool:
        lowered = value.lower()
        if lowered not in ("true", "false", "1", "0", "yes", "no"):
            raise OptionError(f"--{name} expects true or false; got {value!r}.")
        return lowered in ("true", "1", "yes")
    try:
        return kind(value)
    except ValueError:
        raise OptionError(f"--{name} expects {'a whole number' if kind is int else 'a number'}; got {value!r}.") from None
