"""Surfaces and scenes whose texture, colour and shape are known: what a generated bank is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from lucidcam.data.synthetic import FORMS
from lucidcam.samples import Mask, Object, Sample
from lucidcam.stats.ranks import halves
from lucidcam.utils.optional import import_optional

Plane = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Plane]

TURN = 8.0
"""Degrees by which stripes are off their direction at most."""

PERIODS = 16, 6
"""A pattern repeats this often along the image's side, at most and at least."""

FULL = 0.4
"""Share of images that one surface fills."""

COLOURS = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (230, 215, 50),
    "green": (50, 175, 60),
    "blue": (45, 85, 225),
    "purple": (150, 50, 190),
}
"""RGB of hues; a surface of none of them is "grey"."""

GREY = "grey"

PICTURES = ("brick", "grass", "gravel")
"""Pictures of scikit-image's package that surfaces are cut from."""


def _axes(size: int) -> tuple[Plane, Plane]:
    """X to the right `[1, size]` and y down `[size, 1]`, in pixels."""
    axis = np.arange(size, dtype=np.float64)
    return axis[None, :], axis[:, None]


def _period(rng: np.random.Generator, size: int) -> float:
    return float(rng.uniform(max(3.0, size / PERIODS[0]), max(4.0, size / PERIODS[1])))


def _wave(rng: np.random.Generator, size: int, degrees: float, period: float) -> Plane:
    """A wave that runs in the direction `degrees`, in [−1, 1]."""
    x, y = _axes(size)
    angle = np.deg2rad(degrees)
    return np.asarray(np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform(0, 2 * np.pi)))


def _stripes(*directions: float) -> Draw:
    def draw(rng: np.random.Generator, size: int) -> Plane:
        degrees = directions[int(rng.integers(len(directions)))] + rng.uniform(-TURN, TURN)
        wave = _wave(rng, size, degrees, _period(rng, size))
        return wave if rng.random() < 0.5 else np.sign(wave)

    return draw


def _checks(rng: np.random.Generator, size: int) -> Plane:
    period = _period(rng, size)
    turn = rng.uniform(-TURN, TURN)
    return np.sign(_wave(rng, size, turn, period) * _wave(rng, size, 90 + turn, period))


def _dots(rng: np.random.Generator, size: int) -> Plane:
    period = _period(rng, size)
    waves = _wave(rng, size, 0, period) + _wave(rng, size, 90, period)
    return np.where(waves > rng.uniform(0.7, 1.2), 1.0, -1.0)


def _grid(rng: np.random.Generator, size: int) -> Plane:
    period = _period(rng, size)
    thin = rng.uniform(0.75, 0.9)
    return np.where(np.maximum(_wave(rng, size, 0, period), _wave(rng, size, 90, period)) > thin, 1.0, -1.0)


def _speckle(rng: np.random.Generator, size: int) -> Plane:
    """Blots: noise on a coarse grid, without direction."""
    cells = max(4, round(size / rng.uniform(3, 6)))
    coarse = rng.choice([-1.0, 1.0], (cells, cells))
    places = np.arange(size) * cells // size
    return np.asarray(coarse[np.ix_(places, places)])


def _plain(rng: np.random.Generator, size: int) -> Plane:
    """A faint slope."""
    x, y = _axes(size)
    return np.asarray(rng.uniform(0.2, 1) + rng.uniform(-0.1, 0.1) * x / size + rng.uniform(-0.1, 0.1) * y / size)


