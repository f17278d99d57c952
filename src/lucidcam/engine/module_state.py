"""The state of a module, as far as it decides which way a forward pass goes, and whether it still holds.

Noted are the submodules themselves in their order, their names, classes, attributes and hooks, their weights and buffers, and the code that
runs: the methods of their classes with defaults, closures and the globals that they name. All of it is noted by weak references and plain
values: that keeps nothing alive, and is never taken in by an address that is used again.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lucidcam.utils.behaviour import BOOKKEEPING, HOOKS
from lucidcam.utils.rollback import raised_by_handler
from lucidcam.utils.tensor_state import SMALL, TensorState

PLAIN = frozenset(
    (int, float, complex, bool, str, bytes, type(None), type(...), range, torch.dtype, torch.device, torch.layout, torch.memory_format)
)
"""Types whose values are compared as they are."""
COUNTS = frozenset((int, float))
"""Types of values that a forward pass may count with."""
DEPTH = 5
"""Objects in objects that are looked into."""
MOST = 5000
"""Objects that are looked into, beside submodules; of more, only whether they are the same ones."""
MOST_FUNCTIONS = 300
"""Functions whose globals are looked at."""

_CLOSED = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch", "numpy"}
"""Packages that live as long as the process, and whose objects and functions nobody looks into."""
_ENGINE = __name__.rpartition(".")[0]
"""Hooks of the engine itself come and go with what is done in other threads."""


class Identity:
    """Stands for one object, which it does not keep alive: equal to those that stand for the very same."""

    __slots__ = ("reference",)

    def __init__(self, referent: Any) -> None:
        try:
            self.reference: Any = weakref.ref(referent)  # one and the same for one object, as long as both live
        except TypeError:  # a bare object() and the like, which refers to nothing
            self.reference = referent

    @property
    def referent(self) -> Any:
        """The object; None: it is gone."""
        return self.reference() if isinstance(self.reference, weakref.ref) else self.reference

    def __eq__(self, other: object) -> bool:
        return type(other) is Identity and self.reference is other.reference

    def __hash__(self) -> int:
        return id(self.reference)


Slot = tuple[Identity, str]
"""A submodule or function, and the name of an attribute or buffer, or of what it has in its closure or uses of its globals."""


class _Names:
    """Named values, as a mapping has them: plain ones by value, others by identity or by what is in them; and some by their form alone."""

    __slots__ = ("forms", "inside", "plain", "same")

    def __init__(self, items: Iterable[tuple[str, Any]], describe: Description, depth: int, aside: Collection[str] = ()) -> None:
        self.plain: dict[str, Any] = {}
        self.forms: list[tuple[str, Any]] = []
        self.same: list[tuple[str, weakref.ref[Any]]] = []
        self.inside: list[tuple[str, Any, int]] = []
        for name, value in items:
            kind = type(value)
            if kind in COUNTS and name in aside:
                self.forms.append((name, _form(value)))
            elif kind in PLAIN or (kind is tuple and set(map(type, value)) <= PLAIN):
                self.plain[name] = value
            elif name in aside:
                self.forms.append((name, _form(value)))
            elif kind in (list, dict, set) and set(map(type, value.values() if kind is dict else value)) <= PLAIN:
                self.plain[name] = value.copy()
            elif isinstance(value, (types.BuiltinFunctionType, types.ModuleType)) or (_is_code(value) and _is_closed(value)):
                self.plain[name] = value  # it lives as long as the process
            elif _is_code(value):
                self.same.append((name, weakref.ref(value)))
                describe.note(value)
            else:
                self.inside.append((name, describe(value, depth), depth))

    def __len__(self) -> int:
        return len(self.plain) + len(self.forms) + len(self.same) + len(self.inside)

    def hold(self, values: Mapping[str, Any], describe: Description) -> bool:
        """Whether the mapping has the same values under these names."""
        if not self.plain.items() <= values.items():
            return False
        for name, reference in self.same:
            if values.get(name) is not reference():
                return False
        for name, token, depth in self.inside:
            if not (token.holds(values[name]) if type(token) is TensorState else describe(values[name], depth) == token):
                return False
        return all(_form(values[name]) == form for name, form in self.forms)

    def changing(self, before: _Names | None) -> set[str]:
        """Names of tensors, containers, objects and numbers that are others than before."""
        old = {} if before is None else {**before.plain, **{name: token for name, token, _ in before.inside}}
        here = {
            **{name: value for name, value in self.plain.items() if type(value) not in PLAIN or type(value) in COUNTS},
            **{name: token for name, token, _ in self.inside},
        }
        return {name for name, value in here.items() if name not in old or type(old[name]) is not type(value) or old[name] != value}


def _is_code(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, type))


class _Part:
    """One submodule."""

    __slots__ = ("attributes", "buffers", "children", "hooks", "kind", "module", "names", "parameters", "size")

    def __init__(self, module: nn.Module, describe: Description, forms_only: Collection[Slot]) -> None:
        itself, own = Identity(module), vars(module)
        self.module, self.kind, self.size = weakref.ref(module), weakref.ref(type(module)), len(own)
        aside = [name for part, name in forms_only if part == itself]
        self.attributes = _Names([(name, value) for name, value in own.items() if name not in BOOKKEEPING], describe, DEPTH, aside)
        children = list(module._modules.items())
        self.names = [name for name, _ in children]
        self.children = [None if child is None else weakref.ref(child) for _, child in children]
        parameters, buffers = _stores(module)
        self.parameters = [(name, None if tensor is None else TensorState.of(tensor)) for name, tensor in parameters.items()]
        self.buffers = _Names(buffers.items(), describe, DEPTH, aside)
        self.hooks = _hooks(own, describe)

    def holds(self, describe: Description) -> bool:
        """Whether it is what it was."""
        module = self.module()
        if module is None or type(module) is not self.kind():
            return False
        own = vars(module)
        if len(own) != self.size or not self.attributes.hold(own, describe):
            return False
        children = module._modules
        if self.names or len(children):
            if len(children) != len(self.names):
                return False
            for (name, child), known, reference in zip(children.items(), self.names, self.children):
                if name != known or child is not (None if reference is None else reference()):
                    return False
        parameters, buffers = _stores(module)
        if len(parameters) != len(self.parameters) or len(buffers) != len(self.buffers):
            return False
        for name, state in self.parameters:
            if name not in parameters or (parameters[name] is not None if state is None else not state.holds(parameters[name])):
                return False
        if buffers and not self.buffers.hold(buffers, describe):
            return False
        hooks = _hooks(own, describe)
        if hooks == self.hooks:
            return True
        if describe.hooked is None or not _added(self.hooks, hooks):
            return False
        describe.hooked.append(module)
        return True


def _form(value: Any) -> Any:
    return (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else type(value)


def _stores(module: nn.Module) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A module's own parameters and buffers."""
    if isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_parameters(recurse=False)), dict(module.named_buffers(recurse=False))
    return module._parameters, module._buffers


