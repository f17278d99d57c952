"""The channel view: against a naive loop, on networks whose channels are known, and as a user meets the command."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

import commands
import lucidcam
import naive
import nets
import scenes
from lucidcam.dissection import sheets
from lucidcam.dissection.channels import _misleading
from lucidcam.errors import InputError, LayerError, ModelError, OptionError, TargetError
from lucidcam.types import Frame


def model(net, size=(20, 28), layer=None, seed=1):
    """Takes any photo as the same random numbers, in float64."""
    values = nets.images(1, size, seed)[0]
    wrapped = lucidcam.wrap(net, lambda photo: values.float(), layer=layer, frame="whole")
    return wrapped, values.float().double()[None]


def told_apart(rows, top):
    """Channels among the first of one order and below the middle of the other, by sorting."""
    found = set()
    for one, other in (("gradient", "increase"), ("increase", "gradient")):
        leaders = sorted(rows, key=lambda row: -getattr(row, one))[: min(top, len(rows) // 4)]
        middle = np.median([getattr(row, other) for row in rows])
        found |= {row.index for row in leaders if getattr(row, other) < middle}
    return found


PHOTO = np.zeros((40, 56, 3), np.uint8)


@pytest.mark.parametrize(("kind", "layer"), [(nets.FunctionalGAP, "conv2"), (nets.SeveralFC, "features.4")])
def test_every_number_is_the_naive_one(kind, layer):
    """Slower, one channel at a time, in float64; the whole graph, no cut."""
    net = nets.build(kind)
    wrapped, x = model(net, layer=layer)
    found = lucidcam.channels(wrapped, PHOTO, 2)
    a, g, scores = naive.whole_graph(net, x, layer, 2)
    with torch.no_grad():
        floor = net(torch.zeros_like(x))[0, 2].item()
    assert found.score == pytest.approx(scores[2])
    assert found.floor == pytest.approx(floor)
    assert found.count == len(a)
    live = [k for k in range(len(a)) if a[k].max() > a[k].min()]
    assert [row.index for row in found.rows] == live
    evidence = {k: g[k].mean() * a[k].sum() for k in range(len(a))}
    total = sum(abs(value) for value in evidence.values())
    for row in found.rows:
        up = F.interpolate(torch.tensor(a[row.index])[None, None], size=x.shape[2:], mode="bilinear", align_corners=False)
        mask = (up - up.min()) / (up.max() - up.min())
        with torch.no_grad():
            alone = net(x * mask)[0, 2].item()
        assert row.gradient == pytest.approx(g[row.index].mean())
        assert row.alone == pytest.approx(alone)
        assert row.increase == pytest.approx(alone - floor)
        assert row.peak == pytest.approx(a[row.index].max())
        assert row.share == pytest.approx(evidence[row.index] / total)
    assert {row.index for row in found.misleading} == told_apart(found.rows, 8)


def test_the_increase_makes_score_cams_map():
    """`ReLU(Σ_k C(A_k) A_k)` of the rows is what the method gives."""
    net = nets.build(nets.FunctionalGAP)
    wrapped, x = model(net, layer="conv2")
    found = lucidcam.channels(wrapped, PHOTO, 1, baseline="mean")
    expected = lucidcam.attribute(net, x, "scorecam", target=1, layer="conv2", baseline="mean")[0]
    summed = sum(row.increase * found.activation(row.index) for row in found.rows).relu()
    torch.testing.assert_close(summed.double(), expected, rtol=1e-5, atol=1e-6)


def test_head_weights_are_the_heads_and_order_as_gradients_do():
    net = nets.build(nets.FunctionalGAP)
    wrapped, _ = model(net)
    relu = nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc)
    wrapped, _ = model(relu.eval(), layer="3")
    found = lucidcam.channels(wrapped, PHOTO, 4)
    for row in found.rows:
        assert row.cam == pytest.approx(net.fc.weight[4, row.index].item())
    assert found.agreement("gradient", "cam") == pytest.approx(1)
    assert lucidcam.channels(model(nets.build(nets.SeveralFC), layer="features.4")[0], PHOTO).orders == ("gradient", "increase")


class Planted(nn.Module):
    """Channels see red, blue, and eight faint mixtures: the gradient loves blue, which by itself says nothing of the class."""

    def __init__(self):
        super().__init__()
        self.see = nn.AvgPool2d(8)
        self.register_buffer("mix", torch.cat([torch.eye(3)[[0, 2, 1]], torch.tensor([[1.0, 0, k / 8] for k in range(8)])]))

    def forward(self, x):
        a = torch.einsum("kc,bchw->bkhw", self.mix, self.see(x))
        return self.score(self.maps(a))

    def maps(self, a):
        return a

    def score(self, a):
        red, blue, green = a.amax((2, 3)).T[:3]
        # Blue counts beside red only: its slope is steep, and without red it lowers the score.
        faint = a[:, 3:].amax((2, 3)) @ torch.linspace(-0.02, 0.02, 8)
        return torch.stack([2 * red + 5 * blue * (red - 0.2) - green + faint, green], 1)


class Held(Planted):
    """The same, with the mixtures as a layer."""

    def __init__(self):
        super().__init__()
        self.held = nn.Identity()

    def maps(self, a):
        return self.held(a)


def test_where_the_gradient_misleads():
    """At the top by gradient, at the end by increase; the mixtures, whose gradients are below 0, are not marked for that alone."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8, :8, 0] = 255
    pixels[24:, 24:, 2] = 64
    wrapped = lucidcam.wrap(Held().eval(), lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255, layer="held")
    found = lucidcam.channels(wrapped, pixels, 0)
    assert [row.index for row in found.rows] == [0, 1, *range(3, 11)]  # green is constant
    rows = {row.index: row for row in found.rows}
    assert 1 < rows[0].increase < 2
    assert -1 < rows[1].increase < 0
    assert found.top("gradient")[0].index == 1
    assert sum(row.gradient < 0 < row.increase for row in found.rows) >= 4
    assert 1 in {row.index for row in found.misleading} == told_apart(found.rows, 8)
    assert len(found.misleading) <= 4
    assert "! 1 " in " ".join(shown(found).split())


