"""A whole data set through a network, in units that are done once, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal

import torch

from lucidcam import registry
from lucidcam.data import Dataset, open_data
from lucidcam.data.class_map import Given
from lucidcam.engine.layers import check as check_layer
from lucidcam.errors import DataError, OptionError, unknown
from lucidcam.evaluation.entries import judges
from lucidcam.evaluation.preflight import Ahead
from lucidcam.imaging.provenance import versions
from lucidcam.io.storage import SETTINGS, Folder, Store, check_writable, claimed, clear, open_store, workplace
from lucidcam.localization.regions import Keep, Refine, Regions
from lucidcam.methods._base import Method
from lucidcam.methods.settings import IMAGES_AT_ONCE, Settings, resolve_method
from lucidcam.outputs._labels import remove_owned
from lucidcam.pipeline import ledger
from lucidcam.pipeline.crew import crew
from lucidcam.pipeline.exported import check_labels, export
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.ledger import Record
from lucidcam.pipeline.memory_budget import bytes_of, fitted, usable_cores
from lucidcam.pipeline.metrics import measure, report
from lucidcam.pipeline.plan import Unit, units
from lucidcam.pipeline.results import Results
from lucidcam.pipeline.worker import Tell
from lucidcam.stream.explainer import PREDICTED, asked_of
from lucidcam.types import Model
from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.fingerprint import architecture, code_of, steadied, steady
from lucidcam.utils.flags import takes
from lucidcam.utils.progress import bar, say

UNIT = 512
"""Samples per unit: what a kill costs at most, per worker."""

UNITS_EACH = 4
"""Units that each worker should get of a small data set, so that none waits long for the last one."""


@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """How maps become boxes and masks.

    Attributes:
        threshold: of boxes and masks, a share of the map's maximum.
        regions: of boxes and masks: "all", or the "largest" of each map.
        min_area: of boxes and masks: smaller regions are left out; a share of the image.
        refine: "grabcut": masks follow the image's colours.
    """

    threshold: float = 0.2
    regions: Keep = "all"
    min_area: float = 0.0
    refine: Refine = ""


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How the work is divided, and what an earlier run left.

    Attributes:
        workers: processes that explain, each with the network; None: one per GPU, or per processor; with Ray, of the cluster. More than
            one, and `decoders`, start Python anew: a script that calls this needs `if __name__ == "__main__":`.
        decoders: processes per worker that read images and finish maps; None: as many as there are processors for a GPU, else 0: the worker
            does it.
        images_at_once: images that go through the network together; None: what fits the memory, at most 8 on a CPU, 256 on a GPU.
        max_memory: "8G": what all workers may take together, or each GPU; fewer images at once and fewer workers are taken to keep to it.
        unit: samples per unit: what a kill costs at most, per worker; one file of each kind holds as many. None: 512, or fewer where every
            worker should get some.
        optimized: run a folded, channels-last copy that gives the same scores (see `lucidcam.optimize`).
        autocast: `torch.bfloat16` or `torch.float16`: the optimised copy computes in it.
        cache: a folder, or URL, where prepared images and the layer's activations are kept for other runs over the same data.
        engine: "local", or "ray": on a Ray cluster.
        address: of the Ray cluster; None: the one this machine belongs to, or a new one on this machine.
        retry_failed: do units again in which something failed: files that could not be reached may be there now, or be mended.
        restart: begin anew in a folder that holds another run.
    """

    workers: int | None = 1
    decoders: int | None = None
    images_at_once: int | None = None
    max_memory: str | int | None = None
    unit: int | None = None
    optimized: bool = True
    autocast: torch.dtype | None = None
    cache: str | os.PathLike[str] | None = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    retry_failed: bool = False
    restart: bool = False


