"""Naming channels and explaining in words: statistics against references, networks whose truth is known, files, commands, errors."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import commands
import lucidcam
import scenes
import talkers
from by_example import load
from lucidcam.data import Dataset
from lucidcam.dissection import patterns
from lucidcam.dissection.activations import Seen
from lucidcam.dissection.channel_names import Meaning, Name, strength
from lucidcam.dissection.concept_explanation import Word, chances
from lucidcam.dissection.iou import Overlap, Peaks
from lucidcam.dissection.naming import _rows, _Table
from lucidcam.errors import DataError, LayerError, ModelError, OptionError
from lucidcam.samples import Object, Problem, Sample
from lucidcam.stats import ranks
from lucidcam.types import Frame, Prepared

COLOURS = ("red", "green", "blue")


def bank(count: int = 36, seed: int = 50, masks: bool = True) -> lucidcam.Bank:
    """Coloured squares on grey."""
    given = scenes.samples(count, seed=seed, masks=masks)
    return lucidcam.Bank.of(Dataset("squares", "test", lambda: iter(given), count, COLOURS))


# ------------------------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_scikit_learns(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 5)).round(seed % 2 + 1)  # with ties
    truth = rng.random((40, 3)) < 0.3
    truth[:2] = [[True] * 3, [False] * 3]
    found = ranks.areas(values, truth)
    for c in range(5):
        for k in range(3):
            assert found[c, k] == pytest.approx(metrics.roc_auc_score(truth[:, k], values[:, c]))


def test_chance_is_mann_whitneys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = np.arange(50) < 15
        values = (rng.normal(size=50) + truth * rng.uniform(0, 1)).round(1)
        expected = stats.mannwhitneyu(values[truth], values[~truth], alternative="greater", method="asymptotic").pvalue
        assert ranks.chance(values, truth) == pytest.approx(expected, rel=1e-6)
    assert ranks.chance(np.ones(50), truth) == 1


@pytest.mark.parametrize(("present", "count"), [(3, 13), (5, 14), (10, 13)])
def test_chance_with_few_images_is_counted(present, count):
    """Against every way to draw so many images; with ties, with few on either side."""
    rng = np.random.default_rng(present)
    truth = np.arange(count) < present
    counted = 0
    for _ in range(20):
        values = (rng.normal(size=count) + 1.5 * truth).clip(0).round(1)
        ordered = ranks.ranks(values[:, None])[:, 0]
        ways = [ordered[list(each)].sum() for each in combinations(range(count), present)]
        expected = np.mean(np.array(ways) >= ordered[truth].sum() - 1e-9)
        if expected < 0.02:
            counted += 1
            assert ranks.chance(values, truth) == pytest.approx(expected, rel=1e-9)
    assert counted >= 3


def test_chance_of_a_sparse_channel_is_hypergeometric():
    """Active on four images of 66, all of them among the six with the concept: the normal approximation says much less than it is."""
    truth = np.arange(66) < 6
    assert ranks.chance((np.arange(66) < 4) + 0.0, truth) == pytest.approx(comb(62, 2) / comb(66, 6))
    truth = np.arange(6000) < 10  # active on 605 of 6000 images, eight of them with the concept: ranks in larger units
    values = ((np.arange(6000) >= 2) & (np.arange(6000) < 607)) + 0.0
    exact = sum(comb(605, k) * comb(5395, 10 - k) for k in (8, 9, 10)) / comb(6000, 10)
    assert exact * (1 - 1e-9) <= ranks.chance(values, truth) <= 1.02 * exact


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Normal values one deviation apart have an AUC of Φ(1/√2) = 0.7602."""
    rng = np.random.default_rng(1)
    truth = np.arange(80) < 30
    inside = 0
    for _ in range(400):
        area, low, high = ranks.interval(rng.normal(size=80) + truth, truth)
        assert 0 <= low <= area <= high <= 1
        inside += low <= 0.7602 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_the_interval_of_a_perfect_order_is_wider_with_fewer_images():
    lows = []
    for each in (3, 10, 100):
        truth = np.arange(2 * each) < each
        area, low, high = ranks.interval(truth + 0.0, truth)
        assert area == high == 1
        lows.append(low)
    assert 0.2 < lows[0] < lows[1] < lows[2] < 1
    area, low, high = ranks.interval(1.0 - truth, truth)
    assert area == low == 0
    assert high < 0.1


def test_thresholds_are_quantiles_however_images_come():
    flat = torch.randn(30, 4, 25, generator=torch.Generator().manual_seed(0))
    peaks = Peaks(0.02, 30)
    for start in range(0, 30, 7):
        peaks.see(flat[start : start + 7])
    every = flat.transpose(0, 1).flatten(1)
    assert ((every > peaks.thresholds()[:, None]).float().mean(1) == 0.02).all()


