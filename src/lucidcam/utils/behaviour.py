"""What decides what a thing does, as a short text: its code, its constants, and the state that its code reads.

Networks, preprocessings and targets are objects and functions of anyone's. Of code that is the user's own, the instructions, constants and
nested functions count, defaults, closures, the global functions and values that it refers to, and of its objects those attributes that the
code names. Of installed libraries' code, which refers to half of the library, only a module's own `forward` counts; of their objects all
attributes do.

Left out is what would tell one process from the next: addresses, the order of sets, random generators, locks, files; and what the code
itself changes while it runs, as far as the instructions say so: counters, caches, lists that hooks append to. What that leaves unseen is
for comparing values to find, see `lucidcam.engine.activation_cache`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import random
import re
import sys
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lucidcam.utils.instructions import Reads

ROUNDS = 8
"""Times that the code which was come upon is searched for what it reads, before that is taken as it is."""

DEEPEST = 150
"""Objects within objects."""

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice, torch.dtype, torch.device, torch.layout)
CONTAINERS = (list, dict, set, deque, bytearray)
PASSING = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
    io.IOBase,
    logging.Logger,
    weakref.ref,
    threading.Thread,
    threading.local,
    types.CodeType,
    types.GeneratorType,
)
"""Things that have no state which stays."""

UNSEEN = frozenset(
    (
        *("__init__", "__new__", "__post_init__", "__init_subclass__", "__class_getitem__"),
        *("__repr__", "__str__", "__eq__", "__hash__", "__del__"),
        *("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__format__"),
        *("__sizeof__", "__dir__", "__set_name__", "__copy__", "__deepcopy__"),
        *("__replace__",),
    )
)
"""Methods that build, copy and show objects."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
BOOKKEEPING = frozenset(
    (
        *HOOKS,
        *("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook"),
        *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks"),
        *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_compiled_call_impl"),
    )
)
"""What every module of torch has, and what is described in another way or decides nothing."""
ELSEWHERE = BOOKKEEPING | {
    "_graph",
    "_is_hf_initialized",
    "_measured",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "__wrapped__",
    "__doc__",
}
"""Attributes that are described in another way, or that say where an object came from."""


