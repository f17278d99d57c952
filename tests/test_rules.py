"""Backprop rules against twins that are slower and less complicated: dense matrices, loops, one layer after another."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam.engine.rules import Deconvnet, Excitation, Guided, refuse
from lucidcam.errors import RuleError
from lucidcam.utils.optional import import_timm, import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rules() -> list[Any]:
    return [Guided(), Deconvnet(), Excitation(), Excitation(contrastive=True)]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Strong BatchNorms, a quarter of them with negative γ."""
    g = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.weight.data.uniform_(-0.5, 1.5, generator=g)
            part.bias.data.normal_(0, 0.3, generator=g)
            part.running_mean.normal_(0, 0.3, generator=g)
            part.running_var.uniform_(0.5, 2, generator=g)
    return module.eval()


def network(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomised(getattr(import_torchvision().models, name)(weights=None, **options))


# --- The twins -------------------------------------------------------------------------------------


def conv_matrix(conv: nn.Conv2d, shape: tuple[int, int, int]) -> np.ndarray:
    """A convolution (or, by its weight, a pooling) as a dense matrix, written as loops."""
    weight, (c, h, w) = conv.weight.detach().numpy(), shape
    (s, _), (p, _), k, g = conv.stride, conv.padding, weight.shape[2], conv.groups
    out_h, out_w = (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1
    matrix = np.zeros((weight.shape[0], out_h, out_w, c, h, w))
    for o in range(weight.shape[0]):
        group = o // (weight.shape[0] // g)
        for y in range(out_h):
            for x in range(out_w):
                for i in range(weight.shape[1]):
                    for a in range(k):
                        for b in range(k):
                            row, column = y * s - p + a, x * s - p + b
                            if 0 <= row < h and 0 <= column < w:
                                matrix[o, y, x, group * weight.shape[1] + i, row, column] = weight[o, i, a, b]
    return matrix.reshape(weight.shape[0] * out_h * out_w, c * h * w)


def bn_scale(bn: nn.BatchNorm2d, pixels: int) -> np.ndarray:
    return np.repeat((bn.weight / (bn.running_var + bn.eps).sqrt()).detach().numpy(), pixels)


def max_matrix(x: np.ndarray) -> np.ndarray:
    """Which value each 2×2 window of `[C, H, W]` takes."""
    c, h, w = x.shape
    matrix = np.zeros((c, h // 2, w // 2, c, h, w))
    for i in range(c):
        for y in range(h // 2):
            for z in range(w // 2):
                a, b = np.unravel_index(x[i, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2].argmax(), (2, 2))
                matrix[i, y, z, i, 2 * y + a, 2 * z + b] = 1
    return matrix.reshape(c * (h // 2) * (w // 2), -1)


def mwp(matrix: np.ndarray, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    x, matrix = np.maximum(x, 0), np.maximum(matrix, 0)
    total = matrix @ x
    share = np.array([pi / ti if ti > 0 else 0.0 for pi, ti in zip(p, total)])
    return x * (matrix.T @ share)


def dense(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of an affine function of one sample, without its constant."""
    size = int(np.prod(shape))
    basis = torch.eye(size, dtype=DOUBLE).view(size, *shape)
    with torch.no_grad():
        rows = torch.cat([function(b[None]) for b in basis]) - function(torch.zeros(1, *shape, dtype=DOUBLE))
    return rows.reshape(size, -1).T.numpy()


class Residual(nn.Module):
    """Grouped and strided convolutions, negative γ, in-place ReLU and sum, a projection, concat, both poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6)
        self.c = nn.Conv2d(6, 6, 1)
        self.pool = nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False)  # only the twin's picture of the average pooling
        self.hidden, self.head = nn.Linear(48, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.a(x))
        F.relu(x, inplace=True)  # what it returns is ignored
        out = self.norm_b(self.b(x))
        out += self.c(x)
        out.relu_()
        out = torch.cat([out, F.avg_pool2d(out, 3, 1, 1)], 1)
        out = torch.flatten(F.max_pool2d(out, 2), 1)
        return self.head(self.hidden(out).clamp(min=0))

    def twin(self, x: np.ndarray, target: int, rule: str) -> np.ndarray:
        """One image through the layers and back, by hand."""
        first = bn_scale(self.norm_a, 16)[:, None] * conv_matrix(self.a, (4, 7, 7))
        second = bn_scale(self.norm_b, 16)[:, None] * conv_matrix(self.b, (6, 4, 4))
        project, average = conv_matrix(self.c, (6, 4, 4)), conv_matrix(self.pool, (6, 4, 4))
        hidden, head = (m.weight.detach().numpy() for m in (self.hidden, self.head))

        def shift(bn: nn.BatchNorm2d, conv: nn.Conv2d) -> np.ndarray:
            bias = bn.bias + (conv.bias - bn.running_mean) * bn.weight / (bn.running_var + bn.eps).sqrt()
            return np.repeat(bias.detach().numpy(), 16)

        before_a = first @ x.ravel() + shift(self.norm_a, self.a)
        after_a = np.maximum(before_a, 0)
        main = second @ after_a + shift(self.norm_b, self.b)
        skip = project @ after_a + np.repeat(self.c.bias.detach().numpy(), 16)
        added = np.maximum(main + skip, 0)
        both = np.concatenate([added, average @ added])
        choose = max_matrix(both.reshape(12, 4, 4))
        pooled = choose @ both
        before_hidden = hidden @ pooled + self.hidden.bias.detach().numpy()
        after_hidden = np.maximum(before_hidden, 0)

        seed = np.eye(3)[target]
        if rule in ("guided", "deconvnet"):

            def relu(g: np.ndarray, at: np.ndarray) -> np.ndarray:
                return g * (g > 0) * ((at > 0) if rule == "guided" else 1)

            g = hidden.T @ relu(head.T @ seed, before_hidden)
            g = choose.T @ g
            g = relu(g[:96] + average.T @ g[96:], main + skip)
            g = relu(second.T @ g + project.T @ g, before_a)
            return (first.T @ g).reshape(x.shape)

        p = mwp(head, after_hidden, seed)
        if rule == "contrastive":
            p = p - mwp(-head, after_hidden, seed)
        p = choose.T @ mwp(hidden, pooled, p)
        p = p[:96] + mwp(average, added, p[96:])
        addends = np.maximum(main, 0), np.maximum(skip, 0)
        shares = [np.divide(a, sum(addends), out=np.zeros_like(a), where=sum(addends) > 0) for a in addends]
        p = mwp(second, after_a, p * shares[0]) + mwp(project, after_a, p * shares[1])
        return mwp(first, x.ravel(), p).reshape(x.shape)


@pytest.fixture
def residual() -> Residual:
    torch.manual_seed(1)
    net = randomised(Residual(), seed=3).to(DOUBLE)
    net.pool.weight.data.fill_(1 / 9)
    assert (net.norm_a.weight < 0).any()
    return net


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("guided", Guided()),
        ("deconvnet", Deconvnet()),
        ("excitation", Excitation()),
        ("contrastive", Excitation(contrastive=True)),
    ],
)
def test_equals_the_layer_by_layer_twin(residual: Residual, name: str, rule: Any, frozen: bool) -> None:
    residual.requires_grad_(not frozen)
    images = torch.randn(3, 4, 7, 7, dtype=DOUBLE).requires_grad_()
    with rule:
        outputs = residual(images)
    assert torch.equal(outputs, residual(images))
    (result,) = rule.backward(outputs[:, [2, 0]], [images])
    expected = [[residual.twin(x.detach().numpy(), t, name) for t in (2, 0)] for x in images]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-13)
    assert images.grad is None
    assert all(p.grad is None for p in residual.parameters())
    again = [rule.backward(outputs[:, [t]], [images])[0] for t in (2, 0)]
    np.testing.assert_allclose(torch.cat(again, 1).numpy(), result.numpy(), rtol=1e-12)


# --- Guided backprop and deconvnet -----------------------------------------------------------------

RELUS: dict[str, Callable[[Tensor], Any]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0.0),
    "clamp_": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold": nn.Threshold(0, 0),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp 0 6": lambda x: x.clamp(0, 6),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_spelling_of_relu(name: str) -> None:
    x = (5 * torch.randn(2, 50, dtype=DOUBLE)).requires_grad_()
    weight = torch.randn(50, 4, dtype=DOUBLE)
    upper = 6.0 if "6" in name or "hardtanh" in name else np.inf
    for rule in (Guided(), Deconvnet()):
        with rule:
            y = x * 1.0
            returned = RELUS[name](y)
            y = y if "_" in name.removeprefix("clamp_min") or "in place" in name else returned
            outputs = y @ weight
        g = weight.T.clamp(min=0).expand(2, 4, 50)
        inside = ((x > 0) & (x < upper))[:, None] if isinstance(rule, Guided) else 1
        torch.testing.assert_close(rule.backward(outputs, [x])[0], g * inside, rtol=1e-12, atol=0)
        assert torch.equal(y.detach(), x.detach().clamp(0, upper))


def test_in_place_relu_on_a_view() -> None:
    x, rule = torch.randn(2, 6, dtype=DOUBLE).requires_grad_(), Guided()
    with rule:
        y = x * -1.0
        y[:, :3].relu_()
    expected = -torch.ones(2, 1, 6, dtype=DOUBLE)
    expected[:, 0, :3] *= x.detach()[:, :3] < 0
    torch.testing.assert_close(rule.backward(y.sum(1, keepdim=True), [x])[0], expected)


@pytest.mark.parametrize("gated", [True, False])
def test_googlenet_without_relu_modules(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class ByDefinition(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            ctx.save_for_backward(x)
            return x * (x > 0)

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            return g[0] * (g[0] > 0) * ((ctx.saved_tensors[0] > 0) if gated else 1)

    net = network("googlenet", aux_logits=False, transform_input=True, init_weights=False).to(DOUBLE)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    images = torch.randn(2, 3, 64, 64, dtype=DOUBLE).requires_grad_()
    rule = Guided() if gated else Deconvnet()
    with rule:
        outputs = net(images)
    (result,) = rule.backward(outputs[:, [1]], [images])
    assert torch.equal(outputs, net(images))
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: ByDefinition.apply(x))
    (expected,) = torch.autograd.grad(net(images)[:, 1].sum(), images)
    assert expected.abs().max() > 0
    np.testing.assert_allclose(result[:, 0], expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())


# --- Excitation backprop ---------------------------------------------------------------------------

LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2), (3, 8)),
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 6, 6)),  # one row and column are left over
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=1), (2, 6, 5)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2), (4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 3)),
    "average": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 6, 6)),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (2, 5, 7)),
    "upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 3)),
    "nearest": (lambda: nn.Upsample(size=(5, 4)), (2, 3, 3)),
}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_equal_their_matrix(name: str, normalised: bool) -> None:
    torch.manual_seed(0)
    make, shape = LINEAR[name]
    layer = make()
    with torch.no_grad():
        channels, dims = layer(torch.zeros(1, *shape)).shape[1], len(shape) - 1
    norm: nn.Module = nn.Identity()
    if normalised and next(layer.parameters(), None) is not None:
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims](channels)
    # The second layer makes P differ from output to output.
    net = nn.Sequential(layer, norm, nn.Flatten(), nn.LazyLinear(2)).to(DOUBLE)
    x = torch.randn(2, *shape, dtype=DOUBLE).requires_grad_()
    net(x)
    randomised(net)
    if normalised and isinstance(norm, nn.modules.batchnorm._BatchNorm):
        norm.weight.data[0] = -0.7
    rule = Excitation()
    with rule:
        outputs = net(x)
    (result,) = rule.backward(outputs, [x])
    matrix, head = dense(net[:2], shape), net[3].weight.detach().numpy()
    for b in range(2):
        middle = net[:3](x)[b].detach().numpy()
        for t in range(2):
            expected = mwp(matrix, x[b].detach().numpy().ravel(), mwp(head, middle, np.eye(2)[t]))
            np.testing.assert_allclose(result[b, t].numpy().ravel(), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda x, w, b: F.linear(x, w, b),
        lambda x, w, b: x @ w.T + b,
        lambda x, w, b: torch.matmul(x, w.t()).add_(b),
        lambda x, w, b: torch.addmm(b, x, w.T),
        lambda x, w, b: (w @ x.T).T - b,
        lambda x, w, b: b + F.conv2d(x[:, :, None, None], w[:, :, None, None]).flatten(1) / 3,
        lambda x, w, b: 2 * (x * 4).mm(w.mT) / 5 + 1,
        # Weights made on the fly from parameters are weights.
        lambda x, w, b: F.linear(x, F.batch_norm(w * b[:, None], None, None, b, training=True) * 0 + w),
    ],
)
def test_spellings_of_a_linear_layer(spelling: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, dtype=DOUBLE).requires_grad_()
    weight, bias = nn.Parameter(torch.randn(6, 6, dtype=DOUBLE)), nn.Parameter(torch.randn(6, dtype=DOUBLE))
    rule = Excitation()
    with rule:
        outputs = spelling(x, weight, bias)
    (result,) = rule.backward(outputs, [x])
    for b in range(3):
        for t in range(6):
            expected = mwp(weight.detach().numpy(), x[b].detach().numpy(), np.eye(6)[t])
            np.testing.assert_allclose(result[b, t].numpy(), expected, rtol=1e-9, atol=1e-14)


