"""Audit: networks that learnt a watermark or a background instead of a shape, found out; and their clean twins.

python examples/audit.py [--out out/audit] [--seeds 0]            # seconds to a minute
python examples/audit.py --seeds 0 1 2 3 4 5 6 7 8 9 --plain      # the table of docs/audit.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import lucidcam
from lucidcam.data import open_data
from lucidcam.imaging.preprocess import Preprocess

PLANTED, CLEAN = 0.95, 0.5
"""How often the rule holds that circles carry the shortcut and others do not; at 0.5 it tells nothing of the class."""

STEPS = Preprocess(size=(64, 64), resize=None, mean=(0.3,) * 3, std=(0.25,) * 3, fit="squash")


def scenes(shortcut: str, rate: float, count: int, seed: int) -> list[lucidcam.Sample]:
    """Generated images of a circle, a square, a triangle or a cross."""
    return list(open_data(f"synthetic:scene=shortcut,shortcut={shortcut},rate={rate},count={count},seed={seed}"))


def train(samples: Sequence[lucidcam.Sample], seed: int, epochs: int = 3) -> lucidcam.Model:
    """A small convolutional network, trained on the labels for a few seconds."""
    names = sorted({each.labels[0] for each in samples})
    layers: list[nn.Module] = []
    torch.manual_seed(seed)
    for before, after, stride in ((3, 16, 2), (16, 32, 1), (32, 32, 2), (32, 64, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(names)))
    model = lucidcam.wrap(net, STEPS, names)
    images = torch.stack([each.tensor for each in model.prepare([sample.image for sample in samples])])
    labels = torch.tensor([names.index(each.labels[0]) for each in samples])
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, epochs * -(-len(images) // 64))
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    return model


def accuracy(model: lucidcam.Model, samples: Iterable[lucidcam.Sample]) -> float:
    """How often the network is right."""
    given = list(samples)
    images = torch.stack([each.tensor for each in model.prepare([sample.image for sample in given])])
    with torch.no_grad():
        said = model.module(images).argmax(1).tolist()
    return sum(model.label(id) == sample.labels[0] for id, sample in zip(said, given, strict=True)) / len(given)


def without_boxes(samples: Iterable[lucidcam.Sample]) -> list[lucidcam.Sample]:
    """The same images with their labels alone."""
    return [replace(each, objects=()) for each in samples]


def told(audit: lucidcam.Audit) -> str:
    """The first finding, in a few words."""
    first = audit.findings[0] if audit.findings else None
    return "nothing" if first is None else f"{first.kind} {first.label} {first.effect}".strip()


def main(
    out: str | Path = "out/audit", seeds: Sequence[int] = (0,), train_count: int = 1500, count: int = 400, plain: bool = False
) -> dict[tuple[str, float, int, bool], lucidcam.Audit]:
    """Train, audit and tell.

    Args:
        out: where the audits of the first seed go.
        seeds: a network for each, for each shortcut, planted and clean.
        train_count: training images.
        count: images that are audited; the network has not seen them.
        plain: audit also without boxes.
    """
    found = {}
    for seed in seeds:
        for shortcut in ("watermark", "background"):
            for rate in (PLANTED, CLEAN):
                model = train(scenes(shortcut, rate, train_count, 1000 + seed), seed)
                right = accuracy(model, scenes(shortcut, 0.0, 400, 5000 + seed))
                unseen = scenes(shortcut, rate, count, 9000 + seed)
                for boxes in (True, False)[: 1 + plain]:
                    name = f"{shortcut}-{'planted' if rate == PLANTED else 'clean'}"
                    folder = Path(out) / name if seed == seeds[0] and boxes else None
                    audit = lucidcam.audit(model, unseen if boxes else without_boxes(unseen), out=folder, progress=False)
                    found[shortcut, rate, seed, boxes] = audit
                    shortcuts = ", ".join(f"{each.kind} {each.label}" for each in audit.shortcuts) or "none"
                    given = "boxes" if boxes else "labels alone"
                    print(f"| {name} | {seed} | {given} | {right:.2f} | {told(audit)} | {shortcuts} |", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/audit"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--plain", action="store_true", help="audit also without boxes")
    options = parser.parse_args()
    main(options.out, options.seeds, plain=options.plain)
