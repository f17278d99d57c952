"""Semantic segmentation: why a region is of a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from lucidcam.targets import Segmentation, Target
from lucidcam.tasks._base import OfImages, by_class
from lucidcam.types import Model, fold

BACKGROUND = ("background", "unlabeled", "void")
"""What data sets call pixels that are nothing in particular."""


@dataclass(frozen=True)
class Segments(OfImages):
    """Why a region is of a class: the sum of its scores there; see `lucidcam.targets.Segmentation`."""

    name: ClassVar[str] = "semantic segmentation"
    takes: ClassVar[str] = "a class, a region, or both"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a label or id is where the model sees that class, None its largest but background."""
        return by_class(value, model, Segmentation, Segmentation, "a label, or Segmentation(label='…', region=mask)")

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        nothing = tuple(id for id, label in enumerate(model.labels or ()) if fold(label) in BACKGROUND)
        return images, _passing_over(target, nothing)


def _passing_over(target: Any, nothing: tuple[int, ...]) -> Any:
    """The target with the classes that are nothing in particular not meant by None."""
    if isinstance(target, Segmentation):
        return replace(target, ignored=target.ignored or nothing)
    return target.over(lambda each: _passing_over(each, nothing)) if isinstance(target, Target) else target
