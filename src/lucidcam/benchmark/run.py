"""One method after the other, each beside the plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam import registry
from lucidcam.attribution import attribute, optimize
from lucidcam.benchmark.forward_counter import Passes, counted
from lucidcam.benchmark.inputs import Subject, reason, subject
from lucidcam.benchmark.memory import above, measurable
from lucidcam.benchmark.result import FORWARD, Cost, Costs, check_place
from lucidcam.benchmark.timing import Ratio, Step, Stopwatch, old_objects_aside
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.mixing import mixes
from lucidcam.engine.module_memory import ModuleMemory
from lucidcam.engine.session import session
from lucidcam.engine.trace import trace, with_axes
from lucidcam.errors import ModelError, OptionError
from lucidcam.methods._base import Method
from lucidcam.methods.settings import resolve_method
from lucidcam.types import Model
from lucidcam.utils.flags import takes
from lucidcam.utils.rollback import closes_scopes

REPEAT_SECONDS = 5.0
"""A measurement is repeated within about this time, as often as asked for at most."""

MEMORY_SECONDS = 2.0
"""How long a method runs while its memory is measured: those that run longer mask images, and reach their peak in the first batches."""

AROUND = 10
"""Plain forward passes on either side of a method that masks images, and takes long: one alone would make an unsteady unit."""

KINDS = ("activation", "gradient", "pixel", "perturbation")
"""Kinds of methods, the cheapest first."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How much is measured.

    Attributes:
        batch: images that are explained together; fewer images than that are repeated. 1: one image only.
        repeats: of each measurement, as far as they take no longer than about five seconds.
        time_limit: seconds after which one run of a method is ended; its figures are then what it took at least. It is measured
            on fewer images together where more would take longer. None: no limit.
    """

    batch: int = 8
    repeats: int = 5
    time_limit: float | None = 30.0


@takes(timing=Timing)
@closes_scopes
def bench(
    model: Model | nn.Module,
    images: Any = None,
    methods: Sequence[Any] | None = None,
    *,
    target: Any = None,
    layer: Any = None,
    timing: Timing,
    optimized: bool = False,
    dtype: torch.dtype | None = None,
    memory: bool = True,
    out: str | PathLike[str] | None = None,
    told: Callable[[str], None] | None = None,
) -> Costs:
    """Measure what explanations cost on your own network and images.

    Every method runs on one image and on several together, with the plain forward pass before and after each run: the ratio of the two
    holds on a busy machine, seconds do not. A method that refuses the network is listed with its reason.

    Args:
        model: a model, or a module together with a tensor of its inputs.
        images: photos, as for `lucidcam.explain`; for a module a tensor `[B, C, H, W]`. None: packaged photos, or noise where there are
            none; the result says which.
        methods: names, (name, options) pairs or method objects; None: all.
        target: as for `lucidcam.attribute`.
        layer: as for `lucidcam.attribute`; None: the model's own, or the last spatial layer.
        timing: keywords, the fields of `Timing`.
        optimized: measure on an optimised copy, too (`lucidcam.optimize`), beside the same plain forward pass of the network as it is.
        dtype: of the optimised copy's autocast; None keeps the precision.
        memory: measure memory, too; on a CPU in a child process for each figure.
        out: folder for costs.json, costs.csv and costs.png; None: nothing is written.
        told: takes a line about what is being measured.

    Raises:
        OptionError: for unknown methods, options out of range, or a module without a tensor of inputs.
        ModelError: the network does not run on the inputs.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> costs = bench(net, torch.rand(2, 3, 32, 32), ["gradcam", "cam"], batch=2, repeats=1, memory=False)
        >>> [(row.method, row.images) for row in costs.rows]
        [('forward', 1), ('forward', 2), ('gradcam', 1), ('gradcam', 2), ('cam', 1), ('cam', 2)]
    """
    batch, repeats, time_limit = timing.batch, timing.repeats, timing.time_limit
    if batch < 1 or repeats < 1 or (time_limit is not None and time_limit <= 0):
        raise OptionError(f"expected batch ≥ 1, repeats ≥ 1 and time_limit > 0 or None; got {batch}, {repeats} and {time_limit}.")
    contenders = _contenders(methods)
    if out is not None:
        check_place(out)
    about = subject(model, images, batch)
    with session(about.module), old_objects_aside():
        meter = _Meter(about, about.module, repeats, time_limit, memory and measurable(about.inputs.device))
        passes = [meter]
        rows: list[Cost] = []
        refused: dict[str, str] = {}
        notes: list[str] = []
        if optimized:
            try:
                passes.append(meter.on(optimize(about.module, about.batch(1), dtype)))
            except ModelError as error:
                notes.append(f"measured on the network as it is alone: {error}")
        for each in passes:
            _find_out(each.module, about.batch(1))
            rows += each.forwards(batch)
            for label, method, options in contenders:
                if told is not None:
                    told(f"{label}{' on the optimised copy' if each.optimized else ''}")
                around = AROUND if resolve_method(method, options)[0].kind == "perturbation" else 1
                try:
                    rows += each.costs(label, around, batch, partial(_explain, method, options, target, layer, about.layer), notes)
                except Exception as error:  # of the method, or of the network on the way that the method takes through it
                    refused[f"{label}, optimised" if each.optimized else label] = reason(error)
        if memory and not meter.memory:
            notes.append("memory was not measured: it needs CUDA, or Linux and a process that may fork.")
    found = Costs(
        model=about.name,
        device=_device(about.inputs.device),
        dtype=str(about.inputs.dtype)[6:],
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        inputs=about.told,
        shape=tuple(about.inputs.shape[1:]),
        batch=batch,
        repeats=repeats,
        time_limit=time_limit,
        copy="" if len(passes) == 1 else str(dtype or about.inputs.dtype)[6:],
        rows=tuple(rows),
        refused=refused,
        notes=tuple(notes),
    )
    if out is not None:
        found.save(Path(out).expanduser())
    return found


@dataclass
class _Limited:
    """A step that ends after a while, and what went through the network meanwhile."""

    module: nn.Module
    step: Step
    seconds: float | None
    passes: Passes = field(default_factory=Passes)

    @closes_scopes
    def __call__(self) -> object:
        with counted(self.module, self.seconds) as self.passes:
            return self.step()
        return None


@dataclass
class _Meter:
    """Measures steps on one network, the user's or its optimised copy, beside plain forward passes of the user's.

    Attributes:
        about: the user's network and inputs.
        module: the network that is explained.
        repeats: of each measurement.
        time_limit: of one run, in seconds.
        memory: whether memory can be measured; False after the first try that brings nothing.
        optimized: whether `module` is an optimised copy.
    """

    about: Subject
    module: nn.Module
    repeats: int
    time_limit: float | None
    memory: bool
    optimized: bool = False

    def on(self, copy: nn.Module) -> _Meter:
        """The same for an optimised copy."""
        return _Meter(self.about, copy, self.repeats, self.time_limit, self.memory, optimized=True)

    def forwards(self, batch: int) -> list[Cost]:
        """The plain forward pass of the network that is explained, of one image and of several."""
        return [self.cost(FORWARD, self.about.batch(n), _forward) for n in sorted({1, batch})]

    def costs(
        self, label: str, around: int, batch: int, explain: Callable[[nn.Module, Tensor], object], notes: list[str]
    ) -> Iterator[Cost]:
        """One method, on one image and on as many together as the time allows."""
        one = self.cost(label, self.about.batch(1), explain, around, self.time_limit)
        yield one
        fits = batch if self.time_limit is None else min(batch, int(self.time_limit // one.seconds))
        where = f"{label}{', optimised' if self.optimized else ''}"
        if one.stopped:
            notes.append(f"{where}: ended after {self.time_limit:g} s with its one image, {one.forwards:.0f} images through the network.")
        elif fits < batch:
            instead = f"measured on {fits} together" if fits > 1 else "not measured on several"
            notes.append(f"{where}: {one.seconds:.3g} s an image; {instead}, within {self.time_limit:g} s.")
        if not one.stopped and fits > 1:
            yield self.cost(label, self.about.batch(fits), explain, around)

    def cost(
        self, label: str, inputs: Tensor, explain: Callable[[nn.Module, Tensor], object], around: int = 1, limit: float | None = None
    ) -> Cost:
        """One measurement, with so many plain forward passes before and after each run; each ended after `limit` seconds."""
        watch = Stopwatch(inputs.device)
        base = partial(_forwards, self.about.module, inputs)
        step = _Limited(self.module, partial(explain, self.module, inputs), limit)
        base(1)
        ratios, took = watch.beside(partial(base, around), step)
        more = 0 if step.passes.stopped else min(self.repeats, int(REPEAT_SECONDS // took[0]))
        if more:
            ratios, took = watch.beside(partial(base, around), step, more)
        found, passes = Ratio(tuple(sorted(around * ratio for ratio in ratios))), step.passes
        plain = label == FORWARD and not self.optimized
        extra = None
        if self.memory and not plain:
            short = _Limited(self.module, step.step, MEMORY_SECONDS)
            extra = above(partial(base, 1), short, inputs.device, 2 * MEMORY_SECONDS)
            self.memory = extra is not None
        return Cost(
            method=label,
            optimized=self.optimized,
            images=len(inputs),
            ratio=found.median,
            low=found.quartiles[0],
            high=found.quartiles[1],
            seconds=Ratio(tuple(sorted(took))).median / len(inputs),
            repeats=len(ratios),
            memory=extra,
            forwards=passes.rows / len(inputs),
            stopped=passes.stopped,
        )


def _find_out(module: nn.Module, inputs: Tensor) -> None:
    """What is found out about a network once, whatever the method, is no cost of the first of them."""
    memory = ModuleMemory.of(module)
    known = with_axes(module, replace(Inputs.of(inputs), memory=memory))
    trace(module, known)
    mixes(module, known)
    memory.settle()


def _forward(module: nn.Module, inputs: Tensor) -> object:
    with torch.inference_mode():
        return module(inputs)


def _forwards(module: nn.Module, inputs: Tensor, count: int) -> object:
    for _ in range(count - 1):
        _forward(module, inputs)
    return _forward(module, inputs)


def _explain(
    method: str | Method, options: dict[str, Any], target: Any, layer: Any, usual: str | None, module: nn.Module, inputs: Tensor
) -> object:
    chosen, _ = resolve_method(method, options)
    at = chosen.layer_of(module, layer, usual)
    return attribute(module, inputs, method, target=target, layer=at, **options)


def _contenders(methods: Sequence[Any] | None) -> list[tuple[str, str | Method, dict[str, Any]]]:
    """Label, method and options of each, checked now rather than after an hour."""
    if methods is None:
        names = sorted(registry.methods, key=lambda name: (KINDS.index(registry.methods[name].kind), name))
        return [(name, name, {"progress": False}) for name in names]
    found = []
    for each in [methods] if isinstance(methods, (str, Method)) else methods:
        method, options = each if isinstance(each, tuple) else (each, {})
        resolve_method(method, options)
        written = ", ".join(f"{name}={value}" for name, value in options.items())
        name = method if isinstance(method, str) else method.name
        found.append((f"{name}({written})" if written else name, method, {"progress": False, **options}))
    if len({label for label, _, _ in found}) < len(found):
        raise OptionError("expected every method once; the same one is asked for twice with the same options.")
    if not found:
        raise OptionError("expected at least one method to measure; got none.")
    return found


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
