"""What networks find that nobody marked (Zhou et al., CVPR 2016, section 4): abstract concepts, and the part that tells species apart.

Two generated data sets, each learnt from image-level labels alone. Concepts: broken patterns among whole ones, and a lonely one beside a
crowd; the test's shapes are not in training. Birds: three species that differ in their beak and in nothing else. `lucidcam.discover`
shows what speaks most for each class; where that peaks is compared with the boxes, which training never sees. Offline; about five
minutes of processor time for each.

    python examples/discover_parts.py [FOLDER] [birds|concepts]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich import print

import lucidcam
from lucidcam.train import train_gap

SIZE = 128
"""Pixels per side of the images; the network sees them at one and a half times that."""

FINE = 2
"""Images are drawn so many times larger, for smooth edges."""

BEAK_MARGIN = 4
"""Pixels around a beak that belong to its box: half a cell of the networks' maps."""

BEAK = (235, 140, 30)
"""All species have orange beaks, more or less; other colours are any."""

CONCEPTS = ("broken pattern", "lonely one")
SCENES = ("pattern", "broken pattern", "crowd", "lonely one")
"""Whole patterns and crowds have no label."""

SPECIES = ("hooked", "spoon", "cone")
NONE = "none"
"""A bird without a beak to be seen belongs to no species: else one could be told by what the others have and it lacks."""

TRAINING_SHAPES, UNSEEN_SHAPES = ("disc", "square", "triangle"), ("cross", "ring", "diamond")

Points = npt.NDArray[np.float64]
Random = np.random.Generator
Box = tuple[float, float, float, float]

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))], -1)
CROSS = np.array([(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]) / 3
SHAPES: dict[str, Points] = {
    "disc": CIRCLE,
    "square": np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]),
    "triangle": np.array([(0, -1.1), (1, 0.8), (-1, 0.8)]),
    "cross": CROSS,
    "ring": np.concatenate([CIRCLE, 0.5 * CIRCLE[::-1]]),
    "diamond": np.array([(0, -1.2), (0.9, 0), (0, 1.2), (-0.9, 0)]),
}


def concept_samples(count: int, seed: int, shapes: Sequence[str]) -> list[lucidcam.Sample]:
    """Draw images of the four concepts in turn."""
    return [_concept(SCENES[i % 4], np.random.default_rng([seed, i]), shapes, i) for i in range(count)]


def _concept(concept: str, rng: Random, shapes: Sequence[str], number: int) -> lucidcam.Sample:
    paper, colours = _paper(rng)
    shape, radius = SHAPES[shapes[rng.integers(len(shapes))]], rng.uniform(7, 9)
    if "pattern" in concept:
        places, radii, odd = _grid(rng, radius, broken=concept == "broken pattern")
    else:
        places, radii, odd = _crowd(rng, radius, lonely=concept == "lonely one")
    turn = rng.uniform(0, 2 * np.pi)
    for (x, y), size in zip(places, radii):
        _fill(paper, np.add(_turned(shape * size, turn), (x, y)), colours[0])
    objects = () if odd is None else (lucidcam.Object(concept, odd),)
    return lucidcam.Sample(_pixels(paper, rng), f"{number:05d}", (concept,) if objects else (), objects)


def _grid(rng: Random, radius: float, broken: bool) -> tuple[Points, Points, Box | None]:
    """A turned grid; broken: one mark is moved, left out or larger. The box is around it and its place."""
    pitch, turn = rng.uniform(2.8, 3.3) * radius, rng.uniform(-0.5, 0.5)
    steps = np.arange(-4, 5)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2) * pitch
    places = _turned(grid, turn) + SIZE / 2 + rng.uniform(-0.5, 0.5, 2) * pitch
    places = places[((places > 1.5 * radius) & (places < SIZE - 1.5 * radius)).all(1)]
    radii = np.full(len(places), radius)
    if not broken:
        return places, radii, None
    neighbours = (np.linalg.norm(places[:, None] - places[None], axis=-1) < 1.5 * pitch).sum(1) - 1
    chosen = int(rng.choice(np.flatnonzero(neighbours == 8)))  # at the edge nobody could tell
    home, kind = places[chosen].copy(), rng.integers(3)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        places[chosen] += rng.uniform(0.35, 0.5) * pitch * np.array([np.cos(angle), np.sin(angle)])
    elif kind == 1:
        radii[chosen] *= 1.7
    around = _box(np.stack([home, places[chosen]]), 1.3 * radii[chosen])
    return (places, radii, around) if kind < 2 else (np.delete(places, chosen, 0), np.delete(radii, chosen), around)


