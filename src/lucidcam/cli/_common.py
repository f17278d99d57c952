"""What commands share: tables for narrow terminals, options for models, method options from flags."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from lucidcam.cli._usage import flags_of
from lucidcam.errors import DataError, OptionError, first_line, nearest, unknown
from lucidcam.options import catalogue
from lucidcam.utils.choices import IMAGENET_MEAN, Channels, Fit, OutputKind
from lucidcam.utils.text import printable, printable_lines

if TYPE_CHECKING:
    from lucidcam import Model
    from lucidcam.data import Dataset
    from lucidcam.options.catalogue import Entry

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="[b]demo[/b], timm:NAME, torchvision:NAME, hf:REPO, a folder of [b]lucidcam train[/b], or a checkpoint."
    ),
]
MODEL_PANEL = "Model"
WINDOW_HELP = "Of grey images, in their files' values; also --window WIDTH --level LEVEL. [dim]default: by bit depth[/dim]"
GreyWindowOption = Annotated[str | None, typer.Option("--grey-window", metavar="WIDTH,LEVEL", help=WINDOW_HELP)]
CHECKPOINT_PANEL = "Checkpoint files: what they do not say of themselves"
OptimizeOption = Annotated[bool, typer.Option("--optimize", help="Fold, channels-last: faster for many images.")]
ClassMapOption = Annotated[
    list[str] | None, typer.Option("--class-map", help="NAME=ID: the data's class in the model's; repeatable; or a file of them.")
]
DataFormatOption = Annotated[str | None, typer.Option("--data-format", help="voc, coco, yolo, folder, …. [dim]default: found out[/dim]")]
SplitOption = Annotated[str | None, typer.Option("--split", help="train, val, …, for formats that have them.")]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Files that the data's lists name may lie here, too, not only in the data's own folder.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many samples.")]
LayerOption = Annotated[list[str] | None, typer.Option("--layer", help="Dotted name; repeated: fused. See [b]lucidcam layers[/b].")]


class _Screen(Console):
    """A console on which names and labels of others steer nothing: what is no character to be shown becomes an escape."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text=printable_lines(segment.text))


class _Table(Table):
    """A table of which each cell is one line, until it is wrapped."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


out = _Screen(highlight=False, emoji=False)
err = _Screen(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table that wraps rather than cuts in 80 columns."""
    found = _Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        found.add_column(column, overflow="fold")
    return found


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of every command that loads a model; fields are options of the command line (see `cli._usage.expanded`)."""

    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [dim]default: cuda where there is one[/dim]", rich_help_panel=MODEL_PANEL)
    ] = None
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16.", rich_help_panel=MODEL_PANEL)] = "float32"
    fit: Annotated[
        Fit | None,
        typer.Option(help="crop (as trained), squash, or whole (no crop, convolutional networks).", rich_help_panel=MODEL_PANEL),
    ] = None
    grey_window: Annotated[str | None, typer.Option(metavar="WIDTH,LEVEL", help=WINDOW_HELP, rich_help_panel=MODEL_PANEL)] = None
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Random weights: to try mechanics without a download.", rich_help_panel=MODEL_PANEL)
    ] = False
    outputs: Annotated[
        OutputKind | None,
        typer.Option(help="What they mean: probabilities, or logits of one. [dim]default: found[/dim]", rich_help_panel=MODEL_PANEL),
    ] = None
    decision_threshold: Annotated[
        float | None,
        typer.Option(
            help="Of a single output: its class is predicted above this probability. [dim]default: 0.5[/dim]", rich_help_panel=MODEL_PANEL
        ),
    ] = None
    architecture: Annotated[
        str | None,
        typer.Option(
            help="What builds the network: timm:NAME, torchvision:NAME or package.module:function.", rich_help_panel=CHECKPOINT_PANEL
        ),
    ] = None
    input_size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Of the network's input, in pixels. [dim]default: 224[/dim]", rich_help_panel=CHECKPOINT_PANEL),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Subtracted, one number or one per channel. [dim]default: ImageNet's[/dim]",
            rich_help_panel=CHECKPOINT_PANEL,
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Divided by, likewise. [dim]default: ImageNet's[/dim]", rich_help_panel=CHECKPOINT_PANEL),
    ] = None
    scale: Annotated[
        float | None,
        typer.Option(help="Factor on pixel values of 0 to 255. [dim]default: 1/255[/dim]", rich_help_panel=CHECKPOINT_PANEL),
    ] = None
    channels: Annotated[
        Channels | None, typer.Option("--channels", help="RGB, BGR, or L: grey. [dim]default: RGB[/dim]", rich_help_panel=CHECKPOINT_PANEL)
    ] = None
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="One class per line, by id.", rich_help_panel=CHECKPOINT_PANEL)
    ] = None
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Of the head. [dim]default: as the checkpoint has[/dim]", rich_help_panel=CHECKPOINT_PANEL)
    ] = None

    def words(self) -> list[str]:
        """What was said, in words of the command line: another command with these loads the same model."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "grey_window":
                width, level = str(value).split(",")
                words += ["--window", width, "--level", level]
            else:
                words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    def preprocessing(self) -> dict[str, Any]:
        """What was said of the preprocessing, as `lucidcam.load` takes it.

        Raises:
            OptionError: a value that does not fit, or that lacks another.
        """
        given: dict[str, Any] = {}
        if self.input_size is not None:
            given["size"] = _size(self.input_size)
        for name, text in (("mean", self.mean), ("std", self.std)):
            if text is not None:
                given[name] = _per_channel(name, text, self.channels or "RGB")
        if self.scale is not None:
            if not (self.scale > 0 and math.isfinite(self.scale)):
                raise OptionError(f"--scale expects a positive number; got {self.scale:g}.")
            given["scale"] = self.scale
        if self.channels is not None:
            given["channels"] = self.channels
        if self.channels == "L" and (self.mean is None or self.std is None):
            raise OptionError("--channels L needs --mean and --std, a number each: ImageNet's are those of colours.")
        return given


