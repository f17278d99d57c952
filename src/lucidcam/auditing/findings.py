"""What an audit found, in plain words, with its evidence; and the files that keep it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lucidcam.auditing.coverage import Coverage
from lucidcam.auditing.trials import Trial
from lucidcam.auditing.views import GRID, Grid
from lucidcam.errors import DataError
from lucidcam.imaging import render
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.picture_files import save_picture
from lucidcam.io.storage import check_writable, json_text, parsed_json, write_whole
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Mask, Problem
from lucidcam.stats.contingency import Estimate
from lucidcam.stream.explainer import PREDICTED
from lucidcam.utils.text import counted

AUDIT = "audit.json"

KINDS = {
    "watermark": "the same mark at the same place",
    "place": "a fixed place off the object",
    "background": "the background",
    "context": "the surroundings more than the object",
    "companion": "another class that stands beside it",
    "confusion": "taken for another class",
    "calibration": "confidence that is not the accuracy",
}
"""Kinds of findings, in words. The first five are shortcuts, and reported only where changing the images confirms them."""

SHORTCUTS = ("watermark", "place", "background", "context", "companion")


@dataclass(frozen=True, eq=False)
class Evidence(OneLineRepr):
    """One image of a finding.

    Attributes:
        name: of the image.
        pictures: side by side, with a caption each.
        changes: the class's probability before and after the changes that are shown; empty: nothing was changed.
        selection: how the image was chosen, of how many.
        contradicts: whether its own figures speak against the finding; a caption says so.
    """

    name: str
    pictures: tuple[tuple[str, Image.Image], ...] = field(repr=False)
    changes: tuple[float, ...] = ()
    selection: str = ""
    contradicts: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, for JSON."""
        return {"name": self.name, "changes": list(self.changes), "selection": self.selection, "contradicts": self.contradicts}


@dataclass(frozen=True, eq=False)
class Finding(OneLineRepr):
    """Something that is wrong with a network on a data set.

    Attributes:
        kind: one of `KINDS`.
        label: the class; "" where it is about all of them.
        words: what was found, in a few sentences.
        effect: its size, between 0 and 1, with its 95 % interval over images: what the class's probability loses without the shortcut, or
            gains with it, beyond what the control does; the share of confused images; the calibration error.
        images: images of the class (or of all) that the audit saw.
        share: how many of them have what was found.
        p: of the test that the control does as much, one-sided; None: nothing was tried.
        trial: what changing images did; None: nothing was tried.
        regions: of a fixed place, its cells in the network's input `[GRID, GRID]`.
        beside: the other class, of a companion or confusion.
        evidence: images of it.
    """

    kind: str
    label: str
    words: str
    effect: Estimate
    images: int
    share: float
    p: float | None = None
    trial: Trial | None = field(default=None, repr=False)
    regions: tuple[Mask, ...] = field(default=(), repr=False)
    beside: str = ""
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)

    @property
    def shortcut(self) -> bool:
        """Whether the class is recognised by something else than itself."""
        return self.kind in SHORTCUTS

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, for JSON."""
        return {
            "kind": self.kind,
            "label": self.label,
            "words": self.words,
            "effect": asdict(self.effect),
            "images": self.images,
            "share": self.share,
            "p": self.p,
            "taken_out": None if self.trial is None else self.trial.take.to_dict(),
            "put_in": None if self.trial is None or not self.trial.give.n else self.trial.give.to_dict(),
            "regions": [_box(region) for region in self.regions],
            "beside": self.beside,
            "evidence": [each.to_dict() for each in self.evidence],
        }


@dataclass(frozen=True, eq=False)
class Cluster(OneLineRepr):
    """A kind of a class's maps: images in which the network looks at the same places, off the object where that is marked.

    Attributes:
        label: the class.
        number: from 1, the kind of most images first.
        images: that are of this kind.
        of: images whose maps were compared, the half that suspicions arise on.
        mean: their mean map `[GRID, GRID]`, over the network's input.
        evidence: the images that are nearest to the mean; the first with the mean map, the others with their own.
    """

    label: str
    number: int
    images: int
    of: int
    mean: Grid = field(repr=False)
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, for JSON."""
        told = {"label": self.label, "number": self.number, "images": self.images, "of": self.of}
        return {**told, "evidence": [each.to_dict() for each in self.evidence]}


