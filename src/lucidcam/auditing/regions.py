"""Suspect places: regions that draw attention at the same spot of many images, off the object: watermarks, time stamps, borders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam.auditing.clusters import clusters
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.trials import Change, Skipped, Trial, spread
from lucidcam.auditing.views import GRID, Grid, View
from lucidcam.imaging import maps
from lucidcam.samples import Mask

FEWEST = 8
"""Images in which a suspicion is tried; with fewer a paired test cannot tell."""

PEAK = 0.5
"""A region is what lies at or above this share of its peak."""

LARGEST = 0.2
"""Share of the image that a region has at most: more is no place."""

ATTENDED = 2.0
"""An image has the region where it gets so many times the energy of its share of the area."""

ALIKE = 0.3
"""Where no objects are marked, a region must look alike in the images that have it (see `likeness`), or it may be the object itself."""

MOST = 32
"""Images that a suspicion is tried on."""

CONTROLS = 2
"""Equally large regions elsewhere, with whose covering that of the suspect is compared."""


@dataclass(frozen=True, eq=False)
class Place:
    """A region that may be a shortcut.

    Attributes:
        label: of the class.
        id: of the class.
        region: its cells `[GRID, GRID]`.
        found: how: "contrast" (this class's maps against the others'), "cluster", or "together": several places changed at once.
        parts: the places of which it is made; empty: it is one.
    """

    label: str
    id: int
    region: Mask = field(repr=False)
    found: str
    parts: tuple[Mask, ...] = field(default=(), repr=False)

    @property
    def regions(self) -> tuple[Mask, ...]:
        """The places by themselves."""
        return self.parts or (self.region,)


def off(view: View) -> Grid:
    """The map without what lies on the class's own objects, where these are marked."""
    return view.heat if view.own is None else np.asarray(view.heat * (1 - view.own), np.float32)


def kinds(views: Sequence[View]) -> npt.NDArray[np.int64]:
    """Which kind each of a class's maps is, by where it looks off the object."""
    return clusters(np.sqrt(np.stack([off(view) for view in views])).reshape(len(views), -1))


def suspects(views: Sequence[View], others: Sequence[View], which: npt.NDArray[np.int64]) -> list[Place]:
    """Regions of one class's maps that are worth a trial.

    Args:
        views: of the class.
        others: of the other classes.
        which: their `kinds`.
    """
    if len(views) < FEWEST:
        return []
    heat = np.stack([off(view) for view in views])
    mean = heat.mean(0)
    found: list[tuple[str, Mask]] = []
    if others:
        found += [("contrast", region) for region in peaks(mean - np.stack([off(view) for view in others]).mean(0))]
    for number in range(which.max() + 1):
        some = heat[which == number]
        if len(some) >= FEWEST:
            found += [("cluster", region) for region in peaks(some.mean(0) - (mean if which.max() else 0))[:1]]
    kept: list[tuple[str, Mask]] = []
    for how, region in found:
        if all((region & known).sum() < 0.5 * (region | known).sum() for _, known in kept):
            kept.append((how, region))
    return [Place(views[0].label, views[0].id, grown(region), how) for how, region in kept]


def all_together(suspects: Sequence[Place]) -> list[Place]:
    """All places of a class as one, where there are several: of marks that stand for one another, covering one changes little."""
    if len(suspects) < 2:
        return []
    parts = tuple(each.region for each in suspects)
    return [Place(suspects[0].label, suspects[0].id, np.asarray(np.logical_or.reduce(parts)), "together", parts)]


def grown(region: Mask) -> Mask:
    """A region with one more cell on all sides: a map is blurred, and what is half covered is still seen."""
    padded = np.pad(region, 1)
    height, width = region.shape
    return np.asarray(np.logical_or.reduce([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]))


def peaks(values: npt.NDArray[np.float32]) -> list[Mask]:
    """Connected regions at or above half of their own peak, the strongest first; those that are no place are left out."""
    heatmap = maps.normalise(np.asarray(values, np.float32))
    found = []
    for region in maps.regions(heatmap, PEAK):
        mask = region.mask((GRID, GRID))
        if mask.sum() <= LARGEST * mask.size:
            found.append((float(heatmap[mask].max()), mask))
    return [mask for _, mask in sorted(found, key=lambda each: -each[0])]


def has(view: View, region: Mask) -> bool:
    """Whether an image's map draws attention to a region, off the class's own object, which leaves most of it free."""
    free = bare(view, region)
    return bool(2 * free.sum() >= region.sum()) and float(view.heat[free].sum()) >= ATTENDED * free.mean()


def bare(view: View, region: Mask) -> Mask:
    """The cells of a region that the class's own object does not touch."""
    return region if view.own is None else region & (view.own <= 0)