def _picture(name: str, half: int | None = None) -> Draw:
    """Cuts of a picture, or of its left (0) or right (1) half only, so that those of one half show nothing of the other's."""

    def draw(rng: np.random.Generator, size: int) -> Plane:
        picture = _photo(name)
        side = int(rng.integers(min(picture.shape) // 3, min(picture.shape) // 2))
        if half is not None:
            picture = np.array_split(picture, 2, axis=1)[half]
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape)
        rows = np.arange(size) * side // size
        cut = picture[top : top + side, left : left + side][np.ix_(rows, rows)]
        low, high = np.percentile(cut, (2, 98))
        return np.asarray(((cut - low) / max(high - low, 1.0) * 2 - 1).clip(-1, 1))

    return draw


@cache
def _photo(name: str) -> Plane:
    """A grey picture `[H, W]` of scikit-image's, half its size."""
    data = import_optional("skimage.data", "words", "the built-in bank of concepts")
    picture = np.asarray(getattr(data, name)(), np.float64)
    height, width = (side // 2 * 2 for side in picture.shape)
    picture = np.asarray(picture[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)))
    picture.setflags(write=False)  # all threads share it
    return picture


TEXTURES: dict[str, Draw] = {
    "plain": _plain,
    "vertical stripes": _stripes(0),
    "horizontal stripes": _stripes(90),
    "slanted stripes": _stripes(45, 135),
    "checks": _checks,
    "dots": _dots,
    "grid": _grid,
    "speckle": _speckle,
    **{name: _picture(name) for name in PICTURES},
}
"""Surfaces by name: from a random generator and a side to `[size, size]` in [−1, 1]."""


def surface(rng: np.random.Generator, size: int, texture: str, colour: str, half: int | None = None) -> Plane:
    """A textured, tinted surface `[size, size, 3]` in 0 to 255; what is cut from a picture comes from its left (0) or right (1) half."""
    pattern = (_picture(texture, half) if texture in PICTURES else TEXTURES[texture])(rng, size)
    tint = np.full(3, rng.uniform(110, 235)) if colour == GREY else np.asarray(COLOURS[colour]) + rng.normal(0, 12, 3)
    dark = rng.uniform(0.1, 0.4)
    return np.asarray(tint * (dark + (1 - dark) * (pattern[..., None] + 1) / 2))


def scene(
    rng: np.random.Generator, size: int, texture: str, colour: str, form: str | None, half: int | None = None
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """An image `[size, size, 3]` and the surface's pixels: all of it, or a shape before dull, slightly noisy grey."""
    painted = surface(rng, size, texture, colour, half)
    inside = np.ones((size, size), bool)
    ground = np.full((size, size, 3), rng.uniform(30, 190))
    if form is not None:
        side = round(size * rng.uniform(0.5, 0.85))
        top, left = (int(rng.integers(0, size - side + 1)) for _ in "yx")
        axis = (np.arange(side) + 0.5) / side * 2 - 1
        inside[:] = False
        inside[top : top + side, left : left + side] = FORMS[form](axis[None, :], axis[:, None])
    pixels = np.where(inside[..., None], painted, ground) + rng.normal(0, 5, (size, size, 1))
    return pixels.clip(0, 255).astype(np.uint8), inside


def samples(count: int, size: int, seed: int) -> Iterator[Sample]:
    """Draw scenes: textures, colours and shapes come equally often, and independently of each other.

    Image i depends on the seed, on i and on `count` alone. What is cut from pictures comes from their left half for images that names are
    chosen by, and from the right one for those that they are tested on.
    """
    rng = np.random.default_rng(seed)
    textures, colours = _dealt(rng, list(TEXTURES), count), _dealt(rng, [*COLOURS, GREY], count)
    forms = _dealt(rng, list(FORMS), count)
    full = rng.random(count) < FULL
    shown = [
        (texture, colour, *([] if empty else [form])) for texture, colour, form, empty in zip(textures, colours, forms, full, strict=True)
    ]
    every = [*TEXTURES, *COLOURS, GREY, *FORMS]
    fit = halves(np.array([[name in names for name in every] for names in shown]))
    for i, names in enumerate(shown):
        form = None if full[i] else forms[i]
        pixels, inside = scene(np.random.default_rng([seed, i]), size, textures[i], colours[i], form, 0 if fit[i] else 1)
        # A function's default holds the mask of this turn.
        objects = tuple(Object(name, mask=lambda inside=inside: inside) for name in names)  # type: ignore[misc]
        yield Sample(pixels, f"scene-{seed}-{i:05d}", names, objects)


def _dealt(rng: np.random.Generator, names: list[str], count: int) -> list[str]:
    """So many names in random order, each as often as the others."""
    return [names[int(k)] for k in rng.permutation(np.arange(count) % len(names))]
