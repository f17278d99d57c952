"""Suspect backgrounds: what is around the object decides, wherever it lies: blue sky, snow, the colour of a studio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lucidcam.auditing.probing import Prober
from lucidcam.auditing.regions import FEWEST, MOST, another
from lucidcam.auditing.trials import Change, Skipped, Trial, spread
from lucidcam.auditing.views import View, region_of, rim, seen
from lucidcam.samples import Mask

KEPT = 256
"""Images that an exchange keeps in memory, and at most so many more as one class needs."""

NEUTRAL = "zeros"
"""What stands for a context that is taken away: the input's zero, the mean colour of the training data where inputs are standardised."""


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of an input."""
    return image.shape[-2], image.shape[-1]


def things(view: View, size: tuple[int, int]) -> Mask:
    """The pixels of an input that belong to the marked objects."""
    return seen(region_of(view.sample.objects, view.frame), view.frame, size)


def itself(view: View, size: tuple[int, int]) -> Mask:
    """The pixels of an input that belong to the class's own objects."""
    return seen(region_of([each for each in view.sample.objects if each.label == view.label], view.frame), view.frame, size)


def trial(
    views: Sequence[View],
    others: Sequence[View],
    prober: Prober,
    seed: int,
    inputs: Exchange,
) -> Trial | Skipped:
    """Exchange the context of images between classes, and as a control within a class.

    Where objects are marked they stay, and the rest comes from another image, whose own objects are filled in. Where the class or the
    others have too few of them (see `comparable`), the colours of the whole image are shifted so that its rim is as bright and as
    coloured as the other image's.

    Args:
        views: of the class.
        others: of the other classes.
        prober: asks the network.
        seed: of the pairs.
        inputs: the images, and what is around their objects.

    Returns:
        Why there is no trial where there are too few images.
    """
    if len(views) < FEWEST or len(others) < FEWEST:
        return Skipped(f"fewer than {FEWEST} images of other classes to exchange them with", "images of other classes")
    rng = np.random.default_rng(seed)
    own, rest, cut = comparable(views, others)
    own = own[:MOST]
    foreign = [rest[i] for i in rng.permutation(len(rest))]
    takers, givers = foreign[:MOST], foreign[-MOST:]
    inputs.read([*own, *takers, *givers])
    take = list(_exchanged(views[0].id, own, givers, own, inputs, cut, rng))
    give = list(_exchanged(views[0].id, takers, own, givers, inputs, cut, rng))
    if min(len(take), len(give)) < FEWEST:
        return Skipped("too few images are of the same size", "images of one size (fit)")
    return Trial.of(prober, take, give, [view.sample.name for view in own])


def comparable(views: Sequence[View], others: Sequence[View]) -> tuple[list[View], list[View], bool]:
    """Images whose contexts are exchanged in one and the same way, so that a control differs in nothing but whose context it has.

    Args:
        views: of the class.
        others: of the other classes.

    Returns:
        Those of each that have marked objects, and that objects are cut out; all of them, and that they are not, where these are too few.
    """
    marked = [[view for view in some if view.sample.objects] for some in (views, others)]
    if min(map(len, marked)) >= FEWEST:
        return marked[0], marked[1], True
    return list(views), list(others), False


class Exchange:
    """Inputs, and their contexts with the objects filled in, each made once.

    Args:
        prober: fills in.
        image: gives a view's input.
        hidden: regions that are known to be shortcuts of their own: they are covered everywhere first.
    """

    def __init__(self, prober: Prober, image: Callable[[View], Tensor], hidden: Sequence[Mask] = ()) -> None:
        self.prober, self.image, self.hidden = prober, image, hidden
        self.whole: dict[View, Tensor] = {}
        self.context: dict[View, Tensor] = {}

    def read(self, views: Sequence[View]) -> None:
        """Make ready what is to be exchanged."""
        if len(self.whole) > KEPT:
            self.whole.clear()
            self.context.clear()
        new = [view for view in dict.fromkeys(views) if view not in self.whole]
        if not new:
            return
        whole = [self.image(view) for view in new]
        if self.hidden:
            region = np.logical_or.reduce(list(self.hidden))
            masks = [spread(region, size_of(each)) & ~things(view, size_of(each)) for view, each in zip(new, whole, strict=True)]
            whole = self.prober.covered(whole, masks)
        empty = self.prober.covered(whole, [things(view, size_of(each)) for view, each in zip(new, whole, strict=True)])
        for view, full, bare in zip(new, whole, empty, strict=True):
            self.whole[view], self.context[view] = full, bare

    def exchanged(self, view: View, giver: View, cut: bool) -> Tensor | None:
        """An image in the context of another, its objects cut out or its colours shifted; None where they differ in size."""
        whole, context = self.whole[view], self.context[giver]
        if whole.shape != context.shape:
            return None
        if cut:
            return torch.where(torch.from_numpy(things(view, size_of(whole))), whole, context)
        edge = torch.from_numpy(spread(rim(), size_of(whole)))
        return whole + (self.whole[giver][:, edge].mean(1) - whole[:, edge].mean(1))[:, None, None]


def _exchanged(
    target: int,
    takers: Sequence[View],
    givers: Sequence[View],
    alike: Sequence[View],
    inputs: Exchange,
    cut: bool,
    rng: np.random.Generator,
) -> Iterator[Change]:
    for taker in takers:
        giver, control = (another(taker, some, rng) for some in (givers, alike))
        if giver is None or control is None:
            continue
        after, beside = inputs.exchanged(taker, giver, cut), inputs.exchanged(taker, control, cut)
        if after is not None and beside is not None:
            yield Change(taker.sample.name, target, inputs.whole[taker], after, (beside,))


def marked(views: Sequence[View]) -> list[View]:
    """The views that `reliance` asks about: the first of those whose own object is marked."""
    return [view for view in views if view.own is not None and view.own.any()][:MOST]


def neutral_of(prober: Prober) -> Prober:
    """The same network, asked about images in which what is covered becomes the input's zero."""
    return Prober(prober.model, NEUTRAL)


def reliance(views: Sequence[View], prober: Prober, image: Callable[[View], Tensor]) -> Mapping[str, list[float]]:
    """The class's probability in whole images, without its objects, and without all else.

    Objects are filled in as `prober` does; what is around them becomes the input's zero.

    Args:
        views: of one class; those without marked objects are left out.
        prober: asks the network.
        image: gives a view's input.

    Returns:
        "whole", "object removed" and "context removed": a value per image.
    """
    some = marked(views)
    if not some:
        return {}
    whole = [image(view) for view in some]
    masks = [itself(view, size_of(full)) for view, full in zip(some, whole, strict=True)]
    neutral = neutral_of(prober)
    versions = {
        "whole": whole,
        "object removed": prober.covered(whole, masks),
        "context removed": neutral.covered(whole, [~mask for mask in masks]),
    }
    rows = np.arange(len(some))
    ids = [view.id for view in some]
    return {name: prober.scores(images).probabilities().numpy()[rows, ids].tolist() for name, images in versions.items()}
