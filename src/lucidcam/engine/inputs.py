"""What a module takes: one tensor, several positional ones, or keyword arguments; one of them is the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import InputError
from lucidcam.reprs import OneLineRepr

Change = Callable[[Tensor], Tensor]


Key = int | str
"""Where an argument is: a position, or the name of a keyword."""


@dataclass(frozen=True)
class Inputs(OneLineRepr):
    """The arguments of one forward call.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        key: where the explained image is: a position in `args` or a name in `kwargs`.
        axes: positions of the image's batch and channel axes in the tensor that the module takes; None as channel axis: it has none. All
            others are spatial (height, width, time, …), in their order. None altogether: nobody has said or seen them yet, and
            `[B, C, *spatial]` is meant.
        shared: keys of the tensors that are common to all images, so that no row of them belongs to one image alone; None: nobody has
            said or tried, and a tensor with as many rows as there are images has one for each.
        memory: what is remembered of the module that the inputs are for, while a run is open (`engine.module_memory`).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: Key
    axes: tuple[int, int | None] | None = None
    shared: frozenset[Key] | None = None
    memory: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, value: Any, explain_input: Key | None = None, axes: str | None = None, shared: Key | Sequence[Key] | None = None) -> Inputs:
        """Wrap what a user hands over: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.

        Args:
            value: the arguments, or `Inputs`, which are returned as they are.
            explain_input: position or name of the explained image; None: the first floating-point tensor with at least three axes.
            axes: what its axes are, one letter for each: "B" the batch, "C" the channels, any other letter a spatial axis or time
                ("BTCHW", "BHWC", "BLC", "LBC", "BHW"); None: as the network reads them.
            shared: position or name of the tensors that are common to all images (CLIP's texts), or several of them; an empty sequence:
                none is; None: as the network behaves.

        Raises:
            InputError: there is no such image, or the letters do not fit it.
        """
        if isinstance(value, Inputs):
            return value
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
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
        pairs = _by_key(args, kwargs)
        least = 2 if axes and len(axes) < 3 else 3
        for item in pairs.values():
            if isinstance(item, Tensor) and item.is_nested:
                raise InputError("expected images of one size [B, C, H, W]; got a nested tensor: explain its images one by one.")
        key = next((k for k, item in pairs.items() if _is_image(item, least)), None) if explain_input is None else explain_input
        if key is None:
            shapes = ", ".join(_describe(item) for item in pairs.values())
            raise InputError(f"expected a floating-point image tensor [B, C, H, W] among the inputs; got {shapes or 'nothing'}.")
        if not _is_image(pairs.get(key), least):
            images = ", ".join(repr(k) for k, item in pairs.items() if _is_image(item, least))
            raise InputError(f"explain_input={key!r} is no floating-point image tensor among the inputs; images are at {images or 'none'}.")
        common = None if shared is None else frozenset([shared] if isinstance(shared, (int, str)) else shared)
        if common is not None and (key in common or not all(isinstance(pairs.get(k), Tensor) for k in common)):
            others = ", ".join(repr(k) for k, item in pairs.items() if isinstance(item, Tensor) and k != key)
            raise InputError(f"shared={shared!r} must name tensors beside the explained image; there are {others or 'none'}.")
        _check_kind(pairs[key])
        inputs = cls(args, kwargs, key, None if axes is None else _axes_of(axes, pairs[key]), common).map(_normal)
        _check(inputs.image)
        return inputs

    @property
    def raw(self) -> Tensor:
        """The image as the module takes it."""
        image = self.args[self.key] if isinstance(self.key, int) else self.kwargs[self.key]
        assert isinstance(image, Tensor)
        return image

    @property
    def image(self) -> Tensor:
        """The image `[B, C, *spatial]`, whatever the order in which the module takes its axes."""
        if self.axes in (None, (0, 1)):
            return self.raw
        batch, channel = self.axes or (0, 1)
        return self.raw.movedim(batch, 0).unsqueeze(1) if channel is None else self.raw.movedim((batch, channel), (0, 1))

    @property
    def batch(self) -> int:
        """The number of images B."""
        return self.raw.shape[0 if self.axes is None else self.axes[0]]

    @property
    def spatial(self) -> tuple[int, ...]:
        """The positions of the spatial axes in the tensor that the module takes."""
        return tuple(i for i in range(self.raw.ndim) if i not in (self.axes or (0, 1)))

    @property
    def size(self) -> tuple[int, ...]:
        """The image's spatial size, `(H, W)` for pictures."""
        return tuple(self.raw.shape[i] for i in self.spatial)

    @property
    def by_key(self) -> dict[Key, Any]:
        """All arguments, by position or name."""
        return _by_key(self.args, self.kwargs)

    @property
    def others(self) -> dict[Key, Tensor]:
        """All tensors beside the explained image."""
        return {key: value for key, value in self.by_key.items() if key != self.key and isinstance(value, Tensor)}

    @property
    def companions(self) -> tuple[Key, ...]:
        """Those of `others` that have, or could have, a row for each image."""
        batch, common = self.batch, self.shared or ()
        return tuple(key for key, value in self.others.items() if key not in common and value.ndim and len(value) == batch)

    @property
    def alone(self) -> bool:
        """Whether no other argument has a row for each image."""
        return not self.companions

    def map(self, change: Change) -> Inputs:
        """Apply `change` to every tensor argument."""
        args = tuple(change(a) if isinstance(a, Tensor) else a for a in self.args)
        return replace(self, args=args, kwargs={k: change(v) if isinstance(v, Tensor) else v for k, v in self.kwargs.items()})

    def with_image(self, image: Tensor) -> Inputs:
        """The same arguments with another image `[B, C, *spatial]`."""
        if self.axes not in (None, (0, 1)):
            batch, channel = self.axes or (0, 1)
            image = image.squeeze(1).movedim(0, batch) if channel is None else image.movedim((0, 1), (batch, channel))
            image = image.contiguous()  # as users hand it over: modules may take views of it
        return self._with(self.key, image)

    def _with(self, key: Key, value: Tensor) -> Inputs:
        if isinstance(key, int):
            return replace(self, args=(*self.args[:key], value, *self.args[key + 1 :]))
        return replace(self, kwargs={**self.kwargs, key: value})

    def rows(self, index: Tensor | slice) -> Inputs:
        """Select rows of the image and of every tensor that has one row per image; `index` may repeat rows."""
        found = self.with_image(self.image[index])
        for key in self.companions:
            found = found._with(key, self.others[key][index])
        return found

    def repeated(self, image: Tensor, rows: Tensor) -> Inputs:
        """The arguments for `image`, whose row i was made from the image `rows[i]`."""
        found = self
        for key in self.companions:
            found = found._with(key, self.others[key][rows])
        return found.with_image(image)


