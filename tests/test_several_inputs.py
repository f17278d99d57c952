"""Several inputs: which of them is explained, which layers and calls depend on it, and which inputs all images share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from in_turn import in_turn
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.sharing import with_shared
from nets import Tokens, build
from test_axes import FEW, METHODS, shares

TARGET = 1


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())


class Pair(nn.Module):
    """Two pictures through one branch twice, through a branch each, or through one in a single batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one = kind, cnn()
        self.two = cnn() if kind == "own branches" else self.one
        self.fc = nn.Linear(12, 3)

    def below(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "joined":
            return self.one(torch.cat([a, b])).chunk(2)
        if self.kind == "stacked":
            return self.one(torch.stack([a, b], 1).flatten(0, 1)).unflatten(0, (len(a), 2)).unbind(1)
        return self.one(a), self.two(b)

    def above(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1))

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.above(*self.below(rgb, depth))


KINDS = ["siamese", "own branches", "joined", "stacked"]


def pair(kind: str, batch: int = 2) -> tuple[Pair, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    net = Pair(kind).double().eval()
    return net, tuple(torch.rand(2, batch, 3, 10, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


class One(nn.Module):
    """The network of one of the pictures, with the other one inside."""

    def __init__(self, net: Pair, other: Tensor, first: bool) -> None:
        super().__init__()
        self.net, self.first, self.own = net, first, net.one if first else net.two
        self.register_buffer("other", (net.two if first else net.one)(other).detach())

    def forward(self, image: Tensor) -> Tensor:
        other = self.other.expand(len(image), -1, -1, -1)
        return self.net.above(self.own(image), other) if self.first else self.net.above(other, self.own(image))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [0, 1])
def test_the_map_is_that_of_the_explained_image(kind: str, which: int) -> None:
    """Written out: gradients and ablations at the features of one picture, with those of the other fixed."""
    net, images = pair(kind)
    with torch.enable_grad():
        maps = [m.detach().requires_grad_() for m in net.below(*images)]
        score = net.above(*maps)[:, TARGET]
        g = torch.autograd.grad(score.sum(), maps)[which]
    a, other = maps[which].detach(), maps[1 - which].detach()

    def scores(own: Tensor) -> Tensor:
        return net.above(*((own, other) if which == 0 else (other, own)))[:, TARGET].detach()

    drops = torch.stack([score.detach() - scores(a * (torch.arange(6) != k)[:, None, None]) for k in range(6)], 1)
    size = images[which].shape[2:]
    low, high = a.amin((2, 3), keepdim=True), a.amax((2, 3), keepdim=True)
    masks = F.interpolate((a - low) / (high - low), size=size, mode="bilinear", align_corners=False)

    def masked(own: Tensor) -> Tensor:
        return net(*((own, images[1]) if which == 0 else (images[0], own)))[:, TARGET].detach()

    increase = torch.stack([masked(images[which] * masks[:, k, None]) - masked(images[which] * 0) for k in range(6)], 1)
    expected = {
        "gradcam": shares(a, g.mean((2, 3))).relu(),
        "hirescam": (g * a).sum(1),
        "layercam": (g.relu() * a).sum(1).relu(),
        "ablationcam": shares(a, drops / score.detach()[:, None]).relu(),
        "scorecam": shares(a, increase).relu(),
    }
    layer = "two.1" if kind == "own branches" and which else "one.1"
    for inputs, key in ((images, which), ({"rgb": images[0], "depth": images[1]}, ("rgb", "depth")[which])):
        for method, maps_ in expected.items():
            options = {"target": TARGET, "layer": layer, "explain_input": key}
            torch.testing.assert_close(lucidcam.attribute(net, inputs, method, **options), maps_, rtol=1e-9, atol=1e-12)
        default = lucidcam.attribute(net, inputs, "hirescam", target=TARGET, explain_input=key)
        torch.testing.assert_close(default, expected["hirescam"], rtol=1e-9, atol=1e-12)
    if which == 0:
        torch.testing.assert_close(lucidcam.attribute(net, images, "hirescam", target=TARGET), expected["hirescam"])


@pytest.mark.parametrize(("method", "kind"), in_turn(sorted(set(METHODS) - {"cam"}), KINDS))
def test_every_method_explains_one_image_with_the_other_fixed(method: str, kind: str) -> None:
    """As of the network that has the other picture's features inside, image by image; or the same refusal."""
    net, images = pair(kind)
    options: dict[str, Any] = {"target": [[1, 2]], **FEW.get(method, {})}
    for which in (0, 1):
        for row in (0, 1):
            rows = [x[row : row + 1] for x in images]
            alone = One(net, rows[1 - which], which == 0).eval()
            branch = "two" if kind == "own branches" and which else "one"
            layered = {"layer": f"net.{branch}.1"} if lucidcam.methods()[method].layered == "always" else {}
            try:
                expected = lucidcam.attribute(alone, rows[which], method, **options, **layered)
            except lucidcam.LucidcamError as error:
                with pytest.raises(type(error)):
                    lucidcam.attribute(net, tuple(rows), method, explain_input=which, **options)
                continue
            single = lucidcam.attribute(net, tuple(rows), method, explain_input=which, **options)
            torch.testing.assert_close(single, expected, rtol=1e-9, atol=1e-12)
            both = lucidcam.attribute(net, images, method, explain_input=which, **{**options, "target": [[1, 2]] * 2})
            torch.testing.assert_close(both[row : row + 1], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_cam_is_refused_where_another_image_decides_too(kind: str) -> None:
    net, images = pair(kind)
    with pytest.raises(lucidcam.LucidcamError, match="another branch decides, too"):
        lucidcam.attribute(net, images, "cam", target=TARGET)


def test_a_map_for_each_image() -> None:
    net, (a, b) = pair("siamese")
    alone = [lucidcam.attribute(net, (a, b), target=TARGET, explain_input=i) for i in (0, 1)]
    for several in ([0, 1], "all", (1, 0)):
        got = lucidcam.attribute(net, (a, b), target=TARGET, explain_input=several)
        expected = alone[::-1] if several == (1, 0) else alone
        assert isinstance(got, list)
        assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    by_name = lucidcam.attribute(net, {"rgb": a, "depth": b}, target=TARGET, explain_input=["depth"])
    assert torch.equal(by_name[0], alone[1])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "own branches",
            {"layer": "two.1"},
            "'two.1' does not depend on the explained input 0; layers that do: one.0, one.1, one;",
        ),
        (
            "own branches",
            {"layer": "one", "explain_input": 1},
            "'one' does not depend on the explained input 1; layers that do: two",
        ),
        ("siamese", {"layer": "one.1#1"}, "the layer 'one.1#1' does not depend on the explained input 0; its calls that do: one.1#0;"),
        ("siamese", {"explain_input": 2}, "explain_input=2 is no floating-point image tensor among the inputs; images are at 0, 1."),
        ("siamese", {"explain_input": "rgb"}, "explain_input='rgb' is no floating-point image"),
        ("siamese", {"shared": 2}, "shared=2 must name tensors beside the explained image; there are 1."),
        ("siamese", {"shared": [0]}, "must name tensors beside the explained image"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    net, images = pair(kind)
    with pytest.raises(lucidcam.LucidcamError) as caught:
        lucidcam.attribute(net, images, target=TARGET, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_are_listed_for_the_explained_image() -> None:
    net, images = pair("own branches")
    grids = [{name: info.grid for name, info in lucidcam.layers(net, images, explain_input=i).items()} for i in (0, 1)]
    assert [grid["one.1"] for grid in grids] == [(10, 12), None]
    assert [grid["two.1"] for grid in grids] == [None, (10, 12)]


class Fused(nn.Module):
    """RGB and depth of another size; the branches meet, and go on together. A third view is only looked at as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth, self.view = cnn(), nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU()), cnn()
        self.joint, self.fc = nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.ReLU()), nn.Linear(12, 3)

    def forward(self, depth: Tensor, rgb: Tensor, view: Tensor) -> Tensor:
        seen = torch.cat([F.avg_pool2d(self.rgb(rgb), 2), self.depth(depth)], 1)
        return self.fc(torch.cat([self.joint(seen).mean((2, 3)), self.view(view).mean((2, 3))], 1))


def test_branches_that_meet() -> None:
    torch.manual_seed(0)
    net = Fused().double().eval()
    inputs = {"rgb": torch.rand(2, 3, 8, 12).double(), "view": torch.rand(2, 3, 6, 6).double(), "depth": torch.rand(2, 1, 8, 12).double()}
    shapes = [lucidcam.attribute(net, inputs, target=1, explain_input=key).shape for key in ("depth", "rgb", "view")]
    assert [tuple(shape) for shape in shapes] == [(2, 4, 6), (2, 4, 6), (2, 6, 6)]
    assert torch.equal(lucidcam.attribute(net, inputs, target=1), lucidcam.attribute(net, inputs, target=1, explain_input="rgb"))
    assert lucidcam.attribute(net, inputs, target=1, layer="depth.1", explain_input="depth").shape == (2, 4, 6)
    with pytest.raises(lucidcam.LucidcamError, match=r"'depth\.1' does not depend on the explained input 'rgb'"):
        lucidcam.attribute(net, inputs, target=1, layer="depth.1")


class Views(nn.Module):
    """Three views in one batch, view after view or side by side, and the strongest response of each feature."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.cnn, self.fc = first, cnn(), nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        views = torch.cat([a, b, c]) if self.first else torch.stack([a, b, c], dim=1).reshape(-1, *a.shape[1:])
        seen = self.cnn(views).mean((2, 3))
        return self.fc(seen.view(3, -1, 6).amax(0) if self.first else seen.view(-1, 3, 6).amax(1))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_views_in_one_batch(first: bool, which: int) -> None:
    torch.manual_seed(0)
    net, views = Views(first).double().eval(), [torch.rand(2, 3, 8, 8).double() for _ in range(3)]
    maps = [net.cnn(view).detach().requires_grad_() for view in views]
    (g,) = torch.autograd.grad(net.fc(torch.stack([m.mean((2, 3)) for m in maps]).amax(0))[:, 1].sum(), maps[which])
    expected = (g * maps[which]).sum(1).detach()
    options = {"target": 1, "explain_input": which}
    torch.testing.assert_close(lucidcam.attribute(net, views, "hirescam", layer="cnn.1", **options), expected)
    torch.testing.assert_close(lucidcam.attribute(net, views, "hirescam", **options), expected)
    one = lucidcam.attribute(net, [v[1:] for v in views], "hirescam", **options)
    torch.testing.assert_close(one, expected[1:])
    ablated = lucidcam.attribute(net, views, "ablationcam", layer="cnn.1", **options)
    own = maps[which].detach()
    clean = net(*views)[:, 1].detach()
    weights = []
    for k in range(6):
        changed = [m.detach() for m in maps]
        changed[which] = own * (torch.arange(6) != k)[:, None, None]
        weights.append((clean - net.fc(torch.stack([m.mean((2, 3)) for m in changed]).amax(0))[:, 1].detach()) / clean)
    torch.testing.assert_close(ablated, shares(own, torch.stack(weights, 1)).relu())


class TokenPair(nn.Module):
    """Two pictures through one vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.fc = Tokens(), nn.Linear(10, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(torch.cat([self.vit(a), self.vit(b)], 1))


@pytest.mark.parametrize("method", ["rollout", "attention_relevance", "legrad"])
def test_the_attention_of_the_explained_image(method: str) -> None:
    net = build(TokenPair)
    a, b = torch.rand(2, 2, 3, 20, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    class Alone(nn.Module):
        def __init__(self, other: Tensor, first: bool) -> None:
            super().__init__()
            self.vit, self.fc, self.first = net.vit, net.fc, first
            self.register_buffer("other", net.vit(other).detach())

        def forward(self, x: Tensor) -> Tensor:
            seen = self.vit(x)
            other = self.other.expand(len(seen), -1)
            return self.fc(torch.cat([seen, other] if self.first else [other, seen], 1))

    for key, (image, other) in enumerate(((a, b), (b, a))):
        got = lucidcam.attribute(net, (a, b), method, target=1, explain_input=key)
        for row in range(2):
            expected = lucidcam.attribute(Alone(other[row : row + 1], key == 0).eval(), image[row : row + 1], method, target=1)
            torch.testing.assert_close(got[row : row + 1], expected)


# --------------------------------------------------------------------------------------------------------- what images share


class TwoTowers(nn.Module):
    """CLIP's shape: images and texts `[T, L]` to similarities `[B, T]`; with `pooled`, to those with all texts' mean."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.see, self.proj, self.read, self.pooled = cnn(), nn.Linear(6, 5), nn.Embedding(50, 5), pooled

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        seen = F.normalize(self.proj(self.see(image).mean((2, 3))), dim=-1)
        read = F.normalize(self.read(text).mean(1), dim=-1)
        return seen * read.mean(0) if self.pooled else 10 * seen @ read.T


class Inside(nn.Module):
    """The same network with its texts inside."""

    def __init__(self, net: nn.Module, text: Tensor) -> None:
        super().__init__()
        self.net, self.text = net, text

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image, self.text)


@pytest.mark.parametrize("method", METHODS)
def test_texts_are_common_to_all_images_however_many(method: str) -> None:
    torch.manual_seed(0)
    for pooled in (False, True):
        net = TwoTowers(pooled).double().eval()
        layered = lucidcam.methods()[method].layered == "always"
        for batch, texts in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3)):
            image, text = torch.rand(batch, 3, 10, 12).double(), torch.randint(0, 50, (texts, 6))
            options: dict[str, Any] = {"target": 0, **FEW.get(method, {})}
            turned = Inside(net, text).eval()
            try:
                expected = lucidcam.attribute(turned, image, method, **options, **({"layer": "net.see.1"} if layered else {}))
            except lucidcam.LucidcamError as error:
                with pytest.raises(type(error)):
                    lucidcam.attribute(net, (image, text), method, **options, **({"layer": "see.1"} if layered else {}))
                continue
            got = lucidcam.attribute(net, (image, text), method, **options, **({"layer": "see.1"} if layered else {}))
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
            said = lucidcam.attribute(net, {"image": image, "text": text}, method, shared="text", **options)
            if not layered:
                torch.testing.assert_close(said, expected, rtol=1e-9, atol=1e-12)


class Question(nn.Module):
    """A question for each image, with a mask of its words; answers are looked up in a table that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = cnn(), nn.Embedding(50, 6)

    def forward(self, image: Tensor, words: Tensor, mask: Tensor, answers: Tensor) -> Tensor:
        read = (self.read(words) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return (self.see(image).mean((2, 3)) * read) @ self.read(answers).mean(1).T


def test_some_inputs_are_shared_and_some_are_not() -> None:
    torch.manual_seed(0)
    net = Question().double().eval()
    mask = torch.ones(3, 4)
    mask[1, 2:] = 0
    inputs = {"image": torch.rand(3, 3, 8, 8).double(), "words": torch.randint(0, 50, (3, 4)), "mask": mask.double()}
    inputs["answers"] = torch.randint(0, 50, (3, 2))
    given = with_shared(net, Inputs.of(inputs))
    assert given.shared == {"answers"}
    assert set(given.companions) == {"words", "mask"}
    assert given.rows(slice(1, 2)).kwargs["words"].shape == (1, 4)
    assert given.rows(slice(1, 2)).kwargs["answers"].shape == (3, 2)
    together = lucidcam.attribute(net, inputs, "scorecam", target=2, layer="see.1")
    for row in range(3):
        alone = {key: value if key == "answers" else value[row : row + 1] for key, value in inputs.items()}
        torch.testing.assert_close(lucidcam.attribute(net, alone, "scorecam", target=2, layer="see.1"), together[row : row + 1])


def test_trials_are_remembered_where_they_are_sure() -> None:
    torch.manual_seed(0)
    net, image, text = TwoTowers().double().eval(), torch.rand(2, 3, 10, 12).double(), torch.randint(0, 50, (2, 6))
    lucidcam.attribute(net, (image, text), target=0, layer="see.1")
    passes: list[int] = []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    lucidcam.attribute(net, (image, text), target=0, layer="see.1")
    assert len(passes) == 1
    lucidcam.attribute(net, (image, text), target=0, layer="see.1", shared=1)
    assert len(passes) == 2


class Across(nn.Module):
    """Images that see each other: nothing can be told from an image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.fc = cnn(), nn.Linear(6, 3)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        seen = self.see(image).mean((2, 3))
        return self.fc(seen - seen.mean(0) + other)


def test_what_cannot_be_told_must_be_said() -> None:
    torch.manual_seed(0)
    net, image, other = Across().eval(), torch.rand(2, 3, 8, 8), torch.rand(2, 6)
    with pytest.raises(lucidcam.LucidcamError, match=r"whether the inputs 1 have a row for each of the 2 images .* Say shared="):
        lucidcam.attribute(net, (image, other), target=1)
    assert lucidcam.attribute(net, (image, other), target=1, shared=()).shape == (2, 8, 8)


# ------------------------------------------------------------------------------ an image that is part of the network


class Compared(nn.Module):
    """Compares an image with a picture of its own, which the same trunk sees, or another one."""

    def __init__(self, trunks: int, first: bool, enlarged: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = cnn(), nn.Linear(12, 3)
        self.other = self.trunk if trunks == 1 else cnn()
        self.first, self.enlarged = first, enlarged
        self.register_buffer("picture", torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5)))

    def features(self, count: int) -> Tensor:
        picture = self.picture.expand(count, -1, -1, -1) if self.enlarged else self.picture
        return self.other(picture).mean((2, 3)).expand(count, -1)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            of_picture = self.features(len(x))
            return self.head(torch.cat([self.trunk(x).mean((2, 3)), of_picture], 1))
        return self.head(torch.cat([self.trunk(x).mean((2, 3)), self.features(len(x))], 1))


class Constant(nn.Module):
    """The same network, with what it knows of its picture as a constant."""

    def __init__(self, net: Compared) -> None:
        super().__init__()
        self.trunk, self.head = net.trunk, net.head
        self.register_buffer("known", net.features(1).detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.trunk(x).mean((2, 3)), self.known.expand(len(x), -1)], 1))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("enlarged", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("trunks", [1, 2])
def test_the_layer_is_that_of_the_image_not_of_a_picture_inside(trunks: int, first: bool, enlarged: bool, count: int) -> None:
    net = Compared(trunks, first, enlarged).eval()
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    for method in ("cam", "gradcam", "eigencam", "layercam", "ablationcam", "scorecam", "excitation_backprop"):
        for layer in (None, "trunk"):
            found, wanted = (lucidcam.attribute(m, x, method, target=1, layer=layer) for m in (net, Constant(net).eval()))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    if trunks == 2:
        with pytest.raises(lucidcam.errors.LayerError, match=r"'other' does not depend on the explained input 0; layers that do: .*trunk"):
            lucidcam.attribute(net, x, "gradcam", target=1, layer="other")
