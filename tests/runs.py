"""A small run over made images, for processes that are killed: `python tests/runs.py OUT [option=value …]`."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.types import Model

LABELS = ("red", "green", "blue")


class Colours(nn.Module):
    """A class is a colour, and its map is the colour itself, on a coarser grid."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.AvgPool2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.seen(images).mean((2, 3))


class Deadly:
    """An image that kills the process that reads it."""

    name = "deadly"

    def read(self) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    def tobytes(self) -> bytes:
        return b"deadly"


def colours() -> Model:
    preprocess = Preprocess(size=(32, 40), resize=(32, 40), mean=(0.0,), std=(1.0,), fit="squash")
    return lucidcam.wrap(Colours(), preprocess, LABELS, layer="seen", name="colours")


def images(count: int) -> list[np.ndarray[Any, Any]]:
    """Photos of 50 × 40 pixels with a bright box of a colour each, at a place of its own."""
    draw = np.random.default_rng(0)
    found = []
    for i in range(count):
        image = (draw.random((40, 50, 3)) * 40).astype(np.uint8)
        left, top = draw.integers(0, 30), draw.integers(0, 20)
        image[top : top + 15, left : left + 18, i % 3] = 230
        found.append(image)
    return found


def digests(folder: Path) -> dict[str, str]:
    """What is in a folder, by file."""
    files = (each for each in sorted(folder.rglob("*")) if each.is_file())
    return {each.relative_to(folder).as_posix(): hashlib.blake2b(each.read_bytes()).hexdigest() for each in files}


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = dict(word.split("=") for word in sys.argv[2:])
    count = int(asked.pop("count", 60))
    options: dict[str, Any] = {name: int(value) if value.isdigit() else value for name, value in asked.items()}
    lucidcam.run(colours(), images(count), sys.argv[1], **{"write": ("npz", "zarr"), "unit": 10, "progress": False, **options})