CHECKPOINT_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".onnx"})
"""Of files that are taken for a network's weights, never for data."""

DEFAULT_LOADING = LoadOptions()
"""Nothing but the model's name."""


def load_model(spec: str, loading: LoadOptions, optimize: bool = False) -> Model:
    """Load what `--model` and its companions ask for; on the GPU where there is one.

    What had to be assumed about a checkpoint's preprocessing is printed in one line.

    Args:
        spec: as for `lucidcam.load`.
        loading: the options of loading.
        optimize: fold and run channels-last; a reduced `dtype` then runs by autocast.

    Raises:
        OptionError: options that do not belong together, or that lack another.
    """
    import torch

    import lucidcam
    from lucidcam.attribution import optimized_if_possible

    spec, options = _source(spec, loading)
    if loading.untrained:
        torch.manual_seed(0)  # the same random weights in the next call, of which more may be asked
    device = loading.device or ("cuda" if torch.cuda.is_available() else None)
    reduced = {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}.get(loading.dtype)
    reduced = reduced if optimize else None
    model = lucidcam.load(spec, device=device, dtype="float32" if reduced else loading.dtype, fit=loading.fit, **options)
    _print_assumed(model, loading, spec)
    if not optimize:
        return model
    fast, note = optimized_if_possible(model, dtype=reduced)
    if note is not None:
        err.print(f"note: explained {note}", style="yellow", markup=False)
    return fast


def _source(spec: str, loading: LoadOptions) -> tuple[str, dict[str, Any]]:
    """The spec and the options of `lucidcam.load`, checked before anything is loaded."""
    from lucidcam.models import is_function, source_of

    if not spec:
        raise OptionError("--model expects a name or a path; got an empty text.")
    architecture, preprocessing = loading.architecture, loading.preprocessing()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that no file here takes the place of an installed package
    has_function = is_function(architecture)
    if architecture is None and is_function(spec):
        if not loading.untrained:
            raise OptionError(
                f"{spec} would be a function: for a checkpoint's weights give --architecture {spec} --model FILE, or --untrained for the "
                "network as the function returns it."
            )
        architecture, has_function = spec, True
    elif architecture is not None and spec == "demo":
        if not loading.untrained:
            raise OptionError(
                f"--architecture {architecture} is for a checkpoint file: give it by --model FILE, or --untrained for "
                + ("the network as the function returns it." if has_function else "random weights.")
            )
        spec = architecture
    options: dict[str, Any] = {}
    if spec != architecture and architecture is not None:
        options["architecture"] = architecture
    if loading.untrained:
        options["pretrained"] = False
    if loading.labels is not None:
        options["labels"] = _lines(loading.labels)
    if loading.outputs is not None:
        options["outputs"] = loading.outputs
    if loading.decision_threshold is not None:
        if not 0 < loading.decision_threshold < 1:
            raise OptionError(f"--decision-threshold expects a probability between 0 and 1; got {loading.decision_threshold:g}.")
        options["threshold"] = loading.decision_threshold
    if loading.grey_window is not None:
        options["window"] = parse_window(loading.grey_window)
    if loading.num_classes is not None:
        options["num_classes"] = loading.num_classes
    if loading.labels is not None and spec != architecture and source_of(spec) in ("timm", "torchvision"):
        raise OptionError(f"--labels does not go with {spec!r}, which has its own; it is for checkpoint files and functions of your own.")
    if preprocessing and not (has_function and spec == architecture) and source_of(spec) != "file":
        flags = ", ".join(_flag(name) for name in preprocessing)
        raise OptionError(f"{flags}: only for checkpoint files and functions of your own; {spec!r} brings its own preprocessing.")
    if has_function:  # nothing else says how photos come into the network
        preprocessing.setdefault("mean", IMAGENET_MEAN)
    return spec, {**options, **preprocessing}


