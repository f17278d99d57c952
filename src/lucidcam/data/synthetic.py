"""Generated scenes whose truth is known to the pixel (`synthetic`): what data sets teach wrongly, in any amount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lucidcam.data._base import Dataset, Format, register
from lucidcam.errors import OptionError, unknown
from lucidcam.samples import Mask, Object, Sample
from lucidcam.utils.optional import import_optional

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

SCENES = ("together", "longtail", "shortcut", "coloured")
MARK = "watermark"
BACKGROUND = "background"

FORMS: dict[str, Callable[[Plane, Plane], Mask]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9,
    "triangle": lambda x, y: (y <= 0.9) & (2 * abs(x) <= y + 1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.4),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
}
"""What shapes are: the points of [−1, 1]² that belong to them, x to the right and y down."""

COLOURS = {"red": (210, 45, 45), "green": (50, 180, 60), "blue": (60, 100, 235), "yellow": (225, 205, 50)}
"""RGB of the colours that are in a label of `coloured`."""

MOST_OBJECTS = 4
"""As many find room in an image of 32 pixels."""

TEXTURES = ("brick", "grass", "gravel", "page")
"""Pictures of scikit-image that surfaces are cut from."""


@register("synthetic")
@dataclass(frozen=True, kw_only=True)
class Synthetic(Format):
    """Scenes with a planted fault, drawn from a seed; every object has its box and mask.

    Written "synthetic", or with options "synthetic:scene=shortcut,count=2000,seed=1". Image i depends on the options and on i alone, so
    that a larger `count` continues the same data (but for `longtail`, whose classes are dealt out anew); another `seed` gives unseen
    images of the same kind.

    - `together`: multi-label. Half of the images hold a circle or a square, and `rate` of those hold both. A triangle and a cross come and
      go as they like.
    - `longtail`: one object per image; the first class has `ratio` times as many images as the last, those between a geometric row.
    - `shortcut`: one object per image; with probability `rate` an image of the first class carries the `shortcut` and one of another class
      does not: a watermark in a corner (which is an object labelled "watermark", but no class), or a blue background. With rate=0.5 half
      of the images carry it, whatever their class: the clean twin.
    - `coloured`: no fault, but scenes to speak of: `objects` shapes, no two of the same colour and shape. Labels are "red circle", "blue
      square" and so on: `classes` shapes in red, green, blue and yellow.

    Attributes:
        scene: "together", "longtail", "shortcut" or "coloured".
        count: how many images.
        size: pixels per side.
        seed: of every draw.
        rate: how often what is planted holds; between 0 and 1.
        ratio: largest class to smallest, for `longtail`.
        shortcut: "watermark" or "background".
        look: "shapes": the class is the shape and the colour is random; "textures": the class is the surface and the shape is random
            (surfaces of scikit-image's pictures). `coloured` has shapes only.
        classes: how many classes, for `longtail` and `shortcut`, or shapes, for `coloured`; at most 6 shapes or 4 textures.
        objects: how many in each image, for `coloured`; 1 to 4.
    """

    about = "generated scenes: synthetic, or synthetic:scene=shortcut,count=500"
    precedence = 5
    generated: ClassVar[bool] = True

    scene: Literal["together", "longtail", "shortcut", "coloured"] = "together"
    count: int = 1000
    size: int = 64
    seed: int = 0
    rate: float = 0.95
    ratio: float = 100.0
    shortcut: Literal["watermark", "background"] = "watermark"
    look: Literal["shapes", "textures"] = "shapes"
    classes: int = 4
    objects: int = 2

    def __post_init__(self) -> None:
        if self.scene not in SCENES:
            raise OptionError(f"synthetic: {unknown('scene', str(self.scene), SCENES)}")
        if self.shortcut not in (MARK, BACKGROUND):
            raise OptionError(f"synthetic: {unknown('shortcut', str(self.shortcut), (MARK, BACKGROUND))}")
        if self.look not in ("shapes", "textures"):
            raise OptionError(f"synthetic: {unknown('look', str(self.look), ('shapes', 'textures'))}")
        most = len(FORMS) if self.look == "shapes" else len(TEXTURES)
        if self.count < 1 or self.size < 32 or not 0 <= self.rate <= 1 or self.ratio < 1 or not 2 <= self.classes <= most:
            raise OptionError(
                f"synthetic: expected count ≥ 1, size ≥ 32, 0 ≤ rate ≤ 1, ratio ≥ 1, classes from 2 to {most}; "
                f"got {self.count}, {self.size}, {self.rate}, {self.ratio}, {self.classes}."
            )
        if not 1 <= self.objects <= MOST_OBJECTS:
            raise OptionError(f"synthetic: expected 1 to {MOST_OBJECTS} objects; got {self.objects}.")
        if self.scene == "coloured" and self.look != "shapes":
            raise OptionError(f'synthetic: the scene "coloured" has shapes only; got look={self.look!r}.')
        self._check_tail()

    def _check_tail(self) -> None:
        if self.scene == "longtail" and self.count < self.classes:
            raise OptionError(f"synthetic: {self.classes} classes need as many images; got count={self.count}.")

    def recognises(self, source: Any) -> bool:
        """The word itself; `open_data` takes options out of it."""
        return bool(source == "synthetic")

    def open(self, source: Any = None) -> Dataset:
        """See `Format.open`."""
        if self.look == "textures":
            _texture(next(iter(TEXTURES)))  # without scikit-image it is refused here
        names = (tuple(FORMS) if self.look == "shapes" else TEXTURES)[: 4 if self.scene == "together" else self.classes]
        if self.scene == "coloured":
            names = tuple(f"{colour} {form}" for colour in COLOURS for form in names)
        order = _long_tail(self.count, len(names), self.ratio, self.seed) if self.scene == "longtail" else None

        def stream() -> Iterator[Sample]:
            for i in range(self.count):
                yield self._sample(i, names, None if order is None else int(order[i]))

        return Dataset(f"synthetic {self.scene}", "synthetic", stream, self.count, names)

    def _sample(self, number: int, names: tuple[str, ...], fixed: int | None) -> Sample:
        rng = np.random.default_rng([self.seed, number])
        if self.scene == "together":
            present = _together(rng, self.rate)
        elif self.scene == "coloured":
            present = rng.choice(len(names), self.objects, replace=False).tolist()
        else:
            present = [int(rng.integers(len(names))) if fixed is None else fixed]
        planted = self.scene == "shortcut" and (rng.random() < self.rate) == (present[0] == 0)
        pixels = _ground(rng, self.size, self.look, planted and self.shortcut == BACKGROUND)
        objects = []
        boxes: list[Box] = []
        if planted and self.shortcut == MARK:
            boxes.append(_draw_mark(pixels, rng))
            objects.append(_object(MARK, np.ones((boxes[0][3] - boxes[0][1], boxes[0][2] - boxes[0][0]), bool), boxes[0], self.size))
        for k in rng.permutation(present):
            box = _place(rng, self.size, boxes)
            *colour, form = names[k].split() if self.look == "shapes" else [list(FORMS)[int(rng.integers(4))]]
            inside = _form(form, box[2] - box[0])
            tint = COLOURS[colour[0]] + rng.normal(0, 12, 3) if colour else rng.integers(100, 256, 3)
            _paint(pixels, box, inside, rng, tint, None if self.look == "shapes" else names[k])
            boxes.append(box)
            objects.append(_object(names[k], inside, box, self.size))
        labels = tuple(name for i, name in enumerate(names) if i in present)
        return Sample(pixels, f"{self.scene}-{self.seed}-{number:05d}", labels, tuple(objects))


def _together(rng: np.random.Generator, rate: float) -> list[int]:
    """Which of circle, square, triangle and cross are in an image."""
    pair = [] if rng.random() < 0.5 else [0, 1] if rng.random() < rate else [int(rng.integers(2))]
    others = [k for k in (2, 3) if rng.random() < 0.35]
    return pair + others or [int(rng.integers(2, 4))]


def _long_tail(count: int, classes: int, ratio: float, seed: int) -> npt.NDArray[np.int64]:
    """The class of each image, shuffled: class k has a share proportional to ratio^(−k / (classes − 1)), and one image at least."""
    shares = ratio ** (-np.arange(classes) / max(classes - 1, 1))
    edges = np.round(np.cumsum(shares) / shares.sum() * count).astype(np.int64)
    order = np.searchsorted(edges, np.arange(count), side="right")
    missing = [k for k in range(classes) if k not in order]
    order[: len(missing)] = missing
    return np.asarray(np.random.default_rng([seed, 1]).permutation(order))


def _ground(rng: np.random.Generator, size: int, look: str, blue: bool) -> Pixels:
    """A dark, noisy background; bluish where that is the shortcut; a blurred slope of greys under textures."""
    base = np.array([25, 40, 110]) if blue else rng.integers(20, 80, 3)
    slope = np.linspace(-1, 1, size)[:, None] * rng.normal(0, 10) + np.linspace(-1, 1, size)[None] * rng.normal(0, 10)
    noise = rng.normal(0, 12 if look == "shapes" else 20, (size, size, 3))
    return np.asarray((base + slope[..., None] + noise).clip(0, 255), np.uint8)


def _place(rng: np.random.Generator, size: int, taken: list[Box]) -> Box:
    """A square box that overlaps none of the others; smaller where the scene is crowded."""
    for attempt in range(200):
        shrink = 1 - attempt / 400
        side = max(8, round(size * rng.uniform(0.22, 0.34) * shrink))
        left, top = (int(rng.integers(0, size - side + 1)) for _ in "xy")
        box = (left, top, left + side, top + side)
        if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in taken):
            return box
    raise AssertionError("an image of 32 pixels or more has room for four objects")


def _form(name: str, side: int) -> Mask:
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    return np.asarray(FORMS[name](axis[None, :], axis[:, None]))


def _paint(pixels: Pixels, box: Box, inside: Mask, rng: np.random.Generator, tint: npt.NDArray[Any], texture: str | None) -> None:
    left, top, right, bottom = box
    side = right - left
    if texture is None:
        surface = tint + rng.normal(0, 12, (side, side, 3))
    else:
        picture = _texture(texture)
        y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape)
        surface = picture[y : y + side, x : x + side, None] * (0.7 + 0.3 * tint / 255)
    pixels[top:bottom, left:right][inside] = surface.clip(0, 255).astype(np.uint8)[inside]


def _draw_mark(pixels: Pixels, rng: np.random.Generator) -> Box:
    """Bright bars in a corner, like letters."""
    size = len(pixels)
    wide, high = max(8, size // 4), max(4, size // 10)
    left = 2 if rng.random() < 0.5 else size - wide - 2
    top = 2 if rng.random() < 0.5 else size - high - 2
    letters = np.zeros((high, wide), bool)
    letters[:, ::3] = True
    letters[high // 2, :] = True
    pixels[top : top + high, left : left + wide][letters] = 235
    return left, top, left + wide, top + high


def _object(label: str, inside: Mask, box: Box, size: int) -> Object:
    def mask() -> Mask:
        whole = np.zeros((size, size), bool)
        whole[box[1] : box[3], box[0] : box[2]] = inside
        return whole

    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    tight = (box[0] + columns[0], box[1] + rows[0], box[0] + columns[-1] + 1, box[1] + rows[-1] + 1)
    return Object(label, (float(tight[0]), float(tight[1]), float(tight[2]), float(tight[3])), mask)


@cache
def _texture(name: str) -> Plane:
    """A grey picture `[H, W]`, a third of its size so that a small cut shows the pattern."""
    data = import_optional("skimage.data", "data", "synthetic data with textures")
    transform = import_optional("skimage.transform", "data", "synthetic data with textures")
    picture = np.asarray(getattr(data, name)(), np.float64)
    factor = 3 if min(picture.shape) > 300 else 2
    picture = np.asarray(transform.downscale_local_mean(picture, (factor, factor)))
    picture.setflags(write=False)  # all threads share it
    return picture
