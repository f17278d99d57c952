"""Attention methods against naive twins: matrices by hand from the weights, gradients by autograd through a plain forward pass."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.attention_hooks import Catch
from lucidcam.engine.run import open_run
from lucidcam.errors import ModelError, OptionError
from lucidcam.utils.optional import import_timm, import_torchvision, import_transformers
from nets import FunctionalGAP, SeveralFC, Tokens, build, images

METHODS = ("rollout", "attention_relevance", "legrad")
LOUDER = 4.0
"""Random attention is nearly uniform; with larger queries and keys the rows differ."""


class Own(nn.Module):
    """A block whose attention is written out, fused, or a softmax with its heads folded into the batch."""

    def __init__(self, how: str, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.how, self.heads = how, heads
        self.norm1, self.qkv, self.proj, self.norm2 = (
            nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width)
        )  # fmt: skip
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "masked":
            y = F.scaled_dot_product_attention(q / scale, k, v, attn_mask=q.new_zeros(1, 1), scale=scale**2)
        elif self.how == "no_grad":
            with torch.no_grad():
                y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "in place":
            weights = (q @ k.mT * scale).softmax(-1)
            y = weights.mul_(1.0) @ v
        else:
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
            y = (torch.bmm(torch.softmax(torch.bmm(q, k.mT) * scale, 2), v)).unflatten(0, (len(x), self.heads))
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def louder(net: nn.Module) -> nn.Module:
    """Attention that is far from uniform."""
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.data[: 2 * module.embed_dim] *= LOUDER
            torch.nn.init.normal_(module.in_proj_bias, generator=torch.Generator().manual_seed(4))
        elif isinstance(module, Own):
            module.qkv.weight.data[: 2 * module.qkv.in_features] *= LOUDER
    return net


def transformer(prefix: int = 1, pool: bool = False, how: str | None = None, blocks: int = 3) -> nn.Module:
    net = build(Tokens, seed=2, prefix=prefix, pool=pool)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind = type(net.blocks[0]) if how is None else lambda: Own(how)
        net.blocks = nn.ModuleList(kind() for _ in range(blocks)).double()
    return louder(net).eval()


# ------------------------------------------------------------------------------------------------------------- naive twins


def plain(net: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """One image through a `Tokens` network, all written out: matrices `[heads, N, N]`, tokens after each block `[N, C]`, what the head
    reads, and scores `[K]`."""
    t = F.conv2d(x[None], net.patch.weight, net.patch.bias, stride=4)[0].flatten(1).T
    if net.prefix is not None:
        t = torch.cat([net.prefix[0], t])
    matrices, tokens = [], []
    for block in net.blocks:
        y = F.layer_norm(t, (16,), block.norm1.weight, block.norm1.bias)
        if isinstance(block, Own):
            weight, bias, out = block.qkv.weight, block.qkv.bias, block.proj
        else:
            weight, bias, out = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.out_proj
        q, k, v = (y @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
        heads, mixed = [], []
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            heads.append((q[:, part] @ k[:, part].T / 8**0.5).softmax(-1))
        a = torch.stack(heads).detach().requires_grad_() if not matrices else torch.stack(heads)
        matrices.append(a)
        mixed = torch.cat([a[h] @ v[:, 8 * h : 8 * h + 8] for h in range(2)], 1)
        t = t + mixed @ out.weight.T + out.bias
        t = t + block.mlp(F.layer_norm(t, (16,), block.norm2.weight, block.norm2.bias))
        tokens.append(t)
    read = [head(net, z) for z in tokens]
    return matrices, tokens, read, read[-1]


def head(net: nn.Module, tokens: Tensor) -> Tensor:
    t = net.norm(tokens)
    return net.head(t.mean(0) if net.pool else t[0])


def reading(net: nn.Module, count: int) -> np.ndarray:
    """Which tokens `Tokens` reads: the first, or all alike."""
    w = np.zeros(count)
    w[:] = 1 / count if net.pool else 0
    w[0] = w[0] if net.pool else 1
    return w


def naive_rollout(net: nn.Module, x: Tensor, target: int, fuse: Callable[..., Any] = np.mean, discard: float = 0) -> np.ndarray:
    matrices, _, _, _ = plain(net, x)
    rolled = np.eye(len(matrices[0][0]))
    for matrix in matrices:
        a = fuse(matrix.detach().numpy(), axis=0)
        for row in a:
            row[np.argsort(row)[: int(discard * len(row))]] = 0
        a = 0.5 * a + 0.5 * np.eye(len(a))
        rolled = (a / a.sum(1, keepdims=True)) @ rolled
    return reading(net, len(rolled)) @ rolled


def naive_relevance(net: nn.Module, x: Tensor, target: int) -> np.ndarray:
    matrices, _, _, scores = plain(net, x)
    gradients = torch.autograd.grad(scores[target], matrices)
    r = np.eye(len(matrices[0][0]))
    for matrix, gradient in zip(matrices, gradients, strict=True):
        r = r + np.maximum(matrix.detach().numpy() * gradient.numpy(), 0).mean(0) @ r
    return reading(net, len(r)) @ (r - np.eye(len(r)))


def naive_legrad(net: nn.Module, x: Tensor, target: int, average: bool = False) -> np.ndarray:
    matrices, tokens, read, _ = plain(net, x)
    if average:
        read = [head(net, z.mean(0, keepdim=True).expand_as(z)) for z in tokens]
    total = 0
    for matrix, scores in zip(matrices, read, strict=True):
        (gradient,) = torch.autograd.grad(scores[target], matrix, retain_graph=True)
        total = total + np.maximum(gradient.numpy(), 0).mean((0, 1))
    return total / len(matrices)


CASES = {
    "rollout": ("rollout", {}, naive_rollout),
    "rollout max": ("rollout", {"heads": "max"}, lambda *a: naive_rollout(*a, fuse=np.max)),
    "rollout min": ("rollout", {"heads": "min", "discard": 0.7}, lambda *a: naive_rollout(*a, fuse=np.min, discard=0.7)),
    "attention_relevance": ("attention_relevance", {}, naive_relevance),
    "legrad": ("legrad", {}, naive_legrad),
    "legrad mean": ("legrad", {"pooling": "mean"}, lambda *a: naive_legrad(*a, average=True)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("prefix", "pool"), [(1, False), (5, False), (0, True), (1, True)])
def test_equals_the_formula(case: str, prefix: int, pool: bool) -> None:
    method, options, twin = CASES[case]
    net, x = transformer(prefix, pool), images(2)
    targets = [[0, 3], [4, 1]]
    got = lucidcam.attribute(net, x, method, target=targets, **options)
    assert got.shape == (2, 2, 5, 7)
    for i in range(2):
        for t in range(2):
            expected = twin(net, x[i], targets[i][t])[prefix:].reshape(5, 7)
            assert expected.max() > 1.2 * abs(expected.min())  # not flat
            np.testing.assert_allclose(got[i, t].numpy(), expected, rtol=1e-9, atol=1e-9 * expected.max())


@pytest.mark.parametrize("how", ["fused", "masked", "folded", "in place"])
@pytest.mark.parametrize("case", ["rollout", "attention_relevance", "legrad"])
def test_all_ways_to_write_attention_are_seen(how: str, case: str) -> None:
    method, options, twin = CASES[case]
    net, x = transformer(how=how), images(2)
    got = lucidcam.attribute(net, x, method, target=2, **options)
    for i in range(2):
        expected = twin(net, x[i], 2)[1:].reshape(5, 7)
        np.testing.assert_allclose(got[i].numpy(), expected, rtol=1e-9, atol=1e-9 * expected.max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.arange(30).reshape(5, 6) % 4 > 0},
        {"attn_mask": torch.linspace(-2, 2, 30).reshape(5, 6).double()},
        {"enable_gqa": True},
    ],
)
def test_written_out_fused_attention_is_torchs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    heads = 2 if "enable_gqa" in options else 4
    q, k, v = torch.randn(3, 4, 5, 8).double(), torch.randn(3, heads, 6, 8).double(), torch.randn(3, heads, 6, 7).double()
    seen: list[Tensor] = []
    with Catch(lambda _, matrix: seen.append(matrix) or matrix):
        got = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v, **options))
    assert [tuple(matrix.shape) for matrix in seen] == [(3, 4, 5, 6)]


@pytest.mark.parametrize(
    ("made", "called"),
    [
        ({}, {}),
        ({"batch_first": True}, {"need_weights": False}),
        ({"bias": False}, {"average_attn_weights": False}),
        ({"add_bias_kv": True, "add_zero_attn": True}, {}),
        ({"kdim": 6, "vdim": 10}, {"need_weights": False}),
        ({"batch_first": True}, {"attn_mask": torch.arange(25).reshape(5, 5) % 4 == 0, "need_weights": False}),
        ({"batch_first": True}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 5)}),
    ],
)
@torch.no_grad()
def test_written_out_multi_head_attention_is_torchs(made: dict[str, Any], called: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **made).double().eval()
    x = torch.randn(5, 5, 8).double()
    k, v = (torch.randn(5, 5, 6).double(), torch.randn(5, 5, 10).double()) if "kdim" in made else (x, x)
    seen: list[Tensor] = []
    with Catch(lambda _, matrix: seen.append(matrix) or matrix):
        got = layer(x, k, v, **called)
    for one, two in zip(got, layer(x, k, v, **called), strict=True):
        assert (one is None and two is None) or torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    assert [matrix.shape[:3] for matrix in seen] == [(5, 2, 5)]
    alone = layer(x[0], k[0], v[0])[0]  # without a batch
    with Catch(lambda _, matrix: seen.append(matrix) or matrix):
        torch.testing.assert_close(layer(x[0], k[0], v[0])[0], alone)


# -------------------------------------------------------------------------------------------------------------- invariants


def test_rows_of_a_rollout_sum_to_one_and_matrices_are_the_forward_pass_own() -> None:
    net, x = transformer(prefix=3), images(2)
    with open_run(net, x, 1) as run:
        attention = run.attention("matrices")
        for matrix in (*attention.matrices,):
            torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
        torch.testing.assert_close(attention.reading().sum(-1), torch.ones(2, 1).double())
        assert attention.reading()[0, 0].argmax() == 0
        torch.testing.assert_close(attention.outputs, net(x).detach())
        assert attention.to_maps(torch.arange(38.0).expand(2, 1, -1))[0, 0, 0, 0] == 3  # prefix tokens are left out
    whole = lucidcam.attribute(transformer(prefix=0, pool=True), x, "rollout", target=1)
    torch.testing.assert_close(whole.sum((-2, -1)), torch.ones(2).double())
    assert (lucidcam.attribute(net, x, "rollout", target=1).sum((-2, -1)) < 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_values_are_not_negative_and_only_rollout_is_the_same_for_all_classes(method: str) -> None:
    net, x = transformer(), images(2)
    maps = lucidcam.attribute(net, x, method, target="all")
    assert maps.min() >= 0
    assert torch.allclose(maps[:, 0], maps[:, 1]) == (method == "rollout")


@pytest.mark.parametrize("method", METHODS)
def test_one_forward_pass(method: str) -> None:
    net, x = transformer(), images(3)
    lucidcam.attribute(net, x, method)
    rows = []
    net.patch.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    lucidcam.attribute(net, x, method, target="all")
    assert rows == ([3, 1] if method == "legrad" else [3])  # one image more for the head of every block


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_and_inference_mode(method: str) -> None:
    net, x = transformer(), images(1)
    expected = lucidcam.attribute(net, x, method, target=1)
    net.requires_grad_(False)
    with torch.inference_mode():
        got = lucidcam.attribute(net, x, method, target=1)
    torch.testing.assert_close(got.clone(), expected)


class Shut(nn.Module):
    """Runs a network with gradients off, as some inference wrappers do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_turns_gradients_off(method: str) -> None:
    net, x = transformer(), images(2)
    torch.testing.assert_close(
        lucidcam.attribute(Shut(net), x, method, target=1), lucidcam.attribute(net, x, method, target=1), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_remembered_does_not_keep_a_network_alive(method: str) -> None:
    net = transformer()
    lucidcam.attribute(net, images(1), method)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method: str) -> None:
    net, x = transformer(how="fused").float(), images(2).float()
    exact = lucidcam.attribute(net, x, method, target=1)
    half = lucidcam.attribute(copy.deepcopy(net).bfloat16(), x.bfloat16(), method, target=1)
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([half.flatten(), exact.flatten()]))[0, 1] > 0.95


