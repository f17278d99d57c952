"""MaxBoxAcc and MaxBoxAccV2 (Choe et al., CVPR 2020): box accuracy at the threshold that is best for the whole data set.

The numbers are those of the evaluation the authors published (clovaai/wsolevaluation), to the last digit, for the same score maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Curve, Figure, Record, divide, register
from lucidcam.metrics._canvas import THRESHOLDS, score_map
from lucidcam.metrics._localization import LocalizationMetric, Located
from lucidcam.utils.optional import import_optional

Contours = Literal["largest", "all"]
Boxes = npt.NDArray[np.int64]

LEVEL = (THRESHOLDS * 255).astype(np.int64)
"""The grey level each of them is, for maps in 8 bits: pixels brighter than it are kept."""
LEVELS = int(LEVEL[-1]) + 1


@register("maxboxacc")
@dataclass(frozen=True, kw_only=True)
class MaxBoxAcc(LocalizationMetric):
    """Box accuracy at one IoU, at the best threshold of the data set (Choe 2020): `max_τ 100 / N · Σ_n [IoU(box(s_n, τ), B_n) ≥ δ]`.

    The score map `s` is the raw map, resized bicubically to `resolution` × `resolution`, min-maxed and rounded down to 8 bits; a flat map
    is 0 everywhere and its box is the first pixel. The box is that of the largest contour of the pixels brighter than `⌊255 τ⌋`. The best
    IoU over the class's boxes counts; pixels are counted inclusively. Several classes in an image count once each.

    The boxes are scaled to the canvas as the published evaluation's metadata has them: of ILSVRC the numbers of the XML files, xmax and
    ymax as they stand (`ilsvrc` keeps them); of CUB x + width and y + height.

    Attributes:
        resolution: pixels per side of the canvas for maps and boxes.
        iou: smallest intersection over union of a right box, δ.
        contours: "largest": the box of the contour with the largest area; "all": the best of all contours' boxes, holes too.
    """

    figures = (Figure("maxboxacc", "%", tuned=True),)
    paper = "Choe 2020"
    needs = "boxes"
    single = False

    resolution: int = 224
    iou: float = 0.5
    contours: Contours = "largest"

    def __post_init__(self) -> None:
        _check(self.resolution, self.contours)
        if not 0 < self.iou <= 1:
            raise OptionError(f"expected 0 < iou ≤ 1; got {self.iou}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        return [Record(hits(view, self.resolution, (self.iou,), self.contours)) for view in image if len(view.boxes)]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        return {"maxboxacc": accuracy(count.sum(0), sums.sum(0)).max(-1)[:, 0]}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """See `Metric.curves`."""
        return _curves(count, sums, ("maxboxacc",))


@register("maxboxacc_v2")
@dataclass(frozen=True, kw_only=True)
class MaxBoxAccV2(LocalizationMetric):
    """MaxBoxAcc with the best box over all contours, averaged over the IoUs 0.3, 0.5 and 0.7, each at its own best threshold (Choe 2020).

    Attributes:
        resolution: pixels per side of the canvas for maps and boxes.
        contours: "all": the best of all contours' boxes, holes too; "largest": the box of the contour with the largest area.
    """

    figures = (
        Figure("maxboxacc_v2", "%", tuned=True),
        *(Figure(f"maxboxacc_v2_iou{percent}", "%", tuned=True) for percent in (30, 50, 70)),
    )
    paper = "Choe 2020"
    needs = "boxes"
    single = False

    resolution: int = 224
    contours: Contours = "all"

    def __post_init__(self) -> None:
        _check(self.resolution, self.contours)

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        return [Record(hits(view, self.resolution, (0.3, 0.5, 0.7), self.contours)) for view in image if len(view.boxes)]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        best = accuracy(count.sum(0), sums.sum(0)).max(-1)
        return {figure.name: values for figure, values in zip(self.figures, (best.mean(1), *best.T), strict=True)}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """See `Metric.curves`."""
        return _curves(count, sums, [figure.name for figure in self.figures[1:]])


def hits(view: Located, resolution: int, ious: Sequence[float], contours: Contours) -> Array:
    """Whether a box of the map is right, for each IoU and each grey level that a threshold can be, `[len(ious) · LEVELS]`."""
    height, width = view.size
    truth = (view.corners * resolution / np.array([width, height] * 2)).astype(np.int64)
    found, starts = _boxes((score_map(view, resolution) * 255).astype(np.uint8), contours)
    best = np.maximum.reduceat(_overlaps(found, truth).max(1), starts)
    return np.asarray(best >= np.array(ious)[:, None], np.float64).ravel()


def accuracy(count: Array, sums: Array) -> Array:
    """Box accuracy in % for each weighting, IoU and grey level `[R, len(ious), LEVELS]`, from sums of `hits` `[R, K]`."""
    return divide(sums.reshape(len(sums), -1, LEVELS) * 100, count[:, None, None])


def _boxes(image: npt.NDArray[np.uint8], contours: Contours) -> tuple[Boxes, Boxes]:
    """Boxes of the pixels brighter than each grey level `[n, 4]`, and where those of each level start `[LEVELS]`."""
    cv2 = import_optional("cv2", "data", "the metric maxboxacc")
    # A contour around others, or around holes, encloses the largest area: the published RETR_TREE gives the same one, slower.
    nesting = cv2.RETR_EXTERNAL if contours == "largest" else cv2.RETR_TREE
    size = len(image)
    found: list[tuple[int, int, int, int]] = []
    starts = []
    for level in range(LEVELS):
        starts.append(len(found))
        _, bright = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)
        shapes, _ = cv2.findContours(bright, nesting, cv2.CHAIN_APPROX_SIMPLE)
        if contours == "largest" and shapes:
            shapes = [max(shapes, key=cv2.contourArea)]
        found += [cv2.boundingRect(shape) for shape in shapes] or [(0, 0, 0, 0)]
    rectangles = np.array(found, np.int64)
    rectangles[:, 2:] = np.minimum(rectangles[:, :2] + rectangles[:, 2:], size - 1)
    return rectangles, np.array(starts)


def _overlaps(one: Boxes, other: Boxes) -> Array:
    """Intersection over union `[n, m]` of boxes `[n, 4]` and `[m, 4]`, xyxy, right and bottom inclusive."""
    a, b = one[:, None], other[None]
    common = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1, 0).prod(-1)
    return np.asarray(common / ((a[..., 2:] - a[..., :2] + 1).prod(-1) + (b[..., 2:] - b[..., :2] + 1).prod(-1) - common))


def _curves(count: Array, sums: Array, names: Sequence[str]) -> Sequence[Curve]:
    values = accuracy(count.sum(keepdims=True), sums.sum(0, keepdims=True))[0][:, LEVEL]
    return [
        Curve(name, THRESHOLDS, y, "threshold (share of the maximum)", "box accuracy (%)") for name, y in zip(names, values, strict=True)
    ]


def _check(resolution: int, contours: str) -> None:
    if resolution < 1 or contours not in get_args(Contours):
        raise OptionError(f"expected resolution ≥ 1 and contours 'largest' or 'all'; got {resolution} and {contours!r}.")
