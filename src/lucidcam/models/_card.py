"""The card beside a trained network's weights: all it takes to build it, to feed it photos and to read its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lucidcam.class_scores import OutputKind
from lucidcam.errors import ModelError, OptionError
from lucidcam.preprocess import Preprocess
from lucidcam.storage import write_whole

WEIGHTS = "model.safetensors"
NAME = "model.json"
KIND = "lucidcam network"


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
        text = json.dumps({"kind": KIND, "weights": WEIGHTS, **asdict(self)}, indent=2, default=str)
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
            told = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"the card {str(file)!r} cannot be read ({error}); copy it again, or train anew.") from error
        if not isinstance(told, dict) or told.get("kind") != KIND:
            return None
        try:
            steps: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told["preprocess"].items()}
            known = {each.name for each in fields(cls)}
            given = {name: value for name, value in told.items() if name in known}
            return cls(**{**given, "labels": tuple(told["labels"]), "preprocess": Preprocess(**steps)})
        except (KeyError, TypeError, AttributeError, OptionError) as error:
            raise ModelError(f"the card {str(file)!r} is damaged or of another version ({error}); train anew.") from error
