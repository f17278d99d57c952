"""Where in a photo the network's input lies, and how it is turned: said, or measured by sending barcodes through a function.

A barcode is an image of stripes, black and white, whose widths never repeat. The edges between them are found in the output, whatever the
function does to brightness and contrast, and their distances tell which of the stripes are seen, in which direction and at what scale.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lucidcam.errors import LucidcamError, ModelError, OptionError
from lucidcam.reprs import OneLineRepr

Function = Callable[[Image.Image], Tensor]
Values = npt.NDArray[np.float64]

WIDTHS = (3, 5, 2, 6, 4, 7, 2, 3, 6, 5, 3, 7, 4, 2, 5, 6, 2, 4, 7, 3)
"""Widths of stripes, in units: no three neighbours have the ratios of any other three, in either direction."""

STRIPES = 20, 10, 6, 80
"""How many stripes are tried across a photo: fewer for coarse outputs, more for a function that cuts a small part out."""

REPEATS = 64
"""How often a function that draws random numbers is asked again: what it does once in twenty times is then seen 96 times of 100."""

STRIPE_PIXELS = 3
"""Pixels of the photo that a stripe takes on average, at least."""

SMALLEST = 16
"""Sides in pixels: of smaller photos a larger one of the same shape is measured, so that the stripes can be told apart."""

LINES = 64
"""Rows or columns of the output that are looked at."""

SNAP = 0.4
"""Pixels of the output by which a side of the frame may lie beside the photo's own and is taken for that."""

FEWEST_EDGES = 3
"""Edges that must be seen along each axis; with fewer their distances tell too little."""

STRONG = 0.5
"""Share of the largest change between a barcode and its negative, from which on a pixel shows a stripe rather than padding or an edge."""

STRAY = 0.75
"""Pixels of the output by which an edge may lie beside its place."""

MOVED = 1.5
"""Pixels of the output by which an edge may move when a border is put around the photo."""

CHANGED = 0.05
"""Share of the largest change below which a pixel shows nothing of the photo: padding, or a mask."""

MISREAD = 0.1
"""Share of the pixels of the output that may be something else than a barcode makes of them."""

LIKENESS = 0.2
"""Correlation of fine structure between a tensor and the part of the photo that it should show, below which it shows another part."""


