"""Judge methods on five photos with boxes: a table, curves, and the images each method did best and worst on. Offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich import print
from skimage import data

import lucidcam

METHODS = ["gradcam", "layercam", "eigencam"]
METRICS = ["average_drop", ("deletion", {"steps": 8}), ("insertion", {"steps": 8}), "energy_pointing_game"]


def write_data(folder: Path) -> Path:
    """Write scikit-image's photos and a line of JSON for each: the image, and its boxes as left, top, right, bottom, class."""
    cat, cup, rocket, tripod = (
        Image.fromarray(np.asarray(photo)).convert("RGB") for photo in (data.chelsea(), data.coffee(), data.rocket(), data.camera())
    )
    both = Image.new("RGB", (cat.width + 450, 300))
    both.paste(cat, (0, 0))
    both.paste(cup.resize((450, 300)), (cat.width, 0))
    marked = {
        "cat.jpg": (cat, [[0, 0, 385, 300, "tiger cat"]]),
        "cup.jpg": (cup, [[170, 17, 408, 312, "cup"]]),
        "rocket.jpg": (rocket, [[308, 124, 341, 405, "rocket"]]),
        "tripod.jpg": (tripod, [[228, 185, 407, 512, "tripod"]]),
        "cat-and-cup.jpg": (both, [[0, 0, 385, 300, "tiger cat"], [578, 13, 757, 234, "cup"]]),
    }
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (photo, boxes) in marked.items():
        photo.save(folder / "images" / name, quality=92)
        lines.append(json.dumps({"image": f"images/{name}", "boxes": boxes}) + "\n")
    table = folder / "boxes.jsonl"
    table.write_text("".join(lines), encoding="utf-8")
    return table


def main(folder: str | Path = "out/evaluate") -> list[Path]:
    """Write the results, and print the table."""
    out = Path(folder)
    model = lucidcam.load("demo", fit="squash")  # the whole photo: what lies outside a crop cannot be found
    report = lucidcam.evaluate(
        model,
        write_data(out / "data"),
        METHODS,
        METRICS,
        class_map={"rocket": "missile"},  # ImageNet has no rockets
        out=out / "results",
    )
    print(report.table())
    for comparison in report.comparisons:
        if (comparison.first, comparison.second, comparison.metric) == ("gradcam", "layercam", "energy_pointing_game"):
            print(f"gradcam − layercam: {comparison.difference:.1f} % of energy ({comparison.low:.1f} to {comparison.high:.1f})")
    return [out / "results" / name for name in ("results.json", "images.csv", "curves/deletion_steps=8.png", "gallery/gradcam.jpg")]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
