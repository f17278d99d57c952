"""Attention methods beside CAM methods: a small vision transformer learns colours of scenes, and is asked where each of them is.

python examples/attention.py [--out out/attention] [--count 2000]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import lucidcam
from lucidcam.data import open_data
from lucidcam.data.synthetic import COLOURS
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.imaging.render import panel

SIZE = 32
PREPROCESS = Preprocess(size=SIZE, resize=None, mean=(0.5,) * 3, std=(0.5,) * 3, fit="squash")
METHODS = ("rollout", "attention_relevance", "legrad", "gradcam", "layercam")


def scenes(count: int, seed: int) -> list[lucidcam.Sample]:
    """Two shapes of different colours each; the label is the colour."""
    found = []
    for sample in open_data(f"synthetic:scene=coloured,classes=2,size={SIZE},count={2 * count},seed={seed}"):
        objects = tuple(replace(each, label=each.label.split()[0]) for each in sample.objects)
        labels = tuple(dict.fromkeys(each.label for each in objects))
        if len(labels) == len(objects):
            found.append(replace(sample, labels=labels, objects=objects))
    return found[:count]


def train(count: int, epochs: int, seed: int = 0) -> lucidcam.Model:
    """A class token, three blocks of four heads, 64 patches."""
    samples = scenes(count, seed)
    names = list(COLOURS)
    x = torch.stack([PREPROCESS(lucidcam.io.images.read(sample.image)[0]) for sample in samples])
    y = torch.tensor([[float(name in sample.labels) for name in names] for sample in samples])
    torch.manual_seed(seed)
    shape = {"img_size": SIZE, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": len(names)}
    net = lucidcam.load("timm:vit_tiny_patch16_224", pretrained=False, **shape).module.train()
    steps = epochs * -(-count // 50)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(count).split(50):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    net.multi_label = True  # classes do not exclude each other: a probability for each
    return lucidcam.wrap(net.eval(), PREPROCESS, labels=names, name="colours")


def main(out: str | Path = "out/attention", count: int = 2000, epochs: int = 6, test: int = 100) -> lucidcam.Report:
    """Train, judge the methods on unseen scenes, and draw some of them.

    Args:
        out: where `METHOD.webp` go.
        count: training scenes.
        epochs: of training.
        test: unseen scenes.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model, unseen = train(count, epochs), scenes(test, seed=1000)
    report = lucidcam.evaluate(model, unseen, list(METHODS), ["companion"], target="label", baselines=["uniform"])
    rows = {method: [] for method in METHODS}
    for sample in unseen[:2]:
        for method in METHODS:
            for each in lucidcam.explain(model, np.asarray(sample.image).repeat(6, 0).repeat(6, 1), method, target=list(sample.labels)):
                scene = [("a scene", each.image)] if each.label == sample.labels[0] else []
                rows[method] += [*scene, (each.label, each.picture())]
    for method, cells in rows.items():
        panel([cells], height=150).save(folder / f"{method}.webp", quality=80)
        print(f"wrote {folder / f'{method}.webp'}")
    for row in report.rows:
        print(f"{row.method}: {row.metric} {row.mean:.1f} ({row.low:.1f} to {row.high:.1f})")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/attention"))
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    main(options.out, options.count)
