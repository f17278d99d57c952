"""Where a map comes from: the network and its weights, the method with all its options, the target as asked, and the versions."""

from __future__ import annotations

import functools
import math
import os
import platform
import sys
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lucidcam.reprs import OneLineRepr
from lucidcam.targets import All, Function, TopK
from lucidcam.utils.fingerprint import fingerprint
from lucidcam.utils.rollback import raised_by_handler
from lucidcam.utils.tensor_state import TensorState

PREDICTED = "predicted"
"""What is written for a target that was left out."""

MOST_NUMBERS = 64
"""Numbers of an array or tensor that are written out; of larger ones, type and shape are."""

ON_HOST = ("cpu", "meta")
"""Kinds of devices whose tensors `TensorState` sees, or that hold no values."""

DEEPEST = 8
"""Values in values that are written out."""

CHANGED = "the weights were changed after the map was made"
GONE = "the network was gone when its fingerprint was first asked for"
UNREADABLE = "the weights cannot be read"
UNFOLLOWED = "the network makes copies of its weights whenever they are read, so that changes of them are not seen"

_NO_LIBRARIES = frozenset(("torch", "lucidcam", "builtins", "__main__"))


class Weights:
    """The weights that a map was made with: noted at once, their fingerprint computed when it is first asked for.

    The network is not kept alive. Once its weights have changed (`TensorState`; where they are on an accelerator, their norm, too) or it is
    gone, a fingerprint that was not asked for before is unknown. Pickling asks for it: another process has no network to ask.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module: Callable[[], nn.Module | None] = weakref.ref(module)
        self._states: dict[str, TensorState] = {}
        self._norm = ""
        self._known: tuple[str | None, str] | None = None
        try:
            tensors = _tensors(module)
            self._states = {name: TensorState.of(tensor) for name, tensor in tensors.items()}
            self._norm = _norm_elsewhere(tensors)
            tensors.clear()
            if any(state.reference() is None for state in self._states.values()):  # quantised ones
                self._known = None, UNFOLLOWED
        except Exception as error:  # a `state_dict` of the user's own
            if raised_by_handler(error):
                raise
            self._known = None, UNREADABLE

    @classmethod
    def of(cls, module: nn.Module) -> Weights:
        """The weights as they are now: one object for all maps that are made with the same ones."""
        known = _noted.get(module)
        if known is None or not known._hold(module):
            known = _noted[module] = cls(module)
        return known

    @property
    def fingerprint(self) -> str | None:
        """As `lucidcam.utils.fingerprint.fingerprint` had it when the map was made; None: it is unknown, and `reason` says why."""
        return self._resolved()[0]

    @property
    def reason(self) -> str:
        """Why the fingerprint is unknown, in words; "": it is known."""
        return self._resolved()[1]

    def hold_for(self, module: nn.Module) -> bool:
        """Whether a network still has these weights, unchanged since they were noted; True where that cannot be told (see `reason`)."""
        return bool(self.reason) or self._hold(module)

    def _resolved(self) -> tuple[str | None, str]:
        if self._known is None:
            self._known = self._found()
        return self._known

    def _found(self) -> tuple[str | None, str]:
        module = self._module()
        if module is None:
            return None, GONE
        try:
            return (fingerprint(module), "") if self._hold(module) else (None, CHANGED)
        except Exception as error:  # offloaded weights, say
            if raised_by_handler(error):
                raise
            return None, UNREADABLE

    def _hold(self, module: nn.Module) -> bool:
        if self._known is not None and self._known[0] is None:
            return False
        tensors = _tensors(module)
        if tensors.keys() != self._states.keys() or not all(state.holds(tensors[name]) for name, state in self._states.items()):
            return False
        return _norm_elsewhere(tensors) == self._norm

    def __copy__(self) -> Weights:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Weights:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, self._resolved()

    def __repr__(self) -> str:
        known = "not asked for yet" if self._known is None else self._known[0] or self._known[1]
        return f"Weights({known})"


_noted: weakref.WeakKeyDictionary[nn.Module, Weights] = weakref.WeakKeyDictionary()


def _restored(text: str | None, reason: str) -> Weights:
    weights = Weights.__new__(Weights)
    weights._module, weights._states, weights._norm, weights._known = _no_module, {}, "", (text, reason)
    return weights


def _no_module() -> None:
    """Stands for the network of another process."""


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that decide a fingerprint."""
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}


