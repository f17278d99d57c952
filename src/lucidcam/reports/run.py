"""Runs: what was explained, class by class, and some of the images beside their maps."""

from __future__ import annotations

import ast
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image

from lucidcam import registry
from lucidcam.errors import DamagedFileError, DataError, LucidcamError, OptionError
from lucidcam.evaluation import Report
from lucidcam.imaging import maps, render
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io.storage import Folder
from lucidcam.outputs.html import Cell, Facts, Fold, Gallery, Page, Part, Section, Shot, Table, Text
from lucidcam.outputs.html.blocks import SIDE
from lucidcam.pipeline import Results
from lucidcam.reports._base import Kind, kinds
from lucidcam.reports._files import opened, reading
from lucidcam.reports._made import chance, not_explained
from lucidcam.reports.evaluation import Evaluation, figures
from lucidcam.types import Frame, Model
from lucidcam.utils.text import counted, short

SHOWN = 12
"""Images per gallery, unless told otherwise."""

CLASSES = 200
"""Classes of which images are shown."""

EACH = 4
"""Images of each class."""

ROWS = 1_000
"""Rows of the table of failures; failures.jsonl has all."""


@kinds.register_class("run")
class Run(Kind):
    """What `lucidcam.run` returns, or writes."""

    about = "a run"
    file = "manifest.json"

    def fits(self, result: Any) -> bool:
        """See `Kind.fits`."""
        return isinstance(result, Results)

    def page(  # type: ignore[override]
        self,
        result: Results,
        *,
        model: Model | None = None,
        data: str | Path | None = None,
        images: int = SHOWN,
        colormap: str = "turbo",
        alpha: float = 0.5,
        seed: int = 0,
    ) -> Page:
        """The page.

        Args:
            result: of the run.
            model: the network: it knows where in a photo its input lies. None: what the run wrote down of its preprocessing.
            data: the folder of the data: the index names photos by their place in it. None: they are looked for where this process is.
            images: per gallery.
            colormap: of the maps.
            alpha: share of the heatmap in the overlays.
            seed: of what is drawn at random.
        """
        if images < 1:
            raise OptionError(f"expected images ≥ 1; got {images}.")
        with reading(f"the index in {result.store}", "that of a run"):
            tally = _tally(result, images, seed)
        with reading(f"failures.jsonl in {result.store}", "a run's failures"):
            failures = [(each["image"], each["error"]) for each in result.failures()]
        look = _Look(result, model, None if data is None else Path(data).expanduser(), colormap, alpha)
        images_parts = [part for title, rows in tally.galleries() for part in _gallery(title, rows, look)]
        images_parts += [not_explained(failures, ROWS, "failures.jsonl")] if failures else []
        sections = [Section("Images", images_parts)]
        sections.append(_classes(tally, look))
        judged = _judged(result)
        sections += [] if judged is None else figures(judged)
        sections.append(Section("Settings", (Facts(_flat(result.manifest["settings"])),)))
        if look.told:
            sections[0] = Section("Images", [Text(" ".join(sorted(look.told)), "warning"), *sections[0].parts])
        return Page(_title(result), _lead(result, tally), sections, _facts(result, tally))

    def read(self, folder: Path) -> Results:
        """See `Kind.read`."""
        with reading(folder / self.file, "a run"):
            found = Results(folder)
            _check(found.manifest)
        return found


def _check(manifest: Mapping[str, Any]) -> None:
    """Raise where a manifest lacks what a page needs of it."""
    settings, units = manifest["settings"], manifest["units"]
    for part, name in (("model", "name"), ("model", "preprocess"), ("data", "name"), ("method", "name")):
        settings[part][name]
    for number in (
        *(manifest[name] for name in ("images", "maps", "failed")),
        *(each[name] for each in units for name in ("number", "maps")),
    ):
        if not isinstance(number, int):
            raise TypeError(f"expected a count; got {number!r}")
    if sum(each["maps"] for each in units) != manifest["maps"]:
        raise ValueError(f"its units have {sum(each['maps'] for each in units)} maps; it says {manifest['maps']}")
    manifest["complete"], settings["write"]


def _judged(results: Results) -> Report | None:
    """What the metrics gave, where the run was asked for some."""
    if results.report is None and isinstance(results.store, Folder) and (results.store.root / Evaluation.file).is_file():
        return Evaluation().read(results.store.root)
    return results.report


@dataclass
class _Mean:
    """The mean of what there is."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Add a value, where there is one."""
        if value is not None:
            self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None


