"""Excitation backprop at a layer inside a branch, and its contrast, against a twin that walks a list of steps with dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from lucidcam.utils.optional import import_torchvision
from nets import images

DOUBLE = torch.float64
Array = np.ndarray
C = 4


# -------------------------------------------------------------------------------------------------------------- nets and the twin


@dataclass
class Step:
    """One step of a network: a name, what it does, and the names of what it takes; "x" is the image."""

    name: str
    kind: str
    sources: tuple[str, ...]
    module: nn.Module | None = None


class Stepwise(nn.Module):
    """A network that is a list of steps. Every step with a module is a layer; sums and ReLUs may work in place."""

    def __init__(self, steps: list[Step], in_place: bool = False) -> None:
        super().__init__()
        self.steps, self.in_place = steps, in_place
        for step in steps:
            if step.module is not None:
                self.add_module(step.name, step.module)

    def forward(self, x: Tensor) -> Tensor:
        values = {"x": x}
        for step in self.steps:
            tensors = [values[source] for source in step.sources]
            if step.kind == "add":
                if self.in_place:
                    tensors[1] += tensors[0]
                values[step.name] = tensors[1] if self.in_place else tensors[0] + tensors[1]
            elif step.kind == "cat":
                values[step.name] = torch.cat(tensors, 1)
            elif step.kind == "mean":
                values[step.name] = tensors[0].mean((2, 3))
            else:
                values[step.name] = getattr(self, step.name)(*tensors)
        return values[self.steps[-1].name]


def affine(module: nn.Module, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The matrix and the constant of an affine module, from what it does to a basis."""
    size = int(np.prod(shape))
    with torch.no_grad():
        constant = module(torch.zeros(1, *shape, dtype=DOUBLE))
        rows = module(torch.eye(size, dtype=DOUBLE).view(size, *shape)) - constant
    return rows.reshape(size, -1).T.numpy(), constant.flatten().numpy()


def shared_out(matrix: Array, x: Array, p: Array) -> Array:
    """`x⁺ ⊙ W⁺ᵀ(P ⊘ W⁺x⁺)`, one output at a time."""
    excited, back = np.maximum(x, 0), np.zeros_like(x)
    for row, mass in zip(np.maximum(matrix, 0), p, strict=True):
        if (total := row @ excited) > 0:
            back += mass * row * excited / total
    return back


def twin(net: Stepwise, x: Tensor, target: int, contrastive: bool = False) -> dict[str, Array]:
    """P `[C, h, w]` at every step of one image `[C, h, w]`."""
    values: dict[str, Array] = {"x": x.numpy()}
    matrices: dict[str, Array] = {}
    for step in net.steps:
        a = values[step.sources[0]]
        if step.kind in ("conv", "fc", "bn"):
            matrix, constant = affine(getattr(net, step.name), a.shape)
            matrices[step.name] = matrix
            flat = matrix @ a.ravel() + constant
            values[step.name] = flat if step.kind == "fc" else flat.reshape(-1, *a.shape[1:])
        elif step.kind == "relu":
            values[step.name] = np.maximum(a, 0)
        elif step.kind == "same":
            values[step.name] = a
        elif step.kind == "add":
            values[step.name] = a + values[step.sources[1]]
        elif step.kind == "cat":
            values[step.name] = np.concatenate([values[source] for source in step.sources])
        else:
            values[step.name] = a.mean((1, 2))
    p = {name: np.zeros_like(value) for name, value in values.items()}  # what arrives at a step, and what of it the step has to send on
    due = {name: np.zeros_like(value) for name, value in values.items()}
    kinds = {step.name: step for step in net.steps}

    def send(name: str, mass: Array, done: bool = False) -> None:
        p[name] += mass
        due[name] += 0 if done else mass

    send(net.steps[-1].name, np.eye(len(due[net.steps[-1].name]))[target])
    classifier = next(step.name for step in reversed(net.steps) if step.kind == "fc")
    for step in reversed(net.steps):
        mass, source = due[step.name], step.sources[0]
        a = values[source]
        if step.kind in ("conv", "fc"):
            back = shared_out(matrices[step.name], a.ravel(), mass.ravel())
            if contrastive and step.name == classifier:
                back = back - shared_out(-matrices[step.name], a.ravel(), mass.ravel())
            send(source, back.reshape(a.shape))
        elif step.kind == "bn":  # one linear layer with the convolution before it
            below = kinds[source].sources[0]
            matrix = matrices[step.name] @ matrices[source]
            send(source, mass, done=True)
            send(below, shared_out(matrix, values[below].ravel(), mass.ravel()).reshape(values[below].shape))
        elif step.kind == "add":
            first, second = np.maximum(a, 0), np.maximum(values[step.sources[1]], 0)
            per_unit = np.divide(mass, first + second, out=np.zeros_like(mass), where=first + second > 0)
            send(source, first * per_unit)
            send(step.sources[1], second * per_unit)
        elif step.kind == "cat":
            places = np.cumsum([0, *(len(values[name]) for name in step.sources)])
            for name, start, stop in zip(step.sources, places, places[1:], strict=False):
                send(name, mass[start:stop])
        elif step.kind == "mean":
            total = np.maximum(a, 0).sum((1, 2))
            per_unit = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
            send(source, np.maximum(a, 0) * per_unit[:, None, None])
        else:
            send(source, mass)
    return p


