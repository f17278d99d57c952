"""PxAP (Choe et al., CVPR 2020): average precision of the map's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lucidcam.errors import OptionError
from lucidcam.metrics._base import Array, Curve, Figure, Record, divide, register
from lucidcam.metrics._canvas import THRESHOLDS, score_map
from lucidcam.metrics._localization import LocalizationMetric, Located
from lucidcam.samples import Mask

EDGES = np.append(THRESHOLDS, [1.0, 2.0])
"""Of the histograms' bins: `[0, .001), [.001, .002), …, [.999, 1), [1, 2]`."""
BINS = len(EDGES) - 1


@register("pxap")
@dataclass(frozen=True, kw_only=True)
class PxAP(LocalizationMetric):
    """Area under the precision-recall curve of all pixels of the data set (Choe 2020): `100 · Σ_l P(τ_l) · (R(τ_l) − R(τ_{l+1}))`.

    A pixel is predicted at `s ≥ τ`, where the score map `s` is the raw map, resized bicubically to `resolution` × `resolution` and
    min-maxed; masks are brought there by the nearest pixel. Pixels to be ignored do not count,
    unless they belong to the object. Classes of which an object has no mask do not count.

    Attributes:
        resolution: pixels per side of the canvas for maps and masks.
    """

    figures = (Figure("pxap", "%"),)
    paper = "Choe 2020"
    needs = "masks"

    resolution: int = 224

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise OptionError(f"expected resolution ≥ 1; got {self.resolution}.")

    def measure(self, image: Sequence[Located]) -> Sequence[Record]:
        """See `LocalizationMetric.measure`."""
        return [self._record(view) for view in image if view.objects and all(each.mask is not None for each in view.objects)]

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """See `Metric.compute`."""
        precision, recall = precision_recall(sums.sum(0))
        # A bin above every score has no precision and gains no recall.
        return {"pxap": 100 * (np.nan_to_num(precision) * np.diff(recall, axis=1, prepend=0)).sum(1)}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """See `Metric.curves`."""
        precision, recall = precision_recall(sums.sum(0)[None])
        return [Curve("pxap", recall[0], precision[0], "recall", "precision")]

    def _record(self, view: Located) -> Record:
        """Histograms of the scores inside and outside the mask."""
        scores = score_map(view, self.resolution)
        inside = _resized(view.region, self.resolution)
        outside = ~inside if view.ignore is None else ~inside & ~_resized(view.ignore(), self.resolution)
        return Record(np.concatenate([np.histogram(scores[each], EDGES)[0] for each in (inside, outside)]).astype(np.float64))


def precision_recall(sums: Array) -> tuple[Array, Array]:
    """Precision and recall `[R, BINS]`, from the highest threshold to the lowest, from sums of histograms `[R, 2 · BINS]`."""
    right, wrong = (np.cumsum(each[:, ::-1], axis=1) for each in (sums[:, :BINS], sums[:, BINS:]))
    return divide(right, right + wrong), divide(right, right[:, -1:])


def _resized(mask: Mask, size: int) -> Mask:
    """The nearest pixels, as in `cv2.INTER_NEAREST`."""
    rows, columns = (np.minimum((np.arange(size) * (1 / (size / length))).astype(np.int64), length - 1) for length in mask.shape)
    return np.asarray(mask[np.ix_(rows, columns)])