@dataclass(frozen=True)
class Frame(OneLineRepr):
    """Where in the original image the network's input lies.

    Attributes:
        width: of the original image in pixels, EXIF orientation applied.
        height: of the original image.
        box: (left, top, right, bottom) in original pixels, with fractions. Smaller than the image after a centre crop,
            larger where the preprocessing pads.
        mirrored: left and right of the original are exchanged in the input.
        flipped: top and bottom are exchanged.
        transposed: rows of the original, mirrored and flipped so, are columns of the input: it is turned by 90 degrees.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]
    mirrored: bool = False
    flipped: bool = False
    transposed: bool = False

    @classmethod
    def whole(cls, width: int, height: int) -> Frame:
        """The frame of a network that sees the whole image.

        >>> Frame.whole(640, 480).box
        (0.0, 0.0, 640.0, 480.0)
        """
        return cls(width, height, (0.0, 0.0, float(width), float(height)))

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The part of the original image that the input shows: (left, top, right, bottom) in whole pixels.

        >>> Frame(200, 100, (50.2, -20.0, 150.0, 120.0)).seen
        (50, 0, 150, 100)
        """
        left, top, right, bottom = (round(side) for side in self.box)
        return max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)

    def inside(self, box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
        """A box (xyxy) in original pixels as it lies in the input of `size` (H, W).

        >>> Frame(200, 100, (50.0, 0.0, 150.0, 100.0)).inside((100, 0, 150, 50), (10, 10))
        (5.0, 0.0, 10.0, 5.0)
        >>> Frame(200, 100, (50.0, 0.0, 150.0, 100.0), mirrored=True).inside((100, 0, 150, 50), (10, 10))
        (0.0, 0.0, 5.0, 5.0)
        """
        (left, top, right, bottom), (height, width) = self.box, self.upright_size(size)
        x, y = width / (right - left), height / (bottom - top)
        sides = (box[0] - left) * x, (box[1] - top) * y, (box[2] - left) * x, (box[3] - top) * y
        mirrored = self._mirrored(sides, width, height)
        return (mirrored[1], mirrored[0], mirrored[3], mirrored[2]) if self.transposed else mirrored

    def outside(self, box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Inverse of `inside`: a box in the input of `size` (H, W) as it lies in the original."""
        (left, top, right, bottom), (height, width) = self.box, self.upright_size(size)
        sides = (box[1], box[0], box[3], box[2]) if self.transposed else (box[0], box[1], box[2], box[3])
        sides = self._mirrored(sides, width, height)
        x, y = (right - left) / width, (bottom - top) / height
        return left + sides[0] * x, top + sides[1] * y, left + sides[2] * x, top + sides[3] * y

    def upright_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) that an input of `size` (H, W) has once it is turned as the original is."""
        return (size[1], size[0]) if self.transposed else size

    def upright(self, values: Tensor) -> Tensor:
        """Turn values `[..., h, w]` that lie as the input does, so that they lie as the original does."""
        values = values.transpose(-1, -2) if self.transposed else values
        axes = self._exchanged_axes()
        return values.flip(axes) if axes else values

    def turned(self, values: Tensor) -> Tensor:
        """Inverse of `upright`: turn values that lie as the original does, so that they lie as the input does."""
        axes = self._exchanged_axes()
        values = values.flip(axes) if axes else values
        return values.transpose(-1, -2) if self.transposed else values

    def _exchanged_axes(self) -> list[int]:
        return [axis for axis, exchanged in ((-1, self.mirrored), (-2, self.flipped)) if exchanged]

    def _mirrored(self, box: tuple[float, float, float, float], width: float, height: float) -> tuple[float, float, float, float]:
        left, top, right, bottom = box
        if self.mirrored:
            left, right = width - right, width - left
        if self.flipped:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom


class _NotMeasured(Exception):  # noqa: N818 - a reason, put into a sentence by `measure`
    pass


@dataclass(frozen=True)
class _Axis:
    """Where one axis of the photo went.

    Attributes:
        output_axis: along which axis of the output, 0: down, 1: across.
        start: the place on the photo, in pixels, where the output begins.
        stop: where it ends.
        pixels: of the output.
    """

    output_axis: int
    start: float
    stop: float
    pixels: int

    def snapped(self, side: int) -> tuple[float, float]:
        """Both places; one that all but coincides with an end of the photo's side is that end."""
        margin = SNAP * abs(self.stop - self.start) / self.pixels
        ends = (0.0, float(side))
        start, stop = (next((end for end in ends if abs(end - place) <= margin), place) for place in (self.start, self.stop))
        return start, stop


def measure(function: Function, size: tuple[int, int]) -> Frame:
    """Measure which part of photos of a size a function shows.

    Args:
        function: from an RGB image to a tensor `[C, h, w]` (or `[1, C, h, w]`). It may change brightness and contrast in any way that keeps
            light from dark or swaps them, also by the image's own statistics, and may resize, crop, mask, mirror, turn by right angles, and
            pad with one colour or with the photo's border, continued or mirrored.
        size: (width, height) of the photo.

    Raises:
        ModelError: it cannot be measured: the function is random, crops by what the image shows, or bends it.
    """
    factor = max(1, -(-SMALLEST // max(1, min(size))))
    width, height = size[0] * factor, size[1] * factor
    states = _random_states()
    try:
        across, down = (_axis(function, (width, height), axis) for axis in (1, 0))
        if across.output_axis == down.output_axis:
            raise _NotMeasured("both sides of the photo run along one side of the output")
        if _random_states() != states and _varies(function, (width, height)):
            raise _NotMeasured("it is random: the same photo gives another tensor now and then; give the transforms of evaluation")
    except _NotMeasured as reason:
        raise ModelError(refusal(str(reason))) from None
    left, right = sorted(place / factor for place in across.snapped(width))
    top, bottom = sorted(place / factor for place in down.snapped(height))
    return Frame(
        *size,
        (left, top, right, bottom),
        mirrored=across.start > across.stop,
        flipped=down.start > down.stop,
        transposed=across.output_axis == 0,
    )


def _random_states() -> tuple[object, ...]:
    """Where Python's, NumPy's and torch's random numbers stand."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def _varies(function: Function, size: tuple[int, int]) -> bool:
    """Whether a function that draws random numbers gives several tensors of one photo, be it seldom."""
    images = [_Barcode.of(size, axis, STRIPES[0]).image() for axis in (0, 1)]
    first = [_output(function, image) for image in images]
    return any(not _same(_output(function, image), known) for _ in range(REPEATS) for image, known in zip(images, first, strict=True))


def _same(first: Values, second: Values) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-4 * float(np.abs(first).max()))


def refusal(reason: str) -> str:
    """The message for a function whose frame cannot be measured."""
    return (
        f"it cannot be measured which part of a photo the preprocessing shows ({reason}): use lucidcam.Preprocess, give the "
        'function a method frame((width, height)) that returns a lucidcam.types.Frame, or say frame="whole" (or such a function) to '
        "lucidcam.wrap."
    )


def agrees(image: Image.Image, tensor: Tensor, frame: Frame) -> bool:
    """Whether a tensor shows the part of a photo that a frame says, by its fine structure; true where that has none.

    Args:
        image: the photo.
        tensor: what the preprocessing made of it, `[C, h, w]`.
        frame: what was measured on barcodes.
    """
    values = frame.upright(tensor.detach().cpu().double()).numpy()
    rows, columns = (min(side, 48) for side in values.shape[1:])
    if min(rows, columns) < 12:
        return True
    left, top, right, bottom = frame.box
    x0, y0, x1, y1 = max(left, 0.0), max(top, 0.0), min(right, float(frame.width)), min(bottom, float(frame.height))
    if x1 - x0 < columns / 2 or y1 - y0 < rows / 2:
        return True  # too few pixels of the photo
    per_x, per_y = values.shape[2] / (right - left), values.shape[1] / (bottom - top)
    part = slice(round((y0 - top) * per_y), round((y1 - top) * per_y)), slice(round((x0 - left) * per_x), round((x1 - left) * per_x))
    grey = image.convert("L")
    fine = _fine(grey.resize((columns, rows), Image.Resampling.BOX, (x0, y0, x1, y1)))
    if fine.std() < 2:  # of 255 levels
        return True
    sampled = grey.resize(values[0][part].shape[::-1], Image.Resampling.NEAREST, (x0, y0, x1, y1))
    if _likeness(fine, _fine(sampled.resize((columns, rows), Image.Resampling.BOX))) < 2 * LIKENESS:
        return True  # noise: its pixels alone decide which of them are taken
    shown = (Image.fromarray(channel[part].astype(np.float32)).resize((columns, rows), Image.Resampling.BOX) for channel in values)
    return any(_likeness(fine, _fine(channel)) >= LIKENESS for channel in shown)


def _likeness(fine: Values, other: Values) -> float:
    """The magnitude of the correlation of two arrays whose mean is 0."""
    scale = float(fine.std() * other.std())
    return abs(float((fine * other).mean())) / scale if scale > 0 else 0.0


def _fine(image: Image.Image) -> Values:
    """What differs from the mean of the surroundings."""
    values = np.asarray(image, np.float64)
    padded = np.pad(values, 2, mode="edge")
    sums = np.zeros_like(values)
    for i in range(5):
        for j in range(5):
            sums += padded[i : i + values.shape[0], j : j + values.shape[1]]
    fine = values - sums / 25
    return np.asarray(fine - fine.mean())


def _axis(function: Function, size: tuple[int, int], axis: int) -> _Axis:
    """Follow one axis of the photo (0: down, 1: across) through the function.

    Raises:
        _NotMeasured: it cannot be followed.
    """
    reasons: list[_NotMeasured] = []
    for stripes in STRIPES:
        code = _Barcode.of(size, axis, stripes)
        try:
            measured, profile = _follow(function, code)
        except _NotMeasured as reason:
            reasons.append(reason)
            continue
        for level in (0, 255):  # a crop that follows what the photo shows moves with a border
            _check_border(function, code, measured, profile, level)
        return measured
    raise reasons[0]


@dataclass(frozen=True, eq=False)
class _Barcode:
    """Stripes across an axis of an image.

    Attributes:
        size: (width, height) of the image.
        axis: which they cross, 0: down, 1: across.
        edges: where one ends and the next begins, in pixels.
    """

    size: tuple[int, int]
    axis: int
    edges: npt.NDArray[np.int64]

    @classmethod
    def of(cls, size: tuple[int, int], axis: int, stripes: int) -> _Barcode:
        """As many stripes as asked for, or as are wide enough to be seen."""
        side = size[1 - axis]
        count = max(3, min(stripes, side // STRIPE_PIXELS))
        widths = np.resize(WIDTHS, count).astype(float)
        if count > len(WIDTHS):  # no stretch of a longer code is like another
            widths += np.random.default_rng(0).uniform(-0.9, 1.5, count)
        ends = np.rint(np.cumsum(widths) / widths.sum() * side).astype(np.int64)
        return cls(size, axis, np.unique(ends[:-1]))

    @property
    def side(self) -> int:
        """Pixels along the axis."""
        return self.size[1 - self.axis]

    @property
    def border(self) -> tuple[int, int]:
        """Where a border around the image ends along the axis, and where it begins again."""
        return _border(self.side)

    def levels(self) -> npt.NDArray[np.uint8]:
        """The brightness of each pixel along the axis, 0 or 255."""
        stripe = np.searchsorted(self.edges, np.arange(self.side), side="right")
        return ((stripe % 2) * 255).astype(np.uint8)

    def signs(self, places: Values) -> Values:
        """1 where a place along the axis is light, −1 where it is dark."""
        return np.where(np.searchsorted(self.edges, places, side="right") % 2, 1.0, -1.0)

    def far(self, places: Values, margin: float, ends: bool = True) -> npt.NDArray[np.bool_]:
        """Which places are farther than a margin from all edges, and from the ends of the axis."""
        edges = np.array([0, *self.edges, self.side]) if ends else self.edges
        return np.asarray(np.abs(places[:, None] - edges).min(1) > margin)

    def image(self, negative: bool = False, border: int | None = None) -> Image.Image:
        """The picture; a border of one brightness covers an eighth of it at the left and the top, and less on the other sides."""
        levels = 255 - self.levels() if negative else self.levels()
        width, height = self.size
        pixels = np.broadcast_to(levels[None, :] if self.axis == 1 else levels[:, None], (height, width)).copy()
        if border is not None:
            (left, right), (top, bottom) = _border(width), _border(height)
            pixels[:top] = pixels[bottom:] = border
            pixels[:, :left] = pixels[:, right:] = border
        return Image.fromarray(pixels).convert("RGB")


def _border(side: int) -> tuple[int, int]:
    return side // 8, side - side // 16


def _follow(function: Function, code: _Barcode) -> tuple[_Axis, Values]:
    """Where the axis went, and the profile of the barcode in the output."""
    positive, again = (_output(function, code.image()) for _ in range(2))
    if not _same(positive, again):
        raise _NotMeasured("it gives different tensors for one photo")
    axis, profile = _profile(positive, _output(function, code.image(negative=True)))
    places = _crossings(profile)
    if len(places) < FEWEST_EDGES and len(places) < len(code.edges):
        raise _NotMeasured("too little of the photo is seen")
    slope, start = _match(places, code.edges)
    _check_profile(profile, code, slope, start)
    return _Axis(axis, start, start + slope * len(profile), len(profile)), profile


def _check_border(function: Function, code: _Barcode, measured: _Axis, expected: Values, level: int) -> None:
    """Make sure that the output still shows the same part when a border is put around.

    Raises:
        _NotMeasured: it shows another part.
    """
    positive, negative = (_output(function, code.image(dark, level)) for dark in (False, True))
    if positive.shape[1 + measured.output_axis] != len(expected):
        raise _NotMeasured("the size of its output depends on what the photo shows")
    axis, profile = _profile(positive, negative)
    strong = np.abs(profile) > STRONG
    agree = (np.sign(profile) == np.sign(expected))[strong]
    # What subtracts a blurred image shows edges where the border ends.
    ends = (np.array(code.border) - measured.start) * measured.pixels / (measured.stop - measured.start)
    places, before = _crossings(profile), np.concatenate([_crossings(expected), ends])
    moved = np.abs(places[:, None] - before).min(1) > MOVED
    if axis != measured.output_axis or not strong.any() or agree.mean() < STRONG or moved.any():
        raise _NotMeasured("which part it shows depends on what the photo shows")


def _output(function: Function, image: Image.Image) -> Values:
    """A function's output `[C, h, w]`.

    Raises:
        _NotMeasured: it fails.
        OptionError: it returns something else.
    """
    try:
        tensor = function(image)
    except LucidcamError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise _NotMeasured(
            f"it fails for a black-and-white image of {image.width} × {image.height}: {type(error).__name__}: {reason}"
        ) from error
    if isinstance(tensor, Tensor) and tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if not isinstance(tensor, Tensor) or tensor.ndim != 3:
        kind = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise OptionError(f"the preprocessing must turn a PIL image into a tensor [C, h, w]; it returned {kind}.")
    return np.asarray(tensor.detach().to("cpu").float().numpy())


def _profile(positive: Values, negative: Values) -> tuple[int, Values]:
    """Along which axis of the output the stripes are crossed, and what changes there between a barcode and its negative, from −1 to 1.

    Raises:
        _NotMeasured: nothing changes, or the stripes are not straight along one of the axes.
    """
    if positive.shape != negative.shape:
        raise _NotMeasured("the size of its output depends on what the photo shows")
    rows, columns = (np.unique(np.linspace(0, side - 1, min(side, LINES)).astype(int)) for side in positive.shape[1:])
    both = [positive[:, rows] - negative[:, rows], (positive[:, :, columns] - negative[:, :, columns]).swapaxes(1, 2)]
    if not all(np.isfinite(change).all() for change in both):
        raise _NotMeasured("it gives NaN or infinite numbers for a black-and-white image")
    channel = int(np.abs(both[0]).max((1, 2)).argmax())
    along_rows, along_columns = (change[channel].astype(np.float64) for change in both)
    # A normalisation by the image's own statistics moves all changes alike, with padding in the middle between dark and light.
    low, high = (float(np.quantile(along_rows, share)) for share in (0.01, 0.99))
    middle, peak = (low + high) / 2, (high - low) / 2
    if peak <= 1e-6 * max(1e-12, float(np.abs(positive).max())):
        raise _NotMeasured("it gives the same for a black-and-white image and its negative")
    axis = int(np.abs(np.diff(along_rows)).mean() > np.abs(np.diff(along_columns)).mean())
    lines = np.clip(((along_rows if axis == 1 else along_columns) - middle) / peak, -1, 1)
    shown = lines[np.abs(lines).max(1) > STRONG]
    changed = np.abs(shown) > CHANGED
    profile = np.ma.median(np.ma.masked_array(shown, ~changed), 0).filled(0.0)  # type: ignore[no-untyped-call]
    if ((np.abs(shown - profile) > STRONG) & changed).mean() > 0.02:
        raise _NotMeasured("it bends or turns the photo, or shows several parts of it")
    return axis, np.asarray(profile)


def _crossings(profile: Values) -> Values:
    """Where the profile changes its sign, in pixels from its beginning."""
    strong = np.flatnonzero(np.abs(profile) > STRONG)
    places = []
    for before, after in pairwise(strong):
        if profile[before] * profile[after] > 0:
            continue
        steps = np.arange(before, after + 1)
        values = profile[steps] * np.sign(profile[after])
        i = int(np.flatnonzero(values > 0)[0])
        places.append(steps[i - 1] + 0.5 + values[i - 1] / (values[i - 1] - values[i]))
    return np.asarray(places)


def _check_profile(profile: Values, code: _Barcode, slope: float, start: float) -> None:
    """Make sure that the whole profile is what a line makes of the barcode: stripes without gaps where any are, padding outside.

    Raises:
        _NotMeasured: it is not; edges were missed.
    """
    strong = np.abs(profile) > STRONG
    places = np.asarray(slope * (np.arange(len(profile)) + 0.5) + start, np.float64)
    outside = (places < -abs(slope)) | (places > code.side + abs(slope))
    inside = np.flatnonzero(strong & ~outside)
    shown = ~outside & code.far(places, abs(slope))
    if len(inside):
        shown[: inside[0]] = shown[inside[-1] + 1 :] = False
    agree = float((np.sign(profile) == code.signs(places))[shown].mean()) if shown.any() else 1.0
    misread = (
        min(agree, 1 - agree),
        1 - strong[shown].mean() if shown.any() else 0.0,
        _misread_outside(profile if agree > 0.5 else -profile, code, places, outside, max(1.0, abs(slope))),
    )
    if max(misread) > MISREAD:
        raise _NotMeasured("distances along the photo are not kept in proportion")


def _misread_outside(profile: Values, code: _Barcode, places: Values, outside: npt.NDArray[np.bool_], margin: float) -> float:
    """The share of the pixels outside the photo that show neither nothing nor its border, continued, mirrored or repeated."""
    strong = np.abs(profile) > STRONG
    share = float(strong[outside].mean()) if outside.any() else 0.0
    if share <= MISREAD or len(code.edges) < STRIPES[1] - 1:
        return share
    side, fine = code.side, len(code.edges) >= STRIPES[0] - 1
    shares = [1.0]
    for padded in (np.clip(places, 0.5, side - 0.5), side - np.abs(places % (2 * side) - side), places % side):
        signs, seen = code.signs(padded), outside & strong & code.far(padded, margin, ends=False)
        sides = [signs[seen & beyond] for beyond in (places < 0, places > side)]
        # Within a wide stripe a part of the photo that is drawn out looks like padding.
        if seen.any() and (fine or all(len(set(each)) != 1 for each in sides)):
            shares.append(float((np.sign(profile) != signs)[seen].mean()))
    return min(shares)


def _match(places: Values, edges: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The straight line `photo = slope · output + start` on which the edges that are seen lie.

    Raises:
        _NotMeasured: there is none, or several fit.
    """
    count = min(len(places), len(edges))  # more than there are: some are seen again in what pads the photo
    fits: list[tuple[float, float, float]] = []
    for i in range(len(places) - count + 1):
        seen = places[i : i + count]
        for first in range(len(edges) - count + 1):
            for candidates in (edges[first : first + count], edges[first : first + count][::-1]):
                slope, start = np.polyfit(seen, candidates, 1)
                stray = float(np.abs(slope * seen + start - candidates).max()) / max(abs(float(slope)), 1e-9)
                fits.append((stray, float(slope), float(start)))
    fits.sort()
    if fits[0][0] > STRAY + 0.5 / max(abs(fits[0][1]), 1e-9):
        raise _NotMeasured("distances along the photo are not kept in proportion")
    if len(fits) > 1 and fits[1][0] <= fits[0][0] + STRAY / 2:
        raise _NotMeasured("too little of the photo is seen" if len(places) <= len(edges) else "it shows the photo several times")
    return fits[0][1], fits[0][2]
