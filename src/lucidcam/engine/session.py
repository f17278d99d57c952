"""One lock per model, and the promise that the user's module comes back exactly as it was.

Nothing else in lucidcam changes a module: gradients are taken with `torch.autograd.grad` (never `.backward()`, so `.grad` and
`requires_grad` are not touched), hooks are registered inside the session and removed by it, and training flags are flipped one by one
(not through `module.eval()`, which some modules override with side effects). Gradient checkpointing is set aside for this thread alone.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lucidcam.engine.checkpointing import without_checkpoints
from lucidcam.engine.copies import in_use
from lucidcam.engine.foreign import check_growth, check_weights, not_a_module, own_parameters
from lucidcam.errors import ModelError

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


@dataclass
class _Held:
    """A module's training flag before the first of the sessions that hold it."""

    training: bool
    sessions: int = 0


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


@contextmanager
def session(module: nn.Module) -> Iterator[None]:
    """Hold the module for one thread, in evaluation mode, and give it back unchanged, also after an exception.

    Raises:
        ModelError: its weights are not all there, or its forward added some.
    """
    with _lock(module), ExitStack() as stack:
        children = list(module.modules())
        check_weights(module, children)
        parameters = own_parameters(children)
        flagged = [child for child in children if hasattr(child, "training")]  # frozen TorchScript has no flag
        _hold(flagged)
        stack.callback(_release, flagged)
        stack.enter_context(without_checkpoints())
        # Whoever compiles, be it a function that a forward calls, has imported dynamo.
        if "torch._dynamo.eval_frame" in sys.modules:
            stack.enter_context(_eager())
        if any(isinstance(child, torch.jit.ScriptModule) for child in children):
            # Optimised, parts of its graph are one node, which hides what it does.
            stack.enter_context(torch.jit.optimized_execution(False))  # type: ignore[attr-defined]
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield
        check_growth(module, parameters)


@contextmanager
def hooks(pairs: list[tuple[nn.Module, Hook]], before: Sequence[tuple[nn.Module, PreHook]] = ()) -> Iterator[None]:
    """Register hooks that fire in this thread only, and remove them whatever happens.

    Args:
        pairs: modules, and what is called with their arguments and output after they ran.
        before: modules, and what is called with their arguments before they run.
    """
    thread = threading.get_ident()

    def only_here(hook: Callable[..., Any]) -> Callable[..., Any]:
        def fire(module: nn.Module, *values: Any) -> Any:
            return hook(module, *values) if threading.get_ident() == thread else None

        return fire

    with ExitStack() as stack:
        for module, pre_hook in before:
            stack.callback(module.register_forward_pre_hook(only_here(pre_hook)).remove)
        for module, hook in pairs:
            stack.callback(add_hook(module, only_here(hook)).remove)
        yield


def add_hook(module: nn.Module, hook: Hook) -> RemovableHandle:
    """Register a forward hook, also on TorchScript: it refuses hooks since none fires inside, but those of a call from Python do."""
    if isinstance(module, torch.jit.ScriptModule):
        return nn.Module.register_forward_hook(module, hook)
    return module.register_forward_hook(hook)


def _lock(module: nn.Module) -> threading.RLock:
    with _guard:
        return _locks.setdefault(module, threading.RLock())


def _hold(children: list[nn.Module]) -> None:
    """Put modules into evaluation mode; models in other sessions may share some of them."""
    with _guard:
        for child in children:
            held = _held.setdefault(child, _Held(child.training))
            held.sessions += 1
            if child.training:
                child.training = False


def _release(children: list[nn.Module]) -> None:
    """Give back the flags of those that no session holds any more."""
    with _guard:
        for child in children:
            held = _held[child]
            held.sessions -= 1
            if not held.sessions:
                if child.training != held.training:
                    child.training = held.training
                del _held[child]


@contextmanager
def _eager() -> Iterator[None]:
    """Run eagerly what is compiled, in place (`module.compile()`) or as a function inside: hooks and rules see every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stance = torch.compiler.set_stance("force_eager")
    with stance:
        yield
