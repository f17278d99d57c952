"""ROAD: the imputation against dense solves, exactly k pixels, the figures against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lucidcam import registry
from lucidcam.errors import InputError, OptionError
from lucidcam.metrics import Record, State
from lucidcam.metrics._random import draws
from lucidcam.metrics.road import ROAD
from lucidcam.perturb.imputation import impute
from nets import FunctionalGAP, build, images


def dense(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """One equation per removed pixel, in a full matrix: `x_i = Σ w_j x_j / Σ w_j` over the neighbours that exist."""
    channels, height, width = image.shape
    number = {tuple(place): i for i, place in enumerate(np.argwhere(removed))}
    a, b = np.eye(len(number)), np.zeros((len(number), channels))
    for (y, x), i in number.items():
        near = [
            ((y + dy, x + dx), 1 / 12 if dy and dx else 1 / 6)
            for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width
        ]  # fmt: skip
        total = sum(weight for _, weight in near)
        for place, weight in near:
            if place in number:
                a[i, number[place]] -= weight / total
            else:
                b[i] += weight / total * image[(slice(None), *place)]
    filled = image.copy()
    filled[:, removed] = np.linalg.solve(a, b).T
    return filled


def holes(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Kinds of holes `[n, H, W]`: scattered, dense, one big block, all but one corner, stripes, none."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    return np.stack([
        rng.random((height, width)) < 0.3,
        rng.random((height, width)) < 0.95,
        (abs(y - height / 2) < height * 0.4) & (abs(x - width / 2) < width * 0.45),
        (y > 0) | (x > 0),
        x % 4 != 0,
        np.zeros((height, width), bool),
    ])  # fmt: skip


@pytest.mark.parametrize("size", [(1, 9), (2, 2), (5, 3), (16, 16), (23, 30)])
def test_imputation_equals_a_dense_solve(size: tuple[int, int]) -> None:
    removed = holes(*size)
    removed = removed[~removed.all((1, 2))]
    pictures = np.random.default_rng(1).normal(3, 2, (len(removed), 3, *size))
    got = impute(torch.from_numpy(pictures), torch.from_numpy(removed), tolerance=1e-12).numpy()
    for i in range(len(removed)):
        np.testing.assert_allclose(got[i], dense(pictures[i], removed[i]), rtol=0, atol=1e-8)
        assert (got[i][:, ~removed[i]] == pictures[i][:, ~removed[i]]).all()


def test_default_tolerance_is_far_below_the_noise() -> None:
    """In float32, whatever the hole."""
    removed = torch.from_numpy(holes(75, 66))
    generator = torch.Generator().manual_seed(0)
    pictures = 4 * torch.rand(len(removed), 2, 75, 66, generator=generator) + torch.linspace(0, 4, 66)
    exact = impute(pictures.double(), removed, 1e-10)
    assert (impute(pictures, removed) - exact).abs().max() < 0.001
    assert (impute(pictures + 1000, removed) - 1000 - exact).abs().max() < 0.002  # float32 of a thousand has steps of 6e-5


def test_imputation_of_a_row_does_not_depend_on_the_others() -> None:
    removed, pictures = torch.from_numpy(holes(20, 21)), images(6, (20, 21))
    together = impute(pictures, removed)
    for i in range(6):
        torch.testing.assert_close(impute(pictures[i : i + 1], removed[i : i + 1])[0], together[i], rtol=0, atol=1e-12)


def test_imputation_continues_a_slope() -> None:
    """A plane solves the equations wherever no border is removed."""
    plane = (torch.arange(12.0)[:, None] + 2 * torch.arange(15.0)).double().expand(1, 1, -1, -1)
    removed = torch.zeros(1, 12, 15, dtype=torch.bool)
    removed[:, 2:9, 3:13] = True
    torch.testing.assert_close(impute(torch.where(removed[:, None], 99, plane), removed, 1e-12), plane, rtol=0, atol=1e-9)


def test_half_precision_and_a_constant_image() -> None:
    removed = torch.from_numpy(holes(16, 16))
    half = torch.full((6, 3, 16, 16), 0.7, dtype=torch.float16)
    assert torch.equal(impute(half, removed), half)


def test_all_removed_is_refused() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        impute(torch.rand(1, 1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))


class Watched(nn.Module):
    """Keeps what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build(FunctionalGAP)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return self.net(x)


def naive(net: nn.Module, image: torch.Tensor, values: np.ndarray, target: int, name: str, noise: float) -> np.ndarray:
    """One image, one mask at a time: confidences, then hits: clean, MoRF at each percentile, LeRF likewise."""
    field = noise * torch.randn(image.shape, generator=draws(0, name)).double().numpy()
    copies = [image.numpy()]
    for order in (np.argsort(-values.ravel(), kind="stable"), np.argsort(values.ravel(), kind="stable")):
        for percent in (30, 60):
            removed = np.zeros(values.size, bool)
            removed[order[: round(percent / 100 * values.size)]] = True
            removed = removed.reshape(values.shape)
            copies.append(np.where(removed, dense(image.numpy(), removed) + field, image.numpy()))
    with torch.no_grad():
        scores = net(torch.from_numpy(np.stack(copies))).softmax(1)
    return np.concatenate([scores[:, target].numpy(), (scores.argmax(1) == target).numpy()])


