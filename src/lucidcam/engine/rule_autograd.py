"""How a rule's calls are recorded in autograd's graph, and what that graph tells of the way from the scores down.

What a rule does not know (another activation, an autograd `Function`, TorchScript) still ends up in autograd's graph,
so that a strict rule can read there what would silently be something else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from lucidcam.engine.foreign import GRADIENT_FREE, GradientError

# (node, gradient of the output) -> gradients of the inputs. It must not hold a tensor of the call: if the call is in
# place, the tensor holds the node as well, and the two would only die with the garbage collector.
Back: TypeAlias = Callable[[Any, Tensor], tuple[Any, ...]]


# --- How calls are recorded ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer without its bias.

    Attributes:
        call: `(x, weight) -> y`.
        weight: None for averages, which have only positive weights.
        channel: Axis of the output's channels, counted from the end.
        spread: Brings one value per channel, `[C]`, into the weight's layout; None where there is no such thing.
        sign: `[C]`, the sign of the scale a BatchNorm after the layer gives each channel; its size cancels in the rule.
    """

    call: Callable[[Tensor, Any], Tensor]
    weight: Tensor | None = None
    channel: int = -1
    spread: Callable[[Tensor], Tensor] | None = None
    sign: Tensor | None = None

    def excited(self, x: Tensor, flip: bool) -> Tensor:
        """Return W⁺x, or (−W)⁺x if `flip`."""
        if self.weight is None:
            return self.call(x, None)
        weight = self.weight.detach().to(x.dtype)
        if self.sign is not None and self.spread is not None:
            weight = weight * self.spread(self.sign).to(x.dtype)
        return self.call(x, (-weight if flip else weight).clamp(min=0))


class Recorded(Function):
    """A torch call that runs as it is, with a rule's backward."""

    @staticmethod
    def forward(ctx: Any, call: Callable[[], Any], back: Back, linear: Linear | None, *tensors: Any) -> Any:
        """Run the call."""
        ctx.back, ctx.linear, ctx.folded = back, linear, []
        if linear is not None:
            ctx.save_for_backward(tensors[0])
        y = call()
        if any(y is x for x in tensors):  # in place
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Ask the rule."""
        return None, None, None, *ctx.back(ctx, gradients[0])


def record(call: Callable[[], Any], back: Back, *tensors: Any, linear: Linear | None = None) -> Any:
    """Run `call` and record it with `back` as its backward; `tensors` are its tensor arguments, in `back`'s order."""
    return Recorded.apply(call, back, linear, *tensors)  # type: ignore[no-untyped-call]


def recorded(node: Any) -> bool:
    """Whether a node of the graph is a recorded call."""
    return getattr(type(node), "_forward_cls", None) is Recorded


# --- What autograd's graph tells -------------------------------------------------------------------