def test_frozen_batch_norm_written_as_product_and_sum_is_folded() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3).to(DOUBLE), randomised(nn.BatchNorm2d(5)).to(DOUBLE)
    scale = (norm.weight * (norm.running_var + norm.eps).rsqrt()).view(1, -1, 1, 1)
    assert (scale < 0).any()
    x = torch.randn(1, 3, 6, 6, dtype=DOUBLE).requires_grad_()
    results = []
    for form in (norm, lambda y: y * scale + (norm.bias - norm.running_mean * scale.flatten()).view(1, -1, 1, 1)):
        rule = Excitation()
        with rule:
            outputs = form(conv(x)).flatten(1)
        results.append(rule.backward(outputs[:, ::7], [x])[0])
    assert results[0].sum() > 0
    assert torch.equal(*results)


def test_output_of_a_folded_convolution_can_be_asked_for() -> None:
    torch.manual_seed(0)
    net = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))).to(DOUBLE)
    x = torch.randn(2, 3, 6, 6, dtype=DOUBLE).requires_grad_()
    rule = Excitation()
    with rule:
        before = net[0](x)
        after = net[1](before)
        outputs = net[2:](after)
    at_input, at_conv, at_norm = rule.backward(outputs, [x, before, after])
    assert torch.equal(at_conv, at_norm)
    for p in (at_input, at_conv):
        torch.testing.assert_close(p.flatten(2).sum(2), torch.ones(2, 2, dtype=DOUBLE))
    # Also where something else reads the convolution's output: nothing is lost, and each reader finds its own weights.
    with rule:
        before = net[0](x)
        outputs = net[4](F.relu(net[1](before)).flatten(1)) + net[4](F.relu(before).flatten(1))
    at_input, at_conv = rule.backward(outputs, [x, before])
    torch.testing.assert_close(at_input.flatten(2).sum(2), at_conv.flatten(2).sum(2))