Hooks = tuple[tuple[Any, ...], ...]


def _hooks(own: dict[str, Any], describe: Description) -> Hooks:
    """The hooks that others have registered, by kind."""
    if not (own.get(HOOKS[0]) or own.get(HOOKS[1]) or own.get(HOOKS[2]) or own.get(HOOKS[3])):
        return ()
    kinds = [[hook for hook in (own.get(name) or {}).values() if not _is_of_engine(hook)] for name in HOOKS]
    return tuple(tuple(map(describe, kind)) for kind in kinds) if any(kinds) else ()


def _is_of_engine(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_ENGINE)


def _added(before: Hooks, after: Hooks) -> bool:
    """Whether forward hooks were added, and nothing else was changed."""
    pairs = list(zip(before or ((),) * len(HOOKS), after, strict=False))
    return len(pairs) == len(HOOKS) and all(new[: len(old)] == old for old, new in pairs) and all(old == new for old, new in pairs[2:])


class _Function:
    """A function that runs in a forward pass, and what it names outside of itself."""

    __slots__ = ("code", "fixed", "function", "names", "namespaces")

    def __init__(self, function: types.FunctionType, describe: Description, forms_only: Collection[Slot]) -> None:
        self.function, self.code = weakref.ref(function), function.__code__
        aside = [name for owner, name in forms_only if owner == Identity(function)]
        closed, named = _is_closed(function), function.__globals__
        items = [(name, named[name]) for name in names_in(self.code) if name in named]
        spaces = [(name, value) for name, value in items if isinstance(value, types.ModuleType)]
        self.names = _Names(spaces if closed else items, describe, 2, aside)
        self.namespaces = [(name, _Names(_named_in(vars(space), self.code), describe, 1)) for name, space in spaces]
        self.fixed = None if closed else _Names(_fixed(function), describe, 2, aside)

    def holds(self, describe: Description) -> bool:
        """Whether it is what it was."""
        function = self.function()
        if function is None or function.__code__ is not self.code:
            return False
        named = function.__globals__
        return (
            self.names.hold(named, describe)
            and all(names.hold(vars(named[name]), describe) for name, names in self.namespaces)
            and (self.fixed is None or self.fixed.hold(dict(_fixed(function)), describe))
        )