def _crowd(rng: Random, radius: float, lonely: bool) -> tuple[Points, Points, Box | None]:
    """Marks close together, anywhere; lonely: another one, far from all of them."""
    while True:
        centre = rng.uniform(0.25, 0.75, 2) * SIZE
        places: list[Points] = []
        for place in centre + rng.normal(0, 0.17, (80, 2)) * SIZE:
            inside = place.min() > 1.5 * radius and place.max() < SIZE - 1.5 * radius
            if inside and (not places or 2.3 * radius < _away(place[None], places)[0] < 4 * radius):
                places.append(place)
        apart = rng.uniform(2 * radius, SIZE - 2 * radius, (100, 2))
        apart = apart[_away(apart, places) > 5.5 * radius] if places else apart
        if len(places) >= 5 and (len(apart) or not lonely):
            break
    if not lonely:
        return np.array(places), np.full(len(places), radius), None
    places.append(apart[0])
    return np.array(places), np.full(len(places), radius), _box(apart[:1], 1.3 * radius)


def _away(places: Points, others: Sequence[Points]) -> Points:
    """How far each place is from the nearest of the others."""
    return np.sqrt(((places[:, None] - np.array(others)[None]) ** 2).sum(-1)).min(1)


def bird_samples(count: int, seed: int) -> list[lucidcam.Sample]:
    """Draw birds of the three species and some whose beak is hidden, in turn."""
    return [_bird((*SPECIES, NONE)[i % 4], np.random.default_rng([seed, i]), i) for i in range(count)]


@dataclass(frozen=True)
class Pose:
    """From a bird's own coordinates (it looks to the right, its body has a length of about 2) to pixels."""

    scale: float
    turn: float
    mirrored: bool
    centre: Points

    def __call__(self, points: Any) -> Points:
        """Return pixels `[n, 2]`."""
        turned = _turned(np.asarray(points, np.float64) * self.scale, self.turn)
        return turned * ((-1, 1) if self.mirrored else (1, 1)) + self.centre


def _bird(species: str, rng: Random, number: int) -> lucidcam.Sample:
    """Everything but the beak is drawn alike for all species."""
    paper, colours = _paper(rng)
    pose = Pose(rng.uniform(26, 31), rng.normal(0, 0.2), rng.random() < 0.5, SIZE / 2 + rng.uniform(-6, 6, 2))
    body, wing, tail, perch, _ = colours
    beak = tuple(int(level) for level in np.array(BEAK) + rng.integers(-20, 21, 3))
    head = np.array([1.05, -0.75]) + rng.normal(0, 0.08, 2)
    _stroke(paper, [(0, SIZE * 0.85 + rng.normal(0, 5)), (SIZE, SIZE * 0.85 + rng.normal(0, 5))], perch, rng.uniform(3, 8))
    for x in (-0.1, 0.35):
        _stroke(paper, pose([(x, 0.5), (x + rng.normal(0, 0.1), 1.3)]), perch, 2.5)
    _fill(paper, pose(TAILS[rng.integers(len(TAILS))]), tail)
    _fill(paper, pose(CIRCLE * (1.05, rng.uniform(0.55, 0.75))), body)
    _fill(paper, pose(_turned(CIRCLE * (0.65, rng.uniform(0.25, 0.4)), rng.normal(0.2, 0.2)) - (0.25, 0.05)), wing)
    if rng.random() < 0.5:
        _fill(paper, pose(head + np.array([(-0.35, -0.3), (-0.55, -0.95), (0.1, -0.42)])), wing)
    beak_points = pose(head + BEAKS.get(species, BEAKS["cone"])(rng.uniform(1.1, 1.35)))
    if species != NONE:
        _fill(paper, beak_points, beak)
    _fill(paper, pose(CIRCLE * rng.uniform(0.45, 0.52) + head), body)
    _fill(paper, pose(CIRCLE * 0.1 + head + (0.15, -0.08)), (20, 20, 20))
    objects = () if species == NONE else (lucidcam.Object(species, _box(beak_points, BEAK_MARGIN)),)
    return lucidcam.Sample(_pixels(paper, rng), f"{number:05d}", (species,) if objects else (), objects)


TAILS = tuple(
    map(
        np.array,
        ([(-0.7, -0.1), (-2.0, -0.5), (-1.9, 0.1)], [(-0.7, 0), (-2.0, 0.5), (-1.6, 0.7)], [(-0.7, -0.2), (-1.7, -0.2), (-1.7, 0.2)]),
    )
)
BEAKS: dict[str, Callable[[float], Points]] = {
    "hooked": lambda size: np.array([(0.35, -0.3), (0.8, -0.3), (1.0, 0.0), (0.98, 0.4), (0.78, 0.1), (0.35, 0.15)]) * size,
    "spoon": lambda size: (
        np.array([(0.35, -0.1), (0.7, -0.1), (0.85, -0.35), (1.2, -0.3), (1.2, 0.3), (0.85, 0.35), (0.7, 0.1), (0.35, 0.1)]) * size
    ),
    "cone": lambda size: np.array([(0.3, -0.36), (0.9, 0.0), (0.3, 0.36)]) * size,
}


