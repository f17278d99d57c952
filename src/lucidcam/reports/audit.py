"""Audits: every finding in words, with its figures and evidence; then the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lucidcam.auditing import KINDS, Audit, Evidence, read
from lucidcam.auditing.findings import AUDIT
from lucidcam.explainer import PREDICTED
from lucidcam.outputs.html import Bar, Bars, Cell, Facts, Fold, Gallery, Page, Part, Section, Shot, Table, Text
from lucidcam.reports import _files as files
from lucidcam.reports._base import Kind, kinds
from lucidcam.wording import counted, short

ROWS = 200
"""Rows of each table; audit.json has all."""


@dataclass(frozen=True, eq=False)
class Saved:
    """An audit as `lucidcam audit` wrote it.

    Attributes:
        document: what `audit.json` holds.
        folder: where the pictures are.
    """

    document: Mapping[str, Any]
    folder: Path = field(repr=False)


@kinds.register_class("audit")
class AuditPage(Kind):
    """What `lucidcam.audit` returns, or writes."""

    about = "an audit"
    file = AUDIT

    def fits(self, result: Any) -> bool:
        """See `Kind.fits`."""
        return isinstance(result, (Audit, Saved))

    def page(self, result: Audit | Saved) -> Page:  # type: ignore[override]
        """The page.

        Args:
            result: of the audit.

        Raises:
            DataError: the folder's `audit.json` is damaged.
        """
        if isinstance(result, Audit):
            return _page(result, result.to_dict())
        with files.reading(result.folder / self.file, "an audit"):
            return _page(result, result.document)

    def read(self, folder: Path) -> Saved:
        """See `Kind.read`."""
        return Saved(read(folder), folder)


def _page(result: Audit | Saved, document: Mapping[str, Any]) -> Page:
    found = document["findings"]
    sections = [
        Section(f"{number}. {_title(each)}", [*_finding(each), *_evidence(result, number - 1, each)], each["words"])
        for number, each in enumerate(found, start=1)
    ]
    if len(found) > 1:
        sections.insert(0, Section("Findings", (_overview(found),)))
    rest = (_classes(document), _clusters(result, document), _together(document), _confusions(result, document))
    sections += [section for section in rest if section.parts]
    sections += _confidence(document)
    if document["problems"]:
        rows = [[each["name"], each["error"]] for each in document["problems"][:ROWS]]
        sections.append(Section("Left out", (Table(["what", "why"], rows, "What could not be used"),)))
    tried = ", ".join(f"{count} × {kind}" for kind, count in document["tried"].items())
    sections.append(Section("Settings", (Facts({**document["settings"], "suspicions tried": tried}),)))
    facts = {
        "images": document["images"],
        "classes": len(document["classes"]),
        "findings": len(found),
        "tried": sum(document["tried"].values()),
    }
    settings = document["settings"]
    return Page(f"Audit of {settings['model']} on {settings['data']}", _lead(document), sections, facts)


def _lead(document: Mapping[str, Any]) -> str:
    found, tried = document["findings"], sum(document["tried"].values())
    lead = str(document["verdict"])
    if found:
        return f"{lead} {found[0]['words']}"
    if tried:
        lead += (
            f" {counted(tried, 'suspicion')} arose; changing the images there did not change the scores more than changing them elsewhere."
        )
    return lead


def _title(finding: Mapping[str, Any]) -> str:
    label = f"“{short(finding['label'])}”: " if finding["label"] else ""
    named = {"companion": "recognised by", "confusion": "taken for"}.get(finding["kind"])
    what = KINDS[finding["kind"]] if named is None else f"{named} “{short(finding['beside'])}”"
    return f"{label}{what}"


def _overview(found: Sequence[Mapping[str, Any]]) -> Bars:
    bars = [
        Bar(f"{number}. {each['kind']} {short(each['label'])}", *(each["effect"][name] for name in ("mean", "low", "high")))
        for number, each in enumerate(found, start=1)
    ]
    return Bars(bars, "Size of each finding, with its 95 % interval over images", digits=2)


def _finding(finding: Mapping[str, Any]) -> Iterator[Part]:
    """What changing the images did."""
    rows = []
    for name, words in (("taken_out", "taken out of images that have it"), ("put_in", "put into images of other classes")):
        outcome = finding[name]
        if outcome is not None:
            effect = outcome["effect"]
            interval = Cell(f"{effect['mean']:.2f}", small=f"{effect['low']:.2f} to {effect['high']:.2f}")
            scores = [f"{outcome[key]:.2f}" for key in ("before", "after", "control")]
            rows.append([words, *scores, interval, f"{outcome['p']:.1g}", outcome["images"]])
    if rows:
        head = ["suspect", "before", "after", "control", "effect", "p", "images"]
        note = "Mean probability of the class; effect: how much further it moves than in the control, with its 95 % interval; p: one-sided."
        yield Table(head, rows, "What happened to the score", note, numeric=(1, 2, 3, 4, 5))


def _evidence(result: Audit | Saved, number: int, finding: Mapping[str, Any]) -> Iterator[Part]:
    kept = result.findings[number].evidence if isinstance(result, Audit) else ()
    shots = _shots(result, kept, finding["evidence"])
    if shots:
        yield Gallery(shots, "Evidence")
    elif finding["evidence"]:
        yield Text("The pictures of this finding cannot be read any more.", "note")


def _shots(result: Audit | Saved, kept: Sequence[Evidence], told: Sequence[Mapping[str, Any]], before: str = "") -> list[Shot]:
    """Pictures that stand side by side: those in memory, or those in the folder; `before` stands before each caption."""
    found = []
    for place, entry in enumerate(told):
        pictures = list(_pictures(result, entry) if isinstance(result, Saved) else kept[place].pictures)
        if pictures:
            labels = [caption for caption, _ in pictures]
            name = f"{before}{Path(entry['name']).name}"
            found.append(Shot([picture for _, picture in pictures], name, f"{name}: {', '.join(labels)}", labels=labels))
    return found


def _pictures(result: Saved, entry: Mapping[str, Any]) -> Iterator[tuple[str, Image.Image]]:
    for each in entry.get("pictures", ()):
        picture = files.kept(result.folder, each["file"])
        if picture is not None:
            yield each["caption"], picture


def _classes(document: Mapping[str, Any]) -> Section:
    rows, labelled = [], document["settings"].get("target") != PREDICTED
    for row in document["classes"][:ROWS]:
        cells = []
        for name in ("inside", "whole", "object_removed", "context_removed"):
            value = row.get(name)
            cells.append("–" if value is None else Cell(f"{value['mean']:.2f}", small=f"{value['low']:.2f} to {value['high']:.2f}"))
        right = [f"{row['predicted']:.0%}"] if labelled else []
        rows.append([short(row["label"]), row["images"], *right, f"{row['probability']:.2f}", *cells])
    head = [
        "class",
        "images",
        *(["predicted"] if labelled else []),
        "probability",
        "energy on object",
        "whole image",
        "object removed",
        "context removed",
    ]
    note = (
        "Energy: share of the map on the class's own objects. The last three: the class's probability in a sample of images, as they are, "
        f"with the object filled in ({document['settings']['fill']}), and with all but the object at the input's zero; – where nothing is "
        "marked."
    )
    return Section("Classes", (Table(head, rows, "Each class in figures", note, numeric=range(2, len(head))),))


def _together(document: Mapping[str, Any]) -> Section:
    rows = [
        [short(row["label"]), short(row["beside"]), row["images"], f"{row['share']:.0%}", row["attention_own"], row["attention_beside"]]
        for row in document["together"][:ROWS]
    ]
    head = ["maps of", "beside", "images", "share", "energy on its own objects", "energy on the other's"]
    return Section("Labels that occur together", (Table(head, rows, "And where the maps of the first look", numeric=(3,)),) if rows else ())


def _clusters(result: Audit | Saved, document: Mapping[str, Any]) -> Section:
    """Where the maps of each class look: its kinds of maps, and images of each."""
    told = document.get("clusters", ())
    rows, by_class = [], dict[str, list[Shot]]()
    for number, row in enumerate(told):
        rows.append([short(row["label"]), row["number"], row["images"], f"{row['images'] / row['of']:.0%}"])
        kept = result.clusters[number].evidence if isinstance(result, Audit) else ()
        by_class.setdefault(row["label"], []).extend(_shots(result, kept, row["evidence"], f"kind {row['number']}: "))
    if not rows:
        return Section("Kinds of maps", ())
    note = (
        "Maps of one class that look at the same places, off the object where that is marked. A kind says where the network looks; "
        "whether that decides is what the findings are about."
    )
    head = Table(["class", "kind", "images", "share"], rows[:ROWS], "Clusters of maps", note, numeric=(3,))
    folds = [Fold(short(label), (Gallery(shots),)) for label, shots in by_class.items() if shots]
    return Section("Kinds of maps", (head, *folds))


def _confusions(result: Audit | Saved, document: Mapping[str, Any]) -> Section:
    told = document["confusions"]
    rows = [[short(row["label"]), short(row["predicted"]), row["images"]] for row in told[:ROWS]]
    if not rows:
        return Section("Confusions", ())
    shots: list[Shot] = []
    for number, row in enumerate(told):
        kept = result.confusions[number]["evidence"] if isinstance(result, Audit) else ()
        shots += _shots(result, kept, row.get("evidence", ()), f"{short(row['label'])} taken for {short(row['predicted'])}: ")
    beside = (Gallery(shots, "The pairs of most images, with the maps of both classes"),) if shots else ()
    return Section(
        "Confusions", (*beside, Fold("All pairs", (Table(["label", "predicted", "images"], rows, "Images taken for another class"),)))
    )


def _confidence(document: Mapping[str, Any]) -> list[Section]:
    bins = document["calibration"]
    if not bins:
        return []
    rows = [
        [
            f"{row['from']:.1f} to {row['to']:.1f}",
            row["images"],
            *(f"{row[name]:.2f}" for name in ("confidence", "accuracy")),
            "–" if row["inside"] is None else f"{row['inside']:.2f}",
        ]
        for row in bins
    ]
    head = ["confidence", "images", "mean confidence", "accuracy", "energy on object"]
    return [Section("Confidence", (Table(head, rows, "Confidence, accuracy and maps", numeric=(2, 3, 4)),))]
