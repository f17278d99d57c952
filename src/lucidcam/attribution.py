"""One pass over samples: from a module or model and images to raw maps or explanations."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from lucidcam.engine import copies
from lucidcam.engine.foreign import out_of_memory, says_nothing
from lucidcam.engine.inputs import Inputs, Key, all_finite, images_among
from lucidcam.engine.layers import LayerSpec
from lucidcam.engine.mixing import MixingError
from lucidcam.engine.optimize import optimize as optimized_copy
from lucidcam.engine.run import Run, open_run
from lucidcam.engine.session import session
from lucidcam.engine.trace import batch_of, tensors_of
from lucidcam.errors import (
    LucidcamError,
    MissingExtraError,
    ModelError,
    OptimizedCopyError,
    OptionError,
    TargetError,
    TargetNotFoundError,
    first_line,
)
from lucidcam.imaging.animation import over_time
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.explanation_list import Explanations
from lucidcam.imaging.provenance import Provenance, Weights, against_of, described, described_target, versions
from lucidcam.methods._base import Method
from lucidcam.methods._pixel import PixelMethod
from lucidcam.methods._wrap import augmented, fused, smoothed
from lucidcam.methods.settings import Settings, resolve_method
from lucidcam.targets import Classes, PredictedOrNone, Spoken, Target, as_target, by_word, local
from lucidcam.targets._as import target_of_row
from lucidcam.targets._base import Label
from lucidcam.types import Frame, Model, Prepared
from lucidcam.utils.class_scores import ClassScores
from lucidcam.utils.fingerprint import stands_for
from lucidcam.utils.progress import batches
from lucidcam.utils.rollback import closes_scopes, raised_by_handler

_room: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Images that went through a network together when the memory did not suffice for more."""

T = TypeVar("T")
R = TypeVar("R")

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
    with _opened(module, inputs, method, settings, target, method.layer_of(module, layer), settings.class_scores(), **said) as run:
        found = compute(run, method, settings)
        if isinstance(method, PixelMethod):
            found = method.reduced(found)
        return found[:, 0] if run.bound.squeeze else found


def together(
    items: Sequence[T],
    work: Callable[[Sequence[T]], list[R]],
    lost: Callable[[T, Exception], None],
    check: Callable[[T, Exception], None] | None = None,
) -> list[R]:
    """Work on items together; where that fails, one by one, so that only the bad ones are lost.

    Args:
        items: what to work on.
        work: from some of them to results.
        lost: told of each item that fails by itself, and why.
        check: asked about each such item first; it raises what would be wrong with any item.

    Raises:
        OptionError, TargetError, MissingExtraError: what is asked for is wrong, whatever the items.
        LucidcamError: what `check` raises.
    """
    if not items:
        return []
    try:
        return work(items)
    except OptimizedCopyError:  # the network as it is has taken its place
        return together(items, work, lost, check)
    except Exception as error:
        if is_general(error):
            raise
        if len(items) == 1:
            if check is not None:
                check(items[0], error)
            lost(items[0], error)
            return []
        return [found for item in items for found in together([item], work, lost, check)]


def is_general(error: Exception) -> bool:
    """Whether an error says that what is asked for is wrong, whatever the image: an option, a target, a library that is missing.

    So does one that a signal's handler raised, a timeout: it ends the work.
    """
    about_all = isinstance(error, (OptionError, TargetError, MissingExtraError)) and not isinstance(error, TargetNotFoundError)
    return about_all or raised_by_handler(error)


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
    return _one_channel(compute(run, method, settings), method)


def _one_channel(found: Tensor, method: Method) -> Tensor:
    if not isinstance(method, PixelMethod):
        return found
    return found.abs().amax(2) if method.reduce == "none" else method.reduced(found)