@dataclass(frozen=True, eq=False)
class Audit(OneLineRepr):
    """What `lucidcam.audit` returns.

    Attributes:
        findings: shortcuts first, each kind by the size of its effect.
        classes: each class in figures: images, accuracy, energy on the object, probability without object and without context.
        together: labels that occur in one image, with the attention that each gets.
        confusions: label, predicted class, images; of those of most images evidence, with the maps of both classes.
        calibration: bins of confidence.
        coverage: what was tried, with its figures, and what was not, with the reasons.
        problems: images and labels that could not be used.
        images: how many images were.
        settings: of the run.
        needed: images of a class that trials take.
        clusters: the kinds of maps of each class that was tried.
    """

    findings: tuple[Finding, ...]
    classes: tuple[Mapping[str, Any], ...] = field(repr=False)
    together: tuple[Mapping[str, Any], ...] = field(repr=False)
    confusions: tuple[Mapping[str, Any], ...] = field(repr=False)
    calibration: tuple[Mapping[str, Any], ...] = field(repr=False)
    coverage: Coverage = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    images: int
    settings: Mapping[str, Any] = field(repr=False)
    needed: int = 0
    clusters: tuple[Cluster, ...] = field(default=(), repr=False)

    @property
    def shortcuts(self) -> tuple[Finding, ...]:
        """Findings of classes that are recognised by something else than themselves."""
        return tuple(each for each in self.findings if each.shortcut)

    @property
    def labelled(self) -> bool:
        """Whether the classes are the images' own labels; else they are those that the network predicts, and cannot be wrong."""
        return self.settings.get("target") != PREDICTED

    @property
    def tried(self) -> dict[str, int]:
        """How many suspicions were tried, by kind."""
        return self.coverage.tried

    @property
    def accuracy(self) -> float | None:
        """Share of the images whose own class is the predicted one; None: it is not known, or an image has several classes."""
        if not self.labelled or self.settings.get("several_labels") or not self.classes:
            return None
        counts = [row["images"] for row in self.classes]
        return float(sum(count * row["predicted"] for count, row in zip(counts, self.classes, strict=True)) / sum(counts))

    @property
    def headline(self) -> str:
        """How many shortcuts were confirmed, or that nothing could be tried, and why."""
        images = counted(self.images, "image")
        if self.shortcuts:
            return f"{counted(len(self.shortcuts), 'shortcut')} found in {images}."
        if self.coverage.shortcuts_tried:
            return f"No shortcut was confirmed in {images}, which is no all-clear: only what is listed was tried."
        if any(row["images"] >= self.needed for row in self.classes):
            return f"Nothing can be said of shortcuts in {images}: no suspicion that can be tried arose."
        return f"Nothing can be said of shortcuts in {images}: no class has the {self.needed} images that a trial takes."

    @property
    def verdict(self) -> str:
        """What is to be said first: the headline, what was tried and what was not, and how often the network is right."""
        if not self.labelled:
            right = "The classes are the predicted ones: no labels were used, so how often the network is right is not known."
        elif self.accuracy is None:
            right = ""
        else:
            right = f"The network is right on {self.accuracy:.0%} of the images."
        return " ".join(filter(None, (self.headline, self.coverage.sentences, right)))

    def __str__(self) -> str:
        if not self.findings:
            return self.verdict
        return "\n".join(f"{number}. {each.words}" for number, each in enumerate(self.findings, start=1))

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain data, ready for JSON."""
        return {
            "verdict": self.verdict,
            "headline": self.headline,
            "accuracy": self.accuracy,
            "images": self.images,
            "findings": [each.to_dict() for each in self.findings],
            "classes": [_plain(each) for each in self.classes],
            "together": [_plain(each) for each in self.together],
            "clusters": [each.to_dict() for each in self.clusters],
            "confusions": [_plain(each) for each in self.confusions],
            "calibration": [_plain(each) for each in self.calibration],
            "tried": dict(self.tried),
            "trials": [each.to_dict() for each in self.coverage.hypotheses],
            "untried": [each.to_dict() for each in self.coverage.untried],
            "problems": [{"name": each.name, "error": each.error} for each in self.problems],
            "settings": dict(self.settings),
        }

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write `audit.json` and the evidence, a picture of each finding: `finding-1.png`, ….

        Args:
            out: a folder; it is made. Files of these names are replaced, where an audit wrote them.

        Returns:
            The folder.

        Raises:
            OptionError: nothing can be written there, or a file of these names is someone else's.
            DataError: a file cannot be written.
        """
        owned = check_place(out)
        folder = owned.folder
        folder.mkdir(parents=True, exist_ok=True)
        document = self.to_dict()
        for number, (finding, told) in enumerate(zip(self.findings, document["findings"], strict=True), start=1):
            _write_evidence(finding.evidence, told["evidence"], owned, f"evidence/{number}")
            if finding.evidence:
                told["picture"] = f"finding-{number}.png"
                save_picture(sheet(finding), owned.path(told["picture"]))
        for number, (cluster, told) in enumerate(zip(self.clusters, document["clusters"], strict=True), start=1):
            _write_evidence(cluster.evidence, told["evidence"], owned, f"clusters/{number}")
        for number, (row, told) in enumerate(zip(self.confusions, document["confusions"], strict=True), start=1):
            _write_evidence(row["evidence"], told["evidence"], owned, f"confusions/{number}")
        write_whole(owned.path(AUDIT), (json_text(document, indent=2, ensure_ascii=False) + "\n").encode())
        return folder


