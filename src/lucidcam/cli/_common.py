"""What commands share: tables for narrow terminals, options for models, method options from flags."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from lucidcam import registry
from lucidcam.errors import DataError, OptionError, nearest, unknown
from lucidcam.preprocess import Fit

if TYPE_CHECKING:
    from lucidcam import Model
    from lucidcam.data import Dataset

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="[b]demo[/b], timm:NAME, torchvision:NAME, hf:REPO, a folder of [b]lucidcam train[/b], or a checkpoint."
    ),
]
ArchitectureOption = Annotated[
    str | None, typer.Option(help="For a checkpoint file: timm:NAME, torchvision:NAME or package.module:function.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [dim]default: cuda where there is one[/dim]")]
UntrainedOption = Annotated[bool, typer.Option("--untrained", help="Random weights: to try mechanics without a download.")]
FitOption = Annotated[Fit | None, typer.Option(help="crop (as trained), squash, or whole (no crop, convolutional networks).")]
DtypeOption = Annotated[str, typer.Option(help="float32, float64, bfloat16, float16.")]
OptimizeOption = Annotated[bool, typer.Option("--optimize", help="Fold, channels-last: faster for many images.")]
ClassMapOption = Annotated[
    list[str] | None, typer.Option("--class-map", help="NAME=ID: the data's class in the model's; repeatable; or a file of them.")
]
DataFormatOption = Annotated[str | None, typer.Option("--data-format", help="voc, coco, yolo, folder, …. [dim]default: found out[/dim]")]
SplitOption = Annotated[str | None, typer.Option("--split", help="train, val, …, for formats that have them.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many samples.")]
LayerOption = Annotated[list[str] | None, typer.Option("--layer", help="Dotted name; repeated: fused. See [b]lucidcam layers[/b].")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table that wraps rather than cuts in 80 columns."""
    found = Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        found.add_column(column, overflow="fold")
    return found


def model_options(architecture: str | None, untrained: bool) -> dict[str, Any]:
    """Options of `lucidcam.load` that were given."""
    options: dict[str, Any] = {"architecture": architecture} if architecture else {}
    if untrained:
        options["pretrained"] = False
    return options


def load_model(spec: str, device: str | None, dtype: str, fit: Fit | None, optimize: bool, options: dict[str, Any]) -> Model:
    """Load what `--model` and its companions ask for; on the GPU where there is one.

    Args:
        spec: as for `lucidcam.load`.
        device: None: cuda where there is one.
        dtype: a name.
        fit: how photos come into the input; None: as trained.
        optimize: fold and run channels-last; a reduced `dtype` then runs by autocast.
        options: the rest of `lucidcam.load`'s (see `model_options`).
    """
    import torch

    import lucidcam

    if not options.get("pretrained", True):
        torch.manual_seed(0)  # the same random weights in the next call, of which more may be asked
    device = device or ("cuda" if torch.cuda.is_available() else None)
    if not optimize:
        return lucidcam.load(spec, device=device, dtype=dtype, fit=fit, **options)
    reduced = {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}.get(dtype)
    model = lucidcam.load(spec, device=device, dtype="float32" if reduced else dtype, fit=fit, **options)
    return lucidcam.optimize(model, dtype=reduced)


