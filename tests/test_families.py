"""Families of networks with random weights: the default layer explains, and its map is in its place; origins of tokens; trials."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import Layout
from lucidcam.engine.run import open_run
from lucidcam.engine.token_layout import settled
from lucidcam.engine.trace import trace
from lucidcam.utils.optional import import_timm, import_torchvision, import_transformers

ROOT = Path(__file__).parent.parent
QUICK = ["resnet18", "levit_128s", "vit_tiny_patch16_224", "xcit_nano_12_p16_224"]
SAMPLE = """cait_xxs24_224 coatnet_pico_rw_224 convnext_atto convnextv2_atto deit_tiny_distilled_patch16_224 densenet121
efficientnet_b0 fastvit_t8 ghostnet_050 hiera_tiny_224 legacy_xception mixer_s32_224
mobilenetv3_small_050 mobilevit_xxs poolformer_s12 pvt_v2_b0 regnetx_002 repvit_m0_9 seresnet18 swin_tiny_patch4_window7_224
swinv2_cr_tiny_ns_224 tiny_vit_5m_224 vit_small_patch14_reg4_dinov2 volo_d1_224"""
"""Beside the quick ones; the whole list of bench/families.py, from which docs/families.md is made, takes a quarter of an hour."""
STAGES = {"hiera_tiny_224": (1, 4)}
"""Hiera sorts its tokens by windows until the last stage: there is no map of the others."""


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("families")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLE.split())])
def test_timm(name: str, families: ModuleType) -> None:
    assert name in families.TIMM
    _, found = families.judge(families.of_timm, name)
    assert found.in_place, found
    equal, stages = found.reference
    assert (equal, stages) == STAGES.get(name, (stages, stages))


TORCHVISION = ["alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit", "mnasnet", "mobilenetv2"]
TORCHVISION += ["mobilenetv3", "regnet", "resnet", "shufflenetv2", "squeezenet", "swin_transformer", "swin_transformer_v2", "vgg"]
TORCHVISION += ["vision_transformer"]
SMALL = ("mobilenetv3", "squeezenet")


def test_every_family_of_torchvision_is_here(families: ModuleType) -> None:
    assert sorted(families.torchvision_families()) == TORCHVISION


@pytest.mark.parametrize("family", [*SMALL, *(pytest.param(f, marks=pytest.mark.slow) for f in TORCHVISION if f not in SMALL)])
def test_torchvision(family: str, families: ModuleType) -> None:
    _, found = families.judge(families.of_torchvision, families.torchvision_families()[family])
    assert found.in_place, found


TRANSFORMERS = ["vit", "deit", "beit", "dinov2", "dinov2_with_registers", "swin", "swinv2"]
TRANSFORMERS += ["convnext", "convnextv2", "clip_vision", "siglip_vision"]


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_transformers(family: str, families: ModuleType) -> None:
    assert set(TRANSFORMERS) == set(families.transformers_families())
    _, found = families.judge(families.of_transformers, family)
    assert found.in_place, found
    prefix = {"vit": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2_with_registers": 5, "clip_vision": 1}
    assert found.prefix == prefix.get(family, 0)


def test_the_check_finds_maps_that_are_out_of_place(families: ModuleType) -> None:
    here = torch.zeros(5, 2, 8, 12)
    for i, (y, x) in enumerate(families.SIDES):
        here[i + 1, :, int(8 * y), int(12 * x)] = 1
    found = families.centres(here)
    assert found == pytest.approx((2.5 / 12, 9.5 / 12, 1.5 / 8, 6.5 / 8))
    turned = families.centres(here.transpose(2, 3))
    assert not (turned[0] < 0.5 < turned[1])


# ------------------------------------------------------------------------------------------------------------- where tokens come from


class Tokens(nn.Module):
    """A patch embedding, a way of handling its tokens, and a mean over them."""

    def __init__(self, change: Any, patch: int = 8) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 16, patch, patch), nn.Linear(16, 16), nn.Linear(16, 5)
        self.change, self.out = change, nn.Identity()
        self.last = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.change(self, self.embed(x))).mean(1))


def rows(net: Tokens, maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def with_heads(net: Tokens, maps: Tensor) -> Tensor:
    tokens = net.mix(rows(net, maps)).reshape(len(maps), -1, 4, 4).permute(0, 2, 1, 3)
    mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.transpose(1, 2).reshape(len(maps), -1, 16)


def after_a_text(net: Tokens, maps: Tensor) -> Tensor:
    text = torch.zeros(len(maps), 40, 16)
    return torch.cat([text, torch.ones(len(maps), 1, 16), rows(net, maps)], dim=1)


def before_registers(net: Tokens, maps: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(maps), 1, 16), rows(net, maps), torch.zeros(len(maps), 3, 16)], dim=1)


def cut_off(net: Tokens, maps: Tensor) -> Tensor:
    return before_registers(net, maps)[:, 1:-3]


def every_second(net: Tokens, maps: Tensor) -> Tensor:
    grid = rows(net, maps).view(len(maps), *maps.shape[2:], 16)[:, ::2, ::2]
    return net.mix(grid.reshape(len(maps), -1, 16))


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (rows, Layout("tokens", (4, 6))),
        (with_heads, Layout("tokens", (4, 6))),
        (after_a_text, Layout("tokens", (4, 6), 41)),
        (before_registers, Layout("tokens", (4, 6), 1)),
        (cut_off, Layout("tokens", (4, 6))),
        (every_second, Layout("tokens", (2, 3))),
    ],
)
def test_tokens_are_followed_from_where_they_come(change: Any, layout: Layout) -> None:
    torch.manual_seed(0)
    net, x = Tokens(change), torch.randn(2, 3, 32, 48)
    (call,) = [c for c in trace(net, Inputs.of(x)).calls if c.name == "last"]
    assert call.layout == layout
    with open_run(net, x, 0, "last") as run:
        kept = run.capture().activations[:, 0]
        expected = net.last(change(net, net.embed(x)))[:, layout.prefix :][:, : kept[0, 0].numel()]
        torch.testing.assert_close(kept, expected.transpose(1, 2).reshape(kept.shape))
    tensor = net.last(change(net, net.embed(x)))
    torch.testing.assert_close(layout.from_maps(layout.to_maps(tensor), tensor), tensor)


def by_windows(net: Tokens, maps: Tensor) -> Tensor:
    """All upper left corners of 2×2 windows first, and so on, as Hiera sorts its tokens."""
    b, c, h, w = maps.shape
    return maps.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1).reshape(b, -1, c)


def pooled(net: Tokens, maps: Tensor) -> Tensor:
    return by_windows(net, maps).reshape(len(maps), 4, -1, 16).amax(1)


def mixed_up(net: Tokens, maps: Tensor) -> Tensor:
    order = torch.randperm(maps[0, 0].numel(), generator=torch.Generator().manual_seed(1))
    return rows(net, maps)[:, order]


@pytest.mark.parametrize(("change", "layout"), [(by_windows, None), (mixed_up, None), (pooled, Layout("tokens", (4, 6)))])
def test_tokens_of_unknown_order_are_tried(change: Any, layout: Layout | None) -> None:
    torch.manual_seed(0)
    net, x = Tokens(change, patch=4), torch.randn(2, 3, 32, 48)
    assert [c.layout for c in trace(net, Inputs.of(x)).calls if c.name == "last"] == [None]
    assert [c.layout for c in settled(net, Inputs.of(x)).calls if c.name == "last"] == [layout]
    if layout is None:
        with pytest.raises(lucidcam.LucidcamError, match="no spatial map"):
            lucidcam.attribute(net, x, layer="last")
    else:
        assert lucidcam.attribute(net, x).shape == (2, *layout.grid)


class Captions(nn.Module):
    """Words after an image, by an LSTM: as many steps as the map has pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.words, self.lstm, self.out = (
            nn.Conv2d(3, 8, 8, 8),
            nn.Embedding(9, 8),
            nn.LSTM(8, 8, batch_first=True),
            nn.Linear(8, 9),
        )

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        maps = self.conv(x).relu()
        state = maps.mean((2, 3))[None].contiguous()
        return self.out(self.lstm(self.words(ids), (state, state))[0])