def check_place(out: str | os.PathLike[str]) -> OwnedFiles:
    """The files of a folder that an audit can be written to, found out before any work.

    Raises:
        OptionError: it cannot be, or a file of an audit's names is someone else's.
    """
    check_writable(out, AUDIT)
    owned = OwnedFiles(out)
    owned.check(AUDIT, "finding-*.png", *(f"{name}/*-*-*.png" for name in ("evidence", "clusters", "confusions")))
    return owned


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `Audit.save` wrote, as plain data.

    Raises:
        DataError: the folder holds no audit.
    """
    path = Path(folder).expanduser() / AUDIT
    try:
        found = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(folder)!r} holds no audit: {AUDIT} cannot be read ({error}).") from None
    if not isinstance(found, dict) or "findings" not in found:
        raise DataError(f"{str(path)!r} is no audit; expected the file that `lucidcam audit --out` writes.")
    problem = _problem(found)
    if problem:
        raise DataError(f"{str(path)!r} is damaged, or of another version: {problem}; audit again.")
    return found


def _problem(document: Mapping[str, Any]) -> str:
    """What `Audit.to_dict` would not have written; "" where there is nothing."""
    tables = ("findings", "classes", "together", "confusions", "calibration", "problems", "trials", "untried")
    wanted = {**dict.fromkeys(tables, list), "tried": dict, "settings": dict, "images": int, "verdict": str}
    for name, kind in wanted.items():
        if not isinstance(document.get(name), kind):
            return f"expected a {kind.__name__} as {name!r}, got {type(document.get(name)).__name__}"
    for name in tables:
        if not all(isinstance(row, dict) for row in document[name]):
            return f"expected objects in {name!r}"
    for number, each in enumerate(document["findings"], start=1):
        lacking = [name for name in ("kind", "label", "words", "effect", "taken_out", "put_in", "beside", "evidence") if name not in each]
        if lacking:
            return f"finding {number} has no {', '.join(lacking)}"
        if str(each["kind"]) not in KINDS:
            return f"finding {number} is of the unknown kind {each['kind']!r}"
    return ""


def sheet(finding: Finding) -> Image.Image:
    """A finding's evidence as one picture: a row per image, beneath how they were chosen."""
    title = finding.evidence[0].selection if finding.evidence else ""
    return render.panel([list(each.pictures) for each in finding.evidence], title, height=180)


def _write_evidence(evidence: Sequence[Evidence], told: Sequence[dict[str, Any]], owned: OwnedFiles, start: str) -> None:
    """Write the pictures, and tell of each where it is."""
    for shown, (each, entry) in enumerate(zip(evidence, told, strict=True), start=1):
        entry["pictures"] = []
        for place, (caption, picture) in enumerate(each.pictures, start=1):
            name = f"{start}-{shown}-{place}.png"
            save_picture(picture, owned.path(name))
            entry["pictures"].append({"caption": caption, "file": name})


def _box(region: Mask) -> list[float]:
    """A region's box as shares of the network's input: left, top, right, bottom."""
    rows, columns = np.nonzero(region)
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [float(each) / GRID for each in edges]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: asdict(value) if isinstance(value, Estimate) else value for key, value in row.items()}
    if "evidence" in row:
        found["evidence"] = [each.to_dict() for each in row["evidence"]]
    return found


def ranked(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Shortcuts first, then the rest; each by the size of the effect."""
    yield from sorted(findings, key=lambda each: (not each.shortcut, -each.effect.mean))
