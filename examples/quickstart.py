"""A real network, a real photo, three lines: load, explain, save. Offline."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lucidcam


def main(folder: str | Path = "out/quickstart") -> list[Path]:
    """Write one picture per class and return where they are."""
    photo = Image.fromarray(np.asarray(data.chelsea()))  # or the path of your own

    model = lucidcam.load("demo")  # EfficientNet-Lite0, its weights come from a package
    explanations = lucidcam.explain(model, photo, "gradcam", target="top2")

    return [each.save(Path(folder) / f"{each.target}.png") for each in explanations]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
