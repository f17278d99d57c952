"""Object detection: why this box, and why this class of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from lucidcam.targets import Detection, Target
from lucidcam.tasks._base import OfImages, by_class
from lucidcam.types import Model


@dataclass(frozen=True)
class Detections(OfImages):
    """Why a detection: its class score; see `lucidcam.targets.Detection` for the detectors that can be read.

    Attributes:
        background: of detectors of DETR's kind: the last class is "no object".
    """

    background: bool = True

    name: ClassVar[str] = "object detection"
    takes: ClassVar[str] = "a box, a class of boxes, or both"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a label or id is the best detection of that class, None the best of all."""
        how = "a label, or Detection(box=(left, top, right, bottom), label='…')"
        return by_class(value, model, lambda id: Detection(label=id), Detection, how)

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        return images, self._read(target, model)

    def _read(self, target: Any, model: Model) -> Any:
        if isinstance(target, Detection):
            return replace(target, background=self.background, names=model.labels)
        return target.over(lambda each: self._read(each, model)) if isinstance(target, Target) else target
