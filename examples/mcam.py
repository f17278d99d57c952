"""M-CAM: a network that took two things which always occur together for one, and a memory that tells them apart.

python examples/mcam.py [--out out/mcam] [--count 4000]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import lucidcam
from lucidcam.data import open_data
from lucidcam.imaging.render import panel
from lucidcam.train import train_gap, train_memory

PAIR = ("circle", "square")


def both(count: int, seed: int) -> list[lucidcam.Sample]:
    """Unseen scenes that hold a circle and a square; only these are asked for."""
    found = []
    for sample in open_data(f"synthetic:count={10 * count},rate=1,seed={seed}"):
        objects = tuple(each for each in sample.objects if each.label in PAIR)
        if len(objects) == len(PAIR):
            found.append(replace(sample, labels=PAIR, objects=objects))
    return found[:count]


def main(out: str | Path = "out/mcam", count: int = 4000, epochs: int = 3, test: int = 200) -> lucidcam.Report:
    """Train a network and two memories, compare their maps, and draw some.

    Args:
        out: where the network, the memories and `mcam.webp` go.
        count: training scenes; circle and square are together in 95 % of those that hold either.
        epochs: of the network; it is stopped as soon as it knows the labels, as people do.
        test: scenes that the maps are judged on.
    """
    folder, data = Path(out), f"synthetic:scene=together,count={count},rate=0.95"
    model = train_gap(data, out=folder / "network", channels=64, epochs=epochs, batch_size=64, lr=3e-3, augment="none").model
    published = train_memory(data, model, out=folder / "published", epochs=12)
    unbiased = train_memory(data, model, out=folder / "unbiased", unbiased=True, epochs=12)
    methods = {
        "Grad-CAM": "gradcam",
        "published": ("mcam", {"memory": published.file}),
        "unbiased": ("mcam", {"memory": unbiased.file, "weights": "evidence"}),
    }
    scenes = both(test, seed=1000)
    report = lucidcam.evaluate(model, scenes, methods, ["companion"], target="label", baselines=[])
    rows = []
    for scene in scenes[:3]:
        cells = []
        for title, given in methods.items():
            name, options = given if isinstance(given, tuple) else (given, {})
            cells += [(f"{title}: {e.label}", e.overlay()) for e in lucidcam.explain(model, scene.image, name, list(PAIR), **options)]
        photo = lucidcam.explain(model, scene.image)[0].image
        rows.append([("scene", photo), *cells])
    panel(rows, height=150).save(folder / "mcam.webp", quality=80)
    print(f"wrote {folder / 'mcam.webp'}")
    for row in report.rows:
        print(f"{row.method}: {row.metric} {row.mean:.1f} ({row.low:.1f} to {row.high:.1f})")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/mcam"))
    parser.add_argument("--count", type=int, default=4000)
    options = parser.parse_args()
    main(options.out, options.count)
