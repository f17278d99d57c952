"""One lock per model, and the promise that the user's module comes back exactly as it was.

Nothing else in lucidcam changes a module: gradients are taken with `torch.autograd.grad` (never `.backward()`, so `.grad` and
`requires_grad` are not touched), hooks are registered inside the session and removed by it, and training flags are flipped one by one
(not through `module.eval()`, which some modules override with side effects). Gradient checkpointing is set aside for this thread alone.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lucidcam.engine.checkpointing import set_checkpoints_aside
from lucidcam.engine.copies import in_use
from lucidcam.engine.foreign import check_growth, check_weights, not_a_module, own_parameters
from lucidcam.engine.thread_state import Restored, ThreadState, end_interrupted_blocks
from lucidcam.errors import ModelError
from lucidcam.utils.locks import is_mine, leaf_lock, new_lock
from lucidcam.utils.rollback import Scope, SharedChange

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_guard = leaf_lock()


class _Held:
    """A module's training flag before the first of the sessions that hold it, and those sessions."""

    __slots__ = ("sessions", "training")

    def __init__(self, training: bool) -> None:
        self.training = training
        self.sessions: list[object] = []


_held: weakref.WeakKeyDictionary[nn.Module, _Held] = weakref.WeakKeyDictionary()

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
PreHook = Callable[[nn.Module, tuple[Any, ...]], Any]