@takes(boxes=BoxOptions, execution=ExecutionOptions)
def run(
    model: Model,
    data: Any,
    out: str | os.PathLike[str],
    *,
    method: str | Method = "gradcam",
    target: Any = None,
    layer: Any = None,
    class_map: Given = None,
    write: str | Iterable[str] = ("npz",),
    metrics: Any = (),
    boxes: BoxOptions,
    execution: ExecutionOptions,
    progress: bool | None = None,
    **options: Any,
) -> Results:
    """Explain a data set of any size: images in, an index and maps out.

    Samples stream. They are done in units, each of which is written whole: its maps, its rows of the index and, last, a record that it is
    done. A run that was killed, at whatever moment, is called again with the same arguments, does what is missing, and ends with the
    same files, to the byte; what is damaged since it was written is done again, and told. An image that cannot be used is listed in
    `failures.jsonl` and does not stop it.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        data: a folder, tar shards, an annotation file, a URL, a list of images, …, as for `lucidcam.data.open_data`.
        out: the folder to write to, or a URL that fsspec knows ("s3://bucket/folder"). `docs/run.md` tells what is in it.
        method: as for `lucidcam.explain`, like `layer` and `options`.
        target: None: the images' own labels where the data has any, else the predicted class; "label", "predicted", "top5", a class label
            or id, or a list of them.
        layer: as for `lucidcam.explain`.
        class_map: from the data's names of classes to the model's labels or ids, where they differ.
        write: what to keep beside the index: "npz", "zarr" (raw maps), "png" (overlays), "coco", "voc", "yolo", "masks" (boxes and masks).
        metrics: what the maps are judged by, as for `lucidcam.evaluate` (names, objects or (name, options) pairs): the records of all
            units are summed at the end, and the report is in `results.json`. Not those that compare images or methods, or take masks.
        boxes: keywords, the fields of `BoxOptions`.
        execution: keywords, the fields of `ExecutionOptions`.
        progress: a bar with images per second and the time left; None: in a terminal or notebook.
        options: as for `lucidcam.explain`.

    Returns:
        The index, the maps and the failures, read when they are asked for.

    Raises:
        OptionError: for a folder that holds a run with other settings; for an unknown method, format or option.
        DataError: for a data set that cannot be read, that changed since the run was begun, or where nothing can be written.

    Example:
        >>> import lucidcam, numpy as np, tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1))  # class = colour
        >>> def to_tensor(image):
        ...     return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        >>> model = lucidcam.wrap(net, to_tensor, ["red", "green", "blue"], layer="0")
        >>> image = np.zeros((8, 8, 3), np.uint8)
        >>> image[2:5, 1:7, 0] = 255
        >>> results = lucidcam.run(model, [image], tempfile.mkdtemp())
        >>> [(row["label"], row["box"]) for row in results.rows()]
        [('red', [1, 2, 7, 5])]
    """
    check_writable(_absolute(out), SETTINGS)
    dataset, store = open_data(data), open_store(_absolute(out))
    if str(store).startswith("memory://") and (execution.engine == "ray" or execution.workers != 1):
        raise OptionError(f"{store} is the memory of one process: write elsewhere, or with one worker.")
    formats = _formats(write, store, dataset)
    chosen, settings = resolve_method(method, {name: value for name, value in options.items() if name != "images_at_once"})
    if execution.unit is not None and execution.unit < 1:
        raise OptionError(f"expected unit ≥ 1; got {execution.unit}.")
    if execution.engine not in ("local", "ray"):
        raise OptionError(unknown("engine", execution.engine, ("local", "ray")))
    if execution.autocast is not None and not execution.optimized:
        raise OptionError(
            "autocast is for the optimised copy; give a model in that precision (lucidcam.load(…, dtype=…)), or optimized=True."
        )
    exporters = [name for name in formats if name in registry.exporters]
    job = Job(
        out=str(store),
        model=model,
        method=chosen,
        target=asked_of(target, dataset),
        layer=chosen.layer_of(model.module, layer, model.layer) if chosen.layered != "never" else layer,
        class_map=class_map,
        options={**_asked(settings), "progress": False},
        packs=tuple(name for name in formats if name in registry.packs),
        metrics=tuple(each.metric for each in judges(metrics)),
        labels=bool(exporters),
        regions=Regions(threshold=boxes.threshold, keep=boxes.regions, min_area=boxes.min_area, refine=boxes.refine),
        images_at_once=IMAGES_AT_ONCE,
        optimized=execution.optimized,
        autocast=execution.autocast,
        decoders=execution.decoders if execution.decoders is not None else usable_cores() if model.device.type == "cuda" else 0,
        cache=None if execution.cache is None else _absolute(execution.cache),
    )
    asking = job.explainer().asking()  # what is wrong with the question is told before anything is written
    for each in job.layer if isinstance(job.layer, (list, tuple)) else [] if job.layer is None else [job.layer]:
        check_layer(model.module, each)
    judging = None
    if job.metrics:
        judging = measure(job, model, asking)
        Ahead.of(dataset, asking.classes).check(list(judging.judges), judging.target, asking.classes, dataset)
    unit = execution.unit
    old = None if execution.restart else claimed(store)
    together, crew_size = fitted(
        job, execution.images_at_once, execution.workers, None if execution.max_memory is None else bytes_of(execution.max_memory)
    )
    if old is not None:  # whatever fitted then: the same batches give the same bytes
        together = execution.images_at_once or old.get("images_at_once", together)
        unit = unit or old.get("unit")
    job = replace(job, images_at_once=together, options={**job.options, "images_at_once": together})
    size = unit or _unit(dataset.count, crew_size, together)
    told = _told(job, formats, dataset, size)
    if isinstance(store, Folder):
        check_labels(store, exporters, execution.restart)
    with workplace(store, told, "a run", ledger.is_written, execution.restart):
        if execution.restart and isinstance(store, Folder):
            for name in registry.exporters:
                remove_owned(store.root / name)
        inspection = ledger.Inspection(store, execution.retry_failed)
        _do(
            job,
            dataset,
            store,
            told,
            size,
            _engine(execution.engine, execution.address, execution.workers, crew_size),
            inspection,
            progress,
        )
        for name in exporters:
            assert isinstance(store, Folder)
            export(name, store)
        for note in inspection.notes():
            say(note, progress)
        return Results(store, None if judging is None else report(store, judging, asking, told), inspection.notes())