def test_rounding_marks_nothing():
    """Masks that all leave the same score but for the last digits say nothing against gradients."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(40, generator=generator)
    noise = 1e-5 * torch.randn(40, generator=generator)
    assert not _misleading(gradients.half(), (3 + noise).half(), 8)
    assert not _misleading(gradients, 3 + 1e-2 * noise, 8)
    assert _misleading(gradients, 3 + 1e5 * noise, 8)
    assert not _misleading(gradients, torch.full((40,), torch.nan), 8)


def test_small_numbers_are_shown():
    """Scores of a thousandth are no rows of 0.00."""
    net = nets.build(nets.FunctionalGAP)
    with torch.no_grad():
        net.fc.weight.mul_(1e-4)
        net.fc.bias.mul_(1e-4)
    found = lucidcam.channels(model(net, layer="conv2")[0], PHOTO, 2)
    assert 0 < max(abs(row.increase) for row in found.rows) < 5e-3
    assert not {"+0.00", "-0.00", "0.00"} & set(shown(found).split("live of")[1].split())
    assert not any("+0.00 " in line or "-0.00 " in line for row in found.rows for line in sheets.numbers(row))


def test_a_budget_bounds_the_passes_and_is_told(monkeypatch):
    net = nets.build(nets.FunctionalGAP)
    wrapped, _ = model(net, layer="conv2")
    whole = lucidcam.channels(wrapped, PHOTO, 2, top=3)
    counted = []
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda x: counted.append(len(x)) or forward(x))
    lucidcam.channels(wrapped, PHOTO, 2, budget=4)  # the forward is another one, about which all is found out anew
    counted.clear()
    part = lucidcam.channels(wrapped, PHOTO, 2, top=3, budget=4)
    assert part.passes == len(part.run) == 4
    # One for the gradients, one for the head, one for the baseline, and the masks; layers are known from the call before.
    assert sum(counted) <= 4 + 3 + 1
    by_index = {row.index: row for row in whole.rows}
    for row in part.run:
        assert row.increase == pytest.approx(by_index[row.index].increase)
    assert part.top("gradient")[0] in part.run
    assert f"{len(part.rows) - 4} live channels were not run" in shown(part)
    none = lucidcam.channels(wrapped, PHOTO, 2, increase=False)
    assert none.passes == 0
    assert none.floor is None
    assert all(row.increase is None and row.alone is None and not row.misleads for row in none.rows)
    with pytest.raises(OptionError, match="cannot be ordered by 'increase'; by gradient"):
        none.top("increase")


def shown(found, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(found.table())
    return console.export_text()


@pytest.mark.parametrize("at", [(0, 0), (13, 7), (55, 39), (30.5, 12)])
def test_at_a_pixel_channels_say_what_their_enlarged_maps_hold(at):
    net = nets.build(nets.FunctionalGAP)
    wrapped, x = model(net, layer="conv2")
    found = lucidcam.channels(wrapped, PHOTO, 2, increase=False, at=at)
    a, g, _ = naive.whole_graph(net, x, "conv2", 2)
    large = F.interpolate(torch.tensor(a)[None], size=(40, 56), mode="bilinear", align_corners=False)[0].numpy()
    if at == (30.5, 12):
        there = (large[:, 12, 30] + large[:, 12, 31]) / 2
        there = F.interpolate(torch.tensor(a)[None], size=(80, 112), mode="bilinear", align_corners=False)[0, :, 24:26, 61:63].mean((1, 2))
        there = there.numpy()
    else:
        there = large[:, at[1], at[0]]
    said = g.mean((1, 2)) * there
    for row in found.rows:
        assert row.here == pytest.approx(said[row.index] / abs(said).sum(), rel=1e-4, abs=2e-3 if at == (30.5, 12) else 1e-6)
    assert found.orders[0] == "here"
    assert sum(abs(row.here) for row in found.rows) <= 1 + 1e-6


def test_a_pixel_in_a_centre_crop_and_one_outside():
    class Crop:
        def __call__(self, photo):
            return torch.from_numpy(np.array(photo)[:, 10:42]).permute(2, 0, 1) / 255

        def frame(self, size):
            return Frame(*size, (10.0, 0.0, 42.0, 32.0))

    pixels = np.random.default_rng(0).integers(0, 256, (32, 52, 3), dtype=np.uint8)
    wrapped = lucidcam.wrap(scenes.network(), Crop(), layer="2")
    found = lucidcam.channels(wrapped, pixels, 0, increase=False, at=(12, 2))
    cell = found.maps[:, 0, 0] * torch.tensor([row.gradient for row in found.rows])  # near the first cell's centre
    near = torch.tensor([row.here for row in found.rows])
    torch.testing.assert_close(near, cell / max(float(cell.abs().sum()), 1e-12), atol=0.35, rtol=0)
    with pytest.raises(OptionError, match=r"x from 10 to 41, y from 0 to 31\); got \(3, 2\)"):
        lucidcam.channels(wrapped, pixels, 0, at=(3, 2))


def test_a_class_that_sees_colours():
    found = lucidcam.channels(scenes.model(), scenes.scene(("red", (5, 5, 25, 25))), "red")
    assert found.label == "red"
    assert found.top("increase")[0].index == found.top("gradient")[0].index == found.top("cam")[0].index == 0
    assert found.probability == pytest.approx(lucidcam.explain(scenes.model(), scenes.scene(("red", (5, 5, 25, 25))))[0].probability)


def test_an_image_that_says_nothing():
    """No channel is live: nothing to run, nothing to order."""
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    wrapped = lucidcam.wrap(net, lambda photo: torch.zeros(3, 8, 8), layer="0", frame="whole")
    found = lucidcam.channels(wrapped, PHOTO)
    assert found.rows == ()
    assert found.orders == ()
    assert found.passes == 0
    assert found.agreement() is None
    assert "0 live of 3 channels" in shown(found)
    assert found.picture().size[0] > 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_what_is_written(tmp_path):
    found = lucidcam.channels(scenes.model(), scenes.scene(("red", (5, 5, 25, 25)), ("blue", (30, 20, 50, 40))), "red", at=(10, 10))
    assert found.save(tmp_path / "both") == tmp_path / "both"
    written = json.loads((tmp_path / "both" / "channels.json").read_text())
    assert written == json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["live"] == len(found.rows)
    assert (tmp_path / "both" / "channels.png").is_file()
    found.save(tmp_path / "one.json")
    found.save(tmp_path / "deep" / "one.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "deep", "one.json"]
    assert found._repr_png_().startswith(b"\x89PNG")
    assert max(map(len, shown(found).splitlines())) <= 80
    with pytest.raises(OptionError, match="at least 1"):
        found.picture(0)
    with pytest.raises(OptionError, match="channel 99 is none"):
        found.activation(99)


def test_the_same_twice():
    net = nets.build(nets.SeveralFC)
    wrapped, _ = model(net)
    assert lucidcam.channels(wrapped, PHOTO).to_dict() == lucidcam.channels(wrapped, PHOTO).to_dict()


def test_errors():
    wrapped = scenes.model()
    photo = scenes.scene()
    for error, match, call in [
        (OptionError, "top ≥ 1", lambda: lucidcam.channels(wrapped, photo, top=0)),
        (OptionError, r"top ≥ 1 .* got 1\.5 and 0", lambda: lucidcam.channels(wrapped, photo, top=1.5)),
        (OptionError, r"expected a pixel \(x, y\).*; got \(3,\)", lambda: lucidcam.channels(wrapped, photo, at=(3,))),
        (OptionError, r"expected a pixel \(x, y\).*; got 3", lambda: lucidcam.channels(wrapped, photo, at=3)),
        (OptionError, "a pixel that the network sees", lambda: lucidcam.channels(wrapped, photo, at=(float("nan"), 1))),
        (OptionError, "budget ≥ 0", lambda: lucidcam.channels(wrapped, photo, budget=-1)),
        (OptionError, "one layer; got 2", lambda: lucidcam.channels(wrapped, photo, layer=["0", "2"])),
        (OptionError, "no baseline is called", lambda: lucidcam.channels(wrapped, photo, baseline="zero")),
        (LayerError, "no layer is called 'nowhere'", lambda: lucidcam.channels(wrapped, photo, layer="nowhere")),
        (TargetError, "one target", lambda: lucidcam.channels(wrapped, photo, "top2")),
        (TargetError, "no class", lambda: lucidcam.channels(wrapped, photo, "purple")),
        (InputError, "one photo; got 2 images", lambda: lucidcam.channels(wrapped, [photo, photo])),
        (ModelError, "lucidcam.wrap", lambda: lucidcam.channels(wrapped.module, photo)),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_the_network_comes_back_as_it_was():
    wrapped = scenes.model()
    wrapped.module.train()
    before = {name: value.clone() for name, value in wrapped.module.state_dict().items()}
    lucidcam.channels(wrapped, scenes.scene(("red", (5, 5, 25, 25))))
    assert wrapped.module.training
    assert not any(module._forward_hooks for module in wrapped.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in wrapped.module.state_dict().items())
    assert all(parameter.grad is None for parameter in wrapped.module.parameters())


def test_the_command(tmp_path, capsys, monkeypatch):
    scenes.scene(("red", (5, 5, 25, 25))).save(tmp_path / "photo.png")
    monkeypatch.setattr("lucidcam.cli.channels.load_model", lambda *_: scenes.model())
    monkeypatch.setenv("COLUMNS", "80")
    commands.run("channels", tmp_path / "photo.png", "--target", "red", "--at", "10,10", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "By gradient weight" in said
    assert "By evidence at the pixel" in said
    assert (tmp_path / "out" / "channels.png").is_file()
    commands.run("channels", tmp_path / "photo.png", "--json", "--no-increase", "--out", tmp_path / "out.json")
    assert json.loads(capsys.readouterr().out)["masks"] == 0
    commands.run("channels", tmp_path / "photo.png", "--at", "here", code=2)
    assert "--at expects x,y" in capsys.readouterr().err