def test_data_of_unknown_count_have_the_same_thresholds():
    """A stream of more than a thousand images: quantiles of all of them."""
    values = np.random.default_rng(0).integers(0, 256, (1300, 4, 4, 3), dtype=np.uint8)
    stream = Dataset("s", "t", lambda: (Sample(each, f"{i}", (COLOURS[i % 2],)) for i, each in enumerate(values)))
    model = lucidcam.wrap(nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), lambda photo: as_tensor(photo))
    seen = Seen(model, lucidcam.Bank.of(stream), "0", False)
    seen.values(0.02)
    every = as_tensor(values.reshape(1, -1, 3))[:, 0]
    assert torch.equal(seen.peaks.thresholds(), every.sort(1, descending=True).values[:, len(values) * 16 // 50])


def test_the_overlap_is_counted_by_hand():
    """One channel, a 2×2 grid over 8×8 cells: active in the left half; the concept is the upper half."""
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    other = np.zeros((8, 8), bool)
    other[:, 6:] = True
    samples = [
        Sample(None, "a", objects=(Object("up", mask=lambda: mask),)),
        Sample(None, "b", objects=(Object("right", mask=lambda: other),)),
    ]
    one = Prepared(torch.zeros(3, 8, 8), Image.new("RGB", (8, 8)), Frame.whole(8, 8), "x")
    maps = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    counted = Overlap(["up", "right", "never"], {"up": "place", "right": "place", "never": "colour"}, torch.tensor([0.5]))
    counted.see(samples, [one, one], maps)
    iou = counted.iou()
    # 32 cells active in each image of the kind; 16 of them are in "up", 16 in "right".
    assert iou[0, 0] == pytest.approx(16 / (64 + 32 - 16))
    assert iou[0, 1] == pytest.approx(16 / (64 + 16 - 16))
    assert np.isnan(iou[0, 2])


def test_masks_follow_a_centre_crop():
    mask = np.zeros((8, 16), bool)
    mask[:, 4:8] = True
    sample = Sample(None, "a", objects=(Object("it", mask=lambda: mask),))
    one = Prepared(torch.zeros(3, 8, 8), Image.new("RGB", (16, 8)), Frame(16, 8, (4.0, 0.0, 12.0, 8.0)), "x")
    counted = Overlap(["it"], {}, torch.tensor([0.5]))
    counted.see([sample], [one], torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))
    assert counted.iou()[0, 0] == 1


# ------------------------------------------------------------------------------------------------------------------------------ banks


def test_the_builtin_bank_is_balanced_and_independent():
    pytest.importorskip("skimage")
    found = lucidcam.Bank.builtin(count=308, size=32, seed=3)
    samples = list(found.data)
    assert len(samples) == 308
    truth = np.array([[name in sample.labels for name in found.concepts] for sample in samples])
    textures = [i for i, name in enumerate(found.concepts) if found.kinds[name] == "texture"]
    colours = [i for i, name in enumerate(found.concepts) if found.kinds[name] == "colour"]
    assert set(truth[:, textures].sum(0)) == {28}
    assert set(truth[:, colours].sum(0)) == {44}
    assert (truth[:, textures].sum(1) == 1).all()
    for a in textures:
        for b in colours:
            assert abs(np.corrcoef(truth[:, a], truth[:, b])[0, 1]) < 0.2
    for sample in samples[:40]:
        for each in sample.objects:
            assert each.mask().shape == (32, 32)
            assert each.mask().any()
            shape = found.kinds[each.label] == "shape"
            assert not (shape and each.mask().all())
    assert found.identity() == lucidcam.Bank.builtin(count=308, size=32, seed=3).identity()
    assert found.identity() != lucidcam.Bank.builtin(count=308, size=32, seed=4).identity()


@pytest.mark.parametrize("texture", patterns.TEXTURES)
def test_surfaces_stay_in_their_range(texture):
    pytest.importorskip("skimage")
    for seed in range(5):
        drawn = patterns.TEXTURES[texture](np.random.default_rng(seed), 48)
        assert drawn.shape == (48, 48)
        assert -1 <= drawn.min() <= drawn.max() <= 1.2


@pytest.mark.parametrize("name", patterns.PICTURES)
def test_names_are_tested_on_another_half_of_a_picture(name, monkeypatch):
    """Of a picture that tells its columns, the images that choose hold those of the left half, the others those of the right."""
    columns = np.broadcast_to(np.arange(256.0), (256, 256))
    monkeypatch.setattr(patterns, "_photo", lambda _: columns)
    cut = []
    monkeypatch.setattr(patterns.np, "percentile", lambda values, _: cut.append((values.min(), values.max())) or (0.0, 1.0))
    bank = lucidcam.Bank.builtin(count=176, size=32, seed=3)
    truth, sides = [], []
    for sample in bank.data:
        truth.append([concept in sample.labels for concept in bank.concepts])
        sides.append(cut[-1] if set(patterns.PICTURES) & set(sample.labels) else None)
    fit = ranks.halves(np.array(truth))
    shown = [i for i, row in enumerate(truth) if row[bank.concepts.index(name)]]
    assert {bool(fit[i]) for i in shown} == {True, False}
    for i in shown:
        low, high = sides[i]
        assert (high < 128) if fit[i] else (low >= 128)


def test_stripes_run_where_they_are_said_to():
    for name, axis in (("vertical stripes", 1), ("horizontal stripes", 0)):
        for seed in range(10):
            drawn = patterns.TEXTURES[name](np.random.default_rng(seed), 64)
            across, along = (np.abs(np.diff(drawn, axis=each)).mean() for each in (axis, 1 - axis))
            assert across > 3 * along


def test_a_folder_is_a_bank(tmp_path):
    scenes.folder(tmp_path / "colours", 24)
    found = lucidcam.Bank.folder(tmp_path / "colours")
    assert set(found.concepts) == set(COLOURS)
    names = lucidcam.concepts(scenes.model(), tmp_path / "colours", least=0.6, progress=False)
    assert [row.nearest.concept for row in names.rows] == list(COLOURS)
    assert all(row.nearest.iou is None for row in names.rows)  # no masks


def test_a_folder_with_masks_has_overlaps(tmp_path):
    for sample in scenes.samples(24, masks=True):
        for kind, picture in (("images", sample.image), ("masks", Image.fromarray(sample.objects[0].mask().astype(np.uint8) * 255))):
            path = tmp_path / kind / sample.labels[0] / f"{sample.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    names = lucidcam.concepts(scenes.model(), tmp_path, quantile=0.04, progress=False)
    assert all(row.nearest.iou > 0.2 for row in names.rows)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([("red",)], "at least 4 images of the concept 'red'; there are 1"),
        ([("red",)] * 8, "at least 4 images without the concept 'red'; there are 0"),
        ([()] * 8, "no image shows a concept"),
        ([("red",)] * 4 + [("blue",)] * 3, "'blue'; there are 3"),
    ],
)
def test_banks_that_do_not_suffice(labels, match):
    given = [Sample(np.zeros((8, 8, 3), np.uint8), f"{i}", each) for i, each in enumerate(labels)]
    with pytest.raises(DataError, match=match):
        lucidcam.Bank.of(Dataset("few", "test", lambda: iter(given), len(given)))


