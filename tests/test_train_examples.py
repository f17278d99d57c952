"""The examples of training run at a reduced size, and what they claim holds there, too; and what they need of CAM."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from by_example import load
from nets import FunctionalGAP, Residual, build, images


def spread(path: Path) -> float:
    """How much a picture varies: a blank one does not."""
    with Image.open(path) as picture:
        return float(np.asarray(picture.convert("L"), np.float32).std())


@pytest.mark.slow
def test_digits(tmp_path):
    """It recognises digits it has never seen, and where its maps point is what its decision hangs on."""
    module = load("train_digits")
    figures, path = module.main(tmp_path, "sklearn", count=1200, epochs=4)
    assert figures["test accuracy"] > 60  # of ten classes, after 64 steps
    assert figures["lead lost where CAM points"] > figures["lead lost elsewhere"]
    assert spread(path) > 10
    model = lucidcam.load(tmp_path / "network")
    three = next(each for each in module.from_sklearn().samples() if each.labels == ("3",))
    right, wrong = lucidcam.explain(model, [three.image], "cam", target=["3", "8"])
    contrast = lucidcam.explain(model, [three.image], "cam", target=lucidcam.Contrast(3, 8))[0]
    torch.testing.assert_close(contrast.raw, right.raw - wrong.raw, rtol=1e-4, atol=1e-4)
    assert np.corrcoef(right.raw.flatten(), wrong.raw.flatten())[0, 1] < 0.9  # another class, another map
    bias = model.module.head.bias.detach()[3]
    assert float(right.raw.mean() + bias) == pytest.approx(right.score, abs=1e-3)


def test_digits_of_a_folder(tmp_path):
    """MNIST's own files, as they are published."""
    module = load("train_digits")

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (5, 28, 28)).astype(np.uint8), rng.integers(0, 10, 5).astype(np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    found = module.from_folder(tmp_path)
    assert np.array_equal(found.images, pixels)
    assert found.labels.tolist() == labels.tolist()
    with pytest.raises(FileNotFoundError, match="no MNIST"):
        module.from_folder(tmp_path / "nothing")


def test_a_source_that_cannot_be_had_gives_way_to_the_next(monkeypatch, capsys):
    module = load("train_digits")

    def offline():
        raise OSError("no route to host")

    monkeypatch.setitem(module.SOURCES, "torchvision", offline)
    monkeypatch.setitem(module.SOURCES, "folder", lambda: "digits of the folder")
    assert module.digits() == "digits of the folder"
    assert "torchvision: no route to host" in capsys.readouterr().out


def test_boxes_of_beams_hold_their_parts():
    """A part's box covers what is darker with it than without; all parts are about as frequent as each other."""
    module = load("train_beams")
    drawn = module.samples(200, seed=5)
    names = [label for each in drawn for label in each.labels]
    assert all(70 < names.count(part) < 130 for part in module.PARTS)
    for sample in drawn[:50]:
        fitted = sample.fitted(module.SIZE, module.SIZE)
        paper = np.median(sample.image)
        for thing in fitted.objects:
            left, top, right, bottom = map(round, thing.box)
            assert (sample.image[top:bottom, left:right, 0] < paper - 60).mean() > 0.05, (sample.name, thing)
    assert all({"fixed left", "fixed right"} & set(each.labels) for each in module.samples(50, seed=5, cantilever=True))
    again = module.samples(3, seed=5)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(again, drawn))


@pytest.mark.slow
def test_beams(tmp_path):
    """Told labels only, its maps find the parts; maps that know nothing do not."""
    figures, path = load("train_beams").main(tmp_path, count=700, test_count=80, epochs=7)
    ends = [figures[f"fixed {side}"] for side in ("left", "right")]
    assert min(each["accuracy"] for each in ends) > 90
    assert min(each["cam ≤ 8 px"] for each in ends) >= 80
    for each in ends:
        assert each["cam ≤ 8 px"] > max(each["centre_point ≤ 8 px"], each["random ≤ 8 px"]) + 30
    assert spread(path) > 10