@pytest.mark.parametrize("length", [16, 17, 20, 24])
def test_words_are_no_maps(length: int) -> None:
    torch.manual_seed(0)
    net, x, ids = Captions(), torch.randn(2, 3, 32, 32), torch.randint(0, 9, (2, length))
    found = {name: info.grid for name, info in lucidcam.layers(net, (x, ids)).items()}
    assert found == {"conv": (4, 4), "words": None, "lstm": None, "out": None}
    assert lucidcam.attribute(net, (x, ids), target=lambda scores: scores[:, 3, 2]).shape == (2, 4, 4)


def test_a_joint_sequence_of_words_and_patches() -> None:
    """ViLT draws its patches in random order; here they keep their own."""
    hf = import_transformers()
    torch.manual_seed(0)
    config = hf.ViltConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=96, patch_size=8, vocab_size=99
    )
    net = hf.ViltForQuestionAnswering(config).eval()
    batch = {"pixel_values": torch.randn(2, 3, 64, 96), "input_ids": torch.randint(5, 90, (2, 30))}
    (call,) = [c for c in settled(net, Inputs.of(batch)).calls if c.name == "vilt.encoder.layer.1.layernorm_before"]
    assert call.layout == Layout("tokens", (8, 12), 31)
    (name,) = [name for name, info in lucidcam.layers(net, batch).items() if info.default]
    assert name == call.name
    torch.manual_seed(1)
    one = lucidcam.attribute(net, batch, "hirescam", target=1)
    torch.manual_seed(2)
    torch.testing.assert_close(lucidcam.attribute(net, batch, "hirescam", target=1), one)


