"""Explanations: every image beside its maps, class by class."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from PIL import Image

from lucidcam.errors import OptionError
from lucidcam.imaging.explanation import Explanation
from lucidcam.io.images import bands
from lucidcam.io.storage import parsed_json
from lucidcam.outputs.html import Cell, Facts, Gallery, Grid, Page, Part, Section, Shot, Table, Text
from lucidcam.outputs.html.blocks import SIDE, reduced
from lucidcam.reports._base import Kind, kinds
from lucidcam.reports._files import opened, reading
from lucidcam.reports._made import chance, not_explained, of_model
from lucidcam.types import Model
from lucidcam.utils.text import counted, listed, short

SHOWN = 500
"""Images that are shown, unless told otherwise."""

ROWS = 5_000
"""Rows of all tables together; the page says so where it has more."""

SIDES = ((24, SIDE), (150, 480))
"""(images, longer side of their pictures in pixels): pictures are made small at once, so that they do not fill the memory."""

SMALL = 320
"""Longer side in pixels where there are more images."""

PICTURES = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif")

UNNAMED = ("image", "array", "tensor", "bytes")
"""What `lucidcam.io.images.read` calls pictures in memory: of these, one that is given twice is two images; a file is one."""

ENTRY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("image", "method", "label", "layer"), (str,)),
    "id": (int, NoneType),
    "score": (int, float, NoneType),
    "probability": (int, float, NoneType),
    "box": (list, NoneType),
}
"""What a page needs of an entry of explanations.json, and what each is."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the page needs of one explanation.

    Attributes:
        told: as `Explanation.to_dict` has it.
        photo: the image; None: it cannot be read any more.
        picture: the method's picture; None: none was kept.
    """

    told: dict[str, Any]
    photo: Image.Image | None = field(default=None, repr=False)
    picture: Image.Image | None = field(default=None, repr=False)


class _Names:
    """Names of images as they come: with a number where another image has the name."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}
        self._used: Counter[str] = Counter()
        self._asked: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, explanation: Explanation) -> str:
        """The name of an explanation's image. Pictures in memory that look the same are one image until it is explained a second time."""
        name = explanation.name
        key: tuple[Any, ...] = (name, *_pixels(explanation.image))
        if name in UNNAMED:
            asked = (*key, *(getattr(explanation, each) for each in ("method", "layer", "target", "label", "time")))
            key = (*key, self._asked[asked])
            self._asked[asked] += 1
        if key not in self._known:
            self._used[name] += 1
            self._known[key] = f"{name} ({self._used[name]})" if self._used[name] > 1 else name
        return self._known[key]


