"""What tells networks and settings apart: short texts that change with weights, with code, with values, and with nothing else."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.tensor_state import TensorState


@dataclass(frozen=True)
class _Known:
    """A network's fingerprint, and the weights that it is of: their sums and states by name."""

    sums: dict[str, float]
    states: dict[str, TensorState]
    text: str


_fingerprints: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """A short text that changes with the weights: of every parameter and buffer the name, type, shape and values.

    Remembered until a tensor is exchanged or changed (`TensorState`, and its sum). A copy that `stands_for` another network has that one's.
    """
    named = module.state_dict(keep_vars=True)
    tensors = {name: tensor.detach() for name, tensor in sorted(named.items()) if isinstance(tensor, Tensor)}
    sums = {name: float(tensor.sum()) for name, tensor in tensors.items()}
    known = _fingerprints.get(module)
    if known is None or known.sums != sums or not all(state.holds(named[name]) for name, state in known.states.items()):
        digest = hashlib.blake2b(digest_size=12)
        for name, tensor in tensors.items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        states = {name: TensorState.of(named[name]) for name in tensors}
        known = _fingerprints[module] = _Known(sums, states, digest.hexdigest())
    return known.text


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
    _fingerprints[copy] = replace(_fingerprints[copy], text=fingerprint(original))
