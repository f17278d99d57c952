"""From samples to batches: photos read, changed at random, pre-processed, and drawn so that rare classes or combinations count."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lucidcam.errors import InputError, OptionError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io import images
from lucidcam.samples import Problem
from lucidcam.train.labelled import Array, Labelled, Sampling
from lucidcam.train.trainer import Training
from lucidcam.types import Frame, Model
from lucidcam.utils.optional import import_optional

Augment = Literal["standard", "shift", "none"]
WORKERS = 4


@dataclass(frozen=True, eq=False)
class Item:
    """One photo, ready.

    Attributes:
        row: of the sample.
        tensor: `[C, h, w]`; None where it cannot be read.
        frame: where in the photo the input lies.
        problem: why it cannot be read.
    """

    row: int
    tensor: Tensor | None
    frame: Frame | None = None
    problem: Problem | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Photos that could be read, and what could not.

    Attributes:
        inputs: `[B, C, h, w]`; None where none could.
        labels: `[B, K]`.
        rows: of the samples.
        frames: where in the photos the inputs lie.
        problems: with the others.
    """

    inputs: Tensor | None
    labels: Tensor
    rows: tuple[int, ...]
    frames: tuple[Frame, ...]
    problems: tuple[Problem, ...]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """On another device; Lightning asks for it."""
        inputs = None if self.inputs is None else self.inputs.to(device, non_blocking=non_blocking)
        return replace(self, inputs=inputs, labels=self.labels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """In pinned memory; the data loader asks for it."""
        return replace(self, inputs=None if self.inputs is None else self.inputs.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True, eq=False)
class Photos(Dataset[Item]):
    """Photos of samples, pre-processed.

    Attributes:
        data: the samples.
        preprocess: from photo to input.
        augment: a random change of the photo before; None: none.
        seed: of the changes; each depends on the seed, the epoch and the place in it alone, not on workers or interruptions.
    """

    data: Labelled
    preprocess: Preprocess
    augment: Callable[[Any], Any] | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any) -> Item:
        row, place, epoch = key if isinstance(key, tuple) else (key, key, 0)
        sample = self.data.samples[row]
        try:
            photo, _ = images.read(sample.image, self.preprocess.window)
            size = photo.size
            if self.augment is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(hash((self.seed, epoch, place)) % 2**63)
                    photo = self.augment(photo)
            tensor = self.preprocess(photo)
        except InputError as error:
            return Item(row, None, problem=Problem.of(sample.name, error))
        return Item(row, tensor, self.preprocess.frame(size))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Put photos into a batch, without those that could not be read."""
        good = [each for each in items if each.tensor is not None]
        rows = tuple(each.row for each in good)
        labels = torch.from_numpy(self.data.labels[list(rows)]).float()
        inputs = torch.stack([each.tensor for each in good if each.tensor is not None]) if good else None
        frames = tuple(each.frame for each in good if each.frame is not None)
        return Batch(inputs, labels, rows, frames, tuple(each.problem for each in items if each.problem is not None))


class Drawn(Sampler[Any]):
    """Draws as many samples as there are, anew in each epoch: (row, place, epoch).

    Args:
        count: how many samples there are.
        weights: how often each is drawn, relative to the others; None: each once, in random order.
        seed: of the draws; an epoch's draws depend on it and on the epoch alone.
    """

    def __init__(self, count: int, weights: Array | None, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.chances = None if weights is None else weights / weights.sum()

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.count) if self.chances is None else rng.choice(self.count, self.count, p=self.chances)
        return iter([(int(row), place, self.epoch) for place, row in enumerate(rows)])


def steps_of(model: Model) -> Preprocess:
    """The preprocessing of a model, whose steps are known.

    Raises:
        OptionError: it brings its own code, or none.
    """
    if not isinstance(model.preprocess, Preprocess):
        raise OptionError(f"training needs a lucidcam.Preprocess, whose steps are known; {model.name} brings code of its own.")
    return model.preprocess


def loaders(
    train: Labelled, check: Labelled, steps: Preprocess, augment: Augment, sampling: Sampling, how: Training
) -> tuple[DataLoader[Item], DataLoader[Item]]:
    """Loaders of training and of validation photos.

    Args:
        train: what is trained on, drawn anew in each epoch.
        check: what is judged by, in order and unchanged.
        steps: from photo to input.
        augment: how training photos are changed.
        sampling: how often each is drawn.
        how: batch size, workers and seed.
    """
    first = train.samples[0].image
    in_memory = not (isinstance(first, (str, os.PathLike)) or hasattr(first, "identity"))  # images that are read late have one
    workers = how.workers if how.workers is not None else 0 if in_memory else min(WORKERS, os.cpu_count() or 1)
    changed = steps.refit("squash") if augment == "standard" else steps  # the standard change cuts out a piece by itself
    photos = Photos(train.lean(), changed, augmentation(augment, steps), how.seed)
    shared: dict[str, Any] = {"batch_size": how.batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    pinned = torch.cuda.is_available()
    drawn = Drawn(len(train), train.sampling_weights(sampling), how.seed)
    fixed = Photos(check.lean(), steps)
    return (
        DataLoader(photos, sampler=drawn, collate_fn=photos.collate, pin_memory=pinned, **shared),
        DataLoader(fixed, collate_fn=fixed.collate, pin_memory=pinned, **shared),
    )


def augmentation(augment: Augment, steps: Preprocess) -> Callable[[Any], Any] | None:
    """A random change of a photo; None: none."""
    if augment == "none":
        return None
    transforms = import_optional("torchvision.transforms.v2", "train", "augmentation")
    if augment == "shift":
        fill = tuple(round(value / steps.scale) for value in (steps.mean * 3)[:3])
        return transforms.RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=fill)  # type: ignore[no-any-return]
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.RandomResizedCrop(steps.size, scale=(0.4, 1.0), antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
