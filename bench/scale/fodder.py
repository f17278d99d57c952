"""What the runs are fed with: photos under many names, small pictures cut out of them, networks."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import lucidcam
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io.images import SUFFIXES
from lucidcam.types import Model

NETWORKS = ("demo", "resnet50", "means")
PACKAGED = ("astronaut", "chelsea", "coffee", "rocket")
"""Photos that scikit-image brings."""


class Means(nn.Module):
    """A network that costs next to nothing: a class is a colour, its score the colour's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.AvgPool2d(8)

    def forward(self, images: Tensor) -> Tensor:
        """From images `[B, 3, H, W]` to scores `[B, 3]`."""
        return self.seen(images).mean((2, 3))


def network(name: str, side: int | None = None) -> Model:
    """A network by name.

    Args:
        name: "demo"; "resnet50", with random weights, which cost as much as trained ones; "means".
        side: of its input, where it is not to be its own.
    """
    if name == "means":
        model = lucidcam.wrap(Means(), Preprocess(), ("red", "green", "blue"), layer="seen", name="means")
    elif name == "resnet50":
        torch.manual_seed(0)
        model = lucidcam.load("torchvision:resnet50", pretrained=False)
    else:
        model = lucidcam.load(name)
    if side is None:
        return model
    assert isinstance(model.preprocess, Preprocess)
    return replace(model, preprocess=replace(model.preprocess, size=(side, side), resize=side))


def photos(folder: Path, count: int, source: Path | None) -> Path:
    """A folder of `count` photos: those of `source` again and again, each time under another name."""
    folder.mkdir(parents=True)
    found = _files(folder.parent / "packaged", source)
    for i in range(count):
        from_, to = found[i % len(found)], folder / f"{i:06d}{found[i % len(found)].suffix}"
        try:
            os.link(from_, to)
        except OSError:  # another disk
            shutil.copyfile(from_, to)
    return folder


def crops(folder: Path, count: int, side: int, source: Path | None) -> Path:
    """A folder of `count` small pictures, no two alike: random parts of photos, as JPEG."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    kept: list[Image.Image] = []
    for path in _files(folder.parent / "packaged", source)[:32]:
        with Image.open(path) as image:
            kept.append(image.convert("RGB"))
    for i in range(count):
        image = kept[i % len(kept)]
        size = draw.randint(min(image.size) // 3, min(image.size))
        left, top = draw.randint(0, image.width - size), draw.randint(0, image.height - size)
        image.resize((side, side), box=(left, top, left + size, top + size)).save(folder / f"{i:06d}.jpg", quality=85)
    return folder


def _files(made: Path, source: Path | None) -> list[Path]:
    if source is not None:
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise SystemExit(f"{source} holds no photos; give a folder that does, or none.")
        return found
    if not made.exists():
        from skimage import data

        made.mkdir(parents=True)
        for name in PACKAGED:
            Image.fromarray(getattr(data, name)()).save(made / f"{name}.jpg", quality=92)
    return sorted(made.iterdir())
