"""Axes of inputs and layers: they are followed from the image, or said, or refused; the channels are never an axis of a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import BATCH, CHANNELS, COPIES, Layout
from lucidcam.engine.run import open_run

METHODS = sorted(set(lucidcam.methods()) - {"mcam", "rollout", "attention_relevance", "legrad"})
"""The others are for vision transformers, or need a memory of the network."""
FEW: dict[str, dict[str, Any]] = {
    "rise": {"masks": 8, "cells": 2},
    "occlusion": {"window": 4},
    "sscam": {"samples": 1},
    "iscam": {"steps": 1},
    "smoothgradcam++": {"samples": 1},
}
TARGET = 1


def conv2d() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())


def conv1d(channels: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(channels, 8, 5, padding=2), nn.ReLU())


class Signal(nn.Module):
    """`[B, C, L]`, a convolution, and something that takes `[B, L, K]`, or, of time-first recurrent layers, `[L, B, K]`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.fc = kind, conv1d(), nn.Linear(8, 3)
        self.mix: nn.Module = {
            "lstm": nn.LSTM(8, 8, batch_first=True),
            "time-first gru": nn.GRU(8, 8),
            "linear": nn.Linear(8, 8),
            "encoder": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            "convolution": nn.Conv1d(8, 8, 3, padding=1),
        }[kind]

    def below(self, x: Tensor) -> Tensor:
        """What the layer gives, `[B, K, L]`."""
        h = self.conv(x)
        if self.kind == "convolution":
            return self.mix(h)
        h = self.mix(h.permute(2, 0, 1) if "first" in self.kind else h.transpose(1, 2))
        h = h[0] if isinstance(h, tuple) else h
        return h.permute(1, 2, 0) if "first" in self.kind else h.transpose(1, 2)

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps.relu().mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Sequence(nn.Module):
    """`[B, L, C]`, embedded by a linear layer, or read by a convolution or a recurrent layer at once."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(8, 3)
        self.mix: nn.Module = {
            "linear": nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
            "lstm": nn.LSTM(6, 8, batch_first=True),
            "convolution": conv1d(),
        }[kind]

    def below(self, x: Tensor) -> Tensor:
        if self.kind == "convolution":
            return self.mix(x.transpose(1, 2))
        h = self.mix(x)
        return (h[0] if isinstance(h, tuple) else h).transpose(1, 2)

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps.relu().mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Scan(nn.Module):
    """A picture; a GRU over the tokens of its map, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
        self.gru, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def below(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(self.gru(maps.flatten(2).transpose(1, 2))[0][:, -1])

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Rows(nn.Module):
    """A line of text: the map's height is averaged, an LSTM reads its columns, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm, self.fc = conv2d(), nn.LSTM(4, 8), nn.Linear(8, 3)

    def below(self, x: Tensor) -> Tensor:
        return self.lstm(self.conv(x).mean(2).permute(2, 0, 1))[0].permute(1, 2, 0)[:, :, None]

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps[:, :, 0].relu().mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Last(nn.Module):
    """Pictures with their channels last, as Keras has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(), nn.Linear(4, 3)

    def below(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2))

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Bare(Last):
    """Pictures without an axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())

    def below(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(1))


class Volume(Last):
    """Volumes with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv3d(2, 4, 3, 2, 1), nn.ReLU())

    def below(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 4, 1, 2, 3))

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps.mean((2, 3, 4)))


