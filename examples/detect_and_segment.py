"""Train a small detector and a small segmenter on generated scenes, then ask of each box and of each region what it was made of.

python examples/detect_and_segment.py [--out DIR] [--count N] [--seed N]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from rich import print
from rich.table import Table
from torch import Tensor, nn

import lucidcam
from lucidcam.data import open_data
from lucidcam.imaging.render import draw_boxes, draw_contour, overlay, panel
from lucidcam.targets import Detection, Segmentation
from lucidcam.tasks import Detections, Segments

SIZE = 64
"""Pixels per side of a scene."""

STRIDE = 4
"""Pixels per side of a cell of the networks' deep layers: 16 × 16 for 64 × 64 pixels."""

SHAPES = ("circle", "square", "triangle", "cross")
ASKED = {
    "detector": (("trunk.wide.1", "hirescam"), ("trunk.wide.1", "layercam"), ("trunk.wide.1", "gradcam"), ("trunk.wide.2", "hirescam")),
    "segmenter": (("trunk.wide.1", "hirescam"), ("trunk.wide.1", "layercam"), ("trunk.wide.1", "gradcam"), ("trunk.wide.2", "hirescam")),
}
"""Layers and methods; the first are those of the picture. The trunk ends with `wide.2`, of which a detection's score reads one cell, and a
region's little beside itself: whatever the network has learnt, its maps lie where the question is."""

UNTRAINED = 10
"""Networks that are asked the same questions as the trained one, before they have learnt anything: each a tenth of the scenes."""

COLUMNS = ("on the object", "in its box", "on other objects", "on the object, of twins")
SHOWN = 176