def _do(
    job: Job,
    dataset: Dataset,
    store: Store,
    told: dict[str, Any],
    size: int,
    engine: Callable[[Job, Iterator[Unit], Tell], Iterator[Record]],
    inspection: ledger.Inspection,
    progress: bool | None,
) -> None:
    """Do the units that are not done, and summarise, also where that ends early."""
    complete, maps = False, 0
    with bar(dataset.count, f"{job.method if isinstance(job.method, str) else job.method.name}", progress) as advance:

        def missing() -> Iterator[Unit]:
            nonlocal maps
            count = 0
            for each in units(dataset, size):
                count += 1
                record = inspection.record(each)
                if record is None:
                    yield each
                else:
                    maps += record.maps
                    advance(record.samples)
            if max(inspection.known, default=-1) >= count:
                raise DataError(f"the data changed since {store} was begun: it has fewer images; choose another folder, or restart it.")

        try:
            for record in engine(job, missing(), advance):
                maps += record.maps
                if Record.read(store, record.number) is None:
                    raise DataError(f"a worker wrote elsewhere than to {store}: give a folder that all of them reach, or a URL (s3://…).")
            complete = True
        finally:
            if complete:
                clear(store, ledger.is_written, everything=False)  # a worker that was killed and replaced may have left half a file
                ledger.summarise(store, told, complete, versions(job.model.module))
            elif ledger.done(store):
                with suppress(DataError):  # a full disk is told of already
                    ledger.summarise(store, told, complete, versions(job.model.module))
            else:  # nothing was begun: other settings are as good
                clear(store, ledger.is_written, everything=True)
                store.remove(SETTINGS)
    if not maps:
        first = next((error for each in ledger.records(store) for _, _, error in each.failures), "it is empty")
        raise DataError(f"{dataset.name}: no image could be used; the first: {first}")