class Frames(nn.Module):
    """Clips `[B, T, 3, H, W]`: the frames go through a network of pictures as a batch, then through an LSTM."""

    def __init__(self, kind: str, read: str = "last") -> None:
        super().__init__()
        self.kind, self.read = kind, read
        self.cnn, self.lstm, self.fc = conv2d(), nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(4)

    def below(self, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        if self.kind == "time first":
            maps = self.cnn(x.transpose(0, 1).reshape(t * b, *x.shape[2:]))
            return maps.unflatten(0, (t, b)).permute(1, 2, 0, 3, 4)
        maps = self.cnn(x.flatten(0, 1) if self.kind == "folded" else x.reshape(-1, *x.shape[2:]))
        if self.kind == "tokens":
            maps = self.norm(maps.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(maps.shape)
        return maps.unflatten(0, (b, t)).transpose(1, 2)

    def above(self, maps: Tensor) -> Tensor:
        h = self.lstm(maps.mean((3, 4)).transpose(1, 2))[0]
        return self.fc(h[:, -1] if self.read == "last" else h.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


class Divided(nn.Module):
    """Tokens of a clip that are sorted by place first and by time last, as divided attention wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def below(self, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        maps = self.embed(x.flatten(0, 1))
        h, w = maps.shape[2:]
        tokens = maps.flatten(2).view(b, t, 4, h * w).permute(0, 3, 1, 2).reshape(b, h * w * t, 4)
        return self.norm(tokens).view(b, h, w, t, 4).permute(0, 4, 3, 1, 2)

    def above(self, maps: Tensor) -> Tensor:
        return self.fc(maps.relu().mean((2, 3, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.below(x))


@dataclass(frozen=True)
class Case:
    """A network, what it takes, in which order its axes are, and the layer whose maps `below` gives."""

    net: Callable[[], Any]
    shape: tuple[int, ...]
    axes: str
    layer: str
    default: str

    def build(self) -> tuple[Any, Tensor]:
        torch.manual_seed(0)
        return self.net().double().eval(), torch.rand(self.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def canonical(self, x: Tensor) -> Tensor:
        """The image `[B, C, *spatial]`."""
        spatial = [i for i, name in enumerate(self.axes) if name not in "BC"]
        if "C" not in self.axes:
            return x.permute(self.axes.index("B"), *spatial)[:, None]
        return x.permute(self.axes.index("B"), self.axes.index("C"), *spatial)

    def back(self, image: Tensor) -> Tensor:
        if "C" not in self.axes:
            return image[:, 0]
        order = ["B", "C", *(name for name in self.axes if name not in "BC")]
        return image.permute([order.index(name) for name in self.axes])


CASES = {
    "signal, lstm": Case(lambda: Signal("lstm"), (2, 6, 20), "BCL", "mix", "mix"),
    "signal, time-first gru": Case(lambda: Signal("time-first gru"), (2, 6, 20), "BCL", "mix", "mix"),
    "signal, linear": Case(lambda: Signal("linear"), (2, 6, 20), "BCL", "mix", "mix"),
    "signal, encoder": Case(lambda: Signal("encoder"), (2, 6, 20), "BCL", "mix", "mix.norm1"),
    "signal, convolution": Case(lambda: Signal("convolution"), (2, 6, 20), "BCL", "mix", "mix"),
    "as many steps as features": Case(lambda: Signal("lstm"), (2, 6, 8), "BCL", "mix", "mix"),
    "sequence, linear": Case(lambda: Sequence("linear"), (2, 20, 6), "BLC", "mix", "mix.1.norm1"),
    "sequence, lstm": Case(lambda: Sequence("lstm"), (2, 20, 6), "BLC", "mix", "mix"),
    "sequence, convolution": Case(lambda: Sequence("convolution"), (2, 20, 6), "BLC", "mix", "mix"),
    "scan": Case(Scan, (2, 3, 16, 24), "BCHW", "conv.3", "conv"),
    "rows": Case(Rows, (2, 3, 8, 24), "BCHW", "lstm", "conv"),
    "channels last": Case(Last, (2, 12, 16, 3), "BHWC", "conv.1", "conv"),
    "three pixels high": Case(Last, (2, 3, 16, 3), "BHWC", "conv.1", "conv"),
    "no channels": Case(Bare, (2, 12, 16), "BHW", "conv.1", "conv"),
    "volume, channels last": Case(Volume, (2, 6, 8, 10, 2), "BDHWC", "conv.1", "conv"),
    "frames": Case(lambda: Frames("folded"), (2, 5, 3, 8, 12), "BTCHW", "cnn.1", "cnn"),
    "frames, all read": Case(lambda: Frames("folded", "all"), (2, 5, 3, 8, 12), "BTCHW", "cnn.1", "cnn"),
    "as many frames as colours": Case(lambda: Frames("folded"), (3, 3, 3, 8, 12), "BTCHW", "cnn.1", "cnn"),
    "frames, time first": Case(lambda: Frames("time first"), (2, 5, 3, 8, 12), "BTCHW", "cnn.1", "cnn"),
    "frames, tokens": Case(lambda: Frames("tokens"), (2, 5, 3, 8, 12), "BTCHW", "norm", "norm"),
    "divided": Case(Divided, (2, 3, 3, 8, 12), "BTCHW", "norm", "norm"),
}
NAMES = list(CASES)


# ------------------------------------------------------------------------------------ written out, in float64, one thing at a time


def shares(maps: Tensor, weights: Tensor) -> Tensor:
    """`Σ_k w_k A_k`: weights `[B, K]`, maps `[B, K, *grid]`."""
    return torch.einsum("bk,bk...->b...", weights, maps)


def cams(case: Case, net: Any, x: Tensor) -> dict[str, Tensor]:
    """CAMs `[B, *grid]` of the layer's maps, from the two halves of the network."""
    maps = net.below(x).detach().requires_grad_()
    scores = net.above(maps)
    (g,) = torch.autograd.grad(scores[:, TARGET].sum(), maps)
    a, clean = maps.detach(), scores[:, TARGET].detach()
    places = tuple(range(2, a.ndim))
    power = (1 / (2 + a.sum(places, keepdim=True) * g)) * (g != 0) * g.relu()
    ablated = torch.stack(
        [net.above(a * (torch.arange(a.shape[1]) != k).reshape(-1, *[1] * len(places)))[:, TARGET] for k in range(a.shape[1])]
    )
    image = case.canonical(x)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(places)]
    masks = F.interpolate(a, size=image.shape[2:], mode=mode, align_corners=False)
    low, high = masks.amin(places, keepdim=True), masks.amax(places, keepdim=True)
    masks = (masks - low) / torch.where(high > low, high - low, 1)
    empty = net(case.back(torch.zeros_like(image)))[:, TARGET]
    increase = torch.stack([net(case.back(image * masks[:, k, None]))[:, TARGET] - empty for k in range(a.shape[1])], 1)
    increase = torch.where((high > low).flatten(1), increase, 0)
    weights = (g * a).sum(places) / torch.where(a.sum(places) != 0, a.sum(places), 1)
    return {
        "gradcam": shares(a, g.mean(places)).relu(),
        "hirescam": (g * a).sum(1),
        "layercam": (g.relu() * a).sum(1).relu(),
        "gradcam++": shares(a, power.sum(places)).relu(),
        "xgradcam": shares(a, weights).relu(),
        "ablationcam": shares(a, ((clean - ablated) / clean).T).relu(),
        "scorecam": shares(a, increase).relu(),
    }


def occluded(case: Case, net: Any, x: Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Mean drop over the windows that hide a place, `[B, *spatial]`."""
    image = case.canonical(x)
    size = image.shape[2:]
    total, seen = torch.zeros(len(image), *size, dtype=x.dtype), torch.zeros(*size)
    clean = net(x)[:, TARGET]
    starts = [sorted({*range(0, n - w + 1, s), n - w}) for n, w, s in zip(size, window, stride, strict=True)]
    for start in product(*starts):
        there = tuple(slice(i, i + w) for i, w in zip(start, window, strict=True))
        hidden = image.clone()
        hidden[(slice(None), slice(None), *there)] = 0
        total[(slice(None), *there)] += (clean - net(case.back(hidden))[:, TARGET]).reshape(-1, *[1] * len(size))
        seen[there] += 1
    return total / seen


# -------------------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_maps_lie_along_the_axes_of_space_and_time(name: str) -> None:
    case = CASES[name]
    net, x = case.build()
    with torch.enable_grad():
        expected = cams(case, net, x)
    for method, maps in expected.items():
        torch.testing.assert_close(
            lucidcam.attribute(net, x, method, target=TARGET, layer=case.layer), maps.detach(), rtol=1e-9, atol=1e-12
        )
    size = case.canonical(x).shape[2:]
    window = tuple(min(3, n) for n in size) if len(size) > 2 else (3,) * len(size)
    got = lucidcam.attribute(net, x, "occlusion", target=TARGET, window=3, stride=2)
    torch.testing.assert_close(got, occluded(case, net, x, window, tuple(min(2, n) for n in size)), rtol=1e-9, atol=1e-12)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(leaf)[:, TARGET].sum(), leaf)
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradient", target=TARGET), case.canonical(g).abs().amax(1))
    colours = lucidcam.attribute(net, x, "gradient", target=TARGET, reduce="none")
    torch.testing.assert_close(colours, case.canonical(g))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_layer(name: str) -> None:
    case = CASES[name]
    net, x = case.build()
    assert [key for key, info in lucidcam.layers(net, x).items() if info.default] == [case.default]
    with open_run(net, x, TARGET) as run:
        activations, g = run.capture(gradients=True).activations, run.capture(gradients=True).gradients
        assert run.layer.name == case.default
        assert activations.shape[3:].numel() == (g[:, 0] != 0).any(1).flatten(1).sum(1).min()  # all its places reach the score


class Usual(nn.Module):
    """The same network for images `[B, C, *spatial]`, as the engine knows them without looking."""

    def __init__(self, case: Case, net: Any) -> None:
        super().__init__()
        self.net, self.case = net, case

    def forward(self, image: Tensor) -> Tensor:
        return self.net(self.case.back(image).contiguous())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_whatever_the_order_of_the_axes(method: str) -> None:
    """Found, said, and, through a network that takes the usual order, turned outside: the same maps, or the same refusal."""
    for name in (
        "signal, lstm",
        "sequence, lstm",
        "channels last",
        "no channels",
        "frames",
        "frames, time first",
        "frames, tokens",
        "divided",
    ):
        case = CASES[name]
        net, x = case.build()
        options: dict[str, Any] = {"target": [[1, 2]] * len(x), **FEW.get(method, {})}
        usual = {"axes": "BC" + "".join(axis for axis in case.axes if axis not in "BC"), **options}
        layer = {} if lucidcam.methods()[method].layered == "never" or method == "gradient" else {"layer": case.layer}
        turned = {"layer": f"net.{case.layer}"} if layer else {}
        try:
            expected = lucidcam.attribute(Usual(case, net), case.canonical(x), method, **usual, **turned)
        except lucidcam.LucidcamError as error:
            with pytest.raises(type(error)):
                lucidcam.attribute(net, x, method, **options, **layer)
            continue
        size = case.canonical(x).shape[2:]
        assert expected.shape[:2] == (len(x), 2)
        assert expected.ndim == 2 + len(size)
        torch.testing.assert_close(lucidcam.attribute(net, x, method, **options, **layer), expected, rtol=1e-9, atol=1e-12)
        said = lucidcam.attribute(net, x, method, axes=case.axes, **options, **layer)
        torch.testing.assert_close(said, expected, rtol=1e-9, atol=1e-12)
        one = lucidcam.attribute(net, x[1:], method, **{**options, "target": [[1, 2]]}, **layer)
        torch.testing.assert_close(one, expected[1:], rtol=1e-9, atol=1e-12)


def test_a_sequence_that_nothing_precedes() -> None:
    """All that an LSTM holds of the other steps is in the last one, which is read."""
    torch.manual_seed(0)

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0][:, -1])

    net, x = Alone().eval(), torch.rand(2, 20, 6)
    with pytest.raises(lucidcam.LucidcamError, match="'lstm', is read at 5% of its steps"):
        lucidcam.attribute(net, x, target=1)
    assert lucidcam.attribute(net, x, "eigencam", target=1, layer="lstm").shape == (2, 20)
    assert lucidcam.attribute(net, x, "gradient", target=1).shape == (2, 20)


def test_layers_in_between_have_maps_too() -> None:
    net, x = CASES["frames"].build()
    found = {name: info.grid for name, info in lucidcam.layers(net, x).items()}
    assert found == {"cnn.0": (5, 4, 6), "cnn.1": (5, 4, 6), "cnn": (5, 4, 6), "lstm": (5, 1, 1), "fc": None}
    h, _ = net.lstm(net.below(x).mean((3, 4)).transpose(1, 2))
    maps = h.detach().requires_grad_()
    (g,) = torch.autograd.grad(net.fc(maps[:, -1])[:, TARGET].sum(), maps)
    expected = (g.mean(1, keepdim=True) * maps).sum(2).relu().detach()[..., None, None]
    torch.testing.assert_close(lucidcam.attribute(net, x, target=TARGET, layer="lstm"), expected)


def test_a_picture_of_colours_is_looked_at_beforehand_once() -> None:
    """The usual axes of the usual networks cost one pass of one image, which shows what a named layer depends on, and is remembered.

    Three small passes more show, for several images, that they do not influence each other.
    """
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    passes: list[int] = []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    lucidcam.attribute(net, torch.rand(2, 3, 16, 16), "gradcam", target=1, layer="1")
    assert len(passes) == 5
    lucidcam.attribute(net, torch.rand(2, 3, 16, 16), "gradcam", target=1, layer="1")
    assert len(passes) == 6
    lucidcam.attribute(net, torch.rand(2, 3, 16, 16), "gradient", target=1)
    assert len(passes) == 8  # the scores, and the gradient


class Loop(nn.Module):
    """Frames go through the network one by one."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.cnn, self.lstm, self.fc, self.read = conv2d(), nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3), read

    def forward(self, x: Tensor) -> Tensor:
        h = self.lstm(torch.stack([self.cnn(x[:, t]).mean((2, 3)) for t in range(x.shape[1])], 1))[0]
        return self.fc(h[:, -1] if self.read == "last" else h.mean(1))


def test_frames_one_by_one() -> None:
    x = torch.rand(2, 5, 3, 8, 12)
    for method, size in (("gradient", (5, 8, 12)), ("occlusion", (5, 8, 12)), ("rise", (5, 8, 12))):
        assert lucidcam.attribute(Loop("last").eval(), x, method, target=1, **FEW.get(method, {})).shape == (2, *size)
    assert lucidcam.attribute(Loop("all").eval(), x, target=1).shape == (2, 5, 1, 1)
    with pytest.raises(lucidcam.LucidcamError, match="runs 5 times, on a part of the input each: fold the frames"):
        lucidcam.attribute(Loop("last").eval(), x, target=1, layer="cnn.1")
    with pytest.raises(lucidcam.LucidcamError, match="is read at 20% of its steps"):
        lucidcam.attribute(Loop("last").eval(), x, target=1)


class Early(nn.Module):
    """Frames that are channels of one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Sequential(nn.Conv2d(15, 4, 3), nn.ReLU()), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x.flatten(1, 2)).mean((2, 3)))


class Apart(nn.Module):
    """Every channel of a signal goes through a convolution alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(1, 4, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x.flatten(0, 1)[:, None]).relu().mean(2).view(len(x), -1))


class AlongTheBatch(nn.Module):
    """A recurrent layer that takes its time first, and is given the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0].mean(1))


@pytest.mark.parametrize(
    ("net", "shape", "why"),
    [
        (Early, (2, 5, 3, 8, 12), "several of them as channels"),
        (Apart, (2, 6, 20), "none of them as channels"),
        (AlongTheBatch, (2, 20, 6), "runs along the first of them"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(240, 3)), (2, 8, 10, 3), "nothing is seen to read them"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(120, 3)), (2, 20, 6), "nothing is seen to read them"),
    ],
)
def test_what_cannot_be_told_is_refused(net: Callable[[], nn.Module], shape: tuple[int, ...], why: str) -> None:
    torch.manual_seed(0)
    for method in ("gradient", "occlusion", "rise"):
        with pytest.raises(lucidcam.LucidcamError, match=why) as caught:
            lucidcam.attribute(net().eval(), torch.rand(shape), method, target=1)
        assert "say axes=" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_said_axes_are_taken() -> None:
    torch.manual_seed(0)
    net, x = Early().eval(), torch.rand(2, 5, 3, 8, 12)
    assert lucidcam.attribute(net, x, "gradient", target=1, axes="BTCHW").shape == (2, 5, 8, 12)
    assert lucidcam.attribute(net, x, "gradcam", target=1, axes="btchw").shape == (2, 1, 6, 10)  # the frames are channels by then
    flat = nn.Sequential(nn.Flatten(), nn.Linear(240, 3)).eval()
    assert lucidcam.attribute(flat, torch.rand(2, 8, 10, 3), "occlusion", target=1, axes="BHWC").shape == (2, 8, 10)
    signals = lucidcam.attribute(Apart().eval(), torch.rand(2, 6, 20), "gradient", target=1, axes="BCL")
    assert signals.shape == (2, 20)
    wave = nn.Sequential(
        nn.Unflatten(1, (1, 30)), nn.Conv1d(1, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    assert lucidcam.attribute(wave, torch.rand(2, 30), "gradcam", target=1, axes="BL").shape == (2, 26)
    assert lucidcam.attribute(wave, torch.rand(2, 30), "gradient", target=1, axes="BL").shape == (2, 30)


def test_time_first_inputs() -> None:
    """Sequences `[L, B, C]`, the order of recurrent layers by default."""
    torch.manual_seed(0)

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0].mean(0))

    net, x = TimeFirst().double().eval(), torch.rand(20, 2, 6).double()
    h = net.lstm(x)[0].detach().requires_grad_()
    (g,) = torch.autograd.grad(net.fc(h.mean(0))[:, 1].sum(), h)
    expected = (g.mean(0) * h).sum(2).relu().T.detach()
    torch.testing.assert_close(lucidcam.attribute(net, x, target=1, axes="LBC"), expected)
    assert lucidcam.attribute(net, x, "occlusion", target=1, axes="LBC").shape == (2, 20)
    assert lucidcam.attribute(net, x, "ablationcam", target=1, axes="LBC").shape == (2, 20)


@pytest.mark.parametrize("axes", ["BCW", "BCHHW", "CHWD", "BC", "BHHW", ""])
def test_axes_that_do_not_fit(axes: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval()
    with pytest.raises(lucidcam.LucidcamError, match="expected axes with one letter for each of the 4 axes"):
        lucidcam.attribute(net, torch.rand(2, 3, 8, 8), target=1, axes=axes)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("mixed", (3, 4, 5), 0, ((BATCH, 0), (CHANNELS,), (1,), (2,))), (6, 7, 4, 5)),
        (Layout("mixed", (3, 4, 5), 0, ((0, BATCH), (CHANNELS,), (1,), (2,))), (6, 7, 4, 5)),
        (Layout("mixed", (3, 4, 5), 1, ((BATCH, 0), (1, 2), (CHANNELS,))), (6, 22, 7)),
        (Layout("mixed", (3, 4, 5), 2, ((BATCH,), (1, 2, 0), (CHANNELS,))), (2, 65, 7)),
        (Layout("mixed", (9,), 0, ((0,), (BATCH,), (CHANNELS,))), (9, 2, 7)),
        (Layout("mixed", (1, 9), 0, ((1,), (BATCH,), (CHANNELS,))), (9, 2, 7)),
        (Layout("mixed", (4, 5), 0, ((COPIES, BATCH), (CHANNELS,), (0,), (1,)), (3, 1)), (6, 7, 4, 5)),
        (Layout("mixed", (4, 5), 0, ((BATCH, COPIES), (0, 1), (CHANNELS,)), (3, 2)), (6, 20, 7)),
    ],
)
def test_mixed_layouts(layout: Layout, shape: tuple[int, ...]) -> None:
    """What is laid out and read again is the same; other inputs and tokens stay; images can be taken out; axes may lead."""
    output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    maps = layout.to_maps(output)
    assert maps.shape == (2, 7, *layout.grid)
    assert torch.equal(layout.from_maps(maps, output), output)
    assert torch.equal(layout.to_maps(layout.from_maps(-maps, output)), -maps)
    first = layout.rows(output, slice(0, 1))
    assert torch.equal(layout.to_maps(first), maps[:1])
    many = torch.cat([maps[:1], -maps[:1], 2 * maps[:1]])
    spread = layout.from_maps(many, first)
    assert torch.equal(layout.to_maps(spread), many)
    assert torch.equal(layout.rows(spread, slice(0, 1)), first)
    assert torch.equal(layout.gradients(torch.stack([output, -output], 1)), torch.stack([maps, -maps], 1))


def test_inputs_are_handed_on_in_their_own_order() -> None:
    x = torch.rand(2, 5, 3, 8, 12)
    given = Inputs.of(x, axes="BTCHW")
    assert given.image.shape == (2, 3, 5, 8, 12)
    assert given.size == (5, 8, 12)
    assert torch.equal(given.with_image(given.image).raw, x)
    assert given.with_image(given.image + 1).raw.is_contiguous()
    assert torch.equal(given.rows(slice(1, 2)).raw, x[1:])
