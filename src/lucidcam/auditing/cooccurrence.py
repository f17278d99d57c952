"""Suspect companions: a class that is recognised by another that often stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lucidcam.auditing.backgrounds import size_of, things
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.regions import FEWEST, MOST
from lucidcam.auditing.trials import Change, Skipped, Trial
from lucidcam.auditing.views import View, region_of, seen
from lucidcam.samples import Mask


def trial(
    label: str, views: Sequence[View], others: Sequence[View], prober: Prober, image: Callable[[View], Tensor], seed: int
) -> Trial | Skipped:
    """Cover the companion beside the object, and put it into images that hold neither.

    As a control the same shape is covered, or put in from another image, where no object is marked.

    Args:
        label: of the companion.
        views: of the class that is asked for.
        others: of other classes, which do not hold this one.
        prober: asks the network.
        image: gives a view's input.
        seed: of places and pairs.

    Returns:
        Why there is no trial where the two are seldom together with their objects marked.
    """
    pairs = [view for view in views if view.own is not None and label in view.others][:MOST]
    rng = np.random.default_rng(seed)
    names, wholes, masks = [], [], []
    for view in pairs:
        whole = image(view)
        companion = beside(view, label, size_of(whole))
        control = _elsewhere(companion, things(view, size_of(whole)), rng)
        if companion.any() and control is not None:
            names.append(view.sample.name)
            wholes.append(whole)
            masks.append((companion, control))
    if len(wholes) < FEWEST:
        return Skipped(f"fewer than {FEWEST} images have both marked, with room for a control", "more boxes or masks of both")
    filled = prober.covered([whole for whole in wholes for _ in range(2)], [mask for both in masks for mask in both])
    id = pairs[0].id
    take = [Change(names[i], id, whole, filled[2 * i], (filled[2 * i + 1],)) for i, whole in enumerate(wholes)]
    give = []
    free = [view for view in others if label not in view.others and view.label != label]
    for taker in [free[i] for i in rng.permutation(len(free))[:MOST]]:
        full = image(taker)
        giver = int(rng.integers(len(wholes)))
        if full.shape != wholes[giver].shape:
            continue
        companion, control = masks[giver]
        put, other = (
            torch.where(torch.from_numpy(companion), source, full) for source in (wholes[giver], _moved(wholes[giver], control, companion))
        )
        give.append(Change(taker.sample.name, id, full, put, (other,)))
    return Trial.of(prober, take, give, [view.sample.name for view in pairs])


def beside(view: View, label: str, size: tuple[int, int]) -> Mask:
    """The pixels of an input of `size` that the companion covers, and the object itself does not."""
    return _marked(view, label, size) & ~_marked(view, view.label, size)


def _marked(view: View, label: str, size: tuple[int, int]) -> Mask:
    return seen(region_of([each for each in view.sample.objects if each.label == label], view.frame), view.frame, size)


def _elsewhere(region: Mask, taken: Mask, rng: np.random.Generator, attempts: int = 200) -> Mask | None:
    """A region's shape at a random place where nothing is marked; None where there is no room."""
    rows, columns = np.nonzero(region)
    if not len(rows):
        return None
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    for _ in range(attempts):
        y, x = (int(rng.integers(side - length + 1)) for side, length in zip(region.shape, (height, width), strict=True))
        there = rows - rows.min() + y, columns - columns.min() + x
        if not taken[there].any():
            moved = np.zeros_like(region)
            moved[there] = True
            return moved
    return None


def _moved(image: Tensor, source: Mask, target: Mask) -> Tensor:
    """An image in which the pixels of one region stand at another of the same shape."""
    found = image.clone()
    found[:, torch.from_numpy(target)] = image[:, torch.from_numpy(source)]
    return found