@closes_scopes
def explain(
    model: Model,
    images: Any,
    method: str | Method = "gradcam",
    target: Any = None,
    layer: LayerSpec | Sequence[LayerSpec] | None = None,
    **options: Any,
) -> Explanations:
    """Explain photos.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        images: a path, PIL image, NumPy array or `[C, H, W]` tensor, or a list of them (or of what `model.prepare` returned).
        method: a name of `lucidcam.methods()`, or a method object.
        target: as for `attribute`, and also label text ("tabby"). A list with one entry per image gives each its own; an entry that
            is a list gives several. For a single image a flat list means several targets.
        layer: as for `attribute`; None: the model's own, or the last spatial layer.
        options: as for `attribute`.

    Returns:
        One explanation per image and target, image by image: a list, which notebooks show as a grid.

    Raises:
        InputError: for an image that cannot be read.
        TargetError: for a label that the model does not know, with the nearest ones.
    """
    return explain_images(model, images, method, target, layer, **options)


@closes_scopes
def explain_images(
    model: Model, images: Any, method: str | Method, target: Any, layer: Any, *, with_provenance: bool = True, **options: Any
) -> Explanations:
    """See `explain`.

    Args:
        model: as for `explain`, like `images`, `method`, `target`, `layer` and `options`.
        images: see there.
        method: see there.
        target: see there.
        layer: see there.
        with_provenance: explanations know where they come from. Streams of many images leave it out: what they write says it once.
        options: see there.
    """
    if not isinstance(model, Model):
        how = (
            "lucidcam.wrap(module, preprocess=…), or tensors and lucidcam.attribute" if isinstance(model, nn.Module) else "lucidcam.load(…)"
        )
        raise ModelError(f"expected a lucidcam Model to explain images with; got {type(model).__name__}: use {how}.")
    chosen, settings = resolve_method(method, options)
    given = images if isinstance(images, (list, tuple)) and images and all(isinstance(each, Prepared) for each in images) else None
    prepared = model.prepare(images) if given is None else list(given)
    targets = _per_image(target, len(prepared), model)
    origins = _provenances(model, chosen, settings, targets) if with_provenance else [None] * len(prepared)
    found: list[list[Explanation]] = [[] for _ in prepared]
    layer = chosen.layer_of(model.module, layer, model.layer)
    waiting = deque(_batches(model, prepared, targets, settings.images_at_once))
    fixed = _fixed_batch(model, prepared)
    most = min(settings.images_at_once, _room.get(model.module, settings.images_at_once)) if fixed is None else fixed
    several = len(waiting) > 1 or len(prepared) > most
    with batches(len(prepared), several, chosen.name, settings.progress) as parts:
        settings, stated = replace(settings, progress=parts.shown), settings.class_scores(model.class_scores)
        while waiting:
            rows = waiting.popleft()
            if len(rows) > most:
                waiting.appendleft(rows[most:])
                rows = rows[:most]
            batch = [*rows, *rows[-1:] * ((fixed or 0) - len(rows))]
            inputs = _stacked([prepared[i].tensor for i in batch], model)
            asked = [targets[i] for i in batch] if isinstance(targets[rows[0]], list) else targets[rows[0]]
            try:
                asked = placed(asked, prepared[rows[0]].frame, (inputs.shape[-2], inputs.shape[-1]))
                if model.task is not None:
                    with session(model.module):  # it may write a caption, or read a text
                        inputs, asked = model.task.ask(inputs, asked, model)
                with (
                    parts.batch(len(rows)),
                    _opened(model.module, inputs, chosen, settings, asked, layer, stated) as run,
                ):
                    explained = list(_explanations(run, chosen, settings, model, [prepared[i] for i in batch], [origins[i] for i in batch]))
                    for i, explanations in zip(rows, explained, strict=False):
                        found[i] = explanations
            except OptimizedCopyError:  # the network as it is has taken its place
                waiting.appendleft(rows)
            except MixingError:
                waiting.appendleft(rows)
                most = 1
            except TargetNotFoundError as error:
                row = 0 if len(rows) == 1 else error.image
                if row is None or row >= len(rows):
                    raise
                raise TargetNotFoundError(f"{prepared[rows[row]].name}: {error}", rows[row]) from None
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not out_of_memory(error):
                    raise
                most = _room[model.module] = len(rows) // 2
                waiting.appendleft(rows)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    return Explanations(explanation for group in found for explanation in group)


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


