"""From a module and its inputs to raw maps, and faster copies of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from lucidcam.engine import copies
from lucidcam.engine.foreign import says_nothing
from lucidcam.engine.inputs import Key, all_finite, images_among
from lucidcam.engine.layers import LayerSpec
from lucidcam.engine.mixing import MixingError
from lucidcam.engine.optimize import optimize as optimized_copy
from lucidcam.engine.run import Run, open_run
from lucidcam.engine.trace import tensors_of
from lucidcam.errors import (
    LucidcamError,
    ModelError,
    OptimizedCopyError,
    OptionError,
    first_line,
)
from lucidcam.methods._base import Method
from lucidcam.methods._pixel import PixelMethod
from lucidcam.methods._wrap import augmented, fused, smoothed
from lucidcam.methods.settings import Settings, resolve_method
from lucidcam.targets import PredictedOrNone
from lucidcam.targets._as import target_of_row
from lucidcam.types import Model
from lucidcam.utils.class_scores import ClassScores
from lucidcam.utils.fingerprint import stands_for
from lucidcam.utils.rollback import closes_scopes

GRADIENT_BYTES = 2**28
"""Gradients of many targets are made and reduced a part at a time, each of at most this size."""


@overload
def attribute(
    module: nn.Module,
    inputs: Any,
    method: str | Method = "gradcam",
    *,
    target: Any = None,
    layer: LayerSpec | Sequence[LayerSpec] | None = None,
    explain_input: Key | None = None,
    axes: str | None = None,
    shared: Key | Sequence[Key] | None = None,
    **options: Any,
) -> Tensor: ...


@overload
def attribute(
    module: nn.Module,
    inputs: Any,
    method: str | Method = "gradcam",
    *,
    target: Any = None,
    layer: LayerSpec | Sequence[LayerSpec] | None = None,
    explain_input: list[Key] | tuple[Key, ...],
    axes: str | None = None,
    shared: Key | Sequence[Key] | None = None,
    **options: Any,
) -> list[Tensor]: ...


def attribute(
    module: nn.Module,
    inputs: Any,
    method: str | Method = "gradcam",
    *,
    target: Any = None,
    layer: LayerSpec | Sequence[LayerSpec] | None = None,
    explain_input: Key | Sequence[Key] | None = None,
    axes: str | None = None,
    shared: Key | Sequence[Key] | None = None,
    **options: Any,
) -> Tensor | list[Tensor]:
    """Return raw maps of pre-processed inputs.

    The module comes back exactly as it was: training flags, `requires_grad`, `.grad`, hooks and parameters, also after an exception
    and when several threads share it.

    Args:
        module: any torch module that returns class scores, or anything else together with a callable target.
        inputs: `[B, C, H, W]`, already pre-processed; or a tuple of arguments, or a dict of keyword arguments, with the image among them.
        method: a name of `lucidcam.methods()`, or a method object.
        target: None: each image's predicted class; an int: one class for all; `[B]`: one class per image; `[B, T]`: T per image, in one
            pass; "all": every class; "top5"; a target object (`lucidcam.Contrast`, `Probability`, …); or a callable from the module's
            outputs to one score per image.
        layer: None: the last spatial layer; a dotted name ("layer4", "relu#0" for its first call); a module; or a list, which are fused.
        explain_input: which of several images is explained: its position among the arguments, or its name; None: the first one. A list
            gives a list of maps, one for each; "all" is the list of all images. Masks go over this image alone, and the layer must depend
            on it.
        axes: what the axes of that image are, one letter for each: B the batch, C the channels, any other letter space or time ("BTCHW",
            "BHWC", "BLC"); None: as the first layer with weights reads them.
        shared: positions or names of the inputs that are common to all images (the texts of CLIP); `()`: none; None: those that behave so.
        options: the method's own fields, and those of `Settings` (`batch_size`, `seed`, `smooth`, `augment`, `fusion`, …).

    Returns:
        `[B, h, w]`, or `[B, T, h, w]` for several targets: at the layer's resolution for CAM methods, at the input's for pixel methods.
        Neither normalised nor resized; on the inputs' device. Signals have `[B, l]`, clips and volumes `[B, t, h, w]`; the channels of the
        input are never an axis of the map.

    Raises:
        LucidcamError: one line that says what was expected, what came, and what to do. Errors of the module itself pass unchanged.

    Example:
        >>> import torch, lucidcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten(), torch.nn.Linear(8, 10))
        >>> lucidcam.attribute(net, torch.rand(2, 3, 32, 32), "gradcam").shape
        torch.Size([2, 30, 30])
        >>> lucidcam.attribute(net, torch.rand(2, 3, 32, 32), "cam", target="all").shape
        torch.Size([2, 10, 30, 30])
    """
    if isinstance(explain_input, (list, tuple)) or explain_input == "all":
        keys = images_among(inputs) if isinstance(explain_input, str) else explain_input
        common: dict[str, Any] = {"target": target, "layer": layer, "axes": axes, "shared": shared, **options}
        return [attribute(module, inputs, method, explain_input=key, **common) for key in keys]
    chosen, settings = resolve_method(method, options)
    said = {"explain_input": explain_input, "axes": axes, "shared": shared}
    try:
        return _attribute(module, inputs, chosen, settings, target, layer, said)
    except OptimizedCopyError:  # the network as it is has taken its place
        return _attribute(module, inputs, chosen, settings, target, layer, said)


@closes_scopes
def _attribute(module: nn.Module, inputs: Any, method: Method, settings: Settings, target: Any, layer: Any, said: dict[str, Any]) -> Tensor:
    try:
        return _together(module, inputs, method, settings, target, layer, said)
    except MixingError as error:
        images = error.inputs
    count = images.batch
    parts = [
        _together(module, images.rows(slice(i, i + 1)), method, settings, target_of_row(target, i, count), layer, said)
        for i in range(count)
    ]
    return torch.cat(parts)


@closes_scopes
def _together(module: nn.Module, inputs: Any, method: Method, settings: Settings, target: Any, layer: Any, said: dict[str, Any]) -> Tensor:
    with run_with_settings(
        module, inputs, method, settings, target, method.layer_of(module, layer), settings.class_scores(), **said
    ) as run:
        found = compute(run, method, settings)
        if isinstance(method, PixelMethod):
            found = method.reduced(found)
        return found[:, 0] if run.bound.squeeze else found


@contextmanager
def on_any_image(model: Model) -> Iterator[None]:
    """What fails here fails on every image: an error that is not ours is told in one line.

    Raises:
        ModelError: with the model's own error.
    """
    try:
        yield
    except LucidcamError:
        raise
    except Exception as error:
        raise ModelError(f"{model.name} fails on every image: {type(error).__name__}: {first_line(error)}") from error


def spatial_maps(run: Run, method: Method, settings: Settings) -> Tensor:
    """Raw maps `[B, T, *grid]`: one number per place, also of a pixel method that is asked to keep its colours apart."""
    return one_channel(compute(run, method, settings), method)


def one_channel(maps: Tensor, method: Method) -> Tensor:
    """Maps `[B, T, *grid]` as they are; signed pixels `[B, T, C, H, W]` of a pixel method as `[B, T, H, W]`."""
    if not isinstance(method, PixelMethod):
        return maps
    return maps.abs().amax(2) if method.reduce == "none" else method.reduced(maps)


@overload
def optimize(model: Model, inputs: Any = None, dtype: torch.dtype | None = None) -> Model: ...


@overload
def optimize(model: nn.Module, inputs: Any, dtype: torch.dtype | None = None) -> nn.Module: ...


def optimize(model: Model | nn.Module, inputs: Any = None, dtype: torch.dtype | None = None) -> Model | nn.Module:
    """Return a faster private copy that gives the same outputs; what is passed stays as it is.

    Args:
        model: a model, or a module.
        inputs: for a module, an example of what it takes; the copy is checked on it. A model makes its own.
        dtype: run in `torch.bfloat16` or `torch.float16` by autocast; None keeps the precision.

    Returns:
        A model for a model, a module for a module, with the same layer names. See `lucidcam.engine.optimize` for what is done.

    Raises:
        OptionError: for another dtype, or a module without inputs.
        ModelError: when the model cannot be copied, or the copy does not run, or its outputs differ from the original's.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
        >>> fast = optimize(net, torch.rand(1, 3, 8, 8))
        >>> type(fast[1]).__name__, type(net[1]).__name__
        ('Identity', 'BatchNorm2d')
    """
    if isinstance(model, Model):
        return replace(model, module=_copied(model.module, _examples(model) if inputs is None else [inputs], dtype))
    if inputs is None:
        raise OptionError("a module's copy is checked on an example of what it takes: optimize(module, inputs).")
    return _copied(model, [inputs], dtype)


def optimized_if_possible(model: Model, dtype: torch.dtype | None = None) -> tuple[Model, str | None]:
    """Return a faster copy of a model that gives the same outputs, or the model as it is where no such copy can be made or run.

    Args:
        model: the model.
        dtype: as for `optimize`.

    Returns:
        The model to work with, and why it is the one that was passed, in a sentence; None: it is a copy.

    Raises:
        OptionError: for another dtype.
        torch.OutOfMemoryError: when there is no room for a copy.
    """
    try:
        return optimize(model, dtype=dtype), None
    except OptionError:
        raise
    except Exception as error:
        if says_nothing(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return model, f"on the network as it is, not on an optimised copy: {reason}"


def given_up(model: Model) -> str | None:
    """Why the network as it is took an optimised copy's place while it was worked with, in a sentence; None: it did not."""
    failure = copies.failure(model.module)
    return None if failure is None else f"in part on the network as it is, because the optimised copy failed: {failure}"


