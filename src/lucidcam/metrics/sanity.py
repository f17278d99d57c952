"""Sanity checks: maps of a network that has forgotten what it learned (Adebayo et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.run import open_run
from lucidcam.engine.session import session
from lucidcam.engine.thread_state import Mode
from lucidcam.engine.trace import run_forward
from lucidcam.errors import InputError, ModelError, OptionError
from lucidcam.imaging import maps
from lucidcam.metrics._base import Array, Batch, Curve, FaithfulnessMetric, Figure, divide, register
from lucidcam.metrics._random import draws
from lucidcam.utils.optional import import_optional
from lucidcam.utils.rollback import Scope, closes_scopes

CELL = 16
"""Pixels along the sides of a cell of the histograms of gradients."""

WINDOW = 7
"""Pixels along the sides of SSIM's window."""

Layer = tuple[str, ...]
"""Names of the parameters that belong to one module."""


@register("sanity")
@dataclass(frozen=True, kw_only=True)
class Sanity(FaithfulnessMetric):
    """How similar a map stays when the network's parameters are replaced by random ones: one that stays does not explain the network.

    A layer is a module with parameters of its own; layers are ordered by when the forward pass uses them, and form stages of equally many
    from the head down. At each stage the map of the same image and class is made again, on a copy of the network that is randomised
    there, and compared with the map of the network as it is:

    - spearman: rank correlation of the raw maps, signed; spearman_abs: of their magnitudes. Ties get mean ranks.
    - ssim: structural similarity in the images' size, each map min-maxed; windows of 7×7 pixels.
    - hog: Pearson's correlation of histograms of oriented gradients, likewise; cells of 16×16 pixels, 9 orientations.

    The figures are means over images and stages; `full` is the rank correlation when every parameter is random. The network as it is, which
    is similar to itself by 1, is no stage. A flat or non-finite map has no similarity: it counts as 0.

    What a normalisation layer measured on data (buffers: running means and variances) is no parameter and stays, unless `how="reset"`
    resets it with the layer. A tensor of equal values has no spread to draw from and stays with `how="normal"`.

    Attributes:
        order: "cascading": the stages above stay random. "independent": each stage alone is random, the others are as learned.
        stages: how many; fewer where there are fewer layers; 0: each layer is a stage.
        how: "normal": normal draws with the mean and the standard deviation of each tensor, by the seed and the tensor's name.
            "reset": as the layer initialises itself (its `reset_parameters`); "normal" where it has none.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 2))
    >>> def edges(module, images, classes):                                     # whatever the network has learned
    ...     return images.mean(1).diff(dim=1)
    >>> round(Sanity()(net, torch.rand(1, 3, 10, 10), explain=edges)["sanity_spearman"].item(), 4)
    1.0
    """

    figures = (
        Figure("sanity_spearman", higher_is_better=False, bounds=(-1.0, 1.0)),
        Figure("sanity_spearman_abs", higher_is_better=False, bounds=(-1.0, 1.0)),
        Figure("sanity_ssim", higher_is_better=False, bounds=(-1.0, 1.0)),
        Figure("sanity_hog", higher_is_better=False, bounds=(-1.0, 1.0)),
        Figure("sanity_spearman_full", higher_is_better=False, bounds=(-1.0, 1.0)),
    )
    paper = "Adebayo 2018"
    exact = True

    order: Literal["cascading", "independent"] = "cascading"
    stages: int = 10
    how: Literal["normal", "reset"] = "normal"

    def __post_init__(self) -> None:
        if self.order not in ("cascading", "independent") or self.how not in ("normal", "reset"):
            raise OptionError(
                f'expected order "cascading" or "independent", and how "normal" or "reset"; got {self.order!r} and {self.how!r}.'
            )
        if self.stages < 0:
            raise OptionError(f"expected stages ≥ 0 (0: each layer is one); got {self.stages}.")

    def measure(self, batch: Batch) -> Tensor:
        """The four similarities at each of S stages, then with every parameter random, `[B, (S + 1) · 4]`."""
        copy = deepcopy(batch.run.module)
        found = layers(copy, batch.run.inputs)
        if not found:
            raise InputError("sanity replaces a network's parameters by random ones; this module has none.")
        stages = grouped(found, self.stages)
        random = randomised(copy, found, self.how, batch.run.seed)
        asked = [stages[: i + 1] if self.order == "cascading" else stages[i : i + 1] for i in range(len(stages))]
        similar = []
        for i in batch.run.stream.steps(len(asked)):
            similar.append(self._similarity(batch, copy, random, asked[i]))
        similar.append(similar[-1] if len(asked[-1]) == len(stages) else self._similarity(batch, copy, random, stages))
        return torch.cat(similar, dim=1)

    def _similarity(self, batch: Batch, copy: nn.Module, random: Mapping[str, Tensor], stages: Sequence[Sequence[Layer]]) -> Tensor:
        """The four similarities `[B, 4]` when some stages are random and everything else is as learned."""
        owners = {_owner(name) for stage in stages for layer in stage for name in layer}
        learned, tensors = _tensors(batch.run.module), _tensors(copy)
        with torch.no_grad():
            for name, drawn in random.items():
                tensors[name].copy_(drawn if _owner(name) in owners else learned[name])
        height, width = batch.run.inputs.size
        return similarities(batch.maps, _explained(batch, copy), (height, width))

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """Means over images and stages: see `Metric.compute`."""
        means = divide(sums.sum(0), count.sum(0)[:, None]).reshape(count.shape[1], -1, 4)
        values = [*np.moveaxis(means[:, :-1].mean(1), 1, 0), means[:, -1, 0]]
        return {figure.name: value for figure, value in zip(self.figures, values, strict=True)}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """Each similarity against the stages, from the head down: see `Metric.curves`."""
        means = divide(sums.sum(0), np.asarray(count.sum(0))).reshape(-1, 4)[:-1]
        x = np.arange(1, len(means) + 1, dtype=np.float64)
        what = "stages randomised, from the head down" if self.order == "cascading" else "stage randomised, counted from the head"
        return [Curve(figure.name, x, means[:, i], what, "similarity") for i, figure in enumerate(self.figures[:4])]


