"""Drawings of beams with labels and no boxes; then ask where the network saw it: the fixed end, the crack, the load.

python examples/train_beams.py [--out DIR] [--count N] [--epochs N]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from rich import print
from rich.table import Table

import lucidcam
from lucidcam.imaging.render import draw_boxes, panel
from lucidcam.train import train_gap

SIZE = 64
"""Pixels per side of a drawing."""

FINE = 6
"""A drawing is made so many times as large, then reduced: smooth lines."""

CELL = 4
"""Pixels per side of a cell of the network's map: 16 × 16 for 64 × 64 pixels."""

PARTS = ("fixed left", "fixed right", "crack", "point load", "distributed load")
"""What a drawing may show; each is a label of its own."""

TOLERANCES = (CELL, 2 * CELL)
"""Pixels between a map's maximum and a part that still hit: a cell of the map, and two, an eighth of the drawing."""

BASELINES = ("centre_point", "random", "sobel_edges")
SHOWN = 192
WHITE = (255, 255, 255)

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Beam:
    """A drawing, and where its parts are.

    Attributes:
        pixels: `[64, 64, 3]`.
        parts: the box of each part that is there.
    """

    pixels: Pixels = field(repr=False)
    parts: dict[str, Box]

    def sample(self, name: str) -> lucidcam.Sample:
        """With a label, and a box, for each part."""
        return lucidcam.Sample(self.pixels, name, tuple(self.parts), tuple(lucidcam.Object(*part) for part in self.parts.items()))


