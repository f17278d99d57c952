"""From what a user writes to a target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Target
from lucidcam.targets.classes import All, Classes, TopK
from lucidcam.targets.function import Function


def as_target(value: Any) -> Target:
    """Turn what a user writes into a target.

    Args:
        value: None (the predicted class), an int, a sequence or tensor of ids `[B]` or `[B, T]`, "all", "top5", a callable
            outputs → `[B]`, or a target.

    Raises:
        TargetError: for anything else; label texts need a model with labels (`lucidcam.explain`).
    """
    if isinstance(value, Target):
        return value
    if isinstance(value, str):
        found = by_word(value)
        if found is not None:
            return found
        raise TargetError(
            f'the text target {value!r} needs a model with labels: use lucidcam.explain, or give a class id, "all" or "top5".'
        )
    if isinstance(value, bool):
        raise TargetError(f"expected a class id as target; got {value}.")
    if callable(value):
        return Function(value)
    return Classes(value)


def target_of_row(value: Any, row: int, count: int) -> Any:
    """What a user writes as the target of `count` images, for one of them: ids that each image has of its own are that image's.

    Args:
        value: as for `as_target`.
        row: which image.
        count: how many images there are.
    """
    if isinstance(value, Classes) and value.ids is not None:
        return replace(value, ids=target_of_row(value.ids, row, count))
    if isinstance(value, Target):
        return value.over(lambda part: target_of_row(part, row, count))
    own = isinstance(value, (list, tuple)) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0)
    return value[row : row + 1] if own and len(value) == count else value


def by_word(text: str) -> Target | None:
    """The target that a word means, "all" or "top5"; None for any other text, which may be a label."""
    word = text.strip().casefold()
    if word == "all":
        return All()
    number = word.removeprefix("top").lstrip("-")
    return TopK(int(number)) if word.startswith("top") and number.isdigit() else None