Mask = npt.NDArray[np.bool_]
Heat = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Thing:
    """An object of a scene: its class as a number, its box (xyxy) and its pixels `[64, 64]`."""

    label: int
    box: tuple[float, float, float, float]
    mask: Mask


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture `[64, 64, 3]` and what is in it."""

    pixels: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]

    def twin(self, thing: Thing) -> bool:
        """Whether another object of the scene has the same shape."""
        return any(each.label == thing.label for each in self.things if each is not thing)


def scenes(count: int, seed: int) -> list[Scene]:
    """Half of them with shapes that differ, in any colour, half with three shapes, of which two may be the same."""
    half = count // 2
    kinds = [{"scene": "together", "count": half}, {"scene": "coloured", "objects": 3, "count": count - half}]
    return [scene_of(each) for kind in kinds for each in open_data("synthetic", size=SIZE, seed=seed, **kind)]


def scene_of(sample: lucidcam.Sample) -> Scene:
    """A scene as lucidcam draws it ("circle" or "red circle", with box and mask)."""
    return Scene(sample.image, tuple(Thing(SHAPES.index(each.label.split()[-1]), each.box, each.mask()) for each in sample.objects))


def block(before: int, after: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Trunk(nn.Module):
    """What both networks begin with: a fine layer of 32 × 32, then 16 × 16, where dilated convolutions see most of the scene."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.fine = block(3, width // 2, 2)
        self.coarse = block(width // 2, width, 2)
        self.wide = nn.Sequential(block(width, width), block(width, width, dilation=2), block(width, width, dilation=4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fine layer `[B, width / 2, 32, 32]` and the deepest `[B, width, 16, 16]`."""
        fine = self.fine(x)
        return fine, self.wide(self.coarse(fine))


class Detector(nn.Module):
    """Objects as points (Zhou et al. 2019): a class's peaks are its objects' middles, where the box is regressed; no anchors.

    Returns what torchvision's detectors return: of each image `boxes` `[N, 4]` (xyxy), `labels` `[N]` and `scores` `[N]`.

    Args:
        width: channels of the trunk.
        least: the score of a peak that counts as a detection; None: each cell is a detection of each class, peak or not.
    """

    def __init__(self, width: int = 40, least: float | None = 0.3) -> None:
        super().__init__()
        self.least = least
        self.trunk = Trunk(width)
        self.peaks, self.sides = nn.Conv2d(width, len(SHAPES), 1), nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.peaks.bias, -4.0)  # at first nothing is anywhere,
        nn.init.constant_(self.sides.bias, 2.0)  # and each box is as large as objects are on average

    def dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits `[B, 4, 16, 16]`, and of each cell the distances to the box's sides `[B, 4, 16, 16]` in cells."""
        deep = self.trunk(x)[1]
        return self.peaks(deep), F.softplus(self.sides(deep))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Return each image's detections: peaks that score `least` or more."""
        logits, sides = self.dense(x)
        scores = logits.sigmoid()
        peaks = scores >= (self.least or 0)
        if self.least is not None:
            peaks &= scores == F.max_pool2d(scores, 3, 1, 1)
        return [self._listed(*each) for each in zip(scores, sides, peaks)]

    def _listed(self, scores: Tensor, sides: Tensor, peaks: Tensor) -> dict[str, Tensor]:
        label, y, x = peaks.nonzero(as_tuple=True)
        middle, reach = torch.stack([x, y], 1) + 0.5, sides[:, y, x].T
        boxes = STRIDE * torch.cat([middle - reach[:, :2], middle + reach[:, 2:]], 1)
        return {"boxes": boxes, "labels": label, "scores": scores[label, y, x]}


class Segmenter(nn.Module):
    """A class for each pixel: logits `[B, 5, 64, 64]`, the background first."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.trunk = Trunk(width)
        self.merged = block(width + width // 2, width // 2)
        self.classes = nn.Conv2d(width // 2, 1 + len(SHAPES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[B, 5, 64, 64]`."""
        fine, deep = self.trunk(x)
        merged = self.merged(torch.cat([fine, F.interpolate(deep, scale_factor=2.0, mode="bilinear")], 1))
        return F.interpolate(self.classes(merged), scale_factor=2.0, mode="bilinear")


def peaks_of(scene: Scene) -> tuple[Tensor, Tensor]:
    """What the detector should say: a bump around the middle of each object `[4, 16, 16]`, and its sides `[4, 16, 16]`, 0 elsewhere."""
    cells = SIZE // STRIDE
    bumps, sides = torch.zeros(len(SHAPES), cells, cells), torch.zeros(4, cells, cells)
    axis = torch.arange(cells)
    for thing in scene.things:
        left, top, right, bottom = (side / STRIDE for side in thing.box)
        x, y = int((left + right) / 2), int((top + bottom) / 2)
        bump = torch.exp(-((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2) / 2.0)
        bumps[thing.label] = torch.maximum(bumps[thing.label], bump)
        sides[:, y, x] = torch.tensor([x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5])
    return bumps, sides


def detector_loss(net: Detector, images: Tensor, bumps: Tensor, sides: Tensor) -> Tensor:
    """The focal loss of the paper (its Eq. 1, which forgives what lies beside a middle) and the boxes' absolute error."""
    logits, found = net.dense(images)
    middle = bumps == 1
    likely = logits.sigmoid()
    right = -F.logsigmoid(logits) * (1 - likely) ** 2
    wrong = -F.logsigmoid(-logits) * likely**2 * (1 - bumps) ** 4
    there = middle.any(1, keepdim=True)
    return (torch.where(middle, right, wrong).sum() + ((found - sides).abs() * there).sum()) / middle.sum()


def classes_of(scene: Scene) -> tuple[Tensor]:
    """What the segmenter should say: the class of each pixel `[64, 64]`, 0 for the background."""
    truth = torch.zeros(SIZE, SIZE, dtype=torch.long)
    for thing in scene.things:
        truth[torch.from_numpy(thing.mask)] = 1 + thing.label
    return (truth,)


def segmenter_loss(net: Segmenter, images: Tensor, truth: Tensor) -> Tensor:
    return F.cross_entropy(net(images), truth)


def inputs_of(some: Sequence[Scene]) -> Tensor:
    """Network inputs `[n, 3, 64, 64]`."""
    return torch.stack([prepare(each.pixels) for each in some])


def prepare(image: Image.Image | npt.NDArray[np.uint8]) -> Tensor:
    """A picture as the networks take it: values from −1 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def train(
    net: nn.Module,
    loss: Callable[..., Tensor],
    truth: Callable[[Scene], tuple[Tensor, ...]],
    known: Sequence[Scene],
    epochs: int,
    seed: int = 0,
    batch: int = 32,
) -> None:
    """Train in place: Adam, one cycle of learning rates."""
    data = [inputs_of(known), *(torch.stack(each) for each in zip(*map(truth, known), strict=True))]
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * (len(known) // batch))
    draw = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(known), generator=draw).split(batch):
            if len(rows) < batch:
                continue
            optimizer.zero_grad()
            loss(net, *(each[rows] for each in data)).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def model_of(net: nn.Module, layer: str) -> lucidcam.Model:
    """A network as lucidcam takes it."""
    if isinstance(net, Detector):
        return lucidcam.wrap(net, preprocess=prepare, labels=SHAPES, layer=layer, name="detector", task=Detections())
    return lucidcam.wrap(net, preprocess=prepare, labels=("background", *SHAPES), layer=layer, name="segmenter", task=Segments())


@dataclass(frozen=True, eq=False)
class Question:
    """Why a network sees an object: the thing, and the target that asks for it."""

    thing: Thing
    target: Any


def detections(net: nn.Module, scene: Scene) -> list[Question]:
    """The objects that the detector finds: of the right class, with a box that overlaps the true one by half."""
    with torch.inference_mode():
        found = net(prepare(scene.pixels)[None])[0]
    questions = []
    for thing in scene.things:
        own = found["boxes"][found["labels"] == thing.label]
        overlap = [iou(box, thing.box) for box in own.tolist()]
        if max(overlap, default=0.0) >= 0.5:
            box = tuple(own[int(np.argmax(overlap))].tolist())
            questions.append(Question(thing, Detection(box, thing.label)))
    return questions


def segments(net: nn.Module, scene: Scene) -> list[Question]:
    """The objects that the segmenter finds: half of their pixels, or more. The region is what it gives their class within their box."""
    with torch.inference_mode():
        winners = net(prepare(scene.pixels)[None])[0].argmax(0).numpy()
    questions = []
    for thing in scene.things:
        left, top, right, bottom = map(round, thing.box)
        region = np.zeros((SIZE, SIZE), bool)
        region[top:bottom, left:right] = winners[top:bottom, left:right] == 1 + thing.label
        if (region & thing.mask).sum() >= thing.mask.sum() / 2:
            questions.append(Question(thing, Segmentation(1 + thing.label, region)))
    return questions


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (xyxy)."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
    return width * height / (areas - width * height)


def explained(model: lucidcam.Model, scene: Scene, questions: Sequence[Question], method: str) -> list[lucidcam.Explanation]:
    """The maps of a scene's questions, in one pass."""
    if not questions:
        return []
    return lucidcam.explain(model, scene.pixels, method, [each.target for each in questions], progress=False)


def energies(
    asked: Sequence[tuple[Scene, Sequence[Question]]], maps: Callable[[Scene, Sequence[Question]], list[Heat]]
) -> dict[str, float]:
    """Where the energy of maps lies, as mean shares: see `COLUMNS`; nothing anywhere for a map that is empty."""
    found = [
        (*energy(heat, scene, each.thing), scene.twin(each.thing))
        for scene, questions in asked
        for heat, each in zip(maps(scene, questions), questions, strict=True)
    ]
    values = [mean([each[i] for each in found]) for i in range(3)]
    return dict(zip(COLUMNS, (*values, mean([each[0] for each in found if each[3]])), strict=True))


def mean(values: Sequence[float]) -> float:
    """0 where there are none."""
    return float(np.mean(values)) if values else 0.0


def energy(heatmap: Heat, scene: Scene, thing: Thing) -> tuple[float, float, float]:
    """Shares of a map's energy: on an object's own pixels, in its box, on the pixels of the scene's other objects."""
    share = heatmap / (heatmap.sum() or 1)
    left, top, right, bottom = map(round, thing.box)
    others = np.any([each.mask for each in scene.things if each is not thing] or [np.zeros((SIZE, SIZE), bool)], axis=0)
    return float(share[thing.mask].sum()), float(share[top:bottom, left:right].sum()), float(share[others].sum())


def flat(scene: Scene, questions: Sequence[Question]) -> list[Heat]:
    """Maps that are the same everywhere: their energy is the share of the area, which is what chance finds."""
    return [np.ones((SIZE, SIZE), np.float32)] * len(questions)


def maps_of(models: Sequence[lucidcam.Model], method: str) -> Callable[[Scene, Sequence[Question]], list[Heat]]:
    """The maps of a scene's questions as a function of these; of several models, which take turns."""
    turns = itertools.cycle(models)
    return lambda scene, questions: [each.heatmap for each in explained(next(turns), scene, questions, method)]


def untrained(kind: type[Detector] | type[Segmenter]) -> list[nn.Module]:
    """Networks as they begin. No detection scores well yet: every cell of the detectors is one."""
    made: list[nn.Module] = []
    for seed in range(UNTRAINED):
        torch.manual_seed(1000 + seed)
        made.append((Detector(least=None) if kind is Detector else kind()).eval())
    return made


def row_of(model: lucidcam.Model, scene: Scene, questions: Sequence[Question], method: str) -> list[tuple[str, Image.Image]]:
    """A scene, and the map of each object: white, what was asked about."""
    picture = Image.fromarray(scene.pixels).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    cells = [(f"{model.name}: a scene", picture)]
    for question, found in zip(questions, explained(model, scene, questions, method), strict=True):
        heat = np.asarray(Image.fromarray(found.heatmap).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR))
        shown = overlay(picture, heat, alpha=0.45)
        if isinstance(question.target, Detection):
            shown = draw_boxes(shown, [tuple(round(side * SHOWN / SIZE) for side in question.target.box)], (255, 255, 255))
        else:
            region = Image.fromarray(question.target.region).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
            shown = draw_contour(shown, np.asarray(region, np.float32), 0.5)
        cells.append((SHAPES[question.thing.label], shown))
    return cells


def main(
    out: str | Path = "out/detect_and_segment",
    count: int = 1200,
    test_count: int = 200,
    epochs: tuple[int, int] = (10, 6),
    asked: Mapping[str, Sequence[tuple[str, str]]] = ASKED,
    seed: int = 0,
) -> tuple[dict[str, dict[str, float]], Path]:
    """Train both networks, print what they find and where their maps lie, and write a picture.

    Args:
        out: a folder.
        count: scenes to train on.
        test_count: others to test with.
        epochs: passes of the detector and of the segmenter over the scenes.
        asked: by network, pairs of a layer and a method.
        seed: of the networks' first weights and of the order of the scenes.

    Returns:
        Figures by network ("detector", "segmenter": shares of the objects that are found, …), "chance", or network, layer and method, of
        the trained network and of untrained ones ("…, untrained") that are asked the same; and where the picture is.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    known, test = scenes(count, 0), scenes(test_count, 1)
    shown = [scene for scene in test if any(map(scene.twin, scene.things))][:2] + [scene for scene in test if len(scene.things) == 3][:1]
    figures: dict[str, dict[str, float]] = {}
    sheet, table = [], Table("share of the energy", *COLUMNS)
    for kind, loss, truth, ask, passes in (
        (Detector, detector_loss, peaks_of, detections, epochs[0]),
        (Segmenter, segmenter_loss, classes_of, segments, epochs[1]),
    ):
        begun = time.perf_counter()
        torch.manual_seed(seed)
        net = kind()
        train(net, loss, truth, known, passes, seed)
        questions = [(scene, ask(net, scene)) for scene in test]
        found = sum(len(each) for _, each in questions) / sum(len(scene.things) for scene in test)
        name = kind.__name__.lower()
        figures[name] = {"found": found} | quality(net, test)
        told = ", ".join(f"{what}: {100 * value:.1f} %" for what, value in figures[name].items())
        print(f"{name}: trained in {time.perf_counter() - begun:.0f} s; objects {told}")
        figures["chance"] = energies(questions, flat)
        for layer, method in asked[name]:
            for note, nets in (("", [net]), (", untrained", untrained(kind))):
                maps = maps_of([model_of(each, layer) for each in nets], method)
                figures[f"{name}, {layer}, {method}{note}"] = energies(questions, maps)
        sheet += [row_of(model_of(net, asked[name][0][0]), scene, ask(net, scene), asked[name][0][1]) for scene in shown]
    for name in sorted(set(figures) - {"detector", "segmenter"}, key=list(figures).index):
        table.add_row(name, *(f"{value:.3f}" for value in figures[name].values()))
    print(table)
    path = folder / "detect_and_segment.png"
    panel(sheet, "White: the detection, or the region, that is asked about", height=SHOWN).save(path)
    return figures, path


def quality(net: nn.Module, test: Sequence[Scene]) -> dict[str, float]:
    """How good a network is: the share of detections that are true, or of pixels of the right class."""
    with torch.inference_mode():
        said = net(inputs_of(test))
    if isinstance(net, Segmenter):
        return {"pixels right": float((said.argmax(1) == torch.stack([classes_of(each)[0] for each in test])).float().mean())}
    true = [
        any(thing.label == label and iou(box, thing.box) >= 0.5 for thing in scene.things)
        for scene, found in zip(test, said, strict=True)
        for box, label in zip(found["boxes"].tolist(), found["labels"].tolist())
    ]
    return {"detections right": mean(true)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/detect_and_segment")
    parser.add_argument("--count", type=int, default=1200, help="scenes to train on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.count, seed=given.seed)[1]}")