def test_a_concept_without_images(tmp_path):
    scenes.folder(tmp_path, 24)
    (tmp_path / "yellow").mkdir()
    with pytest.raises(DataError, match="'yellow'; there are 0"):
        lucidcam.Bank.folder(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        lucidcam.Bank.folder(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="count ≥ 88"):
        lucidcam.Bank.builtin(count=20)


# ----------------------------------------------------------------------------------------------------------------------------- naming


def test_colours_get_their_names():
    names = lucidcam.concepts(scenes.model(), bank(), quantile=0.04, progress=False)
    assert [row.concept for row in names.rows] == list(COLOURS)
    for row in names.rows:
        first = row.meanings[0]
        assert first.auc == 1
        assert first.low > 0.5
        assert first.p < 0.01
        assert first.iou > 0.3
    assert names.counts == dict.fromkeys(COLOURS, 1)
    assert [row.channel for row in names.called("green")] == [1]


def test_numbers_are_those_of_a_loop():
    """A random network: each channel by itself, each image by itself, scikit-learn's AUC, on the halves that are said."""
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)).eval()
    model = lucidcam.wrap(net, lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255, layer="1")
    given = bank(30)
    names = lucidcam.concepts(model, given, least=0.5, progress=False)
    samples = list(given.data)
    turn, fit = dict.fromkeys(COLOURS), []
    for order, sample in enumerate(samples):  # of each colour every other one; which half begins changes from colour to colour
        [label] = sample.labels
        turn[label] = (order % 2 == 0) if turn[label] is None else not turn[label]
        fit.append(turn[label])
    with torch.no_grad():
        maps = torch.stack([net[:2](model.prepare(each.image)[0].tensor[None])[0] for each in samples]).double()
    assert sum(row.nearest is not None for row in names.rows) >= 4
    for row in names.rows:
        if row.nearest is None:
            assert float(maps[[i for i, f in enumerate(fit) if f], row.channel].max()) == 0
            continue
        best = None
        for pool in ("mean", "max"):
            values = maps[:, row.channel].mean((1, 2)) if pool == "mean" else maps[:, row.channel].amax((1, 2))
            for concept in COLOURS:
                shown = [concept in each.labels for each in samples]

                def area(half, values=values, shown=shown):
                    return metrics.roc_auc_score(
                        [s for s, f in zip(shown, fit) if f == half], [v for v, f in zip(values, fit) if f == half]
                    )

                if best is None or area(True) > best[0] + 1e-12:
                    strong = maps[torch.tensor(shown), row.channel]
                    level = (strong**2).sum((1, 2)) / strong.sum((1, 2)).clamp(min=1e-30)
                    best = (area(True), concept, pool, area(False), float(level.mean()), float(level.std(correction=0)))
        assert (row.nearest.concept, row.nearest.pool) == best[1:3]
        assert row.nearest.auc == pytest.approx(best[3])
        assert (row.nearest.level, row.nearest.spread) == pytest.approx(best[4:], rel=1e-5)


