"""Pictures of findings: an image, where the network looks in it, and the image changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam import maps, render
from lucidcam.auditing import companions
from lucidcam.auditing.contexts import Exchange, comparable, itself, size_of
from lucidcam.auditing.findings import Evidence
from lucidcam.auditing.places import bare, off
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.trials import spread
from lucidcam.auditing.views import Grid, View, turned_colours
from lucidcam.errors import DataError
from lucidcam.explainer import Explainer, prepare
from lucidcam.explanation import Explanation
from lucidcam.runner import explain
from lucidcam.samples import Mask, Problem
from lucidcam.types import Model, Prepared

SIDE = 256
"""Pixels of a picture's longer side."""

SMALLEST = 128
"""Smaller inputs are enlarged."""

SHOWN = 4
"""Images of a finding."""

NEAREST = 3
"""Images of a kind of maps."""


@dataclass(eq=False)
class Photographer:
    """Makes evidence.

    Attributes:
        model: the network.
        explainer: says by which method.
        prober: fills what is covered.
    """

    model: Model
    explainer: Explainer
    prober: Prober

    def place(self, views: Sequence[View], regions: Sequence[Mask]) -> list[Evidence]:
        """Images with a region that is covered: of each the one that draws most attention."""
        found = []
        for view in views[:SHOWN]:
            region = max(regions, key=lambda each: float(view.heat[bare(view, each)].sum()))
            found.append(self._covering(view, partial(spread, bare(view, region)), "covered"))
        return found

    def companion(self, views: Sequence[View], label: str) -> list[Evidence]:
        """Images in which the companion is covered."""
        pairs = [view for view in views if view.own is not None and label in view.others][:SHOWN]
        return [self._covering(view, partial(companions.beside, view, label), f"without {label}") for view in pairs]

    def context(self, views: Sequence[View]) -> list[Evidence]:
        """Images without their objects."""
        marked = [view for view in views if view.own is not None and view.own.any()][:SHOWN]
        return [self._covering(view, partial(itself, view), "object removed") for view in marked]

    def background(self, views: Sequence[View], givers: Sequence[View], hidden: Sequence[Mask] = ()) -> list[Evidence]:
        """Images in the background of another class.

        Args:
            views: of the class.
            givers: of the other classes.
            hidden: regions that are covered first, as in the trial.
        """
        found = []
        own, others, cut = comparable(views, givers)
        for view, giver in zip(own[:SHOWN], others, strict=False):
            prepared, other = self._prepared(view), self._prepared(giver)
            picture = framed(prepared)
            shown, asked = (
                self._exchanged(view, giver, pair, cut, hidden)
                for pair in ((_pixels(picture), _pixels(framed(other).resize(picture.size))), (prepared.tensor, other.tensor))
            )
            if shown is not None and asked is not None:
                before, after = self.prober.scores(asked).probabilities()[:, view.id].tolist()
                covering = ((f"known places covered: {before:.2f}", _picture(shown[0])),) if hidden else ()
                pictures = (*self._seen(view, prepared, picture), *covering, (f"other background: {after:.2f}", _picture(shown[1])))
                found.append(Evidence(view.sample.name, pictures, (before, after)))
        return found

    def _exchanged(
        self, view: View, giver: View, pair: tuple[Tensor, Tensor], cut: bool, hidden: Sequence[Mask]
    ) -> tuple[Tensor, Tensor] | None:
        """What the trial does to an image: before and after; None where the two differ in size."""
        exchange = Exchange(self.prober, dict(zip((view, giver), pair, strict=True)).__getitem__, hidden)
        exchange.read([view, giver])
        after = exchange.exchanged(view, giver, cut)
        return None if after is None else (exchange.whole[view], after)

    def confusion(self, views: Sequence[View], ids: Sequence[int], most: int = SHOWN) -> list[Evidence]:
        """Images with the maps of two classes."""
        found = []
        for view in views[:most]:
            prepared = self._prepared(view)
            picture = framed(prepared)
            overlays = [
                (f"{each.label.split(',')[0]} {each.probability or 0:.2f}", _overlay(picture, each.raw))
                for each in self._explained(prepared, list(ids))
            ]
            found.append(Evidence(view.sample.name, (("image", picture), *overlays)))
        return found

    def cluster(self, views: Sequence[View], mean: Grid) -> list[Evidence]:
        """Images of one kind of maps: the first beneath the mean of all of them, the others beneath their own."""
        found = []
        for number, view in enumerate(views[:NEAREST]):
            picture = framed(self._prepared(view))
            caption, heat = ("own map", off(view)) if number else ("mean map", mean)
            found.append(Evidence(view.sample.name, (("image", picture), (caption, _overlay(picture, torch.from_numpy(heat))))))
        return found

    def maps(self, view: View, id: int) -> Tensor:
        """The raw map of another class."""
        raw: Tensor = self._explained(self._prepared(view), id)[0].raw
        return raw

    def _covering(self, view: View, region: Callable[[tuple[int, int]], Mask], caption: str) -> Evidence:
        """An image without a region, which is told for any size of the input."""
        prepared = self._prepared(view)
        picture = framed(prepared)
        whole = prepared.tensor
        said = self.prober.scores([whole, *self.prober.covered([whole], [region(size_of(whole))])]).probabilities()[:, view.id].tolist()
        [changed] = self.prober.covered([_pixels(picture)], [region((picture.height, picture.width))])
        pictures = (*self._seen(view, prepared, picture), (f"{caption}: {said[1]:.2f}", _picture(changed)))
        return Evidence(view.sample.name, pictures, (said[0], said[1]))

    def _seen(self, view: View, prepared: Prepared, picture: Image.Image) -> tuple[tuple[str, Image.Image], ...]:
        [explanation] = self._explained(prepared, view.id)
        return (("image", picture), (f"{view.label.split(',')[0]}: {view.probability:.2f}", _overlay(picture, explanation.raw)))

    def _explained(self, prepared: Prepared, target: int | list[int]) -> Sequence[Explanation]:
        asked = self.explainer
        options = {"progress": False, **asked.options}
        return explain(self.model, [prepared], asked.method, target, asked.layer, **options)

    def _prepared(self, view: View) -> Prepared:
        found = prepare(self.model, view.sample)
        if isinstance(found, Problem):
            raise DataError(found.error)
        return found


def framed(prepared: Prepared) -> Image.Image:
    """What the network sees of an image, as a picture of at most `SIDE` pixels a side."""
    frame = prepared.frame
    left, top, right, bottom = frame.box
    scale = min(SIDE / max(right - left, bottom - top), max(1.0, SMALLEST / max(right - left, bottom - top)))
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    box = tuple(round(each) for each in frame.box)
    part = prepared.image.convert("RGB").crop(box).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)  # type: ignore[arg-type]
    return Image.fromarray(turned_colours(np.asarray(part), frame))


def _overlay(picture: Image.Image, raw: Tensor) -> Image.Image:
    return render.overlay(picture, maps.normalise(maps.finish(raw, (picture.height, picture.width))))


def _pixels(picture: Image.Image) -> Tensor:
    """`[3, H, W]`, from 0 to 255."""
    return torch.from_numpy(np.asarray(picture, np.float32).copy()).permute(2, 0, 1)


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).clamp(0, 255).byte().numpy())
