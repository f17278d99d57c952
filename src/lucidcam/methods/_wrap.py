"""Wrappers that work with every method: several layers fused, augmented copies averaged, noisy copies averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError, unknown
from lucidcam.imaging.maps import resize
from lucidcam.perturb.noise import noisy

Maps = Callable[[Run], Tensor]
Change = Callable[[Tensor], Tensor]

Fusion = Literal["mean", "max", "product"]


def fused(maps: Maps, how: Fusion) -> Maps:
    """Fuse the maps of all the run's layers.

    Each map is divided by its largest magnitude (layers differ in scale), resized to the finest layer's grid, and combined: "mean",
    "max" or
    "product" (of the positive parts).
    """

    def fuse(run: Run) -> Tensor:
        found = [maps(run.at(i)) for i in range(len(run.layers))]
        size = max((tuple(m.shape[2:]) for m in found), key=lambda grid: torch.Size(grid).numel())
        units = torch.stack([resize(_by_magnitude(m), size) for m in found])
        if how == "product":
            return units.clamp(min=0).prod(0)
        return units.mean(0) if how == "mean" else units.amax(0)

    return fuse


def augmented(maps: Maps, names: str | Sequence[str]) -> Maps:
    """Average the maps of the image and of changed copies, turned back.

    Args:
        maps: what to average.
        names: of "hflip", "vflip" and "gain" (0.9 and 1.1 times the values), separated by commas or as a sequence.

    Raises:
        OptionError: for another name, or a flip of an axis that the inputs do not have.
    """
    chosen = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in AUGMENTATIONS:
            raise OptionError(unknown("augmentation", name, AUGMENTATIONS))

    def average(run: Run) -> Tensor:
        if "vflip" in chosen and len(run.inputs.size) < 2:
            raise OptionError(f"vflip needs inputs with rows and columns; got {list(run.image.shape)}.")
        if run.local and {"hflip", "vflip"} & set(chosen):
            raise OptionError("the target names a place in the image, which a flipped copy has elsewhere; augment with gain only.")
        found = [maps(run)]
        for name in chosen:
            found += [back(maps(run.on(change(run.image)))) for change, back in AUGMENTATIONS[name]]
        return torch.stack(found).mean(0)

    return average


def smoothed(maps: Maps, samples: int, noise: float) -> Maps:
    """Average the maps of noisy copies (SmoothGrad, Smilkov et al. 2017, for any method).

    Args:
        maps: what to average.
        samples: copies.
        noise: standard deviation as a fraction of each image's value range.
    """
    if samples < 1 or noise < 0:
        raise OptionError(f"expected smooth ≥ 1 and noise ≥ 0; got {samples} and {noise}.")

    def average(run: Run) -> Tensor:
        generator = run.generator()
        total: Tensor | None = None
        for _ in run.stream.steps(samples):
            found = maps(run.on(noisy(run.image, noise, generator))) / samples
            total = found if total is None else total + found
        assert total is not None
        return total

    return average


def _flip(axis: int) -> tuple[Change, Change]:
    return (lambda x: x.flip(axis)), (lambda x: x.flip(axis))


def _gain(factor: float) -> tuple[Change, Change]:
    return (lambda x: x * factor), (lambda x: x)


AUGMENTATIONS: dict[str, tuple[tuple[Change, Change], ...]] = {
    "hflip": (_flip(-1),),
    "vflip": (_flip(-2),),
    "gain": (_gain(0.9), _gain(1.1)),
}


def _by_magnitude(maps: Tensor) -> Tensor:
    peak = maps.flatten(2).abs().amax(-1)
    return maps / torch.where(peak > 0, peak, 1).reshape(*peak.shape, *[1] * (maps.ndim - 2))