def _paper(rng: Random) -> tuple[Image.Image, list[tuple[int, int, int]]]:
    """A ground with a slope of colours, and five colours that stand out from it."""
    ground = rng.integers(0, 256, 3)
    slope = np.linspace(-1, 1, SIZE * FINE)[:, None] * rng.normal(0, 15) + np.linspace(-1, 1, SIZE * FINE)[None] * rng.normal(0, 15)
    paper = Image.fromarray((ground + slope[..., None]).clip(0, 255).astype(np.uint8))
    colours = []
    while len(colours) < 5:
        colour = rng.integers(0, 256, 3)
        if abs(colour.mean() - ground.mean()) > 50:
            colours.append(tuple(colour.tolist()))
    return paper, colours


def _pixels(paper: Image.Image, rng: Random) -> npt.NDArray[np.uint8]:
    """In the final size, with some noise."""
    small = np.asarray(paper.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
    return np.asarray((small + rng.normal(0, 8, small.shape)).clip(0, 255), np.uint8)


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _fill(paper: Image.Image, points: Points, colour: Any) -> None:
    ImageDraw.Draw(paper).polygon([tuple(point) for point in (points * FINE).tolist()], colour)


def _stroke(paper: Image.Image, points: Any, colour: Any, width: float) -> None:
    ImageDraw.Draw(paper).line([tuple(point) for point in (np.asarray(points) * FINE).tolist()], colour, round(width * FINE))


def _box(points: Points, margin: float = 0.0) -> Box:
    """Around points, cut to the image."""
    (left, top), (right, bottom) = (points.min(0) - margin).clip(0, SIZE), (points.max(0) + margin).clip(0, SIZE)
    return float(left), float(top), float(right), float(bottom)


@dataclass(frozen=True)
class Found:
    """How often the regions that speak most for a class peak in what makes it that class.

    Attributes:
        label: the class.
        hits: regions whose peak lies in the box.
        regions: how many were looked at.
        chance: of a random point, in %: the mean share of the image that the boxes cover.
    """

    label: str
    hits: int
    regions: int
    chance: float


def peaks(model: lucidcam.Model, samples: Sequence[lucidcam.Sample], discovery: Any) -> list[Found]:
    """Compare the peaks of the discovered regions with the boxes, for the classes that have any."""
    by_name = {each.name: each for each in samples}
    found = []
    for concept in discovery.concepts:
        shown = [by_name[part.image] for part in concept.parts]
        if all(each.objects for each in shown):
            maps = lucidcam.explain(model, [each.image for each in shown], "cam", concept.label)
            hits = sum(_inside(np.unravel_index(each.heatmap.argmax(), each.heatmap.shape), sample) for each, sample in zip(maps, shown))
            found.append(Found(concept.label, hits, len(shown), 100 * float(np.mean([_area(each) for each in shown]))))
    return found


def _inside(place: Any, sample: lucidcam.Sample) -> bool:
    (left, top, right, bottom), (y, x) = sample.objects[0].box, place
    return left <= x + 0.5 <= right and top <= y + 0.5 <= bottom


def _area(sample: lucidcam.Sample) -> float:
    left, top, right, bottom = sample.objects[0].box
    return (right - left) * (bottom - top) / SIZE**2


def study(out: Path, training: Any, test: Sequence[lucidcam.Sample], epochs: int, top: int = 40) -> tuple[Any, list[Found], Any]:
    """Train, discover, compare."""
    labelled = [replace(each, objects=()) for each in training]  # no boxes
    # A sigmoid for each class, and images of none, so that a class needs evidence of its own. Log-sum-exp instead of the mean over the
    # image, which hardly feels a beak. The embedded network, frozen, up to where its maps are fine.
    how: dict[str, Any] = {"multi_label": True, "pooling": "lse", "augment": "none", "freeze": True, "fit_photos": "squash"}
    network: dict[str, Any] = {"at": "blocks.4", "channels": 64, "size": 3 * SIZE // 2}
    trained = train_gap(labelled, "demo", **network, out=out / "trained", epochs=epochs, lr=3e-3, **how)
    lucidcam.discover(trained.model, test, "cam", top=8, out=out)
    found = peaks(trained.model, test, lucidcam.discover(trained.model, test, "cam", top=top))
    report = lucidcam.evaluate(
        trained.model, [each for each in test if each.objects], "cam", ("pointing_game", {"tolerance": 0}), resamples=0
    )
    for each in found:
        print(f"{each.label}: {each.hits} of the top {each.regions} regions peak in the box; chance {each.chance:.1f} %")
    print(report.table())
    return trained, found, report


def main(
    folder: str | Path = "out/discover-parts", which: str = "both", train: int = 800, test: int = 480, epochs: int = 4, top: int = 40
) -> dict[str, Any]:
    """Study the data sets; the contact sheets are in `concepts` and `birds`."""
    drawn: dict[str, Callable[[], tuple[Any, Any]]] = {
        "concepts": lambda: (concept_samples(train, 1, TRAINING_SHAPES), concept_samples(test, 2, UNSEEN_SHAPES)),
        "birds": lambda: (bird_samples(train, 1), bird_samples(test, 2)),
    }
    return {name: study(Path(folder) / name, *draw(), epochs, top) for name, draw in drawn.items() if which in (name, "both")}


if __name__ == "__main__":
    main(*sys.argv[1:3])
