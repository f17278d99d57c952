"""Score-CAM with fewer passes: what stays exact, what is estimated, and how well the estimate knows its error."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
import naive
from lucidcam.attribution import compute
from lucidcam.engine.run import open_run
from lucidcam.methods.settings import resolve_method
from lucidcam.perturb.redundancy import clusters, equal_rows, unit_rows
from lucidcam.perturb.surrogate import NUGGET, Surrogate
from nets import SeveralFC, build, images

if TYPE_CHECKING:
    from collections.abc import Callable

LAYER = "3"
CHANNELS = 40


def wide(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A network with forty channels on a 6×5 grid, and images for it."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.Conv2d(12, CHANNELS, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    net.extend([nn.Linear(4 * CHANNELS, 16), nn.Tanh(), nn.Linear(16, 5)])
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)  # a black image has no score, so that the predicted class's increase is positive
    return net.to(dtype).eval()


def photos(count: int = 1, seed: int = 1) -> Tensor:
    """Smooth random images `[n, 3, 27, 31]`."""
    return nn.functional.interpolate(images(count, (5, 6), seed), size=(31, 27), mode="bicubic")


def counted(net: nn.Module) -> list[int]:
    """Rows of every forward pass from now on."""
    rows: list[int] = []
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def explained(net: nn.Module, x: Tensor, method: str = "scorecam", **options: Any) -> tuple[Tensor, Tensor]:
    """Maps of the predicted classes `[n, h, w]` and their estimated errors `[n]`, 0 where they are exact."""
    chosen, settings = resolve_method(method, options)
    with open_run(net, x, layer=LAYER, seed=settings.seed) as run:
        maps = compute(run, chosen, settings)
        return maps[:, 0], torch.stack(run.errors).amax(0)[:, 0] if run.errors else torch.zeros(len(x), dtype=x.dtype)


def distance(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())


# -------------------------------------------------------------------------------------------------------------------- exact


def doubled(net: nn.Sequential) -> nn.Sequential:
    """The same with ten channels that are multiples of others: equal masks, other activations."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        factors = torch.linspace(0.3, 3, 10, dtype=torch.float64)
        net[2].weight[20:30] = net[2].weight[:10] * factors[:, None, None, None]
        net[2].bias[20:30] = net[2].bias[:10] * factors
    return net


@pytest.mark.parametrize("weights", ["increase", "softmax", "probability"])
def test_channels_with_equal_masks_are_run_once_and_count_each(weights: str) -> None:
    net, x = doubled(wide()), photos()
    a, _, _ = naive.whole_graph(net, x, LAYER, 2)
    live = [k for k in range(CHANNELS) if a[k].max() > a[k].min()]
    masks = {tuple(((a[k] - a[k].min()) / (a[k].max() - a[k].min())).round(9).ravel()) for k in live}
    assert len(masks) <= len(live) - 5
    lucidcam.attribute(net, x, "scorecam", layer=LAYER)  # remembers the network's trace, and that images do not influence each other
    rows = counted(net)
    got = lucidcam.attribute(net, x, "scorecam", target=2, layer=LAYER, weights=weights, batch_size=7)
    assert sum(rows) == 1 + len(masks) + (weights == "increase")
    expected = naive.scorecam(net, x, a, 2, weights, torch.zeros_like(x))
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-9 * np.abs(expected).max())


def test_explanations_tell_the_error() -> None:
    preprocess = lambda picture: torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)  # noqa: E731
    model = lucidcam.wrap(wide(dtype=torch.float32), preprocess=preprocess, layer=LAYER)
    picture = (255 * photos()[0].clamp(0, 1)).permute(1, 2, 0).byte().numpy()
    exact = lucidcam.explain(model, picture, "scorecam")[0]
    assert exact.error is None
    assert "error" not in exact.to_dict()
    for options in ({"budget": 10}, {"clusters": 4}, {"top_channels": 4}):
        found = lucidcam.explain(model, picture, "scorecam", target="top2", **options)
        assert len({e.error for e in found}) == 2
        for e in found:
            assert e.error is not None
            assert 0 < e.error < 1
            assert e.to_dict()["error"] == e.error
    rise = lucidcam.explain(model, picture, "rise", masks=100)[0]
    assert rise.error is not None
    assert 0 < rise.error <= 1


