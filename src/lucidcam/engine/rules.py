"""Backprop rules (guided, deconvnet, excitation) as a `TorchFunctionMode`: no module is touched.

While a rule is entered, the torch functions it knows (`relu`, `conv2d`, `+`, …) run as they are, but are recorded with
another backward. So functional, in-place and shared activations are seen alike. Modes belong to a thread; so do rules.

    with Guided() as rule:
        outputs = module(images)                                    # images.requires_grad
    (gradient,) = rule.backward(outputs[:, [281, 285]], [images])   # [B, 2, 3, H, W]

What a rule does not know (another activation, an autograd `Function`, TorchScript) still ends up in autograd's graph.
Strict rules read that graph before they use it, and refuse what would silently be something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from lucidcam.engine.foreign import gradient, hidden_part
from lucidcam.engine.rule_autograd import (
    ACTIVATION,
    ROUTING,
    SPELLED,
    SWITCHES,
    Linear,
    Waypoint,
    arrivals,
    gates_itself,
    has_weights,
    lowest_layers,
    nodes_between,
    on_path,
    operation_of,
    record,
    recorded,
    topmost_layers,
)
from lucidcam.engine.thread_state import Mode
from lucidcam.errors import RuleError

if TYPE_CHECKING:
    from typing_extensions import Self

# (rule, call, *args, **kwargs) -> what `call`, a partial of the function with args and kwargs, returns.
Handler: TypeAlias = Callable[..., Any]


def refuse(module: nn.Module) -> None:
    """Raise if a rule could not see inside `module`. What `torch.compile` made it does see: a session runs that eagerly.

    Raises:
        RuleError: A part of `module` is TorchScript or an exported program.
    """
    hidden = hidden_part(module)
    if hidden is not None:
        name, inner, kind = hidden
        where = f"{name or 'the module itself'} ({type(inner).__name__})"
        raise RuleError(f"{where} is {kind}, which hides its operations from backprop rules: use the eager module.")


class Rule(Mode):
    """Base of the rules. One instance serves one forward at a time, in one thread; its `with` leaves nothing behind.

    Args:
        strict: Refuse networks the rule is not defined for. If not, the operations concerned pass their plain gradient.
    """

    handlers: ClassVar[dict[Any, Handler]]
    needs: ClassVar[str]

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.fired = False
        self._end: int | None = None

    def __enter__(self) -> Self:
        self.fired, self._end = False, None
        Mode.__enter__(self)
        return self

    def __exit__(self, *error: Any) -> None:
        Mode.__exit__(self, *error)
        # Nodes are numbered as they are made: later ones are the target's (a difference of logits, say).
        self._end = torch._C._autograd._get_sequence_nr()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = self.handlers.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(self, partial(func, *args, **(kwargs or {})), *args, **(kwargs or {}))

    def backward(self, scores: Tensor, inputs: Sequence[Tensor | Waypoint]) -> list[Tensor]:
        """Backpropagate each score under this rule. No `.grad` is touched, and the graph is kept for another call.

        Args:
            scores: `[B, T]`, made from what the module returned in the `with` block. Their gradient is the seed:
                gathered logits give the one-hot of the papers.
            inputs: Tensors `[B, ...]` of that forward that require grad: what went in, or activations on the way; as waypoints
                where something may have changed them in place since.

        Returns:
            For each input a tensor `[B, T, ...]`; zeros where the scores do not depend on it.

        Raises:
            RuleError: No rule fired, nothing requires grad, or (strict) the rule is not defined for this network.
        """
        name = type(self).__name__
        if not (scores.requires_grad and all(isinstance(x, Waypoint) or x.requires_grad for x in inputs)):
            raise RuleError(f"{name} needs scores and inputs that require grad: enable gradients, and requires_grad_() the inputs.")
        points = [x if isinstance(x, Waypoint) else Waypoint.of(x) for x in inputs]
        groups = [arrivals(point) for point in points]
        edges = [edge for group in groups for edge in group]
        nodes = nodes_between(scores.grad_fn, [edge.node for edge in edges])
        if self.strict:
            self._check(nodes)
        if self.strict and not self._applied(nodes):
            raise RuleError(
                f"{name} recorded no {self.needs}, so it would return the plain gradient: use gradcam, or run the "
                "eager module (no TorchScript, torch.compile, autograd functions) in the rule's `with`, in its thread."
            )
        self._start(nodes, several=scores.shape[1] > 1)
        columns = []
        try:
            # Our backwards call torch functions as well: inside the `with` block, those must not be recorded again.
            with torch._C.DisableTorchFunction():
                for target in range(scores.shape[1]):
                    seed = scores.new_zeros(scores.shape[1])
                    seed[target] = 1
                    seeds = seed.expand_as(scores)
                    parts = iter(gradient(scores, edges, seeds, retain_graph=True, allow_unused=True))
                    column = [torch.zeros_like(point.tensor) for point in points]
                    for total, group in zip(column, groups):
                        for part in (next(parts) for _ in group):
                            total += 0 if part is None else part
                    columns.append(column)
        finally:
            self._stop()
        return [torch.stack(column, dim=1) for column in zip(*columns)]

    def _check(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            operation = operation_of(node)
            inside = self._end is None or node._sequence_nr() < self._end
            if inside and not recorded(node) and (why := self._objection(node, operation)):
                raise RuleError(
                    f"{type(self).__name__} is not defined for {SPELLED.get(operation, operation)}: {why}. "
                    "Use gradcam or another CAM method, or strict=False to backpropagate the plain gradient there."
                )

    def _objection(self, node: Node, operation: str) -> str:
        """Why an operation on the way that no rule has recorded makes the result wrong; empty if it does not."""
        raise NotImplementedError

    def _applied(self, nodes: Iterable[Node]) -> bool:
        """Whether the rule changes anything on the way through these nodes."""
        return self.fired

    def _start(self, nodes: Sequence[Node], several: bool) -> None:
        """Prepare for one call of `backward`."""

    def _stop(self) -> None:
        """Forget what `_start` prepared."""


def _functions(names: str) -> list[Any]:
    """Return the torch functions of these names, wherever torch offers them."""
    homes: tuple[Any, ...] = (torch, Tensor, F, torch._C._nn)
    return [getattr(home, name) for name in names.split() for home in homes if hasattr(home, name)]


_RELU_LIKE = "relu relu_ relu6 hardtanh hardtanh_ clamp clamp_ clamp_min clamp_min_ clip clip_ threshold threshold_"


def _upper_bound(call: Any) -> float | None:
    """Return where a call of one of `_RELU_LIKE` saturates (∞ for a ReLU, 6 for a ReLU6); None if it is neither."""
    name, given = call.func.__name__.strip("_"), call.keywords

    def bound(position: int, keyword: str, default: float) -> float:
        value = call.args[position] if len(call.args) > position else given.get(keyword)
        if isinstance(value, Tensor):
            return math.nan  # equals no bound
        return default if value is None else float(value)

    lower, upper = {
        "relu": lambda: (0.0, math.inf),
        "relu6": lambda: (0.0, 6.0),
        "hardtanh": lambda: (bound(1, "min_val", -1), bound(2, "max_val", 1)),
        "threshold": lambda: (bound(1, "threshold", 1) or bound(2, "value", 1), math.inf),
    }.get(name, lambda: (bound(1, "min", -math.inf), bound(2, "max", math.inf)))()
    return upper if lower == 0 and upper > 0 and "out" not in given else None


# --- Guided backprop and deconvnet -----------------------------------------------------------------


class _AtReLU(Rule):
    """What the two share: ReLUs, and they alone, have a rule."""

    needs = "ReLU"
    gated: ClassVar[bool]

    def _objection(self, node: Node, operation: str) -> str:
        if ACTIVATION.fullmatch(operation):
            return "this activation is no ReLU, or ran out of the rule's sight"
        if isinstance(node, BackwardCFunction) and operation != "backward_hook_function":
            return "a custom autograd function may hide activations"
        if operation in SWITCHES:
            return "it may be a ReLU written by hand, which the rule does not see; write torch.relu"
        if operation in ("mul", "div") and gates_itself(node):
            return "x·f(x) is an activation that is no ReLU"
        return ""


@final
class Guided(_AtReLU):
    """Guided backprop: a ReLU passes `g·[g>0]·[x>0]`, a ReLU6 `g·[g>0]·[0<x<6]`.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015, Sec. 3.4.
    """

    gated = True


@final
class Deconvnet(_AtReLU):
    """Deconvnet: a ReLU passes `g·[g>0]`, whatever went into it.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, Sec. 2.1.
    """

    gated = False


def _rectify(rule: _AtReLU, call: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    upper = _upper_bound(call)
    if upper is None or not (input.requires_grad and torch.is_grad_enabled()):
        return call()
    rule.fired = True
    if not rule.gated:
        return record(call, lambda node, g: (g.clamp(min=0),), input)
    mask = (input > 0) & (input < upper)  # now: the call may be in place
    return record(call, lambda node, g: (g.clamp(min=0) * mask,), input)


def _masked(rule: _AtReLU, call: Any, *args: Any, **kwargs: Any) -> Any:
    """`x * (x > 0)` is a ReLU that leaves no trace in the graph."""
    masks = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args)
    if rule.strict and masks and any(on_path(x) for x in args):
        raise RuleError(
            f"{type(rule).__name__} is not defined for a product with a mask, which may be a ReLU written by hand: write torch.relu, use "
            "gradcam or another CAM method, or strict=False to backpropagate the plain gradient there."
        )
    return call()


_AtReLU.handlers = {
    **dict.fromkeys(_functions(_RELU_LIKE), _rectify),
    **dict.fromkeys(_functions("mul mul_ multiply __mul__ __rmul__ __imul__"), _masked),
}


# --- Excitation backprop ---------------------------------------------------------------------------


@final
class Excitation(Rule):
    """Excitation backprop, the marginal winning probability: `P_in = x⁺ ⊙ W⁺ᵀ(P_out ⊘ (W⁺x⁺))`, 0/0 = 0, no biases.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, Sec. 3.2; 3.3 for the contrastive one.
    Convolutions, linear layers and averages follow the equation. Max-pooling, reshaping and concatenation route P,
    activations hand it on, sums share it out in proportion to their positive addends. A BatchNorm is folded into the
    layer before it, where the sign of γ decides which weights excite; standing alone it hands P on where γ > 0.
    P is conserved but for the 0/0: outputs that owe everything to a bias, or to negative inputs such as dark pixels.

    Args:
        contrastive: Go through the classifier (the first layer with weights from the top) once with W and once with
            −W, and subtract. P may then be negative: nothing is clamped here.
        strict: Refuse products of two parts of the network, layer norms, softmax, and activations that are no ReLU.
        signed: The paper's inputs are not negative; a standardised photo's dark pixels are. Where no positive input
            supports an output of the lowest layer, give its P to the negative inputs that excite it through negative
            weights, rather than dropping it.
    """

    needs = "convolution or linear layer"

    def __init__(self, contrastive: bool = False, strict: bool = True, signed: bool = False) -> None:
        Rule.__init__(self, strict)
        self.contrastive = contrastive
        self.signed = signed
        self._top: set[Node] = set()
        self._lowest: set[Node] = set()
        self._memo: dict[tuple[Node, bool], tuple[Tensor, Tensor]] | None = None

    def _objection(self, node: Node, operation: str) -> str:
        if ROUTING.fullmatch(operation):
            return ""
        if ACTIVATION.fullmatch(operation):
            return "this activation is no ReLU, or ran out of the rule's sight"
        if re.fullmatch("mul|div|b?mm", operation):
            return "a product of two parts of the network, as in gating, attention and dropout, does not share P out"
        return "it is no linear layer with weights of its own, nor does it only move values around"

    def _applied(self, nodes: Iterable[Node]) -> bool:
        return any(has_weights(node) for node in nodes)

    def _start(self, nodes: Sequence[Node], several: bool) -> None:
        self._memo = {} if several else None  # W⁺x⁺ is worth its memory only if it is used again
        self._top = topmost_layers(nodes) if self.contrastive else set()
        self._lowest = lowest_layers(nodes) if self.signed else set()

    def _stop(self) -> None:
        self._memo, self._top, self._lowest = None, set(), set()

    def _layer(self, node: Any, p: Tensor) -> tuple[Tensor]:
        """The backward of every linear layer."""
        share = self._share(node, p, flip=False)
        return (share - self._share(node, p, flip=True) if node in self._top else share,)

    def _share(self, node: Any, p: Tensor, flip: bool) -> Tensor:
        """Share P out over the inputs: positive ones through W⁺; the image's negative ones through W⁻ where that leaves 0/0."""
        (x,) = node.saved_tensors
        dtype = torch.promote_types(x.dtype, torch.float32)  # half precision cannot hold P ⊘ (W⁺x⁺)
        wide, left = x.to(dtype), p.to(dtype)
        share, left = self._share_signed(node, wide, left, flip)
        if node in self._lowest and bool((x < 0).any()) and bool(left.any()):
            dark, _ = self._share_signed(node, -wide, left, not flip)
            share = share + dark
        return share.to(x.dtype)

    def _share_signed(self, node: Any, x: Tensor, p: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
        """Return what `x⁺` gets of P, and the P of the outputs that no `x⁺` supports."""
        key = node, flip
        found = self._memo.get(key) if self._memo else None
        if found is None:
            with torch.enable_grad():
                source = x.detach().clamp(min=0).requires_grad_()
                found = source, node.linear.excited(source, flip)
            if self._memo is not None:
                self._memo[key] = found
        source, total = found
        # Next to the smallest number the quotient overflows, and ∞·0 is not 0.
        supported = total > 2**16 * torch.finfo(x.dtype).tiny
        quotient = torch.where(supported, p / total, 0)
        (back,) = torch.autograd.grad(total, source, quotient, retain_graph=self._memo is not None)
        return source.detach() * back, torch.where(supported, 0, p)

    def _linear(self, call: Any, x: Tensor, linear: Linear) -> Any:
        return record(call, self._layer, x, linear=linear)

    def _scale(self, call: Any, x: Tensor, scale: Any, in_place: bool = False) -> Any:
        """Record x·scale as part of the layer that made `x` where that is known, else as a layer of its own."""
        constant = scale.detach() if isinstance(scale, Tensor) else torch.tensor(scale, device=x.device, dtype=torch.float32)
        node: Any = x.grad_fn
        layer: Linear | None = node.linear if recorded(node) else None
        if layer is not None and layer.spread is not None and not in_place and constant.dim() <= x.dim():
            size = constant.shape[layer.channel] if constant.dim() >= -layer.channel else 1
            if constant.numel() == size:
                sign = constant.flatten().sign().expand(x.shape[layer.channel])
                sign = sign if layer.sign is None else sign * layer.sign
                # The folded layer starts where the layer does. What else reads `x` still finds that one.
                y = record(call, self._layer, *node.saved_tensors, linear=replace(layer, sign=sign))
                node.folded.append(y.grad_fn)
                return y
        return _hand_on(call, x, scale, constant > 0)


def _hand_on(call: Any, x: Tensor, other: Any = None, where: Tensor | None = None) -> Any:
    """Record a call that hands P on to `x`, everywhere or only `where`."""
    shape = x.shape
    return record(call, lambda node, p: ((p if where is None else p * where).sum_to_size(shape), None), x, other)


_HANDLERS: dict[Any, Handler] = {}


def _handles(names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(_functions(names), handler))
        return handler

    return register


@_handles(_RELU_LIKE + " local_response_norm")
def _activation(rule: Excitation, call: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    known = call.func is F.local_response_norm or _upper_bound(call) is not None
    return _hand_on(call, input) if known and on_path(input) else call()


@_handles("mean sum interpolate " + " ".join(f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)))
def _average(rule: Excitation, call: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    if not on_path(input) or kwargs.get("mode") == "bicubic":  # has negative weights
        return call()
    func = call.func
    return rule._linear(call, input, Linear(lambda x, _: func(x, *args, **kwargs)))


@_handles("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _weighted(rule: Excitation, call: Any, input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    if not on_path(input) or on_path(weight) or weight.dim() < 2:
        return call()
    func = call.func

    def spread(sign: Tensor) -> Tensor:
        if "transpose" not in func.__name__:
            return sign.view(-1, *[1] * (weight.dim() - 1))
        groups = len(sign) // weight.shape[1]  # these weights are [in, out / groups, ...]
        per_group = sign.view(groups, -1).repeat_interleave(weight.shape[0] // groups, dim=0)
        return per_group.view(*per_group.shape, *[1] * (weight.dim() - 2))

    layer = Linear(lambda x, w: func(x, w, None, *args, **kwargs), weight, 1 - weight.dim(), spread)
    return rule._linear(call, input, layer)


@_handles("matmul __matmul__ mm")
def _matmul(rule: Excitation, call: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    if on_path(a) == on_path(b) or kwargs:
        return call()
    func = call.func
    if on_path(b):
        return rule._linear(call, b, Linear(lambda x, w: func(w, x), a))
    return rule._linear(call, a, Linear(func, b, spread=(lambda sign: sign) if b.dim() == 2 else None))


@_handles("addmm")
def _addmm(rule: Excitation, call: Any, bias: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    plain = on_path(a) and not on_path(b) and not on_path(bias) and not kwargs
    return rule._linear(call, a, Linear(torch.mm, b, spread=lambda sign: sign)) if plain else call()


@_handles("batch_norm")
def _batch_norm(rule: Excitation, call: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    position = 2 if call.func is F.batch_norm else 0  # torch.batch_norm has the weight before the statistics
    weight = args[position] if len(args) > position else kwargs.get("weight")
    if not on_path(input):
        return call()
    return rule._scale(call, input, 1.0 if weight is None else weight.view(-1, *[1] * (input.dim() - 2)))


@_handles("add add_ __add__ __radd__ __iadd__")
def _add(rule: Excitation, call: Any, a: Any, b: Any, *, alpha: float = 1, **kwargs: Any) -> Any:
    if not (on_path(a) and on_path(b)) or kwargs:
        x, other = (a, b) if on_path(a) else (b, a)
        return _hand_on(call, x, other) if on_path(x) and not kwargs else call()
    with torch.no_grad():  # now: the call may be in place
        first, second = a.clamp(min=0), (alpha * b).clamp(min=0)
        share = first / (first + second)  # NaN where neither is positive, and nothing is shared out
    shape_a, shape_b = a.shape, b.shape

    def split(node: Any, p: Tensor) -> tuple[Tensor, Tensor]:
        to_first, to_second = (p * share).nan_to_num(0.0), (p * (1 - share)).nan_to_num(0.0)
        return to_first.sum_to_size(shape_a), to_second.sum_to_size(shape_b)

    return record(call, split, a, b)


@_handles("sub sub_ __sub__ __isub__")
def _subtract(rule: Excitation, call: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    return _hand_on(call, a, b) if on_path(a) and not on_path(b) and not kwargs else call()


@_handles("mul mul_ multiply __mul__ __rmul__ __imul__ div div_ divide true_divide __truediv__ __itruediv__")
def _multiply(rule: Excitation, call: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    name = call.func.__name__
    x, scale = (a, b) if on_path(a) else (b, a)
    if not on_path(x) or on_path(scale) or kwargs or (x is b and "div" in name):
        return call()
    return rule._scale(call, x, scale, in_place=name in ("mul_", "div_", "__imul__", "__itruediv__"))


Excitation.handlers = _HANDLERS