def _opened(
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


def _provenances(model: Model, method: Method, settings: Settings, targets: Sequence[Any]) -> list[Provenance | None]:
    """Where the maps of each image will come from; images that are asked the same share one."""
    aside = ("images_at_once", "progress")  # they change no map
    general = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in aside}
    own = {each.name: getattr(method, each.name) for each in fields(method)}
    origin = Provenance(
        described({name: getattr(model, name) for name in ("name", "preprocess", "outputs", "threshold")}),
        Weights.of(model.module),
        described({**general, **own, **method.identity()}),
        None,
        versions(model.module),
    )
    asked: dict[int, Provenance] = {}
    for each in targets:
        if id(each) not in asked:
            asked[id(each)] = replace(origin, target=described_target(each))
    return [asked[id(each)] for each in targets]


def _explanations(
    run: Run, method: Method, settings: Settings, model: Model, prepared: Sequence[Prepared], origins: Sequence[Provenance | None]
) -> Iterator[list[Explanation]]:
    found = compute(run, method, settings)
    bound, scores = run.bound.on_host(), run.clean_scores().tolist()
    chosen = run.class_probabilities() if bound.ids is not None else None
    label: Label = model.label
    if bound.ids is not None:
        columns = run.class_columns().shape[1]
        model.check_labels(columns)
        if columns == 1 and model.labels is None and model.outputs != "none":
            label = _single_column_label
    ids = None if bound.ids is None else bound.ids.tolist()
    others = None if bound.against is None else bound.against.tolist()
    probabilities = None if chosen is None or bound.ids is None else chosen.gather(1, bound.ids.to(chosen.device)).tolist()
    at_layer = method.layered == "always" or (method.layered == "optional" and run.named_layers)
    layer = "+".join(each.name for each in run.layers) if at_layer else "input"
    # A batch leaves its device in one piece: copying every map by itself would make a GPU wait for each.
    maps = _one_channel(found, method).float().cpu()
    pixels = found.float().cpu() if isinstance(method, PixelMethod) else None
    errors = torch.stack(run.errors).amax(0).tolist() if run.errors else None
    _note_zeros(run, method, maps)
    for i, one in enumerate(prepared):
        explained = []
        for t in range(bound.count):
            origin, other = origins[i], against_of(others, i, t)
            if origin is not None and other is not None:
                origin = replace(origin, against=(other, label(other)))
            explained.append(
                Explanation(
                    raw=maps[i, t],
                    image=one.image,
                    frame=one.frame,
                    target=None if ids is None else ids[i][t],
                    label=bound.name(i, t, label),
                    score=scores[i][t] if bound.scored else math.nan,
                    probability=None if probabilities is None else probabilities[i][t],
                    method=method.name,
                    layer=layer,
                    name=one.name,
                    pixels=None if pixels is None else pixels[i, t],
                    ranged=method.ranged,
                    error=None if errors is None else errors[i][t],
                    note=run.noted(i, t),
                    provenance=origin,
                )
            )
        yield [over_time(each, one.film, one.times) for each in explained] if one.film else explained


def _single_column_label(class_id: int) -> str:
    """The two classes of a network with one output column and no labels, in words."""
    return "class 0" if class_id == 0 else "not class 0"


def _note_zeros(run: Run, method: Method, maps: Tensor) -> None:
    """Say of maps `[B, T, *grid]` whose pictures show nothing that this is so, and why."""
    if method.ranged:
        return
    peak, low = maps.flatten(2).amax(-1), maps.flatten(2).amin(-1)
    places: dict[str, Tensor] = {}
    for i, t in (peak <= 0).nonzero().tolist():
        kind = "zero everywhere" if float(low[i, t]) == 0 else "nowhere positive"
        reason = method.reason_for_zero(run.only(slice(t, t + 1)), i, 0)  # one target's: of many, its gradients alone
        places.setdefault(f"the map is {kind}: {reason}", torch.zeros_like(peak, dtype=torch.bool))[i, t] = True
    for text, where in places.items():
        run.note(text, where)