def _named_in(space: dict[str, Any], code: types.CodeType) -> list[tuple[str, Any]]:
    """What a function names in a Python module: `relu` of `F`."""
    kinds = (types.FunctionType, types.BuiltinFunctionType, type)
    pairs = ((name, space[name]) for name in names_in(code) if name in space)
    return [(name, value) for name, value in pairs if type(value) in PLAIN or isinstance(value, kinds)]


def _fixed(function: types.FunctionType) -> list[tuple[str, Any]]:
    """What a function has of its own: defaults and closure."""
    cells = zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()))
    return [("defaults", function.__defaults__), ("keyword defaults", function.__kwdefaults__), *cells]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


class _Kind:
    """A class of modules: which of its methods and attributes are named in a forward pass."""

    __slots__ = ("kind", "plain", "same")

    def __init__(self, kind: type, describe: Description) -> None:
        self.kind = weakref.ref(kind)
        self.plain: list[tuple[str, Any]] = []
        self.same: list[tuple[str, Any]] = []
        names, wanted = {"forward"}, deque(("forward",))
        while wanted:
            name = wanted.popleft()
            value = _of_class(kind, name)
            if value is None or value is getattr(nn.Module, name, None):
                continue
            if type(value) in PLAIN:
                self.plain.append((name, value))
                continue
            self.same.append((name, Identity(value)))
            function = value.fget if isinstance(value, property) else value
            function = inspect.unwrap(function) if callable(function) else function
            for layer in {id(each): each for each in (value, function)}.values():
                if isinstance(layer, types.FunctionType):
                    describe.note(layer)
                    further = [each for each in names_in(layer.__code__) if each not in names]
                    names.update(further)
                    wanted.extend(further)

    def holds(self, describe: Description) -> bool:
        """Whether it is what it was."""
        kind = self.kind()
        return (
            kind is not None
            and all(_of_class(kind, name) == value for name, value in self.plain)
            and all(Identity(_of_class(kind, name)) == value for name, value in self.same)
        )


def _of_class(kind: type, name: str) -> Any:
    value = getattr(kind, name, None)
    return value.__func__ if isinstance(value, types.MethodType) else value


class Description:
    """Describes values one after the other; each object is looked into once.

    Attributes:
        modules: those that were met among attributes, closures and globals.
        functions: those that were met likewise.
        hooked: where forward hooks were added; None: those are changes as others are.
    """

    def __init__(self, hooked: list[nn.Module] | None = None) -> None:
        self.hooked = hooked
        self.modules: list[nn.Module] = []
        self.functions: list[types.FunctionType] = []
        self._seen: dict[int, Any] = {}  # keeps them alive meanwhile, so that no address is used again

    def note(self, value: Any) -> None:
        """Note a function, or a class."""
        if isinstance(value, types.FunctionType):
            self.functions.append(value)

    def __call__(self, value: Any, depth: int = DEPTH) -> Any:
        """What describes a value: equal for equal ones, and unequal for others.

        Args:
            value: anything.
            depth: how many objects in objects are looked into.
        """
        kind = type(value)
        if kind in PLAIN:
            return (kind.__name__, value) if kind in _NUMBERS else value
        if isinstance(value, Tensor):
            return TensorState.of(value)
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return Identity(value)
        if isinstance(value, (types.FunctionType, type, types.ModuleType, types.BuiltinFunctionType, Enum)):
            self.note(value)
            return Identity(value)
        if not depth or len(self._seen) > MOST or id(value) in self._seen:
            return Identity(value) if kind not in (list, tuple, dict, set, frozenset) else kind.__name__
        self._seen[id(value)] = value
        return self._inside(value, depth - 1)

    def _inside(self, value: Any, depth: int) -> Any:
        name = type(value).__qualname__
        if isinstance(value, (list, tuple, deque)):
            return (name, *(self(item, depth) for item in value))
        if isinstance(value, (set, frozenset)):
            return (name, frozenset(self(item, depth) for item in value))
        if isinstance(value, Mapping):
            return (name, *((self(key, depth), self(item, depth)) for key, item in value.items()))
        if isinstance(value, types.MethodType):
            return (name, self(value.__func__, depth), self(value.__self__, depth + 1))
        if isinstance(value, functools.partial):
            return (name, self(value.func, depth), self(value.args, depth), self(value.keywords, depth))
        if isinstance(value, np.ndarray):
            values = value.tobytes() if value.nbytes <= SMALL and value.dtype != object else b""
            return (Identity(value), value.dtype.str, value.shape, values)
        if _is_closed(type(value)) and not isinstance(value, types.SimpleNamespace):
            return Identity(value)
        slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
        attributes = [*getattr(value, "__dict__", {}).items(), *((slot, getattr(value, slot, None)) for slot in slots)]
        return (Identity(value), *((key, self(item, depth)) for key, item in attributes))


