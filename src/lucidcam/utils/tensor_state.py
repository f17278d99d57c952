"""The state of a tensor, and whether it still holds: noted without keeping the tensor alive or copying it."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

SMALL = 2048
"""Bytes of a tensor on a CPU up to which all are compared; of larger ones, the first, middle and last `LENGTH`."""
LENGTH = 64


@dataclass(slots=True)
class TensorState:
    """A tensor, how often it was changed in place, where its values are, and some of them.

    The values: a change through `.data`, or through an array that shares the memory, counts in no version.

    Attributes:
        reference: the very tensor.
        version: its count of changes; −1: it has none.
        address: of its values; 0: there is no one address.
        places: which of the bytes behind the address are compared.
        values: those bytes.
        form: its type and shape.
    """

    reference: weakref.ref[Tensor]
    version: int
    address: int
    places: tuple[tuple[int, int], ...]
    values: tuple[bytes, ...]
    form: tuple[Any, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorState:
        """Note the state of a tensor."""
        form = (tensor.dtype, tuple(tensor.shape))
        try:
            version = -1 if tensor.is_inference() else tensor._version
            address = tensor.data_ptr()
            stride = tensor.stride()
        except (RuntimeError, NotImplementedError):  # sparse ones, those of a transform, …
            return cls(weakref.ref(tensor), -1, 0, (), (), form)
        places: tuple[tuple[int, int], ...] = ()
        if address and tensor.is_cpu and type(tensor) in (Tensor, nn.Parameter) and tensor.numel():
            size = (sum((length - 1) * step for length, step in zip(tensor.shape, stride)) + 1) * tensor.element_size()
            at = (0, size // 2 - LENGTH, size - LENGTH)
            places = ((address, size),) if size <= SMALL else tuple((address + start, LENGTH) for start in at)
        return cls(weakref.ref(tensor), version, address, places, tuple([_bytes(*place) for place in places]), form)

    def holds(self, tensor: Any) -> bool:
        """Whether a tensor is this one, unchanged."""
        known = self.reference()
        if known is None or tensor is not known:
            return False
        if (self.version >= 0 and known._version != self.version) or (self.address and known.data_ptr() != self.address):
            return False
        return not self.places or all(map(_holds, self.places, self.values))

    def __eq__(self, other: object) -> bool:
        return type(other) is TensorState and self.holds(other.reference()) and self.form == other.form

    __hash__ = None  # type: ignore[assignment]


_bytes = ctypes.string_at


def _holds(place: tuple[int, int], values: bytes) -> bool:
    return _bytes(*place) == values
