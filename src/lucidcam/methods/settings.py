"""What is asked of a method: its name or object, its own options, and those that every method has."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from lucidcam import registry
from lucidcam.errors import OptionError, unknown
from lucidcam.methods._base import Method
from lucidcam.methods._wrap import Fusion
from lucidcam.utils.class_scores import ClassScores, OutputKind

IMAGES_AT_ONCE = 16
"""Images that go through the network together, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that every method has.

    Attributes:
        batch_size: masked images that go through the network together; None: 128 on a GPU, on a CPU about a million numbers (6 images
            of 224²). Halved when the memory does not suffice.
        images_at_once: images that `explain` sends through the network together; halved when the memory does not suffice.
        seed: of every random draw.
        progress: a bar for anything over two seconds; None: in a terminal or notebook.
        fusion: how the maps of several layers become one: "mean", "max" or "product".
        augment: average over changed copies: "hflip", "vflip", "gain", separated by commas; "": none.
        smooth: average over this many noisy copies; 0: none.
        smooth_noise: their noise, as a fraction of each image's value range.
        outputs: what the network's outputs mean: "softmax" (logits of classes that exclude each other), "sigmoid" (a logit for each
            class), "probabilities" or "none" (no class scores); None: what the model says of itself, else found by value.
        threshold: of a network with one output column: the probability above which its class is predicted; None: the model's own, or 0.5.
    """

    batch_size: int | None = None
    images_at_once: int = IMAGES_AT_ONCE
    seed: int = 0
    progress: bool | None = None
    fusion: Fusion = "mean"
    augment: str = ""
    smooth: int = 0
    smooth_noise: float = 0.1
    outputs: OutputKind | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.fusion not in ("mean", "max", "product"):
            raise OptionError(f'expected fusion "mean", "max" or "product"; got {self.fusion!r}.')
        if self.batch_size is not None and self.batch_size < 1:
            raise OptionError(f"expected batch_size ≥ 1; got {self.batch_size}.")
        if self.images_at_once < 1:
            raise OptionError(f"expected images_at_once ≥ 1; got {self.images_at_once}.")
        self.class_scores()

    def class_scores(self, model: ClassScores | None = None) -> ClassScores:
        """What is said of the network's outputs: by these options, else by the model.

        Raises:
            OptionError: for an unknown kind of outputs, or a threshold that is no probability.
        """
        scores = model or ClassScores()
        if self.outputs is not None:
            scores = replace(scores, kind=self.outputs)
        return scores if self.threshold is None else replace(scores, threshold=self.threshold)


def resolve_method(method: str | Method, options: dict[str, Any]) -> tuple[Method, Settings]:
    """Split options into those of the method and those every method has.

    Raises:
        OptionError: for an unknown method or option, with the nearest names.
    """
    general = {f.name for f in fields(Settings)}
    _check_types(Settings, {name: value for name, value in options.items() if name in general})
    own = {name: value for name, value in options.items() if name not in general}
    settings = Settings(**{name: value for name, value in options.items() if name in general})
    if isinstance(method, Method):
        if own:
            raise OptionError(f"give {', '.join(own)} to the method object itself: {type(method).__name__}({', '.join(own)}=…).")
        return method, settings
    if not isinstance(method, str):
        raise OptionError(f"expected a method's name or a method object; got {type(method).__name__}.")
    kind: type[Method] = registry.methods[method]
    known = {f.name for f in fields(kind)}
    for name in own:
        if name not in known:
            raise OptionError(f"{method}: {unknown('option', name, [*sorted(known), *sorted(general)])}")
    _check_types(kind, own)
    try:
        return kind(**own), settings
    except TypeError as error:
        raise OptionError(f"{method}: {error}") from None


def _check_types(kind: type, options: dict[str, Any]) -> None:
    """Refuse a value that is not of its option's type: numbers for numbers, text for text.

    Raises:
        OptionError: with what was expected.
    """
    hints = get_type_hints(kind)
    for name, value in options.items():
        parts = get_args(hints[name]) or (hints[name],)
        wanted = [str if get_origin(each) is Literal else each for each in parts if isinstance(each, type) or get_origin(each) is Literal]
        fits = {int: (int, np.integer), float: (int, float, np.number), bool: (bool, np.bool_)}
        allowed = tuple(t for each in wanted for t in (fits.get(each, (each,))))
        whole = bool not in wanted and isinstance(value, bool) and bool(wanted)
        if allowed and (whole or not isinstance(value, allowed)):
            names = " or ".join("None" if each is type(None) else each.__name__ for each in wanted)
            raise OptionError(f"{name} expects {names}; got {value!r}.")
