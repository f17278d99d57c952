"""What each channel of a layer has to do with a class: by its gradient, by what its mask leaves of the score, and by the head's weight.

The argument of Score-CAM (Wang et al., CVPR Workshops 2020, section 3.1): a channel with a large gradient weight may hold a region that
says little for the class when it is all that is left of the image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lucidcam.dissection import sheets
from lucidcam.dissection.query import asked
from lucidcam.dissection.sheets import Order
from lucidcam.engine.run import Run
from lucidcam.errors import LayerError, ModelError, OptionError, TargetError
from lucidcam.methods._base import spatial_mean
from lucidcam.methods._channels import Channels as Masks
from lucidcam.methods.cam import head_weights
from lucidcam.metrics.sanity import spearman
from lucidcam.perturb.baselines import baseline as replacing
from lucidcam.reprs import OneLineRepr
from lucidcam.types import Frame, Model
from lucidcam.utils.rollback import closes_scopes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group

ROUNDING = 8
"""Values that differ by so many units in the last place of the largest one are equal but for rounding."""


@dataclass(frozen=True)
class Channel(OneLineRepr):
    """One channel of a layer, for one image and class.

    Attributes:
        index: its number in the layer, from 0.
        gradient: Grad-CAM's weight `α_k`, the mean over the grid of the score's gradient (Selvaraju et al. 2017, Eq. 1).
        cam: the head's weight `w_k` for the class (Zhou et al. 2016); None: the network has no such head at this layer.
        peak: the largest activation.
        share: `α_k Σ A_k`, what it adds to Grad-CAM's map, as a share of the sum of all channels' magnitudes, in [−1, 1].
        alone: the score of the image masked by it, `f(X∘H_k + X_b∘(1−H_k))`; None: that was not run.
        increase: the increase of confidence `C(A_k) = alone − f(X_b)` (Wang et al. 2020, Eq. 5); None: that was not run.
        here: `α_k A_k` at the pixel asked for, as a share of the sum of all channels' magnitudes there, in [−1, 1]; None: none was.
        misleads: whether gradient and mask tell different things of it: it is at the top by one and in the lower half by the other.
    """

    index: int
    gradient: float
    cam: float | None
    peak: float
    share: float
    alone: float | None = None
    increase: float | None = None
    here: float | None = None
    misleads: bool = False

    def value(self, by: Order) -> float | None:
        """What it is ordered by; None: not known."""
        found: float | None = getattr(self, by)
        return found


@dataclass(frozen=True, eq=False)
class Channels(OneLineRepr):
    """The live channels of a layer for one image and class.

    Attributes:
        rows: those whose activations are not constant, in the layer's order; a constant channel masks nothing, and says no place.
        maps: their activations `[l, h, w]`, in the same order.
        image: the photo.
        frame: where in the photo the network's input lies.
        name: the photo's.
        target: class id, or None where the target is not one class.
        label: the target in words.
        score: of the whole image, `f(X)`.
        floor: of the baseline, `f(X_b)`; None: no mask was run.
        probability: of the class, or None where the target is not one class.
        layer: dotted name.
        count: channels of the layer, constant ones too.
        passes: masked images that were run; channels with equal masks share one.
        baseline: what masked pixels are replaced by.
        at: the pixel asked for (x, y), or None.
        shown: rows of each order in tables and pictures.
    """

    rows: tuple[Channel, ...]
    maps: Tensor = field(repr=False)
    image: Image.Image = field(repr=False)
    frame: Frame
    name: str
    target: int | None
    label: str
    score: float
    floor: float | None
    probability: float | None
    layer: str
    count: int
    passes: int
    baseline: str | float
    at: tuple[float, float] | None
    shown: int

    @property
    def orders(self) -> tuple[Order, ...]:
        """What these channels can be ordered by, first what was asked for."""
        every: tuple[Order, ...] = ("here", "gradient", "increase", "cam")
        return tuple(by for by in every if any(row.value(by) is not None for row in self.rows))

    def top(self, by: Order = "gradient", count: int | None = None) -> tuple[Channel, ...]:
        """The channels with the largest values, largest first.

        Args:
            by: "gradient", "increase", "cam" or "here".
            count: how many; None: as many as are shown.

        Raises:
            OptionError: nothing is known by which to order them so.
        """
        if by not in self.orders:
            raise OptionError(f"these channels cannot be ordered by {by!r}; by {', '.join(self.orders)}.")
        found = [(value, -row.index, row) for row in self.rows if (value := row.value(by)) is not None]
        return tuple(row for *_, row in sorted(found, key=lambda each: each[:2], reverse=True)[: self.shown if count is None else count])

    def activation(self, index: int) -> Tensor:
        """Activations `[h, w]` of a channel by its number in the layer.

        Raises:
            OptionError: it is constant, or there is none.
        """
        for place, row in enumerate(self.rows):
            if row.index == index:
                return self.maps[place]
        raise OptionError(f"channel {index} is none of the {len(self.rows)} live ones of {self.layer}'s {self.count}.")

    @property
    def run(self) -> tuple[Channel, ...]:
        """The channels whose increase of confidence is known."""
        return tuple(row for row in self.rows if row.increase is not None)

    @property
    def misleading(self) -> tuple[Channel, ...]:
        """The channels at the top by gradient and in the lower half by increase of confidence, or the other way round.

        Largest gradient weight first. The top are as many as are shown, but no more than a quarter of the channels that were run; values
        that differ from the middle one by no more than rounding count for neither.
        """
        return tuple(sorted((row for row in self.rows if row.misleads), key=lambda row: -row.gradient))

    def agreement(self, one: Order = "gradient", other: Order = "increase") -> float | None:
        """Spearman's correlation of two orders, −1 to 1, over the channels that are in both; None: fewer than three are."""
        pairs = [(a, b) for row in self.rows if (a := row.value(one)) is not None and (b := row.value(other)) is not None]
        if len(pairs) < 3:
            return None
        first, second = torch.tensor(pairs, dtype=torch.float64).T.contiguous()
        return float(spearman(first[None], second[None]))

    def table(self) -> Group:
        """The top channels by each order, for a terminal of 80 columns."""
        return sheets.table(self)

    def picture(self, count: int = 5) -> Image.Image:
        """The top channels by each order: each one's map over the photo, with its numbers.

        Args:
            count: how many in a row.

        Raises:
            OptionError: fewer than one.
        """
        if count < 1:
            raise OptionError(f"expected at least 1 channel in a row; got {count}.")
        return sheets.picture(self, count)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, for JSON."""
        return {
            "image": self.name,
            "label": self.label,
            "id": self.target,
            "score": self.score,
            "probability": self.probability,
            "layer": self.layer,
            "channels": self.count,
            "live": len(self.rows),
            "masks": self.passes,
            "baseline": self.baseline,
            "baseline_score": self.floor,
            "at": None if self.at is None else list(self.at),
            "agreement": {
                "gradient, increase": self.agreement(),
                "gradient, cam": self.agreement("gradient", "cam"),
                "cam, increase": self.agreement("cam", "increase"),
            },
            "misleading": [row.index for row in self.misleading],
            "top": {by: [row.index for row in self.top(by)] for by in self.orders},
            "rows": [asdict(row) for row in self.rows],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a `.json` or a `.png`; anything else is a folder, that gets `channels.json` and `channels.png`.

        Returns:
            The path.
        """
        return sheets.save(path, "channels", self.name, self.to_dict, self.picture)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return sheets.png(self.picture())


