"""Naming a network's channels by a bank of concepts, in the manner of network dissection (Bau et al., CVPR 2017).

A name is chosen on one half of the bank's images and tested on the other, so that of many concepts the best does not win by luck alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucidcam.attribution import on_any_image
from lucidcam.dissection.activations import POOLS, Seen
from lucidcam.dissection.bank import FEWEST, Bank
from lucidcam.dissection.channel_names import LEAST, Meaning, Name, Names, network_of
from lucidcam.dissection.query import check_model
from lucidcam.errors import DataError, OptionError
from lucidcam.stats import ranks
from lucidcam.types import Model

LUCK = 0.01
"""How probable it may be, over all channels together, that a name comes by chance."""

QUANTILE = 0.005
"""Share of places at which a channel counts as active, as in the paper."""

MEANINGS = 3
"""Things that a channel may answer to."""


def concepts(
    model: Model,
    bank: Bank | str | os.PathLike[str] | None = None,
    layer: Any = None,
    *,
    least: float = LEAST,
    quantile: float = QUANTILE,
    progress: bool | None = None,
) -> Names:
    """Name a layer's channels by a bank of concepts.

    Of each image and channel the mean and the maximum of its map are kept. On every other image the concept and the one of the two that
    suit the channel best, by AUC, are chosen; on the others they are tested. A channel gets the name when the held-out AUC is at least
    `least`, its 95 % interval lies above 0.5 and, over all channels together, it is hardly a matter of chance (p ≤ 0.01, Mann–Whitney,
    Bonferroni). Then images of that concept are left out and the next is looked for, up to three: channels often answer to several things.

    Where the bank has masks, the overlap is network dissection's IoU: the channel counts as active above the threshold that `quantile` of
    its places exceed, on images that have masks of concepts of the same kind.

    Images stream through the network, twice where there are masks; what is kept is three numbers for each image and channel.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        bank: a bank, or a folder of one (see `Bank.of`); None: the built-in one, as large as the network's input.
        layer: a dotted name; None: the model's own, or the last spatial layer.
        least: held-out AUC that a name needs, 0.5 to 1.
        quantile: share of places at which a channel counts as active, for the overlap.
        progress: a bar; None: in a terminal or notebook.

    Raises:
        DataError: the bank's images do not suffice, or none can be read.
        LayerError: there is no such layer, or its maps are not `[h, w]`.
        OptionError: a value outside its range.
    """
    check_model(model)
    if not 0.5 <= least <= 1 or not 0 < quantile < 1:
        raise OptionError(f"expected 0.5 ≤ least ≤ 1 and 0 < quantile < 1; got {least} and {quantile}.")
    if not isinstance(bank, Bank):
        bank = bank_for(model) if bank is None else Bank.of(bank)
    seen = Seen(model, bank, layer, progress)
    values, truth = seen.values(quantile)
    fit = ranks.halves(truth)
    for concept, shown in zip(bank.concepts, truth.T):
        if min(shown[fit].sum(), shown[~fit].sum()) < 2:
            raise DataError(f"{bank.name}: too few images of {concept!r} can be used ({shown.sum()}); expected at least {FEWEST}.")
        if min((~shown[fit]).sum(), (~shown[~fit]).sum()) < 2:
            raise DataError(f"{bank.name}: too few images without {concept!r} can be used ({(~shown).sum()}); expected at least {FEWEST}.")
    overlap = seen.overlap(~fit)
    return Names(
        tuple(_rows(_Table(values, truth, fit, overlap), bank.concepts, least)),
        bank.concepts,
        seen.layer,
        model.name,
        model.fingerprint(),
        bank.name,
        bank.identity(),
        len(truth),
        least,
        tuple(seen.problems),
        network_of(model),
    )


def bank_for(model: Model) -> Bank:
    """The built-in bank, in the size of the network's input."""
    with on_any_image(model):
        side = min(model.prepare(np.zeros((256, 256, 3), np.uint8))[0].tensor.shape[-2:])
    return Bank.builtin(size=max(16, side))


def _rows(seen: _Table, names: tuple[str, ...], least: float) -> Iterator[Name]:
    """Choose each meaning on one half, test it on the other, and go on with the images that do not show it."""
    live = np.ptp(seen.values["max"][seen.fit], axis=0) > 0
    first = np.stack([ranks.areas(seen.values[pool][seen.fit], seen.truth[seen.fit]) for pool in POOLS])  # [P, C, K]
    tests = max(1, int(live.sum())) * MEANINGS
    for channel in range(len(live)):
        if not live[channel]:
            yield Name(channel, (), None)
            continue
        left = np.ones(len(seen.truth), bool)
        areas = first[:, channel]
        meanings: list[Meaning] = []
        nearest = None
        while len(meanings) < MEANINGS:
            pool, concept = divmod(int(np.nanargmax(areas)), len(names))
            found = seen.test(channel, pool, concept, left, tests, names[concept])
            nearest = nearest or found
            if found.auc < least or found.p > LUCK or found.low <= 0.5:
                break
            meanings.append(found)
            left &= ~seen.truth[:, concept]
            areas = seen.areas(channel, left)
            if np.isnan(areas).all():
                break
        yield Name(channel, tuple(meanings), nearest)


@dataclass(frozen=True, eq=False)
class _Table:
    """What was seen of the bank's images.

    Attributes:
        values: the pools and the strength, of each image and channel `[N, C]`.
        truth: which concepts each image shows `[N, K]`.
        fit: images that meanings are chosen by `[N]`.
        overlap: IoU `[C, K]`, or None.
    """

    values: dict[str, ranks.Values]
    truth: ranks.Truth
    fit: ranks.Truth
    overlap: Any

    def areas(self, channel: int, left: ranks.Truth) -> ranks.Values:
        """AUC `[P, K]` of a channel on the images that are left to choose by; NaN for concepts that too few of either half show."""
        rows = self.fit & left
        truth = self.truth[rows]
        found = np.full((len(POOLS), self.truth.shape[1]), np.nan)
        tested = self.truth[~self.fit & left]
        enough = [of.sum(0).clip(0, 2) + (~of).sum(0).clip(0, 2) == 4 for of in (truth, tested)]
        usable = enough[0] & enough[1]
        if usable.any():
            for i, pool in enumerate(POOLS):
                found[i, usable] = ranks.areas(self.values[pool][rows, channel][:, None], truth[:, usable])[0]
        return found

    def test(self, channel: int, pool: int, concept: int, left: ranks.Truth, tests: int, name: str) -> Meaning:
        """A meaning on the other half."""
        rows = ~self.fit & left
        levels = self.values[POOLS[pool]][:, channel]
        area, low, high = ranks.interval(levels[rows], self.truth[rows, concept])
        p = min(1.0, ranks.chance(levels[rows], self.truth[rows, concept]) * tests)
        shown = self.values["strength"][left & self.truth[:, concept], channel]
        iou = None if self.overlap is None or np.isnan(self.overlap[channel, concept]) else float(self.overlap[channel, concept])
        return Meaning(name, POOLS[pool], area, low, high, p, iou, float(shown.mean()), float(shown.std()))
