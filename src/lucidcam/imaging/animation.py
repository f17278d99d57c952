"""Explanations in time: the frames of a clip that share one scale, and animations of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lucidcam.errors import OptionError
from lucidcam.imaging import maps, render
from lucidcam.imaging.explanation import Explanation, Scale
from lucidcam.io.ownership import check_not_input


def over_time(whole: Explanation, film: Sequence[Image.Image], times: Sequence[int]) -> Explanation:
    """From the explanation of a clip, whose `raw` is `[d, h, w]`, to that of its most telling frame, with those of all in `film`.

    The map is resized linearly in time, as it is in space, so that every frame that the network got has its own.

    Args:
        whole: as a method made it; `pixels`, if any, are `[C, T, H, W]`.
        film: the frames that the network got.
        times: their numbers in the clip.
    """
    raw = _in_time(whole.raw, len(film))
    pixels = None if whole.pixels is None else _in_time(whole.pixels.transpose(0, 1), len(film))
    frames, peaks = _shared(
        replace(whole, raw=raw[t], image=image, time=time, pixels=None if pixels is None else pixels[t])
        for t, (image, time) in enumerate(zip(film, times, strict=True))
    )
    return replace(frames[peaks.index(max(peaks))], film=tuple(frames))


def share(explanations: Iterable[Explanation]) -> list[Explanation]:
    """Give explanations one scale: 1 is the largest evidence of them all, so that their pictures can be compared.

    Args:
        explanations: of the frames of a clip, of a game's episode, or of several images; of one method.
    """
    return _shared(explanations)[0]


def animate(
    explanations: Iterable[Explanation | Image.Image],
    path: str | Path,
    *,
    fps: float = 8.0,
    size: int = 320,
    colormap: str = "turbo",
    alpha: float = 0.5,
    threshold: float | None = None,
) -> Path:
    """Write pictures in time as an animated GIF (or WebP, by the suffix).

    Args:
        explanations: of a clip, which stands for all its frames; of single images, such as the frames of a game's episode (`share` gives
            them one scale); or pictures.
        path: where to; folders are made.
        fps: frames per second.
        size: the longer side in pixels.
        colormap: any matplotlib colormap.
        alpha: share of the heatmap in the overlay, 0 to 1.
        threshold: draw boxes around what is at or above this share of the maximum; None: no boxes.

    Raises:
        OptionError: nothing to show, pictures of several sizes, another suffix, or a value outside its range.
    """
    pictures: list[Image.Image] = []
    for each in explanations:
        if isinstance(each, Image.Image):
            pictures.append(each)
        else:
            check_not_input(path, each.name)
            pictures += _shown(each, colormap, alpha, threshold)
    path = Path(path)
    if not pictures:
        raise OptionError(f"{path.name}: expected at least one explanation or picture to animate; got none.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return render.animation(pictures, path, fps, size)


def _shown(explanation: Explanation, colormap: str, alpha: float, threshold: float | None) -> list[Image.Image]:
    frames = explanation.film or (explanation,)
    return [e.picture(colormap, alpha) if threshold is None else e.boxed(threshold, colormap, alpha) for e in frames]


def _shared(explanations: Iterable[Explanation]) -> tuple[list[Explanation], list[float]]:
    """Explanations with one scale, and the largest evidence of each."""
    found = list(explanations)
    if not found:
        return [], []
    low = min(float(e.raw.min()) for e in found) if found[0].ranged else 0.0
    # Pictures show finished maps; they are made one by one, as a long clip's would not fit the memory together.
    peaks = [float(maps.in_photo(e.raw - low, e.frame).max()) for e in found]
    magnitudes = [e.pixels.abs().flatten() for e in found if e.pixels is not None]
    scale = Scale(low, max(peaks), render.signed_peak(torch.cat(magnitudes).numpy()) if magnitudes else None)
    return [replace(e, scale=scale) for e in found], peaks


def _in_time(values: Tensor, count: int) -> Tensor:
    """Resize `[d, …]` linearly to `count` frames (centres aligned, as in space)."""
    if len(values) == count:
        return values
    lines = values.flatten(1).T[None].float()
    return F.interpolate(lines, size=count, mode="linear", align_corners=False)[0].T.reshape(count, *values.shape[1:])