def test_equal_rows_are_found_up_to_rounding() -> None:
    rows = unit_rows(torch.rand(6, 9, generator=torch.Generator().manual_seed(0)))
    many = torch.cat([rows[[2, 0, 1]], rows[[0, 2]] * (1 + 2e-8), rows[3:]])
    first, sets = equal_rows(many)
    assert first.tolist() == [0, 1, 2, 5, 6, 7]
    assert sets.tolist() == [0, 1, 2, 1, 0, 3, 4, 5]


# ---------------------------------------------------------------------------------------------------------------- estimated


@pytest.mark.parametrize("options", [{"budget": CHANNELS}, {"clusters": CHANNELS}, {"top_channels": CHANNELS}, {"tolerance": 1e-9}])
@pytest.mark.parametrize("weights", ["increase", "softmax", "probability"])
@pytest.mark.parametrize("method", ["scorecam", "iscam", "sscam"])
def test_all_masks_give_the_exact_map(method: str, weights: str, options: dict[str, float]) -> None:
    net, x = wide(), photos(2)
    more = {"iscam": {"steps": 2}, "sscam": {"samples": 2}}.get(method, {})
    exact, _ = explained(net, x, method, weights=weights, **more)
    got, error = explained(net, x, method, weights=weights, **more, **options)
    torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6 * float(exact.max()))
    assert float(error.max()) <= 1e-6


@pytest.mark.parametrize("weights", ["increase", "softmax", "probability"])
@pytest.mark.parametrize(("options", "most"), [({"budget": 11}, 11), ({"clusters": 7}, 7), ({"top_channels": 9}, 9)])
def test_no_more_masks_are_run_than_allowed(weights: str, options: dict[str, int], most: int) -> None:
    net, x = wide(), photos(3)
    lucidcam.attribute(net, x, "gradcam", layer=LAYER)  # remembers the network's trace
    rows = counted(net)
    lucidcam.attribute(net, x, "scorecam", layer=LAYER, weights=weights, **options)
    masked = sum(rows) - 3 - 3 * (weights == "increase")  # the clean images, and the baseline
    assert 0 < masked <= 3 * most
    if "budget" in options:
        assert masked == 3 * most


@pytest.mark.parametrize("options", [{"budget": 12}, {"budget": 12, "weights": "softmax"}, {"tolerance": 0.1}, {"clusters": 8}])
def test_a_batch_gives_what_its_images_give_alone(options: dict[str, object]) -> None:
    net, x = wide(), photos(3)
    together, error = explained(net, x, **options)
    again, error_again = explained(net, x, **options)
    assert torch.equal(together, again)
    assert torch.equal(error, error_again)
    for i in range(3):
        alone, error_alone = explained(net, x[i : i + 1], **options)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(error[i : i + 1], error_alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{"budget": 12}, {"budget": 12, "weights": "probability"}, {"clusters": 8}, {"top_channels": 8}])
def test_several_targets_share_the_masks(options: dict[str, object]) -> None:
    net, x = wide(), photos(2)
    rows = counted(net)
    both = lucidcam.attribute(net, x, "scorecam", target=[[0, 3], [2, 4]], layer=LAYER, **options)
    shared = sum(rows)
    for t, target in enumerate(([0, 2], [3, 4])):
        rows.clear()
        alone = lucidcam.attribute(net, x, "scorecam", target=target, layer=LAYER, **options)
        torch.testing.assert_close(both[:, t], alone)
    assert sum(rows) <= shared


