"""Which of a network's outputs come out of a sigmoid or softmax of its own, seen in the operations that it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import session
from lucidcam.engine.trace import example, remembered, run_forward, signature, tensors_of
from lucidcam.utils.rollback import closes_scopes

LINEAR_OPERATIONS = ("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "addmv", "mv", "einsum")
PROBABILITY_OPERATIONS = ("sigmoid", "hardsigmoid", "softmax", "safe_softmax", "special_expit", "special_ndtr")

SLACK = 0.01
"""How far an interval may leave [0, 1], by what keeps logarithms finite, say."""


class Interval(NamedTuple):
    """Between which two numbers all values lie, whatever the image."""

    low: float
    high: float

    @property
    def is_unit(self) -> bool:
        """Whether they are between 0 and 1."""
        return self.low >= -SLACK and self.high <= 1 + SLACK


class Values(NamedTuple):
    """What is known of a tensor that depends on the image.

    Attributes:
        interval: where its values lie; None: it cannot be said.
        descends: whether it is made of nothing else than the results of sigmoids and softmaxes.
    """

    interval: Interval | None = None
    descends: bool = False

    @property
    def is_probability(self) -> bool:
        """Whether these are probabilities: within [0, 1] by what was computed or, where that is open, by what it was computed from."""
        return self.descends if self.interval is None else self.interval.is_unit


ANYWHERE = Interval(-math.inf, math.inf)
UNIT = Interval(0.0, 1.0)
RANGES = {
    **dict.fromkeys(PROBABILITY_OPERATIONS, UNIT),
    **dict.fromkeys(("tanh", "erf", "special_erf", "sin", "cos"), Interval(-1.0, 1.0)),
    "atan": Interval(-math.pi / 2, math.pi / 2),
    "log_sigmoid_forward": Interval(-math.inf, 0.0),
    "log_softmax": Interval(-math.inf, 0.0),
}
"""Where the results of operations lie, whatever they are given."""

KEEPING = re.compile(
    "(_?unsafe_)?view(_copy)?|reshape|expand|permute|transpose|t|(un)?squeeze|select|slice|index(_select)?|gather|take|cat|stack|where|clone|"
    "to_copy|copy|contiguous|alias|detach|mean|amax|amin|max|min|maximum|minimum|median|sort|topk|flip|roll|repeat|split|split_with_sizes|"
    "unbind|unfold|as_strided|diagonal|masked_fill|masked_select|lift_fresh|dropout|"
    "upsample_(nearest|linear|bilinear|trilinear).*|(adaptive_)?(avg|max)_pool.*"
)
"""Operations whose results lie where their operands do: they choose among values, or average them."""


ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "true_divide")
CLAMPS = ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max")


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if math.isfinite(value) else math.inf if value > 0 else 0.0


def _log(value: float) -> float:
    return -math.inf if value <= 0 else math.log(value)


RISING: dict[str, Callable[[float], float]] = {
    "exp": _exp,
    "log": _log,
    "log1p": lambda value: _log(1 + value),
    "expm1": lambda value: _exp(value) - 1,
    "sqrt": lambda value: math.sqrt(max(value, 0.0)),
    "relu": lambda value: max(value, 0.0),
    "softplus": lambda value: value if value > 30 else _log(1 + _exp(value)),
}
"""Functions of a single operand that rise with it."""


def _interval(name: str, operands: Sequence[Interval | None], keywords: dict[str, Any]) -> Interval | None:
    """Where the results of an operation lie, from where its operands do, numbers included; None: it cannot be said."""
    if name in RANGES:
        return RANGES[name]
    known = [each for each in operands if each is not None]
    if len(known) < len(operands) or not known:
        return None
    first = known[0]
    if KEEPING.fullmatch(name):
        return Interval(min(each.low for each in known), max(each.high for each in known))
    if name in RISING:
        return Interval(RISING[name](first.low), RISING[name](first.high))
    if name == "neg":
        return Interval(-first.high, -first.low)
    if name == "abs":
        return Interval(max(first.low, -first.high, 0.0), max(abs(first.low), abs(first.high)))
    if name == "reciprocal":
        return _inverse(first)
    if len(known) < 2:
        return None
    second = known[1]
    if name not in ARITHMETIC:
        return None
    if name == "rsub":
        first, second = second, first
    if name in ("sub", "rsub"):
        second = Interval(-second.high, -second.low)
    if name in ("add", "sub", "rsub"):
        return Interval(first.low + second.low, first.high + second.high) if keywords.get("alpha", 1) == 1 else None
    factor = _inverse(second) if name in ("div", "true_divide") else second
    if factor is None or keywords.get("rounding_mode"):
        return None
    ends = [0.0 if 0 in pair else pair[0] * pair[1] for pair in product(first, factor)]
    return Interval(min(ends), max(ends))


def _inverse(interval: Interval) -> Interval | None:
    if interval.low < 0 < interval.high or interval == (0, 0):
        return None
    low, high = (math.inf if end == 0 else 1 / end for end in (interval.high, interval.low))
    return Interval(low, high) if interval.high > 0 else Interval(-high if interval.high == 0 else low, high)


def _bounds(name: str, args: Sequence[Any], keywords: dict[str, Any], interval: Interval | None) -> Interval | None:
    """Where the results of an operation that cuts its operand off lie."""
    numbers = [each for each in args[1:] if each is None or isinstance(each, (int, float))]
    if name == "clamp_max":
        numbers = [None, *numbers]
    low = keywords.get("min", keywords.get("min_val", numbers[0] if numbers else -1 if name == "hardtanh" else None))
    high = keywords.get("max", keywords.get("max_val", numbers[1] if len(numbers) > 1 else 1 if name == "hardtanh" else None))
    inner = interval or ANYWHERE
    bounds = Interval(inner.low if low is None else max(inner.low, low), inner.high if high is None else min(inner.high, high))
    return Interval(min(bounds), max(bounds))


class _Descent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows where values lie and what they are made of, in modules, functions and TorchScript alike."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []  # kept, so that no other tensor takes the id of one that is gone
        self.values: dict[int, Values] = {}
        self.has_seen_operations = False
        for tensor in (inputs.image, inputs.raw, *inputs.others.values()):
            self._keep(tensor, Values(ANYWHERE))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        output = func(*args, **keywords)
        self.has_seen_operations = True
        name = func._schema.name.rpartition("::")[2].strip("_")
        operands = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, Tensor)]
        dependent = [self.values[id(leaf)] for leaf in operands if id(leaf) in self.values and leaf.is_floating_point() and leaf.numel()]
        if dependent or name in PROBABILITY_OPERATIONS:
            values = self._of(name, args, keywords, dependent)
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    self._keep(tensor, values)
        return output

    def _of(self, name: str, args: Any, keywords: dict[str, Any], dependent: list[Values]) -> Values:
        if name in LINEAR_OPERATIONS or name.startswith(("linear", "conv")):
            # a product of both (probabilities weighted by an attention) is an average of them; one with weights is another layer
            return Values(descends=len(dependent) > 1 and all(each.descends for each in dependent))
        if name in PROBABILITY_OPERATIONS:
            return Values(UNIT, descends=True)
        descends = all(each.descends for each in dependent)
        if name in CLAMPS:
            return Values(_bounds(name, args, keywords, dependent[0].interval), descends)
        interval = _interval(name, [self._interval_of(leaf) for leaf in self._operands(name, args)], keywords)
        if name == "exp":
            return Values(interval, descends=True)
        if len(dependent) > 1 and descends and name in ("add", "sub", "div", "true_divide") and not (interval and interval.is_unit):
            interval = None  # exp(z) / (1 + exp(z)) and w·p + (1 − w)·q lie in [0, 1], which the operands' intervals do not show
        return Values(interval, descends)

    def _operands(self, name: str, args: Any) -> list[Any]:
        """Those whose values the results are made of: tensors of floating-point numbers, and the numbers that arithmetic takes."""
        leaves = tree_leaves(args)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]
        if name in (*ARITHMETIC, "masked_fill"):
            return [leaf for leaf in leaves if not isinstance(leaf, Tensor) or leaf.is_floating_point()]
        return tensors

    def _interval_of(self, operand: Any) -> Interval | None:
        if not isinstance(operand, Tensor):
            return Interval(operand, operand) if isinstance(operand, (int, float)) else None
        if id(operand) in self.values:
            return self.values[id(operand)].interval
        if operand.layout != torch.strided or not operand.numel():
            return None
        values = operand.detach().float()  # the same for every image
        return Interval(float(values.min()), float(values.max()))

    def _keep(self, tensor: Tensor, values: Values) -> None:
        self.tensors.append(tensor)
        self.values[id(tensor)] = values


@closes_scopes
def probability_outputs(module: nn.Module, inputs: Inputs) -> tuple[bool | None, ...]:
    """For each floating-point tensor among the outputs, whether no linear operation lies between it and a sigmoid or softmax.

    One pass of the first image, remembered per input size.

    Returns:
        One entry per tensor, in the order of `tensors_of`; None where no operation can be seen.
    """
    cache, key = remembered(module, inputs), ("probability outputs", signature(inputs))
    if key not in cache:
        one = example(module, inputs)
        descent = _Descent(one)
        with session(module), descent:
            outputs = run_forward(module, one)
        found = [descent.values.get(id(tensor), Values()).is_probability for tensor in tensors_of(outputs)]
        cache[key] = tuple(each if descent.has_seen_operations else None for each in found)
    entries: tuple[bool | None, ...] = cache[key]
    return entries


def is_probability_output(module: nn.Module, inputs: Inputs, outputs: Any, columns: Tensor) -> bool | None:
    """Whether `columns`, one of the module's `outputs` or a view of one, comes out of a sigmoid or softmax; None: it cannot be seen."""
    storage = columns.untyped_storage().data_ptr()
    known = probability_outputs(module, inputs)
    tensors = tensors_of(outputs)
    entries = [entry for tensor, entry in zip(tensors, known) if tensor.untyped_storage().data_ptr() == storage]
    return entries[0] if entries and len(tensors) == len(known) else None
