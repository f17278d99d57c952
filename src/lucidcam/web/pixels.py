"""One place of a map: its value, and the channels behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.engine.run import Capture, Run, open_run
from lucidcam.errors import LucidcamError, OptionError
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.maps import in_photo, normalise
from lucidcam.methods._base import over_grid, spatial_mean
from lucidcam.methods.elementwise import XGradCAM
from lucidcam.methods.gradcam_plus_plus import GradCAMPlusPlus
from lucidcam.types import Model, Prepared
from lucidcam.utils.rollback import closes_scopes

Terms = Callable[[Capture], Tensor]
"""From activations and gradients to what each channel adds to the map, `[B, T, C, *grid]`."""

CLOSE = 1e-3
"""How far the sum of all channels may lie from the map, as a share of its largest value; beyond that they do not explain it."""


def _gradcam(c: Capture) -> Tensor:
    return over_grid(spatial_mean(c.gradients), c.gradients) * c.activations


def _gradcam_plus_plus(c: Capture) -> Tensor:
    return over_grid(GradCAMPlusPlus.weights(c), c.gradients) * c.activations


def _xgradcam(c: Capture) -> Tensor:
    return over_grid(XGradCAM.weights(c), c.gradients) * c.activations


def _hirescam(c: Capture) -> Tensor:
    return c.gradients * c.activations


def _layercam(c: Capture) -> Tensor:
    return c.gradients.relu() * c.activations


def _cam(c: Capture) -> Tensor:
    # On top of global average pooling the gradient of a class is its weight over the number of places.
    return c.gradients * c.activations * c.activations[0, 0, 0].numel()


TERMS: Mapping[str, Terms] = {
    "cam": _cam,
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "xgradcam": _xgradcam,
}
"""Methods whose map is, up to a final ReLU, a sum over channels that activations and gradients tell."""


@dataclass(frozen=True)
class Channel:
    """One channel at a place.

    Attributes:
        number: of the channel.
        activation: there.
        weight: what it is multiplied with there.
        adds: weight × activation: its part of the map's value there.
    """

    number: int
    activation: float
    weight: float
    adds: float


@dataclass(frozen=True)
class Pixel:
    """One place of a map.

    Attributes:
        x: of the photo as it is shown, in pixels.
        y: likewise.
        share: of the map's maximum, in [0, 1]: what is seen.
        value: of the raw map in its cell, or None where the network did not look.
        cell: (row, column) in the raw map, or None.
        grid: (rows, columns) of the raw map.
        channels: those that add most there, largest first; none where they are not told.
        total: what all channels together add, those against it included; None where channels are not told.
        note: why they are not told, or "".
    """

    x: int
    y: int
    share: float
    value: float | None
    cell: tuple[int, int] | None
    grid: tuple[int, int]
    channels: tuple[Channel, ...] = ()
    total: float | None = None
    note: str = ""


def pixel(
    model: Model, prepared: Prepared, explanation: Explanation, target: Any, x: float, y: float, count: int = 5
) -> tuple[Pixel, Tensor]:
    """What a map says at one place of the photo.

    Args:
        model: the network.
        prepared: the photo.
        explanation: the map, with the photo in the same size.
        target: what it is of: a class id or a contrast.
        x: in pixels of that size, from the left.
        y: from the top.
        count: how many channels are told.

    Returns:
        The place, and the activations of its channels `[channels, h, w]`.

    Raises:
        OptionError: the place is not in the photo.
    """
    width, height = explanation.frame.width, explanation.frame.height
    if not (0 <= x < width and 0 <= y < height):
        raise OptionError(f"expected a place in the photo of {width}×{height} pixels; got {x:g}, {y:g}.")
    rows, columns = explanation.raw.shape
    share = float(explanation.heatmap[int(y), int(x)])
    column, row, _, _ = explanation.frame.inside((x + 0.5, y + 0.5, x + 0.5, y + 0.5), (rows, columns))
    no_activations = torch.zeros(0, rows, columns)
    if not (0 <= row < rows and 0 <= column < columns):
        note = "The network did not see this part of the photo: it lies outside its input."
        return Pixel(int(x), int(y), share, None, None, (rows, columns), note=note), no_activations
    i, j = int(row), int(column)
    value = float(explanation.raw[i, j])
    at = Pixel(int(x), int(y), share, value, (i, j), (rows, columns))
    terms_or_reason = _terms(model, prepared, explanation, target)
    if isinstance(terms_or_reason, str):
        return _with(at, note=terms_or_reason), no_activations
    terms, activations = terms_or_reason
    here, active = terms[:, i, j], activations[:, i, j]
    best = here.argsort(descending=True, stable=True)[:count]
    channels = tuple(
        Channel(k, float(active[k]), float(here[k] / active[k]) if float(active[k]) else 0.0, float(here[k])) for k in best.tolist()
    )
    return _with(at, channels=channels, total=float(here.sum())), activations[best]


def channel_map(activation: Tensor, explanation: Explanation) -> Any:
    """A channel's activation as a heatmap of the photo `[H, W]`: its positive part as a share of its maximum."""
    return normalise(in_photo(activation, explanation.frame))


def _with(at: Pixel, **changes: Any) -> Pixel:
    return replace(at, **changes)


@closes_scopes
def _terms(model: Model, prepared: Prepared, explanation: Explanation, target: Any) -> tuple[Tensor, Tensor] | str:
    """What each channel adds, and its activations, `[C, h, w]` each; or why that cannot be told."""
    if explanation.method not in TERMS:
        return f"{explanation.method} is not a sum over channels with weights that one pass tells; {', '.join(TERMS)} are."
    inputs = prepared.tensor[None].to(model.device, model.dtype)
    try:
        with open_run(model.module, inputs, target, explanation.layer, stated=model.class_scores) as run:
            terms, activations = _captured(run, TERMS[explanation.method])
    except LucidcamError as error:
        return str(error)
    total, raw = terms.sum(0), explanation.raw
    total = total.relu() if float(raw.min()) >= 0 else total
    if float((total - raw).abs().max()) > CLOSE * max(float(raw.abs().max()), 1e-12):
        return f"{explanation.method} with these options is not the plain sum over this layer's channels."
    return terms, activations


def _captured(run: Run, terms: Terms) -> tuple[Tensor, Tensor]:
    c = run.capture(gradients=True)
    return terms(c)[0, 0].float().cpu(), c.activations[0, 0].float().cpu()
