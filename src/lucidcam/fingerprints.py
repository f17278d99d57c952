"""What tells networks and settings apart: short texts that change with weights, with code, with values, and with nothing else."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.behaviour import behaviour

_fingerprints: weakref.WeakKeyDictionary[nn.Module, tuple[int, str]] = weakref.WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """A short text that changes with the weights: of every parameter and buffer the name, type, shape and values.

    Remembered until a tensor is exchanged or changed (its place, count of changes or sum differ). A copy that `stands_for` another
    network has that one's.
    """
    tensors = {name: tensor for name, tensor in sorted(module.state_dict().items()) if isinstance(tensor, Tensor)}
    state = hash(tuple((name, tensor.data_ptr(), _version(tensor), float(tensor.sum())) for name, tensor in tensors.items()))
    known = _fingerprints.get(module)
    if known is None or known[0] != state:
        digest = hashlib.blake2b(digest_size=12)
        for name, tensor in tensors.items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        known = _fingerprints[module] = state, digest.hexdigest()
    return known[1]


def architecture(module: nn.Module) -> str:
    """A short text that changes with what a network does with its weights: its modules, the code they run, what that reads, and hooks."""
    return behaviour(module)


def steady(subject: Any) -> str:
    """What describes a thing, a callable say, in the same way in every process: a value as Python shows it, else its kind and behaviour."""
    if subject is None or type(subject) in (bool, int, float, complex, str, bytes, torch.dtype, torch.device):
        return repr(subject)
    if type(subject) in (list, tuple):
        return f"[{', '.join(map(steady, subject))}]"
    if is_dataclass(subject) and not isinstance(subject, type) and _is_ours(type(subject)):
        pairs = (f"{each.name}={steady(getattr(subject, each.name))}" for each in fields(subject) if each.compare)
        return f"{type(subject).__name__}({', '.join(pairs)})"
    name = subject if hasattr(subject, "__qualname__") else type(subject)
    weights = f" {fingerprint(subject)}" if isinstance(subject, nn.Module) else ""
    return f"{name.__qualname__} {behaviour(subject)}{weights}"


def steadied(settings: Any) -> Any:
    """Settings as JSON has them; in the place of what it cannot tell is what describes that in every process."""
    if settings is None or isinstance(settings, (str, bool, int, float)):
        return settings
    if isinstance(settings, Mapping):
        return {str(key): steadied(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [steadied(each) for each in settings]
    return str(settings) if isinstance(settings, os.PathLike) else steady(settings)


def code_of(subject: Any) -> dict[str, str]:
    """What tells methods and metrics of the user's own from others of their names; nothing for those of lucidcam."""
    return {} if subject is None or _is_ours(type(subject)) else {"code": behaviour(subject)}


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def stands_for(copy: nn.Module, original: nn.Module) -> None:
    """Note that a module computes what another does, as an optimised copy: until it is changed it has that one's fingerprint."""
    fingerprint(copy)
    _fingerprints[copy] = _fingerprints[copy][0], fingerprint(original)


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors, which do not count, cannot be changed outside inference mode."""
    return 0 if tensor.is_inference() else tensor._version