def _examples(model: Model) -> list[Any]:
    """What the module takes for a noisy photo, and for one of another shape where that gives an input of another size."""
    noise = [
        torch.rand(*size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").numpy()
        for size in ((256, 320), (320, 192))
    ]
    with on_any_image(model):
        tensors = [model.prepare(photo)[0].tensor[None].to(model.device, model.dtype) for photo in noise]
    tensors = tensors[:1] if tensors[0].shape == tensors[1].shape else tensors
    return [tensor if model.task is None else model.task.example(tensor, model) for tensor in tensors]


def _copied(module: nn.Module, examples: Sequence[Any], dtype: torch.dtype | None) -> nn.Module:
    copy = optimized_copy(module, examples[0], dtype, examples[1:])
    stands_for(copy, module)
    return copy


def compute(run: Run, method: Method, settings: Settings) -> Tensor:
    """Raw maps `[B, T, *grid]`, or signed pixels `[B, T, C, H, W]` of a pixel method, with all wrappers applied."""
    maps: Callable[[Run], Tensor] = method.pixels if isinstance(method, PixelMethod) else method.maps
    if run.named_layers > 1 and method.layered != "never":
        maps = fused(maps, settings.fusion)
    if settings.augment:
        maps = augmented(maps, settings.augment)
    if settings.smooth:
        maps = smoothed(maps, settings.smooth, settings.smooth_noise)
    parts = list(_parts(run, method))
    found = torch.cat([maps(run.only(parts[i])) for i in run.stream.steps(len(parts))], dim=1)
    if not all_finite(found):
        raise ModelError(
            f"{method.name} gave NaN or infinite values: the network's gradients or activations overflow; try float32 or another layer."
        )
    return found


def run_with_settings(
    module: nn.Module, inputs: Any, method: Method, settings: Settings, target: Any, layer: Any, stated: ClassScores, **said: Any
) -> AbstractContextManager[Run]:
    """A run with these settings; `said` is what is known of the inputs, as for `open_run`."""
    if target is None and not method.needs_target:
        target = PredictedOrNone()
    return open_run(
        module,
        inputs,
        target,
        layer,
        batch_size=settings.batch_size,
        seed=settings.seed,
        progress=settings.progress,
        title=method.name,
        stated=stated,
        **said,
    )


def _parts(run: Run, method: Method) -> Iterator[slice]:
    """Targets whose gradients fit the memory together; forward passes are shared by all parts."""
    if method.kind not in ("gradient", "pixel") or (method.kind == "gradient" and method.layered == "never"):
        yield slice(None)
        return
    if method.kind == "gradient":  # all targets of a part at once: each has gradients at the outputs, too, and a row of a square of seeds
        numbers = max(run.graph_size(), sum(tensor.numel() for tensor in tensors_of(run.outputs())))
    else:
        numbers = run.image.numel()
    count = run.count
    size = max(1, min(GRADIENT_BYTES // max(1, 4 * numbers), math.isqrt(GRADIENT_BYTES // 4)))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