class Sheet:
    """Paper on which a beam is drawn, turned by a small angle around the middle.

    Args:
        rng: the draw.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.paper = Image.new("L", (SIZE * FINE, SIZE * FINE), int(rng.integers(215, 256)))
        self.pen = ImageDraw.Draw(self.paper)
        self.ink = int(rng.integers(0, 80))
        self.angle = math.radians(rng.uniform(-6, 6))

    def turned(self, points: Sequence[Point]) -> list[Point]:
        """Where points of the drawing come to lie on the paper."""
        cosine, sine, middle = math.cos(self.angle), math.sin(self.angle), SIZE / 2
        return [
            (middle + (x - middle) * cosine - (y - middle) * sine, middle + (x - middle) * sine + (y - middle) * cosine) for x, y in points
        ]

    def line(self, *points: Point, width: float = 1.1, fill: bool = False) -> list[Point]:
        """Draw a line, or fill its inside; returns its points on the paper."""
        where = self.turned(points)
        large = [(x * FINE, y * FINE) for x, y in where]
        if fill:
            self.pen.polygon(large, fill=self.ink)
        else:
            self.pen.line(large, fill=self.ink, width=round(width * FINE), joint="curve")
        return where

    def arrow(self, x: float, tail: float, tip: float) -> list[Point]:
        """Draw an arrow downwards."""
        return self.line((x, tail), (x, tip - 1)) + self.line((x - 2, tip - 4), (x + 2, tip - 4), (x, tip), fill=True)

    def scanned(self) -> Pixels:
        """The paper in three channels, a little noisy."""
        reduced = np.asarray(self.paper.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
        noisy = reduced + self.rng.normal(0, 4, reduced.shape)
        return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def around(points: Sequence[Point], margin: float = 1.0) -> Box:
    """The box around points, and the width of a line."""
    x, y = zip(*points, strict=True)
    return tuple(float(np.clip(side, 0, SIZE)) for side in (min(x) - margin, min(y) - margin, max(x) + margin, max(y) + margin))  # type: ignore[return-value]


def draw_fixed_end(sheet: Sheet, x: float, top: float, bottom: float, side: int) -> Box:
    """A wall with hatching on the side that is away from the beam: −1 on the left, 1 on the right."""
    reach, deep, apart = sheet.rng.uniform(4, 7), 5.0, 3.5
    points = sheet.line((x, top - reach), (x, bottom + reach), width=1.6)
    for y in np.arange(top - reach, bottom + reach - 1, apart):
        points += sheet.line((x, float(y)), (x + side * deep, float(y) + apart), width=1)
    return around(points)


def draw_point_load(sheet: Sheet, left: float, right: float, top: float) -> Box:
    """A single arrow."""
    return around(sheet.arrow(sheet.rng.uniform(left + 4, right - 4), top - sheet.rng.uniform(13, 17), top))


def draw_distributed_load(sheet: Sheet, left: float, right: float, top: float) -> Box:
    """Several arrows under a line."""
    high, width = sheet.rng.uniform(8, 12), min(sheet.rng.uniform(13, 22), right - left - 5.5)
    start = sheet.rng.uniform(left + 2.5, right - 2.5 - width)
    points = sheet.line((start, top - high), (start + width, top - high))
    for x in np.linspace(start, start + width, max(3, round(width / 4.5))):
        points += sheet.arrow(float(x), top - high, top)
    return around(points)


def draw_crack(sheet: Sheet, left: float, right: float, top: float, bottom: float) -> Box:
    """A jagged line from one edge into the beam."""
    deep = sheet.rng.uniform(0.6, 0.95) * (bottom - top)
    x, y, step = sheet.rng.uniform(left + 5, right - 5), bottom, -deep / 4
    if sheet.rng.random() < 0.5:
        y, step = top, deep / 4
    return around(sheet.line(*((x + float(sheet.rng.uniform(0.5, 2.2)) * (-1) ** i, y + i * step) for i in range(5)), width=1.2))


def draw_dimension(sheet: Sheet, left: float, right: float, y: float) -> None:
    """A dimension line: it is in every drawing and means nothing here."""
    sheet.line((left, y), (right, y), width=0.7)
    for x in (left, right):
        sheet.line((x, y - 2), (x, y + 2), width=0.7)
        sheet.line((x - 1.5, y + 1.5), (x + 1.5, y - 1.5), width=0.7)


def draw_support(sheet: Sheet, x: float, bottom: float) -> None:
    """A triangle that the beam lies on: no label is about it."""
    sheet.line((x, bottom + 0.5), (x - 3.5, bottom + 6), (x + 3.5, bottom + 6), (x, bottom + 0.5), width=0.9)


def beam(seed: int, number: int, cantilever: bool = False) -> Beam:
    """A beam of its own for each seed and number. Fixed ends, crack and loads come and go independently.

    Args:
        seed: of the draw.
        number: of the beam.
        cantilever: one end is fixed at least, so that a free end tells that the other is fixed; otherwise it tells nothing, as a beam
            may also lie on two supports.
    """
    rng = np.random.default_rng([seed, number])
    sheet = Sheet(rng)
    left, length, high, top = rng.uniform(8, 13), rng.uniform(36, 43), rng.uniform(7, 11), rng.uniform(25, 34)
    right, bottom = left + length, top + high
    sheet.line((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    choices = [(True, False), (False, True), (True, True)] + [(False, False)] * (not cantilever)
    fixed = choices[int(rng.integers(len(choices)))]
    supports = int(rng.integers(2)) if any(fixed) else 2
    for place in rng.permutation([0.25, 0.75])[:supports]:
        draw_support(sheet, left + (place + rng.uniform(-0.1, 0.1)) * length, bottom)
    cracked, *loaded = (rng.random(3) < 0.5).tolist()
    spans = [(left, right)] * 2
    if all(loaded):  # side by side, in either order
        middle = left + rng.uniform(0.45, 0.55) * length
        spans = [(left, middle), (middle, right)][:: int(rng.choice([1, -1]))]
    parts: dict[str, Box] = {}
    for name, here, x, side in zip(PARTS, fixed, (left, right), (-1, 1), strict=False):
        if here:
            parts[name] = draw_fixed_end(sheet, x, top, bottom, side)
    if cracked:
        parts["crack"] = draw_crack(sheet, left, right, top, bottom)
    for name, draw, here, span in zip(PARTS[3:], (draw_point_load, draw_distributed_load), loaded, spans, strict=True):
        if here:
            parts[name] = draw(sheet, *span, top)
    draw_dimension(sheet, left, right, bottom + rng.uniform(10, 13))
    return Beam(sheet.scanned(), parts)


def samples(count: int, seed: int, cantilever: bool = False) -> list[lucidcam.Sample]:
    """Drawings with their labels and boxes; another seed gives others."""
    return [beam(seed, number, cantilever).sample(f"beam {number:05d}") for number in range(count)]


def train(marked: Sequence[lucidcam.Sample], folder: Path, epochs: int, seed: int = 0) -> lucidcam.Model:
    """Train a network to tell the labels of drawings; it is told no box."""
    trained = train_gap(
        [replace(each, objects=()) for each in marked],
        "small",
        out=folder,
        size=SIZE,
        classes=PARTS,
        augment="none",  # drawings are as many as one likes, and a mirror image is another answer
        epochs=epochs,
        batch_size=64,
        lr=1e-2,
        seed=seed,
        restart=True,
    )
    return trained.model


def accuracies(model: lucidcam.Model, marked: Sequence[lucidcam.Sample]) -> dict[str, float]:
    """How often each label is told rightly, there or not, in %."""
    with torch.inference_mode():
        inputs = torch.stack([each.tensor for each in model.prepare([each.image for each in marked])])
        scores = torch.cat([model.module(some) for some in inputs.split(100)]).numpy()
    truth = np.array([[label in each.labels for label in model.labels] for each in marked])
    return {label: 100 * float(each) for label, each in zip(model.labels, ((scores > 0) == truth).mean(0), strict=True)}


def pointing(model: lucidcam.Model, marked: Sequence[lucidcam.Sample]) -> dict[str, dict[str, float]]:
    """How often a map's maximum lies on its label's part, in %: of CAM, and of maps that know nothing; by map and tolerance, then by label.

    Each label that is true of a drawing counts, also where the network does not tell it. The maximum hits within so many pixels of the
    part's box. A beam that is fixed at both ends has two labels, and each one's map has to find its own end. What is not there (no crack,
    a free end) does not count.
    """
    metrics = [("pointing_game", {"tolerance": tolerance}) for tolerance in TOLERANCES]
    report = lucidcam.evaluate(model, list(marked), ["cam"], metrics, baselines=BASELINES, resamples=0)
    found = {}
    for method in report.methods:
        for metric, tolerance in zip((name for name in report.groups if name.startswith("pointing_game")), TOLERANCES, strict=True):
            hits = report.groups[metric][method]
            found[f"{method} ≤ {tolerance} px"] = {label: hits[label]["pointing_game"] for label in model.labels}
    return found


def cell(model: lucidcam.Model, sample: lucidcam.Sample, label: str) -> tuple[str, Image.Image]:
    """The map of one label over a drawing, with the boxes that nobody told the network."""
    found = lucidcam.explain(model, [sample.image], "cam", target=label)[0]
    large = enlarged(found.overlay(alpha=0.45))
    boxes = [tuple(round(side * SHOWN / SIZE) for side in thing.box) for thing in sample.objects if thing.label == label]
    return label, draw_boxes(large, boxes, (20, 20, 20))


def enlarged(picture: Image.Image) -> Image.Image:
    """Large enough to look at."""
    return picture.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)


def main(
    out: str | Path = "out/train_beams",
    count: int = 2000,
    test_count: int = 300,
    epochs: int = 8,
    cantilever: bool = False,
) -> tuple[dict[str, dict[str, float]], Path]:
    """Train, print how often the network is right and how often its maps are, and write a picture.

    Args:
        out: a folder.
        count: drawings to train on.
        test_count: others to test with.
        epochs: passes over the drawings.
        cantilever: see `beam`.

    Returns:
        By label: accuracy, and hits of each map; and where the picture is.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    model = train(samples(count, 0, cantilever), folder / "network", epochs)
    print(f"drawn and trained in {time.perf_counter() - begun:.0f} s")
    test = samples(test_count, 1, cantilever)
    hits = pointing(model, test)
    figures = {
        label: {"accuracy": right, **{method: each[label] for method, each in hits.items()}}
        for label, right in accuracies(model, test).items()
    }
    print(table_of(figures))
    path = folder / "beams.png"
    panel(sheet_of(model, test), height=SHOWN).save(path)
    return figures, path


def sheet_of(model: lucidcam.Model, test: Sequence[lucidcam.Sample]) -> list[list[tuple[str, Image.Image]]]:
    """Drawings with many parts, and the maps of their labels."""
    busy = [each for each in test if len(each.labels) == len(PARTS) - 1][:4]
    return [[("a drawing", enlarged(Image.fromarray(each.image))), *(cell(model, each, label) for label in each.labels)] for each in busy]


def table_of(figures: dict[str, dict[str, float]]) -> Table:
    """A row per figure, a column per label."""
    table = Table("in %", *figures)
    for name in next(iter(figures.values())):
        table.add_row(name, *(f"{each[name]:.1f}" for each in figures.values()))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/train_beams")
    parser.add_argument("--count", type=int, default=2000, help="drawings to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cantilever", action="store_true", help="one end is fixed at least: what follows from that?")
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.count, epochs=given.epochs, cantilever=given.cantilever)[1]}")