def test_clusters_follow_the_seed() -> None:
    net, x = wide(), photos()
    one, two, three = (lucidcam.attribute(net, x, "scorecam", layer=LAYER, clusters=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_a_budget_beats_clusters_and_top_channels() -> None:
    found: dict[str, list[float]] = {"budget": [], "clusters": [], "top_channels": []}
    for seed in range(6):
        net, x = wide(seed), photos(2, seed + 50)
        exact, _ = explained(net, x)
        for name, values in found.items():
            values += [distance(got, one) for got, one in zip(explained(net, x, **{name: 8})[0], exact, strict=True)]
    means = {name: np.mean(values) for name, values in found.items()}
    assert means["budget"] < 0.7 * means["clusters"]
    assert means["clusters"] < means["top_channels"]


@pytest.mark.parametrize("options", [{"budget": 6}, {"budget": 12}, {"budget": 18}, {"clusters": 8}, {"top_channels": 8}])
def test_the_estimated_error_is_near_the_true_one(options: dict[str, int]) -> None:
    ratios = []
    for seed in range(8):
        net, x = wide(seed), photos(2, seed + 50)
        exact, _ = explained(net, x)
        got, error = explained(net, x, **options)
        ratios += [float(e) / distance(a, b) for e, a, b in zip(error, got, exact, strict=True)]
    assert 0.5 < np.median(ratios) < 3
    assert min(ratios) > 0.2
    assert max(ratios) < 8


def peaked(seed: int, scale: float) -> nn.Module:
    """Logits so large that the softmax over channels goes to a few of them, or to one."""
    net = wide(seed)
    net[8].weight.data *= scale
    return net


def edged(seed: int, scale: float) -> nn.Module:
    """The same with a score that jumps from mask to mask: the largest of many places."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 80, 3, stride=2), nn.ReLU(), nn.Conv2d(80, 32, 3), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 5)).double().eval()
    net[8].weight.data *= scale
    return net


@pytest.mark.parametrize("options", [{"tolerance": 0.1}, {"budget": 14}])
@pytest.mark.parametrize(("make", "scale"), [(peaked, 50), (peaked, 1500), (edged, 100), (edged, 500)])
def test_the_error_of_softmax_weights_knows_that_one_score_may_decide(
    make: Callable[[int, float], nn.Module], scale: float, options: dict[str, float]
) -> None:
    """Near the map expected so far a peaked softmax hardly changes with any score: its error lies in scores that may be larger yet."""
    estimated, true = [], []
    for seed in range(5):
        net, x = make(seed, scale), photos(2, seed + 50)
        exact, _ = explained(net, x, weights="softmax")
        got, error = explained(net, x, weights="softmax", **options)
        estimated += error.tolist()
        true += [distance(a, b) for a, b in zip(got, exact, strict=True)]
    estimates, truths = np.array(estimated), np.array(true)
    assert (estimates >= truths / 2).mean() >= 0.9
    assert 0.6 * np.sqrt(np.mean(truths**2)) < np.sqrt(np.mean(estimates**2))
    assert np.sqrt(np.mean(estimates**2)) < max(4 * np.sqrt(np.mean(truths**2)), 0.12)
    if "tolerance" in options:
        assert estimates.max() <= 0.1
        assert (truths <= 0.2).mean() >= 0.9


@pytest.mark.parametrize(("method", "more"), [("sscam", {"samples": 2}), ("iscam", {"steps": 2})])
def test_the_error_of_softmax_weights_holds_for_the_descendants(method: str, more: dict[str, int]) -> None:
    estimated, true = [], []
    for seed in range(3):
        net, x = peaked(seed, 1000), photos(2, seed + 50)
        exact, _ = explained(net, x, method, weights="softmax", **more)
        got, error = explained(net, x, method, weights="softmax", tolerance=0.2, **more)
        estimated += error.tolist()
        true += [distance(a, b) for a, b in zip(got, exact, strict=True)]
    assert max(estimated) <= 0.2
    assert np.mean([e >= t / 2 for e, t in zip(estimated, true, strict=True)]) >= 0.8


def test_tolerance_stops_where_the_estimate_is_small_enough() -> None:
    net, x = wide(), photos(2)
    spent = {}
    for tolerance in (0.3, 0.1, 0.03):
        rows = counted(probe := copy.deepcopy(net))
        _, error = explained(probe, x, tolerance=tolerance)
        assert float(error.max()) <= tolerance
        spent[tolerance] = sum(rows)
    assert spent[0.3] <= spent[0.1] <= spent[0.03]
    assert spent[0.3] < spent[0.03]
    _, capped = explained(net, x, tolerance=0.001, budget=9)
    assert float(capped.min()) > 0.001


def test_errors_of_several_maps_are_told_as_the_largest() -> None:
    net, x = wide(), photos()
    plain, flipped = (float(explained(net, one, budget=10)[1]) for one in (x, x.flip(-1)))
    assert plain != flipped
    _, both = explained(net, x, budget=10, augment="hflip")
    assert float(both) == pytest.approx(max(plain, flipped), rel=0.5)
    assert float(both) >= plain


def test_an_image_without_live_channels() -> None:
    net = wide()
    for options in ({}, {"budget": 3}, {"clusters": 3}, {"top_channels": 3}, {"tolerance": 0.1}):
        assert not lucidcam.attribute(net, torch.zeros(1, 3, 31, 27).double(), "scorecam", layer=LAYER, **options).any()


def test_options_that_exclude_each_other() -> None:
    net, x = build(SeveralFC), images(1)
    for method in ("scorecam", "sscam", "iscam"):
        with pytest.raises(lucidcam.LucidcamError, match="one of budget"):
            lucidcam.attribute(net, x, method, budget=3, clusters=3)
        with pytest.raises(lucidcam.LucidcamError, match="0 ≤ tolerance < 1"):
            lucidcam.attribute(net, x, method, tolerance=1.5)


# ---------------------------------------------------------------------------------------------------------------- surrogate


def matern(points: np.ndarray) -> np.ndarray:
    """The covariance once more, number by number."""
    count = len(points)
    distances = np.array([[np.sqrt(((points[i] - points[j]) ** 2).sum()) for j in range(count)] for i in range(count)])
    ordered = np.sort(distances[distances > 0])
    near = np.sqrt(3) * distances / ordered[(len(ordered) - 1) // 2]
    return 1 + (1 + near) * np.exp(-near)


def test_the_surrogate_is_the_textbook_posterior() -> None:
    points = torch.rand(14, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.stack([points.sum(1), points.square().sum(1)], dim=1)
    seen = [3, 0, 7, 12, 9]
    prior = matern(points.numpy())
    inverse = np.linalg.inv(prior[np.ix_(seen, seen)] + NUGGET * np.eye(5))
    posterior = Surrogate(points).fit(seen, scores[seen])
    others = [i for i in range(14) if i not in seen]
    np.testing.assert_allclose(posterior.mean[others], (prior[:, seen] @ inverse @ scores[seen].numpy())[others], rtol=1e-9)
    np.testing.assert_allclose(posterior.mean[seen], scores[seen])
    variance = np.diag(scores[seen].numpy().T @ inverse @ scores[seen].numpy()) / 5
    np.testing.assert_allclose(posterior.variance, variance, rtol=1e-9)
    left = prior - prior[:, seen] @ inverse @ prior[seen]
    directions = torch.rand(14, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert posterior.squared_error(directions) == pytest.approx(np.trace(directions.numpy().T @ left @ directions.numpy()))


def test_samples_have_the_posteriors_mean_and_covariance() -> None:
    points = torch.rand(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.stack([points.sum(1), 5 * points.square().sum(1)], dim=1)
    seen, others = [3, 0, 7, 5], [1, 2, 4, 6, 8]
    surrogate = Surrogate(points)
    posterior = surrogate.fit(seen, scores[seen])
    samples = posterior.samples(surrogate.draws(200_000, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(samples[:, seen], scores[seen].expand(len(samples), -1, -1))
    torch.testing.assert_close(samples.mean(0), posterior.mean, rtol=0.02, atol=0.02)
    prior = matern(points.numpy()) + NUGGET * np.eye(9)
    left = prior - prior[:, seen] @ np.linalg.inv(prior[np.ix_(seen, seen)]) @ prior[seen]
    for t in range(2):
        expected = left[np.ix_(others, others)] * float(posterior.variance[t])
        np.testing.assert_allclose(np.cov(samples[:, others, t].T.numpy()), expected, atol=0.02 * expected.max())


def test_picks_reduce_the_expected_error_most() -> None:
    """Each pick is the best of all that are left, tried one by one."""
    points = torch.rand(12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    directions = torch.rand(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    surrogate, seen = Surrogate(points), [5]

    def left(known: list[int]) -> float:
        return surrogate.fit(known, torch.ones(len(known), 1, dtype=torch.float64)).squared_error(directions)

    for pick in surrogate.pick(seen, directions, 6):
        assert pick == min((i for i in range(12) if i not in seen), key=lambda i: left([*seen, i]))
        seen.append(pick)
    assert sorted(seen + surrogate.pick(seen, directions, 99)) == list(range(12))


def test_clusters_are_what_they_should_be() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = torch.cat([centre + 0.1 * torch.randn(20, 2, generator=generator) for centre in centres])
    members, groups = clusters(points, 3, torch.Generator().manual_seed(4))
    assert len(members) == 3
    for group, member in enumerate(members.tolist()):
        own = (groups == group).nonzero()[:, 0]
        assert member in own.tolist()
        assert len({int(i) // 20 for i in own}) == 1
        mean = points[own].mean(0)
        assert member == min(own.tolist(), key=lambda i: float((points[i] - mean).norm()))
    same, one = clusters(torch.ones(4, 2), 3, torch.Generator().manual_seed(0))
    assert len(same) == 1
    assert one.tolist() == [0, 0, 0, 0]
