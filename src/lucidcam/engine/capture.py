"""The forward pass cut at a layer.

Everything below the layer runs with gradients off. At the layer a hook keeps the output as a leaf of a new graph, hands a *clone* on
(an in-place ReLU further up must not overwrite what was kept) and turns gradients on for the rest. So a gradient map costs about one plain
forward and next to no memory (`docs/decisions/capture.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.foreign import GradientError, gradient, holder_of, in_transform, totals
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import Layout
from lucidcam.engine.rule_autograd import Waypoint, on_path
from lucidcam.engine.scaling import differentiate_scaled, needs_scale
from lucidcam.engine.session import Hook, hooks
from lucidcam.engine.thread_state import Mode, no_inference
from lucidcam.engine.token_layout import layout_at
from lucidcam.engine.trace import Layer, first_tensor, replace_first, run_forward
from lucidcam.errors import LayerError, ModelError


@dataclass(frozen=True)
class Cut:
    """One layer's output.

    Attributes:
        layer: the layer.
        tensor: its output as the layer lays it out; part of the graph when gradients were asked for.
        layout: how `tensor` holds the spatial map.
    """

    layer: Layer
    tensor: Tensor
    layout: Layout

    @property
    def maps(self) -> Tensor:
        """The activations `[B, C, *grid]`, detached."""
        return self.layout.to_maps(self.tensor.detach())


@dataclass(frozen=True)
class Done:
    """A finished forward pass: the module's outputs and the cuts, in the order of the layers asked for."""

    outputs: Any
    cuts: tuple[Cut, ...]


class ForceGrad(Mode):
    """Runs every operation with gradients on, where the model itself turns them off.

    Args:
        started: nothing is done as long as this list is empty; None: from the beginning.
    """

    def __init__(self, started: list[bool] | None = None) -> None:
        super().__init__()
        self.started = [True] if started is None else started

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.started or func is torch._C._set_grad_enabled:
            return func(*args, **(kwargs or {}))
        with no_inference(), torch.enable_grad():
            return func(*args, **(kwargs or {}))


_PARTING = frozenset(
    getattr(home, name) for home in (torch, Tensor) for name in ("split", "split_with_sizes", "chunk", "unbind", "tensor_split")
)


class Copies(Mode):
    """Lets a network change in place what its backward pass needs, as detectors do that decode their boxes in place.

    What autograd saves is copied at once; the parts of a `split` or `unbind`, which autograd forbids to change in place, become views of
    their own; and weights that were made under inference mode, which autograd cannot save, are handed on as copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._saved = torch.autograd.graph.saved_tensors_hooks(_copied, lambda tensor: tensor)

    def __enter__(self) -> Copies:
        self._saved.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._saved.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "_")
        if not name.endswith("_"):  # neither in place nor an attribute
            args, kwargs = _normal(args), {key: _normal(value) for key, value in (kwargs or {}).items()}
        parts = func(*args, **(kwargs or {}))
        if func not in _PARTING or not args or not any(part.requires_grad for part in parts):
            return parts
        return tuple(args[0].as_strided(part.shape, part.stride(), part.storage_offset()) for part in parts)


def _normal(value: Any) -> Any:
    """A value, or several, with copies in place of tensors of inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() and torch.is_grad_enabled() else value
    return type(value)(map(_normal, value)) if type(value) in (tuple, list) else value


def _copied(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


def cut(
    module: nn.Module,
    inputs: Inputs,
    layers: Sequence[Layer],
    gradients: bool,
    force: bool = False,
    known: Sequence[Tensor] | None = None,
    copies: bool = False,
) -> Done:
    """Run the module once and keep the outputs of `layers`. Call it inside a session.

    Args:
        module: the module.
        inputs: what it takes.
        layers: any number of layers, in any order; all are kept in the same pass.
        gradients: keep a graph from the layers to the outputs.
        force: keep it even where the model turns gradients off by itself.
        known: the layers' outputs, where they are known: one image alone runs below the layers, and these are handed on in its place.
        copies: keep copies of what the backward pass needs, for networks that change it in place.

    Raises:
        LayerError: when a layer does not run, or its output holds no spatial map.
    """
    kept: list[Tensor | None] = [None] * len(layers)
    calls = [0] * len(layers)
    started: list[bool] = []

    def keep(i: int) -> Hook:
        def hook(child: nn.Module, _: Any, output: Any) -> Any:
            number, calls[i] = calls[i], calls[i] + 1
            if layers[i].call not in (None, number):
                return None
            found = tensor_at(layers[i], output)
            if known is not None:
                found = known[i].to(found.device, found.dtype)
            if not gradients:
                kept[i] = found.detach().clone()
                return None if known is None else replace_first(output, found.clone())  # what follows may work in place
            started.append(True)
            torch.set_grad_enabled(True)
            with no_inference(), torch.enable_grad():
                if found.is_inference() or not found.requires_grad:
                    found = found.detach().clone().requires_grad_()
                kept[i] = found
                return replace_first(output, found.clone())

        return hook

    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(False))
        stack.enter_context(hooks([(layer.module, keep(i)) for i, layer in enumerate(layers)]))
        if force:
            stack.enter_context(ForceGrad(started))
        if copies and gradients:
            stack.enter_context(Copies())
        outputs = run_forward(module, inputs if known is None else inputs.rows(slice(0, 1)))
    return Done(outputs, tuple(_cut(module, inputs, *pair) for pair in zip(layers, kept, calls, strict=True)))