# ------------------------------------------------------------------------------------------------------- a truth in the image


class Seeks(nn.Module):
    """A class token that looks for coloured patches, whatever their colour; the score of class k is how much of colour k it found."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 4, 4, bias=False)
        self.blocks = nn.ModuleList([Look()])
        self.norm, self.head = nn.Identity(), nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            self.patch.weight.copy_(torch.cat([torch.eye(3), torch.zeros(1, 3)])[..., None, None].expand(4, 3, 4, 4) / 16)
            self.head.weight.copy_(torch.eye(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        token = x.new_tensor([0, 0, 0, 1.0]).expand(len(x), 1, 4)
        x = torch.cat([token, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Look(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        query, key = 20 * x[..., 3:].expand(-1, -1, 3), x[..., :3]
        return x + F.scaled_dot_product_attention(query[:, None], key[:, None], x[:, None], scale=1.0)[:, 0]


def test_class_methods_find_their_class_and_rollout_finds_all_that_is_looked_at() -> None:
    x = torch.zeros(1, 3, 32, 32).double()
    x[:, 0, 8:12, 4:8] = 1  # red at (2, 1)
    x[:, 1, 24:28, 20:24] = 1  # green at (6, 5)
    net = Seeks().double()
    for target, place in ((0, (2, 1)), (1, (6, 5))):
        for method in ("attention_relevance", "legrad"):
            found = lucidcam.attribute(net, x, method, target=target)[0]
            assert divmod(int(found.argmax()), 8) == place
            assert found[place] > 0.99 * found.sum()
    rolled = lucidcam.attribute(net, x, "rollout", target=0)[0]
    assert {divmod(int(i), 8) for i in rolled.flatten().topk(2).indices} == {(2, 1), (6, 5)}
    assert rolled[2, 1] == pytest.approx(0.25, rel=1e-3)  # half of the attention, half of which is the residual's


# --------------------------------------------------------------------------------------------------------- real architectures


def timm(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return import_timm().create_model(name, num_classes=5, depth=3, **options).eval()


@pytest.mark.parametrize(
    ("name", "options", "size", "grid"),
    [
        ("vit_tiny_patch16_224", {"img_size": (48, 80)}, (48, 80), (3, 5)),
        ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg"}, (64, 64), (4, 4)),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64}, (64, 64), (4, 4)),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, (56, 56), (4, 4)),
        ("vit_base_patch16_siglip_224", {"img_size": 64}, (64, 64), (4, 4)),
        ("beit_base_patch16_224", {"img_size": 64}, (64, 64), (4, 4)),
    ],
)
def test_fused_and_written_out_attention_of_timm_give_the_same(name: str, options: Any, size: tuple[int, int], grid: Any) -> None:
    net, x = timm(name, **options), torch.randn(2, 3, *size)
    for method in METHODS:
        fused = lucidcam.attribute(net, x, method, target=[[0, 3], [1, 2]])
        assert fused.shape == (2, 2, *grid)
        plainly = copy.deepcopy(net)
        switched = [m for m in plainly.modules() if hasattr(m, "fused_attn")]
        assert switched
        for module in switched:
            module.fused_attn = False
        torch.testing.assert_close(
            lucidcam.attribute(plainly, x, method, target=[[0, 3], [1, 2]]), fused, rtol=1e-3, atol=1e-4 * float(fused.max())
        )


def test_what_networks_read_is_found() -> None:
    """A class token; both tokens of DeiT; the patches alone; a class token and the mean of the patches, half each."""

    def read(net: nn.Module, x: Tensor, target: Any = 1) -> Tensor:
        with open_run(net, x, target) as run:
            return run.attention("matrices").reading()[0, 0]

    x = torch.randn(1, 3, 64, 64)
    assert read(timm("vit_tiny_patch16_224", img_size=64), x)[0] == 1
    both = read(timm("deit_tiny_distilled_patch16_224", img_size=64), x)
    assert (both[:2] > 0.3).all()
    assert (both[2:] == 0).all()
    mean = read(timm("vit_small_patch16_dinov3", img_size=64, global_pool="avg"), x)
    assert (mean[:5] == 0).all()
    torch.testing.assert_close(mean[5:], torch.full((16,), 1 / 16))
    config = import_transformers().Dinov2Config(hidden_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16)
    torch.manual_seed(0)
    concat = read(import_transformers().Dinov2ForImageClassification(config).eval(), x)
    assert 0.4 < float(concat[0]) < 0.6


def test_attention_pooling_is_the_last_factor() -> None:
    net, x = timm("vit_base_patch16_siglip_224", img_size=64), torch.randn(1, 3, 64, 64)
    with open_run(net, x, 1) as run:
        attention = run.attention("gradients")
        assert attention.pool is not None
        assert attention.pool.shape == (1, 12, 1, 16)
        [(_, pooled)] = attention.gradients()
        expected = attention.pool.mean(1)
        for matrix in reversed(attention.matrices):
            a = 0.5 * matrix.mean(1) + 0.5 * torch.eye(16)
            expected = expected @ (a / a.sum(-1, keepdim=True))
        torch.testing.assert_close(lucidcam.attribute(net, x, "rollout", target=1).flatten(), expected.flatten())
    assert pooled is not None
    # LeGrad of the last block alone: the pooling's own gradient.
    with open_run(net, x, 1) as run:
        [blocks] = run.attention("blocks").block_gradients()
    torch.testing.assert_close(blocks[-1], pooled, rtol=1e-3, atol=1e-6)


def test_torchvision_and_its_fast_path() -> None:
    torch.manual_seed(0)
    net = import_torchvision().models.VisionTransformer(64, 16, 3, 4, 64, 128, num_classes=5).eval()
    nn.init.normal_(net.heads.head.weight)
    x = torch.randn(2, 3, 64, 64)
    for method in METHODS:
        assert lucidcam.attribute(net, x, method, target=1).shape == (2, 4, 4)
    nn.init.zeros_(net.heads.head.weight)  # as torchvision makes it
    with pytest.raises(ModelError, match="a head of zeros"):
        lucidcam.attribute(net, x, "rollout", target=1)


def test_torch_encoder_layers() -> None:
    """`nn.TransformerEncoder` has a fast path of its own, which shows no attention."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = transformer()
    net.blocks = nn.ModuleList([nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)]).double()
    net.eval()
    for method in METHODS:
        assert float(lucidcam.attribute(net, images(2), method, target=1).max()) > 0


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip"])
def test_hugging_face_eager_and_fused_give_the_same(kind: str) -> None:
    transformers = import_transformers()
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 16,
    }
    config, model, target = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification, 1),
        "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModelWithProjection, lambda out: out.image_embeds[:, 1]),
        "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel, lambda out: out.pooler_output[:, 1]),
    }[kind]
    x = torch.randn(2, 3, 64, 64)
    found = []
    for how in ("eager", "sdpa"):
        torch.manual_seed(1)
        net = model(config(**shape, attn_implementation=how)).eval()
        found.append([lucidcam.attribute(net, {"pixel_values": x}, method, target=target) for method in METHODS])
    for one, two in zip(*found, strict=True):
        assert one.shape == (2, 4, 4)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6 * float(one.max()))