def report(failures: Sequence[str], shown: int = 50) -> None:
    """List what failed, and end with exit code 1 if anything did."""
    for failure in failures[:shown]:
        err.print(f"failed: {failure}", style="red", markup=False)
    if len(failures) > shown:
        err.print(f"… and {len(failures) - shown} more failed", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


def flags_of(command: Callable[..., Any]) -> list[str]:
    """The flags of a command, for did-you-mean."""
    found = ["--help"]
    for name, hint in get_type_hints(command, include_extras=True).items():
        for option in get_args(hint)[1:]:
            if isinstance(option, typer.models.OptionInfo):
                written = [word for word in option.param_decls or () if word.startswith("--")]
                found += written or [f"--{name.replace('_', '-')}"]
    return found


def method_flags(
    command: Callable[..., Any], names: Sequence[str], words: Sequence[str]
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Each method with the flags that are its own (or every method's), checked; and what is left of the words."""
    from lucidcam.settings import Settings, resolve_method

    general = option_types(Settings)
    own = {name: option_types(registry.methods[name]) for name in names}
    known = {option: kind for options in [general, *own.values()] for option, kind in options.items()}
    rest, options = split_flags(words, known, flags_of(command))
    chosen = [(name, {k: v for k, v in options.items() if k in general or k in own[name]}) for name in names]
    for name, given in chosen:
        resolve_method(name, given)
    return chosen, rest


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
        if not word.startswith("--") or word == "--":
            if word.startswith("-") and len(word) > 1 and word != "--":
                raise OptionError(unknown("option", word, flags))
            paths += [] if word == "--" else [word]
            continue
        name, equals, value = word[2:].partition("=")
        field = name.replace("-", "_")
        negative = field.startswith("no_") and known.get(field[3:]) is bool
        if negative:
            options[field[3:]] = False
        elif field not in known:
            owners = [method for method, kind in registry.methods.items() if field in {f.name for f in fields(kind)}]
            if owners:
                raise OptionError(f"--{name} is an option of {', '.join(owners)}, none of which was asked for.")
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


def option_types(kind: type) -> dict[str, Any]:
    """Name and type of each field of a method or of the settings."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


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
            raise OptionError(f"--{name} expects {words_for(kind)}; got {value!r}{meant}")
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


def words_for(kind: Any) -> str:
    """An option's type in words: its choices, "whole number", "number", …."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return {bool: "on or off", int: "whole number", float: "number", str: "text"}.get(kind, str(kind))


def described(kind: type) -> tuple[list[str], dict[str, str]]:
    """A method's docstring as paragraphs of any width, and what its attributes mean, those of its bases included."""
    paragraphs: list[str] = []
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text, _, rest = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        attributes = rest.partition("\nRaises:\n")[0].partition("\n>>> ")[0]
        for entry in re.split(r"\n(?=    \w+: )", "\n" + attributes):
            name, colon, meaning = entry.strip().partition(": ")
            if colon:
                meanings[name] = " ".join(meaning.split())
        if base is kind:
            told = text.partition("\nRaises:\n")[0].partition("\n>>> ")[0]
            paragraphs = [" ".join(part.split()) for part in told.split("\n\n") if part.strip()]
    return paragraphs, meanings


def default_of(field: Field[Any]) -> str:
    """A field's default in words."""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default is MISSING else str(field.default)


def show(name: str, kind: type, options: str, flag: Callable[[str], str], about: str = "") -> None:
    """Print what a method or metric computes, and what its options mean.

    Args:
        name: the registered name.
        kind: its class.
        options: what they are called, "flag" or "option".
        flag: how one is written, from the field's name.
        about: a line between the two.
    """
    from rich.markup import escape

    paragraphs, meanings = described(kind)
    out.print(f"[b]{name}[/b]  {kind.paper}\n")  # type: ignore[attr-defined]
    out.print(escape("\n\n".join(paragraphs)))
    if about:
        out.print(f"\n{about}", markup=False)
    if fields(kind):
        hints = get_type_hints(kind)
        listing = table(options, "value", "default", "meaning", title=f"\n{options.capitalize()}s")
        for field in fields(kind):
            listing.add_row(flag(field.name), words_for(hints[field.name]), default_of(field), escape(meanings.get(field.name, "")))
        out.print(listing)


def open_words(words: Sequence[str], format: str | None, split: str | None) -> Dataset:
    """The data set that one word names, or the images that several do."""
    from lucidcam.data import generated, open_data
    from lucidcam.images import SUFFIXES, find
    from lucidcam.sources import is_url

    options = {} if split is None else {"split": split}
    there = len(words) == 1 and Path(words[0]).expanduser().exists() and Path(words[0]).suffix.lower() not in SUFFIXES
    if there or (len(words) == 1 and generated(words[0])):
        return open_data(words[0], format, **options)
    if not words:
        raise OptionError("expected a data set: a folder, an annotation file, tar files, or images; paths or addresses (s3://…).")
    sources: list[Any] = []
    for word in words:
        if is_url(word) or word.lower().endswith(".tar"):
            sources.append(word)
            continue
        found, problems = find([word])
        if problems:
            raise DataError(problems[0])
        sources += found
    one = len(words) == len(sources) == 1 and isinstance(sources[0], str)
    return open_data(sources[0] if one else list(dict.fromkeys(sources)), format, **options)