def test_standalone_batch_norm_hands_on_where_gamma_is_positive() -> None:
    norm = randomised(nn.BatchNorm1d(8)).to(DOUBLE)
    head = nn.Linear(8, 1, bias=False).to(DOUBLE)
    x, rule = torch.randn(4, 8, dtype=DOUBLE).requires_grad_(), Excitation()
    with rule:
        middle = norm(x)
        outputs = head(middle.relu())
    at_x, at_middle = rule.backward(outputs, [x, middle])
    assert (norm.weight < 0).any()
    assert torch.equal(at_x, at_middle * (norm.weight > 0))


@pytest.mark.parametrize("add", [lambda a, b: a + b, lambda a, b: torch.add(a, b, alpha=0.5), lambda a, b: a.clone().add_(b)])
def test_sums_are_split_by_contribution(add: Callable[..., Tensor]) -> None:
    a = torch.randn(3, 8, 4, dtype=DOUBLE).requires_grad_()
    b = torch.randn(3, 8, 1, dtype=DOUBLE).requires_grad_()
    head, rule = torch.rand(32, 1, dtype=DOUBLE), Excitation()
    with rule:
        middle = add(a, b)
        outputs = middle.flatten(1) @ head
    at_a, at_b, at_middle = rule.backward(outputs, [a, b, middle])
    alpha = 0.5 if torch.allclose(middle, a + 0.5 * b) else 1.0
    positive = a.clamp(min=0), (alpha * b).clamp(min=0).expand_as(a)
    share = torch.nan_to_num(positive[0] / sum(positive))[:, None]
    torch.testing.assert_close(at_a, at_middle * share)
    torch.testing.assert_close(at_b, (at_middle * (1 - share) * (sum(positive) > 0)[:, None]).sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "size", "layer"), [("resnet18", 96, "layer2"), ("vgg11", 128, "features.9"), ("vgg16", 128, "features.22")]
)
def test_mass_is_one_on_unmodified_networks(name: str, size: int, layer: str) -> None:
    net = network(name, **({"init_weights": False} if "vgg" in name else {}))
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    images = torch.randn(1, 3, size, size).requires_grad_()
    rule, contrastive = Excitation(), Excitation(contrastive=True)
    with rule:
        outputs = net(images)
    for p in rule.backward(outputs[:, [3]], [kept[0], images]):
        assert (p >= 0).all()
        assert p.sum().item() == pytest.approx(1, abs=1e-4)
    with contrastive:
        outputs = net(images)
    handle.remove()
    for p in contrastive.backward(outputs[:, [3]], [kept[1], images]):
        assert p.sum().item() == pytest.approx(0, abs=1e-4)
        assert p.abs().sum() > 0