def _fixed_batch(model: Model, prepared: Sequence[Prepared]) -> int | None:
    """How many photos a program takes at a time that was exported for a fixed number; None: any number."""
    if model.task is not None or not prepared:
        return None
    return batch_of(model.module, Inputs((prepared[0].tensor[None],), {}, 0))


def _batches(model: Model, prepared: Sequence[Prepared], targets: Sequence[Any], most: int) -> Iterator[list[int]]:
    """Numbers of images that go through the model together: same size, same kind of target, same place where that names one."""
    groups: dict[Any, list[int]] = {}
    for i, (one, target) in enumerate(zip(prepared, targets, strict=True)):
        kind = _same(target) if isinstance(target, Target) else None if target is None else len(target)
        place = one.frame if local(target) else None
        alone = i if model.task is not None and model.task.alone(target) else None
        groups.setdefault((tuple(one.tensor.shape), kind, place, alone), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _same(target: Target) -> Any:
    """A key under which equal targets are equal."""
    try:
        hash(target)
    except TypeError:
        return id(target)
    return target


def _stacked(tensors: Sequence[Tensor], model: Model) -> Tensor:
    """Images `[B, C, h, w]` where the model is; to a GPU from pinned memory, so that nobody waits for the copy."""
    if model.device.type != "cuda":
        return torch.stack(list(tensors)).to(model.device, model.dtype)
    pinned = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(model.device, model.dtype, non_blocking=True)


def _per_image(target: Any, count: int, model: Model) -> list[Any]:
    """For each image its target: None (predicted), a list of class ids, or a target object."""
    if isinstance(target, Classes) and target.ids is not None:
        target = target.ids
    if isinstance(target, (Tensor, np.ndarray)):
        target = target.tolist()
    if isinstance(target, (list, tuple)):
        if count == 1 and not any(isinstance(each, (list, tuple)) for each in target):
            target = [list(target)]
        if len(target) != count:
            raise TargetError(
                f"expected one target per image, {count} in all; got {len(target)}. For several targets of each image nest lists."
            )
        return [_of_image(each, model) for each in target]
    return [_of_image(target, model)] * count


def _of_image(target: Any, model: Model) -> Any:
    if model.task is not None:
        return named(target, model)
    if isinstance(target, (list, tuple)):
        found = [named(each, model) for each in target]
        if not found or not all(isinstance(each, int) for each in found):
            raise TargetError(
                f"expected class ids or labels as several targets of one image; got {target!r}. Others together: lucidcam.Several([…])."
            )
        return found
    one = named(target, model)
    return one if one is None or isinstance(one, Target) else [one]


def named(target: Any, model: Model) -> Any:
    """Replace label text by class ids, also inside target objects.

    Raises:
        TargetError: for a label that the model does not know, with the nearest ones.
    """
    if model.task is not None:
        return model.task.target(target, model)
    if isinstance(target, str):
        found = by_word(target)
        return model.find_label(target) if found is None else found
    if isinstance(target, Spoken):
        raise TargetError(
            f"a {type(target).__name__} is asked of {target.needs}; {model.name} tells classes: give a label or class id as target."
        )
    if isinstance(target, Target):
        return target.over(lambda each: named(each, model)).labelled(model.find_label)
    if isinstance(target, (np.integer, Tensor)) and target.ndim == 0:
        return int(target)
    if isinstance(target, (list, tuple)):
        return [named(each, model) for each in target]
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    return as_target(target)


def placed(target: Any, frame: Frame, size: tuple[int, int]) -> Any:
    """Replace places in a photo by places in the network's input of `size` (H, W), also inside target objects."""
    return target.over(lambda each: placed(each, frame, size)).placed(frame, size) if isinstance(target, Target) else target
