"""Changes that are undone whatever happens: an interrupt between any two steps, a second one meanwhile, a fork.

A `with` statement loses its `__exit__` when a signal handler raises (Ctrl+C, a timeout) before the first step of that method. So what
undoes a change is entered in a journal of its thread *before* the change is made; it is done again when it is interrupted, and twice does
no harm. A scope takes back what was entered since it was opened. Functions that open scopes are marked `closes_scopes`: when they end,
whatever is left above their place in the journal is taken back, also where a `with` lost its end.

No signal handler is replaced: this holds for handlers that raise anything, and in any thread (`PyThreadState_SetAsyncExc`).
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar

from lucidcam.utils.locks import leaf_lock, release_leaves

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 20
"""How often something is undone that fails each time, or is interrupted each time, before the rest of the journal comes first."""

_Undo = tuple[Callable[..., object], tuple[Any, ...], bool]
"""A function, its arguments, and whether it is of use in its own thread alone."""


class _Journal(list["Scope"]):
    """The open scopes of a thread, outermost first."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()


_local = threading.local()
_journals: dict[int, _Journal] = {}
_left_behind: list[Any] = []  # what belongs to threads that a fork left behind: its destructors would act on the wrong thread


def _journal() -> _Journal:
    journal: _Journal | None = getattr(_local, "journal", None)
    if journal is None:
        journal = _local.journal = _Journal()
        _journals[journal.thread] = journal
    return journal


class Scope:
    """A block that takes back what was changed in it.

    >>> flags = {"training": True}
    >>> with Scope() as scope:
    ...     scope.undo(flags.update, {"training": True})  # first
    ...     flags["training"] = False
    >>> flags
    {'training': True}
    """

    __slots__ = ("_journal", "_undos")

    def __init__(self) -> None:
        self._undos: list[_Undo] = []
        self._journal: _Journal | None = None

    def __enter__(self) -> Any:
        self._journal = _journal()
        self._journal.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def undo(self, function: Callable[..., object], *args: Any) -> None:
        """Enter what undoes a change that is about to be made to something all threads see.

        Args:
            function: what undoes it, and does no harm where nothing was changed, or half of it, or it was undone before.
            args: its arguments.
        """
        self._undos.append((function, args, False))

    def undo_here(self, function: Callable[..., object], *args: Any) -> None:
        """The same of something that only this thread sees."""
        self._undos.append((function, args, True))

    def close(self) -> None:
        """Undo everything that was entered in this scope and in those opened in it; a second time nothing happens."""
        journal = self._journal
        if journal is None:
            return
        if journal.thread != threading.get_ident():  # a generator that was dropped, and is closed by whatever thread collects it
            _undo_from_elsewhere(self)
        elif journal and journal[-1] is self:
            _unwind(journal, len(journal) - 1)
        elif self in journal:
            _unwind(journal, journal.index(self))


def closes_scopes(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that opens scopes in `with` statements: none of them outlives it."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        journal = _journal()
        depth = len(journal)
        try:
            try:
                try:
                    return function(*args, **kwargs)
                finally:
                    if len(journal) > depth or not depth:
                        _end(journal, depth)
            finally:  # for a second signal, which comes before the first step of the line above
                if len(journal) > depth or not depth:
                    _end(journal, depth)
        finally:  # and for a third one
            if len(journal) > depth or not depth:
                _end(journal, depth)

    return call


def _end(journal: _Journal, depth: int) -> None:
    try:
        if len(journal) > depth:
            _unwind(journal, depth)
    finally:
        if not depth:
            release_leaves()


def _unwind(journal: _Journal, depth: int) -> None:
    """Undo the scopes of a journal above a place; what interrupts this is raised when it is done."""
    interrupt: BaseException | None = None
    tries = 0
    while len(journal) > depth:
        try:
            scope = journal[-1]
            while scope._undos:
                entry = scope._undos[-1]
                function, args, _ = entry
                function(*args)
                if scope._undos and scope._undos[-1] is entry:  # else what was undone has closed the scope itself
                    scope._undos.pop()
                tries = 0
            if journal and journal[-1] is scope:
                journal.pop()
        except BaseException as error:
            interrupt = error
            tries += 1
            if tries >= TRIES and journal and journal[-1]._undos:
                journal[-1]._undos.pop()
                tries = 0
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            interrupt = None


def _undo_from_elsewhere(scope: Scope) -> None:
    """Undo of a scope what all threads see; the rest of it is of no use any more, and its destructors would act on this thread."""
    for function, args, is_local in reversed(scope._undos):
        if is_local:
            _left_behind.append((function, args))
        else:
            try:
                function(*args)
            except Exception:
                continue
    scope._undos = []


def _in_child() -> None:
    """Undo what other threads had changed: after a fork they are not there to do it."""
    mine = _journal()
    for journal in list(_journals.values()):
        if journal is not mine:
            for scope in reversed(journal):
                _undo_from_elsewhere(scope)
    _journals.clear()
    mine.thread = threading.get_ident()
    _journals[mine.thread] = mine


S = TypeVar("S")


class SharedChange(Generic[S]):
    """A change to the whole process that lasts as long as any scope, in any thread, holds it.

    Args:
        read: what it is now.
        change: makes the change.
        restore: is given what it was before the first scope held it.
    """

    def __init__(self, read: Callable[[], S], change: Callable[[], object], restore: Callable[[S], object]) -> None:
        self._read, self._change, self._restore = read, change, restore
        self._lock = leaf_lock()
        self._holders: list[object] = []
        self._before: tuple[S] | None = None
        self._is_made = False

    def hold(self, scope: Scope) -> None:
        """Make the change, where it is not made, until the scope ends."""
        holder = object()
        scope.undo(self._drop, holder)
        with self._lock:
            self._holders.append(holder)
            if self._before is None:
                self._before = (self._read(),)
            if not self._is_made:
                self._change()
                self._is_made = True

    def held(self) -> _Held:
        """A scope that holds the change."""
        return _Held(self)

    def _drop(self, holder: object) -> None:
        with self._lock:
            if holder not in self._holders:
                return
            if len(self._holders) == 1 and self._before is not None:
                self._is_made = False
                self._restore(self._before[0])
                self._before = None
            self._holders.remove(holder)


class _Held(Scope):
    __slots__ = ("_shared",)

    def __init__(self, shared: SharedChange[Any]) -> None:
        super().__init__()
        self._shared = shared

    def __enter__(self) -> None:
        super().__enter__()
        try:
            self._shared.hold(self)
        except BaseException:
            self.close()
            raise


def warning_filters() -> list[Any]:
    """Python's filters of warnings; a copy of them takes their place, to be changed."""
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    warnings.filters = filters[:]
    return filters


def restore_warning_filters(filters: list[Any]) -> None:
    """Put filters of warnings back."""
    warnings.filters = filters
    mutated = getattr(warnings, "_filters_mutated", None)
    if mutated is not None:
        mutated()


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal's handler raised an error, a timeout's, say: it then tells nothing of the code that it came from."""
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {code for handler in handlers if callable(handler) and (code := _code_of(handler)) is not None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)


class SavedWarnings(Scope):
    """A block that may change the filters of warnings, like `warnings.catch_warnings`."""

    __slots__ = ()

    def __enter__(self) -> None:
        super().__enter__()
        self.undo(restore_warning_filters, warnings.filters)
        warning_filters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