def _unit(count: int | None, workers: int, together: int) -> int:
    """Samples per unit: full batches, and some units for every worker."""
    fair = UNIT if count is None else -(-count // (UNITS_EACH * workers))
    return max(1, min(UNIT, fair) // together) * together


def _absolute(place: str | os.PathLike[str]) -> str:
    """The same place for processes that run elsewhere."""
    text = os.fspath(place)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


def _engine(name: str, address: str | None, asked: int | None, workers: int) -> Callable[[Job, Iterator[Unit], Tell], Iterator[Record]]:
    if name == "ray":
        from lucidcam.pipeline.scale import on_ray

        return lambda job, units, tell: on_ray(job, units, tell, asked, address)
    return lambda job, units, tell: crew(_jobs(job, workers), units, tell)


def _jobs(job: Job, workers: int) -> list[Job]:
    """The job of each worker: its GPU, its share of the processors."""
    if workers == 1:
        return [job]
    if job.model.device.type == "cuda":
        return [replace(job, device=f"cuda:{i % torch.cuda.device_count()}") for i in range(workers)]
    return [replace(job, threads=max(1, usable_cores() // workers)) for _ in range(workers)]


def _formats(write: str | Iterable[str], store: Store, dataset: Dataset) -> tuple[str, ...]:
    names = tuple(dict.fromkeys([write] if isinstance(write, str) else write))
    known = [*registry.packs, *registry.exporters]
    for name in names:
        if name not in known:
            raise OptionError(unknown("format", name, known))
        if name in registry.exporters and not isinstance(store, Folder):
            raise OptionError(f"{name} labels are written to a folder of this machine; {store} is none: write npz or zarr there.")
        if name in registry.exporters:
            first = next(islice(dataset, 1), None)
            if first is not None and not isinstance(getattr(first, "image", ""), (str, os.PathLike)):
                raise OptionError(
                    f"{name} labels refer to image files; the images of {dataset.name} are none: use lucidcam.localize (lucidcam localize)."
                )
    return names


def _asked(settings: Settings) -> dict[str, Any]:
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


def _told(job: Job, formats: tuple[str, ...], dataset: Dataset, size: int) -> dict[str, Any]:
    """What decides the files of a run."""
    assert isinstance(job.method, Method)
    own = {each.name: getattr(job.method, each.name) for each in fields(job.method)}
    told = {
        "lucidcam": version("lucidcam"),
        "data": {"name": dataset.name, "format": dataset.format, "count": dataset.count},
        "model": {
            "name": job.model.name,
            "fingerprint": job.model.fingerprint(),
            "architecture": architecture(job.model.module),
            "preprocess": steady(job.model.preprocess),
            "outputs": job.model.outputs,
            "threshold": job.model.threshold,
            "labels": None if job.model.labels is None else behaviour(tuple(job.model.labels)),
            "task": steady(job.model.task),
        },
        "method": {"name": job.method.name, **own, **job.method.identity(), **code_of(job.method)},
        "options": {name: value for name, value in job.options.items() if name not in ("progress", "images_at_once")},
        "target": PREDICTED if job.target is None else steady(job.target),
        "layer": [str(each) for each in job.layer] if isinstance(job.layer, (list, tuple)) else job.layer,
        "class_map": None if job.class_map is None else str(job.class_map),
        "write": list(formats),
        "metrics": [{**each.described(), **code_of(each.metric)} for each in judges(job.metrics)],
        "regions": _asked_regions(job.regions),
        "unit": size,
        "images_at_once": job.images_at_once,
        "optimized": job.optimized,
        "autocast": None if job.autocast is None else str(job.autocast),
    }
    found: dict[str, Any] = steadied(told)
    return found


def _asked_regions(regions: Regions) -> dict[str, Any]:
    return {each.name: getattr(regions, each.name) for each in fields(regions)}