def conv(inputs: int = C, outputs: int = C, size: int = 3) -> nn.Module:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def plain_block() -> list[Step]:
    return [
        Step("stem", "conv", ("x",), conv(3)),
        Step("act", "relu", ("stem",), nn.ReLU()),
        Step("b1", "conv", ("act",), conv()),
        Step("act1", "relu", ("b1",), nn.ReLU()),
        Step("b2", "conv", ("act1",), conv()),
        Step("sum", "add", ("act", "b2")),
        Step("last", "relu", ("sum",), nn.ReLU()),
        Step("pool", "mean", ("last",)),
        Step("fc", "fc", ("pool",), nn.Linear(C, 3)),
    ]


def projection() -> list[Step]:
    steps = plain_block()
    steps.insert(5, Step("skip", "conv", ("act",), conv(size=1)))
    steps[6] = Step("sum", "add", ("skip", "b2"))
    return steps


def two_levels() -> list[Step]:
    """A residual around a residual."""
    return [
        *plain_block()[:4],
        Step("b2", "conv", ("act1",), conv()),
        Step("inner", "add", ("act1", "b2")),
        Step("act2", "relu", ("inner",), nn.ReLU()),
        Step("b3", "conv", ("act2",), conv()),
        Step("outer", "add", ("act", "b3")),
        *[Step("last", "relu", ("outer",), nn.ReLU()), *plain_block()[7:]],
    ]


def dense() -> list[Step]:
    """Everything so far is concatenated, twice."""
    return [
        *plain_block()[:2],
        Step("d1", "conv", ("act",), conv()),
        Step("act1", "relu", ("d1",), nn.ReLU()),
        Step("both", "cat", ("act", "act1")),
        Step("d2", "conv", ("both",), conv(2 * C)),
        Step("act2", "relu", ("d2",), nn.ReLU()),
        Step("three", "cat", ("both", "act2")),
        Step("pool", "mean", ("three",)),
        Step("fc", "fc", ("pool",), nn.Linear(3 * C, 3)),
    ]


def branches() -> list[Step]:
    """Three branches of one stem, two added and one concatenated."""
    return [
        *plain_block()[:2],
        Step("left", "conv", ("act",), conv()),
        Step("right", "conv", ("act",), conv(size=1)),
        Step("sum", "add", ("left", "right")),
        Step("third", "conv", ("act",), conv(outputs=2)),
        Step("all", "cat", ("sum", "third")),
        Step("last", "relu", ("all",), nn.ReLU()),
        Step("pool", "mean", ("last",)),
        Step("fc", "fc", ("pool",), nn.Linear(C + 2, 3)),
    ]


