"""Class activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lucidcam.engine.capture import Copies, Cut, gradients_of
from lucidcam.engine.foreign import says_nothing
from lucidcam.engine.head import Head
from lucidcam.engine.pooling import Pool, matching, maximum, mean, same, tolerance, total
from lucidcam.engine.run import Run
from lucidcam.engine.thread_state import Mode, Restored
from lucidcam.errors import LucidcamError, ModelError, TargetError
from lucidcam.methods._base import CHANNELS, Method, register, weighted_sum
from lucidcam.targets import logits

GRADIENT_NUMBERS = 2**24
"""Numbers in the gradients that are taken at a time."""

FARTHER = 16
"""How many times as large as the layer's own are activations at which an affine function must hold, too."""

Read = Callable[[Any], Tensor]
"""From a module's outputs to scores `[n, N]`."""


@register("cam")
@dataclass(frozen=True, kw_only=True)
class CAM(Method):
    """Head weights as channel weights: `M_c = Σ_k w_k^c A_k` (Zhou et al. 2016, Eq. 2). Signed.

    For networks whose class scores are an affine function of the layer's globally pooled activations, which is checked by value. After
    average pooling `Σ_xy M_c / Z + b_c = Y^c`; after sum pooling, the paper's `F_k = Σ_xy f_k`, `Σ_xy M_c + b_c = Y^c`. The head may be a
    linear layer, a 1×1 convolution before the pooling, or anything that is affine: a mean of several heads, a temperature, a slice.
    Where a ReLU without a module of its own stands between the layer and the pooling (DenseNet), it is applied, so that the identity holds.

    Networks that end in global maximum or log-sum-exp pooling and one linear layer get the same map, as in the paper's comparison; it
    does not sum to the score then, nor does it where a ReLU clips the class maps of a 1×1 convolution before they are pooled (SqueezeNet).

    Raises:
        ModelError: when the scores are no such function.
    """

    kind = "activation"
    paper = "Zhou 2016"

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        weights, activations = _weighing(run)
        return weighted_sum(weights, activations)


def head_weights(run: Run) -> Tensor:
    """What CAM weighs the layer's channels with, `[B or 1, T, C]`.

    Raises:
        ModelError: when the head is none that CAM is defined for, as of that layer.
        TargetError: for a target that is not made of class scores.
    """
    return _weighing(run)[0]


def _weighing(run: Run) -> tuple[Tensor, Tensor]:
    """Channel weights `[B or 1, T, C]` of each target, and the activations `[B, 1, C, *grid]` that they weigh.

    Raises:
        ModelError: when the scores are no affine function of the pooled activations.
    """
    head = run.head()
    activations = run.capture().activations
    scores = _class_scores(run)
    if head is not None and scores is not None:
        entering = _entering(run, head, activations[:, 0])
        if entering is not None:
            return _weights(run, head.weight.detach().to(activations.dtype)), entering.unsqueeze(1)
    weights = None if scores is None else _by_class(run, scores, activations[:, 0])
    if weights is None:
        weights = _by_target(run, activations[:, 0])
    if weights is not None:
        return weights[0], weights[1].unsqueeze(1)
    raise ModelError(
        f"CAM needs global average pooling and one linear layer on top of {run.layer.name!r} ({activations.shape[CHANNELS]} channels): "
        "the scores must be an affine function of its pooled activations, and they are not (a hidden layer, a softmax, a normalisation or "
        "another branch decides, too). Choose the layer that is pooled, use gradcam (any head), or retrain with such a head."
    )


def _class_scores(run: Run) -> Tensor | None:
    """The class scores `[B, K]`, where the target is read from them."""
    outputs = run.outputs()
    if run.bound.ids is None and not isinstance(outputs, Tensor):
        return None
    try:
        return run.class_columns()
    except TargetError:
        return None


# --------------------------------------------------------------------------------------- a head whose output is the class scores


def _entering(run: Run, head: Head, activations: Tensor) -> Tensor | None:
    """The activations `[B, C, *grid]` as they enter the head: those of the layer, or their ReLU; None: neither."""
    fits: list[tuple[Tensor, Pool | None]] = []
    rectified = torch.relu(activations)
    for entering in (activations, rectified):
        if head.input.ndim > 2:
            if same(entering, head.input):
                fits.append((entering, None))
        elif (pool := matching(entering, head.input)) is not None:
            fits.append((entering, pool))
    if len(fits) < 2 or torch.equal(activations, rectified):
        return fits[0][0] if fits else None
    if fits[0][1] is None:  # the map itself enters: negative numbers are too small to count
        return activations
    # Both fit, so that these images do not tell whether there is a ReLU (of a maximum, a positive one hides it): negative activations do.
    negative = -_probe(activations)
    scores = _scores(run, negative, _columns)
    if scores is None:
        return None
    for entering, pool in fits:
        assert pool is not None
        pooled = pool(negative if entering is activations else torch.relu(negative))
        expected = torch.nn.functional.linear(pooled.to(head.weight.dtype), head.weight, head.bias)
        if same(scores, expected.to(scores.dtype)):
            return entering
    return None