def test_contrastive_is_the_difference_of_two_heads() -> None:
    net = network("resnet18").to(DOUBLE)
    images = torch.randn(1, 3, 64, 64, dtype=DOUBLE).requires_grad_()
    results = []
    for rule, sign in ((Excitation(contrastive=True), 1), (Excitation(), 1), (Excitation(), -1)):
        net.fc.weight.data *= sign
        with rule:
            outputs = net(images)
        results.append(rule.backward(outputs[:, [5, 8]], [images])[0])
    assert results[0].abs().max() > 0
    np.testing.assert_allclose(results[0], results[1] - results[2], rtol=1e-9, atol=1e-15)


def test_half_precision_keeps_the_mass() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).bfloat16()
    x, rule = torch.randn(2, 3, 6, 6).bfloat16().requires_grad_(), Excitation()
    with rule:
        outputs = net(x)
    (p,) = rule.backward(outputs, [x])
    assert p.dtype == torch.bfloat16
    torch.testing.assert_close(p.float().flatten(2).sum(2), torch.ones(2, 3), atol=0.02, rtol=0)


def test_the_targets_own_operations_are_the_seed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).to(DOUBLE)
    x, rule = torch.rand(2, 6, dtype=DOUBLE).requires_grad_(), Excitation()
    with rule:
        outputs = net(x)
    (pair,) = rule.backward((outputs[:, 1] - outputs[:, 2])[:, None], [x])
    (single,) = rule.backward(outputs, [x])
    torch.testing.assert_close(pair[:, 0], single[:, 1] - single[:, 2])
    with rule:
        outputs = net(x) - net(x).flip(1)
    with pytest.raises(RuleError, match="not defined for sub"):
        rule.backward(outputs, [x])