@closes_scopes
def channels(
    model: Model,
    image: Any,
    target: Any = None,
    layer: Any = None,
    *,
    top: int = 8,
    at: tuple[float, float] | None = None,
    increase: bool = True,
    budget: int = 0,
    baseline: str | float = "zeros",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Channels:
    """Weigh a layer's channels for one image and class in three ways: by gradient, by increase of confidence, by the head.

    Takes one forward pass with gradients, one to see the head, and a forward pass for each live channel's mask.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        image: a photo as for `lucidcam.explain`.
        target: one class, by id or label, or a target object; None: the predicted class. What is weighed is its score, the logit.
        layer: a dotted name; None: the model's own, or the last spatial layer.
        top: rows of each order in tables and pictures.
        at: (x, y), a pixel of the photo: also what each channel says there.
        increase: False: no masks are run, so that `increase` and `alone` stay unknown: what a single pass tells.
        budget: masks that are run at most: first of channels that lead by what else is known (at the pixel, by gradient, by the head, by
            the spread of their activations), in turn. 0: every live channel's.
        baseline: what masked pixels are replaced by, as for `scorecam`: "zeros" in pre-processed space, "mean", "blur", or a number.
        batch_size: masked images at a time; None: what fits well.
        progress: a bar for what takes longer than two seconds; None: in a terminal or notebook.

    Raises:
        LayerError: the layer's maps are not `[h, w]`.
        OptionError: a value outside its range.
        LucidcamError: as for `lucidcam.explain`.

    Example:
        >>> import torch, lucidcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten(), torch.nn.Linear(8, 10))
        >>> model = lucidcam.wrap(net, lucidcam.imaging.preprocess.Preprocess(size=(32, 32)))
        >>> found = channels(model, torch.rand(3, 40, 40), 3, top=2)
        >>> len(found.top("gradient")), found.orders
        (2, ('gradient', 'increase', 'cam'))
    """
    if not (isinstance(top, int) and isinstance(budget, int) and top >= 1 and budget >= 0):
        raise OptionError(f"expected whole numbers top ≥ 1 and budget ≥ 0; got {top!r} and {budget!r}.")
    if at is not None:
        at = _pixel(at)
    replacing(torch.zeros(1, 1, 1, 1), baseline)  # a name that is none is told before any work
    with asked(model, image, target, layer, batch_size=batch_size, progress=progress) as (run, prepared):
        capture = run.capture(gradients=True)
        if capture.activations.ndim != 5:
            raise LayerError(
                f"the layer {run.layer.name!r} has maps of {capture.activations.ndim - 3} axes; channels are shown for photos."
            )
        activations, gradients = capture.activations[0, 0], spatial_mean(capture.gradients)[0, 0]
        # Found as Score-CAM finds them: its masks come in the order of the live channels.
        flat = activations.flatten(1)
        live = (flat.amax(1) > flat.amin(1)).nonzero()[:, 0]
        evidence = gradients * flat.sum(1)
        heads = _heads(run)
        spot = None if at is None else gradients * _at(activations, prepared.frame, at)
        leaders = [spot.abs() if spot is not None else None, gradients, heads, flat.amax(1) - flat.amin(1)]
        alone, floor, passes = torch.full_like(gradients, torch.nan), None, 0
        if increase and len(live):
            chosen = _in_turn([order[live] for order in leaders if order is not None], budget or len(live))
            floor, passes = _masked(run, baseline, live, chosen, alone)
        bound, scores = run.bound.on_host(), run.clean_scores()
        probability = None
        if bound.ids is not None:
            probability = run.class_probability(0, int(bound.ids[0, 0]))
        shares, spots = _shares(evidence), None if spot is None else _shares(spot)
        misleading = set() if floor is None else _misleading(gradients, alone, top)
        rows = tuple(
            Channel(
                k,
                float(gradients[k]),
                None if heads is None else float(heads[k]),
                float(flat[k].max()),
                float(shares[k]),
                None if floor is None or alone[k].isnan() else float(alone[k]),
                None if floor is None or alone[k].isnan() else float(alone[k]) - floor,
                None if spots is None else float(spots[k]),
                k in misleading,
            )
            for k in live.tolist()
        )
        return Channels(
            rows,
            activations[live].float().cpu(),
            prepared.image,
            prepared.frame,
            prepared.name,
            None if bound.ids is None else int(bound.ids[0, 0]),
            bound.name(0, 0, model.label),
            float(scores[0, 0]),
            floor,
            probability,
            run.layer.name,
            len(activations),
            passes,
            baseline,
            at,
            top,
        )


def _heads(run: Run) -> Tensor | None:
    """The head's weights `[C]`; None where the network has none over this layer."""
    try:
        return head_weights(run)[0, 0]
    except (ModelError, TargetError):
        return None


def _masked(run: Run, baseline: str | float, live: Tensor, chosen: Sequence[int], alone: Tensor) -> tuple[float, int]:
    """Score the images that the chosen of the live channels leave, into `alone` `[C]`.

    Returns:
        The baseline's score, and how many masked images were run.
    """
    masks = Masks.of(run, baseline)
    [image] = masks.images
    picked = torch.tensor(chosen, device=live.device)
    used, mask_of = torch.unique(image.mask_of[picked], return_inverse=True)
    scores = masks.scores("increase", image.masks[used])[:, 0]
    alone[live[picked]] = scores[mask_of].to(alone)
    return float(masks.floor("increase")[0, 0]), len(used)


def _in_turn(orders: Sequence[Tensor], count: int) -> list[int]:
    """The first `count` places when each order, by falling value, names its next one in turn."""
    queues = [order.argsort(descending=True, stable=True).tolist() for order in orders]
    found = dict.fromkeys(place for turn in zip(*queues, strict=True) for place in turn)
    return list(found)[:count]


def _misleading(gradients: Tensor, alone: Tensor, top: int) -> set[int]:
    """Channels at the top by gradient `[C]` and in the lower half by score of their masks `[C]`, or the other way round.

    Scores that were not run are NaN.
    """
    run = (~alone.isnan()).nonzero()[:, 0]
    if not len(run):
        return set()
    most = min(top, len(run) // 4)
    above, below = [], []
    for values in (gradients[run], alone[run]):
        away = values.double() - values.double().quantile(0.5)
        away[away.abs() <= ROUNDING * torch.finfo(values.dtype).eps * values.abs().max()] = 0
        leads = torch.zeros_like(away, dtype=torch.bool).index_fill_(0, values.argsort(descending=True, stable=True)[:most], True)
        above.append(leads & (away > 0))
        below.append(away < 0)
    found = (above[0] & below[1]) | (above[1] & below[0])
    return set(run[found].tolist())


def _shares(values: Tensor) -> Tensor:
    total = values.abs().sum()
    return values / total if total > 0 else torch.zeros_like(values)


def _pixel(at: Any) -> tuple[float, float]:
    """A pixel as two numbers.

    Raises:
        OptionError: it is none.
    """
    try:
        x, y = (float(each) for each in at)
    except (TypeError, ValueError):
        raise OptionError(f"expected a pixel (x, y) of the photo; got {at!r}.") from None
    return x, y


def _at(activations: Tensor, frame: Frame, at: tuple[float, float]) -> Tensor:
    """Activations `[C]` at a pixel of the photo, linear between the grid's centres.

    Raises:
        OptionError: the network does not see that pixel.
    """
    x, y = at
    left, top, right, bottom = (round(side) for side in frame.box)
    inside = 0 <= x < frame.width and 0 <= y < frame.height
    if not (inside and left <= x < right and top <= y < bottom):
        seen = f"x from {max(left, 0)} to {min(right, frame.width) - 1}, y from {max(top, 0)} to {min(bottom, frame.height) - 1}"
        raise OptionError(f"expected a pixel that the network sees ({seen}); got ({x:g}, {y:g}).")
    place = [2 * (x + 0.5 - left) / (right - left) - 1, 2 * (y + 0.5 - top) / (bottom - top) - 1]
    activations = frame.upright(activations)
    grid = torch.tensor(place, dtype=activations.dtype, device=activations.device).reshape(1, 1, 1, 2)
    found: Tensor = F.grid_sample(activations[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0, 0]
