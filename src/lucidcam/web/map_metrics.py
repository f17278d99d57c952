"""How far a shown map can be believed: what the network says of the photo when the map's places are kept, taken away or put in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucidcam.engine.run import open_run
from lucidcam.errors import TargetError
from lucidcam.imaging.explanation import Explanation
from lucidcam.metrics._base import Batch, FaithfulnessMetric, explainer
from lucidcam.metrics.average_drop import AverageDrop, IncreaseInConfidence
from lucidcam.metrics.deletion import Deletion, Insertion
from lucidcam.types import Model, Prepared
from lucidcam.utils.progress import Listener, listening
from lucidcam.utils.rollback import closes_scopes

STEPS = 56
"""Points of each curve unless told otherwise: a quarter of the paper's 224, for a quarter of the wait."""

MOST_STEPS = 224
"""Points of each curve at most: the paper's."""


@dataclass(frozen=True)
class Verdict:
    """What one metric says of one map.

    Attributes:
        name: of the metric.
        value: its main figure.
        unit: "%" or "".
        higher_is_better: else lower is.
        curve: what it was read from, `steps + 1` probabilities; empty where it has none.
    """

    name: str
    value: float
    unit: str
    higher_is_better: bool
    curve: tuple[float, ...] = ()


@closes_scopes
def judge(model: Model, prepared: Prepared, explanation: Explanation, tell: Listener, steps: int = STEPS) -> list[Verdict]:
    """Average drop, increase in confidence, deletion and insertion of one map.

    Args:
        model: the network.
        prepared: the photo as it gets it.
        explanation: the map, of one class.
        tell: how far it is, in [0, 1]; what it raises ends the work.
        steps: of the two curves.

    Raises:
        TargetError: the map is not of one class: the metrics ask for a probability.
    """
    if explanation.target is None:
        raise TargetError("these metrics judge the map of one class; take the comparison with another class away first.")
    metrics: list[FaithfulnessMetric] = [AverageDrop(), IncreaseInConfidence(), Deletion(steps=steps), Insertion(steps=steps)]
    inputs = prepared.tensor[None].to(model.device, model.dtype)
    verdicts = []
    with open_run(model.module, inputs, explanation.target, title="judging", progress=False, stated=model.class_scores) as run:
        batch = Batch(run, explanation.raw[None].to(run.image.device), explainer("judging", None), black(model), ("0",))
        for number, metric in enumerate(metrics):
            with listening(lambda share, number=number: tell(None if share is None else (number + share) / len(metrics))):  # type: ignore[misc]
                values = metric.measure(batch).cpu().double().numpy()
            figure = metric.figures[0]
            value = float(metric.compute(np.ones((1, 1)), values[None])[figure.name][0])
            curve = tuple(values[0].tolist()) if values.shape[1] > 1 else ()
            verdicts.append(Verdict(figure.name, value, figure.unit, bool(figure.higher_is_better), curve))
            tell((number + 1) / len(metrics))
    return verdicts


def black(model: Model) -> Tensor:
    """What a black pixel is in the network's input space, `[C]`."""
    tensor = model.prepare([Image.new("RGB", (256, 256))])[0].tensor
    return tensor.flatten(1).mean(1).to(model.device, model.dtype if model.dtype.is_floating_point else torch.float32)
