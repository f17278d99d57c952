"""Semantic segmentation: why a region is of a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from lucidcam.targets import Segmentation, Target
from lucidcam.tasks._base import asked, expected, of_outputs
from lucidcam.types import Model, fold

BACKGROUND = ("background", "unlabeled", "void")
"""What data sets call pixels that are nothing in particular."""


@dataclass(frozen=True)
class Segments:
    """Why a region is of a class: the sum of its scores there; see `lucidcam.targets.Segmentation`."""

    name: ClassVar[str] = "semantic segmentation"
    takes: ClassVar[str] = "a class, a region, or both"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a label or id is where the model sees that class, None its largest but background."""
        nothing = tuple(id for id, label in enumerate(model.labels or ()) if fold(label) in BACKGROUND)

        def one(value: Any) -> Target:
            if isinstance(value, Segmentation):
                return replace(value, ignored=value.ignored or nothing).labelled(model.find_label)
            if value is None or isinstance(value, (str, int)):
                return Segmentation(None if value is None else model.find_label(str(value)), ignored=nothing)
            if of_outputs(value):
                return value  # type: ignore[no-any-return]
            raise expected(model, value, "a label, or Segmentation(label='…', region=mask)")

        return asked(value, one)

    def alone(self, target: Any) -> bool:
        """See `lucidcam.types.Task`: the module takes the image by itself."""
        return False

    def example(self, images: Tensor, model: Model) -> Any:
        """See `lucidcam.types.Task`."""
        return images

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        return images, target
