"""The card beside a trained network's weights: all it takes to build it, to feed it photos and to read its answers.

A card is a file, and files come from anyone. It names networks of the sources that lucidcam knows, and the few options that say how large
they are; it can name no function, no file and no other repository's code. What else a network needs is given by the user, in a call or on
the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from lucidcam.errors import ModelError, OptionError, first_line
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io.storage import json_text, parsed_json, write_whole
from lucidcam.registry import sources
from lucidcam.utils.class_scores import OutputKind

WEIGHTS = "model.safetensors"
NAME = "model.json"
KIND = "lucidcam network"

LARGEST = 10_000_000
"""Bytes of a card at most; those of a thousand classes have some 50,000."""

NOT_NETWORKS = ("demo", "file")
"""Sources that build nothing which weights could be put into."""

SIZES: Mapping[str, int] = {"num_classes": 1_000_000, "channels": 65_536, "size": 2048, "img_size": 2048, "in_chans": 64}
"""Options that a card may give as a number, and the largest there can be."""

WORDS = ("pooling", "at", "channels")
"""Options that a card may give as a word."""

NAME_OF_NETWORK = re.compile(r"[\w.+/-]{1,200}", re.ASCII)
"""What a network's name is made of: without a colon, since "hf-hub:" and "local-dir:" would read from elsewhere."""


@dataclass(frozen=True)
class Card:
    """What is known of a trained network.

    Attributes:
        architecture: as for `lucidcam.load`: "gap:small", "gap:torchvision:vgg16"; None: a module of the user's own.
        options: of the architecture.
        labels: the classes in words, by id.
        layer: the default layer.
        preprocess: from photo to input.
        multi_label: whether an image may hold several classes, each with a probability of its own (sigmoid).
        outputs: what its outputs mean, see `lucidcam.wrap`; None: not said (cards of before 0.2), so that `multi_label` decides.
        threshold: of one output column: the probability above which its class is predicted.
        metrics: on the validation data.
        training: the settings it was trained with.
    """

    architecture: str | None
    options: Mapping[str, Any]
    labels: tuple[str, ...]
    layer: str | None
    preprocess: Preprocess
    multi_label: bool = False
    outputs: OutputKind | None = None
    threshold: float = 0.5
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `model.json`.

        Raises:
            DataError: when it cannot be written.
        """
        text = json_text({"kind": KIND, "weights": WEIGHTS, **asdict(self)}, indent=2)
        write_whole(folder / NAME, text.encode() + b"\n")

    @property
    def output_kind(self) -> OutputKind:
        """What its outputs mean: as the card says, or by `multi_label`."""
        return self.outputs or ("sigmoid" if self.multi_label else "softmax")

    @classmethod
    def beside(cls, path: Path) -> Card | None:
        """The card of a folder, or of the weights in it; None where there is none.

        Raises:
            ModelError: it is there and cannot be used.
        """
        file = path / NAME if path.is_dir() else path.with_suffix(".json")
        if not file.is_file():
            return None
        try:
            if file.stat().st_size > LARGEST:
                raise ModelError(f"the card {str(file)!r} has {file.stat().st_size} bytes, and cards at most {LARGEST}; it is none.")
            content = parsed_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"the card {str(file)!r} cannot be read ({first_line(error)}); copy it again, or train anew.") from error
        if not isinstance(content, dict) or content.get("kind") != KIND:
            return None
        try:
            steps: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in content["preprocess"].items()
            }
            known = {each.name for each in fields(cls)}
            given = {name: value for name, value in content.items() if name in known}
            card = cls(**{**given, "labels": tuple(content["labels"]), "preprocess": Preprocess(**steps)})
            card.check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OptionError) as error:
            raise ModelError(f"the card {str(file)!r} is damaged or of another version ({first_line(error)}); train anew.") from error
        return card

    def check(self) -> None:
        """See that nothing but a network of a known source and its size is asked for, and that all is of the kind that it is to be.

        Raises:
            OptionError: it is not.
        """
        if self.architecture is not None:
            _check_architecture(self.architecture)
        for kind, name in (
            (Mapping, "options"),
            (Mapping, "metrics"),
            (Mapping, "training"),
            ((str, type(None)), "layer"),
            (bool, "multi_label"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name} is {getattr(self, name)!r:.80}")
        if not all(isinstance(label, str) for label in self.labels):
            raise OptionError("labels are not all texts")
        if self.outputs is not None and self.outputs not in get_args(OutputKind):
            raise OptionError(f"outputs are {self.outputs!r:.80}")
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)) or not 0 < self.threshold < 1:
            raise OptionError(f"the threshold is {self.threshold!r:.80}")
        for name, value in self.options.items():
            _check_option(name, value)
        if self.options.get("num_classes", len(self.labels)) != len(self.labels):
            raise OptionError(f"there are {len(self.labels)} labels for {self.options['num_classes']} classes")


def _check_architecture(spec: Any) -> None:
    """Refuse what is no "SOURCE:NAME" of a source of networks."""
    source, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    own = source == "gap" and ":" not in name
    if source == "gap" and not own:
        source, colon, name = name.partition(":")
    if not colon or source in (*NOT_NETWORKS, *(() if own else ("gap",))) or source not in sources or not NAME_OF_NETWORK.fullmatch(name):
        raise OptionError(
            f"it asks for the architecture {spec!r:.120}; a file may name networks of "
            f"{', '.join(each for each in sources if each not in NOT_NETWORKS)} only. If you trust it, give architecture=… yourself"
        )


def _check_option(name: str, value: Any) -> None:
    """Refuse an option that says more than how large a network is."""
    largest = SIZES.get(name)
    number = largest is not None and isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest
    word = name in WORDS and (value is None or (isinstance(value, str) and NAME_OF_NETWORK.fullmatch(value)))
    if not (number or word):
        raise OptionError(f"it gives the option {name!r:.80} as {value!r:.80}; a file may give {', '.join(sorted({*SIZES, *WORDS}))} only")
