"""`lucidcam localize`: boxes and masks from image-level labels, in the formats that training tools read."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lucidcam.cli._common import (
    DEFAULT_LOADING,
    ClassMapOption,
    DataFormatOption,
    DataRootOption,
    LayerOption,
    LimitOption,
    LoadOptions,
    ModelOption,
    OptimizeOption,
    SplitOption,
    err,
    load_model,
    method_flags,
    open_words,
    out,
    report,
)
from lucidcam.errors import OptionError
from lucidcam.utils.progress import bar

if TYPE_CHECKING:
    from lucidcam.outputs._labels import Exporter
    from lucidcam.samples import Problem

Keep = Literal["all", "largest"]
Refinement = Literal["grabcut"]
THRESHOLD = 0.2
FOLDER = Path("lucidcam-labels")


def localize(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, an annotation file, or images.")],
    model: ModelOption = "demo",
    method: Annotated[str, typer.Option(help="See [b]lucidcam methods[/b].")] = "gradcam",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A label, an id, top5, predicted, or label: the images' own. Repeatable. [dim]default: label, or predicted without[/dim]",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help=f"Regions are above this share of the map's maximum. [dim]default: {THRESHOLD}[/dim]")
    ] = None,
    calibrate: Annotated[str | None, typer.Option(help="Choose the threshold on this data set, which has boxes.")] = None,
    calibrate_format: Annotated[str | None, typer.Option(help="Its format. [dim]default: found out[/dim]")] = None,
    regions: Annotated[Keep, typer.Option(help="all: a box per connected region; largest: one per map.")] = "all",
    min_area: Annotated[float, typer.Option(help="Leave out smaller regions; a share of the image.")] = 0.0,
    refine: Annotated[Refinement | None, typer.Option(help="grabcut: masks and boxes follow the image's colours.")] = None,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Masks too, or boxes only.")] = True,
    written: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            help=f"coco, voc, yolo, masks, fiftyone; FORMAT:FOLDER says where (else {FOLDER}/FORMAT). Repeatable. [dim]default: coco[/dim]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels that are there already.")] = False,
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy the images beside the labels instead of linking them.")] = False,
    class_map: ClassMapOption = None,
    data_format: DataFormatOption = None,
    split: SplitOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    layer: LayerOption = None,
    optimize: OptimizeOption = False,
    loading: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Turn image-level labels into boxes and masks, with scores.

    Each image's classes (its own labels, else the predicted one) are localised
    by a method's maps, and written as data sets for training.
    A score is the class's probability × the region's mean heat.

    Exit code 0: all right; 1: some images failed (the rest is written); 2: usage.
    """
    chosen, words = method_flags(context, [method], data)
    [(kind, options)] = chosen
    import lucidcam.localization as localization  # these bring torch
    from lucidcam.engine.layers import check as check_layer
    from lucidcam.stream.explainer import asked_of

    if threshold is not None and calibrate is not None:
        raise OptionError("--calibrate chooses the threshold; give one of --threshold and --calibrate.")
    dataset = open_words(words, data_format, split, data_root).first(limit)
    exporters = [_exporter(word, copy_images, overwrite) for word in written or ["coco"]]
    failures: list[str] = []

    def failed(problem: Problem) -> None:
        failures.append(problem.error)

    loaded = load_model(model, loading, optimize)
    for name in layer or []:
        check_layer(loaded.module, name)
    asked = asked_of(list(dict.fromkeys(target)) if target else None, dataset)
    shared: dict[str, Any] = {
        "method": kind, "target": asked, "layer": layer, "class_map": class_map, "regions": regions, "min_area": min_area, **options
    }  # fmt: skip
    level = THRESHOLD if threshold is None else threshold
    if calibrate is not None:
        source = open_words([calibrate], calibrate_format, None, data_root)
        err.print(f"calibrating on {source.count or 'the'} images of {source.name}", style="dim", markup=False)
        found = localization.calibrate(loaded, source, on_problem=lambda each: failures.append(f"calibrating: {each.error}"), **shared)
        level = found.threshold
        out.print(f"threshold {level:.2f}, chosen on {found.n} maps: {found.accuracy:.1%} with IoU ≥ 0.5, mean IoU {found.mean_iou:.3f}")
        if isfinite(found.low):
            span = f"95 % interval {found.low:.1%} to {found.high:.1%}"
            out.print(f"with the threshold that the other images choose: {found.held_out:.1%} ({span})")
    found_labels = localization.localize(loaded, dataset, threshold=level, refine=refine or "", masks=masks, on_problem=failed, **shared)
    first = list(islice(found_labels, 1))  # where nothing can be used, nothing is written
    images = boxes = 0
    with ExitStack() as stack, bar(dataset.count, "localizing") as advance:
        for exporter in exporters:
            stack.enter_context(exporter)
        for labels in chain(first, found_labels):
            for exporter in exporters:
                exporter.write(labels)
            images, boxes = images + 1, boxes + len(labels.objects)
            advance(1)
    out.print(f"{images} images, {boxes} boxes")
    for exporter in exporters:
        out.print(f"{exporter.name}: {exporter.folder}", soft_wrap=True, markup=False)
    report(failures)


def _exporter(word: str, copy_images: bool, overwrite: bool) -> Exporter:
    """From FORMAT or FORMAT:FOLDER to a writer."""
    from lucidcam import registry

    name, _, folder = word.partition(":")
    kind = registry.exporters[name]
    found: Exporter = kind(Path(folder) if folder else FOLDER / name, copy_images=copy_images, overwrite=overwrite)
    return found