def _norm_elsewhere(tensors: Mapping[str, Tensor]) -> str:
    """The norm of the weights on accelerators, whose values `TensorState` does not see; "" where there are none."""
    away = [each.detach() for each in tensors.values() if each.device.type not in ON_HOST and each.is_floating_point()]
    strided = [each for each in away if each.layout == torch.strided and each.numel()]
    return repr(float(nn.utils.get_total_norm(strided))) if strided else ""


@dataclass(frozen=True, eq=False)
class Provenance(OneLineRepr):
    """Where a map comes from.

    Attributes:
        model: what is said of the network, as JSON has it: name, preprocessing, meaning of the outputs, threshold of its decision.
        weights: its weights.
        options: the method's own options and those that every method has, defaults included.
        target: as asked: "predicted", a class id, several, "all", "top5", or the parts of a target object.
        versions: of lucidcam, torch, Python, and the libraries that the network's modules are from.
        against: of a contrast: id and label of the class that is subtracted; None: there is none.
    """

    model: Mapping[str, Any]
    weights: Weights
    options: Mapping[str, Any]
    target: Any
    versions: Mapping[str, str]
    against: tuple[int, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; asks for the fingerprint of the weights."""
        weights: dict[str, Any] = {"fingerprint": self.weights.fingerprint}
        if self.weights.reason:
            weights["fingerprint_unknown"] = self.weights.reason
        model = {**self.model, **weights}
        against = {} if self.against is None else {"against": {"id": self.against[0], "label": self.against[1]}}
        return {"target": self.target, **against, "options": dict(self.options), "model": model, "versions": dict(self.versions)}


def described_target(target: Any) -> Any:
    """What was asked of one image, as JSON has it: in the words that ask for it again where there are any."""
    if target is None:
        return PREDICTED
    if isinstance(target, All):
        return "all"
    if isinstance(target, TopK):
        return f"top{target.k}"
    if isinstance(target, Function):
        return {"type": "Function", "function": described(target.function)}
    if isinstance(target, list) and len(target) == 1:
        return described(target[0])
    return described(target)


def described(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: plain ones as they are, objects by type and fields, functions by name, large arrays by type and shape."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth == DEEPEST:
        return "…"
    if isinstance(value, np.generic):
        return described(value.item(), depth + 1)
    if isinstance(value, (Tensor, np.ndarray)):
        return _described_array(value, depth)
    if isinstance(value, dict):
        return {str(key): described(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [described(each, depth + 1) for each in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Image.Image):
        return f"picture {value.mode} {value.width} × {value.height}"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    return _described_object(value, depth)


def _described_array(value: Tensor | np.ndarray[Any, Any], depth: int) -> Any:
    count = value.numel() if isinstance(value, Tensor) else value.size
    if count <= MOST_NUMBERS and not (isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided)):
        return described(value.tolist(), depth + 1)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _described_object(value: Any, depth: int) -> Any:
    if isinstance(value, functools.partial):
        called = {"function": described(value.func, depth + 1), "args": described(value.args, depth + 1)}
        return {"type": "partial", **called, "keywords": described(value.keywords, depth + 1)}
    if isinstance(value, types.MethodType):
        return f"{type(value.__self__).__module__}.{type(value.__self__).__qualname__}.{value.__name__}"
    if is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        named = {each.name: getattr(value, each.name, None) for each in fields(value)}
        return {"type": type(value).__name__, **{name: described(each, depth + 1) for name, each in named.items()}}
    subject = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(subject, '__module__', None) or '?'}.{subject.__qualname__}"


def versions(module: nn.Module) -> dict[str, str]:
    """Versions of lucidcam, torch, Python, and the libraries that a network's modules are from."""
    packages = {type(each).__module__.partition(".")[0] for each in module.modules()} - _NO_LIBRARIES
    libraries = {name: found for name in sorted(packages) if (found := _version(name))}
    return {"lucidcam": _version("lucidcam"), "torch": str(torch.__version__), "python": platform.python_version(), **libraries}


@functools.lru_cache(maxsize=1000)
def _version(package: str) -> str:
    """The version of a package that is imported; "": it has none."""
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return str(getattr(sys.modules.get(package), "__version__", ""))


def against_of(ids: Sequence[Sequence[int]] | None, image: int, target: int) -> int | None:
    """The class that a contrast subtracts for a target of an image; None: none."""
    return None if ids is None else ids[image][min(target, len(ids[image]) - 1)]
