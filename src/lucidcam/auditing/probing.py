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
from lucidcam.types import Model
from lucidcam.utils.class_scores import ClassScores
from lucidcam.utils.rollback import closes_scopes

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
        columns: what it returned, `[N, K]`, float64, on the CPU.
        meaning: what these numbers mean.
    """

    columns: Tensor
    meaning: ClassScores

    def probabilities(self) -> Tensor:
        """The probability of every class `[N, K]`."""
        return self.meaning.probabilities(self.columns)

    def predicted(self) -> list[int]:
        """The predicted class of each image."""
        return [int(class_id) for class_id in self.meaning.predicted(self.columns)]

    def log_odds(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """`log(p / (1 − p))` of one class per image `[N]`: unlike a probability it still moves where that is nearly 1."""
        return np.asarray(self.meaning.log_odds(self.columns, torch.as_tensor(list(ids))).numpy())


@dataclass(frozen=True, eq=False)
class Prober:
    """Asks a network.

    Attributes:
        model: the network.
        fill: one of `FILLS`.
    """

    model: Model
    fill: str = INPAINT

    def __post_init__(self) -> None:
        check_fill(self.fill)

    @closes_scopes
    def scores(self, images: Sequence[Tensor]) -> Scores:
        """What the network says of pre-processed images `[C, H, W]` of any sizes."""
        found: list[Tensor | None] = [None] * len(images)
        meaning = self.model.class_scores
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(tuple(image.shape), []).append(i)
        for rows in by_shape.values():
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                batch = torch.stack([images[i] for i in some]).to(self.model.device, self.model.dtype)
                with open_run(self.model.module, batch, progress=False, stated=self.model.class_scores) as run, torch.no_grad():
                    said = run.class_columns().detach().double().cpu()
                    meaning = run.class_scores()
                for i, row in zip(some, said, strict=True):
                    found[i] = row
        return Scores(torch.stack([each for each in found if each is not None]), meaning)

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
