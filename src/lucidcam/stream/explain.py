"""From photos to explanations: prepared, in batches of one shape, with what is known of each map beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.attribution import compute, one_channel, run_with_settings
from lucidcam.engine.layers import LayerSpec
from lucidcam.engine.mixing import MixingError
from lucidcam.engine.run import Run
from lucidcam.engine.session import session
from lucidcam.errors import ModelError, OptimizedCopyError, TargetNotFoundError
from lucidcam.imaging.animation import over_time
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.explanation_list import Explanations
from lucidcam.imaging.provenance import Provenance, Weights, against_of, described, described_target, versions
from lucidcam.methods._base import Method
from lucidcam.methods._pixel import PixelMethod
from lucidcam.methods.settings import Settings, resolve_method
from lucidcam.stream.batches import BatchQueue, fixed_batch_size, group_by_shape, stack_images
from lucidcam.targets._base import Label
from lucidcam.targets.resolve import place_target, targets_per_image
from lucidcam.types import Model, Prepared
from lucidcam.utils.progress import batches
from lucidcam.utils.rollback import closes_scopes


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
    is_prepared = isinstance(images, (list, tuple)) and len(images) > 0 and all(isinstance(image, Prepared) for image in images)
    prepared = list(images) if is_prepared else model.prepare(images)
    targets = targets_per_image(target, len(prepared), model)
    origins = _provenances(model, chosen, settings, targets) if with_provenance else [None] * len(prepared)
    explanations: list[list[Explanation]] = [[] for _ in prepared]
    layer = chosen.layer_of(model.module, layer, model.layer)
    groups = group_by_shape(model, prepared, targets)
    fixed = fixed_batch_size(model, prepared)
    queue = BatchQueue(model.module, groups, settings.images_at_once, fixed)
    several = len(queue) > 1 or len(prepared) > queue.limit
    with batches(len(prepared), several, chosen.name, settings.progress) as parts:
        settings, stated = replace(settings, progress=parts.shown), settings.class_scores(model.class_scores)
        for rows in queue:
            padded = [*rows, *rows[-1:] * ((fixed or 0) - len(rows))]
            inputs = stack_images([prepared[i].tensor for i in padded], model)
            question = [targets[i] for i in padded] if isinstance(targets[rows[0]], list) else targets[rows[0]]
            try:
                question = place_target(question, prepared[rows[0]].frame, (inputs.shape[-2], inputs.shape[-1]))
                if model.task is not None:
                    with session(model.module):  # it may write a caption, or read a text
                        inputs, question = model.task.ask(inputs, question, model)
                with (
                    parts.batch(len(rows)),
                    run_with_settings(model.module, inputs, chosen, settings, question, layer, stated) as run,
                ):
                    batch = _explanations(run, chosen, settings, model, [prepared[i] for i in padded], [origins[i] for i in padded])
                    for i, of_image in zip(rows, list(batch), strict=False):
                        explanations[i] = of_image
            except TargetNotFoundError as error:
                row = 0 if len(rows) == 1 else error.image
                if row is None or row >= len(rows):
                    raise
                raise TargetNotFoundError(f"{prepared[rows[row]].name}: {error}", rows[row]) from None
            except (OptimizedCopyError, MixingError, RuntimeError, MemoryError) as error:
                if not queue.retry(rows, error):
                    raise
    return Explanations(explanation for of_image in explanations for explanation in of_image)


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
    maps = one_channel(found, method).float().cpu()
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
