"""Scores of images that were changed: regions covered, patches pasted, contexts exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam.engine.run import open_run
from lucidcam.errors import OptionError, unknown
from lucidcam.perturb.baselines import BASELINES, baseline
from lucidcam.perturb.imputation import impute
from lucidcam.samples import Mask
from lucidcam.targets import logits
from lucidcam.types import Model

INPAINT = "inpaint"
FILLS = (INPAINT, *BASELINES)
"""What a covered region is filled with: smoothly from its rim (linear imputation), or one of the baselines."""

WINDOWS = 6
"""Lengths that the windows around holes have, along each side of the image."""

AT_ONCE = 32
"""Images that go through the network together."""


def check_fill(fill: str) -> None:
    """Refuse a filling that does not exist.

    Raises:
        OptionError: it is none of `FILLS`.
    """
    if fill not in FILLS:
        raise OptionError(unknown("filling", fill, FILLS))


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says of some images.

    Attributes:
        logits: `[N, K]`, float64, on the CPU.
        multi_label: each class has a probability of its own (sigmoid), else a softmax shares it out.
    """

    logits: Tensor
    multi_label: bool

    def probabilities(self) -> Tensor:
        """`[N, K]`."""
        return self.logits.sigmoid() if self.multi_label else self.logits.softmax(1)

    def log_odds(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """`log(p / (1 − p))` of one class per image `[N]`: unlike a probability it still moves where that is nearly 1."""
        chosen = torch.as_tensor(list(ids))[:, None]
        own = self.logits.gather(1, chosen)
        if self.multi_label:
            return np.asarray(own[:, 0].numpy())
        rest = self.logits.scatter(1, chosen, -torch.inf).logsumexp(1, keepdim=True)
        return np.asarray((own - rest)[:, 0].numpy())


@dataclass(frozen=True, eq=False)
class Prober:
    """Asks a network.

    Attributes:
        model: the network.
        multi_label: see `Scores`.
        fill: one of `FILLS`.
    """

    model: Model
    multi_label: bool = False
    fill: str = INPAINT

    def __post_init__(self) -> None:
        check_fill(self.fill)

    def scores(self, images: Sequence[Tensor]) -> Scores:
        """What the network says of pre-processed images `[C, H, W]` of any sizes."""
        found: list[Tensor | None] = [None] * len(images)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(tuple(image.shape), []).append(i)
        for rows in by_shape.values():
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                batch = torch.stack([images[i] for i in some]).to(self.model.device, self.model.dtype)
                with open_run(self.model.module, batch, progress=False) as run, torch.no_grad():
                    said = logits(run.outputs(), len(some)).detach().double().cpu()
                for i, row in zip(some, said, strict=True):
                    found[i] = row
        return Scores(torch.stack([each for each in found if each is not None]), self.multi_label)

    def covered(self, images: Sequence[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Images `[C, H, W]` without the pixels of a mask `[H, W]` each."""
        if self.fill == INPAINT:
            return _inpainted(images, masks)
        return [
            torch.where(torch.from_numpy(mask), baseline(image[None], self.fill)[0], image)
            for image, mask in zip(images, masks, strict=True)
        ]


def _inpainted(images: Sequence[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
    """Filled in from the rim of the hole, all that lies beyond it aside: windows of one size are solved together."""
    found = [image.clone() for image in images]
    windows: dict[tuple[int, ...], list[tuple[int, slice, slice]]] = {}
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if mask.all():
            found[i] = image.mean((1, 2), keepdim=True).expand_as(image).clone()
        elif mask.any():
            rows, columns = (_window(np.asarray(mask.any(axis))) for axis in (1, 0))
            windows.setdefault((image.shape[0], rows.stop - rows.start, columns.stop - columns.start), []).append((i, rows, columns))
    for group in windows.values():
        parts = torch.stack([images[i][:, rows, columns] for i, rows, columns in group])
        holes = torch.stack([torch.from_numpy(np.ascontiguousarray(masks[i][rows, columns])) for i, rows, columns in group])
        for (i, rows, columns), filled in zip(group, impute(parts, holes, tolerance=1e-3), strict=True):
            found[i][:, rows, columns] = filled
    return found


def _window(inside: npt.NDArray[np.bool_]) -> slice:
    """From the first to the last true entry with a margin of one, where there is room, in one of a few lengths, that many may be alike."""
    places = np.flatnonzero(inside)
    start, stop = max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, len(inside))
    step = max(1, len(inside) // WINDOWS)
    length = min(-(-(stop - start) // step) * step, len(inside))
    start = min(start, len(inside) - length)
    return slice(start, start + length)
