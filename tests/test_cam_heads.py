"""CAM's head by value: maps are those of the scores that are asked for, or they are refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from nets import Residual, build, images

CHANNELS, CLASSES = 8, 4


class Headed(nn.Module):
    """One convolution, and any head on top of it."""

    def __init__(self, head, rectified: bool = True) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, CHANNELS, 3), nn.Conv2d(3, CHANNELS, 3)
        self.layer = nn.ReLU() if rectified else nn.Identity()
        self.fc, self.aux, self.wide = nn.Linear(CHANNELS, CLASSES), nn.Linear(CHANNELS, CLASSES), nn.Linear(CHANNELS, 7)
        self.second, self.point, self.norm = nn.Linear(CLASSES, CLASSES), nn.Conv2d(CHANNELS, CLASSES, 1), nn.BatchNorm2d(CHANNELS)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.head = head

    def forward(self, x: Tensor):
        return self.head(self, self.activations(x), x)

    def activations(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x))


def headed(head, rectified: bool = True) -> Headed:
    torch.manual_seed(1)
    return Headed(head, rectified).double().eval()


def mean(a: Tensor) -> Tensor:
    return a.mean((2, 3))


def total(a: Tensor) -> Tensor:
    return a.sum((2, 3))


def twice(net: Headed, h: Tensor, first: bool) -> Tensor:
    once, again = net.fc(h), net.fc(3 * h)
    return once if first else again


AFFINE = {
    "an auxiliary head runs last": lambda net, a, x: (net.fc(mean(a)), net.aux(mean(a)))[0],
    "mean of two heads": lambda net, a, x: (net.fc(mean(a)) + net.aux(mean(a))) / 2,
    "negation": lambda net, a, x: -net.fc(mean(a)),
    "negation in place": lambda net, a, x: net.fc(mean(a)).neg_(),
    "permutation": lambda net, a, x: net.fc(mean(a))[:, [3, 0, 1, 2]],
    "temperature": lambda net, a, x: net.fc(mean(a)) / 0.07,
    "scale and shift": lambda net, a, x: net.fc(mean(a)) * 2.5 + 1,
    "scaled features": lambda net, a, x: net.fc(3 * mean(a)),
    "slice": lambda net, a, x: net.wide(mean(a))[:, :CLASSES],
    "concatenation": lambda net, a, x: torch.cat([net.fc(mean(a))[:, :2], net.aux(mean(a))[:, 2:]], 1),
    "two linear layers": lambda net, a, x: net.second(net.fc(mean(a))),
    "no linear layer": lambda net, a, x: mean(a) @ net.fc.weight.t(),
    "normalised weights": lambda net, a, x: F.linear(mean(a), F.normalize(net.fc.weight)),
    "called twice, first": lambda net, a, x: twice(net, mean(a), first=True),
    "called twice, second": lambda net, a, x: twice(net, mean(a), first=False),
    "normalisation before the pooling": lambda net, a, x: net.fc(mean(net.norm(a))),
    "1x1 convolution": lambda net, a, x: mean(net.point(a)),
    "1x1 convolution, negated": lambda net, a, x: -mean(net.point(a)),
    "1x1 convolution before an auxiliary head": lambda net, a, x: (mean(net.point(a)), net.aux(mean(a)))[0],
    "functional ReLU": lambda net, a, x: net.fc(mean(F.relu(a))),
    "functional ReLU and negation": lambda net, a, x: -net.fc(mean(F.relu(a))),
    "without gradients": lambda net, a, x: torch.no_grad()(lambda: -net.fc(mean(net.layer(a))))(),
}
"""Heads whose scores are an affine function of what is pooled by a mean."""

SUMS = {
    "linear": lambda net, a, x: net.fc(total(a)),
    "negated": lambda net, a, x: -net.fc(total(a)),
    "divided": lambda net, a, x: net.fc(total(a) / 100),
    "1x1 convolution": lambda net, a, x: total(net.point(a)),
}

OTHERS = {
    "another branch": lambda net, a, x: torch.cat([net.fc(mean(a)), net.aux(mean(net.other(x)))], 1),
    "less another branch": lambda net, a, x: net.fc(mean(a)) - net.fc(mean(net.other(x))),
    "cosine": lambda net, a, x: F.linear(F.normalize(mean(a)), F.normalize(net.fc.weight)),
    "softmax": lambda net, a, x: net.fc(mean(a)).softmax(1),
    "log-softmax": lambda net, a, x: net.fc(mean(a)).log_softmax(1),
    "sigmoid": lambda net, a, x: net.fc(mean(a)).sigmoid(),
    "sigmoid of small logits": lambda net, a, x: (net.fc(mean(a)) / 20).sigmoid(),
    "nearly affine": lambda net, a, x: net.fc(mean(a)) + 1e-3 * net.fc(mean(a)) ** 2,
    "hidden layer": lambda net, a, x: net.second(F.relu(net.fc(mean(a)))),
    "rectified scores": lambda net, a, x: F.relu(net.fc(mean(a))),
    "larger of two heads": lambda net, a, x: torch.maximum(net.fc(mean(a)), net.aux(mean(a))),
    "layer norm": lambda net, a, x: net.fc(F.layer_norm(mean(a), (CHANNELS,))),
    "generalised mean": lambda net, a, x: net.fc(mean(a.clamp(min=1e-6) ** 3) ** (1 / 3)),
    "a part of the map": lambda net, a, x: net.fc(mean(a[:, :, :7])),
    "distances": lambda net, a, x: -((mean(a)[:, None] - net.fc.weight) ** 2).sum(-1),
    "of the photo's size": lambda net, a, x: net.fc(mean(a)) / x.flatten(1).norm(dim=1, keepdim=True),
    "and a pixel": lambda net, a, x: net.fc(mean(a)) + x[:, 0, :1, 0],
}
"""Heads whose scores are no affine function of pooled activations."""


def reference(net: Headed, x: Tensor, pixels: bool = True) -> Tensor:
    """`Σ_k w_k A_k` `[B, K, h, w]` from the gradients of the returned scores, which are w_k / Z wherever a ReLU lets them pass."""
    a = net.activations(x).detach().requires_grad_()
    scores = net.head(net, a, x)
    maps = [(torch.autograd.grad(scores[:, c].sum(), a, retain_graph=True)[0] * a).sum(1).detach() for c in range(scores.shape[1])]
    return torch.stack(maps, 1) * (a[0, 0].numel() if pixels else 1)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("how", AFFINE)
def test_the_maps_are_those_of_the_scores(how: str, rectified: bool, count: int) -> None:
    net, x = headed(AFFINE[how], rectified), images(count)
    every = lucidcam.attribute(net, x, "cam", target="all", layer="layer")
    if how != "without gradients":
        torch.testing.assert_close(every, reference(net, x), rtol=1e-9, atol=1e-11)
    offset = (net(x) - every.mean((-2, -1))).detach()  # the bias, the same for every image
    torch.testing.assert_close(offset, offset[:1].expand_as(offset), rtol=1e-9, atol=1e-11)
    targets = [2, 0, 1][:count]
    some = lucidcam.attribute(net, x, "cam", target=targets, layer="layer")
    torch.testing.assert_close(some, every[range(count), targets], rtol=1e-9, atol=1e-11)
    contrast = lucidcam.attribute(net, x, "cam", target=lucidcam.Contrast(3, 1), layer="layer")
    torch.testing.assert_close(contrast, every[:, 3] - every[:, 1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("how", SUMS)
def test_of_sums_the_maps_add_up_to_the_scores(how: str, rectified: bool) -> None:
    """`Σ_xy M_c + b_c = S_c`: the paper's `F_k = Σ_xy f_k`."""
    net, x = headed(SUMS[how], rectified), images(3)
    every = lucidcam.attribute(net, x, "cam", target="all", layer="layer")
    torch.testing.assert_close(every, reference(net, x, pixels=False), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("how", OTHERS)
def test_other_heads_are_refused(how: str, rectified: bool, count: int) -> None:
    net = headed(OTHERS[how], rectified)
    with pytest.raises(lucidcam.LucidcamError, match="must be an affine function"):
        lucidcam.attribute(net, images(count), "cam", target="all", layer="layer")
    lucidcam.attribute(net, images(count), "gradcam", target=0, layer="layer")


def test_of_several_branches_each_class_counts_by_itself() -> None:
    net, x = headed(OTHERS["another branch"]), images(2)
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target=2, layer="layer"), reference(net, x)[:, 2])
    with pytest.raises(lucidcam.LucidcamError, match="must be an affine function"):
        lucidcam.attribute(net, x, "cam", target=CLASSES, layer="layer")
    contrast = lucidcam.attribute(net, x, "cam", target=lucidcam.Contrast(2, 0), layer="layer")
    torch.testing.assert_close(contrast, (reference(net, x)[:, 2] - reference(net, x)[:, 0]))


