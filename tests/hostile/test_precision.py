"""What precision, autocast, default types and inference mode must not change."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lucidcam
from few_passes import METHODS, OPTIONS
from in_turn import in_turn
from lucidcam.registry import methods, metrics

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of some operations in half precision

BY_GRADIENT = [name for name in METHODS if methods[name].kind in ("gradient", "pixel")]


def often(names: list[str], quick: tuple[str, ...]) -> list[Any]:
    """All names, of which those that are not quick are tried with the slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def network(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        for part in (net[0], net[2], net[6]):
            part.weight[1:4] = part.weight[1:4].abs()  # there is evidence for class 1
        net[6].weight *= scale
        net[6].bias *= scale
    return net.to(dtype)


def images(count: int = 2, side: int = 10) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(5), dtype=torch.float32)


def attribute(module: nn.Module, x: Tensor, method: str, target: Any = 1, **options: Any) -> Tensor:
    return lucidcam.attribute(module, x, method, target=target, **OPTIONS.get(method, {}), **options)


def assert_same_direction(result: Tensor, wanted: Tensor) -> None:
    assert bool(wanted.any())
    pair = [(part.double() / part.double().abs().max()).flatten() for part in (result, wanted)]
    assert float(torch.cosine_similarity(*pair, 0)) > 0.99


# ---------------------------------------------------------------- gradients of half precision