def behaviour(subject: Any) -> str:
    """A short text that changes with what a thing does, and is the same in every process.

    Args:
        subject: a module, whose parameters and buffers do not count (`lucidcam.utils.fingerprint`), a callable, or any object.
    """
    reads, tensors = Reads(), dict[int, str]()
    for _ in range(ROUNDS):
        walk = _Walk(subject, reads, tensors)
        found = walk.text(subject)
        if walk.next == reads:
            break
        reads = walk.next
    return found


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for each in parts:
        digest.update(f"{len(each)} {each}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class _Walk:
    """One walk over a thing and all that it refers to.

    Args:
        root: the thing.
        reads: what the code was seen to read and change in the walk before.
        tensors: what stands for tensors that were met in a walk before.

    Attributes:
        next: what the code that was come upon reads and changes.
    """

    def __init__(self, root: Any, reads: Reads, tensors: dict[int, str]) -> None:
        self.reads, self.next, self.tensors = reads, Reads(), tensors
        self.known: dict[int, tuple[Any, str]] = {}
        self.open: dict[int, int] = {}
        self.weights: set[int] = set()
        if isinstance(root, nn.Module):
            self.weights = {id(each) for module in root.modules() for each in _weights(module)}

    def text(self, subject: Any) -> str:
        """What stands for a thing: the same for equal ones."""
        if isinstance(subject, Enum):
            return f"{type(subject).__qualname__}.{subject.name}"
        if type(subject) in PLAIN:
            return f"{type(subject).__name__} {subject!r}"
        if (known := self.known.get(id(subject))) is not None:
            return known[1]
        if id(subject) in self.open:
            return f"cycle {len(self.open) - self.open[id(subject)]}"
        if len(self.open) > DEEPEST:
            return type(subject).__qualname__
        self.open[id(subject)] = len(self.open)
        try:
            found = self._described(subject)
        except Exception:  # objects of anyone's, whose attributes may raise anything
            found = type(subject).__qualname__
        finally:
            del self.open[id(subject)]
        self.known[id(subject)] = subject, found
        return found

    def _described(self, subject: Any) -> str:
        if isinstance(subject, Tensor):
            return "weight" if id(subject) in self.weights else self._tensor(subject)
        if isinstance(subject, np.ndarray):
            content = (
                self._several(subject.tolist())
                if subject.dtype.hasobject
                else hashlib.blake2b(subject.tobytes(), digest_size=12).hexdigest()
            )
            return f"array {subject.dtype} {subject.shape} {content}"
        if isinstance(subject, np.generic):
            return f"{subject.dtype} {subject.item()!r}"
        if isinstance(subject, Image.Image):
            return f"image {subject.mode} {subject.size} {hashlib.blake2b(subject.tobytes(), digest_size=12).hexdigest()}"
        if isinstance(subject, PASSING):
            return type(subject).__qualname__
        if isinstance(subject, nn.Module):
            return self._module(subject)
        if isinstance(subject, type):
            return self._class(subject)
        if isinstance(subject, types.ModuleType):
            return f"module {subject.__name__}"
        found = self._callable(subject)
        return self._object(subject) if found is None else found

    def _callable(self, subject: Any) -> str | None:
        if isinstance(subject, types.FunctionType):
            return self._function(subject)
        if isinstance(subject, types.MethodType):
            return _digest("method", self.text(subject.__self__), self.text(subject.__func__))  # first the class, which the method is of
        if isinstance(subject, (staticmethod, classmethod)):
            return self.text(subject.__func__)
        if isinstance(subject, property):
            return self._several(each for each in (subject.fget, subject.fset) if each is not None)
        if isinstance(subject, functools.partial):
            return _digest("partial", self.text(subject.func), self.text(subject.args), self.text(subject.keywords))
        if isinstance(subject, (functools.cached_property, functools.partialmethod)):
            return self.text(subject.func)
        if isinstance(subject, functools._lru_cache_wrapper):
            return self.text(subject.__wrapped__)
        if isinstance(subject, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc)):
            owner = getattr(subject, "__self__", None)
            bound = "" if owner is None or isinstance(owner, (type, types.ModuleType)) else self.text(owner)
            return f"{getattr(subject, '__qualname__', subject.__name__)} {bound}"
        return None

    def _several(self, items: Iterable[Any], ordered: bool = True) -> str:
        texts = [self.text(each) for each in items]
        return _digest(*(texts if ordered else sorted(texts)))

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], ordered: bool = False) -> str:
        texts = [_digest(self.text(key), self.text(value)) for key, value in pairs]
        return _digest(*(texts if ordered else sorted(texts)))

    def _object(self, subject: Any) -> str:
        kind = self.text(type(subject))
        if isinstance(subject, Mapping):
            return _digest(kind, self._pairs(subject.items(), ordered=isinstance(subject, OrderedDict)), self._attributes(subject))
        if isinstance(subject, (list, tuple, deque)):
            return _digest(kind, self._several(subject), self._attributes(subject))
        if isinstance(subject, (set, frozenset)):
            return _digest(kind, self._several(subject, ordered=False), self._attributes(subject))
        state = _state(subject)
        if state:
            return _digest(kind, self._attributes(subject))
        shown = repr(subject)
        return _digest(kind, "" if ADDRESS.search(shown) else shown)

    def _attributes(self, subject: Any) -> str:
        kind = type(subject)
        selective = _is_own(kind) or kind in (types.SimpleNamespace, *_namespaces())
        selective = selective and not any(_is_behaviour(each) for each in kind.__mro__[1:])
        texts = []
        for name, value in _state(subject).items():
            if name in ELSEWHERE or (selective and not self.reads.names_attribute(name)) or self.reads.changes(kind, name, value):
                continue
            if isinstance(getattr(kind, name, None), functools.cached_property):
                continue
            texts.append(_digest(str(name), self.text(value)))
        return _digest(*sorted(texts))

    def _module(self, module: nn.Module) -> str:
        if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:  # of torch.compile
            return self.text(module._orig_mod)
        parts = [self.text(type(module)), self._attributes(module)]
        code = getattr(module, "code", None)  # of TorchScript and torch.fx
        parts.append(code if isinstance(code, str) else "")
        parts += [_digest(name, self.text(child)) for name, child in module._modules.items()]
        kept = module._non_persistent_buffers_set
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is None or id(tensor) in self.weights or self.reads.changes(type(module), name, tensor):
                parts.append(name)
            else:
                parts.append(_digest(name, "passing" if name in kept else "", self.text(tensor)))
        for kind in HOOKS:
            parts += [_digest(kind, self.text(hook)) for hook in getattr(module, kind, {}).values()]
        return _digest(*parts)

    def _class(self, kind: type) -> str:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if not _is_own(kind):
            parts = [name, *(self.text(base) for base in kind.__mro__[1:] if _is_own(base))]
            if issubclass(kind, nn.Module) and kind is not nn.Module:
                self.next.survey_library(kind)
                code = getattr(kind.forward, "__code__", None)
                parts += [] if code is None else [self._code(code)]
            return _digest(*parts)
        parts = [kind.__qualname__, *(self.text(base) for base in kind.__mro__[1:])]
        for name, value in kind.__dict__.items():
            special = name.startswith("__") and name.endswith("__")
            if name in UNSEEN or (special and not isinstance(value, (types.FunctionType, classmethod, staticmethod))):
                continue
            if (special or name == "forward" or self.reads.names_attribute(name)) and not self.reads.changes(kind, name, value):
                inner = getattr(value, "__func__", getattr(value, "func", getattr(value, "fget", value)))
                if isinstance(inner, types.FunctionType):
                    self.next.survey(_unwrapped(inner).__code__, kind)
                parts.append(_digest(name, self.text(value)))
        return _digest(*parts)

    def _function(self, function: types.FunctionType) -> str:
        code, scope = function.__code__, function.__globals__
        own = _is_own_code(function)
        parts = [self._code(code) if own else f"{scope.get('__name__')}.{code.co_name}"]
        if own:
            parts += [self.text(function.__defaults__), self.text(function.__kwdefaults__)]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty one
                value = cell.cell_contents
                if name != "__class__" and not self.reads.changes(None, name, value):
                    parts.append(_digest(name, self.text(value)))
        if not own:
            return _digest(*parts)
        if id(code) not in self.next.surveyed:
            self.next.survey(code, None)
        parts.append(self._attributes_of_function(function))
        uses = self.next.globals_of(code)
        for name in sorted(uses & scope.keys()):
            value = scope[name]
            if self.reads.changes(None, name, value):
                continue
            if isinstance(value, types.ModuleType) and _is_own_name(value.__name__):
                members = [each for each in sorted(self.next.attributes_of(code)) if each in vars(value)]
                parts.append(_digest(name, *(_digest(each, self.text(vars(value)[each])) for each in members)))
            else:
                parts.append(_digest(name, self.text(value)))
        return _digest(*parts)

    def _attributes_of_function(self, function: types.FunctionType) -> str:
        pairs = ((name, value) for name, value in vars(function).items() if name not in ELSEWHERE and self.reads.names_attribute(name))
        return self._pairs((name, value) for name, value in pairs if not self.reads.changes(None, name, value))

    def _code(self, code: types.CodeType) -> str:
        documented = not code.co_name.startswith("<") and bool(code.co_consts) and isinstance(code.co_consts[0], (str, type(None)))
        constants = [
            self._code(each) if isinstance(each, types.CodeType) else "documentation" if documented and i == 0 else self.text(each)
            for i, each in enumerate(code.co_consts)
        ]
        names = (*code.co_names, str(code.co_argcount), str(code.co_kwonlyargcount), str(code.co_posonlyargcount))
        return _digest(code.co_code.hex(), *names, "constants", *constants)

    def _tensor(self, tensor: Tensor) -> str:
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = _content(tensor)
        return self.tensors[id(tensor)]


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers that a module's state consists of."""
    for name, tensor in {**module._parameters, **module._buffers}.items():
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield tensor