@dataclass
class _Class:
    """What is summed over a class's maps."""

    label: str
    maps: int = 0
    sure: _Mean = field(default_factory=_Mean)
    inside: _Mean = field(default_factory=_Mean)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def add(self, number: int, row: dict[str, Any]) -> None:
        """Add a map."""
        self.maps += 1
        self.sure.add(row["probability"])
        self.inside.add(row["inside"])
        if len(self.rows) < EACH:
            self.rows.append((number, row))


Numbered = tuple[int, dict[str, Any]]
"""A row of the index with its number."""


@dataclass
class _Tally:
    """What one pass over the index gives; memory does not grow with it."""

    drawn: list[Numbered]
    most: list[Numbered]
    least: list[Numbered]
    classes: dict[str, _Class]

    def galleries(self) -> list[tuple[str, list[Numbered]]]:
        """(title, rows) of those that have some; of a few images all are there already."""
        if len(self.drawn) == sum(each.maps for each in self.classes.values()):
            return [("All", self.drawn)]
        every = [("Drawn at random", self.drawn), ("Surest", self.most), ("Least sure", self.least)]
        return [(title, rows) for title, rows in every if rows]


def _tally(results: Results, count: int, seed: int) -> _Tally:
    total = len(results)
    chosen = set(np.random.default_rng(seed).choice(total, min(count, total), replace=False).tolist()) if total else set()
    drawn: list[Numbered] = []
    classes: dict[str, _Class] = {}

    def rows() -> Iterator[Numbered]:
        for number, row in enumerate(results.rows()):
            if number in chosen:
                drawn.append((number, row))
            own = classes.setdefault(row["label"], _Class(row["label"]))
            own.add(number, row)
            if row["probability"] is not None:
                yield number, row

    least, most = _ends(rows(), count)
    return _Tally(drawn, most, least, classes)


def _ends(rows: Iterable[Numbered], count: int) -> tuple[list[Numbered], list[Numbered]]:
    """The rows with the lowest and the highest probability, the most extreme first; the earlier one where two are level."""
    lowest: list[tuple[float, int, Numbered]] = []
    highest: list[tuple[float, int, Numbered]] = []
    for number, row in rows:
        for ends, sign in ((lowest, 1), (highest, -1)):
            insort(ends, (sign * row["probability"], number, (number, row)))
            del ends[count:]
    return [each for *_, each in lowest], [each for *_, each in highest]


class _Look:
    """From a row of the index to its pictures. What could not be shown as it should be is told."""

    def __init__(self, results: Results, model: Model | None, folder: Path | None, colormap: str, alpha: float) -> None:
        self._method = str(results.manifest["settings"]["method"]["name"])
        self._results, self._folder, self._colormap, self._alpha = results, folder, colormap, alpha
        self._preprocess = model.preprocess if model is not None else _preprocess(results.manifest["settings"]["model"]["preprocess"])
        self.told: set[str] = set()

    def __call__(self, number: int, row: dict[str, Any], anchor: str = "") -> Shot:
        photo = self._photo(row["image"])
        if photo is not None and photo.size != (row["width"], row["height"]):
            self.told.add("Some photos are not of the size they had: they were changed since, and only their maps are shown.")
            photo = None
        pictures, labels = ([], []) if photo is None else ([photo], ["photo"])
        picture = self._map(number, row, photo)
        if picture is not None:
            pictures.append(picture)
            labels.append(f"{short(row['label'])} {chance(row['probability'])}" if row["probability"] is not None else short(row["label"]))
        name = Path(row["image"]).name
        note = "" if picture is not None else f"{short(row['label'])} {chance(row['probability'])}"
        return Shot(pictures, name, f"{name}, {short(row['label'])}", note, labels, anchor=anchor, words=(row["label"], self._method))

    def _photo(self, name: str) -> Image.Image | None:
        place = Path(name) if self._folder is None else self._folder / name
        if self._folder is not None and not place.is_file():
            place = self._folder / Path(name).name
        photo = opened(place)
        if photo is None:
            self.told.add("Some photos are not found, or cannot be read: only their maps are shown; data= (--data) tells where they are.")
        return photo

    def _map(self, number: int, row: dict[str, Any], photo: Image.Image | None) -> Image.Image | None:
        try:
            raw = self._results.map(number)
        except (DamagedFileError, BadZipFile, EOFError, LookupError, OSError, ValueError):
            self.told.add("Some maps cannot be read any more; the boxes of the index are drawn instead.")
            return _boxed(photo, row)
        except DataError:
            self.told.add("The run kept no maps; the boxes of its index are drawn instead.")
            return _boxed(photo, row)
        frame = self._frame(row)
        if photo is not None and frame is not None:
            found = Explanation(
                raw=torch.from_numpy(np.asarray(raw, np.float32)),
                image=photo,
                frame=frame,
                **{name: row[name] for name in ("target", "label", "score", "probability")},
                method=self._method,
                layer="",
                name=row["image"],
                ranged=registry.methods[self._method].ranged if self._method in registry.methods else False,
            )
            if _agrees(found, row):
                return found.overlay(self._colormap, self._alpha)
        if photo is not None:
            self.told.add("Where the maps lie in the photos is not known without the network (model=): they are shown by themselves.")
        alone = render.colour(maps.normalise(np.asarray(raw, np.float32)), self._colormap)
        factor = SIDE / max(alone.size)
        return alone.resize((round(alone.width * factor), round(alone.height * factor)), Image.Resampling.BICUBIC)

    def _frame(self, row: dict[str, Any]) -> Frame | None:
        try:
            frame: Callable[[tuple[int, int]], Frame] | None = getattr(self._preprocess, "frame", None)
            return None if frame is None else frame((row["width"], row["height"]))
        except LucidcamError:
            return None