def images_among(value: Any) -> tuple[Key, ...]:
    """Positions or names of all images among the arguments that a user hands over."""
    inputs = Inputs.of(value)
    return tuple(key for key, item in inputs.by_key.items() if _is_image(item, 3))


def _by_key(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Key, Any]:
    pairs: dict[Key, Any] = dict(enumerate(args))
    pairs.update(kwargs)
    return pairs


def _is_image(item: Any, axes: int) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point() and item.ndim >= axes


def _axes_of(letters: str, image: Tensor) -> tuple[int, int | None]:
    """The positions of "B" and "C" among the letters.

    Raises:
        InputError: when they are no description of this image.
    """
    names = letters.upper()
    if len(names) != image.ndim or len(set(names)) != len(names) or "B" not in names or not set(names) - {"B", "C"}:
        raise InputError(
            f"expected axes with one letter for each of the {image.ndim} axes of the image {list(image.shape)}, all different: B (batch), "
            f'C (channels, if there are any) and spatial ones, as in "BCHW", "BTCHW" or "BLC"; got {letters!r}.'
        )
    return names.index("B"), names.index("C") if "C" in names else None


def _normal(tensor: Tensor) -> Tensor:
    """Tensors born under inference_mode cannot be saved for a backward pass; a clone can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _describe(item: Any) -> str:
    return f"{str(item.dtype)[6:]} {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__


def all_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum says so at a twentieth of the cost; one that overflows is looked at closely."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check_kind(image: Tensor) -> None:
    if image.layout != torch.strided:
        raise InputError(f"expected an ordinary tensor of images; got one of layout {str(image.layout)[6:]}: give image.to_dense().")
    if image.dtype not in _PRECISIONS:
        raise InputError(f"expected images in float16, bfloat16, float32 or float64; got {str(image.dtype)[6:]}: give image.float().")


def _check(image: Tensor) -> None:
    if 0 in image.shape:
        raise InputError(f"expected images [B, C, H, W] with at least one pixel; got an empty tensor {list(image.shape)}.")
    if image.is_meta:
        raise InputError(f"expected images with values; got a tensor {list(image.shape)} on the meta device, which holds none.")
    if not all_finite(image):
        bad = [i for i, row in enumerate(image) if not bool(torch.isfinite(row).all())]
        raise InputError(f"image {bad[0]} of the batch holds NaN or infinite values; clean the input (torch.nan_to_num) before explaining.")
