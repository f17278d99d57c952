"""The operation that makes class scores, known by its values: a linear layer, or a 1×1 convolution before global pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.pooling import matching, same
from lucidcam.engine.thread_state import Mode


@dataclass(frozen=True)
class Head:
    """A linear map from features to class scores.

    Attributes:
        input: features `[B, C]`, or `[B, C, *grid]` for a 1×1 convolution.
        weight: `[K, C]`.
        bias: `[K]` or None.
        output: `[B, K]` or `[B, K, *grid]`, as it was before anything changed it in place.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor


@dataclass
class HeadHook:
    """Notes what one module, known to be the head, takes and gives: cheaper than watching every operation."""

    module: nn.Module
    heads: list[Head] = field(default_factory=list)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        weight, bias = module.weight, module.bias
        if args and isinstance(weight, Tensor):
            self.heads.append(Head(args[0], weight.flatten(1), bias if isinstance(bias, Tensor) else None, output.clone()))


class HeadWatch(Mode):
    """Notes linear operations and 1×1 convolutions of a forward pass, functional or in modules.

    Args:
        classes: only those that give so many numbers are kept.

    Attributes:
        heads: those, in the order in which they ran.
        entering: what entered the last linear operation or 1×1 convolution of any width.
    """

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.heads: list[Head] = []
        self.entering: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        weight = _weight(args, kwargs) if name in ("linear", "conv1d", "conv2d", "conv3d") else None
        if isinstance(weight, Tensor) and (name == "linear" or prod(weight.shape[2:]) == 1):  # quantised weights are no tensors
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            self.entering = args[0] if args else kwargs["input"]
            if len(weight) == self.classes and (name != "linear" or output.ndim == 2):
                self.heads.append(Head(self.entering, weight.flatten(1), bias, output.clone()))
        return output

    def features(self) -> list[Tensor]:
        """What entered the last linear operation, if that was one vector per image."""
        return [] if self.entering is None or self.entering.ndim != 2 else [self.entering]


def _weight(args: Any, kwargs: Any) -> Tensor:
    found: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    return found


def head_of(heads: Sequence[Head], scores: Tensor) -> Head | None:
    """The last of the operations whose output is the class scores `[B, K]`, by value; a convolution's once it is pooled, or its ReLU."""
    return next((head for head in reversed(heads) if _gives(head.output, scores)), None)


def _gives(output: Tensor, scores: Tensor) -> bool:
    if output.ndim == 2:
        return same(output, scores)
    return any(matching(maps, scores) is not None for maps in (output, torch.relu(output)))


def owner(module: nn.Module, head: Head) -> str | None:
    """Name of the one submodule that the head's weight belongs to."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    owners = (name for name, m in module.named_modules() if isinstance(m, kinds) and m.weight.data_ptr() == head.weight.data_ptr())
    found = list(owners)
    return found[0] if len(found) == 1 else None
