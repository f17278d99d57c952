"""What torch keeps for each thread, and how it is put back: gradients, modes, autocast, hooks of saved tensors."""

from __future__ import annotations

import sys
from contextlib import _GeneratorContextManager
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import _C
from torch.overrides import TorchFunctionMode

from lucidcam.utils.rollback import Scope

_BLOCKS: frozenset[CodeType] = frozenset(
    method.__code__ for kind in (torch.inference_mode, _GeneratorContextManager) for method in (kind.__enter__, kind.__exit__)
)

_Autocast = tuple[int, bool, tuple[tuple[str, bool, torch.dtype], ...]]
"""How deep autocast is nested, whether it keeps copies of weights; for each kind of device, whether it is on and what it casts to."""


class ThreadState:
    """What holds for the calling thread at the moment.

    Args:
        autocast: autocast as well, which takes longest to read.
    """

    __slots__ = ("autocast", "grad", "modes", "saving")

    def __init__(self, autocast: bool = False) -> None:
        self.grad = torch.is_grad_enabled()
        self.modes = _modes()
        self.saving = _saving()
        self.autocast = _autocast() if autocast else None

    def restore(self) -> None:
        """Put it back."""
        is_failing = sys.exc_info()[0] is not None
        if is_failing:
            end_interrupted_blocks()
        modes = _modes()
        if modes != self.modes:
            if not is_failing:  # the network itself may have left a mode, as `torch.set_default_device` does
                remaining = [mode for mode in modes if not _is_ours(mode) or mode in self.modes]
                restored = *remaining, *(mode for mode in self.modes if _is_ours(mode) and mode not in modes)
            else:
                restored = self.modes
            while _C._len_torch_function_stack():
                _C._pop_torch_function_stack()
            for mode in restored:
                _C._push_on_torch_function_stack(mode)
        saving = _saving()
        while saving is not None and not _is_same(saving, self.saving) and (is_failing or _is_ours(saving[0])):
            _C._autograd._pop_saved_tensors_default_hooks()
            saving = _saving()
        if is_failing and self.autocast is not None and _autocast() != self.autocast:
            _set_autocast(*self.autocast)
        if torch.is_grad_enabled() != self.grad:
            _C._set_grad_enabled(self.grad)


class Restored(Scope):
    """A block, within a session, in which modes of ours are entered: after an interrupt that is caught there, none of them is left."""

    __slots__ = ()

    def __enter__(self) -> Any:
        super().__enter__()
        self.undo_here(ThreadState().restore)
        return self


class Mode(TorchFunctionMode):
    """Base of our modes: it takes itself off whatever happened to torch's stack of them, by an interrupt in torch's own code, say."""

    def __enter__(self) -> Any:
        self._scope = Restored()
        self._scope.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._scope.close()


def no_inference() -> Any:
    """Leave inference mode for a block. torch's own `inference_mode(False)` can be interrupted between its steps, this cannot."""
    return _C._InferenceMode(False)


def end_interrupted_blocks() -> None:
    """End the blocks of a network's code, and torch's, whose `with` an exception interrupted on the way in or out.

    The traceback keeps them alive. Left alone, they would end when it goes: an inference mode would set gradients back to what they were
    inside the session, and a generator of torch's would push the mode that it had taken off.
    """
    error, seen = sys.exc_info()[1], set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback = error.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if frame.f_code in _BLOCKS:
                manager = frame.f_locals.get("self")
                guard, generator = (getattr(manager, name, None) for name in ("_inference_mode_context", "gen"))
                if guard is not None:
                    guard.__exit__(None, None, None)
                if generator is not None and not generator.gi_running and not _is_of_ours(generator):  # the journal closes ours, in order
                    generator.close()
            traceback = traceback.tb_next
        error = error.__context__


def _modes() -> tuple[Any, ...]:
    count = _C._len_torch_function_stack()
    return tuple(_C._get_function_stack_at(i) for i in range(count)) if count else ()


def _saving() -> tuple[Any, Any] | None:
    """The innermost functions that pack and unpack what autograd saves."""
    hooks: tuple[Any, Any] | None = _C._autograd._top_saved_tensors_default_hooks(False)
    return hooks


def _is_same(one: tuple[Any, Any], other: tuple[Any, Any] | None) -> bool:
    return other is not None and one[0] is other[0] and one[1] is other[1]


def _is_ours(value: Any) -> bool:
    home: str = getattr(value, "__module__", None) or ""
    return home.partition(".")[0] == "lucidcam"


def _is_of_ours(generator: Any) -> bool:
    frame = generator.gi_frame
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "lucidcam"


def _autocast() -> _Autocast:
    kinds = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _KINDS)
    return _nesting(), torch.is_autocast_cache_enabled(), kinds


def _set_autocast(nesting: int, cache: bool, kinds: tuple[tuple[str, bool, torch.dtype], ...]) -> None:
    for kind, is_on, dtype in kinds:
        torch.set_autocast_enabled(kind, is_on)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(cache)
    while _nesting() > nesting:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def _nesting() -> int:
    _, depth = map(partial.__call__, _UP_AND_DOWN)  # nothing comes between the two: no step of Python does
    return int(depth)


_UP_AND_DOWN = partial(torch.autocast_increment_nesting), partial(torch.autocast_decrement_nesting)
_KINDS = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
