"""Sees the attention matrices of any torch module, and finds out once which of them are a vision transformer's blocks.

A `TorchFunctionMode` catches fused attention (`F.scaled_dot_product_attention`), `F.multi_head_attention_forward` (`nn.MultiheadAttention`)
and a softmax over the last axis alike. The fused ones are written out, so that the matrix is a tensor of the pass. No module is touched.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import Layout
from lucidcam.engine.session import hooks, session
from lucidcam.engine.thread_state import Mode
from lucidcam.engine.trace import Layer, Trace, first_tensor, remembered, run_forward, signature, trace
from lucidcam.errors import ModelError
from lucidcam.utils.rollback import closes_scopes

Note = Callable[[int, Tensor], Tensor]
"""Told of each matrix `[…, queries, keys]` of a pass and its number; returns what the pass goes on with."""

MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)

LAST_TOKENS = 4
"""Layers after the last attention in which the tokens that are read may be found."""


class Catch(Mode):
    """Hands every attention matrix of a forward pass to `note`."""

    def __init__(self, note: Note) -> None:
        super().__init__()
        self._note = note
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        output = func(*args, **kwargs)
        if getattr(func, "__name__", "") == "softmax" and isinstance(output, Tensor) and output.ndim >= 3:
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            return self._tell(output) if axis in (-1, output.ndim - 1) else output
        return output

    def _tell(self, matrix: Tensor) -> Tensor:
        number, self.seen = self.seen, self.seen + 1
        return self._note(number, matrix)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """`softmax(QKᵀ·scale + mask) V`; the softmax of half precision in float32, as the fused kernels have it."""
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
        weights = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
        if attn_mask is not None:
            weights = weights.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
        wide = torch.float32 if weights.dtype in (torch.float16, torch.bfloat16) else weights.dtype
        matrix = self._tell(weights.softmax(-1, dtype=wide)).to(value.dtype)
        return (F.dropout(matrix, dropout_p) if dropout_p else matrix) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """The matrix as torch computes it, masks and all; then its product with the values, so that these depend on it."""
        bound = MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        result: tuple[Tensor, Tensor | None] = F.multi_head_attention_forward(
            **{**given, "need_weights": True, "average_attn_weights": False}
        )
        if given["value"].ndim != 3 or result[1] is None:  # a single sequence without a batch: no images
            return result
        matrix = self._tell(result[1])
        values = _values(given, matrix)
        mixed = (matrix.to(values.dtype) @ values).permute(2, 0, 1, 3).flatten(2)
        output = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
        if not given["need_weights"]:
            return output, None
        return output, matrix.mean(1) if given["average_attn_weights"] else matrix


def _values(given: dict[str, Any], matrix: Tensor) -> Tensor:
    """The values `[B, heads, keys, C]` of a multi-head attention."""
    batch, heads = matrix.shape[:2]
    if given["static_v"] is not None:
        values: Tensor = given["static_v"].reshape(batch, heads, *given["static_v"].shape[1:])
    else:
        separate, bias = given["use_separate_proj_weight"], given["in_proj_bias"]
        weight = given["v_proj_weight"] if separate else given["in_proj_weight"].chunk(3)[2]
        flat = F.linear(given["value"], weight, None if bias is None else bias.chunk(3)[2])
        if given["bias_v"] is not None:
            flat = torch.cat([flat, given["bias_v"].expand(1, batch, -1)])
        values = flat.reshape(*flat.shape[:2], heads, -1).permute(1, 2, 0, 3)
    if given["add_zero_attn"]:
        values = F.pad(values, (0, 0, 0, 1))
    return values


@dataclass(frozen=True)
class Place:
    """A submodule's name, and which of its calls counts. No module: what is remembered of one must not keep it alive."""

    name: str
    call: int

    def of(self, module: nn.Module) -> Layer:
        """The layer."""
        return Layer(self.name, module.get_submodule(self.name), self.call)


@dataclass(frozen=True)
class Plan:
    """What the attention of a network is about; the same for all inputs of one size.

    Attributes:
        layout: where the patches are among the tokens.
        matrices: numbers, among all matrices of a pass, of the blocks' own, the first block's first.
        pool: number of an attention pooling's matrix: one query that reads the last block's tokens.
        blocks: the layers whose outputs are the tokens after each block.
        residual: each of them is what the next block takes.
        last: layers after the last block's attention that give tokens, in execution order.
    """

    layout: Layout
    matrices: tuple[int, ...]
    pool: int | None
    blocks: tuple[Place, ...]
    residual: bool
    last: tuple[Place, ...]

    @property
    def tokens(self) -> int:
        """N: prefix tokens and patches."""
        return self.layout.prefix + prod(self.layout.grid)


@dataclass
class _Call:
    """One call of a submodule: which matrices (start to end) were made inside, what went in, and what came out."""

    place: Place
    start: int
    end: int
    given: Tensor | None
    output: Tensor | None


def plan(module: nn.Module, inputs: Inputs) -> Plan:
    """Find the blocks of a vision transformer. Remembered per module and input size.

    Raises:
        ModelError: the network's attention is not between the image's patches, all of them, in every block.
    """
    cache, key = remembered(module, inputs), ("attention", signature(inputs))
    if key not in cache:
        cache[key] = _plan(module, inputs)
    found: Plan = cache[key]
    return found