def _boxed(photo: Image.Image | None, row: dict[str, Any]) -> Image.Image | None:
    """A photo with the box of its map; None where either is missing."""
    return None if photo is None or row["box"] is None else render.draw_boxes(photo, [tuple(row["box"])])


def _agrees(found: Explanation, row: dict[str, Any]) -> bool:
    """Whether a map laid into its photo has its peak where the run found it."""
    if row["peak_x"] is None:  # nothing speaks for the class: there is no place to compare
        return True
    y, x = divmod(int(found.heatmap.argmax()), row["width"])
    return (x, y) == (row["peak_x"], row["peak_y"]) and _near(float(found.map.max()), row["peak"])


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-3 * max(abs(a), abs(b))


def _preprocess(told: str) -> Any:
    """The preprocessing that a run wrote down; None where it is more than plain values."""
    try:
        call = ast.parse(told, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == Preprocess.__name__:
            return Preprocess(**{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})
    except (SyntaxError, ValueError, TypeError, LucidcamError):
        pass
    return None


def _gallery(title: str, rows: Sequence[tuple[int, dict[str, Any]]], look: _Look) -> list[Part]:
    return [Fold(title, (Gallery([look(number, row) for number, row in rows]),), open=True, heading=True)]


def _classes(tally: _Tally, look: _Look) -> Section:
    ordered = sorted(tally.classes.values(), key=lambda each: (-each.maps, each.label))
    marked = any(each.inside.count for each in ordered)
    head = ["class", "maps", "mean probability", *(["inside the boxes"] if marked else [])]
    rows: list[list[Any]] = [
        [
            Cell(each.label, to=f"class-{i}"),
            each.maps,
            chance(each.sure.value),
            *([chance(each.inside.value)] if marked else []),
        ]
        for i, each in enumerate(ordered, start=1)
    ]
    note = "Inside the boxes: the mean share of a map's positive evidence that lies in what is marked of its class." if marked else ""
    table = Table(head, rows[:ROWS], "Maps of each class", note, numeric=[2, 3] if marked else [2], filtered=True)
    if len(ordered) < 2:
        return Section("Classes", (table,))
    shots = [
        look(number, row, f"class-{i}" if first else "")
        for i, each in enumerate(ordered[:CLASSES], start=1)
        for first, (number, row) in zip((True, *[False] * EACH), each.rows, strict=False)
    ]
    few = [Text(f"The {CLASSES} classes with the most maps have images here.", "note")] if len(ordered) > CLASSES else []
    gallery = Gallery(shots, f"Of each class its first {EACH} maps, or all that it has", small=True)
    return Section("Classes", (table, Fold("Images of each class", (*few, gallery), heading=True)))


def _title(results: Results) -> str:
    settings = results.manifest["settings"]
    return f"Where {settings['model']['name']} looks in {Path(str(settings['data']['name'])).name}"


def _lead(results: Results, tally: _Tally) -> str:
    manifest = results.manifest
    method = manifest["settings"]["method"]["name"]
    classes = counted(len(tally.classes), "class", "classes")
    told = f"{counted(manifest['images'], 'image')} explained by {method}: {counted(manifest['maps'], 'map')} for {classes}."
    if manifest["failed"]:
        told += f" {counted(manifest['failed'], 'image')} could not be explained; they are listed below the images."
    if not manifest["complete"]:
        told += "\n\nThe run is not complete: it was stopped, and goes on when it is called again."
    return told


def _facts(results: Results, tally: _Tally) -> dict[str, object]:
    manifest = results.manifest
    return {"images": manifest["images"], "maps": manifest["maps"], "classes": len(tally.classes), "failed": manifest["failed"]}


def _flat(settings: dict[str, Any]) -> dict[str, object]:
    """Settings with those of a part under the part's name."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{name}: {key}": each for key, each in value.items()}
        else:
            found[name] = value
    return found
