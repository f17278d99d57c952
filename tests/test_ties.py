"""Equal cells of a coarse map stay equal when it is resized, so that pixels tie where they should: against exact fractions."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.run import open_run
from lucidcam.imaging import maps
from lucidcam.metrics._base import Batch
from lucidcam.metrics._masked import MaskedMetric
from lucidcam.metrics._pixels import ranks
from lucidcam.metrics.average_drop import AverageDrop
from lucidcam.metrics.deletion import Deletion, Insertion
from lucidcam.metrics.road import ROAD
from nets import FunctionalGAP, build, images

SIZES = [(20, 28), (23, 31), (30, 17)]
"""Multiples of the maps' sides, and sizes at which no weight is a round binary number."""


# ------------------------------------------------------------------------------------------------------------------- the twin


def taps(count: int, length: int) -> list[tuple[int, int, Fraction]]:
    """For each pixel along an axis its two cells and the weight of the second, exactly."""
    found = []
    for pixel in range(length):
        place = min(max(Fraction(2 * pixel + 1, 2) * Fraction(count, length) - Fraction(1, 2), Fraction(0)), Fraction(count - 1))
        below = math.floor(place)
        found.append((below, min(below + 1, count - 1), place - below))
    return found


def exactly(raw: Tensor, size: tuple[int, int]) -> list[Fraction]:
    """A map `[h, w]` resized bilinearly in exact fractions, in reading order."""
    cells = [[Fraction(float(value)) for value in row] for row in raw]
    rows, columns = taps(len(cells), size[0]), taps(len(cells[0]), size[1])
    return [
        (1 - v) * ((1 - u) * cells[top][left] + u * cells[top][right]) + v * ((1 - u) * cells[bottom][left] + u * cells[bottom][right])
        for top, bottom, v in rows
        for left, right, u in columns
    ]


def exact_ranks(raw: Tensor, size: tuple[int, int]) -> np.ndarray:
    values = exactly(raw, size)
    found = np.empty(len(values), int)
    found[sorted(range(len(values)), key=lambda i: (-values[i], i))] = np.arange(len(values))
    return found.reshape(size)


