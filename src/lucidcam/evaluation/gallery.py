"""The images that a method did best and worst on, some by chance, and those on which a trivial baseline did better."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lucidcam.errors import DataError
from lucidcam.evaluation.batch import Item, Measure
from lucidcam.evaluation.entries import Contender, Judge, slug
from lucidcam.evaluation.report import Report
from lucidcam.imaging import maps, render
from lucidcam.io.picture_files import save_picture
from lucidcam.io.storage import json_text, parsed_json, write_whole
from lucidcam.samples import Problem, Sample

ENDS = 10
"""Images of each end of the ranking."""

OTHERS = 5
"""Images drawn by chance; images on which a baseline did better."""

COLUMNS = 5

SIDE = 480
"""Longer side in pixels of the pictures that are kept one by one."""

SHOTS = "shots.json"


@dataclass(frozen=True)
class Shot:
    """An image in the gallery of a method.

    Attributes:
        method: whose map it is.
        group: "best", "worst", "random" or "beaten": a trivial baseline did better on it.
        image: its name.
        metric: the figure it was chosen by.
        value: of the method on this image.
        against: the baseline it is compared with; "" elsewhere.
        theirs: the baseline's value on this image.
        labels: what the data says is in it.
        shown: the class that the map is about.
        photo: file of the photo, in the gallery's folder.
        picture: file of the map over the photo.
    """

    method: str
    group: str
    image: str
    metric: str
    value: float
    against: str = ""
    theirs: float | None = None
    labels: tuple[str, ...] = ()
    shown: str = ""
    photo: str = ""
    picture: str = ""


def save_gallery(report: Report, measure: Measure, samples: Iterable[Sample | Problem], judge: Judge, folder: Path) -> None:
    """Draw the images that are worth a look by one metric, with the boxes that are known.

    Into `folder` go a contact sheet of the best and the worst per method, `shots.json`, a list of `Shot`, and its pictures. Only the images
    that are drawn are read, one at a time, and explained again.
    """
    metric = judge.figures[0].name
    labels = [each.label for each in measure.contenders if each.method is not None]
    chosen = {label: list(_chosen(report, label, metric)) for label in labels}
    if not any(chosen.values()):
        return
    (folder / "shots").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "shots").glob("*.webp"):  # of an evaluation with other figures
        if re.fullmatch(r"[0-9a-f]{16}\.webp", stale.name):
            stale.unlink()
    wanted = {each.image for shots in chosen.values() for each in shots}
    pictures: dict[tuple[str, str], Image.Image] = {}
    known: dict[tuple[str, str], dict[str, object]] = {}
    for sample in samples:
        item = measure.item(sample) if isinstance(sample, Sample) and sample.name in wanted else None
        if isinstance(item, Item):
            asking = [each for each in measure.contenders if any(shot.image == item.sample.name for shot in chosen.get(each.label, ()))]
            photo = _kept(item.prepared.image, folder)
            for contender in asking:
                shown, picture = _picture(contender, measure, judge, item)
                if any(shot.image == item.sample.name and shot.group in ("best", "worst") for shot in chosen[contender.label]):
                    pictures[contender.label, item.sample.name] = picture
                known[contender.label, item.sample.name] = {
                    "labels": item.sample.labels,
                    "shown": measure.model.label(shown),
                    "photo": photo,
                    "picture": _kept(picture, folder),
                }
    kept = [
        {**asdict(each), **known[label, each.image]} for label, shots in chosen.items() for each in shots if (label, each.image) in known
    ]
    write_whole(folder / SHOTS, (json_text(kept, indent=1) + "\n").encode())
    for label, shots in chosen.items():
        _save_sheet(label, shots, metric, pictures, folder)


def read_gallery(folder: Path) -> list[Shot]:
    """The shots that `save_gallery` kept; none where there are none.

    Raises:
        DataError: the list of them is damaged, or of another version.
    """
    try:
        return [_shot(each) for each in parsed_json((folder / SHOTS).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / SHOTS} cannot be read as the gallery of an evaluation: {type(error).__name__}: {error}; "
            "remove the folder, or evaluate again."
        ) from None


def _shot(told: dict[str, Any]) -> Shot:
    """A shot as `shots.json` has it."""
    found = Shot(**{**told, "labels": tuple(told["labels"])})
    texts = (found.method, found.group, found.image, found.metric, found.against, found.shown, found.photo, found.picture, *found.labels)
    wrong = [each for each in texts if not isinstance(each, str)]
    if wrong:
        raise TypeError(f"expected text; got {str(wrong[0])[:60]}")
    return replace(found, value=float(found.value), theirs=None if found.theirs is None else float(found.theirs))


def _save_sheet(label: str, shots: Sequence[Shot], metric: str, pictures: Mapping[tuple[str, str], Image.Image], folder: Path) -> None:
    rows = [
        [(f"{each.group} {each.value:.3g}  {Path(each.image).name}", pictures[label, each.image]) for each in row]
        for group in ("best", "worst")
        for row in _rows([each for each in shots if each.group == group and (label, each.image) in pictures])
    ]
    if rows:
        sheet = render.panel(rows, f"{label}: best and worst by {metric.replace('_', ' ')}", height=180)
        save_picture(sheet, folder / f"{slug(label)}.jpg", quality=88)


def _chosen(report: Report, label: str, metric: str) -> Iterator[Shot]:
    """What to look at of one method."""
    best, worst = _ends(report, label, metric)
    values = report.values.get((label, metric))
    if not best or values is None:
        return
    value = dict(zip(report.names, values, strict=True))
    yield from (Shot(label, "best", name, metric, float(value[name])) for name in best)
    yield from (Shot(label, "worst", name, metric, float(value[name])) for name in worst)
    counted = np.flatnonzero(np.isfinite(values))
    drawn = np.sort(np.random.default_rng(0).permutation(counted)[:OTHERS])
    yield from (Shot(label, "random", report.names[i], metric, float(values[i])) for i in drawn)
    rivals = [row for row in report.rows if row.metric == metric and row.method in report.trivial and np.isfinite(row.mean)]
    if rivals:
        better = bool(report.figures[metric].higher_is_better)
        rival = (max if better else min)(rivals, key=lambda row: row.mean).method
        theirs = report.values[rival, metric]
        lost = np.where(np.isfinite(values) & np.isfinite(theirs), (theirs - values) * (1 if better else -1), 0)
        for i in np.argsort(-lost, kind="stable")[:OTHERS]:
            if lost[i] > 0:
                yield Shot(label, "beaten", report.names[i], metric, float(values[i]), rival, float(theirs[i]))


def _kept(picture: Image.Image, folder: Path) -> str:
    """Keep a picture, reduced; its name in the folder."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    digest = hashlib.blake2b(small.tobytes(), digest_size=8).hexdigest()
    name = f"shots/{digest}.webp"
    save_picture(small, folder / name, quality=88)
    return name


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


def _rows(shots: Sequence[Shot]) -> list[Sequence[Shot]]:
    return [shots[i : i + COLUMNS] for i in range(0, len(shots), COLUMNS)]


def _picture(contender: Contender, measure: Measure, judge: Judge, item: Item) -> tuple[int, Image.Image]:
    """The class that was asked for, and its map over the photo; the objects of that class are framed."""
    inputs = item.prepared.tensor[None].to(measure.model.device, measure.model.dtype)
    number = measure.class_shown(judge, item, inputs)
    with contender.open(measure.model, inputs, torch.tensor([number], device=inputs.device)) as run:
        raw = contender.maps(run, [item.sample.name])[0, 0].float().cpu()
    image = item.prepared.image
    heatmap = maps.normalise(maps.in_photo(raw, item.prepared.frame))
    shown = render.overlay(image, heatmap, within=item.prepared.frame.seen)
    things = [each for each in item.sample.objects if each.box is not None and item.classes.get(each.label) == number]
    boxes = [tuple(round(side) for side in each.box) for each in things if each.box is not None]
    return number, render.draw_boxes(shown, boxes, colour=(255, 255, 255)) if boxes else shown  # type: ignore[arg-type]
