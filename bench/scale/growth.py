"""How the cost of a run grows with its images, targets and channels."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.data import open_data
from report import table
from scale.fodder import network, photos

SIDE = 96
"""Of the demo network's input where many images matter more than what they show."""


class Wide(nn.Module):
    """A network with as many channels in its last layer as you like, at next to no cost."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (3, 32, 64, 64)
        steps = [(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU()) for a, b in pairwise(sizes)]
        self.trunk = nn.Sequential(*[each for step in steps for each in step])
        self.last = nn.Sequential(nn.Conv2d(sizes[-1], channels, 1), nn.SiLU())
        self.head = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        """From images `[B, 3, H, W]` to scores `[B, 10]`."""
        return self.head(self.last(self.trunk(images)).mean((2, 3)))


@dataclass(frozen=True)
class Line:
    """Seconds of processor time against a number of things.

    Attributes:
        what: is counted.
        how: it was measured.
        counts: of the things.
        seconds: at each count, the middle of the repeats.
    """

    what: str
    how: str
    counts: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def fit(self) -> tuple[float, float]:
        """Seconds each, and seconds to begin with: least squares of relative errors, so that small counts weigh as much as large ones."""
        weights = 1 / np.array(self.seconds)
        slope, start = np.polyfit(self.counts, self.seconds, 1, w=weights)
        return float(slope), float(start)

    @property
    def r2(self) -> float:
        """Share of the variance that the line explains."""
        slope, start = self.fit
        seconds = np.array(self.seconds)
        rest = seconds - (slope * np.array(self.counts) + start)
        return 1 - float((rest**2).sum() / ((seconds - seconds.mean()) ** 2).sum())

    @property
    def off(self) -> float:
        """Largest distance from the line, as a share of the measured seconds."""
        slope, start = self.fit
        return max(abs(slope * count + start - each) / each for count, each in zip(self.counts, self.seconds, strict=True))

    def plot(self, path: Path) -> None:
        """Draw points and line."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        slope, start = self.fit
        figure, axes = pyplot.subplots(figsize=(4.5, 3), layout="constrained")
        axes.plot([0, self.counts[-1]], [start, start + slope * self.counts[-1]], color="#b0b0b0", label="line fitted")
        axes.plot(self.counts, self.seconds, "o", color="#c2410c", label="measured")
        axes.set(xlabel=self.what, ylabel="seconds of processor time", xlim=(0, None), ylim=(0, None), title=f"R² = {self.r2:.4f}")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
        pyplot.close(figure)


def growth(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> str:
    """Fit a line to each of the three."""
    lines = [each(options, folder, say) for each in (_images, _targets, _channels)]
    rows = []
    for line in lines:
        line.plot(options.out / "pictures" / f"growth-{line.what}.png")
        slope, start = line.fit
        verdict = "holds" if line.r2 >= 0.99 else "**misses**"
        rows.append([line.what, f"{1e3 * slope:.2f} ms", f"{1e3 * start:.0f} ms", f"{line.r2:.4f}", f"{100 * line.off:.1f} %", verdict])
    return "\n\n".join(
        [
            "### Growth",
            "Seconds of processor time, one thread, against what grows; every count measured "
            f"{options.repeats} times in random order, the middle one taken. "
            + " ".join(f"*{line.what}*: {line.how}." for line in lines)
            + " Linear: R² ≥ 0.99.",
            table(["", "each", "to begin with", "R²", "farthest from the line", "linear"], rows),
            *[f"![seconds against {line.what}](pictures/growth-{line.what}.png)" for line in lines],
        ]
    )


def _measured(what: str, how: str, steps: dict[int, Callable[[], object]], repeats: int, say: Callable[[str], None]) -> Line:
    """Time steps in random order; the first time does not count."""
    found: dict[int, list[float]] = {count: [] for count in steps}
    next(iter(steps.values()))()
    order = [count for count in steps for _ in range(repeats)]
    random.Random(0).shuffle(order)
    for count in order:
        start = time.process_time()
        steps[count]()
        found[count].append(time.process_time() - start)
        say(f"growth: {what}: {count}: {found[count][-1]:.2f} s")
    return Line(what, how, tuple(found), tuple(statistics.median(each) for each in found.values()))


def _spread(most: int, share: float, least: int = 1) -> list[int]:
    """Counts from an eighth of the most to the most."""
    return sorted({max(least, round(most * share * i / 8)) for i in (1, 2, 3, 4, 6, 8)})


def _images(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Line:
    counts = _spread(1600, options.share, 8)
    model, data = network("demo", SIDE), open_data(photos(folder / "photos", counts[-1], options.data))

    def step(count: int) -> None:
        out = folder / f"out-{count}"
        lucidcam.run(model, data.first(count), out, target="predicted", unit=64, restart=out.exists(), progress=False)

    how = f"`lucidcam.run`, gradcam, photos from the disk, demo network at {SIDE}², units of 64"
    return _measured("images", how, {count: partial(step, count) for count in counts}, options.repeats, say)


def _targets(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Line:
    counts = _spread(64, options.share, 2)
    model = network("demo")
    [path, *_] = sorted(photos(folder / "photo", 1, options.data).iterdir())
    image = model.prepare([str(path)])[0].tensor[None]

    def step(count: int) -> Tensor:
        return lucidcam.attribute(model.module, image, "gradient", target=torch.arange(count)[None])

    how = "`lucidcam.attribute`, gradient (down to the pixels) of as many classes of one image, demo network"
    return _measured("targets", how, {count: partial(step, count) for count in counts}, options.repeats, say)


def _channels(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Line:
    counts = _spread(2048, options.share, 8)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    networks = {count: Wide(count).eval() for count in counts}

    def step(count: int) -> Tensor:
        return lucidcam.attribute(networks[count], images, "scorecam", target=0, layer="last")

    how = "`lucidcam.attribute`, scorecam of four images of 64², networks that differ in the width of their last layer"
    return _measured("channels", how, {count: partial(step, count) for count in counts}, options.repeats, say)
