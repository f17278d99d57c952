"""Grad-CAM++, Smooth Grad-CAM++ and XGrad-CAM at layers with negative activations: their poles, and the default layer after its ReLU."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lucidcam
import naive
from commands import run
from lucidcam.errors import SignedLayerWarning
from nets import DenseConcat, FunctionalGAP, build, images

METHODS = {"gradcam++": {}, "xgradcam": {}, "smoothgradcam++": {"samples": 2}}


class Rectified(nn.Module):
    """One convolution; its ReLU is a module, or a function."""

    def __init__(self, functional: bool, rectify=F.relu) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.act = nn.Identity() if functional else nn.ReLU()
        self.functional, self.rectify = functional, rectify

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.conv(x))
        a = self.rectify(a) if self.functional else a
        return self.fc(F.avg_pool2d(a, 2).mean((2, 3)))


def pair(rectify=F.relu) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    function, module = Rectified(True, rectify).double().eval(), Rectified(False).double().eval()
    module.load_state_dict(function.state_dict())
    return function, module


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_default_layer_is_taken_after_its_relu(method: str, count: int) -> None:
    """With and without a module of its own the maps are the same."""
    function, module = pair()
    x = images(count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in (1, "all"):
            got, expected = (lucidcam.attribute(net, x, method, target=target, **METHODS[method]) for net in (function, module))
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [FunctionalGAP, DenseConcat])
def test_values_after_a_functional_relu(kind: type) -> None:
    net, x = build(kind), images(2)
    name = {FunctionalGAP: "conv2", DenseConcat: "last"}[kind]
    for method in ("gradcam++", "xgradcam"):
        maps = lucidcam.attribute(net, x, method, target=3)
        for i in range(2):
            a, _, _ = naive.whole_graph(net, x[i : i + 1], name, 3)
            rectified = np.maximum(a, 0)
            g = np.broadcast_to(net.fc.weight[3].detach().numpy()[:, None, None] / a[0].size, a.shape)  # of the mean, everywhere
            np.testing.assert_allclose(maps[i].numpy(), naive.CAMS[method](rectified, g), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_other_activations_are_left_as_they_are(method: str) -> None:
    function, _ = pair(F.silu)
    x = images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignedLayerWarning)
        by_default, named = (lucidcam.attribute(function, x, method, target=1, layer=layer, **METHODS[method]) for layer in (None, "act"))
    torch.testing.assert_close(by_default, named)


def at_the_pole(total: float, gradient: float) -> tuple[nn.Module, Tensor]:
    """A layer of one channel with the given sum, and a gradient everywhere."""
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 1, bias=False)).double().eval()
    with torch.no_grad():
        net[2].weight.fill_(gradient)
    return net, torch.tensor([[[[2.0, -3.0], [1.0, total]]]]).double()


@pytest.mark.parametrize(
    ("method", "last", "gradient", "near"),
    [
        ("gradcam++", -2.0, 1.0, True),  # g ΣA = −2
        ("gradcam++", -9.0, 1.0, True),  # beyond it: α is negative
        ("gradcam++", -0.5, 1.0, False),
        ("gradcam++", -2.0, -1.0, False),  # only positive gradients count
        ("xgradcam", 0.0, 1.0, True),  # ΣA = 0
        ("xgradcam", 0.5, 1.0, False),
        ("smoothgradcam++", -2.0, 1.0, True),
        ("smoothgradcam++", -0.5, 1.0, False),
    ],
)
def test_a_warning_says_where_the_pole_is_near(method: str, last: float, gradient: float, near: bool) -> None:
    net, x = at_the_pole(last, gradient)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = lucidcam.attribute(net, x, method, target=lambda out: out[:, 0], layer="0", **METHODS[method])
    assert bool(torch.isfinite(maps).all())
    assert [each.category for each in caught] == [SignedLayerWarning] * near
    if near:
        assert "negative activations" in str(caught[0].message)


@pytest.mark.parametrize(("method", "poles"), [("gradcam++", [True, False]), ("xgradcam", [False, True])])
def test_maps_near_a_pole_have_a_note(method: str, poles: list[bool], tmp_path, monkeypatch, capsys) -> None:
    """Those alone: of two images one is at each method's pole."""
    net, _ = at_the_pole(0.0, 1.0)
    monkeypatch.chdir(tmp_path)
    for name, last in (("first", -2), ("second", 0)):
        Image.fromarray((50 * (np.array([[2, -3], [1, last]]) + 3)).astype(np.uint8)).save(f"{name}.png")

    def to_tensor(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.convert("L").resize((2, 2)))).double()[None] / 50 - 3

    model = lucidcam.wrap(net, to_tensor, ["it"], layer="0", outputs="none", frame="whole")
    monkeypatch.setattr("lucidcam.cli.explain.load_model", lambda *_, **__: model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignedLayerWarning)
        maps = lucidcam.explain(model, ["first.png", "second.png"], method)
        run("explain", "first.png", "second.png", "--method", method, "--out", "out", "--report", "page.html")
    assert ["negative activations" in each.note for each in maps] == poles
    entries = json.loads((tmp_path / "out" / "explanations.json").read_text("utf-8"))
    assert ["negative activations" in each.get("note", "") for each in entries] == poles
    assert capsys.readouterr().out.count("has negative activations") == 1
    assert "has negative activations" in (tmp_path / "page.html").read_text("utf-8")


def test_layers_without_negative_activations_are_never_warned_of() -> None:
    _, module = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method, options in METHODS.items():
            lucidcam.attribute(module, images(3), method, target="all", layer="act", **options)
