"""Make the pictures of the documentation: one per method, on the same photo. Takes some minutes.

python examples/pictures.py docs/pictures [demo] [METHOD ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

import lucidcam
from demo import mosaic
from demo import rows as demo_rows
from lucidcam.imaging.render import panel

TARGETS = ["Egyptian cat", "espresso"]
OPTIONS: dict[str, dict[str, Any]] = {
    "contrastive_excitation_backprop": {"layer": "blocks.4"},
    "excitation_backprop": {"layer": "blocks.4"},
    "iscam": {"steps": 3},
    "rise": {"masks": 1000},
    "smoothgradcam++": {"samples": 8},
    "sscam": {"samples": 2},
}
"""Where a picture is made with other than the default options; the pages say so."""


ELSEWHERE = {"mcam", "rollout", "attention_relevance", "legrad"}
"""Drawn by examples of their own, which train what the methods need: a memory, a transformer."""


def main(folder: str | Path = "docs/pictures", names: Sequence[str] = ()) -> list[Path]:
    """Write `demo.png` and `methods/NAME.webp`, or only those of the names given ("demo" or methods), and return where they are."""
    out = Path(folder)
    (out / "methods").mkdir(parents=True, exist_ok=True)
    model = lucidcam.load("demo", fit="squash")
    photo = mosaic(Image.fromarray(np.asarray(data.chelsea())), Image.fromarray(np.asarray(data.coffee())))
    written = []
    for name in names or ["demo", *(name for name in lucidcam.methods() if name not in ELSEWHERE)]:
        if name == "demo":
            written.append(out / "demo.png")
            sheet = panel(demo_rows(model, photo, TARGETS), "Two objects: each class finds its own", height=200)
            dithered = sheet.quantize(palette=sheet.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
            dithered.save(written[-1], optimize=True)
        else:
            written.append(out / "methods" / f"{name.replace('+', 'p')}.webp")
            explained = lucidcam.explain(model, photo, name, TARGETS, **OPTIONS.get(name, {}))
            cells = [(each.label.split(",")[0], each.picture()) for each in explained]
            panel([[("the photo", photo), *cells]], height=200).save(written[-1], quality=80)
        print(f"wrote {written[-1]}", flush=True)
    return written


if __name__ == "__main__":
    main(*sys.argv[1:2], names=sys.argv[2:])