# --- Networks as they are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {}),
        ("googlenet", {"aux_logits": False, "transform_input": True, "init_weights": False}),
        ("densenet121", {}),
        ("squeezenet1_1", {}),
        ("mobilenet_v2", {}),
        ("timm:resnet26d", {}),
        ("timm:tf_efficientnet_lite0", {}),
    ],
)
def test_forward_is_bitwise_the_modules_own(name: str, options: dict[str, Any]) -> None:
    if name.startswith("timm:"):
        net = randomised(import_timm().create_model(name.removeprefix("timm:")))
    else:
        net = network(name, **options)
    net.requires_grad_(False)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(2, 3, 64, 64).requires_grad_()
    with torch.no_grad():
        expected = net(images)
    for rule in rules():
        with rule:
            outputs = net(images)
        assert torch.equal(outputs, expected)
        (result,) = rule.backward(outputs[:, [0]], [images])
        assert result.isfinite().all()
        assert result.abs().sum() > 0
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert images.grad is None


def test_inputs_on_no_path_get_zeros_and_inputs_may_be_several(residual: Residual) -> None:
    first, second, other = (torch.randn(2, 4, 7, 7, dtype=DOUBLE).requires_grad_() for _ in range(3))
    for rule in rules():
        with rule:
            outputs = residual(torch.cat([first, second]))[:2]
        used, unused, apart = rule.backward(outputs, [first, second, other])
        assert used.shape == unused.shape == apart.shape == (2, 3, 4, 7, 7)
        assert used.abs().sum() > 0
        assert not unused.any()
        assert not apart.any()


