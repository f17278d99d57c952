"""One map of one image and target, with all that is needed to look at it, measure it and write it down."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from lucidcam import registry
from lucidcam.errors import OptionError, unknown
from lucidcam.imaging import maps, notebook, render
from lucidcam.imaging.provenance import Provenance
from lucidcam.io import images
from lucidcam.io.ownership import check_not_input
from lucidcam.io.storage import writing
from lucidcam.reprs import OneLineRepr, one_line
from lucidcam.types import Frame
from lucidcam.utils.text import short

LARGEST_WHOLE = 20_000_000
"""Pixels of photos whose maps are made whole to be measured and drawn; those of larger ones come band by band."""

LARGEST_DRAWN = 60_000_000
"""Pixels of photos that are drawn in their own size; pictures of larger ones have `DRAWN` at most."""

DRAWN = 8_000_000
"""Pixels of the pictures of photos that are larger than `LARGEST_DRAWN`: a third of each of the photo's sides, or a quarter, and so on."""

SMALL_CHANCE = 0.001
"""Probabilities below are not told exactly."""

LEAST_SAMPLED = 2_000_000
"""Pixels of a large photo, at least, that choose which signed value its colours show as full."""


@dataclass(frozen=True)
class Scale(OneLineRepr):
    """What explanations that are looked at together share.

    Attributes:
        low: the raw value that their heatmaps show as 0.
        high: how far above `low` they show 1: the largest evidence of them all.
        magnitude: the signed pixel value that their colours show as full; None: they have none.
    """

    low: float
    high: float
    magnitude: float | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a model looked in one image, or in one clip, for one target.

    That of a clip is the explanation of one of its frames, the one with the most evidence, with all frames in `film`.

    Attributes:
        raw: the method's own map `[h, w]`, at the layer's resolution (CAM methods) or the input's (pixel methods); not normalised.
        image: the original image, EXIF orientation applied, RGB.
        frame: where in the original image the network's input lies.
        target: class id, or None where the target is not one class.
        label: the target in words.
        score: what was explained: the class's logit, unless a target said otherwise; NaN where nothing was, by a method that needs no
            target, of a model without class scores.
        probability: the probability of the class, by what the model's outputs mean (`lucidcam.wrap(…, outputs=…)`); None where the target
            is not one class, or the outputs have no probabilities.
        method: the method's registered name.
        layer: the layer's dotted name; "input" for methods that go down to the pixels.
        name: the image's name, usually its file's.
        ranged: the map's values have no zero of their own (RISE): the heatmap starts at their minimum.
        error: of a map made with fewer passes than the exact one: its estimated distance from that one, as a share of its size (root of
            the expected sum of squares over the map's cells, before what is negative is cut off). For RISE the exact map is that of endless
            masks, and both are taken without their means over the image: the share of what varies, at most 1. Where several maps were
            averaged, the largest of theirs. None: the map is exact, or its error is not estimated.
        note: what must be known to read the map: that it is zero everywhere, say, and why; "": nothing.
        provenance: the network and its weights, the method's options, the target as asked, and versions; None: it was made without them.
        pixels: signed values `[C, H, W]` of pixel methods (Guided Backprop, …), else None.
        time: of a clip's frame: its number in the clip, from 0; None: an image by itself.
        film: of a clip: the explanations of all frames that the network got, in time; else empty.
        scale: what it shares with others, such as the frames of a clip; None: its heatmap is a share of its own maximum.
    """

    raw: Tensor = field(repr=False)
    image: Image.Image = field(repr=False)
    frame: Frame = field(repr=False)
    target: int | None
    label: str
    score: float
    probability: float | None
    method: str
    layer: str
    name: str
    pixels: Tensor | None = field(default=None, repr=False)
    ranged: bool = field(default=False, repr=False)
    error: float | None = None
    time: int | None = None
    film: tuple[Explanation, ...] = field(default=(), repr=False)
    scale: Scale | None = field(default=None, repr=False)
    note: str = ""
    provenance: Provenance | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        known: list[tuple[str, Any]] = [("probability", self.probability)] if self.probability is not None else [("score", self.score)]
        if self.film:
            known.append(("frames", len(self.film)))
        if self.note:
            known.append(("note", self.note))
        return one_line("Explanation", [("", self.name), ("", self.short_label), *known, ("method", self.method), ("layer", self.layer)])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return self.frame.height, self.frame.width

    @cached_property
    def map(self) -> maps.Array:
        """The raw map in the original image's size `[H, W]`, float32; 0 where the network did not look (outside its centre crop)."""
        return maps.in_photo(self.raw, self.frame)

    @cached_property
    def heatmap(self) -> maps.Array:
        """Positive evidence as a share of its maximum (of a clip's frame: of the maximum of all frames) `[H, W]`, in [0, 1]."""
        high = None if self.scale is None else self.scale.high
        if self.ranged:
            low = float(self.raw.min()) if self.scale is None else self.scale.low
            return maps.normalise(maps.in_photo(self.raw - low, self.frame), high)
        return maps.normalise(self.map, high)

    @cached_property
    def rgb(self) -> Image.Image | None:
        """Signed colours around mid-grey, in the original image's size, for methods that have them (`pixels` with three colours)."""
        if self.pixels is None or self.pixels.shape[0] != 3:
            return None
        peak = None if self.scale is None else self.scale.magnitude
        if self.size[0] * self.size[1] <= LARGEST_WHOLE and peak is None:
            return render.signed_rgb(self._colours(self.frame))
        whole = Image.new("RGB", self.size[::-1])
        for band in images.bands(whole.size):
            colours = self._colours(self.frame, (band[1], band[3]))
            whole.paste(render.signed_rgb(colours, self._magnitude if peak is None else peak), band[:2])
        return whole

    @cached_property
    def peak(self) -> float:
        """The value that the heatmap shows as 1: the map's own maximum in the photo, or what it shares with others."""
        if self.scale is not None:
            return self.scale.high
        return max(float(np.maximum(self._values((band[1], band[3])), 0).max(initial=0.0)) for band in images.bands(self.size[::-1]))

    def bands(self) -> Iterator[tuple[int, maps.Array]]:
        """The heatmap, each band of rows after the number of its first; of large photos the whole of it is never made."""
        if "heatmap" in self.__dict__ or self.size[0] * self.size[1] <= (LARGEST_WHOLE if self.scale is None else images.BAND):
            yield 0, self.heatmap
            return
        for band in images.bands(self.size[::-1]):
            yield band[1], maps.normalise(self._values((band[1], band[3])), self.peak)

    def map_bands(self) -> Iterator[tuple[int, maps.Array]]:
        """The map in the photo's size, each band of rows after the number of its first."""
        return ((band[1], maps.in_photo(self.raw, self.frame, (band[1], band[3]))) for band in images.bands(self.size[::-1]))

    def _values(self, rows: tuple[int, int]) -> maps.Array:
        """Rows of the map that the heatmap is a share of."""
        raw = self.raw if not self.ranged else self.raw - (float(self.raw.min()) if self.scale is None else self.scale.low)
        return maps.in_photo(raw, self.frame, rows)

    def reduced(self) -> Explanation:
        """The explanation to be drawn: of the photo in a smaller size where that has more than `LARGEST_DRAWN` pixels, else itself."""
        height, width = self.size
        if height * width <= LARGEST_DRAWN or self.image.size != (width, height):
            return self
        return self._reduced_by(math.isqrt((height * width - 1) // DRAWN) + 1)

    def _reduced_by(self, factor: int) -> Explanation:
        """The explanation of the photo in a smaller size, in the same colours."""
        image = self.image if self.image.mode == "RGB" else self.image.convert("RGB")
        scale = self.scale or Scale(float(self.raw.min()), self.peak, None if self.pixels is None else self._magnitude)
        return replace(self, image=image.reduce(factor), frame=_divided(self.frame, factor), scale=scale)

    def box_in(self, size: tuple[int, int], box: maps.Box) -> maps.Box:
        """A box (xyxy) of the photo in a picture of it of another size (H, W), in that one's pixels, outwards to whole ones."""
        y, x = (other / own for own, other in zip(self.size, size, strict=True))
        return math.floor(box[0] * x), math.floor(box[1] * y), math.ceil(box[2] * x), math.ceil(box[3] * y)

    @cached_property
    def _magnitude(self) -> float:
        """The signed value that the colours of a large photo show as full: that of the photo in a smaller size."""
        return render.signed_peak(self._colours(_divided(self.frame, math.isqrt(self.size[0] * self.size[1] // LEAST_SAMPLED) or 1)))

    def _colours(self, frame: Frame, rows: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
        assert self.pixels is not None
        return np.stack([maps.in_photo(p, frame, rows) for p in self.pixels], axis=-1)

    def overlay(self, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """Blend the coloured heatmap over the image; what the network did not see (outside its centre crop) is left as it is.

        Args:
            colormap: any matplotlib colormap; perceptual ones read best (turbo, viridis, magma).
            alpha: share of the heatmap, 0 to 1.
        """
        return self._overlaid(self.image.convert("RGB"), colormap, alpha)

    def _overlaid(self, picture: Image.Image, colormap: str, alpha: float) -> Image.Image:
        """Blend the coloured heatmap into an image that may be changed."""
        left, top, right, bottom = self.frame.seen
        for first, heatmap in self.bands():
            box = left, max(top, first), right, min(bottom, first + len(heatmap))
            if box[1] < box[3]:
                rows = heatmap[box[1] - first : box[3] - first, left:right]
                picture.paste(render.overlay(picture.crop(box), rows, colormap, alpha), box[:2])
        return picture

    def picture(self, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The picture that suits the method: signed colours where there are any, else the overlay."""
        return self.rgb or self.overlay(colormap, alpha)

    def drawn(self, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The picture, in the smaller size of `reduced` where the photo has more than `LARGEST_DRAWN` pixels."""
        small = self.reduced()
        if small is self:
            return self.picture(colormap, alpha)
        return small.rgb or small._overlaid(small.image, colormap, alpha)  # its image is nobody else's

    def boxes(self, threshold: float = 0.2) -> list[maps.Box]:
        """Bounding boxes (xyxy, original pixels) of the regions at or above `threshold` of the maximum, largest region first.

        Args:
            threshold: 0.2 in the CAM paper, 0.15 in Grad-CAM's.
        """
        return [region.box for region in maps.regions_of_bands(self.bands(), threshold)]

    def boxed(self, threshold: float = 0.2, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The overlay with the boxes drawn."""
        return render.draw_boxes(self.overlay(colormap, alpha), self.boxes(threshold))

    def contour(self, threshold: float = 0.5) -> Image.Image:
        """The image with the outline of the region at or above `threshold` of the maximum."""
        return render.draw_contour(self.image, self.heatmap, threshold)

    def to_dict(self, threshold: float = 0.2) -> dict[str, Any]:
        """Everything but the pixels, for JSON; where the explanation knows it, also where it comes from (`provenance`).

        The first call after a network's weights changed computes their fingerprint. If they have changed since the map was made, or the
        network is gone, the fingerprint is None, and `fingerprint_unknown` says why.

        Args:
            threshold: share of the maximum that `box`, around the largest region, and `boxes` enclose.
        """
        found = self.boxes(threshold)
        known: dict[str, Any] = {} if self.error is None else {"error": self.error}
        if self.time is not None:
            known["frame"] = self.time
        if self.note:
            known["note"] = self.note
        return {
            "image": self.name,
            "label": self.label,
            "id": self.target,
            "score": None if math.isnan(self.score) else self.score,
            "probability": self.probability,
            "method": self.method,
            "layer": self.layer,
            "size": [self.frame.width, self.frame.height],
            "input": _seen(self.frame),
            "threshold": threshold,
            "box": list(found[0]) if found else None,
            "boxes": [list(box) for box in found],
            **known,
            **({} if self.provenance is None else self.provenance.to_dict()),
        }

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the explanation; the suffix, in upper or lower case, chooses the format.

        Pictures are `.png`, `.jpg`, `.jpeg`, `.webp`, `.tif`, `.tiff`, `.bmp` and `.gif`; there are `.npz`, `.json` and `.html`, too.
        Of a clip, `.gif` shows all frames, the others are about the one with the most evidence.

        Args:
            path: where to; folders are made.
            options: the writer's own (PNG: `colormap`, `alpha`; NPZ, JSON and HTML: `threshold`, see `to_dict`; GIF: those of
                `lucidcam.animate`).

        Raises:
            OptionError: for a suffix that no writer knows; the path is that of the picture which is explained; a `.html` is there that is
                no page of lucidcam's.
            DataError: it cannot be written: the disk is full, say.
        """
        path = Path(path)
        name = path.suffix.lstrip(".").lower()
        if name not in registry.writers:
            raise OptionError(f"{path.name}: {unknown('output format', name, registry.writers)}")
        check_not_input(path, self.name)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            registry.writers[name](self, path, **options)
        return path

    @property
    def short_label(self) -> str:
        """The target in words, a class without its synonyms."""
        return self.label if self.target is None else short(self.label)

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, the class, method and layer, and what the colours mean."""
        step = max(1, -(-len(self.film) // notebook.STRIP))
        strip = [notebook.Figure(each.fitted_picture(notebook.SIDE // 2), f"frame {each.time}") for each in self.film[::step]]
        return notebook.card(self.figure(notebook.LARGE), strip, [self.colours])

    def _repr_png_(self) -> bytes:
        """What consoles show that draw pictures but no HTML."""
        buffer = io.BytesIO()
        self.fitted_picture(notebook.SIDE).save(buffer, format="PNG")
        return buffer.getvalue()

    def fitted_picture(self, side: int) -> Image.Image:
        """The picture that suits the method, with its longer side at most `side` pixels; never enlarged."""
        factor = max(self.image.size) // side
        small = self._reduced_by(factor) if factor > 1 and self.image.size == self.size[::-1] else self
        return render.reduced(small.picture(), side)

    def figure(self, side: int, *, made: str | None = None, with_name: bool = True) -> notebook.Figure:
        """The picture with what is said of it in a notebook.

        Args:
            side: the picture's longer side in pixels.
            made: how it was made; None: the method and layer; "": that is said elsewhere.
            with_name: say the file's name.
        """
        sure = f"score {self.score:.4g}" if self.probability is None else f"probability {_chance(self.probability)}"
        lines = ["" if math.isnan(self.score) and self.probability is None else sure]
        lines.append(f"{self.method} at {self.layer}" if made is None else made)
        lines.append(f"frame {self.time}, of the most evidence of {len(self.film)}" if self.film else "")
        name = Path(self.name).name
        lines.append(name if with_name else "")
        alt = f"where {self.method} sees {self.short_label} in {name}"
        return notebook.Figure(self.fitted_picture(side), self.short_label, [line for line in lines if line], alt, self.note)

    @property
    def colours(self) -> notebook.Scale:
        """What the picture's colours mean."""
        if self.pixels is not None and self.pixels.shape[0] == 3:
            return notebook.Scale("Grey: 0; lighter: positive, darker: negative, for each of the photo's colours by itself.", "", "")
        of = "the map's own maximum" if self.scale is None else "the largest value of all maps that share the scale"
        if self.ranged:
            return notebook.Scale(f"from the smallest value to {of}")
        return notebook.Scale(f"positive evidence, as a share of {of}")


def _chance(probability: float) -> str:
    """A probability; small ones are not zero."""
    return f"{probability:.3f}" if probability == 0 or probability >= SMALL_CHANCE else f"< {SMALL_CHANCE:.3f}"


def _seen(frame: Frame) -> dict[str, Any]:
    """The part of the photo that the network saw: its box (xyxy) in the photo's pixels, and how it is turned, where it is."""
    turned = {name: True for name in ("mirrored", "flipped", "transposed") if getattr(frame, name)}
    return {"box": [float(side) for side in frame.box], **turned}


def _divided(frame: Frame, factor: int) -> Frame:
    """Where the input lies in the photo once each of its pixels is the mean of `factor` × `factor`; the last ones of fewer."""
    width, height = -(-frame.width // factor), -(-frame.height // factor)
    x, y = width / frame.width, height / frame.height
    left, top, right, bottom = frame.box
    return replace(frame, width=width, height=height, box=(left * x, top * y, right * x, bottom * y))