@pytest.mark.parametrize(
    ("outputs", "target"),
    [
        (lambda net, a, x: {"logits": net.fc(mean(a)), "aux": net.aux(mean(a))}, 1),
        (lambda net, a, x: {"logits": net.aux(mean(a)), "aux": net.fc(mean(a))}, lucidcam.targets.Head("aux", 1)),
        (lambda net, a, x: {"kind": net.fc(mean(a)), "age": net.aux(mean(a))}, lambda out: out["kind"][:, 1]),
        (lambda net, a, x: (net.aux(mean(a)), net.fc(mean(a))), lambda out: out[1][:, 1]),
        (lambda net, a, x: (net.aux(mean(a)), net.fc(mean(a))), lucidcam.targets.Head(1, 1)),
    ],
)
def test_the_head_is_that_of_the_scores_that_the_target_reads(outputs, target) -> None:
    net, x = headed(outputs), images(3)
    a = net.activations(x)
    expected = torch.einsum("k,bkhw->bhw", net.fc.weight[1], a).detach()
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target=target, layer="layer"), expected)


def test_predicted_classes_of_another_output_have_weights_of_their_own() -> None:
    net, x = headed(lambda net, a, x: {"kind": net.fc(40 * mean(a) - 8), "age": net.aux(mean(a))}), images(6)
    x = x * torch.linspace(-2, 2, 6)[:, None, None, None].double()
    classes = net(x)["kind"].argmax(1)
    assert len(classes.unique()) > 1
    maps = lucidcam.attribute(net, x, "cam", target=lucidcam.targets.Head("kind"), layer="layer")
    torch.testing.assert_close(maps, 40 * torch.einsum("bk,bkhw->bhw", net.fc.weight[classes], net.activations(x)).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net, x = headed(AFFINE["mean of two heads"]), images(2)
    expected = reference(net, x)
    maps = lucidcam.attribute(net.to(dtype), x.to(dtype), "cam", target="all", layer="layer")
    loose = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(maps, expected.float(), **loose)


def test_numbers_beside_the_image_that_decide_are_refused() -> None:
    class Aged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.age = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(1, 4)

        def forward(self, image: Tensor, age: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(image)).mean((2, 3))) + self.age(age)

    net = Aged().double().eval()
    for count in (1, 3):
        with pytest.raises(lucidcam.LucidcamError, match="must be an affine function"):
            lucidcam.attribute(net, (images(count), torch.ones(count, 1).double()), "cam", layer="conv")


