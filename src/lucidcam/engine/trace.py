"""One watched forward pass: which submodules ran, in which order, and how their outputs hold a spatial map."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import hooks, session
from lucidcam.errors import LucidcamError, ModelError
from lucidcam.targets import logits

MOST_PREFIX_TOKENS = 16
"""Class, distillation and register tokens before the patches: at most this many are looked for."""


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds its spatial map.

    Attributes:
        kind: "channels_first" `[B, C, *grid]`, "channels_last" `[B, *grid, C]` or "tokens" `[B, prefix + h·w, C]`.
        grid: the map's spatial size.
        prefix: tokens before the patches (class, distillation, registers).
    """

    kind: str
    grid: tuple[int, ...]
    prefix: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """View an output, with any number of leading axes in place of B, as `[..., C, *grid]`."""
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.movedim(-1, -1 - len(self.grid))
        patches = output[..., self.prefix :, :].transpose(-1, -2)
        return patches.reshape(*patches.shape[:-1], *self.grid)

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Inverse of `to_maps`: lay maps `[n, C, *grid]` out as the layer does; prefix tokens come from `like` `[1 or n, …]`."""
        if self.kind == "channels_first":
            return maps
        if self.kind == "channels_last":
            return maps.movedim(-1 - len(self.grid), -1)
        patches = maps.flatten(-len(self.grid)).transpose(-1, -2)
        return torch.cat([like[..., : self.prefix, :].expand(len(maps), -1, -1), patches], dim=-2)


@dataclass(frozen=True)
class Call:
    """One call of a submodule, in the order in which calls end.

    Attributes:
        name: dotted name of the submodule.
        type: its class name.
        shape: shape of its (first) output tensor for one image, or None.
        layout: how it holds a spatial map, or None when it holds none (vectors, 1×1 maps).
        pooled: its output came straight out of a pooling operation.
        passive: it only hands its input on (dropout, identity).
        norm: it is a normalisation layer.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    layout: Layout | None
    pooled: bool
    passive: bool
    norm: bool


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed: calls in execution order and positions (in `calls`) of the operations that matter."""

    calls: tuple[Call, ...]
    last_conv: int
    last_attention: int
    last_spatial_linear: int
    head_conv: int | None


@dataclass(frozen=True)
class Layer:
    """A layer to look at: its name, its module, and which of its calls counts (None: the last)."""

    name: str
    module: nn.Module
    call: int | None = None


def trace(module: nn.Module, inputs: Inputs) -> Trace:
    """Run the module once on the first image and record its calls. Remembered per module and input size."""
    cache, key = remembered(module, inputs), ("trace", signature(inputs))
    if key not in cache:
        cache[key] = _trace(module, inputs)
    found: Trace = cache[key]
    return found


class _Watch(TorchFunctionMode):
    """Notes pooling, convolution, linear and attention operations, functional or in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0  # module calls that have ended so far
        self.pooled = WeakTensorKeyDictionary()
        self.events: list[tuple[str, int, tuple[int, ...], bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if "pool" in name and isinstance(output, Tensor):
            self.pooled[output] = True
        elif "conv" in name and isinstance(output, Tensor):
            weight = args[1] if len(args) > 1 else (kwargs or {}).get("weight")
            if isinstance(weight, Tensor):
                self.events.append(("conv", self.ended, tuple(output.shape), prod(weight.shape[2:]) == 1))
        elif name == "linear" and isinstance(output, Tensor):
            self.events.append(("linear", self.ended, tuple(output.shape), False))
        elif "attention" in name or (name == "softmax" and isinstance(output, Tensor) and output.ndim >= 3):
            self.events.append(("attention", self.ended, (), False))
        return output


def _trace(module: nn.Module, inputs: Inputs) -> Trace:
    one = inputs.rows(slice(0, 1))
    names = {child: name for name, child in module.named_modules()}
    watch, calls, grids = _Watch(), [], [one.size]

    def note(child: nn.Module, _: Any, output: Any) -> None:
        found = first_tensor(output)
        layout = None
        if found is not None:
            layout = layout_of(tuple(found.shape), one, grids, child)
            if layout is not None and layout.kind != "tokens":
                grids.append(layout.grid)
        calls.append(
            Call(
                name=names[child],
                type=type(child).__name__,
                shape=None if found is None else tuple(found.shape),
                layout=layout,
                pooled=found is not None and found in watch.pooled,
                passive=isinstance(child, (nn.Identity, nn.modules.dropout._DropoutNd)),
                norm=not any(child.children()) and type(child).__name__.lower().endswith("norm"),
            )
        )
        watch.ended += 1

    with session(module), hooks([(child, note) for child in names]), watch:
        outputs = run_forward(module, one)
    try:
        classes = logits(outputs).shape[1]
    except LucidcamError:
        classes = None
    spatial = [(kind, at, shape, point) for kind, at, shape, point in watch.events if len(shape) < 3 or prod(shape[2:]) > 1]
    last_linear = max((at for kind, at, _, _ in watch.events if kind == "linear"), default=-1)
    heads = [at for kind, at, shape, point in spatial if kind == "conv" and point and shape[1] == classes and at > last_linear]
    return Trace(
        calls=tuple(calls),
        last_conv=max((at for kind, at, _, _ in spatial if kind == "conv"), default=-1),
        last_attention=max((at for kind, at, _, _ in watch.events if kind == "attention"), default=-1),
        last_spatial_linear=max((at for kind, at, shape, _ in watch.events if kind == "linear" and len(shape) > 2), default=-1),
        head_conv=heads[-1] if heads else None,
    )


def layout_of(shape: tuple[int, ...], inputs: Inputs, grids: Sequence[tuple[int, ...]], module: nn.Module) -> Layout | None:
    """Find how an output of this shape holds a spatial map, or None.

    Args:
        shape: the output's shape.
        inputs: what the module was run on; gives B and the image's size.
        grids: spatial sizes of earlier layers, newest last: a ViT's patch embedding tells the grid of its tokens.
        module: the layer; a plain LayerNorm normalises its last axis, so that is the channels' axis.
    """
    size = inputs.size
    if len(shape) == len(size) + 2 and shape[0] == inputs.batch:
        first, last = shape[2:], shape[1:-1]
        normalises_last = type(module) is nn.LayerNorm and module.normalized_shape == shape[-1:]
        if _fits(last, size) and (normalises_last or not _fits(first, size)):
            return Layout("channels_last", last) if prod(last) > 1 else None
        inside = all(g <= s for g, s in zip(first, size, strict=True))
        return Layout("channels_first", first) if prod(first) > 1 and inside and not normalises_last else None
    if len(shape) == 3 and len(size) == 2 and shape[0] == inputs.batch:
        return _token_layout(shape[1], size, grids)
    return None


def _fits(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a grid could be a down-scaled image: all axes shrunk by one factor, give or take a pixel of padding at each end."""
    least = max(s / (g + 1) for s, g in zip(size, grid, strict=True))
    most = min(s / max(g - 1, 0.5) for s, g in zip(size, grid, strict=True))
    return least <= most and all(g <= s for s, g in zip(size, grid, strict=True))


def _token_layout(tokens: int, size: tuple[int, ...], grids: Sequence[tuple[int, ...]]) -> Layout | None:
    for grid in reversed(grids):
        if prod(grid) > 1 and 0 <= tokens - prod(grid) <= MOST_PREFIX_TOKENS:
            return Layout("tokens", grid, tokens - prod(grid))
    found: list[tuple[float, int, tuple[int, int]]] = []
    for prefix in range(min(MOST_PREFIX_TOKENS, tokens - 2) + 1):
        for h in range(1, tokens - prefix + 1):
            w, rest = divmod(tokens - prefix, h)
            if not rest:
                ratio = (h / w) / (size[0] / size[1])
                found.append((round(max(ratio, 1 / ratio), 6), prefix, (h, w)))
    if not found or min(found)[0] > 1.5:
        return None
    _, prefix, grid = min(found)
    return Layout("tokens", grid, prefix)


def grids_before(module: nn.Module, inputs: Inputs, layer: Layer) -> list[tuple[int, ...]]:
    """Spatial sizes of the layers that ran before `layer`, oldest first."""
    grids = [inputs.size]
    for call in trace(module, inputs).calls:
        if call.name == layer.name:
            break
        if call.layout is not None and call.layout.kind != "tokens":
            grids.append(call.layout.grid)
    return grids


ABOUT_SHAPES = (
    "channels",
    "shapes cannot be multiplied",
    "size mismatch",
    "same dtype",
    "should be the same",
    "positional argument",
    "D input (got",
    "Kernel size can't be greater",
    "Output size is too small",
    "image height",
    "image width",
    "Input height",
    "Input width",
    "doesn't match model",
)
"""What errors of torch, torchvision, timm and transformers say when an input has the wrong shape or type."""


def run_forward(module: nn.Module, inputs: Inputs) -> Any:
    """Call the module; where torch's message is about shapes, say what was put in.

    Raises:
        ModelError: when the module does not take inputs of this shape or type. Any other error of the module passes unchanged.
    """
    try:
        return module(*inputs.args, **inputs.kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        text = str(error).splitlines()[0].rstrip(".") if str(error) else ""
        if type(error) in (RuntimeError, TypeError, ValueError, AssertionError) and any(part in text for part in ABOUT_SHAPES):
            batch = "A single picture needs a batch axis: image[None]. " if inputs.image.ndim == 3 else ""
            raise ModelError(
                f"the model does not take an input of shape {list(inputs.image.shape)} and type {str(inputs.image.dtype)[6:]} on "
                f"{inputs.image.device}: {text}. {batch}Prepare inputs as in its training (channels, size, dtype, device)."
            ) from error
        if "use_reentrant=True" in text or "Inference tensors cannot be saved" in text:
            raise ModelError(f"no gradients can flow through this model: {text}.") from error
        raise


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a layer's output stands for: itself, or the first of a tuple or list (Hugging Face blocks)."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors among a module's outputs: a tensor, or the values of a sequence, mapping or object."""
    if isinstance(outputs, Tensor):
        values: Any = [outputs]
    elif isinstance(outputs, (tuple, list)):
        values = outputs
    elif isinstance(outputs, Mapping):
        values = outputs.values()
    else:
        values = getattr(outputs, "__dict__", {}).values()
    return [t for t in values if isinstance(t, Tensor) and t.is_floating_point()]


def replace_first(output: Any, tensor: Tensor) -> Any:
    """Put `tensor` where `first_tensor` found one."""
    if isinstance(output, Tensor):
        return tensor
    rest = output[1:]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(tensor, *rest)
    return type(output)((tensor, *rest))


_memory: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def remembered(module: nn.Module, inputs: Inputs, forget: bool = False) -> dict[Any, Any]:
    """What is remembered of a module, forgotten when one of its submodules is exchanged."""
    parts = tuple((name, id(child)) for name, child in module.named_modules())
    with _guard:
        cache = _memory.setdefault(module, {})
        if forget or cache.get("parts") != parts:
            cache.clear()
            cache["parts"] = parts
        if len(cache) > 32:  # inputs of ever new sizes
            for key in list(cache)[1:17]:
                del cache[key]
        return cache


def signature(inputs: Inputs) -> tuple[Any, ...]:
    """What of the inputs decides which layers run: shapes without the batch, and types."""
    values = [*inputs.args, *inputs.kwargs.values()]
    return tuple(tuple(v.shape[1:]) if isinstance(v, Tensor) else type(v).__name__ for v in values)