def test_both_towers_of_clip() -> None:
    hf = import_transformers()
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**tower, "vocab_size": 99, "max_position_embeddings": 20, "eos_token_id": 98, "bos_token_id": 1, "pad_token_id": 0}
    net = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=8)).eval()
    ids = torch.randint(5, 90, (2, 16))
    ids[:, -1] = 98
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "input_ids": ids}
    found = lucidcam.layers(net, batch)
    assert [name for name, info in found.items() if info.default] == ["vision_model.encoder.layers.1.layer_norm1"]
    assert not any(info.grid for name, info in found.items() if name.startswith("text_model"))
    maps = lucidcam.attribute(net, batch, "hirescam", target=lambda outputs: outputs.logits_per_image[:, 0])
    assert maps.shape == (2, 4, 4)
    assert bool(maps.abs().amax((1, 2)).min() > 0)


def video(name: str) -> nn.Module:
    models = import_torchvision().models.video
    if name == "r3d_18":
        return models.r3d_18(num_classes=5)
    if name == "swin3d":
        options = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4, 4], "num_classes": 5}
        return models.swin_transformer.SwinTransformer3d(patch_size=[2, 4, 4], **options)
    block = models.mvit.MSBlockConfig
    pools = [((1, 1, 1), (1, 4, 4)), ((1, 2, 2), (1, 2, 2)), ((1, 1, 1), (1, 2, 2))]
    blocks = [
        block(num_heads=heads, input_channels=a, output_channels=b, kernel_q=[3] * 3, kernel_kv=[3] * 3, stride_q=[*q], stride_kv=[*kv])
        for heads, a, b, (q, kv) in zip((1, 2, 2), (16, 16, 32), (16, 32, 32), pools, strict=True)
    ]
    ways = {"residual_pool": name == "mvit_v2", "residual_with_cls_embed": name == "mvit_v1"}
    ways |= {"rel_pos_embed": name == "mvit_v2", "proj_after_attn": name == "mvit_v2"}
    return models.mvit.MViT(spatial_size=(64, 64), temporal_size=8, block_setting=blocks, num_classes=5, **ways)


@pytest.mark.parametrize(
    ("name", "layer", "layout"),
    [
        ("r3d_18", "layer4", Layout("channels_first", (1, 4, 4))),
        ("mvit_v1", "blocks.2.norm1", Layout("tokens", (4, 8, 8), 1)),
        ("mvit_v2", "blocks.2.norm1", Layout("tokens", (4, 8, 8), 1)),
        ("swin3d", "features.2.1.norm2", Layout("channels_last", (4, 8, 8))),
    ],
)
def test_video(name: str, layer: str, layout: Layout) -> None:
    torch.manual_seed(0)
    net = video(name).eval()
    clip = torch.randn(2, 3, 8, 64, 64)
    assert lucidcam.attribute(net, clip, "gradcam", target=1).shape == (2, *layout.grid)
    moved = torch.cat([clip[:1], clip[:1], clip[:1]])
    moved[1, :, 4:, 32:, :32] += 3
    moved[2, :, 4:, :32, 32:] += 3
    with open_run(net, moved, 1) as run:
        change = (run.capture().activations[1:, 0] - run.capture().activations[:1, 0]).norm(dim=1)
        (found,) = {c.layout for c in settled(net, run.inputs).calls if c.name == run.layer.name}
        assert (run.layer.name, found) == (layer, layout)
    change = change / change.sum((1, 2, 3), keepdim=True)
    y, x = (torch.arange(n) + 0.5 for n in change.shape[2:])
    assert float(change[0].sum((0, 2)) @ y) > float(change[1].sum((0, 2)) @ y)
    assert float(change[0].sum((0, 1)) @ x) < float(change[1].sum((0, 1)) @ x)


def test_where_blocks_add_what_they_normalise_another_layer_is_found() -> None:
    """Swin v2 adds norm2's output to the stream; the final normalisation is the last map that the score is made of."""
    torch.manual_seed(0)
    options = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 5}
    net = import_timm().models.SwinTransformerV2(**options).eval()
    (name,) = [name for name, info in lucidcam.layers(net, torch.randn(1, 3, 64, 64)).items() if info.default]
    assert name == "norm"
    calls = {c.name: c for c in trace(net, Inputs.of(torch.randn(1, 3, 64, 64))).calls}
    assert calls["layers.1.blocks.0.norm2"].branch
    assert not calls["norm"].branch


def test_what_is_sure_costs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default layer of which the origin is known is found in the traced pass and the check of what reaches the score."""
    net, passes = import_timm().create_model("vit_tiny_patch16_224", depth=2, num_classes=5, img_size=64).eval(), []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    x = torch.randn(1, 3, 64, 64)
    lucidcam.attribute(net, x)
    assert len(passes) == 3
    lucidcam.attribute(net, x)
    assert len(passes) == 4


def test_the_sample_is_of_both_kinds(families: ModuleType) -> None:
    assert len(QUICK) + len(SAMPLE.split()) >= 25
    assert len(set(families.TIMM)) == len(families.TIMM) > 100
