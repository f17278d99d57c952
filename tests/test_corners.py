"""Corners that reviews found: each was once wrong."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from nets import FunctionalGAP, SeveralFC, build, images


class TwoReLUs(nn.Module):
    """conv → relu → conv → a ReLU in some spelling → mean → linear, after a constant change of the input."""

    def __init__(self, second: Any = torch.relu, before: Any = lambda x: x) -> None:
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)
        self.second, self.before = second, before

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.c2(F.relu(self.c1(self.before(x))))).mean((2, 3)))


SPELLINGS = {
    "clip": lambda x: x.clip(min=0),
    "torch.clip": lambda x: torch.clip(x, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.tensor(0.0, dtype=x.dtype)),
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "where": lambda x: torch.where(x > 0, x, 0),
    "mask": lambda x: x * (x > 0),
    "abs": lambda x: (x + x.abs()) / 2,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_a_relu_in_any_spelling_is_handled_or_refused(spelling: str, method: str) -> None:
    x = images(2)
    expected = lucidcam.attribute(build(TwoReLUs), x, method, target=1)
    net = build(TwoReLUs, second=SPELLINGS[spelling])
    if "clip" in spelling:
        torch.testing.assert_close(lucidcam.attribute(net, x, method, target=1), expected)
        return
    with pytest.raises(lucidcam.LucidcamError, match=r"ReLU written by hand|activation that is no ReLU"):
        lucidcam.attribute(net, x, method, target=1)


@pytest.mark.parametrize("before", [lambda x: x * 2 * 3, lambda x: (x - 0.5) / 0.2 * 1.5])
@pytest.mark.parametrize("method", ["guided_backprop", "excitation_backprop"])
def test_constants_in_a_row_are_no_gate(before: Any, method: str) -> None:
    found = lucidcam.attribute(build(TwoReLUs, before=before), images(1), method, target=1)
    assert bool(torch.isfinite(found).all())


class Heads(FunctionalGAP):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.aux = nn.Linear(12, 5)
        if how == "tied":
            self.fc.weight = self.aux.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x))))).mean((2, 3))
        if self.how == "functional":
            return F.linear(x, self.fc.weight, self.fc.bias)
        if self.how == "keyword":
            return F.linear(input=x, weight=self.fc.weight, bias=self.fc.bias)
        if self.how == "module keyword":
            return self.fc(input=x)
        self.aux(x * 2)
        return self.fc(x)


@pytest.mark.parametrize("how", ["functional", "keyword", "module keyword", "tied", "plain"])
def test_cam_finds_the_head_every_time(how: str) -> None:
    net, x = build(Heads, how=how), images(2)
    for _ in range(3):
        maps = lucidcam.attribute(net, x, "cam", target="all", layer="conv2")
        torch.testing.assert_close(maps.mean((-2, -1)) + net.fc.bias.detach(), net(x).detach())


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


def test_a_model_and_a_part_of_it_explained_by_several_threads_stay_as_they_were() -> None:
    net, x = build(Nested).train(), images(1)
    before = copy.deepcopy(net.state_dict())
    found: list[Any] = []

    def work(i: int) -> None:
        for _ in range(25):
            if i % 2:
                found.append(lucidcam.attribute(net, x, target=1, layer="body.2"))
            else:
                lucidcam.attribute(net.body, x, target=lambda out: out[:, 1].mean((1, 2)), layer="2")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(m, found[0]) for m in found)


def test_inputs_too_small_for_the_network_are_told_in_one_line() -> None:
    for size in ((1, 1), (2, 2)):
        with pytest.raises(lucidcam.LucidcamError, match="does not take an input of shape"):
            lucidcam.attribute(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), images(1, size), target=0)
    with pytest.raises(lucidcam.LucidcamError, match=r"batch axis: image\[None\]"):
        lucidcam.attribute(build(FunctionalGAP), images(1)[0], target=0)


def test_copies_and_pickles_of_an_autocast_copy_are_independent() -> None:
    net, x = build(SeveralFC, dtype=torch.float32), images(1, dtype=torch.float32)
    fast = lucidcam.optimize(net, x, dtype=torch.bfloat16)
    other = copy.deepcopy(fast)
    nn.init.zeros_(other.classifier[6].weight)
    nn.init.zeros_(other.classifier[6].bias)
    assert not other(x).any()
    assert fast(x).any()
    assert lucidcam.attribute(other, x, target=1).shape == (1, 10, 14)
    torch.testing.assert_close(pickle.loads(pickle.dumps(fast))(x), fast(x))


def test_parametrised_convolutions_are_left_alone() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4), nn.ReLU()).eval()
    fast = lucidcam.optimize(net, torch.rand(1, 3, 4, 4))
    assert isinstance(fast[1], nn.BatchNorm2d)


def test_targets_of_photos_in_every_spelling() -> None:
    from lucidcam.imaging.preprocess import Preprocess

    net = build(SeveralFC, dtype=torch.float32)
    model = lucidcam.wrap(net, Preprocess(size=(20, 28), fit="squash"), labels=list("abcde"))
    photos = [np.full((20, 28, 3), i, np.uint8) for i in range(20)]
    ids = [i % 5 for i in range(20)]
    for target in (ids, np.array(ids), torch.tensor(ids), lucidcam.Classes(ids), [np.int64(i) for i in ids], [model.label(i) for i in ids]):
        assert [e.target for e in lucidcam.explain(model, photos, target=target)] == ids
    assert [e.target for e in lucidcam.explain(model, photos[0], target=[np.int64(3), np.int64(1)])] == [3, 1]
    assert [e.label for e in lucidcam.explain(model, photos[0], target=lucidcam.Contrast("a", "b"))] == ["a rather than b"]
    calls: list[int] = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    lucidcam.explain(model, photos, target=["top1"] * 20)
    assert len(calls) == 2  # twenty photos in batches of sixteen


@pytest.mark.parametrize("method", ["eigencam", "gradcam", "gradient", "guided_backprop", "scorecam"])
def test_a_model_made_under_inference_mode(method: str) -> None:
    with torch.inference_mode():
        net = build(SeveralFC)
    usual = build(SeveralFC)
    torch.testing.assert_close(lucidcam.attribute(net, images(1), method), lucidcam.attribute(usual, images(1), method))
    assert all(weight.is_inference() for weight in net.parameters())


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(axes: int) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(2)).double()
    x = torch.randn(2, 2, *(8,) * axes).double()
    options = {"target": lambda out: out.mean(2)[:, 1]}
    for method in ("gradcam", "layercam", "scorecam", "ablationcam", "gradient", "eigencam", "occlusion"):
        found = lucidcam.attribute(net, x, method, layer="3", **options)
        assert found.ndim == 1 + axes
    assert lucidcam.attribute(net, x, "gradcam", layer=["1", "3"], **options).shape == (2, *(8,) * axes)


Answer = namedtuple("Answer", ["values", "logits"])


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda y: Answer(y, y), Slotted, lambda y: {"values": y, "logits": y}])
@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "scorecam"])
def test_odd_outputs(wrap: Any, method: str) -> None:
    class Odd(SeveralFC):
        def forward(self, x: Tensor) -> Any:
            return wrap(super().forward(x))

    expected = lucidcam.attribute(build(SeveralFC), images(1), method, target=1, layer="features.4")
    torch.testing.assert_close(lucidcam.attribute(build(Odd), images(1), method, target=1, layer="features.4"), expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gradcam", {"smooth": "x"}, "smooth expects int; got 'x'"),
        ("gradcam", {"batch_size": "x"}, "batch_size expects int or None; got 'x'"),
        ("gradcam", {"augment": 3}, "augment expects str; got 3"),
        ("gradcam", {"counterfactual": 1}, "counterfactual expects bool; got 1"),
        ("gradcam", {"fusion": "sum"}, "expected fusion"),
        ("rise", {"masks": 10.5}, "masks expects int; got 10.5"),
        ("rise", {"masks": True}, "masks expects int; got True"),
    ],
)
def test_option_values_of_another_type(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lucidcam.LucidcamError, match=message):
        lucidcam.attribute(build(SeveralFC), images(1), method, **options)


def test_large_seeds() -> None:
    for method in ("sscam", "rise", "smoothgradcam++"):
        options = {"masks": 5} if method == "rise" else {"samples": 2}
        lucidcam.attribute(build(SeveralFC), images(1), method, seed=2**40, **options)


def test_numeric_baselines() -> None:
    net, x = build(SeveralFC), images(1)
    one, two = (lucidcam.attribute(net, x, "scorecam", target=1, baseline=value) for value in ("0.0", "zeros"))
    torch.testing.assert_close(one, two)


def test_a_network_that_changes_its_way_is_traced_again() -> None:
    class Toggle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.use = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5), True

        def forward(self, x: Tensor) -> Tensor:
            return (self.a if self.use else self.b)(x).relu().mean((2, 3))

    net, x = build(Toggle), images(1)
    assert lucidcam.attribute(net, x).shape == (1, 18, 26)
    net.use = False
    assert lucidcam.attribute(net, x).shape == (1, 16, 24)


def test_compiled_parts() -> None:
    net, x = build(SeveralFC), images(1)
    expected = lucidcam.attribute(net, x, target=1)
    net.features = torch.compile(net.features, backend="eager")
    torch.testing.assert_close(lucidcam.attribute(net, x, target=1), expected)


def test_a_constant_target_is_told_so() -> None:
    for method in ("cam", "gradcam"):
        with pytest.raises(lucidcam.LucidcamError, match=r"does not depend|not differentiable"):
            lucidcam.attribute(build(FunctionalGAP), images(2), method, target=lambda out: torch.ones(len(out)), layer="conv2")


def test_strict_false_gives_the_plain_gradient_where_there_is_no_relu() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(1872, 5)).double()
    x = images(1)
    torch.testing.assert_close(
        lucidcam.attribute(net, x, "guided_backprop", target=1, strict=False), lucidcam.attribute(net, x, "gradient", target=1)
    )


def test_explain_says_what_it_needs() -> None:
    from lucidcam.imaging.preprocess import Preprocess

    net = build(SeveralFC, dtype=torch.float32)
    with pytest.raises(lucidcam.LucidcamError, match=r"got SeveralFC: use lucidcam\.wrap"):
        lucidcam.explain(net, "photo.jpg")  # type: ignore[arg-type]
    with pytest.raises(lucidcam.LucidcamError, match=r"got str: use lucidcam\.load"):
        lucidcam.explain("demo", "photo.jpg")  # type: ignore[arg-type]
    model = lucidcam.wrap(net, Preprocess(size=(20, 28), fit="squash"), labels=["a", "b"])
    with pytest.raises(lucidcam.LucidcamError, match="has 2 labels for 5 classes"):
        lucidcam.explain(model, np.zeros((20, 28, 3), np.uint8))
    with pytest.raises(lucidcam.LucidcamError, match=r"of a lucidcam Model that is model\.module"):
        lucidcam.attribute(model, images(1))  # type: ignore[arg-type]
    with pytest.raises(lucidcam.LucidcamError, match="belongs to pixels of 0 to 255: give scale=1"):
        Preprocess(mean=(103.9, 116.8, 123.7), std=(1, 1, 1))
