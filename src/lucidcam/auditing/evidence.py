"""Pictures of findings: an image, where the network looks in it, and the image changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam import maps, render
from lucidcam.auditing.contexts import Exchange, size_of, things
from lucidcam.auditing.findings import Evidence
from lucidcam.auditing.places import bare
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.trials import spread
from lucidcam.auditing.views import View, region_of, rim, seen
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
            found.append(self._covering(view, bare(view, region), "covered"))
        return found

    def companion(self, views: Sequence[View], label: str) -> list[Evidence]:
        """Images in which the companion is covered."""
        pairs = [view for view in views if label in view.others][:SHOWN]
        return [self._covering(view, None, f"without {label}", label) for view in pairs]

    def context(self, views: Sequence[View]) -> list[Evidence]:
        """Images without their objects."""
        marked = [view for view in views if view.sample.objects][:SHOWN]
        return [self._covering(view, None, "object removed", view.label) for view in marked]

    def background(self, views: Sequence[View], givers: Sequence[View]) -> list[Evidence]:
        """Images in the background of another class."""
        found = []
        for view, giver in zip(views[:SHOWN], givers, strict=False):
            prepared, other = self._prepared(view), self._prepared(giver)
            picture, beside = framed(prepared), framed(other).resize(framed(prepared).size)
            size = (picture.height, picture.width)
            if view.sample.objects and giver.sample.objects:
                empty = _covered(self.prober, beside, things(giver, size))
                mask = things(view, size)
                changed = Image.fromarray(np.where(mask[..., None], np.asarray(picture), np.asarray(empty)))
            else:
                changed = shifted(picture, beside)
            exchange = Exchange(self.prober, {view: prepared.tensor, giver: other.tensor}.__getitem__)
            exchange.read([view, giver])
            after = exchange.exchanged(view, giver)
            if after is not None:
                said = self.prober.scores([prepared.tensor, after]).probabilities()[:, view.id].tolist()
                pictures = (*self._seen(view, prepared, picture), (f"other background: {said[1]:.2f}", changed))
                found.append(Evidence(view.sample.name, pictures, (said[0], said[1])))
        return found

    def confusion(self, views: Sequence[View], ids: Sequence[int]) -> list[Evidence]:
        """Images with the maps of two classes."""
        found = []
        for view in views[:SHOWN]:
            prepared = self._prepared(view)
            picture = framed(prepared)
            overlays = [
                (f"{each.label.split(',')[0]} {each.probability or 0:.2f}", _overlay(picture, each.raw))
                for each in self._explained(prepared, list(ids))
            ]
            found.append(Evidence(view.sample.name, (("image", picture), *overlays)))
        return found

    def maps(self, view: View, id: int) -> Tensor:
        """The raw map of another class."""
        raw: Tensor = self._explained(self._prepared(view), id)[0].raw
        return raw

    def _covering(self, view: View, region: Mask | None, caption: str, label: str = "") -> Evidence:
        prepared = self._prepared(view)
        picture = framed(prepared)
        whole = prepared.tensor
        pair = []
        for size in (size_of(whole), (picture.height, picture.width)):
            if region is not None:
                pair.append(spread(region, size))
            else:
                pair.append(seen(region_of([each for each in view.sample.objects if each.label == label], view.frame), view.frame, size))
        said = self.prober.scores([whole, *self.prober.covered([whole], [pair[0]])]).probabilities()[:, view.id].tolist()
        changed = _covered(self.prober, picture, pair[1])
        pictures = (*self._seen(view, prepared, picture), (f"{caption}: {said[1]:.2f}", changed))
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
    return prepared.image.convert("RGB").crop(box).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)  # type: ignore[arg-type]


def shifted(picture: Image.Image, other: Image.Image) -> Image.Image:
    """A picture whose rim is, on average, as bright and as coloured as another's."""
    edge = spread(rim(), (picture.height, picture.width))
    own, rest = (np.asarray(each, np.float32) for each in (picture, other))
    return Image.fromarray((own + rest[edge].mean(0) - own[edge].mean(0)).clip(0, 255).astype(np.uint8))


def _overlay(picture: Image.Image, raw: Tensor) -> Image.Image:
    return render.overlay(picture, maps.normalise(maps.finish(raw, (picture.height, picture.width))))


def _covered(prober: Prober, picture: Image.Image, mask: Mask) -> Image.Image:
    pixels = torch.from_numpy(np.asarray(picture, np.float32).copy()).permute(2, 0, 1)
    [filled] = prober.covered([pixels], [mask])
    return Image.fromarray(filled.permute(1, 2, 0).clamp(0, 255).byte().numpy())
