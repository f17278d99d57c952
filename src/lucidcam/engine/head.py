"""The operation that makes class scores: the last linear layer, or a 1×1 convolution before global pooling."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lucidcam.errors import LucidcamError, ModelError
from lucidcam.targets import logits


@dataclass(frozen=True)
class Head:
    """A linear map from features to class scores.

    Attributes:
        input: features `[B, C]`, or `[B, C, *grid]` for a 1×1 convolution.
        weight: `[K, C]`.
        bias: `[K]` or None.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None


@dataclass
class HeadHook:
    """Notes what one module, known to be the head, takes and gives: cheaper than watching every operation."""

    module: nn.Module
    last: tuple[Head, Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        weight, bias = module.weight, module.bias
        if args and isinstance(weight, Tensor):
            self.last = Head(args[0], weight.flatten(1), bias if isinstance(bias, Tensor) else None), output


class HeadWatch(TorchFunctionMode):
    """Notes the last linear operation and the last 1×1 convolution of a forward pass, functional or in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Head, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "linear" or (name in ("conv1d", "conv2d", "conv3d") and prod(_weight(args, kwargs).shape[2:]) == 1):
            weight = _weight(args, kwargs)
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            features = args[0] if args else kwargs["input"]
            self.last = Head(features, weight.flatten(1), bias), output
        return output

    def features(self) -> list[Tensor]:
        """What entered the last linear operation, if that was one vector per image."""
        return [] if self.last is None or self.last[0].input.ndim != 2 else [self.last[0].input]


def _weight(args: Any, kwargs: Any) -> Tensor:
    found: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    return found


def head_of(last: tuple[Head, Tensor] | None, outputs: Any, batch: int | None = None) -> Head:
    """The head, given the last linear operation and what the module returned.

    Raises:
        ModelError: when the class scores are not what the last linear operation gave (or its global average).
    """
    try:
        scores = logits(outputs, batch)
    except LucidcamError as error:
        raise ModelError(f"CAM needs class scores: {error}") from None
    if last is None:
        raise ModelError("CAM needs a network that ends in a linear layer; this one has none. Use gradcam, which needs no special head.")
    head, output = last
    if output.shape[:2] != scores.shape or len(head.weight) != scores.shape[1]:
        raise ModelError(
            f"CAM needs class scores made by the last linear layer; that gives {list(output.shape)} and the model "
            f"{list(scores.shape)}. Use gradcam, which needs no special head."
        )
    return head


def owner(module: nn.Module, head: Head) -> str | None:
    """Name of the one submodule that the head's weight belongs to."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    owners = (name for name, m in module.named_modules() if isinstance(m, kinds) and m.weight.data_ptr() == head.weight.data_ptr())
    found = list(owners)
    return found[0] if len(found) == 1 else None
