"""Small scenes whose truth is known, and a network that sees just that truth: coloured squares on grey."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.samples import Object, Sample

COLOURS = {"red": (230, 30, 30), "green": (30, 230, 30), "blue": (30, 30, 230), "yellow": (230, 230, 30)}
SEES = [[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [0.5, 0.5, -1.0]]


def network(classes: int = 3) -> nn.Module:
    """A CAM network whose class k answers to colour k, and to no other colour as much; averaged over the image."""
    convolution = nn.Conv2d(3, classes, 1, bias=False)
    weight = torch.tensor(SEES[:classes])
    head = nn.Linear(classes, classes)
    with torch.no_grad():
        convolution.weight.copy_(weight[:, :, None, None])
        head.weight.copy_(20 * torch.eye(classes))
        head.bias.zero_()
    return nn.Sequential(nn.AvgPool2d(4), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def model(classes: int = 3, size: int = 32, **options: object) -> lucidcam.Model:
    """The network with its preprocessing: squashed, 0 to 1."""
    preprocess = Preprocess(size=size, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash")
    return lucidcam.wrap(network(classes), preprocess, labels=list(COLOURS)[:classes], name="colours", **options)


def scene(*squares: tuple[str, tuple[int, int, int, int]], size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    """(width, height) pixels of grey noise with coloured squares (colour, xyxy)."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(100, 140, (height, width, 1)).repeat(3, axis=2).astype(np.uint8)
    for colour, (left, top, right, bottom) in squares:
        pixels[top:bottom, left:right] = COLOURS[colour]
    return Image.fromarray(pixels)


def samples(count: int, seed: int = 0, classes: int = 3, masks: bool = False, per_image: int = 1) -> list[Sample]:
    """Scenes with squares of different colours at random places, side by side where there are several."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        objects, squares = [], []
        for k in range(per_image):
            colour = list(COLOURS)[(i + k) % classes]
            side = int(rng.integers(14, 22))
            left = int(rng.integers(0, 64 // per_image - side + 1)) + k * (64 // per_image)
            top = int(rng.integers(0, 48 - side + 1))
            box = (left, top, left + side, top + side)
            squares.append((colour, box))
            objects.append(Object(colour, tuple(map(float, box)), _mask(box) if masks else None))
        labels = tuple(each.label for each in objects)
        found.append(Sample(scene(*squares, seed=seed + i), f"scene-{i:03d}", labels, tuple(objects)))
    return found


def _mask(box):
    def make():
        found = np.zeros((48, 64), bool)
        found[box[1] : box[3], box[0] : box[2]] = True
        return found

    return make


def folder(path, count: int = 6):
    """An image folder, one folder per colour."""
    for i, sample in enumerate(samples(count)):
        target = path / sample.labels[0]
        target.mkdir(parents=True, exist_ok=True)
        sample.image.save(target / f"{i:03d}.png")
    return path