def test_figures_and_curves_equal_a_loop() -> None:
    net, x = build(FunctionalGAP), images(3, (10, 13))
    with torch.no_grad():
        predicted = net(x).argmax(1)
    target = predicted.clone()
    target[2] = (target[2] + 1) % 5  # an image the network does not take for its class
    maps = torch.randn(3, 10, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = ROAD(percentiles="60, 30", noise=0.2)
    got = metric(net, x, maps, target=target, batch_size=4)
    rows = np.stack([naive(net, x[i], maps[i].numpy(), int(target[i]), str(i), 0.2) for i in range(3)])
    confidence, hits = rows[:, :5], rows[:, 5:]
    expected = {
        "road_morf_confidence": confidence[:, 1:3].mean(1),
        "road_lerf_confidence": confidence[:, 3:].mean(1),
        "road_morf_accuracy": 100 * hits[:, 1:3].mean(1),
        "road_lerf_accuracy": 100 * hits[:, 3:].mean(1),
        "road": (confidence[:, 3:].mean(1) - confidence[:, 1:3].mean(1)) / 2,
    }
    assert list(got) == [figure.name for figure in metric.figures]
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=2e-4, err_msg=name)  # the default tolerance of the solver
    assert set(hits.ravel()) == {0, 1}

    state = State(metric, resamples=0)
    for i, row in enumerate(rows):
        state.update(str(i), [Record(row)])
    assert state.figures()["road"] == pytest.approx(expected["road"].mean())
    curves = {curve.name: curve for curve in state.curves()}
    assert set(curves) == {"road_morf_confidence", "road_lerf_confidence", "road_morf_accuracy", "road_lerf_accuracy"}
    np.testing.assert_allclose(curves["road_lerf_confidence"].y, confidence[:, [0, 3, 4]].mean(0))
    np.testing.assert_allclose(curves["road_morf_accuracy"].y, 100 * hits[:, :3].mean(0))
    assert curves["road_lerf_accuracy"].x.tolist() == [0, 30, 60]


def test_exactly_k_pixels_go_ties_in_reading_order() -> None:
    """A map that is zero but for three pixels: elsewhere a threshold at its percentile removes everything."""
    net = Watched()
    x = images(1, (10, 10))
    maps = torch.zeros(1, 10, 10)
    maps[0, 4, 4:7] = torch.tensor([1.0, 3.0, 2.0])
    ROAD(percentiles="2,50", noise=1.0)(net, x, maps, target=0, batch_size=1)
    changed = [(each != x).all(1)[0] for each in net.seen[-4:]]
    assert [int(each.sum()) for each in changed] == [2, 50, 2, 50]
    morf2, morf50, lerf2, lerf50 = (each.flatten().nonzero()[:, 0].tolist() for each in changed)
    assert morf2 == [45, 46]
    assert sorted({44, 45, 46} | set(range(44)) | {47, 48, 49}) == morf50
    assert lerf2 == [0, 1]
    assert sorted(set(range(53)) - {44, 45, 46}) == lerf50


def test_an_image_does_not_depend_on_its_batch_and_a_flat_map_scores_nothing() -> None:
    net, x = build(FunctionalGAP), images(4)
    maps = torch.rand(4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps[3] = 1
    metric = ROAD()
    all_of_them = metric(net, x, maps, batch_size=7)
    first = metric(net, x[:1], maps[:1])
    for name, values in first.items():
        assert values[0] == pytest.approx(float(all_of_them[name][0]), abs=1e-9)
    assert (all_of_them["road"] != 0).tolist() == [True, True, True, False]
    assert not torch.equal(metric(net, x, maps, seed=1)["road"][:3], all_of_them["road"][:3])


def test_a_map_of_the_evidence_beats_its_opposite() -> None:
    """The class is the brightness of the left half."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    weight = torch.zeros(2, 3, 16, 16)
    weight[0, :, :, :8] = 0.02
    net[1].weight.data, net[1].bias.data = weight.flatten(1), torch.zeros(2)
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, :, :7] = torch.rand(1, 3, 16, 7, generator=torch.Generator().manual_seed(0))
    left = (torch.arange(16) < 8).float().expand(1, 16, 16)
    metric = ROAD(percentiles="50")
    good, bad = metric(net, x, left), metric(net, x, -left)
    assert good["road"] > 0.1
    assert bad["road"] == pytest.approx(-good["road"].item(), abs=1e-6)


@pytest.mark.parametrize(
    "options", [{"percentiles": ""}, {"percentiles": "a"}, {"percentiles": "0,50"}, {"percentiles": "100"}, {"percentiles": 20}]
)
def test_wrong_percentiles(options: dict) -> None:
    with pytest.raises(OptionError, match="expected percentiles"):
        ROAD(**options)


def test_wrong_noise_and_the_registry() -> None:
    with pytest.raises(OptionError, match="expected noise"):
        ROAD(noise=-1)
    assert registry.metrics["road"] is ROAD
