"""Targets that name labels or places of a photo, in terms of a model's classes and of its input."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._as import as_target, by_word
from lucidcam.targets._base import Target
from lucidcam.targets.classes import Classes
from lucidcam.targets.words import Spoken
from lucidcam.types import Frame, Model


def targets_per_image(target: Any, count: int, model: Model) -> list[Any]:
    """The target of each of `count` images: None (predicted), a list of class ids, or a target object.

    Raises:
        TargetError: for a label that the model does not know, or another number of targets than of images.
    """
    if isinstance(target, Classes) and target.ids is not None:
        target = target.ids
    if isinstance(target, (Tensor, np.ndarray)):
        target = target.tolist()
    if isinstance(target, (list, tuple)):
        if count == 1 and not any(isinstance(part, (list, tuple)) for part in target):
            target = [list(target)]
        if len(target) != count:
            raise TargetError(
                f"expected one target per image, {count} in all; got {len(target)}. For several targets of each image nest lists."
            )
        return [_target_of_image(part, model) for part in target]
    return [_target_of_image(target, model)] * count


def _target_of_image(target: Any, model: Model) -> Any:
    if model.task is not None:
        return resolve_target(target, model)
    if isinstance(target, (list, tuple)):
        ids = [resolve_target(part, model) for part in target]
        if not ids or not all(isinstance(class_id, int) for class_id in ids):
            raise TargetError(
                f"expected class ids or labels as several targets of one image; got {target!r}. Others together: lucidcam.Several([…])."
            )
        return ids
    resolved = resolve_target(target, model)
    return resolved if resolved is None or isinstance(resolved, Target) else [resolved]


def resolve_target(target: Any, model: Model) -> Any:
    """Replace label text by class ids, also inside target objects.

    Raises:
        TargetError: for a label that the model does not know, with the nearest ones.
    """
    if model.task is not None:
        return model.task.target(target, model)
    if isinstance(target, str):
        special = by_word(target)
        return model.find_label(target) if special is None else special
    if isinstance(target, Spoken):
        raise TargetError(
            f"a {type(target).__name__} is asked of {target.needs}; {model.name} tells classes: give a label or class id as target."
        )
    if isinstance(target, Target):
        return target.over(lambda part: resolve_target(part, model)).labelled(model.find_label)
    if isinstance(target, (np.integer, Tensor)) and target.ndim == 0:
        return int(target)
    if isinstance(target, (list, tuple)):
        return [resolve_target(part, model) for part in target]
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    return as_target(target)


def place_target(target: Any, frame: Frame, size: tuple[int, int]) -> Any:
    """Replace places in a photo by places in the network's input of `size` (H, W), also inside target objects."""
    return target.over(lambda part: place_target(part, frame, size)).placed(frame, size) if isinstance(target, Target) else target
