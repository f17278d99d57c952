"""Many targets and large images cost what they must: time that grows with the targets, memory that is bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lucidcam
from lucidcam.engine import run as runs
from lucidcam.engine.foreign import totals
from lucidcam.methods import rise
from lucidcam.perturb.masks import RiseMasks, rise_masks

MANY = 16_000
"""Targets, of which a square of numbers takes 1 GB."""


def network(classes: int, channels: int = 4, stride: int = 1) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, channels, max(3, stride), stride), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(channels, classes)).eval()


def test_no_target_costs_a_tensor_for_every_other() -> None:
    scores = torch.rand(2, 50, requires_grad=True) * 1
    names = {type(total.grad_fn).__name__ for total in totals(scores)}
    assert names == {"SelectBackward0"}  # UnbindBackward0 takes 50 gradients, of which 49 are made for it
    expected = scores.sum(0)
    assert all(torch.equal(total, value) for total, value in zip(totals(scores), expected, strict=True))


@pytest.mark.parametrize("method", [pytest.param("gradcam", marks=pytest.mark.slow), "guided_backprop", "gradient"])
def test_memory_is_bounded_for_many_targets(method: str) -> None:
    count = MANY if lucidcam.methods()[method].kind == "gradient" else 500
    net, image = network(MANY), torch.rand(1, 3, 6, 6)
    targets = torch.arange(count)[None]
    maps = lucidcam.attribute(net, image, method, target=targets)
    some = [0, 1, count // 2, count - 1]
    assert torch.allclose(maps[:, some], lucidcam.attribute(net, image, method, target=targets[:, some]), atol=1e-7)


def test_reasons_for_zero_maps_take_one_targets_gradients_each(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(60)
    net[-1].weight.data.abs_().neg_()  # nothing speaks for any class
    counts: list[int] = []
    gradients = runs.Run._gradients

    def counted(run: Any) -> torch.Tensor:
        found = gradients(run)
        counts.append(found.shape[1])
        return found

    monkeypatch.setattr(runs.Run, "_gradients", counted)
    model = lucidcam.wrap(net, lucidcam.imaging.preprocess.Preprocess(size=(8, 8)))
    photo = torch.rand(8, 8, 3).numpy()
    explained = lucidcam.explain(model, [photo], "gradcam", [list(range(60))])
    assert len(explained) == 60
    assert all("the map is zero everywhere" in each.note for each in explained)
    assert sum(counts) <= 2 * 60


def test_masks_are_the_same_however_many_are_enlarged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    whole = rise_masks(10, (33, 20), 5, 0.4, seeds[0])
    drawn = RiseMasks.draw(10, (33, 20), 5, 0.4, seeds[1])
    assert torch.equal(whole, torch.cat([drawn.enlarged(slice(start, start + 3)) for start in range(0, 10, 3)]))
    net, image = network(3), torch.rand(2, 3, 33, 20)
    maps = lucidcam.attribute(net, image, "rise", target=1, masks=70)
    monkeypatch.setattr(rise, "MASK_BYTES", 4 * 33 * 20 * 7)
    assert torch.allclose(lucidcam.attribute(net, image, "rise", target=1, masks=70), maps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "count"), [(32, 256), (224, 6), (600, 4), (2000, 4), (2600, 3), (4096, 1), (10_000, 1)])
def test_masked_copies_of_large_images_are_few(side: int, count: int) -> None:
    assert runs._batch(torch.zeros(()).expand(1, 3, side, side)) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [("rise", {"masks": 3}), ("scorecam", {}), ("occlusion", {"window": 2048, "stride": 2048}), ("guided_gradcam", {})],
)
def test_memory_is_bounded_for_large_images(method: str, options: dict[str, Any]) -> None:
    maps = lucidcam.attribute(network(5, stride=64), torch.rand(1, 3, 4096, 4096), method, target=1, **options)
    assert bool(maps.isfinite().all())