class Gathered:
    """Explanations on their way to a page, which forgets the maps: only the pictures that are shown are kept, and those small.

    Args:
        count: images that are to come.
        images: so many are shown at most, evenly chosen.
        colormap: of the maps.
        alpha: share of the heatmap in the overlays.

    Raises:
        OptionError: no image is to be shown.

    Attributes:
        seen: what came so far.
        failures: images that could not be explained: `image` and `error`.
    """

    def __init__(self, count: int, images: int = SHOWN, colormap: str = "turbo", alpha: float = 0.5) -> None:
        if images < 1:
            raise OptionError(f"expected images ≥ 1; got {images}.")
        self._shown = set(range(count)) if count <= images else {i * count // images for i in range(images)}
        self._side = next((side for most, side in SIDES if len(self._shown) <= most), SMALL)
        self._look = {"colormap": colormap, "alpha": alpha}
        self._numbers: dict[str, int] = {}
        self._name_of = _Names()
        self.seen: list[Seen] = []
        self.failures: list[dict[str, str]] = []

    def extend(self, explanations: Iterable[Explanation]) -> None:
        """Take explanations."""
        for each in explanations:
            # A copy: the maps in full size that it makes for itself are forgotten with it.
            own = replace(each, name=self._name_of(each))
            if self._is_shown(own.name):
                small = own.reduced()
                picture = small.picture(**self._look)  # type: ignore[arg-type]
                self.seen.append(Seen(own.to_dict(), reduced(small.image, self._side), reduced(picture, self._side)))
            else:
                self.seen.append(Seen(own.to_dict()))

    def add_entry(self, entry: dict[str, Any], folder: Path) -> None:
        """Take an entry of explanations.json, with the picture in its folder and the photo where it was."""
        if not self._is_shown(str(entry["image"])):
            self.seen.append(Seen(entry))
            return
        files = [folder / Path(each).name for each in entry.get("files", ())]
        picture = next((each for each in files if each.suffix.lstrip(".").lower() in PICTURES), None)
        self.seen.append(Seen(entry, _opened(entry["image"], self._side), None if picture is None else _opened(picture, self._side)))

    @property
    def shown(self) -> set[str]:
        """Names of the images that are shown."""
        return {name for name, number in self._numbers.items() if number in self._shown}

    def _is_shown(self, name: str) -> bool:
        return self._numbers.setdefault(name, len(self._numbers)) in self._shown


@dataclass(frozen=True, eq=False)
class Explained:
    """A finished folder of `lucidcam explain`.

    Attributes:
        entries: of explanations.json.
        failures: of failures.json.
        folder: where they are.
    """

    entries: Sequence[dict[str, Any]]
    failures: Sequence[dict[str, str]]
    folder: Path


@kinds.register_class("explain")
class Explanations(Kind):
    """Explanations, or the folder of `lucidcam explain`."""

    about = "explanations"
    file = "explanations.json"

    def fits(self, result: Any) -> bool:
        """See `Kind.fits`."""
        several = isinstance(result, (list, tuple)) and bool(result) and all(isinstance(each, Explanation) for each in result)
        return several or isinstance(result, (Explanation, Explained, Gathered))

    def page(  # type: ignore[override]
        self,
        result: Explanation | Sequence[Explanation] | Explained | Gathered,
        *,
        model: Model | None = None,
        images: int = SHOWN,
        colormap: str = "turbo",
        alpha: float = 0.5,
        failures: Sequence[dict[str, str]] = (),
    ) -> Page:
        """The page.

        Args:
            result: explanations, or a folder of them.
            model: the network, for its name and fingerprint; None: they are left out.
            images: so many are shown at most, evenly chosen; the tables have all.
            colormap: of the maps; a folder's pictures are as they were written.
            alpha: share of the heatmap in the overlays.
            failures: images that could not be explained: `image` and `error`.
        """
        found = result if isinstance(result, Gathered) else _gathered(result, images, colormap, alpha)
        return _page(found.seen, found.shown, [*found.failures, *failures], model)

    def read(self, folder: Path) -> Explained:
        """See `Kind.read`."""
        with reading(folder / self.file, "explanations"):
            entries = [_checked(each) for each in _entries(folder / self.file)]
        told = folder / "failures.json"
        with reading(told, "a list of failures"):
            failures = [dict(each) for each in _entries(told)] if told.is_file() else []
        return Explained(entries, failures, folder)


def _entries(path: Path) -> list[Any]:
    found = parsed_json(path.read_text(encoding="utf-8"))
    if not isinstance(found, list):
        raise TypeError(f"expected a list; got a {type(found).__name__}")
    return found


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of explanations.json that has what a page needs."""
    for name, kinds_ in ENTRY.items():
        if not isinstance(entry[name], kinds_):
            raise TypeError(f"{name!r} is {entry[name]!r}")
    if not all(isinstance(each, str) for each in entry.get("files", ())):
        raise TypeError(f"'files' is {entry['files']!r}")
    return entry


def _gathered(result: Explanation | Sequence[Explanation] | Explained, images: int, colormap: str, alpha: float) -> Gathered:
    if isinstance(result, Explained):
        found = Gathered(len({str(each["image"]) for each in result.entries}), images)
        for entry in result.entries:
            found.add_entry(entry, result.folder)
        found.failures += result.failures
        return found
    explanations = [result] if isinstance(result, Explanation) else result
    name_of = _Names()
    found = Gathered(len({name_of(each) for each in explanations}), images, colormap, alpha)
    found.extend(explanations)
    return found


def _pixels(image: Image.Image) -> tuple[Any, ...]:
    """What tells an image from another of its name."""
    digest = hashlib.blake2b(digest_size=16)
    for band in bands(image.size):
        digest.update(image.crop(band).tobytes())
    return image.size, digest.digest()


def _opened(place: str | Path, side: int) -> Image.Image | None:
    """A picture, reduced; None where it cannot be read."""
    picture = opened(place)
    return None if picture is None else reduced(picture, side)


def _page(seen: Sequence[Seen], shown: set[str], failures: Sequence[dict[str, str]], model: Model | None) -> Page:
    names = list(dict.fromkeys(str(each.told["image"]) for each in seen))
    methods = list(dict.fromkeys(str(each.told["method"]) for each in seen))
    labels = list(dict.fromkeys(str(each.told["label"]) for each in seen))
    by = f" by {listed(methods)}" if methods else ""
    of = f" for {model.name}" if model is not None else ""
    lead = f"{counted(len(names), 'image')} explained{by}{of}: {counted(len(seen), 'map')} for {counted(len(labels), 'class', 'classes')}."
    blind = sum(each.told.get("box") is None for each in seen)
    parts: list[Part] = []
    if failures:
        parts.append(Text(f"{counted(len(failures), 'image')} could not be explained; the list below the pictures says why.", "warning"))
    if blind:
        parts.append(
            Text(f"Nothing speaks for the target in {counted(blind, 'map')}: a map without positive evidence shows nothing.", "note")
        )
    if len(shown) < len(names):
        parts.append(Text(f"{counted(len(shown), 'image')} of the {len(names)} are shown, evenly chosen; the tables have all.", "note"))
    anchors = {name: f"image-{i}" for i, name in enumerate(names, start=1)}
    parts.append(Gallery([_shot(name, list(group), anchors[name], len(methods) > 1) for name, group in _grouped(seen) if name in shown]))
    if failures:
        parts.append(not_explained([(each.get("image", ""), each.get("error", "")) for each in failures], ROWS))
    sections = [Section("Images", parts)]
    if len(labels) > 1:
        sections.append(_classes(labels, seen))
    sections.append(_figures(labels, seen, anchors))
    settings: dict[str, object] = {} if model is None else of_model(model)
    settings |= {"methods": methods, "layers": list(dict.fromkeys(str(each.told["layer"]) for each in seen))}
    sections.append(Section("Settings", (Facts(settings),)))
    facts = {"images": len(names), "maps": len(seen), "classes": len(labels), **({"failed": len(failures)} if failures else {})}
    title = (
        f"Where the network looks: {counted(len(names), 'image')}" if len(names) != 1 else f"Where the network looks: {Path(names[0]).name}"
    )
    return Page(title, lead, sections, facts)


def _grouped(seen: Iterable[Seen]) -> list[tuple[str, list[Seen]]]:
    groups: dict[str, list[Seen]] = {}
    for each in seen:
        groups.setdefault(str(each.told["image"]), []).append(each)
    return list(groups.items())


def _shot(name: str, group: Sequence[Seen], anchor: str, several: bool) -> Shot:
    """A photo beside all its maps."""
    photo = next((each.photo for each in group if each.photo is not None), None)
    pictures = [] if photo is None else [photo]
    labels = [] if photo is None else ["photo"]
    for each in group:
        if each.picture is not None:
            pictures.append(each.picture)
            labels.append(_words(each.told, several))
    note = "; ".join(dict.fromkeys(_words(each.told, several) for each in group)) if len(pictures) < 1 + len(group) or not pictures else ""
    lost = "the photo is not where it was" if photo is None else ""
    return Shot(
        pictures,
        Path(name).name,
        Path(name).name,
        "; ".join(dict.fromkeys(each for each in (note, *(each.told.get("note", "") for each in group), lost) if each)),
        labels,
        anchor=anchor,
        words=list(dict.fromkeys(str(each.told[name]) for each in group for name in ("label", "method", "layer"))),
        grid=_grid(group, len(pictures)),
    )


def _grid(group: Sequence[Seen], count: int) -> Grid | None:
    """A row for each method and a column for each class, where a photo has several of both; the last of its pictures are those of `group`.

    A method that made several maps for a class, at several layers or with several options, has as many rows, headed by what differs.
    """
    pictured = [each for each in group if each.picture is not None]
    columns: dict[str, list[Seen]] = {}
    rows: dict[tuple[str, int], str] = {}
    cells: dict[tuple[int, int], int] = {}
    repeats: Counter[tuple[str, str]] = Counter()
    for number, each in enumerate(pictured, start=count - len(pictured)):
        label = str(each.told["label"])
        columns.setdefault(label, []).append(each)
        heading = " · ".join([str(each.told["method"]), *_particulars(each, pictured)])
        key = heading, repeats[heading, label]
        repeats[heading, label] += 1
        rows.setdefault(key, heading if not key[1] else f"{heading} ({key[1] + 1})")
        cells[list(rows).index(key), list(columns).index(label)] = number
    if len(rows) < 2 or len(columns) < 2:
        return None
    return Grid(list(rows.values()), [_words(maps[0].told, False) for maps in columns.values()], cells)


def _particulars(seen: Seen, others: Sequence[Seen]) -> list[str]:
    """By what a map's layer and options differ from those of other maps by its method."""
    alike = [each.told for each in others if each.told["method"] == seen.told["method"]]
    found = [str(seen.told["layer"])] if len({str(told["layer"]) for told in alike}) > 1 else []
    options = seen.told.get("options")
    for name, value in options.items() if isinstance(options, dict) else ():
        if any(not isinstance(told.get("options"), dict) or told["options"].get(name) != value for told in alike):
            found.append(f"{name}: {value}")
    return found


def _words(told: dict[str, Any], several: bool) -> str:
    label = short(str(told["label"])) if told["id"] is not None else str(told["label"])
    sure = "" if told["probability"] is None else f" {chance(told['probability'])}"
    return f"{told['method']}: {label}{sure}" if several else f"{label}{sure}"


def _classes(labels: Sequence[str], seen: Sequence[Seen]) -> Section:
    """The classes in figures."""
    groups: dict[str, list[Seen]] = {label: [] for label in labels}
    for each in seen:
        groups[str(each.told["label"])].append(each)
    rows: list[list[Any]] = []
    for label, group in groups.items():
        chances = [each.told["probability"] for each in group if each.told["probability"] is not None]
        images = len({str(each.told["image"]) for each in group})
        rows.append([label, images, len(group), chance(sum(chances) / len(chances) if chances else None)])
    table = Table(["class", "images", "maps", "mean probability"], rows, "Classes that were explained", numeric=[3], filtered=True)
    return Section("Classes", (table,))


def _figures(labels: Sequence[str], seen: Sequence[Seen], anchors: dict[str, str]) -> Section:
    """Every map, class by class."""
    number = {label: i for i, label in enumerate(labels)}
    ordered = sorted(seen, key=lambda each: number[str(each.told["label"])])
    left = [Text(f"The table has the first {ROWS} maps; explanations.json has all.", "note")] if len(ordered) > ROWS else []
    return Section("Figures", (_table(ordered, anchors), *left))


def _table(seen: Sequence[Seen], anchors: dict[str, str]) -> Table:
    head = ["image", "method", "class", "layer", "score", "probability", "box (left, top, right, bottom)"]
    rows = [
        [
            Cell(Path(str(t["image"])).name, to=anchors.get(str(t["image"]), "")),
            t["method"],
            short(str(t["label"])) if t["id"] is not None else str(t["label"]),
            t["layer"],
            t["score"],
            chance(t["probability"]),
            "none" if t.get("box") is None else ", ".join(map(str, t["box"])),
        ]
        for t in (each.told for each in seen[:ROWS])
    ]
    return Table(head, rows, "Every map", numeric=[5], filtered=True)