# ------------------------------------------------------------------------------------------------------------- randomised networks


class _Uses(Mode):
    """Notes when parameters are last handed to an operation."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.last: dict[str, int] = {}
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        waiting = [*args, *(kwargs or {}).values()]
        while waiting:
            each = waiting.pop()
            if isinstance(each, (list, tuple)):  # an LSTM hands its weights over in a list
                waiting += each
            elif id(each) in self.names:
                self.last[self.names[id(each)]] = self.operations
        return func(*args, **(kwargs or {}))


@closes_scopes
def layers(module: nn.Module, inputs: Inputs) -> list[Layer]:
    """The parameters of each module that has some, from the last used module to the first.

    A bare parameter of a container (a position embedding) has the place where it is used, not where its container ends. Parameters that
    no operation was seen to use come last.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters() if parameter.is_floating_point()}
    with session(module), _Uses(names) as uses:
        run_forward(module, inputs.rows(slice(0, 1)))
    found: dict[str, list[str]] = {}
    for name in names.values():
        found.setdefault(_owner(name), []).append(name)
    by_use = sorted(found.values(), key=lambda each: max(uses.last.get(name, 0) for name in each))
    return [tuple(each) for each in reversed(by_use)]


def grouped(found: Sequence[Layer], stages: int) -> list[Sequence[Layer]]:
    """Layers in `stages` groups of as equal a size as can be; 0: a group each.

    >>> [len(group) for group in grouped([("weight",)] * 7, 3)]
    [2, 3, 2]
    """
    count = min(stages or len(found), len(found))
    ends = [(2 * len(found) * i + count) // (2 * count) for i in range(count + 1)]
    return [found[start:end] for start, end in pairwise(ends)]


@closes_scopes
def randomised(module: nn.Module, found: Sequence[Layer], how: str, seed: int) -> dict[str, Tensor]:
    """Random values for the tensors of layers, by name; the module is left with some of them."""
    values: dict[str, Tensor] = {}
    tensors = _tensors(module)
    for layer in found:
        owner = module.get_submodule(_owner(layer[0]))
        reset: Callable[[], Any] | None = getattr(owner, "reset_parameters", None) if how == "reset" else None
        if reset is None:
            values |= {name: _normal(tensors[name], draws(seed, name)) for name in layer}
            continue
        devices = {tensors[name].device for name in layer if tensors[name].is_cuda}
        with Scope() as scope:
            scope.undo(torch.set_rng_state, torch.get_rng_state())
            for device in devices:
                scope.undo(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
            torch.manual_seed(draws(seed, layer[0]).initial_seed())
            reset()
        values |= {name: tensor.detach().clone() for name, tensor in tensors.items() if _owner(name) == _owner(layer[0])}
    return values


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal draws with a tensor's mean and standard deviation."""
    wide = tensor.detach().double()
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=generator.device).to(tensor.device)
    return (wide.mean() + wide.std(unbiased=False) * drawn).to(tensor.dtype)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


@closes_scopes
def _explained(batch: Batch, copy: nn.Module) -> Tensor:
    """The method's maps of the same images and classes on another network, `[B, h, w]`; NaN where its numbers overflow."""
    run = batch.run
    assert run.bound.ids is not None
    names = [layer.name if layer.call is None else f"{layer.name}#{layer.call}" for layer in run.layers] if run.named_layers else None
    try:
        with open_run(
            copy, run.inputs, run.bound.ids[:, 0], names, batch_size=run.stream.batch, seed=run.seed, progress=False, stated=run.stated
        ) as other:
            found = batch.explain(other)
    except ModelError:  # the method works on the network as it is, so the random one gave NaN or infinite numbers
        return torch.full_like(batch.maps, torch.nan)
    if found.shape != batch.maps.shape:
        raise InputError(f"expected maps {list(batch.maps.shape)}, as of the network as it is, from explain; got {list(found.shape)}.")
    return found.to(batch.maps)


# ------------------------------------------------------------------------------------------------------------------- similarities


def similarities(one: Tensor, other: Tensor, size: tuple[int, int]) -> Tensor:
    """Spearman, Spearman of the magnitudes, SSIM and HOG of pairs of raw maps, `[B, 4]`.

    Args:
        one: `[B, h, w]`.
        other: likewise.
        size: (H, W) of the images, in which SSIM and HOG compare.
    """
    usable = (_uneven(one) & _uneven(other))[:, None]
    finite = torch.where(usable[..., None], other, 0)
    pairs = zip(*(maps.unit(maps.resize(each, size)).cpu().double().numpy() for each in (one, finite)), strict=True)
    seen = torch.from_numpy(np.array([[_ssim(a, b), _correlation(_hog(a), _hog(b))] for a, b in pairs], np.float64))
    ranked = [spearman(one, finite), spearman(one.abs(), finite.abs())]
    return torch.where(usable, torch.cat([torch.stack(ranked, dim=1), seen.to(one.device)], dim=1), 0)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, `[B]` float64; 0 where one of them is flat.

    >>> spearman(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 8.0], [27.0, 5.0]]]))
    tensor([0.4000], dtype=torch.float64)
    """
    a, b = _ranks(one.flatten(1)), _ranks(other.flatten(1))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(1) / scale, 0)


def _ranks(values: Tensor) -> Tensor:
    """Ranks `[B, N]` float64; equal values share the mean of theirs."""
    ordered = values.sort(dim=1).values
    first, after = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (first + after).double() / 2


def _uneven(values: Tensor) -> Tensor:
    """Whether maps are finite and not flat, `[B]`."""
    flat = values.flatten(1)
    return torch.isfinite(flat).all(1) & (flat.amax(1) > flat.amin(1))


def _ssim(one: Array, other: Array) -> float:
    metrics: Any = import_optional("skimage.metrics", "data", "the metric sanity")
    side = min(one.shape)
    return float(metrics.structural_similarity(one, other, data_range=1.0, win_size=min(WINDOW, side - 1 + side % 2)))


def _hog(values: Array) -> Array:
    feature: Any = import_optional("skimage.feature", "data", "the metric sanity")
    cell = min(CELL, *values.shape)
    return np.asarray(feature.hog(values, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(1, 1)))


def _correlation(one: Array, other: Array) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
