"""`lucidcam layers`: what a model has inside, in execution order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lucidcam.cli._loading import ModelOption
from lucidcam.options.groups import ModelOptions
from lucidcam.utils.rollback import closes_scopes

if TYPE_CHECKING:
    from torch import Tensor

    from lucidcam import Model


def layers(
    *,
    model: ModelOption = "demo",
    loading: ModelOptions,
    every: Annotated[bool, typer.Option("--all", help="Also layers without a spatial map, dropout and identities.")] = False,
) -> None:
    """List a model's layers in execution order, with the map each one holds; and what its outputs mean."""
    from PIL import Image

    import lucidcam
    from lucidcam.cli._loading import load_model
    from lucidcam.cli._screen import out, table
    from lucidcam.engine.inputs import Inputs
    from lucidcam.engine.layers import resolve
    from lucidcam.tasks import Detections, Segments

    loaded = load_model(model, loading)
    grey = loaded.prepare(Image.new("RGB", (256, 256), (128, 128, 128)))[0].tensor
    images = grey[None].to(loaded.device, loaded.dtype)
    inputs = images if loaded.task is None else loaded.task.example(images, loaded)
    found = lucidcam.layers(loaded.module, inputs)
    best = next((name for name, info in found.items() if info.default), None)
    if loaded.task is not None or loaded.layer is not None:
        everywhere = isinstance(loaded.task, (Detections, Segments))
        best = resolve(loaded.module, loaded.layer or ".*", Inputs.of(inputs), everywhere).name
    listing = table("layer", "type", "output", "map")
    for name, info in found.items():
        if not every and (info.grid is None or info.passive):
            continue
        shape = "×".join(map(str, info.shape[1:])) if info.shape else ""
        grid = "×".join(map(str, info.grid)) if info.grid else ""
        listing.add_row(f"[b]{name}[/b] ← default" if name == best else name, info.type, shape, grid)
    if loaded.task is None:
        out.print(f"{loaded.name}: {_outputs(loaded, images)}\n", markup=False)
    out.print(listing)


@closes_scopes
def _outputs(model: Model, images: Tensor) -> str:
    """What the outputs mean, as stated or found on one image, and how many classes they are of."""
    from lucidcam.engine.run import open_run
    from lucidcam.errors import LucidcamError

    try:
        with open_run(model.module, images, stated=model.class_scores) as run:
            scores, columns = run.class_scores(), run.class_columns().shape[1]
    except LucidcamError:
        return "outputs that are no scores of classes"
    if scores.kind == "none":
        return f"{columns} outputs that are no scores of classes"
    count = scores.count(columns)
    single = f", by a single output above {scores.threshold:g}" if count != columns else ""
    return f"{count} classes, outputs: {scores.kind}{single} ({'stated' if model.outputs is not None else 'found by value'})"
