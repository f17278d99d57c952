"""Several methods side by side, for the two classes that the network finds most likely."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lucidcam
from lucidcam.imaging.render import panel

METHODS = ["cam", "gradcam", "gradcam++", "layercam", "xgradcam", "eigencam", "guided_gradcam"]


def main(folder: str | Path = "out/compare_methods") -> list[Path]:
    """Write one panel: a row per class, a column per method."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = lucidcam.load("demo", fit="squash")  # the whole photo, not its centre
    photo = Image.fromarray(np.asarray(data.coffee()))

    rows: list[list[tuple[str, Image.Image]]] = [[], []]
    for method in METHODS:
        for row, explanation in zip(rows, lucidcam.explain(model, photo, method, target="top2"), strict=True):
            if not row:
                row.append((f"{explanation.label.split(',')[0]} {explanation.probability:.0%}", photo))
            row.append((method, explanation.picture()))

    path = out / "methods.png"
    panel(rows, "One photo, two classes", height=160).save(path)
    return [path]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
