"""Real architectures (random weights): which layer is found by default, and gradients of the cut graph against the whole one's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.utils.optional import import_timm, import_torchvision
from nets import few_numbers_drawn

DEFAULTS = {
    "torchvision:alexnet": ("features.11", (13, 13)),
    "torchvision:vgg16": ("features.29", (14, 14)),
    "torchvision:resnet18": ("layer4", (7, 7)),
    "torchvision:googlenet": ("inception5b", (7, 7)),
    "torchvision:densenet121": ("features", (7, 7)),
    "torchvision:mobilenet_v2": ("features", (7, 7)),
    "torchvision:squeezenet1_1": ("features", (13, 13)),
    "torchvision:efficientnet_b0": ("features", (7, 7)),
    "torchvision:shufflenet_v2_x0_5": ("conv5", (7, 7)),
    "torchvision:regnet_y_400mf": ("trunk_output", (7, 7)),
    "torchvision:convnext_tiny": ("features", (7, 7)),
    "torchvision:vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", (7, 7)),
    "torchvision:swin_t": ("features.7.1.norm2", (7, 7)),
    "torchvision:maxvit_t": ("blocks.3", (7, 7)),
    "timm:tf_efficientnet_lite0": ("bn2", (7, 7)),
    "timm:densenet121": ("features", (7, 7)),
    "timm:vit_tiny_patch16_224": ("blocks.11.norm1", (14, 14)),
    "timm:deit_tiny_distilled_patch16_224": ("blocks.11.norm1", (14, 14)),
    "timm:swin_tiny_patch4_window7_224": ("layers.3.blocks.1.norm2", (7, 7)),
    "timm:convnext_atto": ("stages", (7, 7)),
    "timm:mixer_s16_224": ("norm", (14, 14)),
    "timm:hrnet_w18_small": ("final_layer", (7, 7)),
    "timm:seresnet18": ("layer4", (7, 7)),
    "timm:vgg11_bn": ("features.27", (14, 14)),
}


def network(spec: str, **options: Any) -> nn.Module:
    source, _, name = spec.partition(":")
    torch.manual_seed(0)
    with few_numbers_drawn():
        if source == "timm":
            return import_timm().create_model(name, **options).eval()
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        return import_torchvision().models.get_model(name, weights=None, **options).eval()


TOKENS = ("torchvision:swin_t", "timm:vit_tiny_patch16_224")
"""Networks of tokens, which are asked about images of their own size."""


@pytest.mark.parametrize("spec", DEFAULTS)
def test_default_layer(spec: str) -> None:
    layer, grid = DEFAULTS[spec]
    net = network(spec)
    found = {name: info for name, info in lucidcam.layers(net, torch.randn(1, 3, 224, 224)).items() if info.default}
    assert list(found) == [layer]
    assert found[layer].grid == grid


@pytest.mark.parametrize(
    ("name", "options", "size", "grid"),
    [
        ("vit_tiny_patch16_224", {"img_size": (96, 160)}, (96, 160), (6, 10)),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "img_size": 96}, (96, 96), (6, 6)),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 98, "num_classes": 10}, (98, 98), (7, 7)),
        ("swin_tiny_patch4_window7_224", {"img_size": (224, 448)}, (224, 448), (7, 14)),
    ],
)
def test_tokens_that_are_no_square_and_registers(name: str, options: dict[str, Any], size: tuple[int, int], grid: tuple[int, int]) -> None:
    net = network(f"timm:{name}", **options)
    assert lucidcam.attribute(net, torch.randn(1, 3, *size)).shape == (1, *grid)


@pytest.mark.parametrize(
    "spec",
    [
        "torchvision:resnet18",
        "torchvision:vgg11",
        "torchvision:googlenet",
        "torchvision:densenet121",
        "torchvision:mobilenet_v2",
        "torchvision:squeezenet1_1",
        "torchvision:convnext_tiny",
        *TOKENS,
        "timm:tf_efficientnet_lite0",
    ],
)
def test_the_cut_graph_equals_the_whole_one(spec: str) -> None:
    net = network(spec).double()
    layer, _ = DEFAULTS.get(spec, ("features.19", None))
    side = 224 if spec in TOKENS else 96
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    got = lucidcam.attribute(net, x, "hirescam", target=[[3, 700]], layer=layer)
    a, grads, layout = whole_graph(net, x, layer, (3, 700))
    for t, g in enumerate(grads):
        product = (a * g)[0]
        channels = {4: 0 if layout == "first" else -1, 3: -1}[a.ndim]
        expected = product.sum(channels)
        if a.ndim == 3:
            expected = expected[-got[0, t].numel() :].reshape(got.shape[-2:])
        torch.testing.assert_close(got[0, t], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def whole_graph(net: nn.Module, x: Tensor, layer: str, targets: tuple[int, ...]) -> tuple[Tensor, list[Tensor], str]:
    net = copy.deepcopy(net)
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        kept.append(out)
        return out.clone()

    module = dict(net.named_modules())[layer]
    module.register_forward_hook(hook)
    scores = net(x.clone().requires_grad_())
    grads = [torch.autograd.grad(scores[0, t], kept[-1], retain_graph=True)[0] for t in targets]
    return kept[-1].detach(), grads, "last" if isinstance(module, nn.LayerNorm) else "first"


def test_cam_identity_on_networks_with_functional_relu_before_the_pooling() -> None:
    net, x = network("torchvision:densenet121").double(), torch.randn(2, 3, 96, 96, dtype=torch.float64)
    maps = lucidcam.attribute(net, x, "cam", target=[[1, 2], [3, 4]])
    scores = net(x).detach().gather(1, torch.tensor([[1, 2], [3, 4]]))
    bias = net.classifier.bias.detach()[torch.tensor([[1, 2], [3, 4]])]
    torch.testing.assert_close(maps.mean((-2, -1)) + bias, scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "torchvision:vgg11"])
def test_excitation_mass_is_one_on_a_photo(spec: str) -> None:
    from skimage import data

    photo = torch.tensor(data.astronaut()).permute(2, 0, 1)[None].float() / 255  # has black regions
    photo = nn.functional.interpolate(photo, (224, 224), mode="bilinear", antialias=True)
    x = (photo - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    net = network(spec)
    for layer in (None, "layer3" if "resnet" in spec else "features.15"):
        total = lucidcam.attribute(net, x, "excitation_backprop", target=[[5, 9]], layer=layer).sum((-2, -1))
        torch.testing.assert_close(total, torch.ones(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_ablation_on_an_inner_branch_and_on_tokens_equals_copies() -> None:
    """Where substitution is not possible it falls back; where it is, it gives the same."""
    for spec, layer in (("torchvision:googlenet", "inception5b.branch2"), ("timm:vit_tiny_patch16_224", "blocks.11.norm1")):
        net = network(spec)
        x = torch.randn(1, 3, 64, 64) if "google" in spec else torch.randn(1, 3, 224, 224)
        a, _, _ = whole_graph(net, x, layer, (1,))
        got = lucidcam.attribute(net, x, "ablationcam", target=1, layer=layer)
        assert bool(torch.isfinite(got).all())
        channel = int(a.abs().flatten(2).sum(-1).argmax()) if a.ndim == 4 else 0
        drop = ablated(net, x, layer, channel)
        assert drop == pytest.approx(weight_of(net, x, layer, channel), rel=1e-2, abs=1e-5)


def ablated(net: nn.Module, x: Tensor, layer: str, channel: int) -> float:
    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        out = out.clone()
        if out.ndim == 4:
            out[:, channel] = 0
        else:
            out[:, 1:, channel] = 0  # the class token stays
        return out

    with torch.no_grad():
        clean = net(x)[0, 1]
        handle = dict(net.named_modules())[layer].register_forward_hook(hook)
        score = net(x)[0, 1]
        handle.remove()
    return float((clean - score) / clean)


def weight_of(net: nn.Module, x: Tensor, layer: str, channel: int) -> float:
    """The weight that the engine gives one channel, by substituting only that one."""
    from lucidcam.engine.run import open_run

    with open_run(net, x, 1, layer) as run:
        maps = run.capture().activations[0, 0].clone()
        maps[channel] = 0
        score = run.substituted(0, 1, lambda _: maps[None])
        return float((run.clean_scores()[0, 0] - score[0, 0]) / run.clean_scores()[0, 0])


HEAVY = pytest.param("torchvision:vgg11_bn", marks=pytest.mark.slow)
SLOW_COPY = pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.slow)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", HEAVY, SLOW_COPY, "timm:tf_efficientnet_lite0"])
def test_optimised_copy(spec: str) -> None:
    net, x = network(spec), torch.randn(2, 3, 96, 96)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fast = lucidcam.optimize(net, x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    methods = ["gradcam", "guided_backprop", "eigencam"]
    if spec == "torchvision:resnet18":  # which has the fewest channels to ablate
        methods += ["ablationcam", "cam", "excitation_backprop", "contrastive_excitation_backprop"]
    for method in methods:
        one, two = lucidcam.attribute(net, x, method, target=5), lucidcam.attribute(fast, x, method, target=5)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
    half = lucidcam.optimize(net, x, dtype=torch.bfloat16)
    coarse = lucidcam.attribute(half, x, "hirescam", target=5)
    exact = lucidcam.attribute(net, x, "hirescam", target=5)
    assert torch.corrcoef(torch.stack([coarse.flatten(), exact.flatten()]))[0, 1] > 0.95


def test_folding_leaves_alone_what_others_read() -> None:
    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((self.norm(x) + x).mean((2, 3)))

    net = Shares().eval()
    net.norm.running_mean.fill_(0.3)
    fast = lucidcam.optimize(net, torch.randn(1, 3, 8, 8))
    assert isinstance(fast.norm, nn.BatchNorm2d)
    with pytest.raises(lucidcam.LucidcamError, match="expected dtype"):
        lucidcam.optimize(net, torch.randn(1, 3, 8, 8), dtype=torch.int8)


def test_hugging_face_layers_that_return_tuples(tmp_path: Any) -> None:
    from lucidcam.utils.optional import import_transformers

    transformers = import_transformers()
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16, num_labels=4
    )
    net = transformers.ViTForImageClassification(config).eval()
    x = torch.randn(2, 3, 64, 64)
    assert lucidcam.attribute(net, {"pixel_values": x}, "gradcam").shape == (2, 4, 4)
    (default,) = [name for name, info in lucidcam.layers(net, {"pixel_values": x}).items() if info.default]
    assert default.endswith("1.layernorm_before")
    blocks = [name for name in lucidcam.layers(net) if type(net.get_submodule(name)).__name__ == "ViTLayer"]
    assert lucidcam.attribute(net, x, "layercam", layer=blocks[0]).shape == (2, 4, 4)
    assert lucidcam.attribute(net, x, "ablationcam", layer=blocks[0]).shape == (2, 4, 4)
