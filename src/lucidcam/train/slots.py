"""What a memory's slots hold: which classes address them, which training images are nearest, which are dead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lucidcam.errors import InputError
from lucidcam.imaging import render
from lucidcam.io import images
from lucidcam.io.picture_files import save_figure, save_picture
from lucidcam.io.storage import json_text, write_whole
from lucidcam.nn import Memory
from lucidcam.nn.memory import cosines
from lucidcam.reprs import OneLineRepr
from lucidcam.train.features import Features
from lucidcam.train.labelled import Array

NEAREST = 6
SHEET = 12
"""Slots on the contact sheet: those that most images address."""


@dataclass(frozen=True, eq=False)
class Slots(OneLineRepr):
    """Views of a memory over the images it was trained on.

    Attributes:
        classes: K words.
        addresses: mean address of each class's images `[K, N]`; rows sum to 1.
        read: how many images (or places, in a memory that reads places) address each slot most `[N]`.
        nearest: names of the training images whose features are most like each slot's spatial memory, best first.
    """

    classes: tuple[str, ...]
    addresses: Array
    read: Array
    nearest: tuple[tuple[str, ...], ...]
    _images: tuple[tuple[Any, ...], ...] = field(default=(), repr=False)
    _window: images.Window | None = field(default=None, repr=False)

    @property
    def dead(self) -> tuple[int, ...]:
        """Slots that no training image, and no place in one, addresses most."""
        return tuple(int(i) for i in np.flatnonzero(self.read == 0))

    def save(self, folder: Path) -> None:
        """Write `slots.json`, `slots.png` (address histogram of each class) and `slots-nearest.png` (images nearest to the slots)."""
        told = {
            "classes": self.classes,
            "dead": self.dead,
            "slots": [
                {
                    "read": int(self.read[i]),
                    "addresses": dict(zip(self.classes, self.addresses[:, i].round(6).tolist())),
                    "nearest": self.nearest[i],
                }
                for i in range(len(self.read))
            ],
        }
        write_whole(folder / "slots.json", json_text(told, indent=2).encode() + b"\n")
        save_figure(_histogram(self), folder / "slots.png", dpi=120)
        sheet = self._sheet()
        if sheet is not None:
            save_picture(sheet, folder / "slots-nearest.png")

    def _sheet(self) -> Any:
        order = [int(i) for i in np.argsort(-self.read, kind="stable")[:SHEET]]
        rows = []
        for i in order:
            likely = self.classes[int(self.addresses[:, i].argmax())]
            cells = []
            for name, source in zip(self.nearest[i], self._images[i]):
                try:
                    cells.append((Path(name).name, images.read(source, self._window)[0]))
                except InputError:
                    continue
            if cells:
                cells[0] = (f"slot {i}: {likely}; {cells[0][0]}", cells[0][1])
                rows.append(cells)
        return render.panel(rows, "Training images nearest to each slot", height=120) if rows else None


def slots_of(memory: Memory, features: Features, window: images.Window | None = None) -> Slots:
    """Look at a memory through the images it was trained on, a few at a time.

    Args:
        memory: the memory.
        features: of its images.
        window: of grey values, by which the images are shown; see `lucidcam.io.images.read`.
    """
    count = memory.slots
    labels = features.data.labels
    sums, read = np.zeros((labels.shape[1], count)), np.zeros(count)
    best = np.full((count, 0), -2.0)
    rows = np.zeros((count, 0), np.int64)
    start = 0
    with torch.no_grad():
        for maps, hot in features.loader():
            prepared = memory.prepared(maps)
            places = memory.log_addresses(prepared)
            address = places.exp().mean(1)
            sums += hot.double().t().numpy() @ address.double().numpy()
            read += np.bincount(places.argmax(-1).flatten().numpy(), minlength=count)
            likeness = cosines(prepared.flatten(1), memory.spatial.flatten(1)).t().double().numpy()
            best = np.concatenate([best, likeness], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + len(maps)), likeness.shape)], axis=1)
            keep = np.argsort(-best, axis=1, kind="stable")[:, :NEAREST]
            best, rows = np.take_along_axis(best, keep, 1), np.take_along_axis(rows, keep, 1)
            start += len(maps)
    samples = features.data.samples
    return Slots(
        features.data.classes,
        sums / labels.sum(0).clip(min=1)[:, None],
        read,
        tuple(tuple(samples[i].name for i in row) for row in rows),
        tuple(tuple(samples[i].image for i in row) for row in rows),
        window,
    )


def _histogram(slots: Slots) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = np.lexsort((-slots.addresses.max(0), slots.addresses.argmax(0)))  # slots of one class side by side
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(slots.classes)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    shown = axis.imshow(slots.addresses[:, order], aspect="auto", cmap="viridis")
    axis.set_yticks(range(len(slots.classes)), slots.classes)
    axis.set_xlabel(f"slots, sorted by class ({len(slots.dead)} of {len(slots.read)} dead)")
    figure.colorbar(shown, ax=axis, label="mean address")
    return figure
