"""Contact sheets: the images that a method did best and worst on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lucidcam import maps, render
from lucidcam.evaluation.contenders import Contender, Judge, slug
from lucidcam.evaluation.measure import Item, Measure
from lucidcam.evaluation.report import Report
from lucidcam.samples import Problem, Sample

ENDS = 10
"""Images of each end of the ranking."""

COLUMNS = 5


def save_contact_sheets(report: Report, measure: Measure, samples: Iterable[Sample | Problem], judge: Judge, folder: Path) -> None:
    """Draw each method's best and worst images by one metric, with the boxes that are known, into `folder`.

    Only the images that are drawn are read, one at a time, and explained again.
    """
    metric = judge.figures[0].name
    chosen = {c.label: _ends(report, c.label, metric) for c in measure.contenders if c.method is not None}
    wanted = {name for best, worst in chosen.values() for name in [*best, *worst]}
    pictures: dict[tuple[str, str], Image.Image] = {}
    for sample in samples:
        if isinstance(sample, Sample) and sample.name in wanted:
            item = measure.item(sample)
            if isinstance(item, Item):
                for contender in measure.contenders:
                    if contender.label in chosen and sample.name in [*chosen[contender.label][0], *chosen[contender.label][1]]:
                        pictures[contender.label, sample.name] = _picture(contender, measure, judge, item)
    for label, (best, worst) in chosen.items():
        value = dict(zip(report.names, report.values[label, metric], strict=True)) if best else {}
        rows = [
            [(f"{'best' if names is best else 'worst'} {value[name]:.3g}  {Path(name).name}", pictures[label, name]) for name in row]
            for names in (best, worst)
            for row in _rows([name for name in names if (label, name) in pictures])
        ]
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            sheet = render.panel(rows, f"{label}: best and worst by {metric.replace('_', ' ')}", height=180)
            sheet.save(folder / f"{slug(label)}.jpg", quality=88)


def _ends(report: Report, label: str, metric: str) -> tuple[list[str], list[str]]:
    """The best and the worst, never the same image twice."""
    values, better = report.values.get((label, metric)), report.figures[metric].higher_is_better
    if values is None or better is None:
        return [], []
    counted = np.flatnonzero(np.isfinite(values))
    order = counted[np.argsort(-values[counted] if better else values[counted], kind="stable")]
    middle = min(ENDS, (len(order) + 1) // 2)
    best, worst = order[:middle], order[middle:][::-1][:ENDS]
    worst = worst[values[worst] != values[order[0]]] if len(order) else worst  # as good as the best: not worst
    return [report.names[i] for i in best], [report.names[i] for i in worst]


def _rows(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[i : i + COLUMNS] for i in range(0, len(names), COLUMNS)]


def _picture(contender: Contender, measure: Measure, judge: Judge, item: Item) -> Image.Image:
    """The map of the class that was asked for, over the photo; the objects of that class are framed."""
    inputs = item.prepared.tensor[None].to(measure.model.device, measure.model.dtype)
    number = measure.class_shown(judge, item, inputs)
    with contender.open(measure.model.module, inputs, torch.tensor([number], device=inputs.device)) as run:
        raw = contender.maps(run, [item.sample.name])[0, 0].float().cpu()
    image = item.prepared.image
    heatmap = maps.normalise(maps.finish(raw, image.size[::-1], item.prepared.frame.box))
    shown = render.overlay(image, heatmap)
    things = [each for each in item.sample.objects if each.box is not None and item.classes.get(each.label) == number]
    boxes = [tuple(round(side) for side in each.box) for each in things if each.box is not None]
    return render.draw_boxes(shown, boxes, colour=(255, 255, 255)) if boxes else shown  # type: ignore[arg-type]