def _weights(run: Run, weight: Tensor) -> Tensor:
    """Channel weights `[B or 1, T, C]` of each target: those of its class, or what the chain rule makes of the classes'."""
    bound = run.bound
    if bound.logit and bound.ids is not None and len(weight) > 1:  # a single column stands for two classes
        ids = bound.ids[:, run.targets]
        if ids.stride(0) == 0 or len(ids) == 1:  # the same classes for every image: nothing to gather
            return weight[ids[:1]] if ids.shape[1] < len(weight) else weight.unsqueeze(0)
        return weight[ids]
    with torch.enable_grad(), Copies():  # a target may hold tensors of inference mode
        scores_of = run.class_columns().detach().to(weight.dtype).requires_grad_()
        chosen = bound.scores(scores_of)[:, run.targets].sum(0)
        if not chosen.requires_grad:
            raise TargetError("the target does not depend on the class scores through differentiable operations.")
        by_class = torch.stack([torch.autograd.grad(score, scores_of, retain_graph=True)[0] for score in chosen], dim=1)
    return by_class @ weight


# -------------------------------------------------------------------------------- scores that are an affine function in another way


@dataclass(frozen=True)
class _Affine:
    """Scores as an affine function of pooled activations.

    Attributes:
        weight: `[N, C]`, of the pooled activations.
        offset: `[N]`.
        rectified: whether a ReLU comes before the pooling.
        pool: the pooling.
        scale: what channel weights are of `weight`: 1, or 1/Z where the network sums over the grid.
    """

    weight: Tensor
    offset: Tensor
    rectified: bool
    pool: Pool
    scale: float

    def entering(self, activations: Tensor) -> Tensor:
        """What is pooled."""
        return torch.relu(activations) if self.rectified else activations

    def holds(self, activations: Tensor, scores: Tensor, loose: float) -> Tensor:
        """For which images `[B]` the scores `[B, N]` are this function of the activations `[B, C, *grid]`."""
        features = self.pool(self.entering(activations)).to(self.weight)
        size = features.abs() @ self.weight.abs().t() + self.offset.abs()
        return ((features @ self.weight.t() + self.offset - scores.to(self.weight)).abs() <= loose * size).all(1)


def _by_class(run: Run, scores: Tensor, activations: Tensor) -> tuple[Tensor, Tensor] | None:
    """Channel weights from those of the class scores that the target is made of, and what they weigh."""
    bound = run.bound
    if not (bound.logit and bound.ids is not None) or scores.shape[1] == 1:  # a single column stands for two classes
        affine = _fit(run, 0, activations, _columns)
        if affine is None or not bool(affine.holds(activations, scores, tolerance(scores.dtype)).all()):
            return None
        return _weights(run, affine.weight * affine.scale), affine.entering(activations)
    ids = bound.ids[:, run.targets]
    classes, columns = torch.unique(ids, return_inverse=True)
    affine = _fit(run, 0, activations, lambda outputs: _columns(outputs)[:, classes])
    if affine is None or not bool(affine.holds(activations, scores[:, classes], tolerance(scores.dtype)).all()):
        return None
    return (affine.weight * affine.scale)[columns], affine.entering(activations)


def _by_target(run: Run, activations: Tensor) -> tuple[Tensor, Tensor] | None:
    """Channel weights from the targets' own scores, which may be read from any output and differ between images."""
    scores = run.clean_scores()
    loose = tolerance(_floating(run.outputs(), scores.dtype))
    weights = activations.new_zeros(*scores.shape, activations.shape[1])
    entering = activations
    left = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    while bool(left.any()):
        row = int(left.nonzero()[0, 0])
        affine = _fit(run, row, activations, partial(run.read, row=row))
        if affine is None:
            return None
        holds = affine.holds(activations, scores, loose) & left
        if not bool(holds[row]):
            return None
        weights[holds] = affine.weight * affine.scale
        if affine.rectified:
            entering = affine.entering(activations)
        left &= ~holds
    return weights, entering


