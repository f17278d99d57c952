"""Where and when a network of clips looks: a ring, cross or square flashes among drifting and flashing discs, and the map finds it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lucidcam
from lucidcam.imaging.preprocess import Clips, Preprocess

FRAMES, SIDE, SEEN = 12, 64, 32
"""Frames of a clip, their side in pixels, and the side that the network sees."""
LABELS = ("ring", "cross", "square")
CLIPS, EPOCHS, BATCH = 480, 5, 32


@dataclass(frozen=True)
class Scene:
    """A clip, and where and when its shape is to be seen.

    Attributes:
        frames: `[T, H, W, 3]`, uint8.
        label: which shape.
        time: its first frame, and the one after its last.
        box: around it, xyxy in pixels.
    """

    frames: npt.NDArray[np.uint8]
    label: int
    time: tuple[int, int]
    box: tuple[int, int, int, int]

    def inside(self) -> npt.NDArray[np.bool_]:
        """The shape's place in space and time `[T, H, W]`."""
        mask = np.zeros(self.frames.shape[:3], bool)
        left, top, right, bottom = self.box
        mask[slice(*self.time), top:bottom, left:right] = True
        return mask


def scene(seed: int) -> Scene:
    """Draw a clip: three discs drift across it, two more flash, and somewhere, some time, a shape flashes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    tint = rng.integers(20, 90, 3)
    frames = np.broadcast_to(tint, (FRAMES, SIDE, SIDE, 3)).copy()

    def draw(frame: int, form: npt.NDArray[np.bool_], colour: npt.NDArray[np.int64]) -> None:
        frames[frame][form] = colour

    for number in range(5):  # distractors: the first three are there all the time
        radius, colour = rng.integers(5, 9), rng.integers(60, 160, 3)
        place, speed = rng.uniform(0, SIDE, 2), rng.uniform(-2, 2, 2)
        start = rng.integers(FRAMES - 4)
        for frame in range(FRAMES) if number < 3 else range(start, start + 4):
            at = (place + speed * frame) % SIDE
            draw(frame, (x - at[0]) ** 2 + (y - at[1]) ** 2 < radius**2, colour)
    label, start, half = int(rng.integers(3)), int(rng.integers(FRAMES - 3)), 10
    cx, cy = (int(each) for each in rng.integers(half, SIDE - half + 1, 2))
    u, v = np.abs(x + 0.5 - cx), np.abs(y + 0.5 - cy)
    square = np.maximum(u, v) < half
    far = np.hypot(u, v)
    form = [(far < half) & (far > half - 5), square & (np.minimum(u, v) < 3.5), square][label]
    colour = rng.integers(180, 240, 3)
    for frame in range(start, start + 4):
        draw(frame, form, colour)
    box = (cx - half, cy - half, cx + half, cy + half)
    grain = rng.integers(-15, 16, frames.shape, dtype=np.int16)
    return Scene(np.clip(frames + grain, 0, 255).astype(np.uint8), label, (start, start + 4), box)


def network() -> nn.Sequential:
    """Three convolutions over time and space, and the maximum of each channel, as what counts is short and small; maps are `[6, 8, 8]`."""
    return nn.Sequential(
        nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.Conv3d(16, 32, 3, padding=1),
        nn.BatchNorm3d(32),
        nn.ReLU(),
        nn.AdaptiveMaxPool3d(1),
        nn.Flatten(),
        nn.Linear(32, len(LABELS)),
    )


def train(seed: int = 0) -> lucidcam.Model:
    """Train the network on generated clips, of which it is told the shape alone."""
    torch.manual_seed(seed)
    still = Preprocess(size=(SEEN, SEEN), mean=(0.5,), std=(0.25,), interpolation="box", fit="squash")
    model = lucidcam.wrap(network(), Clips(still=still, count=FRAMES), LABELS, name="clips")
    scenes = [scene(1000 + i) for i in range(CLIPS)]
    pixels = torch.from_numpy(np.stack([each.frames for each in scenes])).permute(0, 4, 1, 2, 3)
    labels = torch.tensor([each.label for each in scenes])
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * (CLIPS // BATCH))
    model.module.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(CLIPS)[: CLIPS // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model.module(_seen(pixels[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.module.eval()
    return model


def _seen(pixels: Tensor) -> Tensor:
    """What `Clips` does, many at a time."""
    return (F.avg_pool3d(pixels.float(), (1, 2, 2)) / 255 - 0.5) / 0.25


def judge(model: lucidcam.Model, method: str = "layercam", count: int = 60) -> dict[str, float]:
    """Compare maps with the truth, on clips that were not trained on."""
    scenes = [scene(i) for i in range(count)]
    found = lucidcam.explain(model, [each.frames for each in scenes], method)
    energy, chance, when, where = [], [], [], []
    for each, e in zip(scenes, found, strict=True):
        heat, inside = np.stack([frame.heatmap for frame in e.film]), each.inside()
        energy.append(heat[inside].sum() / max(heat.sum(), 1e-9))
        chance.append(inside.mean())
        time, row, column = np.unravel_index(heat.argmax(), heat.shape)
        when.append(each.time[0] <= time < each.time[1])
        where.append(inside[:, row, column].any())
    right = np.mean([each.label == e.target for each, e in zip(scenes, found, strict=True)])
    figures = {"accuracy": right, "energy": np.mean(energy), "chance": np.mean(chance), "when": np.mean(when), "where": np.mean(where)}
    return {name: round(float(value), 3) for name, value in figures.items()}


def main(folder: str | Path = "out/video") -> list[Path]:
    """Train, compare with the truth, and write a clip with its map as an animation; return what was written."""
    out = Path(folder)
    model = train()
    print("held-out clips:", judge(model))
    shown = scene(3)
    (explanation,) = lucidcam.explain(model, shown.frames, "layercam")
    pairs = [Image.fromarray(np.hstack([frame.image, frame.overlay()])) for frame in explanation.film]
    print(f"{explanation.label}: most evidence in frame {explanation.time}; it flashes in {shown.time[0]} to {shown.time[1] - 1}")
    return [lucidcam.animate(pairs, out / "clip.gif", size=384), explanation.save(out / "frame.png")]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