# Activations other than a ReLU ("erf" and "tanh" also give away hand-written GELUs and Mishes). A ReLU or hardtanh
# among the unrecorded nodes is one that the rule did not get to see, or with other bounds.
ACTIVATION = re.compile(
    "relu|silu|gelu|hardswish|mish|elu|celu|softplus|leaky_relu|prelu_kernel|rrelu_with_noise|log_sigmoid|tanh|hardtanh|"
    "threshold|hardshrink|softshrink|erf"
)
SWITCHES = ("clamp", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin", "where", "abs")
"""Operations that choose between values: a ReLU can be written with each of them."""

SPELLED = {"elu": "elu (or selu)", "prelu_kernel": "prelu", "rrelu_with_noise": "rrelu"}
ELEMENTWISE = re.compile("(hard)?sigmoid|add|sub|rsub|mul|div|abs|clamp(_min)?|hardtanh|relu")

# Operations whose own gradient only moves P around, each value to where it came from.
ROUTING = re.compile(
    "alias|as_strided|(reshape_|slice_)?copy|copy_slices|clone|to_copy|backward_hook_function|"
    "(unsafe_)?view|reshape_alias|squeeze|unsqueeze|expand|repeat|permute|transpose|t|flip|roll|rot90|diagonal|unfold|"
    "im2_col|col2_im|pixel_(un)?shuffle|(native_)?channel_shuffle|(constant|reflection|replication)_pad.*|"
    "slice|select|index|index_select|gather|where|masked_fill|cat|stack|unbind|(unsafe_)?split(_with_sizes)?|"
    "(mkldnn_|adaptive_)?max_pool[23].*|max|amax|maximum"
)


def operation_of(node: Node) -> str:
    """Return a node's operation as torch spells its functions: `torch::autograd::SiluBackward0` is silu."""
    name = re.sub(r"Backward\d*$", "", node.name().split("::")[-1]).lstrip("_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def children_of(node: Node) -> list[Node]:
    """Return the nodes a gradient goes to next."""
    return [child for child, _ in node.next_functions if child is not None]


def walk_from(start: Iterable[Node], step: Callable[[Node], Iterable[Node]] = children_of) -> Iterator[Node]:
    """Yield every node that `step` leads to, breadth first, each once."""
    queue = list(dict.fromkeys(start))
    seen = set(queue)
    for node in queue:
        yield node
        fresh = [n for n in dict.fromkeys(step(node)) if n not in seen]
        seen.update(fresh)
        queue.extend(fresh)


def on_path(x: Any) -> bool:
    """Whether `x` depends on what is explained, rather than on parameters alone (they may require grad as well)."""
    if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
        return False
    if x.grad_fn is None:
        return not isinstance(x, nn.Parameter)
    # Only what is on the path is recorded, so this looks no further than the last recorded call.
    return any(recorded(n) or not isinstance(getattr(n, "variable", None), (nn.Parameter, type(None))) for n in walk_from([x.grad_fn]))


@dataclass(frozen=True, eq=False)
class Waypoint:
    """A value on the way as it was when it was marked: what is done to its tensor in place afterwards comes after it.

    Attributes:
        edge: where its gradient arrives.
        tensor: the value; in place operations may have changed it since, so only its shape, type and device can be relied on.
    """

    edge: GradientEdge
    tensor: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Waypoint:
        """Mark a tensor that requires grad, as it is now."""
        return cls(get_gradient_edge(x), x.detach())


def arrivals(x: Waypoint) -> list[GradientEdge]:
    """Return where P arrives for `x`. What is folded into the layer that made `x` goes past it, and counts as well."""
    first = x.edge
    folded = walk_from([first.node], lambda n: n.folded if recorded(n) else ())  # type: ignore[attr-defined]
    return [first, *(GradientEdge(node, 0) for node in folded if node is not first.node)]


def nodes_between(root: Node | None, ends: Iterable[Node]) -> list[Node]:
    """Return the nodes through which `root` reaches `ends`, nearest to `root` first."""
    nodes = [] if root is None else list(walk_from([root]))
    above: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        for child in children_of(node):
            above[child].append(node)
    reaching = {parent for node in walk_from(ends, lambda n: above[n]) for parent in above[node]}
    return [node for node in nodes if node in reaching]


def depends_on(scores: Tensor, x: Tensor | Waypoint) -> bool:
    """Whether a gradient of the scores reaches `x`.

    Raises:
        GradientError: an operation on the way has no derivative, where autograd would warn and pass nothing on.
    """
    if not scores.requires_grad:
        return False
    ends = arrivals(x if isinstance(x, Waypoint) else Waypoint.of(x))
    nodes = nodes_between(scores.grad_fn, [end.node for end in ends])
    if any("NotImplemented" in node.name() for node in nodes):
        raise GradientError(
            f"the score depends on operations that have no derivative (quantised ones, say), so no gradient can be taken; use "
            f"{GRADIENT_FREE}; or, at a layer, eigencam, scorecam or ablationcam."
        )
    return bool(nodes)


def has_weights(node: Any) -> bool:
    """Whether a node is a recorded layer with weights, rather than an average."""
    return recorded(node) and node.linear is not None and node.linear.weight is not None


def topmost_layers(nodes: Sequence[Node]) -> set[Node]:
    """Return the layers with weights that are reached first from the top, on each way."""
    inside = set(nodes)
    ways = walk_from(nodes[:1], lambda n: () if has_weights(n) else (c for c in children_of(n) if c in inside))
    return {node for node in ways if has_weights(node)}


def lowest_layers(nodes: Sequence[Node]) -> set[Node]:
    """Return the layers with weights below which there is no other."""
    above: set[Node] = set()  # nodes that have a layer with weights below them
    found = []
    for node in sorted(nodes, key=lambda n: n._sequence_nr()):  # in the order of the forward pass
        if any(child in above or has_weights(child) for child in children_of(node)):
            above.add(node)
        elif has_weights(node):
            found.append(node)
    return set(found)


def gates_itself(node: Node) -> bool:
    """Whether a product or quotient is of x and some f(x), as in a hand-written SiLU, Hardswish or Softsign."""
    edges = node.next_functions
    if len(edges) != 2:
        return False
    for edge, (other, _) in (edges, edges[::-1]):
        if edge[0] is not None and other is not None:  # (None, 0) is any constant
            elementwise = (n for n in walk_from([other], elementwise_children) if elementwise_children(n))
            if any(edge in n.next_functions for n in elementwise):
                return True
    return False


def elementwise_children(node: Node) -> list[Node]:
    """Return the nodes below one that works value by value; none below any other."""
    return children_of(node) if recorded(node) or ELEMENTWISE.fullmatch(operation_of(node)) else []