def _plan(module: nn.Module, inputs: Inputs) -> Plan:
    one = inputs.rows(slice(0, 1))
    layouts = {c.layout.prefix + prod(c.layout.grid): c.layout for c in trace(module, inputs).calls if c.layout and _holds_tokens(c.layout)}
    every, calls = _watch(module, one)
    still = _still(trace(module, inputs))
    aside = {i for call in calls if call.place in still for i in range(call.start, call.end)}
    shapes = {i: shape for i, shape in enumerate(every) if i not in aside}
    calls = [call for call in calls if call.place not in still]
    square = [i for i, shape in shapes.items() if _among(shape, layouts)]
    pool = _pool(shapes, square)
    _check(type(module).__name__, shapes, square, pool)
    grid = layouts[shapes[square[0]][-1]]
    layout = Layout("tokens", grid.grid, grid.prefix)
    count = layout.prefix + prod(layout.grid)

    def gives_tokens(call: _Call) -> bool:
        return call.output is not None and call.output.ndim == 3 and call.output.shape[:2] == (1, count)

    blocks = []
    for i in square:
        around = [c for c in calls if (c.start, c.end) == (i, i + 1) and gives_tokens(c)]
        if not around:
            raise ModelError(
                f"the blocks of this {type(module).__name__} cannot be told apart: attention matrix {i} is not the only one of a module "
                f"that gives tokens; {ELSE}"
            )
        blocks.append(around[-1])
    after = calls[calls.index(blocks[-1]) :]
    last = [c.place for c in after if gives_tokens(c) and c.end == square[-1] + 1]
    return Plan(
        layout=layout,
        matrices=tuple(square),
        pool=pool,
        blocks=tuple(c.place for c in blocks),
        residual=all(_same(one.output, two.given) for one, two in pairwise(blocks)),
        last=tuple(last[-LAST_TOKENS:]),
    )


ELSE = "use gradcam or another CAM method, which need no attention."


def _holds_tokens(layout: Layout) -> bool:
    return layout.kind in ("tokens", "channels_last")


def _among(shape: tuple[int, ...], layouts: dict[int, Layout]) -> bool:
    """Whether a matrix of one image is between tokens of that image; three axes: the heads are folded into the batch."""
    return shape[-1] == shape[-2] and shape[-1] in layouts and (len(shape) == 3 or shape[0] == 1)


def _still(seen: Trace) -> set[Place]:
    """Calls that do not depend on the explained image."""
    counts: dict[str, int] = {}
    places: set[Place] = set()
    for call in seen.calls:
        counts[call.name] = counts.get(call.name, -1) + 1
        if not call.depends:
            places.add(Place(call.name, counts[call.name]))
    return places


def _pool(shapes: dict[int, tuple[int, ...]], square: list[int]) -> int | None:
    others = [i for i in shapes if i not in square]
    if square and len(others) == 1 and others[0] > square[-1] and shapes[others[0]][-2:] == (1, shapes[square[-1]][-1]):
        return others[0]
    return None


def _check(name: str, shapes: dict[int, tuple[int, ...]], square: list[int], pool: int | None) -> None:
    if not shapes:
        raise ModelError(f"no attention is seen in a forward pass of this {name} (a convolutional, scripted or exported network?); {ELSE}")
    if any(len(shape) >= 4 and shape[0] > 1 for shape in shapes.values()):
        raise ModelError(f"this {name} has window attention: no matrix is between all patches; {ELSE}")
    stray = [shape[-2:] for i, shape in shapes.items() if i not in square and i != pool]
    sizes = sorted({shapes[i][-1] for i in square})
    if stray or len(sizes) > 1:
        kinds = list(dict.fromkeys([*[(n, n) for n in sizes], *stray]))
        seen = " and ".join([f"{q}×{k}" for q, k in kinds[:3]] + ["others"] * (len(kinds) > 3))
        raise ModelError(
            f"this {name} has attention of {seen} tokens; needed is one matrix between all patches in every block (no pyramid, no "
            f"cross-attention). Explain the image's own branch, or {ELSE}"
        )


def _same(output: Tensor | None, given: Tensor | None) -> bool:
    return output is given or (output is not None and given is not None and torch.equal(output, given))


@closes_scopes
def _watch(module: nn.Module, one: Inputs) -> tuple[list[tuple[int, ...]], list[_Call]]:
    """Shapes of all attention matrices of one image, and all calls of submodules, in the order in which they end."""
    shapes: list[tuple[int, ...]] = []
    calls: list[_Call] = []
    running: list[tuple[int, Tensor | None]] = []
    counts: dict[nn.Module, int] = {}
    names = {child: name for name, child in module.named_modules()}

    def note(_: int, matrix: Tensor) -> Tensor:
        shapes.append(tuple(matrix.shape))
        return matrix

    def begins(_: nn.Module, args: Any, kwargs: Any) -> None:
        running.append((len(shapes), first_tensor([*args, *kwargs.values()])))

    def ends(child: nn.Module, _: Any, output: Any) -> None:
        start, given = running.pop()
        counts[child] = counts.get(child, -1) + 1
        alone = len(shapes) - start <= 1
        found = first_tensor(output) if alone else None
        place = Place(names[child], counts[child])
        calls.append(_Call(place, start, len(shapes), given if alone else None, found))

    before = [(child, begins) for child in names]
    with session(module), hooks([(child, ends) for child in names], before, with_kwargs=True), Catch(note):
        run_forward(module, one)
    return shapes, calls