def _content(tensor: Tensor) -> str:
    description = f"tensor {tensor.dtype} {list(tensor.shape)}"
    try:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, NotImplementedError, TypeError):  # on the meta device, sparse, quantised
        return description
    return f"{description} {hashlib.blake2b(content, digest_size=12).hexdigest()}"


def _state(subject: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots, too."""
    found: dict[str, Any] = {}
    for kind in type(subject).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(subject, name):
                found[name] = getattr(subject, name)
    return {**found, **getattr(subject, "__dict__", {})}


def _unwrapped(function: types.FunctionType) -> types.FunctionType:
    while isinstance(inner := getattr(function, "__wrapped__", None), types.FunctionType):
        function = inner
    return function


def _namespaces() -> tuple[type, ...]:
    argparse = sys.modules.get("argparse")
    return () if argparse is None else (argparse.Namespace,)


def _is_behaviour(kind: type) -> bool:
    """Whether a base is a library's class whose code, which is not looked at, may read any attribute of the object."""
    return not _is_own(kind) and kind not in (object, nn.Module, list, tuple, dict, set, OrderedDict) and kind.__module__ not in _ABSTRACT


_ABSTRACT = ("typing", "abc", "collections.abc", "typing_extensions")


def _is_own(kind: type) -> bool:
    return _is_own_name(kind.__module__)


def _is_own_code(function: types.FunctionType) -> bool:
    name = function.__globals__.get("__name__")
    return not isinstance(name, str) or _is_own_name(name)


@functools.lru_cache(4096)
def _is_own_name(module: str) -> bool:
    """Whether a module is the user's own: neither Python's, nor installed as a package, nor a part of lucidcam."""
    root = module.partition(".")[0]
    if root in ("__main__", "__mp_main__"):
        return True
    if root in ("lucidcam", "torch", "builtins") or root in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module, sys.modules.get(root)), "__file__", None) or ""
    return re.search(r"[/\\](site|dist)-packages[/\\]", file) is None