def follow(module: nn.Module, inputs: Inputs, layer: Layer) -> tuple[Any, Cut, Waypoint | None]:
    """Run the module once with gradients from the image up, and mark a layer's output on the way. Call it inside a session.

    Nothing is cut: what passes the layer by (a residual, a concatenated branch) stays part of the graph.

    Args:
        module: the module.
        inputs: what it takes; the image requires grad.
        layer: whose output to mark.

    Returns:
        The module's outputs, the layer's output without a graph, and its place in the graph; None where it does not depend on the image
        through differentiable operations.

    Raises:
        LayerError: when the layer does not run, or its output holds no spatial map.
    """
    calls, begin = 0, 0
    kept: Tensor | None = None
    point: Waypoint | None = None

    def start(child: nn.Module, _: Any) -> None:
        nonlocal begin
        begin = torch._C._autograd._get_sequence_nr()

    def mark(child: nn.Module, _: Any, output: Any) -> Any:
        nonlocal calls, kept, point
        number, calls = calls, calls + 1
        if layer.call not in (None, number):
            return None
        value = tensor_at(layer, output)
        with torch.enable_grad():
            reached = on_path(value)
        if reached and (value.grad_fn is None or value.grad_fn._sequence_nr() < begin):
            value = value.clone()  # the layer hands its input on, which others may read as well
            output = replace_first(output, value)
        kept, point = value.detach(), Waypoint.of(value) if reached and value.requires_grad else None
        return output

    with hooks([(layer.module, mark)], before=[(layer.module, start)]):
        outputs = run_forward(module, inputs)
    return outputs, _cut(module, inputs, layer, kept, calls), point


def tensor_at(layer: Layer, output: Any) -> Tensor:
    """The tensor in what a layer returned.

    Raises:
        LayerError: when there is none, or it does not outlive a transform.
    """
    tensor = first_tensor(output)
    if tensor is None:
        raise LayerError(f"the layer {layer.name!r} gives {type(output).__name__}, not a tensor; choose a layer inside it.")
    if in_transform(tensor):
        raise LayerError(
            f"the layer {layer.name!r} runs inside a transform of torch.func (vmap, grad), whose tensors are gone after it; "
            "choose a layer outside it."
        )
    return tensor


def _cut(module: nn.Module, inputs: Inputs, layer: Layer, tensor: Tensor | None, calls: int) -> Cut:
    if tensor is None:
        if calls:
            raise LayerError(f"the layer {layer.name!r} runs {calls} times: give '#0' to '#{calls - 1}' as its call number.")
        holder = holder_of(module, layer.name)
        if holder is not None:
            outer = repr(holder[0]) if holder[0] else f"this {type(module).__name__}"
            raise LayerError(f"the layer {layer.name!r} lies inside {outer}, which is {holder[1]} and runs its layers out of sight.")
        raise LayerError(f"the layer {layer.name!r} does not run in a forward pass of this {type(module).__name__}.")
    shape = tuple(tensor.shape)
    layout = layout_at(module, inputs, layer, shape)
    if layout is None:
        one_by_one = len(inputs.size) > 2 and calls >= inputs.size[0] and layer.call is None
        raise LayerError(
            f"the layer {layer.name!r} gives {list(shape)}: no spatial map for images of size {list(inputs.size)}. "
            + (
                f"It runs {calls} times, on a part of the input each: fold the frames into the batch, or use occlusion, rise or gradient."
                if one_by_one
                else "Choose a layer before the pooling or flattening."
            )
        )
    return Cut(layer, tensor, layout)


def gradients_of(scores: Tensor, cuts: Sequence[Cut]) -> list[Tensor]:
    """Gradients `[B, T, C, *grid]` of scores `[B, T]` with respect to each cut, all T in one batched backward pass.

    Images do not see each other in evaluation mode, so the gradient of a sum over the batch holds each image's own.

    Raises:
        ModelError: when the scores do not depend on the layers through differentiable operations.
    """
    if not scores.requires_grad:
        raise ModelError(
            f"the score is not differentiable with respect to the layer {cuts[0].layer.name!r} (detached, integer or quantised operations "
            "in between); use eigencam, scorecam or ablationcam, which need no gradient."
        )
    tensors = [c.tensor for c in cuts]
    if needs_scale(*tensors):
        return _laid_out(cuts, differentiate_scaled(scores, lambda scaled: _stacked(scaled, tensors)))
    return _laid_out(cuts, _stacked(scores, tensors))


def _stacked(scores: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients `[B, T, ...]` at each tensor as it is laid out; None where nothing arrives."""
    count = scores.shape[1]
    if count == 1:
        rows = [gradient(total, tensors, retain_graph=True, allow_unused=True) for total in totals(scores)]
    else:
        seeds = torch.eye(count, dtype=scores.dtype, device=scores.device)
        with torch.enable_grad():
            summed = scores.sum(0)
        try:
            batched = gradient(summed, tensors, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True)
            return [None if g is None else g.transpose(0, 1) for g in batched]
        except GradientError:  # an operation without a batching rule: one backward pass per target
            rows = [gradient(total, tensors, retain_graph=True, allow_unused=True) for total in totals(scores)]
    stacked: list[Tensor | None] = []
    for i, tensor in enumerate(tensors):
        grads = [row[i] for row in rows]
        empty = all(g is None for g in grads)
        stacked.append(None if empty else torch.stack([torch.zeros_like(tensor) if g is None else g for g in grads], dim=1))
    return stacked


def _laid_out(cuts: Sequence[Cut], grads: Sequence[Tensor | None]) -> list[Tensor]:
    for c, grad in zip(cuts, grads, strict=True):
        if grad is None:
            raise ModelError(
                f"the score does not depend on the layer {c.layer.name!r} (another branch, or a detached one); choose another layer."
            )
    return [c.layout.gradients(grad) for c, grad in zip(cuts, grads, strict=True) if grad is not None]
