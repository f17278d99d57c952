"""What code reads and what it changes, as far as its instructions say so."""

from __future__ import annotations

import dis
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

MUTATORS = frozenset(
    (
        *("append", "appendleft", "add", "update", "extend", "extendleft", "insert"),
        *("pop", "popleft", "popitem", "remove", "clear", "setdefault", "discard"),
        *("sort", "reverse", "rotate", "move_to_end", "subtract"),
    )
)
"""Methods that change a container."""

ANY_NAME = frozenset(("vars", "eval", "exec", "globals", "locals", "attrgetter", "getattr", "__dict__", "__getattribute__"))
"""With these code may read attributes that it does not name."""

LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
VARIABLES = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
Place = tuple[type | None, str]


@dataclass
class Reads:
    """Attributes, variables and globals that code names.

    Attributes:
        names: of attributes that are read.
        every: whether any may be.
        stored: attributes and variables that are set, with the class whose own methods do so; None: it may be of any.
        mutated: those whose content is changed by a container's methods.
        written: those whose items are set, which arrays and tensors have, too.
        surveyed: the code that was looked at.
    """

    names: set[str] = field(default_factory=set)
    every: bool = False
    stored: set[Place] = field(default_factory=set)
    mutated: set[Place] = field(default_factory=set)
    written: set[Place] = field(default_factory=set)
    surveyed: dict[int, types.CodeType] = field(default_factory=dict, compare=False)

    def names_attribute(self, name: str) -> bool:
        """Whether code may read an attribute of this name."""
        return self.every or name in self.names or name == "forward"

    def changes(self, kind: type | None, name: str, value: Any) -> bool:
        """Whether code changes what an object of a class, or with None a variable, holds under a name."""
        places: list[Place] = [(None, name), *((each, name) for each in (kind.__mro__ if kind is not None else ()))]
        if any(place in self.stored for place in places):
            return True
        if isinstance(value, (list, dict, set, deque, bytearray)) and any(place in self.mutated for place in places):
            return True
        holds = (list, dict, deque, bytearray, Tensor, np.ndarray)
        return isinstance(value, holds) and any(place in self.written for place in places)

    def globals_of(self, code: types.CodeType) -> set[str]:
        """Names of the globals that code, and code within it, reads."""
        return {ins.argval for each in _nested(code) for ins in _instructions(each) if ins.opname in ("LOAD_GLOBAL", "LOAD_NAME")}

    def attributes_of(self, code: types.CodeType) -> set[str]:
        """Names of the attributes that code, and code within it, reads."""
        return {ins.argval for each in _nested(code) for ins in _instructions(each) if ins.opname in LOADS}

    def survey_library(self, kind: type) -> None:
        """Note what a library's module changes while it runs."""
        for name, value in kind.__dict__.items():
            code = getattr(value, "__code__", None)
            if code is not None and (name.startswith("forward") or (name.startswith("_") and not name.startswith("__"))):
                for each in _nested(code):
                    self._changes_in(each, kind, first_only=True)

    def survey(self, code: types.CodeType, kind: type | None) -> None:
        """Note what code names, and code within it.

        Args:
            code: of a function.
            kind: the class whose method it is; None: it is none's.
        """
        for each in _nested(code):
            self.surveyed[id(each)] = each
            for ins in _instructions(each):
                if ins.opname in LOADS:
                    self.names.add(ins.argval)
                    self.every |= ins.argval in ANY_NAME
                elif ins.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                    self.every |= ins.argval in ANY_NAME
            self.names.update(name for name in each.co_consts if isinstance(name, str) and name.isidentifier())
            self._changes_in(each, kind)

    def _changes_in(self, code: types.CodeType, kind: type | None, first_only: bool = False) -> None:
        listed = _instructions(code)
        first = code.co_varnames[0] if code.co_argcount and kind is not None else None
        aliases: dict[str, Place] = {}

        def at(i: int) -> Place | None:
            """What the instruction puts on the stack: an attribute, a variable, or another name for one."""
            if i < 0:
                return None
            ins = listed[i]
            if ins.opname in LOADS:
                before = listed[i - 1] if i else None
                if before is not None and before.opname in ("COPY", "DUP_TOP") and i > 1:
                    before = listed[i - 2]
                owner = kind if before is not None and first is not None and _loads(before, first) else None
                return None if first_only and owner is None else (owner, str(ins.argval))
            if ins.opname in VARIABLES and not first_only:
                return None, str(ins.argval)
            return aliases.get(str(ins.argval)) if ins.opname.startswith("LOAD_FAST") else None

        for i, ins in enumerate(listed):
            if ins.opname in ("STORE_ATTR", "DELETE_ATTR"):
                own = first is not None and (_loads(listed[i - 1], first) or _added_to(listed, i, first))
                if own or not first_only:
                    self.stored.add((kind if own else None, str(ins.argval)))
            elif ins.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (ins.opname == "STORE_DEREF" and ins.argval in code.co_freevars):
                self.stored.add((None, str(ins.argval)))
            elif ins.opname == "STORE_FAST" and (place := at(i - 1)) is not None:
                aliases[str(ins.argval)] = place
            elif ins.opname in LOADS and (ins.argval in MUTATORS or _in_place(ins.argval)) and (place := at(i - 1)) is not None:
                (self.written if _in_place(ins.argval) else self.mutated).add(place)
            elif ins.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") and (place := at(_container(listed, i))) is not None:
                self.written.add(place)


def _in_place(name: str) -> bool:
    """Whether a method is called like those that change a tensor."""
    return name.endswith("_") and not name.startswith("_")


def _loads(ins: dis.Instruction, name: str) -> bool:
    """Whether an instruction puts a local variable on top of the stack."""
    if not ins.opname.startswith(("LOAD_FAST", "STORE_FAST_LOAD_FAST")):
        return False
    return bool((ins.argval[-1] if isinstance(ins.argval, tuple) else ins.argval) == name)


def _added_to(listed: list[dis.Instruction], i: int, first: str) -> bool:
    """Whether what is stored was read from the first argument just before, as in `self.count += 1`."""
    for j in range(i - 1, 1, -1):
        if listed[j].opname in LOADS and listed[j].argval == listed[i].argval and listed[j - 1].opname in ("COPY", "DUP_TOP"):
            return _loads(listed[j - 2], first)
    return False


def _container(listed: list[dis.Instruction], i: int) -> int:
    """The instruction that puts on the stack what an item is set of, for instruction i; -1: not found."""
    end = i - 1
    if listed[end].opname in ("SWAP", "ROT_THREE"):  # an item that is added to: container and key were put there once
        names = [ins.opname for ins in listed[:end]]
        marks = [j for j, name in enumerate(names) if name == "DUP_TOP_TWO" or (name == "COPY" and names[j - 1] == "COPY")]
        if not marks:
            return -1
        end = marks[-1] - (2 if names[marks[-1]] == "COPY" else 1)
    needed = 1
    while end >= 0 and needed > 0:
        ins = listed[end]
        try:
            needed -= dis.stack_effect(ins.opcode, ins.arg if ins.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
        except ValueError:
            return -1
        end -= 1
    return end


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _nested(each)


_listed: dict[types.CodeType, list[dis.Instruction]] = {}


def _instructions(code: types.CodeType) -> list[dis.Instruction]:
    """The instructions of code, without those that do nothing."""
    if code not in _listed:
        if len(_listed) > 10_000:
            _listed.clear()
        _listed[code] = [
            ins for ins in dis.get_instructions(code) if ins.opname not in ("NOP", "CACHE", "EXTENDED_ARG", "PRECALL", "RESUME")
        ]
    return _listed[code]
