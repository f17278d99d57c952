"""Which heartbeat gave it away: a 1-D network finds the one beat of a generated ECG trace that is not like the others, and its map too."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

import lucidcam
from lucidcam.imaging.render import signal

LENGTH, BEAT = 600, 75
"""Samples of a trace, and from one beat to the next; at 100 per second, six seconds at a pulse of 80."""
LABELS = ("normal", "ventricular", "paced")
TRACES, EPOCHS, BATCH = 600, 6, 32

WAVES = {  # of a beat: (time in samples around the R peak, width, height)
    "normal": ((-16, 3.5, 0.15), (-3, 1.2, -0.12), (0, 1.5, 1.0), (3, 1.4, -0.22), (22, 6.0, 0.3)),
    "ventricular": ((-1, 5.5, 1.1), (9, 5.0, -0.5), (26, 8.0, -0.35)),  # wide, without a P wave, its T wave upside down
    "paced": ((-16, 3.5, 0.15), (-8, 0.6, 0.6), (-3, 1.2, -0.12), (0, 1.5, 1.0), (3, 1.4, -0.22), (22, 6.0, 0.3)),  # a spike ahead
}


@dataclass(frozen=True)
class Trace:
    """An ECG lead `[L]`, what it shows, and the samples `(start, stop)` of the beat that shows it; all of them where all are normal."""

    values: npt.NDArray[np.float32]
    label: int
    beat: tuple[int, int]


def trace(seed: int) -> Trace:
    """Draw a trace of normal beats, with one of another kind among them in two of three, on a wandering baseline with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(LENGTH)
    peaks = np.cumsum(rng.normal(BEAT, 4, LENGTH // BEAT + 2)) - rng.uniform(20, BEAT)
    peaks = peaks[(peaks > 25) & (peaks < LENGTH - 35)]
    label, odd = int(rng.integers(len(LABELS))), int(rng.integers(len(peaks)))
    values = 0.15 * np.sin(2 * np.pi * (time / rng.uniform(200, 500) + rng.random())) + rng.normal(0, 0.03, LENGTH)
    for number, peak in enumerate(peaks):
        for at, width, height in WAVES[LABELS[label] if number == odd else "normal"]:
            values += rng.normal(1, 0.08) * height * np.exp(-(((time - peak - at) / width) ** 2) / 2)
    beat = (0, LENGTH) if label == 0 else (int(peaks[odd]) - 25, int(peaks[odd]) + 35)
    return Trace(values.astype(np.float32), label, beat)


def train(seed: int = 0) -> nn.Module:
    """Train a network on traces of which it is told the kind alone."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv1d(1, 16, 9, stride=2, padding=4), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Conv1d(16, 32, 9, stride=2, padding=4), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Conv1d(32, 32, 9, padding=4), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, len(LABELS))),
    )
    traces = [trace(1000 + i) for i in range(TRACES)]
    inputs, labels = torch.from_numpy(np.stack([each.values for each in traces]))[:, None], torch.tensor([each.label for each in traces])
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRACES).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval()


def judge(net: nn.Module, method: str = "layercam", count: int = 150) -> dict[str, float]:
    """Compare maps with the truth, on traces that were not trained on: how much of the map, and whether its peak, lies in the odd beat."""
    traces = [trace(i) for i in range(count)]
    inputs = torch.from_numpy(np.stack([each.values for each in traces]))[:, None]
    with torch.no_grad():
        right = float((net(inputs).argmax(1) == torch.tensor([each.label for each in traces])).float().mean())
    found = F.interpolate(lucidcam.attribute(net, inputs, method)[:, None], size=LENGTH, mode="linear", align_corners=False)[:, 0]
    odd = [(heat.clamp(min=0), slice(*each.beat)) for heat, each in zip(found, traces, strict=True) if each.label]
    energy = [float(heat[beat].sum() / heat.sum().clamp(min=1e-9)) for heat, beat in odd]
    hit = [beat.start <= int(heat.argmax()) < beat.stop for heat, beat in odd]
    chance = [(beat.stop - beat.start) / LENGTH for _, beat in odd]
    figures = {"accuracy": right, "energy": np.mean(energy), "chance": np.mean(chance), "peak": np.mean(hit)}
    return {name: round(float(value), 3) for name, value in figures.items()}


def main(folder: str | Path = "out/ecg") -> list[Path]:
    """Train, compare with the truth, and draw one trace of each odd kind, coloured by its map; return what was written."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    net = train()
    print("held-out traces:", judge(net))
    written = []
    for label in (1, 2):
        shown = next(each for each in map(trace, range(50)) if each.label == label)
        found = lucidcam.attribute(net, torch.from_numpy(shown.values)[None, None], "layercam")[0]
        written.append(out / f"{LABELS[label]}.png")
        signal(shown.values, found, names=[LABELS[label]]).save(written[-1])
    return written


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
