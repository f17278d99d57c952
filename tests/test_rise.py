"""RISE's estimated error and its early stop; and how many activations Ablation-CAM puts above the layer at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.attribution import compute
from lucidcam.engine.run import open_run
from lucidcam.methods.rise import BLOCK
from lucidcam.methods.settings import resolve_method
from nets import DenseConcat, FunctionalGAP, SeveralFC, build, images


def explained(net: nn.Module, x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """Maps `[n, h, w]` of class 1 and their estimated errors `[n]`."""
    method, settings = resolve_method("rise", {"cells": 3, "weigh_by": "score", **options})
    with open_run(net, x, 1, seed=settings.seed) as run:
        return compute(run, method, settings)[:, 0], run.errors[0][:, 0]


def varying(maps: Tensor) -> Tensor:
    return maps - maps.mean((-2, -1), keepdim=True)


class Corner(nn.Module):
    """A score that is one corner's brightness, or the brightest of all corners': few masks tell much."""

    def __init__(self, brightest: bool = False) -> None:
        super().__init__()
        self.brightest = brightest

    def forward(self, x: Tensor) -> Tensor:
        corners = torch.nn.functional.adaptive_avg_pool2d(x, 4).mean(1).abs().flatten(1)
        return torch.stack([corners[:, 0], corners.amax(1) if self.brightest else corners[:, 0]], dim=1)


def bright() -> Tensor:
    return images(2, (12, 14)).abs() + torch.tensor([0.0, 1.0])[:, None, None, None]


NETS = {
    "corner": (Corner, bright),
    "brightest": (lambda: Corner(brightest=True), bright),
    "convolutional": (lambda: build(FunctionalGAP), lambda: images(2, (12, 14))),
}


@pytest.mark.parametrize(("name", "masks"), [("corner", 64), ("corner", 300), ("brightest", 640), ("convolutional", 640)])
def test_the_error_is_the_distance_from_the_limit_as_a_share_of_it(name: str, masks: int) -> None:
    """Root mean square over seeds, against a map of thousands of masks, both without their means over the image."""
    make, photos = NETS[name]
    net, x = make(), photos()
    limit = varying(torch.stack([explained(net, x, masks=3000, seed=1000 + seed)[0] for seed in range(2)]).mean(0))
    size = limit.flatten(1).square().sum(1)
    squares, errors = [], []
    for seed in range(12):
        maps, error = explained(net, x, masks=masks, seed=seed)
        squares.append((varying(maps) - limit).flatten(1).square().sum(1) / size)
        errors.append(error)
    true, estimated = torch.stack(squares).mean(0).sqrt(), torch.stack(errors)
    assert bool((estimated <= 1).all())
    for i in range(2):
        expected = float(true[i])
        ratio = float(estimated[:, i].square().mean().sqrt()) / min(expected, 1.0)
        assert 0.7 < ratio < 1.4, (name, masks, expected, ratio)


def test_one_mask_knows_nothing() -> None:
    assert explained(Corner(), bright(), masks=1)[1].tolist() == [1, 1]


def test_tolerance_stops_each_image_by_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 2), nn.Softmax(1)).double()
    x = 4 * images(3).abs()  # scores that differ much from mask to mask
    rows: list[int] = []
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    _, full = explained(net, x, masks=20 * BLOCK)
    rows.clear()
    tolerance = float(full.max()) * 1.5
    assert tolerance < 1
    maps, error = explained(net, x, masks=20 * BLOCK, tolerance=tolerance)
    assert float(error.max()) <= tolerance
    spent = sum(rows)
    assert spent < 3 * 20 * BLOCK
    for i in range(3):
        rows.clear()
        alone, own = explained(net, x[i : i + 1], masks=20 * BLOCK, tolerance=tolerance)
        torch.testing.assert_close(maps[i : i + 1], alone)
        torch.testing.assert_close(error[i : i + 1], own)
    with pytest.raises(lucidcam.LucidcamError, match="0 ≤ tolerance < 1"):
        explained(net, x, tolerance=1.0)


def test_a_network_without_a_score_runs_all_masks_and_has_no_error() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(net[4].weight), nn.init.zeros_(net[4].bias)
    maps, error = explained(net, torch.rand(1, 3, 12, 12), masks=100)
    assert not maps.any()
    assert error.tolist() == [0]


def test_ablation_puts_more_rows_above_a_layer_that_is_lighter() -> None:
    """As many as the network's largest activation is larger than what is above; copies of the image stay as they are."""
    net, x = build(SeveralFC), images(1, (40, 56))
    below, above = [], []
    net.features[0].register_forward_pre_hook(lambda _, args: below.append(len(args[0])))
    net.classifier.register_forward_pre_hook(lambda _, args: above.append(len(args[0])))
    lucidcam.attribute(net, x, "ablationcam", target=1, layer="features.4", batch_size=1)
    sizes = [np.prod(info.shape[1:]) for info in lucidcam.layers(net, x).values() if info.shape]
    at = np.prod(lucidcam.layers(net, x)["features.4"].shape[1:])
    assert max(above) > 1
    assert max(above) <= max(sizes) / at
    assert max(below) <= 2
    concat = build(DenseConcat)
    rows: list[int] = []
    concat.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    lucidcam.attribute(concat, images(1), "ablationcam", target=1, layer=next(iter(lucidcam.layers(concat, images(1)))), batch_size=2)
    assert max(rows) <= 2
