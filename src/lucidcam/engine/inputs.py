"""What a module takes: one tensor, several positional ones, or keyword arguments; one of them is the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import InputError

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward call.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        key: where the image is: a position in `args` or a name in `kwargs`. The image is the first floating-point tensor with at
            least three axes, `[B, C, *spatial]`; every other argument reaches the module untouched, in step with the image's rows.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: int | str

    @classmethod
    def of(cls, value: Any) -> Inputs:
        """Wrap what a user hands over: a tensor, a tuple or list of arguments, or a mapping of keyword arguments."""
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(value, Inputs):
            return value
        if isinstance(value, Tensor):
            args = (value,)
        elif isinstance(value, Mapping):
            kwargs = dict(value)
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            args = tuple(value)
        else:
            raise InputError(
                f"inputs must be a tensor [B, C, H, W], a tuple of arguments or a dict of keyword arguments; got {type(value).__name__}. "
                "Files and PIL images go to lucidcam.explain."
            )
        pairs: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        key = next((k for k, item in pairs if isinstance(item, Tensor) and item.is_floating_point() and item.ndim >= 3), None)
        if key is None:
            shapes = ", ".join(_describe(item) for _, item in pairs)
            raise InputError(f"expected a floating-point image tensor [B, C, H, W] among the inputs; got {shapes or 'nothing'}.")
        inputs = cls(args, kwargs, key).map(_normal)
        _check(inputs.image)
        return inputs

    @property
    def image(self) -> Tensor:
        """The image `[B, C, *spatial]`."""
        image = self.args[self.key] if isinstance(self.key, int) else self.kwargs[self.key]
        assert isinstance(image, Tensor)
        return image

    @property
    def batch(self) -> int:
        """The number of images B."""
        return len(self.image)

    @property
    def size(self) -> tuple[int, ...]:
        """The image's spatial size, `(H, W)` for pictures."""
        return tuple(self.image.shape[2:])

    @property
    def alone(self) -> bool:
        """Whether no other argument has a row for each image."""
        return sum(isinstance(a, Tensor) and a.ndim > 0 and len(a) == self.batch for a in (*self.args, *self.kwargs.values())) == 1

    def map(self, change: Change) -> Inputs:
        """Apply `change` to every tensor argument."""
        args = tuple(change(a) if isinstance(a, Tensor) else a for a in self.args)
        return replace(self, args=args, kwargs={k: change(v) if isinstance(v, Tensor) else v for k, v in self.kwargs.items()})

    def with_image(self, image: Tensor) -> Inputs:
        """The same arguments with another image."""
        if isinstance(self.key, int):
            return replace(self, args=(*self.args[: self.key], image, *self.args[self.key + 1 :]))
        return replace(self, kwargs={**self.kwargs, self.key: image})

    def rows(self, index: Tensor | slice) -> Inputs:
        """Select rows of every tensor that has one row per image; `index` may repeat rows."""
        batch = self.batch
        return self.map(lambda t: t[index] if t.ndim and len(t) == batch else t)

    def repeated(self, image: Tensor, rows: Tensor) -> Inputs:
        """The arguments for `image`, whose row i was made from the image `rows[i]`."""
        if len(self.args) + len(self.kwargs) == 1:
            return self.with_image(image)
        return self.rows(rows).with_image(image)


def _normal(tensor: Tensor) -> Tensor:
    """Tensors born under inference_mode cannot be saved for a backward pass; a clone can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _describe(item: Any) -> str:
    return f"{str(item.dtype)[6:]} {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__


def all_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum says so at a twentieth of the cost; one that overflows is looked at closely."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _check(image: Tensor) -> None:
    if 0 in image.shape:
        raise InputError(f"expected images [B, C, H, W] with at least one pixel; got an empty tensor {list(image.shape)}.")
    if image.is_meta:
        raise InputError(f"expected images with values; got a tensor {list(image.shape)} on the meta device, which holds none.")
    if not all_finite(image):
        bad = [i for i, row in enumerate(image) if not bool(torch.isfinite(row).all())]
        raise InputError(f"image {bad[0]} of the batch holds NaN or infinite values; clean the input (torch.nan_to_num) before explaining.")