@pytest.mark.parametrize("scale", [1e-5, pytest.param(1.0, marks=pytest.mark.slow), pytest.param(1e4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", BY_GRADIENT)
def test_gradients_of_float16_neither_vanish_nor_overflow(method: str, scale: float) -> None:
    twin = network(scale, torch.float16).float()
    result, wanted = attribute(network(scale, torch.float16), images().half(), method), attribute(twin, images(), method)
    assert result.dtype == torch.float32
    assert_same_direction(result, wanted)
    if method in ("gradcam", "gradient"):
        assert float(result.abs().max()) == pytest.approx(float(wanted.abs().max()), rel=0.05)


def test_each_image_and_target_of_float16_has_a_scale_of_its_own() -> None:
    net = network(1.0, torch.float16)
    with torch.no_grad():
        net[6].weight[1] *= 1e-5
        net[6].weight[2] *= 3e3
    x = torch.cat([images(1), 1e-2 * images(1)])
    result = lucidcam.attribute(net, x.half(), "gradient", target="all")
    wanted = lucidcam.attribute(net.float(), x, "gradient", target="all")
    for i in range(2):
        for t in range(3):
            assert_same_direction(result[i, t], wanted[i, t])


def test_gradients_of_float16_that_did_not_vanish_stay_what_they_are() -> None:
    net, x = network(64.0, torch.float16), images().half()
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(net(leaf)[:, 1].float().sum(), leaf)
    result = lucidcam.attribute(net, x, "gradient", target=1, reduce="none")
    apart = wanted.abs() >= 2**-14  # what float16 holds with all of its digits
    assert float(apart.float().mean()) > 0.9
    torch.testing.assert_close(result[apart], wanted.float()[apart], rtol=2e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["attention_relevance", "legrad"])
def test_attention_of_float16(method: str) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
    net = ViTForImageClassification(config).eval()
    with torch.no_grad():
        net.classifier.weight *= 1e-3
    net.half()
    result = attribute(net, images(2, 32).half(), method)
    assert_same_direction(result, attribute(net.float(), images(2, 32), method))


@pytest.mark.parametrize("method", often(METHODS, ("gradcam", "rise", "scorecam", "guided_backprop")))
def test_autocast_is_for_the_network_alone(method: str) -> None:
    wanted = attribute(network(), images(), method)
    with torch.autocast("cpu", torch.bfloat16):
        result = attribute(network(), images(), method)
    assert result.dtype == wanted.dtype
    if method != "occlusion":  # what a patch takes away is less than a step of the scores
        assert_same_direction(result, wanted)


# ---------------------------------------------------------------- default types


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default(torch.float64),
    "float16": lambda: default(torch.float16),
    "bfloat16": lambda: default(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("method", often(METHODS, ("rise", "sscam", "gradcam", "cam")))
def test_defaults_change_no_map(kind: str, method: str) -> None:
    wanted, module, x = attribute(network(), images(), method), network(), images()
    with DEFAULTS[kind]():
        assert torch.equal(attribute(module, x, method), wanted)


FAITHFUL = sorted(
    name for name, metric in metrics.items() if "target" in inspect.signature(metric.__call__).parameters and name != "win_rate"
)
"""Metrics that need neither objects nor other methods."""


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("name", often(FAITHFUL, ("deletion", "sanity")))
def test_defaults_change_no_figure(kind: str, name: str) -> None:
    def again(module: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
        return lucidcam.attribute(module, x, "gradcam", target=classes)

    module, x, metric = network(), images(), metrics[name]()
    maps = attribute(module, x, "gradcam")
    wanted = metric(module, x, maps, target=1, explain=again)
    with DEFAULTS[kind]():
        result = metric(module, x, maps, target=1, explain=again)
    assert all(torch.equal(result[figure], wanted[figure]) for figure in wanted)


# ---------------------------------------------------------------- inference mode


def targets() -> dict[str, Any]:
    ids, weights = network()(images()).argmax(1), torch.tensor([1.0, 2.0, 3.0])
    return {
        "predicted": ids,
        "two each": torch.stack([ids, (ids + 1) % 3], 1),
        "list": list(ids),
        "contrast": lucidcam.Contrast(ids, (ids + 1) % 3),
        "probability": lucidcam.Probability(ids),
        "function": lambda outputs: (outputs * weights).sum(1),
    }


@pytest.mark.parametrize(
    ("method", "target"),
    [
        pytest.param(*pair, marks=() if pair[0] in ("gradcam", "guided_backprop", "cam") else pytest.mark.slow)
        for pair in in_turn(METHODS, targets())
    ],
)
def test_what_is_made_in_inference_mode_works(method: str, target: str) -> None:
    try:
        wanted = attribute(network(), images(), method, targets()[target])
    except lucidcam.LucidcamError as error:
        wanted, refusal = None, str(error)
    with torch.inference_mode():
        question, module, x = targets()[target], network(), images()
    for context in (torch.inference_mode, torch.enable_grad):
        with context():
            if wanted is None:
                with pytest.raises(lucidcam.LucidcamError) as caught:
                    attribute(module, x, method, question)
                assert str(caught.value) == refusal
            else:
                torch.testing.assert_close(attribute(module, x, method, question), wanted)
    assert x.is_inference()
    assert x.equal(images())


# ---------------------------------------------------------------- what is no image, and weights that are no numbers


IMAGES: dict[str, Callable[[], Tensor]] = {
    "sparse": lambda: images().to_sparse(),
    "nested": lambda: torch.nested.nested_tensor(list(images())),
    "float8": lambda: images().to(torch.float8_e4m3fn),
    "bytes": lambda: (255 * images()).byte(),
    "quantised": lambda: torch.quantize_per_tensor(images(), 0.01, 0, torch.quint8),
    "meta": lambda: images().to("meta"),
    "NaN": lambda: images() * torch.nan,
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("method", ["gradcam", "rise"])
def test_what_is_no_image_is_refused(kind: str, method: str) -> None:
    with pytest.raises(lucidcam.errors.InputError) as caught:
        attribute(network(), IMAGES[kind](), method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", often(METHODS, ("gradcam", "eigencam", "rise")))
def test_weights_that_are_no_numbers_are_refused(method: str, number: float) -> None:
    net = network()
    with torch.no_grad():
        net[2].weight[0, 0, 0, 0] = number
    with pytest.raises(lucidcam.LucidcamError) as caught:
        attribute(net, images(), method)
    assert "\n" not in str(caught.value)