_NUMBERS = (bool, int, float, complex)


def _is_closed(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _CLOSED


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return () if _is_closed(kind) else (slots,) if isinstance(slots, str) else tuple(slots)


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals and attributes in a function's code, those of functions inside it included."""
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in names_in(const))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


class ModuleState:
    """The state of a module: of all its submodules, those in lists and closures included, and of the code that runs.

    Args:
        module: the module.
        forms_only: tensors, containers and objects of which only type and shape are noted: every forward pass sets or fills them.
    """

    def __init__(self, module: nn.Module, forms_only: Collection[Slot] = ()) -> None:
        describe = Description()
        modules, functions, kinds = {id(module): module}, dict[int, types.FunctionType](), set[type]()
        waiting: list[Any] = [module]
        self.checks: list[_Part | _Kind | _Function] = []
        while waiting:
            item = waiting.pop(0)
            if isinstance(item, nn.Module):
                self.checks.append(_Part(item, describe, forms_only))
                describe.modules += [child for child in item._modules.values() if child is not None]
                if type(item) not in kinds:
                    kinds.add(type(item))
                    self.checks.append(_Kind(type(item), describe))
            else:
                self.checks.append(_Function(item, describe, forms_only))
            fresh = {id(each): each for each in describe.modules if id(each) not in modules}
            known = {id(each): each for each in describe.functions if id(each) not in functions and len(functions) < MOST_FUNCTIONS}
            modules.update(fresh)
            functions.update(known)
            waiting += [*fresh.values(), *known.values()]
            describe.modules.clear()
            describe.functions.clear()

    def holds(self, hooked: list[nn.Module] | None = None) -> bool:
        """Whether nothing was changed since.

        Args:
            hooked: takes the submodules to which forward hooks were added, which may do no more than look on; None: those are changes.
        """
        describe = Description(hooked)
        try:
            for check in self.checks:
                if not check.holds(describe):
                    return False
        except Exception as error:  # values that cannot be compared are others
            if raised_by_handler(error):
                raise
            return False
        return True

    def changing(self, before: ModuleState) -> tuple[set[Slot], bool]:
        """Tensors, containers and objects that are others than before, beside parameters; and whether a parameter is."""
        parts = {part.module: part for part in before.checks if isinstance(part, _Part)}
        functions = {each.function: each for each in before.checks if isinstance(each, _Function)}
        slots: set[Slot] = set()
        weights = False
        for check in self.checks:
            if isinstance(check, _Part):
                part = parts.get(check.module)
                weights = weights or (part is not None and check.parameters != part.parameters)
                names = check.attributes.changing(None if part is None else part.attributes)
                names |= check.buffers.changing(None if part is None else part.buffers)
                slots.update((Identity(check.module()), name) for name in names)
            elif isinstance(check, _Function) and check.function in functions:
                known = functions[check.function]
                names = check.names.changing(known.names)
                if check.fixed is not None:
                    names |= check.fixed.changing(known.fixed)
                slots.update((Identity(check.function()), name) for name in names)
        return slots, weights