def test_backward_inside_the_block(residual: Residual) -> None:
    images = torch.randn(2, 4, 7, 7, dtype=DOUBLE).requires_grad_()
    for rule in rules():
        with rule:
            outputs = residual(images)
            (inside,) = rule.backward(outputs, [images])
        assert torch.equal(inside, rule.backward(outputs, [images])[0])


def test_nothing_is_left_after_an_exception(residual: Residual) -> None:
    images = torch.randn(1, 4, 7, 7, dtype=DOUBLE).requires_grad_()
    plain = torch.autograd.grad(residual(images).sum(), images)[0]
    handle = residual.head.register_forward_hook(lambda *args: 1 / 0)
    for rule in rules():
        with pytest.raises(ZeroDivisionError), rule:
            residual(images)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(torch.autograd.grad(residual(images).sum(), images)[0], plain)
    for rule in rules():  # an instance that failed works again
        with rule:
            outputs = residual(images)
        assert rule.backward(outputs, [images])[0].any()


def test_a_forward_is_freed_with_its_outputs(residual: Residual) -> None:
    images = torch.randn(1, 4, 7, 7, dtype=DOUBLE).requires_grad_()
    gc.disable()  # so that a cycle would survive
    try:
        for rule in rules():
            with rule:
                hidden = residual.norm_a(residual.a(images))
                kept = hidden.relu_()
                kept += residual.c(kept.clone())
                outputs = residual.head(kept.flatten(1)[:, :7])
            rule.backward(outputs, [images])
            nodes = [weakref.ref(x) for x in (hidden, kept, outputs)]
            del hidden, kept, outputs
            assert [node() for node in nodes] == [None] * 3
    finally:
        gc.enable()