def coarse(dtype: torch.dtype) -> dict[str, Tensor]:
    """Maps `[h, w]` with many ties."""
    generator = torch.Generator().manual_seed(0)
    plateau = torch.rand(7, 7, generator=generator, dtype=dtype)
    plateau[2:6, 1:5] = 0.3
    high = torch.rand(5, 6, generator=generator, dtype=dtype) / 2
    high[1:4, 2:5] = 0.7
    peak = torch.zeros(7, 7, dtype=dtype)
    peak[3, 3] = 0.1
    levels = torch.randint(0, 3, (6, 7), generator=generator).to(dtype) * torch.tensor(0.1, dtype=dtype)
    mirrored = torch.rand(7, 4, generator=generator, dtype=dtype)
    mirrored = torch.cat([mirrored, mirrored.flip(1)], 1)
    return {
        "plateau": plateau, "high plateau": high, "one peak": peak, "few levels": levels, "mirrored": mirrored,
        "turned": mirrored[:4] + mirrored[:4].T.repeat(1, 2)[:4], "signed": levels - 0.1, "flat": torch.full((7, 7), 0.3, dtype=dtype),
        "line": torch.tensor([[0.1, 0.7, 0.7, 0.1, 0.7]], dtype=dtype),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", coarse(torch.float32))
def test_pixels_rank_as_in_exact_arithmetic(name: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    raw = coarse(dtype)[name]
    net, x = build(FunctionalGAP, dtype=dtype), images(2, size, dtype=dtype)
    with open_run(net, x, 1) as run:
        both = torch.stack([raw, 3 * raw])
        batch = Batch(run, both, lambda run: both, torch.zeros(3), ("0", "1"))
        up, down = ranks(batch), ranks(replace(batch, maps=-both, cache={}))
    assert up.dtype == torch.int32
    np.testing.assert_array_equal(up[0], exact_ranks(raw, size))
    np.testing.assert_array_equal(up[1], exact_ranks(3 * raw, size))
    np.testing.assert_array_equal(down[0], exact_ranks(-raw, size))


def test_a_map_of_the_images_size_is_ranked_as_it_is() -> None:
    """However small its values are against its peak."""
    x = images(1, (4, 5))
    raw = torch.logspace(-30, 0, 20, dtype=torch.float64).reshape(1, 4, 5)
    with open_run(build(FunctionalGAP), x, 1) as run:
        found = ranks(Batch(run, raw, lambda run: raw, torch.zeros(3), ("0",)))
    assert found.flatten().tolist() == list(range(19, -1, -1))


# --------------------------------------------------------------------------------------------------------------------- metrics


def probability(net: nn.Module, image: Tensor) -> float:
    with torch.no_grad():
        return float(net(image[None]).softmax(1)[0, 1])


@pytest.mark.parametrize("name", ["plateau", "high plateau", "one peak", "few levels", "turned"])
def test_metrics_take_plateaus_in_reading_order(name: str) -> None:
    size = (23, 31)
    net, x = build(FunctionalGAP), images(1, size)
    raw = coarse(torch.float64)[name][None]
    order, pixels = torch.from_numpy(exact_ranks(raw[0], size)), size[0] * size[1]
    clean = probability(net, x[0])

    kept = probability(net, torch.where(order < round(0.3 * pixels), x[0], torch.zeros(())))
    fall = max(0.0, clean - kept) / clean
    assert float(AverageDrop(keep=0.3)(net, x, raw, target=1)["average_drop"]) == pytest.approx(100 * fall, abs=1e-9)

    steps = 10
    amounts = [math.floor(pixels * i / steps + 0.5) for i in range(steps + 1)]
    for metric, first, rest in ((Deletion, torch.zeros_like(x[0]), x[0]), (Insertion, x[0], torch.zeros_like(x[0]))):
        curve = [probability(net, torch.where(order < amount, first, rest)) for amount in amounts]
        area = sum((a + b) / 2 for a, b in pairwise(curve)) / steps
        got = metric(steps=steps, baseline="zeros")(net, x, raw, target=1)[metric.name]
        assert float(got) == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("metric", [Deletion(steps=9), AverageDrop(keep=0.4), ROAD(percentiles="30,60", noise=0.0)], ids=repr)
@pytest.mark.parametrize("name", ["plateau", "few levels", "turned"])
def test_ties_do_not_depend_on_precision_batch_or_scale(metric: MaskedMetric, name: str) -> None:
    size = (23, 31)
    net, x = build(FunctionalGAP), images(3, size)
    raw = coarse(torch.float32)[name].expand(3, -1, -1)
    together = metric(net, x, raw, target=1)
    variants = {
        "alone": metric(net, x[:1], raw[:1], target=1),
        "wide": metric(net, x, raw.double(), target=1),
        "scaled": metric(net, x, 8 * raw, target=1),
        "strided": metric(net, x, raw.transpose(1, 2).contiguous().transpose(1, 2), target=1),
    }
    for figures in variants.values():
        for key, values in figures.items():
            torch.testing.assert_close(values, together[key][: len(values)], rtol=0, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(7, 7, 224, 224), (7, 9, 299, 200), (14, 14, 37, 640), (20, 30, 7, 9), (1, 5, 8, 8), (7, 7, 7, 21)])
def test_resizing_is_the_interpolation_of_torch(shape: tuple[int, int, int, int], mode: maps.Mode) -> None:
    raw = torch.randn(2, 3, *shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = nn.functional.interpolate(raw, size=shape[2:], mode=mode, align_corners=False)
    torch.testing.assert_close(maps.resize(raw, shape[2:], mode), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.resize(raw.float(), shape[2:], mode), expected.float(), rtol=0, atol=2e-5)
    assert maps.resize(raw.half(), shape[2:], mode).dtype == torch.float16


@pytest.mark.parametrize(("grid", "size"), [((5,), (23,)), ((3, 4, 5), (7, 11, 9))])
def test_signals_and_volumes_are_resized_alike(grid: tuple[int, ...], size: tuple[int, ...]) -> None:
    raw = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mode = {1: "linear", 3: "trilinear"}[len(grid)]
    expected = nn.functional.interpolate(raw, size=size, mode=mode, align_corners=False)
    torch.testing.assert_close(maps.resize(raw, size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_plateau_stays_one_to_the_last_bit(mode: maps.Mode, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((224, 224), (299, 299), (333, 500), (37, 53)):
        raw = torch.randn(30, 9, 9, generator=generator).to(dtype)
        level = torch.randn(30, generator=generator).to(dtype)
        raw[:, 1:8, 1:8] = level[:, None, None]
        found = maps.resize(raw, size, mode)
        inside = [slice(math.ceil(3.5 * side / 9), math.floor(5.5 * side / 9)) for side in size]  # four cells wide is bicubic's reach
        assert torch.equal(found[:, inside[0], inside[1]], level[:, None, None].expand_as(found[:, inside[0], inside[1]]))


@pytest.mark.parametrize("level", [0.1, 0.15, 0.2, 0.3, 0.7])
def test_a_region_at_the_threshold_itself_is_no_sieve(level: float) -> None:
    """Every pixel between cells of exactly the threshold's value counts: one region, without holes."""
    raw = torch.zeros(7, 7)
    raw[1:6, 1:6] = level
    raw[3, 3] = 1
    for size in ((224, 224), (299, 299), (333, 500)):
        heat = maps.normalise(maps.finish(raw, size))
        heat /= heat.max()  # the peak lies between pixels
        inside = heat[
            math.ceil(1.5 * size[0] / 7) : math.floor(5.5 * size[0] / 7), math.ceil(1.5 * size[1] / 7) : math.floor(5.5 * size[1] / 7)
        ]
        plateau = float(maps.finish(raw, size)[size[0] * 3 // 14, size[1] * 3 // 14])
        share = float(np.float32(plateau) / maps.finish(raw, size).max())
        assert (inside >= np.float32(share)).all()
        found = maps.regions(heat, share)
        assert len(found) == 1
        left, top, right, bottom = found[0].box
        assert found[0].area == (right - left) * (bottom - top)


def test_fused_layers_keep_their_plateaus() -> None:
    class Levels(nn.Module):
        """Two layers with the same picture in two sizes."""

        def __init__(self) -> None:
            super().__init__()
            self.fine, self.rough = nn.AvgPool2d(2), nn.AvgPool2d((5, 7))

        def forward(self, x: Tensor) -> Tensor:
            x = self.fine(x)
            return self.rough(x).mean((2, 3)) @ torch.eye(3, 2, dtype=x.dtype)

    x = torch.zeros(1, 3, 50, 70)
    x[..., 10:40, 14:56] = 0.3
    fused = lucidcam.attribute(Levels(), x, "hirescam", target=0, layer=["fine", "rough"])
    assert len(fused[0, 8:17, 11:24].unique()) == 1