def _columns(outputs: Any) -> Tensor:
    """The columns of class scores of one image."""
    return logits(outputs, 1)


def _floating(outputs: Any, default: torch.dtype) -> torch.dtype:
    return outputs.dtype if isinstance(outputs, Tensor) and outputs.is_floating_point() else default


def _fit(run: Run, row: int, activations: Tensor, read: Read) -> _Affine | None:
    """The affine function that gives scores from the pooled activations, taken from activations of our own; None: there is none.

    Its weights are the gradients there, summed over the grid. It must hold at other activations, too, whose signs are those of the
    layer; a piecewise linear head, a norm or a softmax does not stand that.
    """
    positive = _probe(activations)
    signed = bool(activations.min() < 0)
    others = _contrasts(positive, signed)
    sums = _Sums(positive)
    try:
        with Restored(), sums:
            done = run.replaced(row, positive, gradients=True)
        with torch.enable_grad():
            scores = read(done.outputs)
            weight = _summed_gradients(scores, done.cuts[0], positive)
        expected = [read(run.replaced(row, other).outputs) for other in others]
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, LucidcamError) as error:
        if says_nothing(error):
            raise
        return None
    if not bool(weight.any()):
        return None
    pixels = positive[0, 0].numel()
    for pool in (mean, maximum):
        for rectified in (False, True) if signed else (False,):
            offset = scores.detach()[0].to(weight) - weight @ pool(positive)[0].to(weight)
            scale = 1 / pixels if pool is mean and sums.are_taken else 1.0
            affine = _Affine(weight, offset, rectified, pool, scale)
            if all(bool(affine.holds(*pair, tolerance(scores.dtype))) for pair in zip(others, expected, strict=True)):
                return affine
    return None


def _summed_gradients(scores: Tensor, cut: Cut, like: Tensor) -> Tensor:
    """Gradients `[N, C]` of scores `[1, N]` with respect to a layer's activations, summed over the grid."""
    step = max(1, GRADIENT_NUMBERS // like.numel())
    parts = [gradients_of(scores[:, i : i + step], [cut])[0][0] for i in range(0, scores.shape[1], step)]
    return torch.cat([total(part.to(like.dtype)) for part in parts])


class _Sums(Mode):
    """Watches whether the network sums activations over the grid (Zhou et al.: `F_k = Σ_xy f_k`) or averages them.

    Attributes:
        are_taken: it sums them, and never averages them.
    """

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.sums, self.means = total(maps)[0], mean(maps)[0]
        self.summed = self.averaged = False

    @property
    def are_taken(self) -> bool:
        return self.summed and not self.averaged

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel() == self.sums.numel():
            values = output.detach().flatten()
            self.summed = self.summed or same(self.sums.to(values.dtype), values)
            self.averaged = self.averaged or same(self.means.to(values.dtype), values)
        return output


def _probe(like: Tensor) -> Tensor:
    """Positive activations `[1, C, *grid]` of the size of a layer's own, different in every channel and at every place."""
    generator = torch.Generator(like.device).manual_seed(0)
    channels = torch.rand(1, like.shape[1], *[1] * (like.ndim - 2), generator=generator, device=like.device, dtype=torch.float32)
    places = torch.rand(1, *like.shape[1:], generator=generator, device=like.device, dtype=torch.float32)
    size = like.abs().mean()
    return ((0.25 + channels) * (0.5 + places)).to(like) * torch.where(size > 0, size, 1)


def _contrasts(positive: Tensor, signed: bool) -> list[Tensor]:
    """Two sets of activations in which half of the channels are strong; the others are zero, or below it where `signed`.

    Those are negative everywhere in one set, and here and there in the other. All are much larger than those that the weights are taken at:
    a sigmoid of small logits is nearly affine around them.
    """
    positive = FARTHER * positive
    strong = (torch.arange(positive.shape[1], device=positive.device) % 2 == 0).reshape(1, -1, *[1] * (positive.ndim - 2))
    there = positive > positive.flatten(2).mean(-1).reshape(strong.shape)
    weak = [-positive, torch.where(there, positive, -positive)] if signed else [torch.zeros_like(positive)] * 2
    return [torch.where(strong, 4 * positive, weak[0]), torch.where(strong, weak[1], 4 * positive)]


def _scores(run: Run, maps: Tensor, read: Read) -> Tensor | None:
    """Scores `[1, N]` of the first image with other activations; None where the network does not run on them."""
    try:
        return read(run.replaced(0, maps).outputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, LucidcamError) as error:
        if says_nothing(error):
            raise
        return None
