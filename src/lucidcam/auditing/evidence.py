"""Pictures of findings: an image, where the network looks in it, and the image changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam.auditing import cooccurrence
from lucidcam.auditing.backgrounds import Exchange, comparable, itself, marked, neutral_of, size_of
from lucidcam.auditing.findings import Evidence
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.regions import MOST, bare, off
from lucidcam.auditing.trials import Outcome, nearest, spread
from lucidcam.auditing.views import Grid, View, turned_colours
from lucidcam.errors import DataError
from lucidcam.imaging import maps, render
from lucidcam.imaging.explanation import Explanation
from lucidcam.samples import Mask, Problem
from lucidcam.stream.explain import explain
from lucidcam.stream.explainer import Explainer
from lucidcam.stream.problems import prepare
from lucidcam.types import Model, Prepared
from lucidcam.utils.text import figure

Region = Callable[[tuple[int, int]], Mask]
"""From the size of an input to the pixels of it that are covered."""

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

        def change(view: View) -> Region:
            region = max(regions, key=lambda each: float(view.heat[bare(view, each)].sum()))
            return partial(spread, bare(view, region))

        return self._covering([(view, change(view)) for view in views], "covered")

    def companion(self, views: Sequence[View], label: str) -> list[Evidence]:
        """Images in which the companion is covered."""
        pairs = [view for view in views if view.own is not None and label in view.others]
        return self._covering([(view, partial(cooccurrence.beside, view, label)) for view in pairs], f"without {label}")

    def context(self, views: Sequence[View]) -> list[Evidence]:
        """Images without their objects, and without all else."""
        some = marked(views)
        regions = [(view, partial(itself, view)) for view in some]
        neutral = neutral_of(self.prober)
        removed = self._changes(regions, self.prober)
        alone = self._changes([(view, partial(_around, view)) for view in some], neutral)
        order = nearest([one[1] - other[1] for one, other in zip(removed, alone, strict=True)], SHOWN)
        found = []
        for i in order:
            view, whole, without, only = some[i], removed[i][0], removed[i][1], alone[i][1]
            prepared = self._prepared(view)
            picture = framed(prepared)
            region = itself(view, (picture.height, picture.width))
            [empty], [cut] = self.prober.covered([_pixels(picture)], [region]), [_pixels(picture) * torch.from_numpy(region)]
            contradicts = only >= min(without, whole)
            pictures = (
                *self._seen(view, prepared, picture),
                (f"object removed: {figure(without)}", _picture(empty)),
                (_caption("object alone", only, contradicts), _picture(cut)),
            )
            found.append(Evidence(view.sample.name, pictures, (whole, without, only), _selection(len(order), len(some)), contradicts))
        return found

    def background(self, views: Sequence[View], givers: Sequence[View], hidden: Sequence[Mask] = ()) -> list[Evidence]:
        """Images in the background of another class.

        Args:
            views: of the class.
            givers: of the other classes.
            hidden: regions that are covered first, as in the trial.
        """
        own, others, cut = comparable(views, givers)
        pairs, changes = [], []
        for view, giver in zip(own[:MOST], others, strict=False):
            asked = self._exchanged(view, giver, (self._prepared(view).tensor, self._prepared(giver).tensor), cut, hidden)
            if asked is not None:
                before, after = self.prober.scores(asked).probabilities()[:, view.id].tolist()
                pairs.append((view, giver))
                changes.append((before, after))
        order = nearest([before - after for before, after in changes], SHOWN)
        found = []
        for i in order:
            (view, giver), (before, after) = pairs[i], changes[i]
            prepared, other = self._prepared(view), self._prepared(giver)
            picture = framed(prepared)
            shown = self._exchanged(view, giver, (_pixels(picture), _pixels(framed(other).resize(picture.size))), cut, hidden)
            if shown is None:
                continue
            covering = ((f"known places covered: {figure(before)}", _picture(shown[0])),) if hidden else ()
            changed = (_caption("other background", after, after >= before), _picture(shown[1]))
            pictures = (*self._seen(view, prepared, picture), *covering, changed)
            found.append(Evidence(view.sample.name, pictures, (before, after), _selection(len(order), len(pairs)), after >= before))
        return found

    def _exchanged(
        self, view: View, giver: View, pair: tuple[Tensor, Tensor], cut: bool, hidden: Sequence[Mask]
    ) -> tuple[Tensor, Tensor] | None:
        """What the trial does to an image: before and after; None where the two differ in size."""
        exchange = Exchange(self.prober, dict(zip((view, giver), pair, strict=True)).__getitem__, hidden)
        exchange.read([view, giver])
        after = exchange.exchanged(view, giver, cut)
        return None if after is None else (exchange.whole[view], after)

    def confusion(self, views: Sequence[View], ids: Sequence[int], outcome: Outcome | None = None, most: int = SHOWN) -> list[Evidence]:
        """Images with the maps of two classes.

        Args:
            views: images that are confused.
            ids: their class, and the one they are taken for.
            outcome: what covering where the map of the second looks did; those of median change are shown. None: the first are.
            most: images that are shown.
        """
        names = [view.sample.name for view in views[:most]] if outcome is None else outcome.typical(most)
        by_name = {view.sample.name: view for view in views}
        found = []
        for name in names:
            prepared = self._prepared(by_name[name])
            picture = framed(prepared)
            overlays = [
                (f"{each.label.split(',')[0]} {figure(each.probability or 0)}", _overlay(picture, each.raw))
                for each in self._explained(prepared, list(ids))
            ]
            if outcome is None:
                shown = len(names)
                selection = f"{shown} of {len(views)} images, drawn at random" if len(views) > shown else f"all {shown} images at hand"
                found.append(Evidence(name, (("image", picture), *overlays), selection=selection))
                continue
            row = outcome.names.index(name)
            before, after = float(outcome.before[row]), float(outcome.after[row])
            caption, overlay = overlays[-1]
            overlays[-1] = (_caption(f"{caption}, covered there", after, after >= before), overlay)
            selection = _selection(len(names), outcome.n)
            found.append(Evidence(name, (("image", picture), *overlays), (before, after), selection, after >= before))
        return found

    def cluster(self, views: Sequence[View], mean: Grid) -> list[Evidence]:
        """Images of one kind of maps: the first beneath the mean of all of them, the others beneath their own."""
        found = []
        for number, view in enumerate(views[:NEAREST]):
            picture = framed(self._prepared(view))
            caption, heat = ("own map", off(view)) if number else ("mean map", mean)
            selection = f"the {min(NEAREST, len(views))} of {len(views)} images whose maps are nearest to the mean"
            pictures = (("image", picture), (caption, _overlay(picture, torch.from_numpy(heat))))
            found.append(Evidence(view.sample.name, pictures, selection=selection))
        return found

    def maps(self, view: View, id: int) -> Tensor:
        """The raw map of another class."""
        raw: Tensor = self._explained(self._prepared(view), id)[0].raw
        return raw

    def _changes(self, regions: Sequence[tuple[View, Region]], prober: Prober) -> list[tuple[float, float]]:
        """The class's probability in each image, and in it without a region, which is given for any size of the input."""
        found = []
        for view, region in regions:
            whole = self._prepared(view).tensor
            before, after = prober.scores([whole, *prober.covered([whole], [region(size_of(whole))])]).probabilities()[:, view.id].tolist()
            found.append((before, after))
        return found

    def _covering(self, regions: Sequence[tuple[View, Region]], caption: str) -> list[Evidence]:
        """Images without a region: of those that were tried the ones of median change."""
        regions = regions[:MOST]
        changes = self._changes(regions, self.prober)
        order = nearest([before - after for before, after in changes], SHOWN)
        found = []
        for i in order:
            (view, region), (before, after) = regions[i], changes[i]
            prepared = self._prepared(view)
            picture = framed(prepared)
            [changed] = self.prober.covered([_pixels(picture)], [region((picture.height, picture.width))])
            pictures = (*self._seen(view, prepared, picture), (_caption(caption, after, after >= before), _picture(changed)))
            found.append(Evidence(view.sample.name, pictures, (before, after), _selection(len(order), len(regions)), after >= before))
        return found

    def _seen(self, view: View, prepared: Prepared, picture: Image.Image) -> tuple[tuple[str, Image.Image], ...]:
        [explanation] = self._explained(prepared, view.id)
        return (("image", picture), (f"{view.label.split(',')[0]}: {figure(view.probability)}", _overlay(picture, explanation.raw)))

    def _explained(self, prepared: Prepared, target: int | list[int]) -> Sequence[Explanation]:
        asked = self.explainer
        options = {"progress": False, **asked.options}
        return explain(self.model, [prepared], asked.method, target, asked.layer, **options)

    def _prepared(self, view: View) -> Prepared:
        found = prepare(self.model, view.sample)
        if isinstance(found, Problem):
            raise DataError(found.error)
        return found


def _around(view: View, size: tuple[int, int]) -> Mask:
    """All of an input but the class's own objects."""
    return ~itself(view, size)


def _caption(text: str, probability: float, contradicts: bool) -> str:
    return f"{text}: {figure(probability)}{' (against the finding)' if contradicts else ''}"


def _selection(shown: int, count: int) -> str:
    """How the images of a finding were chosen."""
    return f"the {shown} of {count} tried images whose change is nearest to the median" if count > shown else f"all {count} tried images"


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