def test_a_module_that_runs_several_times_is_replaced_in_its_last_call() -> None:
    class Negated(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    net, x = build(Negated), images(2)
    maps = lucidcam.attribute(net, x, "cam", target="all")
    torch.testing.assert_close(maps.mean((-2, -1)) - net.fc.bias.detach(), net(x).detach(), rtol=1e-9, atol=1e-9)


def test_changing_the_head_changes_the_map() -> None:
    """What is remembered of a network is checked by value at every call."""
    net, x = headed(AFFINE["an auxiliary head runs last"]), images(2)
    lucidcam.attribute(net, x, "cam", target="all", layer="layer")
    net.head = AFFINE["negation"]
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target="all", layer="layer"), reference(net, x))
    net.head = lambda net, a, x: net.aux(mean(a))
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target="all", layer="layer"), reference(net, x))


def maximum_of(rectify) -> Headed:
    net = headed(lambda net, a, x: net.fc(rectify(a).amax((2, 3))), rectified=False)
    nn.init.constant_(net.conv.bias, -0.3)
    return net


@pytest.mark.parametrize("rectify", [F.relu, F.relu_, lambda a: a], ids=["ReLU", "ReLU in place", "none"])
def test_of_a_maximum_an_image_has_the_same_map_alone_and_in_any_batch(rectify) -> None:
    """A channel that is negative everywhere tells that there is a ReLU; images without one must not be taken for others."""
    net = maximum_of(rectify)
    x = torch.cat([4 * images(2), torch.zeros(1, *images(1).shape[1:]).double()])
    a = net.activations(x).detach()
    assert bool((a[:2].amax((2, 3)) > 0).all())
    assert bool((a[2].amax((1, 2)) < 0).any())
    expected = torch.einsum("ck,bkhw->bchw", net.fc.weight.detach(), rectify(a.clone()))
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target="all", layer="layer"), expected)
    for i in range(3):
        alone = lucidcam.attribute(net, x[i : i + 1], "cam", target="all", layer="layer")
        torch.testing.assert_close(alone, expected[i : i + 1])


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 8.0])
@pytest.mark.parametrize("divide", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("rectify", [F.relu, lambda a: a], ids=["ReLU", "none"])
def test_log_sum_exp_is_recognised_as_a_mean_and_as_a_sum(sharpness: float, divide: bool, rectify) -> None:
    """The paper's divides by the number of places within the logarithm; `torch.logsumexp` does not."""

    def pool(a: Tensor) -> Tensor:
        pixels = sharpness * rectify(a).flatten(2)
        return (pixels.logsumexp(-1) - divide * math.log(pixels.shape[-1])) / sharpness

    net = headed(lambda net, a, x: net.fc(pool(a)), rectified=False)
    x = 4 * images(2)
    expected = torch.einsum("ck,bkhw->bchw", net.fc.weight.detach(), rectify(net.activations(x).detach()))
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target="all", layer="layer"), expected)
    torch.testing.assert_close(lucidcam.attribute(net, x[:1], "cam", target="all", layer="layer"), expected[:1])