def test_noise_gets_no_name():
    """Two hundred channels that see nothing of it: the best of many concepts must not win by luck."""
    torch.manual_seed(1)

    class Lottery(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            seeds = (x.double().sum((1, 2, 3)) * 1e4).long().tolist()
            drawn = torch.stack([torch.rand(200, 3, 3, generator=torch.Generator().manual_seed(abs(seed))) for seed in seeds])
            return self.layer(drawn).mean((2, 3))

    model = lucidcam.wrap(Lottery(), lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255, layer="layer")
    names = lucidcam.concepts(model, bank(36), least=0.5, progress=False)
    assert len(names.named) <= 1
    assert max(row.nearest.auc for row in names.rows) > 0.8  # without the correction many would have a name


def test_sparse_noise_gets_no_name():
    """Channels that are 0 on most images: a few images of one concept by luck make a large AUC, of which little is sure."""
    truth = np.arange(100)[:, None] // 10 == np.arange(10)
    rng = np.random.default_rng(2)
    values = rng.random((100, 1000)) * (rng.random((100, 1000)) < 0.05)
    seen = _Table({"mean": values, "max": values, "strength": values}, truth, ranks.halves(truth), None)
    assert not any(row.meanings for row in _rows(seen, tuple(map(str, range(10))), 0.6))


def test_a_name_needs_an_interval_above_chance():
    """Eight held-out images of 124 with the concept, one of them below all others: the AUC is large and hardly by chance, but unsure."""
    rng = np.random.default_rng(0)
    truth = np.zeros((248, 1), bool)
    truth[:16] = True
    fit = ranks.halves(truth)
    values = rng.normal(size=248) + 9 * truth[:, 0]
    values[np.flatnonzero(truth[:, 0] & ~fit)[0]] = -9
    found = ranks.interval(values[~fit], truth[~fit, 0])
    assert found[0] == 0.875
    assert found[1] < 0.5
    [row] = _rows(_Table({"mean": values[:, None], "max": values[:, None], "strength": values[:, None]}, truth, fit, None), ("it",), 0.6)
    assert row.nearest.auc == 0.875
    assert row.nearest.p < 0.001
    assert row.meanings == ()


def test_a_channel_that_answers_to_two_things():
    """Strongly to red, faintly to green: by how active it is it means one or the other."""
    net = nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False)
    ).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.1, -1.2]).reshape(1, 3, 1, 1))
        net[-1].weight.fill_(1)
    model = lucidcam.wrap(net, lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255, ["bright"], layer="1")
    names = lucidcam.concepts(model, bank(60), least=0.7, progress=False)
    [row] = names.rows
    assert [each.concept for each in row.meanings] == ["red", "green"]
    assert list(names.meaning("green")) == [0]
    for colour in ("red", "green"):
        found = lucidcam.words(model, scenes.scene((colour, (10, 10, 30, 30))), 0, names=names)
        assert found.because[0].concept == colour
        assert sum(word.share for word in found.words) == pytest.approx(1)


def test_shares_sum_to_one_and_go_with_the_level():
    def meaning(concept, level):
        return Meaning(concept, "mean", 0.9, 0.8, 1.0, 0.0, None, level, 0.2)

    row = Name(0, (meaning("strong", 2.0), meaning("faint", 0.5)), None)
    strong = [row.shares(torch.full((2, 2), level))["strong"] for level in (0.0, 0.5, 1.2, 1.3, 2.0, 9.0)]
    assert strong == sorted(strong)
    assert strong[0] < 0.01
    assert strong[-1] > 0.99
    assert sum(row.shares(torch.full((2, 2), 1.0)).values()) == pytest.approx(1)
    assert Name(0, (meaning("only", 1.0),), None).shares(torch.zeros(2, 2)) == {"only": 1.0}
    assert Name(0, (), None).shares(torch.zeros(2, 2)) == {}


def test_strength_is_the_same_however_large_the_place():
    maps = torch.zeros(3, 1, 4, 4)
    maps[0, 0, 0, 0] = 2.0
    maps[1, 0, :, :3] = 2.0
    assert strength(maps)[:, 0].tolist() == [2.0, 2.0, 0.0]
    assert float(strength(-maps)[0, 0]) == -2.0


