"""The engine: what it gives back, what it sees, and what it says when it cannot."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lucidcam
import naive
from lucidcam.engine.capture import cut
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layers import default, find
from lucidcam.engine.masked import Stream
from lucidcam.engine.session import session
from lucidcam.nn.memory import Belongs, Memory
from lucidcam.utils.fingerprint import fingerprint
from nets import CONVOLUTIONAL, Answer, Branches, DenseConcat, FunctionalGAP, Residual, SeveralFC, SiLUNet, Tokens, build, images

METHODS = sorted(lucidcam.methods())
FEW: dict[str, dict[str, Any]] = {
    "rise": {"masks": 20, "cells": 3},
    "occlusion": {"window": 8},
    "sscam": {"samples": 2},
    "iscam": {"steps": 2},
    "smoothgradcam++": {"samples": 2},
}
"""Options that make a method quick."""


ATTENTION = ("rollout", "attention_relevance", "legrad")
"""They are for transformers, and refuse other networks; the same is asked of them there."""

LAYERS = {FunctionalGAP: "conv2", SeveralFC: "features.4", Tokens: "blocks.0"}


def suited(method: str, kind: type[nn.Module] = FunctionalGAP) -> tuple[type[nn.Module], str]:
    """A network that the method is for, `kind` if it is, and a layer of it."""
    kind = Tokens if method in ATTENTION else kind
    return kind, LAYERS[kind]


def few(method: str, net: nn.Module, x: Any, layer: str | None = None) -> dict[str, Any]:
    """Options that make a method quick, and the memory that M-CAM needs: of this network, at this layer."""
    if method != "mcam":
        return FEW.get(method, {})
    with session(net):
        given = Inputs.of(x)
        found = find(net, layer) if layer else default(net, given)
        kept = cut(net, given, [found], gradients=False)
    _, channels, *grid = kept.cuts[0].maps.shape
    belongs = Belongs(fingerprint(net), "the network", found.name, tuple("abcde"), tuple(range(5)))
    torch.manual_seed(5)
    return {"memory": Memory(7, channels, tuple(grid), 5, belongs=belongs)}


class Boom(RuntimeError):
    pass


def state(net: nn.Module) -> dict[str, Any]:
    """Everything that must come back as it was."""
    return {
        "training": [m.training for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.forward.__func__) for m in net.modules()],
        "values": [v.clone() for v in net.state_dict().values()],
        "types": [type(m) for m in net.modules()],
        "grad mode": torch.is_grad_enabled(),
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    for key, values in one.items():
        if key in ("grad", "values"):
            assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(values, two[key], strict=True)), key
        else:
            assert values == two[key], key


def lived_in(kind: type[nn.Module] = SeveralFC) -> nn.Module:
    """A network in the middle of someone's training: mixed flags, some frozen parameters, some gradients, a hook of the user's."""
    net = build(kind)
    net.train()
    next(net.children()).eval()
    for i, p in enumerate(net.parameters()):
        p.requires_grad_(i % 2 == 0)
        if i % 4 == 0:
            p.grad = torch.ones_like(p)
    net.register_forward_hook(lambda *_: None)
    return net


# ----------------------------------------------------------------------------------------------- conformance of every method


@pytest.mark.parametrize("method", METHODS)
def test_the_module_comes_back_as_it_was(method: str) -> None:
    kind, layer = suited(method, SeveralFC)
    net = lived_in(kind)
    before = state(net)
    if method != "cam":
        lucidcam.attribute(net, images(2), method, target=1, layer=layer, **few(method, net, images(2), layer))
    same(before, state(net))


@pytest.mark.parametrize("method", METHODS)
def test_the_module_comes_back_after_an_exception_inside_it(method: str) -> None:
    kind, layer = suited(method)
    net = lived_in(kind)
    options = few(method, net, images(2), layer)
    handle = (net.head if kind is Tokens else net.fc).register_forward_pre_hook(_explode)
    before = state(net)
    with pytest.raises(Boom):
        lucidcam.attribute(net, images(2), method, target=1, layer=layer, **options)
    same(before, state(net))
    handle.remove()


def _explode(*_: object) -> None:
    raise Boom("inside the model")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_equals_singles(method: str, dtype: torch.dtype) -> None:
    kind, layer = suited(method)
    net, x = build(kind, dtype=dtype), images(3, dtype=dtype)
    options = {"layer": layer, **few(method, net, x, layer)}
    batch = lucidcam.attribute(net, x, method, **options)
    singles = torch.cat([lucidcam.attribute(net, x[i : i + 1], method, **options) for i in range(3)])
    assert batch.dtype == dtype
    torch.testing.assert_close(
        batch, singles, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5 if dtype == torch.float32 else 1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_equal_one_at_a_time(method: str) -> None:
    kind, layer = suited(method)
    net, x = build(kind), images(2)
    options = {"layer": layer, **few(method, net, x, layer)}
    several = lucidcam.attribute(net, x, method, target=[[0, 3], [4, 2]], **options)
    first = lucidcam.attribute(net, x, method, target=[0, 4], **options)
    second = lucidcam.attribute(net, x, method, target=[3, 2], **options)
    torch.testing.assert_close(several, torch.stack([first, second], 1))
    default = lucidcam.attribute(net, x, method, **options)
    torch.testing.assert_close(default, lucidcam.attribute(net, x, method, target=net(x).argmax(1), **options))


@pytest.mark.parametrize("method", METHODS)
def test_deterministic_under_a_seed_whatever_the_batch_size(method: str) -> None:
    kind, layer = suited(method)
    net, x = build(kind), images(2)
    options = {"layer": layer, "target": 1, "seed": 3, **few(method, net, x, layer)}
    torch.manual_seed(1)
    one = lucidcam.attribute(net, x, method, batch_size=3, **options)
    torch.manual_seed(2)
    torch.testing.assert_close(one, lucidcam.attribute(net, x, method, batch_size=50, **options))


@pytest.mark.parametrize("method", METHODS)
def test_finite_on_a_constant_image(method: str) -> None:
    kind, layer = suited(method)
    net = build(kind)
    options = few(method, net, images(1), layer)
    for value in (0.0, 1.0):
        found = lucidcam.attribute(net, torch.full((1, 3, 20, 28), value).double(), method, layer=layer, **options)
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("method", METHODS)
def test_maps_have_the_resolution_they_promise(method: str) -> None:
    net, x = build(suited(method)[0]), images(2)
    kind = lucidcam.methods()[method]
    found = lucidcam.attribute(net, x, method, target=[[0, 1, 2]] * 2, **few(method, net, x))
    pixels = kind.kind == "pixel" or kind.layered == "never"
    assert found.shape == (2, 3, *((5, 7) if method in ATTENTION else (20, 28) if pixels else (10, 14)))
    assert not found.requires_grad
    assert kind.__doc__
    assert (
        kind.paper.split()[0]
        in "Zhou Selvaraju Chattopadhay Omeiza Fu Draelos Jiang Muhammad Wang Naidu Desai Petsiuk Zeiler Simonyan Springenberg Zhang Kim "
        "Abnar Chefer Bousselham"
    )


@pytest.mark.parametrize("method", METHODS)
def test_wrappers_work_with_every_method(method: str) -> None:
    kind, layer = suited(method)
    net, x = build(kind), images(1)
    options = {"target": 1, **few(method, net, x, layer)}
    found = lucidcam.attribute(net, x, method, smooth=2, augment="hflip,gain", layer=layer, **options)
    assert bool(torch.isfinite(found).all())
    if method not in ("cam", "mcam"):  # each is about one layer
        layers = ["blocks.0", "blocks.1"] if kind is Tokens else ["conv1", "conv2"]
        assert bool(torch.isfinite(lucidcam.attribute(net, x, method, layer=layers, fusion="max", **options)).all())


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "guided_backprop", "excitation_backprop", "cam"])
def test_eight_threads_on_one_model_give_the_maps_of_one(method: str) -> None:
    net = lived_in(FunctionalGAP)
    before = state(net)
    x = images(8)
    expected = [lucidcam.attribute(net, x[i : i + 1], method, target=i % 5, layer="conv2") for i in range(8)]
    found: list[Tensor | None] = [None] * 8

    def work(i: int) -> None:
        for _ in range(10):  # 480 calls by six methods
            got = lucidcam.attribute(net, x[i : i + 1], method, target=i % 5, layer="conv2")
            previous, found[i] = found[i], got
            assert previous is None or torch.equal(got, previous)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(found, expected, strict=True):
        assert got is not None
        torch.testing.assert_close(got, want)
    same(before, state(net))


def test_a_forward_in_another_thread_is_not_touched_by_our_hooks() -> None:
    net, x = build(FunctionalGAP), images(1)
    with torch.no_grad():
        plain = net(x)
    seen: list[Tensor] = []

    def other(*_: object) -> None:
        if threading.current_thread() is threading.main_thread() and not seen:
            with torch.no_grad():
                thread = threading.Thread(target=lambda: seen.append(_no_grad(net, x)))
                thread.start()
                thread.join()

    net.fc.register_forward_hook(other)
    lucidcam.attribute(net, x, "gradcam", layer="conv2")
    torch.testing.assert_close(seen[0], plain)
    assert not seen[0].requires_grad


def _no_grad(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


# ------------------------------------------------------------------------------------------------------------------- capture


def test_the_cut_saves_no_activations_below_the_layer() -> None:
    net, x = build(SeveralFC), images(2)
    saved: list[tuple[int, ...]] = []
    with session(net), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        cut(net, Inputs.of(x), [find(net, "features.4")], gradients=True)
    assert saved
    assert not any(shape[-2:] == (20, 28) for shape in saved)


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_module_called_several_times_is_cut_at_the_call_asked_for(call: int) -> None:
    net, x = build(Residual), images(2)
    got = lucidcam.attribute(net, x, "gradcam", target=1, layer=f"relu#{call}")
    twin = copy.deepcopy(net)
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        out.retain_grad()
        kept.append(out)
        return out.clone()

    twin.relu.register_forward_hook(hook)
    twin(x.requires_grad_())[:, 1].sum().backward()
    a, g = kept[call].detach(), kept[call].grad
    assert g is not None
    for i in range(2):
        torch.testing.assert_close(got[i], torch.tensor(naive.gradcam(a[i].numpy(), g[i].numpy())))
    last = lucidcam.attribute(net, x, "gradcam", target=1, layer="relu")
    assert torch.equal(last, got) == (call == 2)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_called_under_no_grad_or_inference_mode(around: Any) -> None:
    net, x = build(SeveralFC), images(2)
    expected = {m: lucidcam.attribute(net, x, m, target=1) for m in ("gradcam", "guided_backprop", "scorecam")}
    with around():
        inside = images(2)  # an inference tensor under inference_mode
        for method, want in expected.items():
            torch.testing.assert_close(lucidcam.attribute(net, inside, method, target=1), want)


class TurnsGradOff(nn.Module):
    """A frozen backbone under no_grad (or inference_mode), as users write it."""

    def __init__(self, around: Any) -> None:
        super().__init__()
        self.backbone, self.around = build(SeveralFC).features, around
        self.fc = nn.Linear(350, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        with self.around():
            x = self.backbone(x)
        return self.fc(x.clone().flatten(1))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layer", ["backbone.4", "backbone.1"])
def test_models_that_turn_gradients_off_inside(around: Any, layer: str) -> None:
    net = TurnsGradOff(around)
    x = images(2)
    got = lucidcam.attribute(net, x, "gradcam", target=1, layer=layer)
    net.around = torch.enable_grad
    torch.testing.assert_close(got, lucidcam.attribute(net, x, "gradcam", target=1, layer=layer))
    for method in ("gradient", "guided_backprop"):
        expected = lucidcam.attribute(net, x, method, target=1)
        net.around = around
        torch.testing.assert_close(lucidcam.attribute(net, x, method, target=1), expected)
        net.around = torch.enable_grad


def test_nothing_flows_through_detach() -> None:
    class Detaches(SeveralFC):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    for method in ("gradient", "guided_backprop", "excitation_backprop"):
        with pytest.raises(lucidcam.LucidcamError, match="does not depend on the image"):
            lucidcam.attribute(build(Detaches), images(1), method)


def test_frozen_parameters() -> None:
    net, x = build(SeveralFC), images(2)
    expected = lucidcam.attribute(net, x, "gradcam", target=1)
    net.requires_grad_(False)
    torch.testing.assert_close(lucidcam.attribute(net, x, "gradcam", target=1), expected)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "scorecam", "ablationcam", "eigencam", "gradient", "guided_backprop"])
def test_bfloat16(method: str) -> None:
    net, x = build(SeveralFC, dtype=torch.float32), images(2, dtype=torch.float32)
    exact = lucidcam.attribute(net, x, method, target=1)
    coarse = lucidcam.attribute(net.bfloat16(), x.bfloat16(), method, target=1)
    assert coarse.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([exact.flatten(), coarse.flatten()]))[0, 1]
    assert correlation > 0.95


def test_under_autocast() -> None:
    net, x = build(SeveralFC, dtype=torch.float32), images(2, dtype=torch.float32)
    exact = lucidcam.attribute(net, x, "gradcam", target=1)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = lucidcam.attribute(net, x, "gradcam", target=1)
    assert torch.corrcoef(torch.stack([exact.flatten(), coarse.flatten()]))[0, 1] > 0.95


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = build(SeveralFC), kind

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return {
            "dict": {"logits": y, "hidden": x},
            "dataclass": Answer(y),
            "tuple": (y, x),
            "odd dict": OrderedDict(answers=y),
            "map": y[:, :, None, None].expand(-1, -1, 2, 2),
            "one": y[:, 0],
            "1x1": y[:, :, None, None],
        }[self.kind]


@pytest.mark.parametrize("kind", ["dict", "dataclass", "1x1"])
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "guided_backprop"])
def test_outputs_with_logits(kind: str, method: str) -> None:
    x = images(2)
    got = lucidcam.attribute(Outputs(kind), x, method, target=2, layer="net.features.4")
    torch.testing.assert_close(got, lucidcam.attribute(build(SeveralFC), x, method, target=2, layer="features.4"))


@pytest.mark.parametrize(
    ("kind", "target"),
    [("tuple", lambda out: out[0][:, 2]), ("odd dict", lambda out: out["answers"][:, 2]), ("map", lambda out: out[:, 2, 1, 1])],
)
def test_other_outputs_need_a_callable(kind: str, target: Any) -> None:
    x = images(2)
    with pytest.raises(lucidcam.LucidcamError, match="give a callable: target=lambda outputs"):
        lucidcam.attribute(Outputs(kind), x, "gradcam", target=2, layer="net.features.4")
    expected = lucidcam.attribute(build(SeveralFC), x, "gradcam", target=2, layer="features.4")
    for method in ("gradcam", "scorecam", "ablationcam", "rise"):
        got = lucidcam.attribute(Outputs(kind), x, method, target=target, layer="net.features.4", **FEW.get(method, {}))
        if method == "gradcam":
            torch.testing.assert_close(got, expected)
    assert lucidcam.attribute(Outputs(kind), x, "gradcam", target=lambda out: torch.stack([target(out)] * 3, 1)).shape[:2] == (2, 3)


def test_a_single_regression_output() -> None:
    x = images(2)
    got = lucidcam.attribute(Outputs("one"), x, "gradcam", layer="net.features.4")
    torch.testing.assert_close(got, lucidcam.attribute(build(SeveralFC), x, "gradcam", target=0, layer="features.4"))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(4, 6), nn.Linear(12, 5)

    def forward(self, table: Tensor, image: Tensor, scale: float = 1.0) -> Tensor:
        seen = self.conv(image).relu().mean((2, 3))
        return self.fc(torch.cat([seen, self.side(table).relu()], 1)) * scale


class TwoInputsTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.side = Tokens(), nn.Linear(4, 5)

    def forward(self, table: Tensor, image: Tensor, scale: float = 1.0) -> Tensor:
        return self.net(image) * self.side(table).sigmoid() * scale


@pytest.mark.parametrize("method", METHODS)
def test_several_inputs(method: str) -> None:
    kind, layer = (TwoInputsTokens, "net.blocks.0") if method in ATTENTION else (TwoInputs, "conv")
    net, x, table = build(kind), images(3), torch.randn(3, 4).double()
    options = {"target": 2, "layer": layer, **few(method, net, (table, x), layer)}
    if method == "cam":
        with pytest.raises(lucidcam.LucidcamError, match="global average pooling"):
            lucidcam.attribute(net, (table, x), method, **options)
        return
    positional = lucidcam.attribute(net, (table, x), method, **options)
    named = lucidcam.attribute(net, {"image": x, "table": table, "scale": 1.0}, method, **options)
    torch.testing.assert_close(positional, named)
    torch.testing.assert_close(positional[1:2], lucidcam.attribute(net, (table[1:2], x[1:2]), method, **options))


def test_branches_fall_back_to_copies() -> None:
    net, x = build(Branches), images(1)
    got = lucidcam.attribute(net, x, "ablationcam", target=1, layer="right")
    expected = naive.ablationcam(net, x, "right", 1)
    torch.testing.assert_close(got[0], torch.tensor(expected))


# ------------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_halves_its_batch_when_the_memory_is_full() -> None:
    sizes: list[int] = []

    def step(part: slice) -> Tensor:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.arange(part.start, part.stop)

    stream = Stream(16)
    assert stream.run(10, step).tolist() == list(range(10))
    assert sizes[:3] == [10, 5, 2]
    assert stream.batch == 2


@pytest.mark.parametrize("error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_a_stream_gives_up_when_one_row_does_not_fit(error: Exception) -> None:
    def step(_: slice) -> Tensor:
        raise error

    with pytest.raises(type(error)):
        Stream(8).run(4, step)


def test_a_stream_passes_other_errors_on() -> None:
    calls = []

    def step(_: slice) -> Tensor:
        calls.append(1)
        raise Boom

    with pytest.raises(Boom):
        Stream(8).run(4, step)
    assert len(calls) == 1


def test_a_slow_stream_shows_a_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import lucidcam.engine.masked as masked

    monkeypatch.setattr(masked, "SLOW", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Stream(1, progress=True, title="scorecam").run(3, lambda part: torch.zeros(1))
    assert "scorecam" in capsys.readouterr().err
    Stream(1, progress=False).run(3, lambda part: torch.zeros(1))
    assert capsys.readouterr().err == ""
    outer = Stream(1, progress=True, title="rise")
    for _ in outer.steps(3):  # one bar for both loops
        outer.run(3, lambda part: torch.zeros(1))
    assert "rise" in capsys.readouterr().err
    assert outer._bar is None


# -------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "features.9"}, r"no layer is called 'features.9'; did you mean 'features\.\d'"),
        ({"layer": "pool"}, None),
        ({"layer": "classifier.1"}, r"gives \[2, 16\]: no spatial map .* Try 'features\.4'\."),
        ({"layer": nn.Conv2d(1, 1, 1)}, "not part of this SeveralFC"),
        ({"layer": 3.5}, "dotted name or module; got float"),
        ({"layer": "features.1#4"}, "runs 1 times: give '#0'"),
        ({"layer": "features.1#x"}, "call number"),
        ({"target": 5}, "class id 5 is out of range: the model has 5 classes, 0 to 4"),
        ({"target": -1}, "class id -1 is out of range"),
        ({"target": [1]}, r"expected target ids of shape \[2\] or \[2, T\] for 2 images; got \[1\]"),
        ({"target": [1, 2, 3]}, r"got \[3\]"),
        ({"target": 1.5}, "integer class ids"),
        ({"target": True}, "expected a class id"),
        ({"target": "tabby"}, "needs a model with labels"),
        ({"target": "top9"}, "1 ≤ k ≤ 5"),
        ({"target": lambda out: out.sum()}, r"one score per image, \[B\] or \[B, T\] with B = 2; it returned \[\]"),
        ({"target": lambda out: out.argmax(1)}, "floating-point tensor"),
        ({"target": lambda out: out[:, 0].detach()}, "not differentiable"),
        ({"method": "grad-cam"}, "no method is called 'grad-cam'; did you mean 'gradcam'"),
        ({"method": 3}, "expected a method's name"),
        ({"counterfactal": True}, "no option is called 'counterfactal'; did you mean 'counterfactual'"),
        ({"method": "scorecam", "weights": "sotfmax"}, 'expected weights "increase", "softmax" or "probability"'),
        ({"method": "scorecam", "baseline": "blurr"}, "no baseline is called 'blurr'; did you mean 'blur'"),
        ({"method": "rise", "masks": 0}, "masks ≥ 1"),
        ({"method": "occlusion", "window": 100}, "window ≤ 20"),
        ({"method": "sscam", "samples": 0}, "samples ≥ 1"),
        ({"method": "iscam", "steps": 0}, "steps ≥ 1"),
        ({"method": "smoothgradcam++", "samples": 0}, "samples ≥ 1"),
        ({"method": "gradient", "reduce": "mean"}, "expected reduce"),
        ({"augment": "hflop"}, "no augmentation is called 'hflop'; did you mean 'hflip'"),
        ({"smooth": -1}, "smooth ≥ 1"),
        ({"batch_size": 0}, "batch_size ≥ 1"),
        ({"layer": ["features.1", "features.4"], "fusion": "sum"}, "expected fusion"),
    ],
)
def test_one_line_errors(change: dict[str, Any], message: str | None) -> None:
    net, x = build(SeveralFC), images(2)
    change = dict(change)
    method = change.pop("method", "gradcam")
    if message is None and change.get("layer") == "pool":
        assert lucidcam.attribute(net, x, method, **change).shape == (2, 3, 3)
        return
    with pytest.raises(lucidcam.LucidcamError, match=message) as caught:
        lucidcam.attribute(net, x, method, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.full((1, 3, 20, 28), torch.nan).double(), "image 0 of the batch holds NaN"),
        (torch.zeros(0, 3, 20, 28).double(), "at least one pixel"),
        (torch.zeros(1, 3, 0, 28).double(), "at least one pixel"),
        (torch.zeros(1, 4, 20, 28).double(), "does not take an input of shape .*channels"),
        (torch.zeros(1, 3, 20, 28), "does not take an input of shape .* float32"),
        (torch.zeros(1, 3, 20, 28, dtype=torch.uint8), r"floating-point image tensor .* uint8"),
        (torch.zeros(5).double(), "floating-point image tensor"),
        ("cat.jpg", "Files and PIL images go to lucidcam.explain"),
        ((1, 2), "got int, int"),
    ],
)
def test_bad_inputs(inputs: Any, message: str) -> None:
    with pytest.raises(lucidcam.LucidcamError, match=message) as caught:
        lucidcam.attribute(build(SeveralFC), inputs, "gradcam")
    assert "\n" not in str(caught.value)


class NeverRuns(SeveralFC):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 3, 1)


def test_a_layer_that_never_runs() -> None:
    with pytest.raises(lucidcam.LucidcamError, match=r"'spare' does not run in a forward pass of this NeverRuns\. Try 'features\.4'\."):
        lucidcam.attribute(build(NeverRuns), images(1), "gradcam", layer="spare")


def test_a_network_without_spatial_layers() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(1680, 5)).double()
    with pytest.raises(lucidcam.LucidcamError, match="no layer of this Sequential holds a spatial map"):
        lucidcam.attribute(net, images(1), "gradcam")
    assert lucidcam.attribute(net, images(1), "gradient").shape == (1, 20, 28)


def test_a_model_that_outputs_nan() -> None:
    net = build(SeveralFC)
    net.classifier[6].bias.data[1] = torch.nan
    with pytest.raises(lucidcam.LucidcamError, match="score for the target is NaN"):
        lucidcam.attribute(net, images(1), "gradcam", target=1)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_nan_score_of_a_masked_image_is_told(batch_size):
    """It is asked for once, after the last batch: a NaN in an early one must not be lost."""

    class Dark(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = x.mean((2, 3))
            scores[x[:, 0, 0, 0] == 0] = torch.nan  # where the first pixel is masked
            return scores

    with pytest.raises(lucidcam.LucidcamError, match="score for the target is NaN"):
        lucidcam.attribute(Dark(), torch.ones(1, 3, 8, 8), "occlusion", window=2, stride=2, batch_size=batch_size)


def test_a_layer_beside_the_score() -> None:
    class Beside(SeveralFC):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.aux(x)
            return super().forward(x)

    with pytest.raises(lucidcam.LucidcamError, match=r"does not depend on the layer 'aux'|not differentiable"):
        lucidcam.attribute(build(Beside), images(1), "gradcam", layer="aux")


@pytest.mark.parametrize(
    "method", ["guided_backprop", "deconvnet", "guided_gradcam", "excitation_backprop", "contrastive_excitation_backprop"]
)
def test_rules_refuse_networks_that_are_not_relu_like(method: str) -> None:
    with pytest.raises(lucidcam.LucidcamError, match="silu"):
        lucidcam.attribute(build(SiLUNet), images(1), method, layer="conv")


def test_modules_that_run_elsewhere_are_refused() -> None:
    with pytest.raises(lucidcam.LucidcamError, match=r"pass module\.module"):
        lucidcam.attribute(nn.DataParallel(build(SeveralFC)), images(1))
    with pytest.raises(lucidcam.LucidcamError, match=r"expected a torch\.nn\.Module; got str"):
        lucidcam.attribute("resnet", images(1))  # type: ignore[arg-type]


def test_compiled_modules_are_explained_through_what_they_wrap() -> None:
    net, x = build(SeveralFC), images(1)
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(lucidcam.attribute(compiled, x, "gradcam", target=1), lucidcam.attribute(net, x, "gradcam", target=1))
    inside = build(SeveralFC)
    inside.compile(backend="eager")
    torch.testing.assert_close(lucidcam.attribute(inside, x, "gradcam", target=1), lucidcam.attribute(net, x, "gradcam", target=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.compile(torch.compile(net, backend="eager"), backend="eager"),
        lambda net: torch.compile(net.forward, backend="eager"),
        lambda net: torch.compile(torch.relu, backend="eager"),
    ],
    ids=["a module twice", "a forward", "a function"],
)
def test_what_is_compiled_to_a_function_is_told(make: Any) -> None:
    with pytest.raises(lucidcam.LucidcamError, match="compiled once or not at all"):
        lucidcam.attribute(make(build(SeveralFC)), images(1))


# ------------------------------------------------------------------------------------------------------------ targets, default


def test_targets_of_every_kind() -> None:
    net, x = build(SeveralFC), images(2)
    every = lucidcam.attribute(net, x, "hirescam", target="all")
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=3), every[:, 3])
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=torch.tensor([3, 1])), torch.stack([every[0, 3], every[1, 1]]))
    top = net(x).topk(2).indices
    expected = torch.stack([every[i, top[i]] for i in range(2)])
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target="top2"), expected)
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=lucidcam.TopK(2)), expected)
    contrast = lucidcam.Contrast(1, 4)
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=contrast), every[:, 1] - every[:, 4])
    p = net(x).softmax(1).detach()
    chain = p[:, 1, None, None] * (every[:, 1] - (p[:, :, None, None] * every).sum(1))
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=lucidcam.Probability(1)), chain)
    torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=lambda out: out[:, 1] - out[:, 4]), every[:, 1] - every[:, 4])


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (FunctionalGAP, {}, "conv2"),
        (SeveralFC, {}, "features.4"),
        (DenseConcat, {}, "last"),
        (Residual, {}, "relu"),
        (CONVOLUTIONAL["fully"][0], {}, "features"),
        (Tokens, {"prefix": 1}, "blocks.1.norm1"),
        (Tokens, {"prefix": 0, "pool": True}, "blocks.1.norm2"),
    ],
)
def test_default_layer_of_small_networks(kind: type[nn.Module], options: dict[str, Any], expected: str) -> None:
    net = build(kind, **options)
    info = lucidcam.layers(net, images(1, (24, 32)))
    assert [name for name, layer in info.items() if layer.default] == [expected]
    assert expected in lucidcam.layers(net)


def test_the_default_layer_is_looked_for_again_when_the_network_changes() -> None:
    net, x = build(SeveralFC), images(1)
    assert lucidcam.attribute(net, x).shape == (1, 10, 14)
    net.features = nn.Sequential(*net.features[:2], nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Conv2d(8, 10, 1).double())
    assert lucidcam.attribute(net, x).shape == (1, 5, 7)


def test_tracing_happens_once() -> None:
    net, x = build(SeveralFC), images(1)
    lucidcam.attribute(net, x)
    calls = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    lucidcam.attribute(net, x)
    assert len(calls) == 1


def test_a_single_images_gradient_below_a_batch_normalisation() -> None:
    """torch 2.13 gets it wrong for one image where tokens are made of its output (`flatten(2).transpose(1, 2)`)."""
    torch.manual_seed(0)

    class ToTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(self.see(x)).flatten(2).transpose(1, 2)
            return (self.head(tokens) * tokens.mean(-1, keepdim=True)).mean(1)

    net = ToTokens().double().eval()
    nn.init.uniform_(net.norm.weight)
    x = images(2).double()
    for method in ("hirescam", "gradient"):
        together = lucidcam.attribute(net, x, method, target=1, layer=None if method == "gradient" else "see")
        alone = lucidcam.attribute(net, x[:1], method, target=1, layer=None if method == "gradient" else "see")
        assert torch.allclose(together[:1], alone, atol=1e-12)


def test_a_network_without_a_head_is_looked_at_its_end() -> None:
    """Features `[B, C, h, w]` look like class scores of places; only a target that names a place says that they are."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1)).double().eval()
    given = Inputs.of(images(1))
    assert default(net, given).name == "2"
    assert default(net, given, everywhere=True).name == "1"
