"""What the examples about words share: scenes of coloured shapes, words as numbers, soft attention, training, how maps are judged.

Used by captioning.py, questions.py and prompts.py. Boxes and masks of the scenes judge maps; no network is shown them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich import print
from rich.table import Table
from torch import Tensor, nn

import lucidcam
from lucidcam.data import open_data
from lucidcam.imaging.maps import Array
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.imaging.render import draw_boxes
from lucidcam.nn.backbones import Small
from lucidcam.tasks import split

SIZE = 64
"""Pixels per side of a scene; a network's map has 16 × 16 cells."""

PREPROCESS = Preprocess(size=SIZE, resize=None, mean=(0.25,) * 3, std=(0.25,) * 3)
TRAINING, UNSEEN = 1, 2
"""Seeds of the scenes that are trained with, and of those that nothing was learnt or chosen by."""

SHOWN = 240
FIGURES = ("energy in the box", "energy on the shape", "centre in the box")


def scenes(count: int, seed: int, objects: int) -> list[lucidcam.Sample]:
    """Coloured shapes, each with its label ("red circle"), box and mask; no two alike in a scene."""
    return list(open_data("synthetic", scene="coloured", count=count, seed=seed, objects=objects, size=SIZE))


def pixels(samples: Sequence[lucidcam.Sample]) -> Tensor:
    """Network inputs `[n, 3, 64, 64]`, laid out so that convolutions on a CPU are quickest."""
    found = torch.stack([PREPROCESS(Image.fromarray(each.image)) for each in samples])
    return found.contiguous(memory_format=torch.channels_last)


def trunk(*further: int) -> nn.Module:
    """A small convolutional network, to maps of 16 × 16 cells: `[B, 3, 64, 64]` → `[B, K, 16, 16]`, non-negative.

    Args:
        further: channels of 1×1 convolutions after the others, which end with 48.
    """
    layers: list[nn.Module] = [Small(SIZE, width=12)]
    for before, after in zip((48, *further), further):
        layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Vocabulary:
    """Words as numbers; 0 fills the end of short texts.

    Attributes:
        words: in the order of their numbers.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], *special: str) -> Vocabulary:
        """Every word of some texts, after the filling and what else is special."""
        return cls(("", *special, *sorted({word for text in texts for word in split(text)})))

    def ids(self, text: str) -> list[int]:
        """Numbers of a text's words."""
        return [self.words.index(word) for word in split(text)]

    def batch(self, texts: Sequence[str]) -> Tensor:
        """Numbers of the words of several texts, `[n, L]`, filled up."""
        return nn.utils.rnn.pad_sequence([torch.tensor(self.ids(text)) for text in texts], batch_first=True)

    def text(self, ids: Iterable[int]) -> str:
        """The words of numbers."""
        return " ".join(self.words[i] for i in ids)


class Reader(nn.Module):
    """A text as one vector: the last state of a GRU.

    Args:
        words: how many there are.
        dim: of the vector.
    """

    def __init__(self, words: int, dim: int = 64) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(words, 32, padding_idx=0), nn.GRU(32, dim, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        """From numbers of words `[B, L]` to `[B, dim]`."""
        states = self.gru(self.embed(ids))[0]
        return states[torch.arange(len(ids)), (ids > 0).sum(1) - 1]


class Attend(nn.Module):
    """Soft attention, but for the sum: features, each times the share of the look that its place gets.

    A module of its own, so that there is a layer to explain: what the network reads of the image, place by place.
    """

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        """From `[B, K, h, w]` and scores `[B, heads, h, w]` to `[B, K, h, w]`; each head looks for K / heads channels."""
        n, heads, h, w = scores.shape
        shares = scores.flatten(2).softmax(-1).view(n, heads, 1, h, w)
        return (features.reshape(n, heads, -1, h, w) * shares).view(features.shape)


def train(network: nn.Module, loss: Callable[[Tensor], Tensor], count: int, epochs: int, batch: int = 64, lr: float = 3e-3) -> None:
    """Train with AdamW on a one-cycle schedule.

    Args:
        network: its parameters learn.
        loss: from numbers of scenes `[n]` to a scalar.
        count: of scenes.
        epochs: passes over them.
        batch: scenes per step.
        lr: the highest learning rate.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * (count // batch), pct_start=0.2)
    network.train()
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(count)[: count // batch * batch].split(batch):
            optimizer.zero_grad()
            value = loss(rows)
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}")
    network.eval()


def middle(thing: lucidcam.Object) -> tuple[float, float]:
    """The centre (x, y) of a box."""
    left, top, right, bottom = thing.box
    return (left + right) / 2, (top + bottom) / 2


def centre(energy: Array) -> tuple[float, float]:
    """The centre of mass (x, y) of a map without negative values; the image's centre where it is empty."""
    if not energy.any():
        return energy.shape[1] / 2, energy.shape[0] / 2
    y, x = (np.arange(side) + 0.5 for side in energy.shape)
    return float(energy.sum(0) @ x / energy.sum()), float(energy.sum(1) @ y / energy.sum())


def judged(map: Array, thing: lucidcam.Object) -> tuple[float, float, float]:
    """Shares of a map's positive energy in the thing's box and on its mask, and whether the energy's centre of mass is in the box."""
    energy = np.maximum(map, 0).astype(np.float64)
    left, top, right, bottom = whole_box(thing)
    whole = energy.sum() or 1.0
    x, y = centre(energy)
    return (
        float(energy[top:bottom, left:right].sum() / whole),
        float(energy[thing.mask()].sum() / whole),
        float(left <= x <= right and top <= y <= bottom),
    )


def whole_box(thing: lucidcam.Object) -> tuple[int, int, int, int]:
    """A box in whole pixels."""
    left, top, right, bottom = map(round, thing.box)
    return left, top, right, bottom


def chance(things: Iterable[lucidcam.Object]) -> dict[str, float]:
    """What a map that is the same everywhere has, in %: the things' mean shares of the image."""
    found = [judged(np.ones((SIZE, SIZE)), thing) for thing in things]
    return dict(zip(FIGURES, (100 * np.mean(found, 0)).tolist(), strict=True))


def means(rows: Sequence[tuple[float, ...]]) -> dict[str, float]:
    """Means of what `judged` gave for many maps, in %."""
    return dict(zip(FIGURES, (100 * np.mean(rows, 0)).tolist(), strict=True))


def show(results: dict[str, dict[str, float]], title: str) -> None:
    """Print a row per map, a column per figure."""
    table = Table("in %", *FIGURES, title=title)
    for name, figures in results.items():
        table.add_row(name, *(f"{each:.1f}" for each in figures.values()))
    print(table)


def plain(sample: lucidcam.Sample) -> Image.Image:
    """A scene, large enough to look at."""
    return Image.fromarray(sample.image).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)


def seen(found: lucidcam.Explanation, thing: lucidcam.Object | None) -> Image.Image:
    """A map over its scene, with the box of the thing that is meant, if one is."""
    large = found.overlay(alpha=0.55).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    return large if thing is None else draw_boxes(large, [tuple(side * SHOWN / SIZE for side in thing.box)], (255, 255, 255))


def saved(picture: Image.Image, out: str | Path, name: str) -> Path:
    """Write a picture into a folder, which is made."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)
    return folder / name
