"""The images of an evaluation that are worth a look, method by method and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from lucidcam.evaluation.gallery import Shot as Kept
from lucidcam.evaluation.report import Report
from lucidcam.outputs.html import Fold, Gallery, Part, Section, Shot, Text
from lucidcam.reports import _files as files
from lucidcam.utils.text import short

TITLES = {
    "best": "Best",
    "worst": "Worst",
    "random": "Drawn at random",
    "beaten": "A baseline did better",
}


def sections(shots: Sequence[Kept], folder: Path, report: Report) -> list[Section]:
    """A section per method, in the report's order."""

    @cache
    def opened(name: str) -> Image.Image | None:
        return files.kept(folder, name)

    found = []
    methods = [each for each in report.methods if any(shot.method == each for shot in shots)]
    for method in methods:
        parts: list[Part] = []
        for group, title in TITLES.items():
            own = [each for each in shots if (each.method, each.group) == (method, group)]
            if own:
                gallery = Gallery([_shot(each, opened(each.photo), opened(each.picture)) for each in own])
                level = _level(own, report) if group in ("best", "worst") else ""
                told = [Text(level, "note")] if level else []
                parts.append(Fold(_title(title, own[0]), (*told, gallery), open=group == "best" or len(methods) == 1, heading=True))
        found.append(Section(method, parts))
    metric = shots[0].metric.replace("_", " ")
    lead = Text(
        f"Images chosen by {metric}. Each photo stands beside its map; what the data marks as the class that is shown is framed in white."
    )
    return [Section("Galleries", (lead, *found))]


def _level(shots: Sequence[Kept], report: Report) -> str:
    """What is to be said of images that are left out although they are as good, or as bad, as the last one shown; "": nothing."""
    values, last = report.values.get((shots[0].method, shots[0].metric)), shots[-1].value
    if values is None:
        return ""
    shown = sum(shot.value == last for shot in shots)
    count = int((values == last).sum())
    return "" if count <= shown else f"{count} images tie at {last:.3g}; {shown} of them {'is' if shown == 1 else 'are'} shown."


def _title(title: str, first: Kept) -> str:
    return f"{title}: {first.against}" if first.against else title


def _shot(kept: Kept, photo: Image.Image | None, picture: Image.Image | None) -> Shot:
    pictures = [each for each in (photo, picture) if each is not None]
    labels = [label for label, each in (("photo", photo), (short(kept.shown) or kept.method, picture)) if each is not None]
    value = f"{kept.metric.replace('_', ' ')} {kept.value:.3g}"
    theirs = "" if kept.theirs is None else f"; {kept.against} {kept.theirs:.3g}"
    lost = "; not all of its pictures can be read any more" if len(pictures) < 2 else ""
    name = Path(kept.image).name
    words = tuple(dict.fromkeys((*kept.labels, kept.shown, kept.method, kept.against)))
    return Shot(pictures, name, f"{name}, {kept.method}", f"{value}{theirs}{lost}", labels, words=words)