def test_names_are_kept_in_a_file(tmp_path):
    model = scenes.model()
    names = lucidcam.concepts(model, bank(), progress=False)
    path = names.save(tmp_path / "deep" / "names.json")
    again = lucidcam.Names.load(path)
    assert again.to_dict() == names.to_dict()
    photo = scenes.scene(("red", (5, 5, 25, 25)))
    assert lucidcam.words(model, photo, names=path).to_dict() == lucidcam.words(model, photo, names=names).to_dict()
    assert lucidcam.concepts(model, bank(), progress=False).to_dict() == names.to_dict()  # the same twice
    (tmp_path / "other.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match="holds no names"):
        lucidcam.Names.load(tmp_path / "other.json")
    with pytest.raises(DataError, match="cannot be read"):
        lucidcam.Names.load(tmp_path / "nowhere.json")
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(DataError, match="another version"):
        lucidcam.Names.load(path)


def test_names_of_another_network_or_layer_are_refused():
    model = scenes.model()
    names = lucidcam.concepts(model, bank(), progress=False)
    photo = scenes.scene(("red", (5, 5, 25, 25)))
    with pytest.raises(OptionError, match="of the layer '2'; asked is '1'"):
        lucidcam.words(model, photo, names=names, layer="1")
    other = scenes.model()
    with torch.no_grad():
        other.module[1].weight.mul_(2)
    with pytest.raises(OptionError, match="other weights"):
        lucidcam.words(other, photo, names=names)
    with pytest.raises(OptionError, match=r"whole number top ≥ 1; got 1\.5"):
        lucidcam.words(model, photo, names=names, top=1.5)
    with pytest.raises(OptionError, match="not both"):
        lucidcam.words(model, photo, names=names, bank=bank())


def test_a_bad_image_is_reported_and_left_out():
    given = [*scenes.samples(36, seed=50), Sample(b"no image", "broken", ("red",)), Problem("lost", "lost: it is lost.")]
    names = lucidcam.concepts(scenes.model(), lucidcam.Bank.of(Dataset("s", "t", lambda: iter(given), 38, COLOURS)), progress=False)
    assert names.images == 36
    assert [each.name for each in names.problems] == ["lost", "broken"] or [each.name for each in names.problems] == ["broken", "lost"]
    assert [row.concept for row in names.rows] == list(COLOURS)
    broken = [Sample(b"no image", f"{i}", ("red",) if i % 2 else ("blue",)) for i in range(12)]
    with pytest.raises(DataError, match="no image could be used"):
        lucidcam.concepts(scenes.model(), lucidcam.Bank.of(Dataset("s", "t", lambda: iter(broken), 12)), progress=False)
    half = [*scenes.samples(12), *(Sample(b"no image", f"bad {i}", ("purple",)) for i in range(6))]
    with pytest.raises(DataError, match=r"too few images of 'purple' can be used \(0\)"):
        lucidcam.concepts(scenes.model(), lucidcam.Bank.of(Dataset("s", "t", lambda: iter(half), 18)), progress=False)


def test_errors_of_naming():
    model = scenes.model()
    with pytest.raises(LayerError, match="no layer is called 'nowhere'"):
        lucidcam.concepts(model, bank(), "nowhere", progress=False)
    with pytest.raises(OptionError, match="least ≤ 1"):
        lucidcam.concepts(model, bank(), least=1.5)
    with pytest.raises(OptionError, match="quantile"):
        lucidcam.concepts(model, bank(), quantile=0)
    with pytest.raises(ModelError, match=r"lucidcam\.wrap"):
        lucidcam.concepts(model.module, bank())
    with pytest.raises(OptionError, match="top ≥ 1"):
        lucidcam.words(model, scenes.scene(), top=0, names=None, bank=bank())


# ------------------------------------------------------------------------------------------------------------------------------ words


def shown(found, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(found.table())
    return console.export_text()


def test_words_are_grad_cams_importances():
    """Shares and maps against a loop over the channels; what is not named adds up with what is."""
    model = scenes.model()
    names = lucidcam.concepts(model, bank(), progress=False)
    names = replace(names, rows=(names[0], Name(1, (), names[1].nearest), names[2]))  # green has lost its name
    photo = scenes.scene(("red", (5, 5, 25, 25)), ("green", (30, 5, 44, 19)), ("blue", (30, 25, 50, 45)))
    weight = torch.tensor([[5.0, -3.0, -2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with torch.no_grad():
        model.module[-1].weight.copy_(weight)
    names = replace(names, fingerprint=model.fingerprint())
    found = lucidcam.words(model, photo, "red", names=names)
    with torch.no_grad():
        maps = model.module[:3](model.prepare(photo)[0].tensor[None])[0]
    evidence = [float(weight[0, k] * maps[k].mean()) for k in range(3)]
    total = sum(abs(each) for each in evidence)
    assert {word.concept: pytest.approx(word.share, rel=1e-4) for word in found.words} == {
        "red": evidence[0] / total,
        "blue": evidence[2] / total,
    }
    assert found.unnamed == pytest.approx(abs(evidence[1]) / total, rel=1e-4)
    assert [word.concept for word in found.because] == ["red"]
    assert [word.concept for word in found.against] == ["blue"]
    assert found.text.startswith("red because (no word stands out from chance): red (")  # of two names there are but two orders
    assert "; against: blue (" in found.text
    assert found.text.endswith("of the evidence has no name in this bank.")
    everything = found.map("red") + found.map("blue") + found.nameless
    expected = lucidcam.attribute(model.module, model.prepare(photo)[0].tensor[None], "gradcam", target=0, layer="2")[0]
    torch.testing.assert_close(everything.relu(), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(OptionError, match="no word here is called 'green'"):
        found.map("green")


def test_what_words_write(tmp_path):
    model = scenes.model()
    names = lucidcam.concepts(model, bank(), progress=False)
    found = lucidcam.words(model, scenes.scene(("red", (5, 5, 25, 25))), "red", names=names)
    found.save(tmp_path / "words")
    told = json.loads((tmp_path / "words" / "words.json").read_text(encoding="utf-8"))
    assert told["text"] == str(found) == found.text
    assert told["words"][0]["concept"] == "red"
    assert 0 < told["words"][0]["chance"] <= 1
    assert told["words"][0]["confidence"] == pytest.approx(names[0].meanings[0].low)
    assert (tmp_path / "words" / "words.png").is_file()
    assert found._repr_png_().startswith(b"\x89PNG")
    for table in (shown(found), shown(names)):
        assert max(map(len, table.splitlines())) <= 80
    assert "3 of 3 channels of 2 have a name" in shown(names)


def test_an_image_of_which_no_channel_speaks():
    model = scenes.model()
    names = lucidcam.concepts(model, bank(), progress=False)
    found = lucidcam.words(model, np.zeros((40, 40, 3), np.uint8), 0, names=names)
    assert found.words == ()
    assert found.unnamed == 0
    assert "nothing that this bank has a name for" in found.text
    assert found.picture().width > 0
    assert "No evidence" in shown(found)


def as_tensor(photo) -> torch.Tensor:
    """Pixels in [0, 1], channels first."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255


def called(channels: int, concepts: dict[int, str], spare: int = 0):
    """A network with so many channels, each a pixel's value, and names for some of them."""
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1, bias=False)).eval()
    model = lucidcam.wrap(
        net, lambda photo: torch.from_numpy(np.array(photo)).float()[:, :1, :1].expand(-1, 2, 2), ["it"], layer="0", frame="whole"
    )
    row = [Meaning(name, "mean", 0.9, 0.8, 1.0, 0.0, None, 1.0, 0.2) for name in sorted(set(concepts.values()))]
    meaning = {each.concept: each for each in row}
    rows = tuple(Name(k, (meaning[concepts[k]],) if k in concepts else (), None) for k in range(channels))
    names = lucidcam.Names(rows, tuple(meaning), "0", "n", "", "b", "i", 1)

    def ask(evidence):
        with torch.no_grad():
            net[-1].weight.copy_(torch.as_tensor(evidence)[None])
        found = lucidcam.words(model, np.ones((channels, 4, 3), np.uint8), 0, names=replace(names, fingerprint=model.fingerprint()))
        return {word.concept: word for word in found.words}

    return ask


def test_chance_is_that_of_every_order_of_the_names():
    """Seven named channels, all 5040 orders, one by one; three more channels have no name, however much they have."""
    concepts = dict(enumerate("aaabbcc"))
    evidence = np.array([3.0, 2.5, 0.4, -1.0, 0.3, -2.0, -2.4, 9.0, -9.0, 9.0])
    words = called(10, concepts)(evidence)
    sums, every = [], {}
    for order in permutations(range(7)):
        sums.append([sum(evidence[k] for k, place in enumerate(order) if concepts[place] == name) for name in "abc"])
    sums = np.array(sums)
    excess = np.sign(sums) * (sums - sums.mean(0)) / sums.std(0)
    for i, name in enumerate("abc"):
        every[name] = float((excess.max(1) >= excess[0, i] - 1e-9).mean())
    for name, expected in every.items():
        assert words[name].chance == pytest.approx(expected, abs=0.05)
        assert words[name].share == pytest.approx(sums[0]["abc".index(name)] / np.abs(evidence).sum())
    assert words["a"].chance < 0.2 < words["b"].chance


def test_names_at_random_are_hardly_ever_below_chance():
    """Twenty words for each of 100 images: one in twenty images may have a word below 0.05, whatever its side; planted ones have."""
    rng = np.random.default_rng(0)
    meant = torch.eye(20).double()[torch.arange(100) % 20]
    few = sum(min(chances(meant, torch.tensor(rng.standard_t(3, 100) + 0.3))) < 0.05 for _ in range(100))
    assert few <= 12
    concepts = {int(k): f"thing {i % 20:02d}" for i, k in enumerate(rng.permutation(300)[:100])}
    for sign in (1, -1):
        evidence = rng.normal(size=300)
        evidence[[k for k, name in concepts.items() if name == "thing 07"]] = 4 * sign
        words = called(300, concepts)(evidence)
        assert words["thing 07"].chance < 0.01
        assert min(word.chance for name, word in words.items() if name != "thing 07") > 0.05


def test_one_name_for_all_says_nothing():
    """Nothing to shuffle: as much evidence in every order."""
    assert called(4, dict.fromkeys(range(4), "it"))([1.0, 2.0, 3.0, -1.0])["it"].chance == 1
    assert called(4, {2: "it"})([1.0, 2.0, 3.0, -1.0])["it"].chance == 1


def test_the_network_comes_back_as_it_was():
    model = scenes.model()
    model.module.train()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    lucidcam.words(model, scenes.scene(("red", (5, 5, 25, 25))), bank=bank(), progress=False)
    assert model.module.training
    assert not any(module._forward_hooks for module in model.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


# ------------------------------------------------------------------------------------------------------- models of images and texts


def test_texts_label_a_bank_by_mechanics_alone():
    """An untrained model of images and texts: what it says means nothing; that its words are what is used is tested."""
    clip = talkers.talker("image-text similarity")
    texts = ["red circle", "blue square", "circle"]
    samples = scenes.samples(40)
    found = lucidcam.Bank.texts([each.image for each in samples], texts, clip, share=0.25, prompt="{}", progress=False)
    assert found.concepts == tuple(texts)
    with torch.no_grad():
        images = clip.module(torch.stack([clip.prepare(each.image)[0].tensor for each in samples]))
        said = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(clip.module.encode(texts), dim=1).T
    said = (said - said.mean(1, keepdim=True)).numpy()
    for k, text in enumerate(texts):
        expected = set(np.argsort(-said[:, k])[:10].tolist())
        assert {i for i, sample in enumerate(found.data) if text in sample.labels} == expected
    names = lucidcam.concepts(scenes.model(), found, progress=False)
    assert names.concepts == tuple(texts)
    assert names.images == 40


def test_errors_of_texts():
    clip = talkers.talker("image-text similarity")
    photos = [each.image for each in scenes.samples(12)]
    with pytest.raises(ModelError, match="a model of images and texts"):
        lucidcam.Bank.texts(photos, ["red", "blue"], scenes.model())
    with pytest.raises(OptionError, match="two different texts"):
        lucidcam.Bank.texts(photos, ["red"], clip)
    with pytest.raises(OptionError, match=r"share < 0\.5"):
        lucidcam.Bank.texts(photos, ["red", "blue"], clip, share=0.7)


# ---------------------------------------------------------------------------------------------------------------------- command line


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for module in ("concepts", "explain"):
        monkeypatch.setattr(f"lucidcam.cli.{module}.load_model", lambda *_: scenes.model())
    scenes.folder(tmp_path / "bank", 48)
    scenes.scene(("red", (5, 5, 25, 25)), ("blue", (30, 20, 50, 40))).save("photo.png")
    commands.run("concepts", "--bank", "bank", "--out", "names.json")
    said = capsys.readouterr().out
    assert "3 of 3 channels" in said
    commands.run("explain", "photo.png", "--words", "--concepts", "names.json", "--target", "red", "--target", "blue", "--out", "a")
    said = " ".join(capsys.readouterr().out.split())
    assert "photo.png: red because (no word stands out from chance): red (" in said
    assert "photo.png: blue because (no word stands out from chance): blue (" in said
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {"words.json", "photo-words-red.png", "photo-gradcam-red.png"}
    assert len(json.loads((tmp_path / "a" / "words.json").read_text())) == 2
    commands.run("explain", "photo.png", "--words", "--concepts", "bank", "--out", "b", "--json")
    assert json.loads(capsys.readouterr().out)[0]["label"] in COLOURS
    kept = (tmp_path / "b" / "names.json").stat().st_mtime_ns
    monkeypatch.setattr(lucidcam, "concepts", None)  # not named again
    commands.run("explain", "photo.png", "--words", "--concepts", "bank", "--out", "b")
    assert (tmp_path / "b" / "names.json").stat().st_mtime_ns == kept
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lucidcam.cli.explain.load_model", lambda *_: scenes.model())
    commands.run("explain", "photo.png", "--words", "--concepts", "bank", "--layer", "1", "--out", "b")
    assert lucidcam.Names.load(tmp_path / "b" / "names.json").layer == "1"
    commands.run("explain", "photo.png", "--words", "--concepts", "bank", "--out", "b")  # not with names of an earlier layer
    assert lucidcam.Names.load(tmp_path / "b" / "names.json").layer == "2"
    assert "red because" in json.loads((tmp_path / "b" / "words.json").read_text())[0]["text"]
    for folder, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / folder).mkdir()
        scenes.scene((colour, (5, 5, 25, 25))).save(tmp_path / folder / "same.png")
    commands.run("explain", "one/same.png", "two/same.png", "--target", "red", "--words", "--concepts", "names.json", "--out", "c")
    files = [entry["file"] for entry in json.loads((tmp_path / "c" / "words.json").read_text())]
    assert len(set(files)) == 2
    assert Image.open(files[0]).tobytes() != Image.open(files[1]).tobytes()
    capsys.readouterr()
    commands.run("explain", "photo.png", "--concepts", "bank", code=2)
    assert "--concepts is for --words" in capsys.readouterr().err
    commands.run("explain", "photo.png", "--words", "--layer", "1", "--layer", "2", code=2)
    assert "one --layer" in capsys.readouterr().err
    commands.run("concepts", "--text", "red", code=2)
    assert "--text needs --bank" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- the counted truth


@pytest.mark.slow
def test_planted_channels_get_their_names():
    """A part of what examples/words.py counts; thresholds were chosen on other seeds."""
    pytest.importorskip("skimage")
    example = load("words")
    found = example.planted(11, 48, lucidcam.Bank.builtin(size=example.SIZE, seed=5011))
    assert found["named"] >= 0.9
    assert found["left unnamed"] >= 0.9
    assert found["first word"] >= 0.9


@pytest.mark.slow
def test_a_trained_networks_words_name_its_textures():
    pytest.importorskip("skimage")
    example = load("words")
    found = example.trained(12, 200, lucidcam.Bank.builtin(size=example.SIZE, seed=5012), 300)
    assert found["accuracy"] >= 0.9
    assert found["first word"] >= 0.9


def spoken(chances: dict[str, float]) -> lucidcam.Words:
    """Words with given chances, half of them against the class."""
    words = tuple(
        Word(name, share, 0.9, chance, (i,))
        for i, ((name, chance), share) in enumerate(zip(chances.items(), np.linspace(0.5, -0.3, len(chances)), strict=True))
    )
    photo = Image.new("RGB", (32, 32))
    names = lucidcam.Names((), tuple(chances), "layer", "net", "0", "bank", "0", 1)
    maps = torch.rand(len(words), 4, 4)
    return lucidcam.Words(words, maps, 0.2, torch.rand(4, 4), photo, Frame.whole(32, 32), "x", 0, "cat", 1.0, 0.5, names, 5)


def captions(found: lucidcam.Words, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Titles of rows and captions of cells in a picture."""
    titles: list[str] = []
    cells: list[str] = []

    def rows(lines, title):
        titles.extend(name for name, _ in lines)
        cells.extend(caption for _, row in lines for caption, _ in row)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("lucidcam.dissection.sheets.rows", rows)
    found.picture()
    return titles, cells


def test_words_that_do_not_stand_out_are_told_so_wherever_they_are_shown(monkeypatch):
    found = spoken({"stripes": 0.6, "dots": 1.0, "grass": 0.2})
    none = "no word stands out from chance"
    first = found.text.split(". ")[0]
    assert first == f"cat because ({none}): stripes (50%), dots (10%); against: grass (30%)"
    assert str(found) == found.text
    document = found.to_dict()
    assert document["text"] == found.text
    assert document["stands_out"] is False
    assert [word["stands_out"] for word in document["words"]] == [False] * 3
    table = " ".join(shown(found).split())
    assert none in table
    assert "stripes (by chance)" in table
    titles, cells = captions(found, monkeypatch)
    assert titles[:2] == [f"because ({none})", f"against ({none})"]
    assert cells[:3] == ["stripes (by chance)", "dots (by chance)", "grass (by chance)"]


def test_words_that_stand_out_are_told_from_those_that_do_not(monkeypatch):
    found = spoken({"stripes": 0.01, "dots": 0.05, "grass": 0.2})
    assert found.stands_out
    assert found.text.split(". ")[0] == "cat because: stripes (50%), dots (10%, by chance); against: grass (30%, by chance)"
    table = " ".join(shown(found).split())
    assert "dots (by chance)" in table
    assert "stripes (by chance)" not in table
    titles, cells = captions(found, monkeypatch)
    assert titles[:2] == ["because", "against"]
    assert cells[:3] == ["stripes", "dots (by chance)", "grass (by chance)"]
    assert [word["stands_out"] for word in found.to_dict()["words"]] == [True, False, False]


def test_no_words_at_all_are_no_statement_about_chance():
    assert spoken({}).text.startswith("cat because: nothing that this bank has a name for")


def test_channels_without_a_name_are_told_so_beside_the_nearest_concept():
    meaning = Meaning("ring", "max", 0.61, 0.4, 0.8, 1.0, None, 1.0, 0.1)
    named, nameless, dead = Name(0, (replace(meaning, auc=0.95, p=1e-5),), meaning), Name(1, (), meaning), Name(2, (), None)
    assert str(named) == "channel 0: ring (AUC 0.95, p = 1e-05)"
    assert str(nameless) == "channel 1: no concept stands out (nearest is ring, AUC 0.61, p = 1)"
    assert str(dead) == "channel 2: constant on the bank"
    names = lucidcam.Names((named, nameless, dead), ("ring",), "layer", "net", "0", "bank", "0", 1)
    assert [row["stands_out"] for row in names.to_dict()["names"]] == [True, False, False]
    nobody = lucidcam.Names((nameless, dead), ("ring",), "layer", "net", "0", "bank", "0", 1)
    assert "No concept stands out from chance" in " ".join(shown(nobody).split())
