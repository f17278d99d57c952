"""Calls that are interrupted at any step, and what they leave behind."""

from __future__ import annotations

import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

TORCH = tuple(f"/torch/{name}.py" for name in ("overrides", "utils/hooks", "autograd/grad_mode", "autograd/graph"))

PLACES = ("/lucidcam/", "/contextlib.py", *TORCH)
"""Parts of the names of files between whose steps an interrupt may come."""

CORE = (*(f"/lucidcam/{name}.py" for name in ("rollback", "engine/session", "engine/thread_state", "engine/checkpointing")), *PLACES[1:])
"""The same of what changes and restores anything."""

HOOKS = ("forward_hooks", "forward_pre_hooks", "forward_hooks_with_kwargs", "forward_pre_hooks_with_kwargs", "backward_hooks")


class Interrupt(BaseException):
    """What the handler of a signal raises, as KeyboardInterrupt."""


class Late(Exception):
    """What the handler of an alarm raises, an error like any other."""


def state(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """All that a call may leave changed: of the networks, of this thread, of the process."""
    known: dict[str, Any] = {}
    for name, module in modules.items():
        for part, child in module.named_modules():
            known[f"{name}.{part}"] = child.training, "forward" in vars(child), *(len(getattr(child, f"_{kind}", ())) for kind in HOOKS)
        known[f"{name} gradients"] = [weight.grad is None for weight in module.parameters()]
        known[f"{name} requires_grad"] = [weight.requires_grad for weight in module.parameters()]
        known[f"{name} weights"] = [(id(weight), weight._version) for weight in module.parameters()]
    known["grad"] = torch.is_grad_enabled()
    known["inference"] = torch.is_inference_mode_enabled()
    known["modes"] = torch._C._len_torch_function_stack()
    known["dispatch"] = torch._C._len_torch_dispatch_stack()
    known["saving"] = torch._C._autograd._top_saved_tensors_default_hooks(False)
    known["autocast"] = torch.is_autocast_enabled("cpu"), torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
    known["dtype"] = torch.get_default_dtype()
    known["random"] = hash(torch.get_rng_state().numpy().tobytes())
    known["checkpoints"] = id(torch.utils.checkpoint.CheckpointFunction), id(torch.utils.checkpoint._checkpoint_without_reentrant_generator)
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    known["stance"] = None if dynamo is None else dynamo._stance
    known["jit"] = torch._C._get_graph_executor_optimize()
    known["filters"] = list(warnings.filters)
    known["cudnn"] = torch.backends.cudnn.enabled
    known["handlers"] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM)]
    return known


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was."""
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in {**before, **after} if before.get(key) != after.get(key)]


def is_free(work: Callable[[], object], seconds: float = 20) -> bool:
    """Whether another thread can do the same: no lock is held any more."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return not thread.is_alive()


class Steps:
    """Interrupts a call, by a signal whose handler raises, before one of its steps (bytecodes).

    Args:
        at: the number of the step; None: none, they are counted.
        kind: what the handler raises.
        places: in which files steps count.
        again: seconds after which a second signal comes; None: never.
    """

    def __init__(self, at: int | None, kind: type[BaseException], places: tuple[str, ...] = PLACES, again: float | None = None) -> None:
        self.at, self.kind, self.places, self.again = at, kind, places, again
        self.count = 0
        self.wanted: dict[CodeType, bool] = {}
        self.raised: list[str] = []

    def run(self, work: Callable[[], Any]) -> Any:
        """Run work; what it returns, or None where it was interrupted."""
        old = [(number, signal.signal(number, self._handle)) for number in (signal.SIGUSR1, signal.SIGALRM)]
        try:
            try:
                sys.settrace(self._called)
                return work()
            finally:
                sys.settrace(None)
                signal.setitimer(signal.ITIMER_REAL, 0)
        except self.kind:
            return None
        finally:
            for number, handler in old:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.again is not None:
            again, self.again = self.again, None
            signal.setitimer(signal.ITIMER_REAL, again)
        raise self.kind("interrupted")

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code not in self.wanted:
            self.wanted[code] = any(place in code.co_filename for place in self.places)
        if not self.wanted[code]:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                self.raised.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
                signal.raise_signal(signal.SIGUSR1)
        return self._step


def equal(one: Any, other: Any) -> bool:
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else one == other


def sample(count: int, size: int, seed: int) -> list[int]:
    """Numbers of steps."""
    return sorted(random.Random(seed).sample(range(1, count + 1), min(size, count)))
