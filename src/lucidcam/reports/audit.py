"""Audits: every finding in words, with its figures and evidence; then the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lucidcam.auditing import KINDS, Audit, Evidence, read
from lucidcam.auditing.findings import AUDIT
from lucidcam.outputs.html import Bar, Bars, Cell, Facts, Fold, Gallery, Page, Part, Section, Shot, Table, Text
from lucidcam.reports import _files as files
from lucidcam.reports._base import Kind, kinds
from lucidcam.stream.explainer import PREDICTED
from lucidcam.utils.text import figure, short

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
    sections.append(_coverage(document))
    rest = (_classes(document), _clusters(result, document), _together(document), _confusions(result, document))
    sections += [section for section in rest if section.parts]
    sections += _confidence(document)
    if document["problems"]:
        rows = [[each["name"], each["error"]] for each in document["problems"][:ROWS]]
        sections.append(Section("Left out", (Table(["what", "why"], rows, "What could not be used", filtered=True),)))
    sections.append(Section("Settings", (Facts(document["settings"]),)))
    facts = {
        "images": document["images"],
        "classes": len(document["classes"]),
        "findings": len(found),
        "tried": sum(document["tried"].values()),
        "not tried": len(document["untried"]),
    }
    settings = document["settings"]
    return Page(f"Audit of {settings['model']} on {settings['data']}", _lead(document), sections, facts)


def _lead(document: Mapping[str, Any]) -> str:
    found, lead = document["findings"], str(document["verdict"])
    return f"{lead} {found[0]['words']}" if found else lead


def _coverage(document: Mapping[str, Any]) -> Section:
    """What was tried, with its figures, and what was not, and why: without it a verdict says more than it knows."""
    rows = []
    for each in document["trials"][:ROWS]:
        effect = each["effect"]
        interval = Cell(figure(effect["mean"]), small=f"{figure(effect['low'])} to {figure(effect['high'])}")
        what = " ".join(filter(None, (each["kind"], short(each["beside"]), each["where"])))
        changes = [_moved(each[name]) for name in ("taken_out", "put_in")]
        p = "–" if each["p"] is None else f"{each['p']:.1g}"
        rows.append([what, short(each["label"]), interval, *changes, p, "confirmed" if each["confirmed"] else each["reason"]])
    note = (
        "Effect: the smallest of what a trial's changes do to the class's probability, by themselves and beyond their controls, with its "
        "95 % interval; taken out, put in: mean probability before and after, and of the control."
    )
    head = ["suspicion", "class", "effect", "taken out", "put in", "p", "result"]
    tried = Table(head, rows, "Tried", note, numeric=(2, 5)) if rows else Text("Nothing could be tried.", "note")
    untried = []
    for each in document["untried"][:ROWS]:
        untried.append([each["what"], ", ".join(map(short, each["classes"])) or "all", each["reason"], each["needs"] or "–"])
    missing = Table(["not tried", "classes", "why", "needs"], untried, "Not tried: what is listed here may be there all the same")
    return Section("What was tried, and what was not", (tried, missing))


def _moved(outcome: Mapping[str, Any] | None) -> str:
    return "–" if outcome is None else f"{figure(outcome['before'])} → {figure(outcome['after'])} (control {figure(outcome['control'])})"


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
            interval = Cell(figure(effect["mean"]), small=f"{figure(effect['low'])} to {figure(effect['high'])}")
            scores = [figure(outcome[key]) for key in ("before", "after", "control")]
            rows.append([words, *scores, interval, f"{outcome['p']:.1g}", outcome["images"]])
    if rows:
        head = ["suspect", "before", "after", "control", "effect", "p", "images"]
        note = "Mean probability of the class; effect: how much further it moves than in the control, with its 95 % interval; p: one-sided."
        yield Table(head, rows, "What happened to the score", note, numeric=(1, 2, 3, 4, 5))


def _evidence(result: Audit | Saved, number: int, finding: Mapping[str, Any]) -> Iterator[Part]:
    kept = result.findings[number].evidence if isinstance(result, Audit) else ()
    shots = _shots(result, kept, finding["evidence"], (finding["label"], finding["beside"], finding["kind"]))
    if shots:
        selection = str(finding["evidence"][0].get("selection", ""))
        yield Gallery(shots, f"Evidence: {selection}" if selection else "Evidence")
    elif finding["evidence"]:
        yield Text("The pictures of this finding cannot be read any more.", "note")


def _shots(
    result: Audit | Saved, kept: Sequence[Evidence], told: Sequence[Mapping[str, Any]], classes: Sequence[str], before: str = ""
) -> list[Shot]:
    """Pictures that stand side by side: those in memory, or those in the folder; `before` stands before each caption.

    They are found by the names of `classes`, too.
    """
    found = []
    for place, entry in enumerate(told):
        pictures = list(_pictures(result, entry) if isinstance(result, Saved) else kept[place].pictures)
        if pictures:
            labels = [caption for caption, _ in pictures]
            name = f"{before}{Path(entry['name']).name}"
            words = (*labels, *(str(label) for label in classes))
            found.append(Shot([picture for _, picture in pictures], name, f"{name}: {', '.join(labels)}", labels=labels, words=words))
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
            cells.append("–" if value is None else Cell(figure(value["mean"]), small=f"{figure(value['low'])} to {figure(value['high'])}"))
        right = [f"{row['predicted']:.0%}"] if labelled else []
        rows.append([short(row["label"]), row["images"], *right, figure(row["probability"]), *cells])
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
        by_class.setdefault(row["label"], []).extend(_shots(result, kept, row["evidence"], (row["label"],), f"kind {row['number']}: "))
    if not rows:
        return Section("Kinds of maps", ())
    note = (
        "Maps of one class that look at the same places, off the object where that is marked. A kind says where the network looks; "
        "whether that decides is what the findings are about."
    )
    head = Table(["class", "kind", "images", "share"], rows[:ROWS], "Clusters of maps", note, numeric=(3,))
    nearest = "Images whose maps are nearest to the mean of their kind"
    folds = [Fold(short(label), (Gallery(shots, nearest),)) for label, shots in by_class.items() if shots]
    return Section("Kinds of maps", (head, *folds))


def _confusions(result: Audit | Saved, document: Mapping[str, Any]) -> Section:
    told = document["confusions"]
    rows = [[short(row["label"]), short(row["predicted"]), row["images"]] for row in told[:ROWS]]
    if not rows:
        return Section("Confusions", ())
    shots: list[Shot] = []
    for number, row in enumerate(told):
        kept = result.confusions[number]["evidence"] if isinstance(result, Audit) else ()
        before = f"{short(row['label'])} taken for {short(row['predicted'])}: "
        shots += _shots(result, kept, row.get("evidence", ()), (row["label"], row["predicted"]), before)
    beside = (Gallery(shots, "The pairs of most images; of each a few drawn at random, with the maps of both classes"),) if shots else ()
    return Section(
        "Confusions", (*beside, Fold("All pairs", (Table(["label", "predicted", "images"], rows, "Images taken for another class"),)))
    )


def _confidence(document: Mapping[str, Any]) -> list[Section]:
    bins = document["calibration"]
    if not bins:
        return []
    rows = [
        [
            f"{figure(row['from'], 1)} to {figure(row['to'], 1)}",
            row["images"],
            *(figure(row[name]) for name in ("confidence", "accuracy")),
            "–" if row["inside"] is None else figure(row["inside"]),
        ]
        for row in bins
    ]
    head = ["confidence", "images", "mean confidence", "accuracy", "energy on object"]
    return [Section("Confidence", (Table(head, rows, "Confidence, accuracy and maps", numeric=(2, 3, 4)),))]
