"""What tells networks and settings apart: short texts that change with weights, with code, with values, and with nothing else."""

from __future__ import annotations

import hashlib
import re
import weakref
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    """A short text that changes with what a network does with its weights: its modules, their options, and the code they run."""
    digest = hashlib.blake2b(repr(module).encode(), digest_size=12)
    for child in module.modules():
        kind = type(child)
        code = getattr(kind.forward, "__code__", None)
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        digest.update(b"" if code is None else code.co_code + repr(code.co_names).encode())
    return digest.hexdigest()


def steady(thing: Any) -> str:
    """What describes a thing, a callable say, in the same way in every process: without its address in memory."""
    if is_dataclass(thing) and not isinstance(thing, type):
        return f"{type(thing).__name__}({', '.join(f'{each.name}={steady(getattr(thing, each.name))}' for each in fields(thing))})"
    code = getattr(thing, "__code__", None)
    if code is not None:
        inner = hashlib.blake2b(code.co_code + repr(code.co_names).encode(), digest_size=6).hexdigest()
        return f"{thing.__module__}.{thing.__qualname__} {inner}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


def stands_for(copy: nn.Module, original: nn.Module) -> None:
    """Note that a module computes what another does, as an optimised copy: until it is changed it has that one's fingerprint."""
    fingerprint(copy)
    _fingerprints[copy] = _fingerprints[copy][0], fingerprint(original)


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors, which do not count, cannot be changed outside inference mode."""
    return 0 if tensor.is_inference() else tensor._version