@pytest.mark.slow
def test_gap_or_gmp(tmp_path, capsys):
    """Both poolings are trained and judged alike; the maximum's map is no map of the mean."""
    module = load("gap_or_gmp")
    results, path = module.main(tmp_path, count=300, test_count=30, epochs=3, seeds=1, poolings=("gap", "gmp"))
    assert list(results) == ["gap", "gmp"]
    names = ["accuracy", *module.FIGURES.values()]
    for runs in results.values():
        assert list(runs[0]) == names
        assert all(0 <= value <= 100 for value in runs[0].values())
    assert results["gap"][0]["maximum on thing"] > 25  # after 15 steps; the centre is on 8 % of the things
    assert results["gap"] != results["gmp"]
    assert "maximum (GMP)" in capsys.readouterr().out
    assert spread(path) > 10


def test_training_trains_in_training_mode(tmp_path):
    """Batch normalisation takes its statistics from the data; a network left in evaluation mode never does."""
    from lucidcam.train import train_gap

    rng = np.random.default_rng(0)
    photos = [lucidcam.Sample(rng.integers(0, 256, (28, 28, 3)).astype(np.uint8), str(i), ("ab"[i % 2],)) for i in range(20)]
    trained = train_gap(photos, "small", out=tmp_path, size=28, epochs=1, batch_size=8, augment="none", progress=False)
    means = [value for name, value in trained.model.module.state_dict().items() if name.endswith("running_mean")]
    assert means
    assert all(bool(each.any()) for each in means)


class Pooled(nn.Module):
    """Two convolutions with a ReLU each; what the second gives is pooled by a function of the test's choice."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act1, self.act2, self.pool, self.fc = nn.ReLU(), nn.ReLU(), pool, nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.pool(self.act2(self.conv2(self.act1(self.conv1(x))))))


def log_sum_exp(sharpness: float):
    return lambda x: (torch.logsumexp(sharpness * x.flatten(2), -1) - np.log(x[0, 0].numel())) / sharpness


POOLS = {
    "maximum": lambda x: x.amax((2, 3)),
    "lse": log_sum_exp(5.0),
    "soft lse": log_sum_exp(0.3),
    "sharp lse": log_sum_exp(200.0),
}


def pooled(pool, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return Pooled(pool).eval().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", POOLS)
def test_cam_takes_what_is_pooled_otherwise(pool, dtype):
    """The map is Σ_k w_k A_k, as for a mean; it does not sum to the score."""
    net, x = pooled(POOLS[pool], dtype), images().to(dtype)
    maps = lucidcam.attribute(net, x, "cam", target="all", layer="act2")
    with torch.no_grad():
        features = net.act2(net.conv2(net.act1(net.conv1(x))))
    torch.testing.assert_close(maps, torch.einsum("ck,bkhw->bchw", net.fc.weight.detach(), features))
    assert not torch.allclose(maps.mean((-2, -1)) + net.fc.bias.detach(), net(x).detach(), rtol=1e-3)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("layer", ["conv1", "act1"])
def test_cam_refuses_a_layer_before_the_one_that_is_pooled(pool, layer):
    """It has as many channels, so that only the numbers tell; one image alone must do."""
    net = pooled(POOLS[pool])
    for x in (images(), images()[:1]):
        with pytest.raises(lucidcam.LucidcamError, match="Choose the layer that is pooled"):
            lucidcam.attribute(net, x, "cam", layer=layer)


@pytest.mark.parametrize(("kind", "layer"), [(Residual, "norm1"), (Residual, "stem"), (FunctionalGAP, "conv1")])
def test_cam_refuses_other_layers_of_networks_that_pool_by_a_mean(kind, layer):
    with pytest.raises(lucidcam.LucidcamError, match="Choose the layer that is pooled"):
        lucidcam.attribute(build(kind), images(), "cam", layer=layer)


def test_cam_refuses_features_between_mean_and_maximum_of_no_one_pooling():
    """Every channel lies between its mean and its maximum, each at another share: no pooling of the map does that."""
    net = pooled(lambda x: torch.lerp(x.mean((2, 3)), x.amax((2, 3)), torch.linspace(0.1, 0.9, 8).to(x)))
    with pytest.raises(lucidcam.LucidcamError, match="Choose the layer that is pooled"):
        lucidcam.attribute(net, images(), "cam", layer="act2")
