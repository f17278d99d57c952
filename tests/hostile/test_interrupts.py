"""Ctrl+C, timeouts and forks: whatever a call is interrupted at, the network, the thread and the process are as they were."""

from __future__ import annotations

import ast
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from interrupts import CORE, PLACES, Interrupt, Late, Steps, differences, equal, is_free, sample, state
from torch import Tensor, nn

import lucidcam
from lucidcam.engine import module_memory
from lucidcam.utils.rollback import Scope, SharedChange, closes_scopes

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""What a handler raises while Python ends a generator or calls back for a weak reference, Python prints, and goes on."""


class Net(nn.Module):
    """A small network in training mode."""

    def __init__(self, checkpoints: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 8, 3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)
        self.checkpoints = checkpoints

    def _below(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.utils.checkpoint.checkpoint(self._below, x, use_reentrant=True) if self.checkpoints else self._below(x)
        return self.head(self.relu(self.last(x)).mean((2, 3)))


class Careless(Net):
    """It enters modes of its own on the way."""

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running = True
        try:
            yield
        finally:
            self.running = False

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = x.abs().max() * 0 + 1
        with self._counted(), torch.autocast("cpu", enabled=False):
            return super().forward(x * float(scale))


IMAGES = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))

CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "gradcam": (Net, lambda net: lucidcam.attribute(net, IMAGES, "gradcam", target=1)),
    "several layers": (Net, lambda net: lucidcam.attribute(net, IMAGES, "gradcam++", target=1, layer=["norm", "relu"])),
    "cam": (Net, lambda net: lucidcam.attribute(net, IMAGES, "cam", target=1)),
    "scorecam": (Net, lambda net: lucidcam.attribute(net, IMAGES, "scorecam", target=1)),
    "guided_backprop": (Net, lambda net: lucidcam.attribute(net, IMAGES, "guided_backprop", target=1)),
    "excitation": (Net, lambda net: lucidcam.attribute(net, IMAGES, "contrastive_excitation_backprop", target=1)),
    "occlusion": (Net, lambda net: lucidcam.attribute(net, IMAGES, "occlusion", target=1)),
    "rise": (Net, lambda net: lucidcam.attribute(net, IMAGES, "rise", target=1, masks=20)),
    "checkpoints": (lambda: Net(True), lambda net: lucidcam.attribute(net, IMAGES, "gradcam", target=1, layer="conv")),
    "careless": (Careless, lambda net: lucidcam.attribute(net, IMAGES, "gradcam", target=1)),
    "layers": (Net, lambda net: list(lucidcam.layers(net, IMAGES))),
    "inference mode": (Net, lambda net: _in_inference_mode(lambda: lucidcam.attribute(net, IMAGES, "layercam", target=1))),
}


def _in_inference_mode(work: Callable[[], Any]) -> Any:
    with torch._C._InferenceMode(True):  # not interrupted itself
        return work().clone()


def _made(name: str) -> tuple[nn.Module, Callable[[], Any]]:
    torch.manual_seed(0)
    make, call = CALLS[name]
    net = make().train()
    return net, lambda: call(net)


def _forget(net: nn.Module) -> None:
    module_memory._memories.pop(net, None)


def _residues(name: str, size: int, places: tuple[str, ...], again: bool, cold: bool) -> tuple[int, list[str]]:
    """How many calls were interrupted, and what was left behind."""
    net, work = _made(name)
    expected = work()
    if cold:
        _forget(net)
    else:
        work()
    steps = Steps(None, Interrupt, places)
    steps.run(work)
    before = state({"net": net})
    choose = random.Random(size)
    interrupted, problems = 0, []
    for at in sample(steps.count, size, seed=len(name)):
        if cold:
            _forget(net)
        steps = Steps(at, choose.choice((Interrupt, Late)), places, choose.choice((1e-6, 1e-5, 1e-4)) if again else None)
        result = steps.run(work)
        interrupted += bool(steps.raised)
        found = differences(before, state({"net": net}))
        if steps.raised and result is not None:
            found.append("the interrupt was lost")
        problems += [f"{steps.raised}: {text}" for text in found]
    if not equal(work(), expected):
        problems.append("another map than before")
    if not is_free(work):
        problems.append("a lock is held")
    return interrupted, problems


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_interrupted_at_any_step_leaves_nothing_behind(name: str, cold: bool) -> None:
    interrupted, problems = _residues(name, 4, CORE if cold else PLACES, again=cold, cold=cold)
    assert interrupted
    assert not problems, problems


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradcam", "guided_backprop", "checkpoints", "careless"])
def test_many_calls_interrupted_at_any_step(name: str) -> None:
    interrupted, problems = _residues(name, 80, CORE, again=True, cold=True)
    assert interrupted
    assert not problems, problems


@pytest.mark.parametrize("again", [None, 1e-5], ids=["once", "twice"])
def test_every_step_of_the_journal_may_be_interrupted(again: float | None) -> None:
    values = {"a": 0, "b": 0}
    shared = SharedChange(lambda: values["b"], lambda: values.__setitem__("b", 1), lambda before: values.__setitem__("b", before))

    @closes_scopes
    def work() -> int:
        with Scope() as scope:
            scope.undo(values.__setitem__, "a", values["a"])
            values["a"] = 1
            with Scope() as inner:
                shared.hold(inner)
                return values["a"] + values["b"]

    steps = Steps(None, Interrupt, CORE)
    assert steps.run(work) == 2
    for at in range(1, steps.count + 1):
        assert Steps(at, Interrupt, CORE, again).run(work) is None
        assert values == {"a": 0, "b": 0}, at
    assert is_free(work)
    assert not shared._holders


def test_signals_at_random_moments_leave_nothing_behind() -> None:
    _at_random(40, ["gradcam", "guided_backprop", "checkpoints"])


@pytest.mark.slow
def test_hundreds_of_signals_at_random_moments() -> None:
    _at_random(600, list(CALLS))


def _at_random(count: int, names: list[str]) -> None:
    choose = random.Random(0)
    made = {name: _made(name) for name in names}
    spent = {}
    for name, (_, work) in made.items():
        work()
        began = time.perf_counter()
        work()
        spent[name] = time.perf_counter() - began
    before = state({name: net for name, (net, _) in made.items()})
    expected = {name: work() for name, (_, work) in made.items()}
    for i in range(count):
        name = names[i % len(names)]
        net, work = made[name]
        cold = choose.random() < 0.3
        if cold:
            _forget(net)
        _interrupted(work, choose.uniform(1e-6, spent[name] * (3 if cold else 1.1)), choose.choice((KeyboardInterrupt, Late)))
        assert not differences(before, state({name: net for name, (net, _) in made.items()})), (i, name)
        assert equal(work(), expected[name]), (i, name)
    assert all(is_free(work) for _, work in made.values())


def _interrupted(work: Callable[[], Any], seconds: float, kind: type[BaseException]) -> None:
    def handle(number: int, frame: Any) -> None:
        raise kind("interrupted")

    old = signal.signal(signal.SIGALRM, handle)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except kind:
        pass
    finally:
        signal.signal(signal.SIGALRM, old)


def test_a_timeout_is_no_verdict_on_the_network() -> None:
    """A handler that raises an ordinary error, in the passes that find out what a network is: it reaches the caller as it is."""
    for at in (1, 2):
        net, work = _made("gradcam")
        passes = 0

        def alarm(module: nn.Module, args: Any, at: int = at) -> None:
            nonlocal passes
            passes += 1
            if passes == at:
                signal.raise_signal(signal.SIGALRM)

        handle = net.register_forward_pre_hook(alarm)

        def late(number: int, frame: Any) -> None:
            raise RuntimeError("too late")

        old = signal.signal(signal.SIGALRM, late)
        try:
            with pytest.raises(RuntimeError, match=r"^too late$"):
                work()
        finally:
            signal.signal(signal.SIGALRM, old)
            handle.remove()
        assert net.training


def test_a_training_goes_on_after_an_interrupt() -> None:
    net, work = _made("gradcam")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for at in (1e-4, 1e-3, 3e-3):
        _interrupted(work, at, KeyboardInterrupt)
        mean = net.norm.running_mean.clone()
        net(torch.rand(4, 3, 12, 12)).sum().backward()
        optimizer.step()
        assert all(child.training for child in net.modules())
        assert not torch.equal(mean, net.norm.running_mean)


def test_compiled_functions_run_eagerly_among_threads_and_are_compiled_again_afterwards() -> None:
    from torch._dynamo import eval_frame

    net, work = _made("gradcam")
    other, elsewhere = _made("gradcam")
    before = eval_frame._stance
    inside, go = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        go.wait(20)

    handle = other.register_forward_hook(wait)
    thread = threading.Thread(target=elsewhere)
    stances = []
    watching = net.register_forward_hook(lambda *_: stances.append(eval_frame._stance.stance))
    thread.start()
    inside.wait(20)
    release = net.register_forward_pre_hook(lambda *_: go.set())  # the other session ends within this one
    work()
    thread.join(20)
    for each in (handle, watching, release):
        each.remove()
    assert set(stances) == {"force_eager"}
    assert eval_frame._stance == before


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12: threads run
def test_a_fork_while_threads_explain_leaves_the_child_a_network_that_works(count: int) -> None:
    net, work = _made("scorecam")
    expected = lucidcam.attribute(net, IMAGES, "gradcam", target=1)
    stop = threading.Event()

    def explain() -> None:
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=explain) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = []
        for i in range(count):
            time.sleep(0.002 * (i % 5))
            child = os.fork()
            if not child:
                os._exit(_in_child(net, expected))
            codes.append(_exit_code(child))
        assert codes == [0] * count
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _in_child(net: nn.Module, expected: Tensor) -> int:
    try:
        clean = all(child.training and not child._forward_hooks and not child._forward_pre_hooks for child in net.modules())
        plain = not type(torch.utils.checkpoint.CheckpointFunction).__module__.startswith("lucidcam")
        same = torch.equal(lucidcam.attribute(net, IMAGES, "gradcam", target=1), expected)
        return 0 if clean and plain and same and torch.is_grad_enabled() else 3
    except BaseException:
        return 4


def _exit_code(child: int, seconds: float = 20) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


OPENERS = (
    *("session", "open_run", "_opened", "asked", "impatient_downloads", "quiet", "old_objects_aside"),
    *("SavedWarnings", "counted", "Scope", "listening", "recalling"),
)
MENTIONED = re.compile(rf"^ *with .*\b({'|'.join(OPENERS)})\(", re.MULTILINE)


def test_functions_that_open_scopes_are_marked() -> None:
    """Else an interrupt at the first step of the `with` statement's end would leave them open."""
    source = Path(lucidcam.__file__).parent
    unmarked = []
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not MENTIONED.search(text):
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef) and not any("closes_scopes" in ast.unparse(mark) for mark in function.decorator_list):
                own = list(_own_nodes(function))
                opens = any(_opener(item) in OPENERS for node in own if isinstance(node, ast.With) for item in node.items)
                if opens and not any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in own):
                    unmarked.append(f"{path.relative_to(source)}: {function.name}")
    assert not unmarked


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield node
            waiting += ast.iter_child_nodes(node)


def _opener(item: ast.withitem) -> str:
    called = item.context_expr.func if isinstance(item.context_expr, ast.Call) else None
    return called.id if isinstance(called, ast.Name) else str(getattr(called, "attr", ""))
