"""Mean, maximum or something between? Global poolings beside each other: what they cost in accuracy, and what they find of a thing.

python examples/gap_or_gmp.py [--out DIR] [--look shapes|textures] [--count N] [--epochs N] [--seeds N]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich import print
from rich.table import Table

import lucidcam
from lucidcam.data import open_data
from lucidcam.imaging.render import draw_boxes, panel
from lucidcam.train import train_gap

POOLINGS = {"gap": "mean (GAP)", "lse": "log-sum-exp", "gmp": "maximum (GMP)"}
METRICS = ["maxboxacc", "maxboxacc_v2", ("pointing_game", {"tolerance": 0}), "energy_pointing_game"]
FIGURES = {
    "maxboxacc": "box IoU ≥ 0.5",
    "maxboxacc_v2_iou70": "box IoU ≥ 0.7",
    "pointing_game": "maximum on thing",
    "energy_pointing_game": "energy in box",
}
"""What is shown of them, in %: two of extent, two of place."""

TRIVIAL = ("centre_box", "centre_point", "random")
SIZE = 64
SHOWN = 5

Figures = dict[str, float]


def scenes(look: str, count: int, seed: int) -> list[lucidcam.Sample]:
    """One thing per image, all classes alike, each with its box; another seed gives other images of the same kind."""
    return list(open_data("synthetic", scene="longtail", ratio=1, look=look, count=count, size=SIZE, seed=seed))


def unmarked(samples: Sequence[lucidcam.Sample]) -> list[lucidcam.Sample]:
    """Without their boxes: training is told the classes, and no more."""
    return [replace(each, objects=()) for each in samples]


def accuracy(model: lucidcam.Model, samples: Sequence[lucidcam.Sample]) -> float:
    """Share of images whose most likely class is theirs, in %."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(samples), 100):
            some = samples[start : start + 100]
            inputs = torch.stack([each.tensor for each in model.prepare([sample.image for sample in some])])
            best = model.module(inputs).argmax(1).tolist()
            right += sum(model.labels[k] == sample.labels[0] for k, sample in zip(best, some, strict=True))
    return 100 * right / len(samples)


def located(model: lucidcam.Model, test: Sequence[lucidcam.Sample], baselines: Sequence[str] = ()) -> dict[str, Figures]:
    """What CAM finds on images that nobody has trained or chosen an epoch with, and what trivial maps find; by map."""
    report = lucidcam.evaluate(model, list(test), ["cam"], METRICS, baselines=baselines, resamples=0)
    figures: dict[str, Figures] = {}
    for row in report.rows:
        if row.metric.partition(":")[0] in FIGURES:
            figures.setdefault(row.method, {})[FIGURES[row.metric.partition(":")[0]]] = row.mean
    return figures


def example_maps(model: lucidcam.Model, samples: Sequence[lucidcam.Sample]) -> list[Image.Image]:
    """Class activation maps of the images' own classes, with the true boxes."""
    found = lucidcam.explain(model, [each.image for each in samples], "cam", target=[each.labels[0] for each in samples])
    return [draw_boxes(large(each.overlay()), [scaled(sample)], (255, 255, 255)) for each, sample in zip(found, samples, strict=True)]


def large(picture: Image.Image) -> Image.Image:
    """Three times as large, so that lines are finer than the picture's pixels."""
    return picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.BICUBIC)


def scaled(sample: lucidcam.Sample) -> tuple[int, int, int, int]:
    """The thing's box in the larger picture."""
    left, top, right, bottom = (round(3 * side) for side in sample.objects[0].box)
    return left, top, right, bottom


def table_of(results: dict[str, list[Figures]], trivial: dict[str, Figures]) -> Table:
    """Mean ± standard deviation over the seeds, a row per pooling."""
    names = list(next(iter(results.values()))[0])
    table = Table("pooling", *names)
    for pooling, runs in results.items():
        values = [[run[name] for run in runs] for name in names]
        table.add_row(POOLINGS[pooling], *(f"{np.mean(each):.1f} ± {np.std(each, ddof=1) if len(each) > 1 else 0:.1f}" for each in values))
    for name, figures in trivial.items():
        table.add_row(name, *(f"{figures[column]:.1f}" if column in figures else "–" for column in names))
    return table


def main(
    out: str | Path = "out/gap_or_gmp",
    look: str = "shapes",
    count: int = 1000,
    test_count: int = 300,
    epochs: int = 8,
    seeds: int = 3,
    poolings: Sequence[str] = tuple(POOLINGS),
) -> tuple[dict[str, list[Figures]], Path]:
    """Train each pooling with each seed on the same images, print the table, and return all figures and a picture."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    test = scenes(look, test_count, seed=1_000_000)
    results: dict[str, list[Figures]] = {pooling: [] for pooling in poolings}
    trivial: dict[str, Figures] = {}
    rows = [[("the scene", draw_boxes(large(Image.fromarray(each.image)), [scaled(each)], (255, 255, 255))) for each in test[:SHOWN]]]
    for seed in range(seeds):
        train, check = scenes(look, count, 2 * seed), scenes(look, count // 5, 2 * seed + 1)
        for pooling in poolings:
            trained = train_gap(
                unmarked(train),
                validation=unmarked(check),
                out=folder / f"{look}-{pooling}-{seed}",
                pooling=pooling,
                size=SIZE,
                augment="none",  # generated images are as many as one likes
                epochs=epochs,
                batch_size=64,
                lr=1e-2,
                seed=seed,
                progress=False,
                restart=True,
            )
            found = located(trained.model, test, [] if trivial else TRIVIAL)
            figures = {"accuracy": accuracy(trained.model, test), **found.pop("cam")}
            results[pooling].append(figures)
            trivial = trivial or found
            print(f"seed {seed}, {POOLINGS[pooling]}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
            if seed == 0:
                rows.append([(POOLINGS[pooling], picture) for picture in example_maps(trained.model, test[:SHOWN])])
    print(table_of(results, trivial))
    path = folder / f"{look}.png"
    panel(rows, height=150).save(path)
    return results, path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/gap_or_gmp")
    parser.add_argument("--look", default="shapes", choices=["shapes", "textures"])
    parser.add_argument("--count", type=int, default=1000, help="images to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.look, given.count, epochs=given.epochs, seeds=given.seeds)[1]}")
