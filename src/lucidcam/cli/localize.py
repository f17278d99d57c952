"""`lucidcam localize`: boxes and masks from image-level labels, in the formats that training tools read."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidcam.cli._datasets import open_words
from lucidcam.cli._loading import ModelOption, OptimizeOption, load_model
from lucidcam.cli._method_flags import method_flags
from lucidcam.cli._screen import err, out, report
from lucidcam.errors import OptionError
from lucidcam.options.groups import DataOptions, LabelFilesOptions, LocalizationOptions, ModelOptions, QueryOptions, SourceOptions
from lucidcam.utils.progress import bar

if TYPE_CHECKING:
    from lucidcam.outputs._labels import Exporter
    from lucidcam.samples import Problem

THRESHOLD = 0.2
FOLDER = Path("lucidcam-labels")


def localize(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="A folder, an annotation file, or images.")],
    *,
    model: ModelOption = "demo",
    query: QueryOptions,
    region: LocalizationOptions,
    files: LabelFilesOptions,
    source: DataOptions,
    optimize: OptimizeOption = False,
    loading: ModelOptions,
) -> None:
    """Turn image-level labels into boxes and masks, with scores.

    Each image's classes (its own labels, else the predicted one) are localised
    by a method's maps, and written as data sets for training.
    A score is the class's probability × the region's mean heat.

    Exit code 0: all right; 1: some images failed (the rest is written); 2: usage.
    """
    chosen, words = method_flags(context, [query.method], data)
    [(kind, options)] = chosen
    import lucidcam.localization as localization  # these bring torch
    from lucidcam.engine.layers import check as check_layer
    from lucidcam.stream.explainer import asked_of

    if region.threshold is not None and region.calibrate is not None:
        raise OptionError("--calibrate chooses the threshold; give one of --threshold and --calibrate.")
    dataset = open_words(words, source).first(source.limit)
    exporters = [_exporter(word, files.copy_images, files.overwrite) for word in files.written or ["coco"]]
    failures: list[str] = []

    def failed(problem: Problem) -> None:
        failures.append(problem.error)

    loaded = load_model(model, loading, optimize)
    for name in source.layer or []:
        check_layer(loaded.module, name)
    asked = asked_of(list(dict.fromkeys(query.target)) if query.target else None, dataset)
    shared: dict[str, Any] = {
        "method": kind,
        "target": asked,
        "layer": source.layer,
        "class_map": source.class_map,
        "regions": region.regions,
        "min_area": region.min_area,
        **options,
    }
    level = THRESHOLD if region.threshold is None else region.threshold
    if region.calibrate is not None:
        calibration = open_words([region.calibrate], SourceOptions(data_format=region.calibrate_format, data_root=source.data_root))
        err.print(f"calibrating on {calibration.count or 'the'} images of {calibration.name}", style="dim", markup=False)
        found = localization.calibrate(loaded, calibration, on_problem=lambda each: failures.append(f"calibrating: {each.error}"), **shared)
        level = found.threshold
        out.print(f"threshold {level:.2f}, chosen on {found.n} maps: {found.accuracy:.1%} with IoU ≥ 0.5, mean IoU {found.mean_iou:.3f}")
        if isfinite(found.low):
            span = f"95 % interval {found.low:.1%} to {found.high:.1%}"
            out.print(f"with the threshold that the other images choose: {found.held_out:.1%} ({span})")
    found_labels = localization.localize(
        loaded, dataset, threshold=level, refine=region.refine or "", masks=region.masks, on_problem=failed, **shared
    )
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
