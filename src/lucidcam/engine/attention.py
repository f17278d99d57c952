"""The attention of a vision transformer's blocks, and gradients with respect to it.

The first attention matrix is the leaf of the graph: what lies below it runs with gradients off, and parameters may be frozen. Which tokens
the network reads in the end (class token, mean of the patches, …) the score's gradient at the last tokens tells
(`docs/decisions/attention.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lucidcam.engine.attention_hooks import ELSE, Catch, Plan, plan
from lucidcam.engine.capture import Done, ForceGrad, cut
from lucidcam.engine.foreign import gradient, says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.masked import alike
from lucidcam.engine.rule_autograd import depends_on
from lucidcam.engine.scaling import differentiate_scaled, needs_scale
from lucidcam.engine.session import hooks
from lucidcam.engine.thread_state import no_inference
from lucidcam.engine.trace import replace_first, run_forward
from lucidcam.errors import ModelError

Read = Callable[[Any, Tensor | None], Tensor]
"""From what the module returns to scores `[n, T]`; with rows `[n]` where row i was made from the image `rows[i]`."""

Wants = Literal["matrices", "gradients", "blocks"]


@dataclass(frozen=True)
class Attention:
    """What one pass tells of a vision transformer's attention; N tokens, the prefix ones (class, registers) first.

    Attributes:
        matrices: each block's `[B, heads, N, N]`, the first block's first; rows are queries and sum to one.
        pool: the matrix `[B, heads, 1, N]` of an attention pooling after the last block, where the network has one.
        outputs: what the module returned.
    """

    matrices: tuple[Tensor, ...]
    pool: Tensor | None
    outputs: Any
    _module: nn.Module
    _inputs: Inputs
    _plan: Plan
    _done: Done
    _raw: tuple[Tensor, ...]
    _read: Read
    _scores: Tensor

    def to_maps(self, tokens: Tensor) -> Tensor:
        """Values of tokens `[B, T, N]` as maps `[B, T, h, w]` of the patches; prefix tokens are left out."""
        patches = tokens[..., self._plan.layout.prefix :]
        return patches.reshape(*patches.shape[:-1], *self._plan.layout.grid)

    def reading(self) -> Tensor:
        """How much of what the score reads comes from each of the last tokens, `[B, T, N]`; sums to one.

        The norm of the score's gradient at the tokens after the last block: one for the class token alone, 1/n for each of n averaged
        patches, without any table of names.

        Raises:
            ModelError: the score depends on none of them.
        """
        kept = [c.tensor for c in self._done.cuts[-len(self._plan.last) :]][::-1]
        rows: list[Tensor] = []
        for column in _columns(self._scores):
            norms = [g.to(_wide(g.dtype)).norm(dim=-1) for g in _grad(column, kept) if g is not None]
            read = [n for n in norms if bool((n.sum(-1) > 0).all())]
            if not read:
                raise ModelError(
                    "the score's gradient at the last tokens is zero, so which of them are read cannot be told (a head of zeros, a "
                    f"saturated probability); explain the logit of a trained network, or {ELSE}"
                )
            rows.append(read[0] / read[0].sum(-1, keepdim=True))
        return torch.stack(rows, dim=1)

    def gradients(self) -> Iterator[tuple[list[Tensor], Tensor | None]]:
        """For one target after the other, the score's gradients at the blocks' matrices, and at the pooling's."""
        for column in _columns(self._scores):
            found = [_some(g, m) for g, m in zip(_grad(column, self._raw), self._raw, strict=True)]
            pooled = found.pop() if self.pool is not None else None
            yield [_folded(g, len(self._scores)) for g in found], None if pooled is None else _folded(pooled, len(self._scores))

    def block_gradients(self, average: bool = False) -> Iterator[list[Tensor]]:
        """For one target after the other, per block: the gradient, at its matrix, of what the head says of the tokens after it.

        The head is all that follows the last block; every block's tokens are put there in one pass. Where the network ends in attention
        pooling, the gradients are with respect to the pooling's matrix, `[B, heads, 1, N]`, as it reads each block's tokens.

        Args:
            average: the head is given the mean of all tokens in place of each token.

        Raises:
            ModelError: the blocks do not hand their tokens on, or the part above them cannot run alone.
        """
        batch, count = len(self._scores), len(self._plan.blocks)
        tokens = [c.tensor for c in self._done.cuts[:count]]
        with torch.enable_grad():
            leaf = torch.cat(tokens).detach().requires_grad_()
            scores, pool = self._head(leaf.mean(1, keepdim=True).expand_as(leaf) if average else leaf)
        if not average and not alike(scores[-batch:].detach(), self._scores.detach()):
            raise _apart(self._module)
        for column in _columns(scores):
            if pool is not None:
                yield [_folded(part, batch) for part in _some(_grad(column, [pool])[0], pool).chunk(count)]
                continue
            above = _some(_grad(column, [leaf])[0], leaf).chunk(count)
            yield [_folded(_sent_down(z, m, g), batch) for z, m, g in zip(tokens, self._raw, above, strict=True)]

    def _head(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores `[blocks·B, T]` of tokens put in place of the last block's, and the pooling's matrix on the way."""
        rows = torch.arange(len(self._scores), device=tokens.device).repeat(len(self._plan.blocks))
        layer, started, caught, calls = self._plan.blocks[-1].of(self._module), list[bool](), list[Tensor](), 0

        def note(number: int, matrix: Tensor) -> Tensor:
            if number != self._plan.pool:
                return matrix
            caught.append(matrix)
            return matrix.clone()

        def put(_: nn.Module, __: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 != layer.call:
                return None
            started.append(True)
            return replace_first(output, tokens)

        try:
            with torch.set_grad_enabled(False), hooks([(layer.module, put)]), Catch(note), ForceGrad(started):
                outputs = run_forward(self._module, self._inputs.rows(slice(0, 1) if self._inputs.alone else rows))
        except (RuntimeError, ValueError) as error:
            if says_nothing(error):
                raise
            raise _apart(self._module) from error
        return self._read(outputs, rows), caught[0] if caught else None


def attend(module: nn.Module, inputs: Inputs, read: Read, wants: Wants, copies: bool = False) -> Attention:
    """Run the module once and keep its attention. Call it inside a session.

    Args:
        module: a vision transformer.
        inputs: what it takes.
        read: the target.
        wants: "matrices": no gradients below the last tokens; "gradients": of the score; "blocks": also every block's tokens.
        copies: as for `cut`.

    Raises:
        ModelError: the network's attention is not between the image's patches in every block, or no gradient flows.
    """
    known = plan(module, inputs)
    if wants == "blocks" and not known.residual:
        raise ModelError(f"the blocks of this {type(module).__name__} are not modules that hand their tokens on to each other; {ELSE}")
    found = _attend(module, inputs, read, wants, known, force=False, copies=copies)
    if found is None:
        found = _attend(module, inputs, read, wants, known, force=True, copies=copies)
    if found is None:
        raise ModelError(f"the score does not depend on the attention of this {type(module).__name__} by differentiable operations; {ELSE}")
    return found


def _attend(module: nn.Module, inputs: Inputs, read: Read, wants: Wants, known: Plan, force: bool, copies: bool) -> Attention | None:
    """One try; None where no gradient flows, because the model turns gradients off by itself, say."""
    raw: dict[int, Tensor] = {}
    started: list[bool] = []

    def note(number: int, matrix: Tensor) -> Tensor:
        if wants == "matrices":
            raw[number] = matrix.detach().clone()
            return matrix
        started.append(True)
        torch.set_grad_enabled(True)
        with no_inference(), torch.enable_grad():
            if matrix.is_inference() or not matrix.requires_grad:
                matrix = matrix.detach().clone().requires_grad_()
            raw[number] = matrix
            return matrix.clone()  # the module may go on in place

    layers = [place.of(module) for place in (*(known.blocks if wants == "blocks" else ()), *known.last)]
    with ExitStack() as stack:
        stack.enter_context(Catch(note))
        if force:
            stack.enter_context(ForceGrad(started))
        done = cut(module, inputs, layers, gradients=True, force=force, copies=copies)
    with torch.enable_grad():
        scores = read(done.outputs, None)
    kept = tuple(raw[i] for i in known.matrices)
    pool = None if known.pool is None else raw[known.pool]
    if not depends_on(scores, kept[0] if wants != "matrices" else done.cuts[0].tensor):
        return None
    return Attention(
        matrices=tuple(_folded(m.detach(), inputs.batch) for m in kept),
        pool=None if pool is None else _folded(pool.detach(), inputs.batch),
        outputs=done.outputs,
        _module=module,
        _inputs=inputs,
        _plan=known,
        _done=done,
        _raw=kept if pool is None or wants == "blocks" else (*kept, pool),
        _read=read,
        _scores=scores,
    )


def _columns(scores: Tensor) -> Iterator[Tensor]:
    """The scores `[B, 1]` of each target, one by one (see `foreign.totals`)."""
    for i in range(scores.shape[1]):
        with torch.enable_grad():
            column = scores[:, i : i + 1]
        yield column


def _grad(column: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients of the sum of one target's scores: images do not see each other, so they hold each image's own."""

    def differentiate(scores: Tensor) -> Sequence[Tensor | None]:
        with torch.enable_grad():
            total = scores.sum()
        return gradient(total, list(tensors), retain_graph=True, allow_unused=True)

    if not needs_scale(*tensors):
        return differentiate(column)
    rows = len(column)
    flat = differentiate_scaled(column, lambda scores: [None if g is None else g.reshape(rows, 1, -1) for g in differentiate(scores)])
    return [None if g is None else g.reshape(tensor.shape) for g, tensor in zip(flat, tensors, strict=True)]


def _sent_down(tokens: Tensor, matrix: Tensor, above: Tensor) -> Tensor:
    """What the gradient `above` at a block's tokens makes of it at the block's matrix."""
    if not needs_scale(tokens):
        plain: Tensor = gradient(tokens, matrix, above, retain_graph=True)[0]
        return plain
    scale = torch.exp2(-above.abs().amax().clamp(min=torch.finfo(above.dtype).tiny).log2().ceil())
    scaled: Tensor = gradient(tokens, matrix, (above * scale).to(tokens.dtype), retain_graph=True)[0]
    return scaled.float() / scale


def _some(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _folded(matrix: Tensor, batch: int) -> Tensor:
    """A matrix as `[B, heads, queries, keys]`, at least float32."""
    return matrix.reshape(batch, -1, *matrix.shape[-2:]).to(_wide(matrix.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _apart(module: nn.Module) -> ModelError:
    return ModelError(f"what follows the blocks of this {type(module).__name__} cannot run on tokens alone; {ELSE}")