def plain(module: nn.Module) -> nn.Module:
    """Return the module to work on: what `torch.compile` wraps, the original of an optimised copy that failed, or the module itself.

    Raises:
        ModelError: for modules whose forward runs elsewhere (DataParallel) or that are not torch modules.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(not_a_module(module))
    module = in_use(module)
    original = getattr(module, "_orig_mod", None)
    if isinstance(original, nn.Module):
        return original
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ModelError(f"{type(module).__name__} runs copies of the model; explain the model inside it: pass module.module.")
    if getattr(type(module), "forward", None) is nn.Module.forward and "forward" not in vars(module):
        raise ModelError(f"this {type(module).__name__} has no forward of its own and cannot be run: pass the module that calls its parts.")
    return module


def session(module: nn.Module) -> _Session:
    """Hold the module for one thread, in evaluation mode, and give it back unchanged, also after an exception or an interrupt.

    Raises:
        ModelError: its weights are not all there, or its forward added some.
    """
    return _Session(module)


class _Session(Scope):
    __slots__ = ("module", "parameters")

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.parameters: Any = None

    def __enter__(self) -> None:
        super().__enter__()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                check_growth(self.module, self.parameters)
        finally:
            self.close()

    def _open(self) -> None:
        module = self.module
        lock = _lock(module)
        if not is_mine(lock):
            self.undo_here(_unlock, lock)
            lock.acquire()
        children = list(module.modules())
        check_weights(module, children)
        self.parameters = own_parameters(children)
        self.undo_here(ThreadState(autocast=True).restore)
        flagged = [child for child in children if hasattr(child, "training")]  # frozen TorchScript has no flag
        holder = object()
        self.undo(_release, holder, flagged)
        _hold(holder, flagged)
        set_checkpoints_aside(self)
        # Whoever compiles, be it a function that a forward calls, has imported dynamo.
        if "torch._dynamo.eval_frame" in sys.modules:
            _EAGER.hold(self)
        if any(isinstance(child, torch.jit.ScriptModule) for child in children):
            # Optimised, parts of its graph are one node, which hides what it does.
            self.undo_here(torch._C._set_graph_executor_optimize, torch._C._get_graph_executor_optimize())
            torch._C._set_graph_executor_optimize(False)
        if torch.is_inference_mode_enabled():
            guard = torch._C._InferenceMode(False)
            self.undo_here(guard.__exit__, None, None, None)
            guard.__enter__()  # type: ignore[no-untyped-call]
        self.undo_here(end_interrupted_blocks)
        if torch.is_grad_enabled():
            torch._C._set_grad_enabled(False)


def hooks(pairs: Sequence[tuple[nn.Module, Hook]], before: Sequence[tuple[nn.Module, Any]] = (), with_kwargs: bool = False) -> _Hooks:
    """Register hooks that fire in this thread only, and remove them whatever happens.

    Args:
        pairs: modules, and what is called with their arguments and output after they ran.
        before: modules, and what is called with their arguments before they run.
        with_kwargs: what is called before is given the arguments' names, too, as a dictionary.
    """
    return _Hooks(pairs, before, with_kwargs)


class _Hooks(Restored):
    __slots__ = ("before", "pairs", "with_kwargs")

    def __init__(self, pairs: Sequence[tuple[nn.Module, Hook]], before: Sequence[tuple[nn.Module, Any]], with_kwargs: bool) -> None:
        super().__init__()
        self.pairs, self.before, self.with_kwargs = pairs, before, with_kwargs

    def __enter__(self) -> None:
        super().__enter__()
        thread = threading.get_ident()
        try:
            for module, pre_hook in self.before:
                fire, handles = _only_in(thread, pre_hook), list[RemovableHandle]()
                self.undo(_remove, module, fire, handles)
                # Only where it is wanted: a class of its own may know no such argument.
                options = {"with_kwargs": True} if self.with_kwargs else {}
                handles.append(module.register_forward_pre_hook(fire, **options))
            for module, hook in self.pairs:
                fire, handles = _only_in(thread, hook), []
                self.undo(_remove, module, fire, handles)
                handles.append(add_hook(module, fire))
        except BaseException:
            self.close()
            raise


def hook_until(scope: Scope, module: nn.Module, hook: Hook) -> None:
    """Register a hook that fires in any thread, until a scope ends."""

    def fire(*values: Any) -> Any:  # of its own, to be told from the same hook of another thread
        return hook(*values)

    handles: list[RemovableHandle] = []
    scope.undo(_remove, module, fire, handles)
    handles.append(add_hook(module, fire))


def _only_in(thread: int, hook: Callable[..., Any]) -> Callable[..., Any]:
    def fire(module: nn.Module, *values: Any) -> Any:
        return hook(module, *values) if threading.get_ident() == thread else None

    return fire


def _remove(module: nn.Module, fire: Callable[..., Any], handles: Sequence[RemovableHandle]) -> None:
    """Remove a hook by its handle, and where an interrupt came before there was one, by itself."""
    for handle in handles:
        handle.remove()
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        registered: Any = getattr(module, kind, {})
        for key in [key for key, hook in list(registered.items()) if hook is fire]:
            for name in (kind, f"{kind}_with_kwargs", f"{kind}_always_called"):
                getattr(module, name, {}).pop(key, None)


def add_hook(module: nn.Module, hook: Hook) -> RemovableHandle:
    """Register a forward hook, also on TorchScript: it refuses hooks since none fires inside, but those of a call from Python do."""
    if isinstance(module, torch.jit.ScriptModule):
        return nn.Module.register_forward_hook(module, hook)
    return module.register_forward_hook(hook)


def _lock(module: nn.Module) -> threading.RLock:
    with _guard:
        lock = _locks.get(module)
        return _locks.setdefault(module, new_lock()) if lock is None else lock


def _unlock(lock: threading.RLock) -> None:
    if is_mine(lock):
        lock.release()


def _hold(holder: object, children: list[nn.Module]) -> None:
    """Put modules into evaluation mode; models in other sessions may share some of them."""
    with _guard:
        for child in children:
            held = _held.get(child)
            if held is None:
                held = _held[child] = _Held(child.training)
            held.sessions.append(holder)
            if child.training:
                child.training = False


def _release(holder: object, children: list[nn.Module]) -> None:
    """Give back the flags of those that no other session holds."""
    with _guard:
        for child in children:
            held = _held.get(child)
            if held is None or holder not in held.sessions:
                continue
            if len(held.sessions) > 1:
                held.sessions.remove(holder)
                continue
            if child.training != held.training:
                child.training = held.training
            del _held[child]


def _eager() -> Any:
    dynamo = sys.modules["torch._dynamo.eval_frame"]
    return dynamo._set_stance(dynamo.DynamoStance("force_eager"))


# What is compiled, in place (`module.compile()`) or as a function inside, runs eagerly: hooks and rules see every call.
_EAGER: SharedChange[Any] = SharedChange(
    read=lambda: sys.modules["torch._dynamo.eval_frame"]._stance,
    change=_eager,
    restore=lambda stance: sys.modules["torch._dynamo.eval_frame"]._set_stance(stance),
)