def test_two_threads_at_once(residual: Residual) -> None:
    images = torch.randn(2, 4, 7, 7, dtype=DOUBLE)

    def once(rule: Any) -> Tensor:
        x = images.clone().requires_grad_()
        with rule:
            outputs = residual(x)
        return rule.backward(outputs, [x])[0]

    makers: list[Callable[[], Any]] = [Guided, Deconvnet, Excitation, lambda: Excitation(contrastive=True)]
    expected = [once(make()) for make in makers]
    barrier, wrong = threading.Barrier(len(makers)), []

    def work(index: int) -> None:
        barrier.wait()
        wrong.extend(index for _ in range(20) if not torch.equal(once(makers[index]()), expected[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(makers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- Refusals --------------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "prelu": nn.PReLU(),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "mul": lambda x: x * torch.sigmoid(x),
    "mul ": lambda x: x * (F.relu6(x + 3) / 6),
    "div": F.softsign,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("make", [Guided, Deconvnet, Excitation])
def test_other_activations_are_refused(name: str, make: Callable[..., Any]) -> None:
    x, head = torch.randn(2, 8).requires_grad_(), nn.Linear(8, 3)
    rule = make()
    with rule:
        outputs = head(OTHERS[name](F.relu(x - 0.1)))
    with pytest.raises(RuleError, match=rf"is not defined for [\w( ]*{name.strip()}.*gradcam.*strict=False"):
        rule.backward(outputs, [x])
    if make is Guided and name not in ("rrelu", "mul "):  # the last: its relu6 is a ReLU6, not strictly
        rule = make(strict=False)
        with rule:
            outputs = head(OTHERS[name](x.clamp(min=-9)))  # no ReLU
            F.relu(x)
        plain = torch.autograd.grad(head(OTHERS[name](x))[:, 1].sum(), x)[0]
        torch.testing.assert_close(rule.backward(outputs[:, [1]], [x])[0][:, 0], plain)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mul", lambda x: x * torch.sigmoid(x.mean(1, keepdim=True))),
        ("native_layer_norm", lambda x: F.layer_norm(x, (8,))),
        ("native_group_norm", lambda x: F.group_norm(x, 2)),
        ("softmax", lambda x: x.softmax(1)),
        ("mm", lambda x: x @ (x.T @ x)),
        ("bmm", lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0]),
        ("exp", torch.exp),
        ("neg", torch.neg),
    ],
)
def test_what_excitation_refuses(name: str, function: Callable[[Tensor], Tensor]) -> None:
    x, head = torch.randn(2, 8).requires_grad_(), nn.Linear(8, 3)
    rule = Excitation()
    with rule:
        outputs = head(function(x))
    with pytest.raises(RuleError, match=f"not defined for .*{name}"):
        rule.backward(outputs, [x])
    lenient = Excitation(strict=False)
    with lenient:
        outputs = head(function(x))
    assert lenient.backward(outputs, [x])[0].isfinite().all()


def test_gating_is_fine_for_guided_and_off_the_path_for_all() -> None:
    x, head = torch.randn(2, 8).requires_grad_(), nn.Linear(8, 3)
    for rule in (Guided(), Deconvnet()):
        with rule:
            outputs = head(F.relu(x) * torch.sigmoid(x.mean(1, keepdim=True)))
        rule.backward(outputs, [x])
    rule = Excitation()
    with rule:
        middle = head(F.gelu(x)).requires_grad_()
        outputs = F.relu(middle) @ torch.rand(3, 2)
    rule.backward(outputs, [middle])  # the GELU is not between the scores and this input
    with pytest.raises(RuleError, match="gelu"):
        rule.backward(outputs, [x])


class Hidden(torch.autograd.Function):
    """A whole network where no rule can see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.relu().sum(1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return g[0] * (ctx.saved_tensors[0] > 0)


def test_no_rule_fired() -> None:
    x = torch.randn(2, 8).requires_grad_()
    for rule, needs in zip(rules(), ["ReLU", "ReLU", "convolution or linear", "convolution or linear"]):
        with rule:
            outputs = Hidden.apply(x)
            F.linear(F.relu(x.detach()), torch.ones(1, 8))  # nothing that is explained
        with pytest.raises(RuleError, match="not defined for hidden"):  # the strict check names what it is
            rule.backward(outputs, [x])
        rule.strict = False
        assert rule.backward(outputs, [x])[0].shape == (2, 1, 8)  # the plain gradient, as asked for
        rule.strict = True
        with rule:
            outputs = x.reshape(2, 8)[:, :1].clone()
        with pytest.raises(RuleError, match=f"recorded no {needs}.*gradcam"):
            rule.backward(outputs, [x])
        with rule:
            outputs = F.linear(F.relu(Hidden.apply(x)), torch.ones(1, 1))
        with pytest.raises(RuleError, match="not defined for hidden"):
            rule.backward(outputs, [x])


def test_nothing_requires_grad(residual: Residual) -> None:
    x = torch.randn(1, 4, 7, 7, dtype=DOUBLE)
    for rule in rules():
        with torch.no_grad(), rule:
            outputs = residual(x)
        with pytest.raises(RuleError, match="requires_grad_"):
            rule.backward(outputs, [x])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_and_exported_modules_are_refused() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    refuse(block)
    with pytest.raises(RuleError, match=r"1 .*is TorchScript"):
        refuse(nn.Sequential(nn.Identity(), torch.jit.trace(block, torch.zeros(1, 2))))
    with pytest.raises(RuleError, match=r"0 .*is an exported program"):
        refuse(nn.Sequential(torch.export.export(block, (torch.zeros(1, 2),)).module()))
    refuse(nn.Sequential(torch.compile(block)))  # a session runs it eagerly


def test_signed_inputs_keep_the_mass_that_the_equation_drops() -> None:
    """Dark pixels: where no positive input supports an output of the first layer, negative ones times negative weights do."""
    conv = nn.Conv2d(1, 1, 1, bias=False).double()
    conv.weight.data.fill_(-2.0)
    x = torch.tensor([[[[-1.0, 3.0]]]], dtype=torch.float64, requires_grad=True)
    masses = {}
    for signed in (False, True):
        rule = Excitation(signed=signed)
        with rule:
            y = conv(x).relu().flatten(1).sum(1, keepdim=True)
        (found,) = rule.backward(y, [x])
        masses[signed] = found.flatten().tolist()
    assert masses == {False: [0.0, 0.0], True: [1.0, 0.0]}