def controls(view: View, region: Mask, rng: np.random.Generator) -> list[Mask]:
    """The same region elsewhere: off the suspect, and off the class's own object where that is known."""
    rows, columns = np.nonzero(region)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    places = [(y, x) for y in range(GRID - height + 1) for x in range(GRID - width + 1)]
    found: list[Mask] = []
    for i in rng.permutation(len(places)):
        y, x = places[i]
        moved = np.zeros_like(region)
        moved[rows - rows.min() + y, columns - columns.min() + x] = True
        if not (moved & region).any() and 2 * bare(view, moved).sum() >= moved.sum():
            found.append(bare(view, moved))
        if len(found) == CONTROLS:
            break
    return found


def likeness(patches: Sequence[Tensor], region: Mask) -> float:
    """How alike a region looks in several images: the mean correlation of its pixels between two of them, each channel's mean aside.

    Near 1 for a watermark or a stamp, which is the same to the pixel; near 0 for things that stand at about the same place.
    """
    mask = torch.from_numpy(spread(region, (patches[0].shape[-2], patches[0].shape[-1])))
    pixels = torch.stack([patch[:, mask] for patch in patches if patch.shape == patches[0].shape]).double()
    pixels = (pixels - pixels.mean(2, keepdim=True)).flatten(1)
    pixels = pixels / pixels.norm(dim=1, keepdim=True).clamp(min=1e-12)
    count = len(pixels)
    return float((pixels.sum(0).square().sum() - count) / (count * (count - 1))) if count > 1 else 0.0


def trial(
    place: Place, views: Sequence[View], others: Sequence[View], prober: Prober, image: Callable[[View], Tensor], seed: int
) -> Trial | Skipped:
    """Cover the region where it is, and paste it where it is not.

    Args:
        place: the suspicion.
        views: of the class, unseen when the suspicion arose.
        others: of the other classes.
        prober: asks the network.
        image: gives a view's input.
        seed: of the choice of controls and pairs.

    Returns:
        Why there is no trial where too few images have the region, or where it may be the object itself.
    """
    having = [view for view in views if has(view, place.region)][:MOST]
    if len(having) < FEWEST:
        return Skipped(f"fewer than {FEWEST} of the images kept for trials have them", "more images")
    if any(view.own is None for view in having) and likeness([image(view) for view in having], place.region) < ALIKE:
        return Skipped("without boxes they may be the object itself", "boxes or masks")
    rng = np.random.default_rng(seed)
    take = _covered(place, having, prober, image, rng)
    if len(take) < FEWEST:
        return Skipped("there is no room beside them for an equally large control", "larger images, or smaller objects")
    return Trial.of(prober, take, list(_pasted(place, having, others, image, rng)), [view.sample.name for view in having])


def another(view: View, some: Sequence[View], rng: np.random.Generator) -> View | None:
    """One of some views, of another image; None where there is none."""
    fitting = [each for each in some if each.sample.name != view.sample.name]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None


def _covered(
    place: Place, views: Sequence[View], prober: Prober, image: Callable[[View], Tensor], rng: np.random.Generator
) -> list[Change]:
    wholes = [image(view) for view in views]
    masks = [[bare(view, place.region), *controls(view, place.region, rng)] for view in views]
    asked = [(whole, spread(mask, (whole.shape[-2], whole.shape[-1]))) for whole, some in zip(wholes, masks, strict=True) for mask in some]
    filled = iter(prober.covered([whole for whole, _ in asked], [mask for _, mask in asked]))
    changed = [[next(filled) for _ in some] for some in masks]
    return [
        Change(view.sample.name, place.id, whole, after, tuple(rest))
        for view, whole, (after, *rest) in zip(views, wholes, changed, strict=True)
        if rest
    ]


def _pasted(
    place: Place, views: Sequence[View], others: Sequence[View], image: Callable[[View], Tensor], rng: np.random.Generator
) -> Iterator[Change]:
    """Into images of other classes: the region of one that has it, and as a control that of yet another one that does not."""
    takers = [others[i] for i in rng.permutation(len(others))[: len(views)]]
    for taker, giver in zip(takers, (views[i] for i in rng.permutation(len(views))), strict=False):
        beside = another(taker, others, rng)
        if beside is None:
            continue
        whole, patch, plain = image(taker), image(giver), image(beside)
        if patch.shape == whole.shape == plain.shape:
            mask = spread(bare(giver, place.region), (whole.shape[-2], whole.shape[-1]))
            yield Change(taker.sample.name, place.id, whole, _paste(whole, patch, mask), (_paste(whole, plain, mask),))


def _paste(whole: Tensor, patch: Tensor, mask: Mask) -> Tensor:
    return torch.where(torch.from_numpy(mask), patch, whole)
