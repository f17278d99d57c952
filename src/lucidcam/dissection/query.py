"""One photo and one target, opened for questions about channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lucidcam.engine.run import Run, open_run
from lucidcam.engine.session import session
from lucidcam.errors import InputError, ModelError, OptionError, TargetError
from lucidcam.targets.resolve import place_target, resolve_target
from lucidcam.types import Model, Prepared


@contextmanager
def asked(
    model: Model,
    image: Any,
    target: Any = None,
    layer: Any = None,
    *,
    batch_size: int | None = None,
    progress: bool | None = None,
    title: str = "channels",
) -> Iterator[tuple[Run, Prepared]]:
    """Open a run on one photo with one target at one layer, as `lucidcam.explain` would.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        image: a photo as for `lucidcam.explain`, or what `model.prepare` returned for it.
        target: one class, by id or label, or a target object; None: the predicted class.
        layer: a dotted name or module; None: the model's own, or the last spatial layer.
        batch_size: masked images at a time; None: what fits well.
        progress: a bar for what takes longer than two seconds; None: in a terminal or notebook.
        title: what it says.

    Raises:
        ModelError: `model` is none, or has not one label per class.
        InputError: not exactly one photo.
        OptionError: several layers.
        TargetError: several targets.
    """
    check_model(model)
    if isinstance(layer, (list, tuple)):
        if len(layer) != 1:
            raise OptionError(f"channels belong to one layer; got {len(layer)} layers.")
        [layer] = layer
    prepared = [image] if isinstance(image, Prepared) else model.prepare(image)
    if len(prepared) != 1 or prepared[0].film:
        raise InputError(f"expected one photo; got {'a clip' if len(prepared) == 1 else f'{len(prepared)} images'}.")
    [one] = prepared
    inputs: Any = one.tensor[None].to(model.device, model.dtype)
    if isinstance(target, (list, tuple)) and len(target) == 1:
        [target] = target
    wanted = place_target(resolve_target(target, model), one.frame, (inputs.shape[-2], inputs.shape[-1]))
    if model.task is not None:
        with session(model.module):
            inputs, wanted = model.task.ask(inputs, wanted, model)
    at = layer if layer is not None else model.layer
    with open_run(
        model.module, inputs, wanted, at, batch_size=batch_size, progress=progress, title=title, stated=model.class_scores
    ) as run:
        if run.count != 1:
            raise TargetError(f"expected one target; {target!r} asks for {run.count}.")
        if run.bound.ids is not None:
            model.check_labels(run.class_columns().shape[1])
        yield run, one


def check_model(model: Any) -> None:
    """Refuse what is no model.

    Raises:
        ModelError: with how to make one.
    """
    if not isinstance(model, Model):
        how = "lucidcam.wrap(module, preprocess=…)" if isinstance(model, nn.Module) else "lucidcam.load(…)"
        raise ModelError(f"expected a lucidcam Model; got {type(model).__name__}: use {how}.")