def handed_on() -> list[Step]:
    """A layer that returns what it takes, at the foot of a branch."""
    steps = plain_block()
    steps[2] = Step("b1", "conv", ("same",), conv())
    steps.insert(2, Step("same", "same", ("act",), nn.Identity()))
    steps.insert(2, Step("drop", "same", ("act",), nn.Dropout2d()))
    steps[3] = Step("same", "same", ("drop",), nn.Identity())
    return steps


def normalised() -> list[Step]:
    """Convolutions with a BatchNorm, of which half the scales are negative."""
    steps = plain_block()
    steps[1:2] = [Step("norm", "bn", ("stem",), nn.BatchNorm2d(C)), Step("act", "relu", ("norm",), nn.ReLU())]
    at = next(i for i, step in enumerate(steps) if step.name == "sum")
    steps[at : at + 1] = [Step("norm2", "bn", ("b2",), nn.BatchNorm2d(C)), Step("sum", "add", ("act", "norm2"))]
    return steps


NETS: dict[str, tuple[Callable[[], list[Step]], bool]] = {
    "residual": (plain_block, False),
    "residual in place": (plain_block, True),
    "projection": (projection, False),
    "two levels": (two_levels, False),
    "dense": (dense, False),
    "branches": (branches, False),
    "handed on": (handed_on, False),
    "normalised": (normalised, False),
    "normalised in place": (normalised, True),
}


def stepwise(name: str, seed: int = 0) -> Stepwise:
    make, in_place = NETS[name]
    torch.manual_seed(seed)
    net = Stepwise(make(), in_place).to(DOUBLE).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.tensor([0.7, -1.2, 1.5, -0.4], dtype=DOUBLE)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.ReLU) and in_place and module is not net.act:  # that one is read by the skip, too
            module.inplace = True
    return net


def layers_of(name: str) -> list[str]:
    return [step.name for step in NETS[name][0]() if step.module is not None and step.kind != "fc"]


