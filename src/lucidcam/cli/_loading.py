"""The model that `--model` and the options of `ModelOptions` ask for."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidcam.cli._screen import err
from lucidcam.errors import OptionError, first_line
from lucidcam.options.groups import ModelOptions
from lucidcam.utils.choices import IMAGENET_MEAN

if TYPE_CHECKING:
    from lucidcam import Model

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="[b]demo[/b], timm:NAME, torchvision:NAME, hf:REPO, a folder of [b]lucidcam train[/b], or a checkpoint."
    ),
]
OptimizeOption = Annotated[bool, typer.Option("--optimize", help="Fold, channels-last: faster for many images.")]


def load_model(spec: str, loading: ModelOptions, optimize: bool = False) -> Model:
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


def _source(spec: str, loading: ModelOptions) -> tuple[str, dict[str, Any]]:
    """The spec and the options of `lucidcam.load`, checked before anything is loaded."""
    from lucidcam.models import is_function, source_of

    if not spec:
        raise OptionError("--model expects a name or a path; got an empty text.")
    architecture, preprocessing = loading.architecture, _preprocessing(loading)
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


def _print_assumed(model: Model, loading: ModelOptions, spec: str) -> None:
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


def typed_again(loading: ModelOptions) -> list[str]:
    """The options that were given, in words of the command line: another command with these loads the same model."""
    words: list[str] = []
    for field in fields(loading):
        value = getattr(loading, field.name)
        if value == field.default:
            continue
        if field.name == "grey_window":
            width, level = str(value).split(",")
            words += ["--window", width, "--level", level]
        else:
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def _preprocessing(loading: ModelOptions) -> dict[str, Any]:
    """The options of the preprocessing that were given, as `lucidcam.load` takes them.

    Raises:
        OptionError: a value that does not fit, or that lacks another.
    """
    steps: dict[str, Any] = {}
    if loading.input_size is not None:
        steps["size"] = _size(loading.input_size)
    for name, text in (("mean", loading.mean), ("std", loading.std)):
        if text is not None:
            steps[name] = _per_channel(name, text, loading.channels or "RGB")
    if loading.scale is not None:
        if not (loading.scale > 0 and math.isfinite(loading.scale)):
            raise OptionError(f"--scale expects a positive number; got {loading.scale:g}.")
        steps["scale"] = loading.scale
    if loading.channels is not None:
        steps["channels"] = loading.channels
    if loading.channels == "L" and (loading.mean is None or loading.std is None):
        raise OptionError("--channels L needs --mean and --std, a number each: ImageNet's are those of colours.")
    return steps
