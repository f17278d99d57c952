"""The grid pointing game (Böhle et al., "Convolutional Dynamic Alignment Networks", CVPR 2021): which cell of a mosaic is it about?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam.engine.foreign import says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.run import open_run
from lucidcam.engine.trace import remembered
from lucidcam.errors import InputError, OptionError
from lucidcam.imaging import maps
from lucidcam.metrics._base import Figure, MosaicMetric, register
from lucidcam.targets import logits
from lucidcam.utils.class_scores import ClassScores, OutputKind
from lucidcam.utils.rollback import closes_scopes


@register("grid_pointing_game")
@dataclass(frozen=True, kw_only=True)
class GridPointingGame(MosaicMetric):
    """Share of a map's positive energy in the right cell of a mosaic: `100 · Σ_cell max(0, M) / Σ max(0, M)`, in percent.

    A mosaic is `grid` × `grid` images that the network is sure of, each of another class. It is explained once per cell, for that
    cell's class; the figure is the mean over cells and mosaics, and by chance `100 / grid²`. It needs no boxes. No image is in two
    mosaics, so that mosaics are independent; images go where that gives the most mosaics. The map is resized bilinearly to the
    mosaic; one without positive energy gives 0.

    Attributes:
        grid: cells per side.
        mosaics: at most so many.
        confidence: the smallest probability that the network gives its predicted class in an image that takes part.
        size: "full": the images keep their size, and the mosaic is `grid` times as high and wide (the paper's); where the network takes
            one size only, and always with "same", the mosaic is shrunk to the size of one image.
    """

    figures = (Figure("grid_pointing_game", "%"),)
    paper = "Böhle 2021"

    grid: int = 2
    mosaics: int = 100
    confidence: float = 0.5
    size: Literal["full", "same"] = "full"

    def __post_init__(self) -> None:
        if self.grid < 2 or self.mosaics < 1 or not 0 <= self.confidence <= 1 or self.size not in ("full", "same"):
            raise OptionError(
                f'expected grid ≥ 2, mosaics ≥ 1, confidence in 0–1 and size "full" or "same"; got {self.grid}, {self.mosaics}, '
                f"{self.confidence} and {self.size!r}."
            )

    def choose(self, images: Sequence[tuple[str, int, float]], seed: int) -> list[list[int]]:
        """See `MosaicMetric.choose`; the same for the same images and seed, in whatever order the images come.

        >>> GridPointingGame(grid=2).choose([(f"{i}", i % 5, 0.9) for i in range(5)], seed=0) != []
        True
        >>> GridPointingGame(grid=2).choose([(f"{i}", i % 3, 0.9) for i in range(9)], seed=0)    # three classes for four cells
        []
        """
        rng = np.random.default_rng(seed)
        left: dict[int, list[int]] = {}
        for i in sorted((i for i, (_, _, sure) in enumerate(images) if sure >= self.confidence), key=lambda i: images[i][0]):
            left.setdefault(images[i][1], []).append(i)
        for _, each in sorted(left.items()):
            rng.shuffle(each)
        found: list[list[int]] = []
        cells = self.grid**2
        while len(found) < self.mosaics and len(left) >= cells:
            classes = sorted(left)
            luck = dict(zip(classes, rng.permutation(len(classes)), strict=True))
            fullest = sorted(classes, key=lambda c: (-len(left[c]), luck[c]))[:cells]
            mosaic = [left[c].pop() for c in fullest]
            rng.shuffle(mosaic)
            found.append(mosaic)
            left = {c: each for c, each in left.items() if each}
        return found

    def assemble(self, images: Sequence[Tensor], module: nn.Module) -> Tensor:
        """See `MosaicMetric.assemble`; images of other sizes are resized to the first one's."""
        size = images[0].shape[1:]
        cells = [each if each.shape[1:] == size else _resized(each, size) for each in images]
        rows = [torch.cat(cells[i : i + self.grid], dim=2) for i in range(0, len(cells), self.grid)]
        mosaic = torch.cat(rows, dim=1)
        return mosaic if self.size == "full" and _takes(module, mosaic) else _resized(mosaic, size)

    def measure(self, maps: Tensor) -> Tensor:
        """See `MosaicMetric.measure`."""
        energy = maps.clamp(min=0)
        height, width = energy.shape[1:]
        shares = []
        for row, each in enumerate(energy):
            y, x = divmod(row, self.grid)
            top, bottom = (round(height * i / self.grid) for i in (y, y + 1))
            left, right = (round(width * i / self.grid) for i in (x, x + 1))
            everything = each.sum()
            shares.append(torch.where(everything > 0, each[top:bottom, left:right].sum() / everything, torch.zeros_like(everything)))
        return 100 * torch.stack(shares)[:, None]

    @closes_scopes
    def __call__(
        self,
        module: nn.Module,
        images: Tensor,
        explain: Callable[[nn.Module, Tensor, Tensor], Tensor],
        *,
        seed: int = 0,
        outputs: OutputKind | None = None,
    ) -> dict[str, Tensor]:
        """Play the game with pre-processed images.

        Args:
            module: the network; it comes back as it was.
            images: `[N, C, h, w]`; those that the network is sure of take part.
            explain: `(module, mosaics [B, C, H, W], classes [B]) → maps [B, h, w]`.
            seed: of the choice.
            outputs: what the network's outputs mean, see `lucidcam.wrap`; None: found by value.

        Returns:
            The share for every cell of every mosaic, `[mosaics · grid²]`, float64.

        Raises:
            InputError: when there are too few classes for one mosaic.
        """
        with open_run(module, images, stated=ClassScores(outputs)) as run:
            probabilities, classes = run.class_probabilities(), run.class_scores().predicted(run.class_columns())
        if probabilities is None:
            raise InputError('a mosaic is made of images of different classes, and these outputs are no class scores (outputs="none").')
        sure = probabilities.gather(1, classes[:, None])[:, 0]
        listed = [(f"{i:08d}", number, probability) for i, (number, probability) in enumerate(zip(classes.tolist(), sure.tolist()))]
        mosaics = self.choose(listed, seed)
        if not mosaics:
            raise InputError(
                f"a mosaic needs {self.grid**2} images of different classes with a probability of at least {self.confidence}; "
                f"these {len(images)} have {len(set(classes[sure >= self.confidence].tolist()))} such classes."
            )
        found = []
        for mosaic in mosaics:
            image = self.assemble([images[i] for i in mosaic], module)
            made = explain(module, image[None].expand(len(mosaic), -1, -1, -1), classes[mosaic])
            found.append(self.measure(maps.resize(made, (image.shape[1], image.shape[2]))))
        return {"grid_pointing_game": torch.cat(found)[:, 0].cpu().double()}


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]


@closes_scopes
def _takes(module: nn.Module, image: Tensor) -> bool:
    """Whether a network takes an image of this size; asked once per size."""
    known = remembered(module, Inputs.of(image[None]))
    size = ("takes", tuple(image.shape))
    if size not in known:
        try:
            with open_run(module, image[None]) as run:
                logits(run.outputs(), 1)
            known[size] = True
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            if says_nothing(error):
                raise
            known[size] = False
    return bool(known[size])