@cache
def twins(name: str, i: int, target: int, contrastive: bool) -> dict[str, Array]:
    """The twin of one of two images, for all layers."""
    return twin(stepwise(name), images(2, (5, 6))[i], target, contrastive)


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name in NETS for layer in layers_of(name)])
def test_at_every_layer_of_every_branch(name: str, layer: str) -> None:
    net, x = stepwise(name), images(2, (5, 6))
    for method, contrastive in (("excitation_backprop", False), ("contrastive_excitation_backprop", True)):
        got = lucidcam.attribute(net, x, method, target=[[2, 0]] * 2, layer=layer)
        for i in range(2):
            for t, target in enumerate((2, 0)):
                expected = twins(name, i, target, contrastive)[layer].sum(0)
                expected = np.maximum(expected, 0) if contrastive else expected
                np.testing.assert_allclose(got[i, t], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", NETS)
def test_the_mass_is_one_where_all_ways_cross_and_shared_where_they_part(name: str) -> None:
    net, x = stepwise(name), images(1, (5, 6))
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    classes = int(net(x).argmax())

    def mass(layer: str) -> float:
        return float(lucidcam.attribute(net, x, "excitation_backprop", target=classes, layer=layer).sum())

    crossed = [layer for layer in ("stem", "norm", "act", "last") if hasattr(net, layer)]
    assert [mass(layer) for layer in crossed] == pytest.approx([1.0] * len(crossed))
    inside = [layer for layer in layers_of(name) if layer not in crossed and layer != "drop"]
    assert all(0 <= mass(layer) < 1 - 1e-6 for layer in inside)
    assert any(mass(layer) > 1e-6 for layer in inside)


class Ones(nn.Module):
    """`x + b(x)`, everything one."""

    def __init__(self, lower: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.stem, self.b, self.fc = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.lower = lower
        for parameter in self.parameters():
            nn.init.ones_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lower(F.relu(self.stem(x)))
        x = F.relu(x + self.b(x))
        return self.fc(x.mean((2, 3)))


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1.0


@pytest.mark.parametrize("lower", [lambda x: x, no_grad])
@pytest.mark.parametrize("name", ["excitation_backprop", "contrastive_excitation_backprop"])
def test_half_of_it_goes_past_the_branch(name: str, lower: Callable[[Tensor], Tensor]) -> None:
    net, x = Ones(lower).to(DOUBLE), torch.ones(1, 1, 2, 2, dtype=DOUBLE)
    assert float(lucidcam.attribute(net, x, name, target=0, layer="b").sum()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "lower", [lambda x: x.detach(), lambda x: torch.from_numpy(x.detach().numpy().copy()), lambda x: x.round().long().to(x)]
)
def test_where_no_graph_reaches_down_only_what_all_ways_cross_is_explained(lower: Callable[[Tensor], Tensor]) -> None:
    """What goes past the layer is then a constant to the graph: nobody knows its share."""

    class Cut(Ones):
        def __init__(self) -> None:
            super().__init__(lower)
            self.top, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lower(F.relu(self.stem(x)))
            x = F.relu(x + self.b(x))
            return self.head(F.relu(self.top(x)).mean((2, 3)))

    torch.manual_seed(0)
    net, x = Cut().to(DOUBLE), 3 * torch.rand(2, 1, 4, 4, dtype=DOUBLE)
    nn.init.ones_(net.top.weight), nn.init.ones_(net.head.weight)
    inside = lucidcam.attribute(net, x, "excitation_backprop", target=1, layer="top")
    torch.testing.assert_close(inside.sum((1, 2)), torch.ones(2, dtype=DOUBLE))
    with pytest.raises(lucidcam.LucidcamError, match="does not depend on the layer 'b'") as caught:
        lucidcam.attribute(net, x, "excitation_backprop", target=1, layer="b")
    assert "\n" not in str(caught.value)


def test_a_second_image_has_its_share() -> None:
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Linear(2, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.fc((F.relu(self.one(x)) + F.relu(self.two(y))).mean((2, 3)))

    net = Streams().to(DOUBLE)
    for parameter in net.parameters():
        nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.ones_(parameter)
    pair = torch.ones(1, 1, 3, 3, dtype=DOUBLE), 3 * torch.ones(1, 1, 3, 3, dtype=DOUBLE)
    for layer in ("one", None):
        assert float(lucidcam.attribute(net, pair, "excitation_backprop", target=1, layer=layer).sum()) == pytest.approx(0.25)


def test_resnet_and_densenet_inside_their_last_branches() -> None:
    """The share of the branch, by hand, from what the network's own layers give."""
    torch.manual_seed(0)
    models = import_torchvision().models
    x = torch.randn(1, 3, 64, 64, dtype=DOUBLE)
    for name, inner, classifier in (
        ("resnet18", "layer4.1.bn2", "fc"),
        ("densenet121", "features.denseblock4.denselayer16.conv2", "classifier"),
    ):
        net = getattr(models, name)(weights=None).to(DOUBLE).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(-0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
        kept: dict[str, Array] = {}
        watched = ["layer4.0", inner] if name == "resnet18" else ["features.norm5"]
        handles = [
            net.get_submodule(key).register_forward_hook(lambda _, __, out, key=key: kept.__setitem__(key, out.detach()[0].clone().numpy()))
            for key in watched
        ]
        with torch.no_grad():
            net(x)
        for handle in handles:
            handle.remove()
        weights = np.maximum(net.get_submodule(classifier).weight.detach().numpy()[3], 0)
        if name == "resnet18":
            branch, skip = kept[inner], kept["layer4.0"]
            last = np.maximum(branch + skip, 0)
            total = np.maximum(branch, 0) + np.maximum(skip, 0)
            share = np.divide(np.maximum(branch, 0), total, out=np.zeros_like(total), where=total > 0)
        else:
            last = np.maximum(kept["features.norm5"], 0)
            share = (net.features.norm5.weight > 0).numpy()[:, None, None] * np.ones_like(last)
            share[: -net.features.denseblock4.denselayer16.conv2.out_channels] = 0
        excited = weights[:, None, None] * last
        expected = (excited / excited.sum() * share).sum(0)
        assert 0.001 < expected.sum() < 0.9
        got = lucidcam.attribute(net, x, "excitation_backprop", target=3, layer=inner)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)


def test_several_layers_each_have_their_share() -> None:
    net, x = stepwise("residual"), images(2, (5, 6))
    fused = lucidcam.attribute(net, x, "excitation_backprop", target=1, layer=["b2", "act"], fusion="mean")
    single = [lucidcam.attribute(net, x, "excitation_backprop", target=1, layer=layer) for layer in ("b2", "act")]
    units = [each / each.amax((1, 2), keepdim=True) for each in single]
    torch.testing.assert_close(fused, sum(units) / 2)


# -------------------------------------------------------------------------------------------------------------------- the contrast


class Toy(nn.Module):
    """Two channels on a row of two places, averaged, and two classes that want the opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = nn.Identity(), nn.Linear(2, 2, bias=False)
        self.fc.weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def test_channels_are_summed_before_the_contrast_is_cut_off() -> None:
    net, x = Toy(), torch.tensor([[[[3.0, 1.0]], [[0.0, 4.0]]]])
    torch.testing.assert_close(
        lucidcam.attribute(net, x, "excitation_backprop", target=0, layer="features"), torch.tensor([[[0.75, 0.25]]])
    )
    got = lucidcam.attribute(net, x, "contrastive_excitation_backprop", target=[[0, 1]], layer="features")
    torch.testing.assert_close(got, torch.tensor([[[[0.75, 0.0]], [[0.0, 0.75]]]]))
    deeper = lucidcam.attribute(net, x, "contrastive_excitation_backprop", target=[[0, 1]])  # the image is what the layer gives
    torch.testing.assert_close(deeper, got)


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:resnet18"])
def test_the_contrast_is_not_the_plain_one_under_the_classifier(name: str) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if "google" in name else {}
    net = getattr(import_torchvision().models, name.removeprefix("torchvision:"))(weights=None, **options).to(DOUBLE).eval()
    layer, x = ("inception5b" if "google" in name else "layer4"), torch.randn(1, 3, 96, 96, dtype=DOUBLE)
    plain, contrast = (
        lucidcam.attribute(net, x, method, target=[[1, 2]], layer=layer)
        for method in ("excitation_backprop", "contrastive_excitation_backprop")
    )
    assert float((plain - contrast).abs().max()) > 0.1 * float(plain.max())
    assert bool((contrast <= plain + 1e-12).all())
    assert not ((contrast[:, 0] > 0) & (contrast[:, 1] > 0)).all()


def test_two_classes_side_by_side_are_told_apart() -> None:
    """Each half of a photo shows one class; the plain map lights up both where both classes use a feature, the contrast one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    net[0].weight.data = torch.eye(3)[:, :, None, None]
    net[4].weight.data = torch.tensor([[1.0, -1.0, 0.4], [-1.0, 1.0, 0.4]])  # red, green, and blue, which both classes have
    for seed in range(5):
        noise = 0.1 * torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(seed))
        photo = noise.clone()
        photo[:, :, 2:6, 1:5] += torch.tensor([1.0, 0.0, 0.8])[:, None, None]
        photo[:, :, 2:6, 7:11] += torch.tensor([0.0, 1.0, 0.8])[:, None, None]
        for target, own in ((0, slice(0, 6)), (1, slice(6, 12))):
            plain, contrast = (
                lucidcam.attribute(net, photo, method, target=target, layer="1")[0]
                for method in ("excitation_backprop", "contrastive_excitation_backprop")
            )
            assert float(plain[:, own].sum() / plain.sum()) < 0.85
            assert float(contrast[:, own].sum() / contrast.sum()) > 0.95