def test_of_a_maximum_another_activation_between_is_refused() -> None:
    net = maximum_of(lambda a: F.leaky_relu(a, 0.3))
    for x in (4 * images(2), images(1)):
        with pytest.raises(lucidcam.LucidcamError, match="must be an affine function"):
            lucidcam.attribute(net, x, "cam", layer="layer")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("head", "sign"), [
    (lambda net, a, x: net.fc(mean(a))[:, :1], 1),
    (lambda net, a, x: net.fc(mean(a))[:, 0], 1),
    (lambda net, a, x: net.fc(mean(a))[:, 0].squeeze(), 1),
    (lambda net, a, x: -F.linear(mean(a), net.fc.weight[:1]), -1),
    (lambda net, a, x: F.linear(mean(a), net.fc.weight[:1]), 1),
])  # fmt: skip
def test_a_single_column_has_the_maps_of_two_classes(head, sign: int, count: int) -> None:
    net, x = headed(head), images(count)
    expected = sign * torch.einsum("k,bkhw->bhw", net.fc.weight[0], net.activations(x)).detach()
    every = lucidcam.attribute(net, x, "cam", target="all", layer="layer")
    torch.testing.assert_close(every, torch.stack([expected, -expected], 1))
    torch.testing.assert_close(lucidcam.attribute(net, x, "cam", target=1, layer="layer"), -expected)
