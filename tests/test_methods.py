"""Each method against its naive twin, and the identities the papers imply."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lucidcam
import naive
from lucidcam.perturb.noise import noisy
from nets import CONVOLUTIONAL, DenseConcat, Fully, FunctionalGAP, Residual, SeveralFC, Tokens, build, images


def close(got: torch.Tensor, expected: np.ndarray, relative: float = 1e-9) -> None:
    scale = np.abs(expected).max()
    assert np.abs(got.numpy() - expected).max() <= relative * max(scale, 1e-300)


@pytest.mark.parametrize("method", naive.CAMS)
@pytest.mark.parametrize("where", CONVOLUTIONAL)
def test_equals_the_formula(method: str, where: str) -> None:
    kind, layer = CONVOLUTIONAL[where]
    net, x = build(kind), images()
    targets = [[0, 3], [2, 2], [4, 1]]
    got = lucidcam.attribute(net, x, method, target=targets, layer=layer)
    for i in range(3):
        for t in range(2):
            a, g, _ = naive.whole_graph(net, x[i : i + 1], layer, targets[i][t])
            close(got[i, t], naive.CAMS[method](a, g), 1e-9 if "eigen" not in method else 1e-7)


def test_counterfactual_takes_the_negative_gradient() -> None:
    net, x = build(SeveralFC), images()
    got = lucidcam.attribute(net, x, "gradcam", target=1, layer="features.4", counterfactual=True)
    for i in range(3):
        a, g, _ = naive.whole_graph(net, x[i : i + 1], "features.4", 1)
        close(got[i], naive.counterfactual(a, g))
    assert not torch.equal(got, lucidcam.attribute(net, x, "gradcam", target=1, layer="features.4"))


@pytest.mark.parametrize(("kind", "layer"), [(FunctionalGAP, "conv2"), (DenseConcat, "last"), (Residual, None), (DenseConcat, None)])
def test_cam_sums_to_the_score(kind: type, layer: str | None) -> None:
    """Σ_xy M_c / Z + b_c = Y^c, for every class."""
    net, x = build(kind), images()
    maps = lucidcam.attribute(net, x, "cam", target="all", layer=layer)
    torch.testing.assert_close(maps.mean((-2, -1)) + net.fc.bias.detach(), net(x).detach(), rtol=1e-9, atol=1e-9)


def test_cam_of_a_fully_convolutional_head() -> None:
    net, x = build(Fully), images()
    maps = lucidcam.attribute(net, x, "cam", target="all")
    head = net.classifier[1]
    torch.testing.assert_close(maps.mean((-2, -1)) + head.bias.detach(), net(x).detach(), rtol=1e-9, atol=1e-9)


def test_cam_of_contrast_and_probability_follow_the_chain_rule() -> None:
    net, x = build(FunctionalGAP), images()
    every = lucidcam.attribute(net, x, "cam", target="all", layer="conv2")
    contrast = lucidcam.attribute(net, x, "cam", target=lucidcam.Contrast(1, 4), layer="conv2")
    torch.testing.assert_close(contrast, every[:, 1] - every[:, 4])
    p = net(x).detach().softmax(1)
    expected = p[:, 1, None, None] * (every[:, 1] - torch.einsum("bk,bkhw->bhw", p, every))
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target=lucidcam.Probability(1), layer="conv2"), expected)
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target=lambda out: 2 * out[:, 3], layer="conv2"), 2 * every[:, 3])


def test_cam_refuses_another_head() -> None:
    with pytest.raises(lucidcam.LucidcamError, match=r"global average pooling and one linear layer.*use gradcam"):
        lucidcam.attribute(build(SeveralFC), images(), "cam", layer="features.4")


def test_gradcam_is_proportional_to_cam_on_gap_networks() -> None:
    net, x = build(Residual), images()
    cam = lucidcam.attribute(net, x, "cam", target=2).relu()
    gradcam = lucidcam.attribute(net, x, "gradcam", target=2)
    torch.testing.assert_close(gradcam * cam.shape[-1] * cam.shape[-2], cam)


@pytest.mark.parametrize("weights", ["increase", "softmax", "probability"])
@pytest.mark.parametrize("baseline", ["zeros", "mean", "blur"])
def test_scorecam_equals_a_loop_over_all_channels(weights: str, baseline: str) -> None:
    from lucidcam.perturb.baselines import baseline as empty_of

    net, x = build(SeveralFC, seed=3), images()
    net.features[3].weight.data[:4], net.features[3].bias.data[:4] = 0, torch.tensor([-1.0, 0.0, 0.0, 0.7]).double()  # constant channels
    got = lucidcam.attribute(net, x, "scorecam", target=[0, 1, 2], layer="features.4", weights=weights, baseline=baseline, batch_size=4)
    for i in range(3):
        one = x[i : i + 1]
        a, _, _ = naive.whole_graph(net, one, "features.4", i)
        close(got[i], naive.scorecam(net, one, a, i, weights, empty_of(one, baseline)), 1e-9)


def test_scorecam_runs_only_live_channels() -> None:
    net, x = build(SeveralFC, seed=3), images(1)
    net.features[3].weight.data[:4], net.features[3].bias.data[:4] = 0, 0
    rows = []
    lucidcam.attribute(net, x, "scorecam", target=0, layer="features.4")  # from now on it is known what the layer depends on
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    lucidcam.attribute(net, x, "scorecam", target=0, layer="features.4", weights="softmax")
    a, _, _ = naive.whole_graph(net, x, "features.4", 0)
    live = sum(k.max() > k.min() for k in a)
    assert live <= 6
    assert sum(rows[: len(rows) - 1]) - 1 == live  # one clean pass, then live channels (whole_graph's copy calls the hook as well)


@pytest.mark.parametrize("where", CONVOLUTIONAL)
def test_ablationcam_equals_one_pass_per_channel(where: str) -> None:
    kind, layer = CONVOLUTIONAL[where]
    net, x = build(kind), images(2)
    got = lucidcam.attribute(net, x, "ablationcam", target=[1, 3], layer=layer, batch_size=5)
    for i, target in enumerate((1, 3)):
        close(got[i], naive.ablationcam(net, x[i : i + 1], layer, target), 1e-9)


def test_ablationcam_runs_the_part_below_the_layer_once() -> None:
    net, x = build(SeveralFC), images(1)
    rows = []
    net.features[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    lucidcam.attribute(net, x, "ablationcam", target=1, layer="features.4")
    assert max(rows[:-1]) <= 2  # clean pass, trace, one trial on copies; then single images


def test_smoothgradcam_plus_plus_averages_derivatives() -> None:
    net, x = build(SeveralFC), images(2)
    got = lucidcam.attribute(net, x, "smoothgradcam++", target=1, layer="features.4", samples=3, noise=0.2, seed=7)
    generator = torch.Generator().manual_seed(7)
    copies = [noisy(x, 0.2, generator) for _ in range(3)]
    for i in range(2):
        a, _, _ = naive.whole_graph(net, x[i : i + 1], "features.4", 1)
        gs = [naive.whole_graph(net, copy[i : i + 1], "features.4", 1)[1] for copy in copies]
        close(got[i], naive.smoothgradcam_plus_plus(a, gs))


def test_iscam_integrates_masks_of_growing_strength() -> None:
    net, x = build(SeveralFC), images(1)
    got = lucidcam.attribute(net, x, "iscam", target=2, layer="features.4", steps=4, weights="probability")
    a, _, _ = naive.whole_graph(net, x, "features.4", 2)
    expected = np.zeros(a.shape[1:])
    for k in range(len(a)):
        up = torch.nn.functional.interpolate(torch.tensor(a[k])[None, None], size=x.shape[2:], mode="bilinear", align_corners=False)
        if a[k].max() == a[k].min():
            continue
        mask = (up - up.min()) / (up.max() - up.min())
        with torch.no_grad():
            expected += np.mean([net(x * mask * (i / 4)).softmax(1)[0, 2].item() for i in (1, 2, 3, 4)]) * a[k]
    close(got[0], naive.relu(expected))


@pytest.mark.parametrize("on", ["activation", "input"])
def test_sscam_without_noise_is_scorecam(on: str) -> None:
    net, x = build(SeveralFC), images(2)
    options = {"target": 1, "layer": "features.4"}
    torch.testing.assert_close(
        lucidcam.attribute(net, x, "sscam", samples=2, noise=0.0, on=on, **options), lucidcam.attribute(net, x, "scorecam", **options)
    )
    some = lucidcam.attribute(net, x, "sscam", samples=2, noise=0.3, on=on, **options)
    assert not torch.allclose(some, lucidcam.attribute(net, x, "scorecam", **options))


def test_rise_equals_its_definition() -> None:
    from lucidcam.perturb.masks import rise_masks

    net, x = build(FunctionalGAP), images(2)
    got = lucidcam.attribute(net, x, "rise", target=[1, 4], masks=100, cells=4, seed=5, batch_size=7)
    generator = torch.Generator().manual_seed(5)
    masks = torch.cat([rise_masks(64, (20, 28), 4, 0.5, generator) for _ in range(2)])[:100].double()
    for i, target in enumerate((1, 4)):
        with torch.no_grad():
            scores = [net(x[i : i + 1] * mask).softmax(1)[0, target] for mask in masks]
        expected = sum(score * mask[0] for score, mask in zip(scores, masks, strict=True)) / (100 * 0.5)
        close(got[i], expected.numpy())
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    assert abs(float(masks.mean()) - 0.5) < 0.05


def test_occlusion_equals_its_definition() -> None:
    net, x = build(FunctionalGAP), images(2)
    got = lucidcam.attribute(net, x, "occlusion", target=3, window=6, stride=4, baseline="mean")
    for i in range(2):
        total, seen = np.zeros((20, 28)), np.zeros((20, 28))
        for top in (0, 4, 8, 12, 14):
            for left in (0, 4, 8, 12, 16, 20, 22):
                hidden = x[i : i + 1].clone()
                hidden[..., top : top + 6, left : left + 6] = x[i].mean((1, 2))[None, :, None, None]
                with torch.no_grad():
                    total[top : top + 6, left : left + 6] += (net(x[i : i + 1]) - net(hidden))[0, 3].item()
                seen[top : top + 6, left : left + 6] += 1
        close(got[i], total / seen)


def test_gradient_is_the_largest_magnitude_over_colours() -> None:
    net, x = build(SeveralFC), images()
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)[0]
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradient", target=2), expected.abs().amax(1))
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradient", target=2, reduce="sum"), expected.sum(1))
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradient", target=2, reduce="none"), expected)


def test_guided_gradcam_is_the_product() -> None:
    net, x = build(SeveralFC), images()
    guided = lucidcam.attribute(net, x, "guided_backprop", target=2, reduce="none")
    cam = lucidcam.attribute(net, x, "gradcam", target=2)
    up = torch.nn.functional.interpolate(cam[:, None], size=x.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(lucidcam.attribute(net, x, "guided_gradcam", target=2, reduce="none"), guided * up)


def test_excitation_backprop_is_a_distribution_and_its_contrast_is_not_negative() -> None:
    net, x = build(SeveralFC), images()
    for module in net.modules():  # a unit that is on by its bias alone has nothing below it to pass its share to
        if getattr(module, "bias", None) is not None:
            torch.nn.init.zeros_(module.bias)
    maps = lucidcam.attribute(net, x, "excitation_backprop", target=[[0, 1]] * 3, layer="features.4")
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(3, 2, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    contrast = lucidcam.attribute(net, x, "contrastive_excitation_backprop", target=[[0, 1]] * 3, layer="features.4")
    assert contrast.min() >= 0
    assert contrast.max() > 0


@pytest.mark.parametrize(("prefix", "pool"), [(0, True), (1, False), (5, False)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_tokens_become_maps(prefix: int, pool: bool, size: tuple[int, int]) -> None:
    net, x = build(Tokens, prefix=prefix, pool=pool), images(2, size)
    got = lucidcam.attribute(net, x, "gradcam", target=1, layer="blocks.1.norm1")
    h, w = size[0] // 4, size[1] // 4
    assert got.shape == (2, h, w)
    for i in range(2):
        a, g, _ = naive.whole_graph(net, x[i : i + 1], "blocks.1.norm1", 1)
        a, g = (v[prefix:].T.reshape(16, h, w) for v in (a, g))
        close(got[i], naive.gradcam(a, g))


def test_fusion_of_layers() -> None:
    net, x = build(SeveralFC), images(2)
    layers = ["features.1", "features.4"]
    first, second = (lucidcam.attribute(net, x, "layercam", target=1, layer=layer) for layer in layers)
    second = torch.nn.functional.interpolate(second[:, None] / second.amax((1, 2))[:, None, None, None], size=(20, 28), mode="bilinear")[
        :, 0
    ]
    first = first / first.amax((1, 2))[:, None, None]
    for how, expected in {"mean": (first + second) / 2, "max": torch.maximum(first, second), "product": first * second}.items():
        torch.testing.assert_close(lucidcam.attribute(net, x, "layercam", target=1, layer=layers, fusion=how), expected)


def test_fused_layers_share_one_forward_pass() -> None:
    net, x = build(SeveralFC), images(2)
    lucidcam.attribute(net, x, "gradcam", layer="features.1")
    calls = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    lucidcam.attribute(net, x, "gradcam", layer=["features.1", "features.4"])
    assert len(calls) == 1


def test_augmentation_turns_maps_back() -> None:
    net, x = build(SeveralFC), images(2)
    options = {"target": 1, "layer": "features.4"}
    plain = lucidcam.attribute(net, x, "gradcam", **options)
    flipped = lucidcam.attribute(net, x.flip(-1), "gradcam", **options).flip(-1)
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradcam", augment="hflip", **options), (plain + flipped) / 2)
    upside = lucidcam.attribute(net, x.flip(-2), "gradcam", **options).flip(-2)
    louder, quieter = (lucidcam.attribute(net, x * gain, "gradcam", **options) for gain in (1.1, 0.9))
    every = (plain + flipped + upside + louder + quieter) / 5
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradcam", augment="hflip,vflip,gain", **options), every)


def test_smoothing_averages_noisy_copies_of_any_method() -> None:
    net, x = build(SeveralFC), images(2)
    got = lucidcam.attribute(net, x, "gradcam", target=1, smooth=3, smooth_noise=0.2, seed=4)
    generator = torch.Generator().manual_seed(4)
    expected = torch.stack([lucidcam.attribute(net, noisy(x, 0.2, generator), "gradcam", target=1) for _ in range(3)]).mean(0)
    torch.testing.assert_close(got, expected)


def test_smoothing_keeps_the_class_predicted_for_the_clean_image() -> None:
    net, x = build(SeveralFC), images(2)
    predicted = net(x).argmax(1)
    torch.testing.assert_close(
        lucidcam.attribute(net, x, "gradcam", smooth=3, smooth_noise=2.0),
        lucidcam.attribute(net, x, "gradcam", smooth=3, smooth_noise=2.0, target=predicted),
    )


def test_all_classes_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import lucidcam.attribution as runner

    net, x = build(SeveralFC), images(2)
    whole = lucidcam.attribute(net, x, "gradcam", target="all")
    monkeypatch.setattr(runner, "GRADIENT_BYTES", 1)
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradcam", target="all"), whole)
    assert whole.shape[:2] == (2, 5)
