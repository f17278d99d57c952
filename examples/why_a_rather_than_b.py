"""Why A rather than B: a contrast of two classes, and what speaks against a class."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lucidcam
from lucidcam.imaging.render import panel


def main(folder: str | Path = "out/why") -> list[Path]:
    """Write one panel about a photo that shows a cat and a cup."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = lucidcam.load("demo", fit="squash")
    cat, cup = Image.fromarray(data.chelsea()[:, 80:380]), Image.fromarray(data.coffee()[:, 150:450])
    photo = Image.new("RGB", (600, 300))
    photo.paste(cat.resize((300, 300)), (0, 0))
    photo.paste(cup.resize((300, 300)), (300, 0))

    def explain(target: object, **options: object) -> lucidcam.Explanation:
        return lucidcam.explain(model, np.asarray(photo), "gradcam", target, **options)[0]

    cells = {
        "Egyptian cat": explain("Egyptian cat"),
        "cat rather than espresso": explain(lucidcam.Contrast("Egyptian cat", "espresso")),
        "espresso rather than cat": explain(lucidcam.Contrast("espresso", "Egyptian cat")),
        "what speaks against the cat": explain("Egyptian cat", counterfactual=True),
    }
    path = out / "why.png"
    panel([[(caption, each.overlay()) for caption, each in cells.items()]], height=200).save(path)
    return [path]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
