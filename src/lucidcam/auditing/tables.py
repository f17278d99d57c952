"""What an audit counts of every image: classes, confusions, labels that occur together, confidence against truth and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lucidcam.stats.contingency import RESAMPLES, SHARE, Estimate, estimate
from lucidcam.stats.interval import LEVEL

BINS = 10
"""Of confidence."""


@dataclass(frozen=True)
class Fact:
    """One image, asked for one class.

    Attributes:
        name: of the image.
        label: the class asked for.
        id: its id.
        probability: of it.
        predicted: the class that scores highest.
        confidence: its probability.
        inside: share of the map's energy on the class's own objects; None: none is marked.
        attention: share of the map's energy on the objects of other classes, by label.
    """

    name: str
    label: str
    id: int
    probability: float
    predicted: int
    confidence: float
    inside: float | None
    attention: Mapping[str, float] = field(default_factory=dict)


def classes(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Each class: how many images, how often it is the prediction, its probability and the energy on its objects."""
    found = []
    for label, some in _by_label(facts).items():
        inside = [each.inside for each in some if each.inside is not None]
        found.append(
            {
                "label": label,
                "id": some[0].id,
                "images": len(some),
                "predicted": float(np.mean([each.predicted == each.id for each in some])),
                "probability": float(np.mean([each.probability for each in some])),
                "inside": estimate(inside, SHARE) if inside else None,
            }
        )
    return sorted(found, key=lambda row: -row["images"])


def together(facts: Sequence[Fact], labels: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Labels that occur in one image, with the attention that the maps of the first give to the objects of both.

    Args:
        facts: of all images.
        labels: of each image, by name.
    """
    found = []
    for first, some in _by_label(facts).items():
        beside: dict[str, list[Fact]] = {}
        for each in some:
            for label in labels.get(each.name, ()):
                if label != first:
                    beside.setdefault(label, []).append(each)
        for second, pairs in beside.items():
            own = [each.inside for each in pairs if each.inside is not None]
            other = [each.attention[second] for each in pairs if second in each.attention]
            found.append(
                {
                    "label": first,
                    "beside": second,
                    "images": len(pairs),
                    "share": len(pairs) / len(some),
                    "attention_own": float(np.mean(own)) if own else None,
                    "attention_beside": float(np.mean(other)) if other else None,
                }
            )
    return sorted(found, key=lambda row: -row["images"])


def confusions(facts: Sequence[Fact]) -> dict[tuple[str, int], list[Fact]]:
    """Images that are taken for another class: by their own label and the class that is predicted, most first."""
    found: dict[tuple[str, int], list[Fact]] = {}
    for each in facts:
        if each.predicted != each.id:
            found.setdefault((each.label, each.predicted), []).append(each)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def calibration(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Confidence in bins, beside how often the prediction is right and how much of the map lies on the object."""
    found = []
    confidence = np.array([each.confidence for each in facts])
    which = _bins(confidence)
    for number in range(BINS):
        some = [each for each, bin in zip(facts, which, strict=True) if bin == number]
        inside = [each.inside for each in some if each.inside is not None]
        if some:
            found.append(
                {
                    "from": number / BINS,
                    "to": (number + 1) / BINS,
                    "images": len(some),
                    "confidence": float(np.mean([each.confidence for each in some])),
                    "accuracy": float(np.mean([each.predicted == each.id for each in some])),
                    "inside": float(np.mean(inside)) if inside else None,
                }
            )
    return found


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart.

    Attributes:
        error: expected calibration error (Naeini et al., AAAI 2015), without what chance adds to it.
        gap: mean confidence minus accuracy.
        counted: the error as it is counted, with what chance adds.
        chance: what a perfectly calibrated network stays below on images of these confidences, 19 times of 20.
    """

    error: Estimate
    gap: Estimate
    counted: float
    chance: float


def calibration_error(facts: Sequence[Fact], seed: int = 0) -> Calibration:
    """The expected calibration error, beside that of a perfectly calibrated network.

    Noise in a bin counts as error whatever its sign, so a perfectly calibrated network has an error too, the larger the fewer images
    there are. How large it may be is drawn: each image is right with its confidence as the probability (consistency resampling: Bröcker
    and Smith, Weather and Forecasting 2007). From each bin's squared gap the variance that it would have then is subtracted (as Kumar et
    al., NeurIPS 2019, have it); what noise still adds to bootstrap samples is taken from their interval.
    """
    confidence = np.array([each.confidence for each in facts])
    right = np.array([each.predicted == each.id for each in facts], float)
    noise = confidence * (1 - confidence)
    which, count = _bins(confidence), len(facts)
    rng = np.random.default_rng(seed)

    def counted(right: Any) -> float:
        return float(np.abs(np.bincount(which, confidence - right, BINS)).sum() / count)

    def error(rows: Any) -> float:
        gap, chance = (np.bincount(which[rows], values[rows], BINS) for values in (confidence - right, noise))
        return float(np.sqrt(np.maximum(gap**2 - chance, 0)).sum() / count)

    found = error(np.arange(count))
    drawn = np.array([error(rng.integers(0, count, count)) for _ in range(RESAMPLES // 4)])
    low, high = np.quantile(drawn, [0.025, 0.975]) - (drawn.mean() - found)
    chance = np.quantile([counted(rng.random(count) < confidence) for _ in range(RESAMPLES // 4)], LEVEL)
    gap = estimate(confidence - right)
    # The error is at least as large as the gap, so what the gap may be, the error may be, too: also where all images are right.
    high = np.nanmax([found, high, abs(gap.low), abs(gap.high)])
    whole = Estimate(found, min(found, max(0.0, float(low))), float(high), count)
    return Calibration(whole, gap, counted(right), float(chance))


def _bins(confidence: Any) -> Any:
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def _by_label(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for each in facts:
        found.setdefault(each.label, []).append(each)
    return found