# ------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [FunctionalGAP, SeveralFC])
def test_networks_without_attention_are_refused(method: str, kind: type[nn.Module]) -> None:
    with pytest.raises(ModelError, match=r"no attention is seen.*use gradcam"):
        lucidcam.attribute(build(kind), images(1), method)


@pytest.mark.parametrize(
    ("name", "message"),
    [("swin_tiny_patch4_window7_224", "window attention"), ("pvt_v2_b0", "no pyramid"), ("xcit_tiny_12_p16_224", "attention of 48×48")],
)
def test_other_attention_is_refused(name: str, message: str) -> None:
    net = import_timm().create_model(name, num_classes=5).eval()
    with pytest.raises(ModelError, match=message):
        lucidcam.attribute(net, torch.randn(1, 3, 224, 224), "rollout")


class Both(nn.Module):
    """Two attentions in one module, none of which has a module of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.scaled_dot_product_attention(x, x, x)
        return x + F.scaled_dot_product_attention(x, x, x)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return F.scaled_dot_product_attention(y, y, y)


class Outside(nn.Module):
    """The residual connection is outside of the modules, as in networks that keep a list of attentions and one of MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Bare() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for attention in self.attentions:
            x = x + attention(x)
        return x


def test_blocks_that_cannot_be_told_apart_are_refused() -> None:
    net, x = transformer(), images(1)
    net.blocks = nn.ModuleList([Both()])
    with pytest.raises(ModelError, match="cannot be told apart"):
        lucidcam.attribute(net, x, "rollout")
    net.blocks = nn.ModuleList([Outside()]).double()
    assert lucidcam.attribute(net, x, "rollout").shape == (1, 5, 7)
    assert lucidcam.attribute(net, x, "attention_relevance").shape == (1, 5, 7)
    with pytest.raises(ModelError, match="hand their tokens on"):
        lucidcam.attribute(net, x, "legrad")


def test_attention_that_the_score_does_not_depend_on_is_refused() -> None:
    net, x = transformer(), images(1)
    net.head.register_forward_pre_hook(lambda _, args: (args[0].round().long().double(),))
    with pytest.raises(ModelError, match="does not depend on the attention"):
        lucidcam.attribute(net, x, "attention_relevance")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("rollout", {"heads": "sum"}, 'expected heads "mean", "min" or "max"'),
        ("rollout", {"discard": 1.0}, "0 ≤ discard < 1"),
        ("legrad", {"pooling": "max"}, 'expected pooling "head" or "mean"'),
    ],
)
def test_options_are_checked(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        lucidcam.attribute(transformer(), images(1), method, **options)