def _print_assumed(model: Model, loading: LoadOptions, spec: str) -> None:
    """Say what was taken for granted of the preprocessing of a checkpoint that does not say it."""
    from lucidcam.imaging.preprocess import Preprocess
    from lucidcam.models import is_function

    steps = model.preprocess
    architecture = loading.architecture or (spec if loading.untrained and is_function(spec) else None)
    if architecture is None or not isinstance(steps, Preprocess):
        return
    height, width = steps.size
    resize = f"short side to {steps.resize}" if isinstance(steps.resize, int) else "sides resized" if steps.resize else "not resized"
    how = {"crop": f"{resize}, centre crop", "squash": "squashed", "whole": "whole photo"}[steps.fit]
    facts = {
        "input_size": f"{height}×{width} pixels ({how})",
        "channels": {"L": "grey"}.get(steps.channels, steps.channels),
        "scale": f"scale {'1/255' if math.isclose(steps.scale, 1 / 255) else f'{steps.scale:g}'}",
        "mean": f"mean {_joined(steps.mean)}",
        "std": f"std {_joined(steps.std)}",
    }
    assumed = {name: fact for name, fact in facts.items() if getattr(loading, name) is None}
    if assumed:
        origin = "ImageNet's usual" if is_function(architecture) else f"as {architecture} has it"
        flags = ", ".join(_flag(name) for name in assumed)
        says = "says" if len(assumed) == 1 else "say"
        facts_assumed = ", ".join(assumed.values())
        err.print(f"assumed for {Path(spec).name}, {origin}: {facts_assumed}; {flags} {says} otherwise", style="dim", markup=False)


def _joined(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _flag(name: str) -> str:
    return "--input-size" if name == "size" else f"--{name.replace('_', '-')}"


def parse_window(text: str) -> tuple[float, float]:
    """From "400,40" to (width, level).

    Raises:
        OptionError: it is no pair of numbers, or the width is not positive.
    """
    try:
        width, level = (float(number) for number in text.split(","))
    except ValueError:
        width, level = 0.0, 0.0
    if not (width > 0 and math.isfinite(width) and math.isfinite(level)):
        raise OptionError(f"--grey-window (--window, --level) expects a width above 0 and a level, for instance 400,40; got {text!r}.")
    return width, level


def _size(text: str) -> tuple[int, int]:
    """From "224" or "224x320" to (height, width)."""
    found = re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?", text.strip())
    height, width = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if height < 1 or width < 1:
        raise OptionError(f"--input-size expects pixels, HEIGHT or HEIGHTxWIDTH, for instance 224 or 224x320; got {text!r}.")
    return height, width


def _per_channel(name: str, text: str, channels: str) -> tuple[float, ...]:
    """Numbers of `--mean` or `--std`: one for all channels, or one per channel."""
    count = 1 if channels == "L" else 3
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, count) or not all(map(math.isfinite, numbers)):
        expected = "one number" if count == 1 else f"one number or {count}, one per channel ({channels}), separated by commas"
        raise OptionError(f"--{name} expects {expected}; got {text!r}.")
    if name == "std" and min(numbers) <= 0:
        raise OptionError(f"--std expects positive numbers; got {text!r}.")
    return numbers * count if len(numbers) == 1 else numbers


def _lines(path: Path) -> list[str]:
    """The labels in a file."""
    try:
        labels = [line.strip() for line in path.expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--labels {path} cannot be read ({first_line(error)}); expected a text file, one label per line.") from None
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise OptionError(f"--labels {path} is empty; expected a text file, one label per line, in the order of the class ids.")
    return labels


def report(failures: Sequence[str], shown: int = 50) -> None:
    """List what failed, and end with exit code 1 if anything did."""
    for failure in failures[:shown]:
        err.print(f"failed: {failure}", style="red", markup=False)
    if len(failures) > shown:
        err.print(f"… and {len(failures) - shown} more failed", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


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


def show(entry: Entry, options: str, flag: Callable[[str], str]) -> None:
    """Print what a method or metric computes, and what its options mean.

    Args:
        entry: of the catalogue.
        options: what they are called, "flag" or "option".
        flag: how one is written, from the field's name.
    """
    from rich.markup import escape

    out.print(f"[b]{entry.name}[/b]  {entry.paper}\n")
    out.print(escape("\n\n".join(entry.paragraphs)))
    if entry.about:
        out.print(f"\n{entry.about}", markup=False)
    if entry.options:
        listing = table(options, "value", "default", "meaning", title=f"\n{options.capitalize()}s")
        for option in entry.options:
            listing.add_row(flag(option.name), catalogue.words_for(option.annotation), option.default, escape(option.meaning))
        out.print(listing)


def data_options(split: str | None, data_root: Path | None, **options: str | None) -> dict[str, Any]:
    """The options of a data set that were given."""
    known = {"split": split, "data_root": None if data_root is None else str(data_root), **options}
    return {name: value for name, value in known.items() if value is not None}


def open_words(words: Sequence[str], format: str | None, split: str | None, data_root: Path | None = None) -> Dataset:
    """The data set that one word names, or the images that several do."""
    from lucidcam.data import generated, open_data
    from lucidcam.io.images import SUFFIXES, find
    from lucidcam.io.remote import is_url

    options = data_options(split, data_root)
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
