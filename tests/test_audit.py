"""The audit: it finds what a network was made to look at, says nothing of a network that looks at the object, and counts right."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from commands import run
from lucidcam.auditing import backgrounds, describe, regions, tables
from lucidcam.auditing.clusters import clusters
from lucidcam.auditing.evidence import Photographer
from lucidcam.auditing.findings import read
from lucidcam.auditing.probing import Prober, Scores
from lucidcam.auditing.tables import Fact
from lucidcam.auditing.trials import Outcome, Trial
from lucidcam.auditing.views import GRID, Drawer, View, covered, heat_of, order_of, rim, seen
from lucidcam.errors import DataError, OptionError
from lucidcam.perturb.imputation import impute
from lucidcam.samples import Object, Sample
from lucidcam.stats.contingency import estimate
from lucidcam.stats.paired import holm
from lucidcam.stream.explainer import Explainer
from lucidcam.types import Frame
from lucidcam.utils.class_scores import ClassScores

pytest.importorskip("sklearn")

SIDE = 48
RED, GREEN, WHITE, BLUE = (200, 40, 40), (40, 200, 40), (255, 255, 255), (30, 30, 160)


class Colours(nn.Module):
    """Scores of two classes from the areas of four colours: what the network looks at is known."""

    def __init__(self, a: dict[str, float], b: dict[str, float]) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        names = ("red", "green", "white", "blue")
        self.weights = nn.Parameter(torch.tensor([[each.get(name, 0.0) for name in names] for each in (a, b)]))
        kernel = torch.tensor([[1.0, -1, 0], [-1.0, 1, 0], [1 / 3, 1 / 3, 1 / 3], [-0.5, -0.5, 1.0]])
        self.features.weight.data = kernel[:, :, None, None]
        self.features.bias.data = torch.tensor([-0.2, -0.2, -0.75, -0.2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.features(x)).mean((2, 3)) @ self.weights.T


def network(a: dict[str, float], b: dict[str, float]) -> lucidcam.Model:
    def to_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255

    return lucidcam.wrap(Colours(a, b), to_tensor, ["a", "b"], layer="relu")


def scenes(count: int = 120, seed: int = 0, marked: bool = False, blue: bool = False, boxes: bool = True) -> list[Sample]:
    """Red squares ("a") and green ones ("b"); those of "a" may have a white mark in a corner, or a blue background."""
    found = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        label = "ab"[i % 2]
        ground = np.array(BLUE if blue and label == "a" else (60, 60, 60))
        pixels = (ground + rng.normal(0, 6, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
        x, y = rng.integers(9, SIDE - 14, 2)
        pixels[y : y + 12, x : x + 12] = RED if label == "a" else GREEN
        objects = [Object(label, (float(x), float(y), float(x + 12), float(y + 12)))]
        if marked and label == "a":
            pixels[1:7, 1:7][::2] = WHITE
            objects.append(Object("mark", (1.0, 1.0, 7.0, 7.0)))
        found.append(Sample(pixels, f"{seed}-{i:04d}", (label,), tuple(objects) if boxes else ()))
    return found


HONEST = ({"red": 60.0}, {"green": 60.0})


@pytest.mark.parametrize("boxes", [True, False])
def test_a_mark_is_the_first_finding_and_is_confirmed(boxes, tmp_path):
    found = lucidcam.audit(network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(marked=True, boxes=boxes), progress=False)
    first = found.findings[0]
    assert (first.kind, first.label, first.share) == ("watermark", "a", 1.0)
    assert "top left corner" in first.words
    assert first.effect.low > 0.3
    assert first.p < 0.001
    assert first.trial.take.before.mean() > 0.9 > 0.7 > first.trial.take.after.mean()
    assert abs(first.trial.take.control.mean() - first.trial.take.before.mean()) < 0.05
    assert first.trial.give.after.mean() > first.trial.give.control.mean() + 0.3
    assert first.regions[0][:2, :2].any()
    assert not first.regions[0][8:].any()
    assert [each.label for each in found.shortcuts] == ["a"]


@pytest.mark.parametrize("boxes", [True, False])
def test_a_background_is_the_first_finding(boxes):
    found = lucidcam.audit(network({"red": 10.0, "blue": 20.0}, {"green": 60.0}), scenes(blue=True, boxes=boxes), progress=False)
    first = found.findings[0]
    assert first.kind == "background"
    assert first.effect.low > 0.1
    # Of two classes, one's gain is the other's loss: which comes first is chance.
    [blue] = [each for each in found.shortcuts if each.label == "a"]
    assert "more blue" in blue.words


@pytest.mark.parametrize("planted", [{"marked": True}, {"blue": True}, {}])
@pytest.mark.parametrize("boxes", [True, False])
def test_a_network_that_looks_at_the_object_has_no_shortcut(planted, boxes):
    """What is in the data does not matter, only what the network does with it."""
    found = lucidcam.audit(network(*HONEST), scenes(boxes=boxes, **planted), progress=False)
    assert found.shortcuts == ()
    assert sum(found.tried.values()) > 0
    assert found.verdict.startswith("No shortcut was confirmed in 120 images, which is no all-clear: only what is listed was tried.")


@pytest.mark.slow
def test_objects_of_other_classes_than_the_networks_are_not_looked_at():
    model, data = network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(marked=True)
    without = [replace(each, objects=tuple(o for o in each.objects if o.label != "mark")) for each in data]
    one, other = (lucidcam.audit(model, each, progress=False).to_dict() for each in (data, without))
    assert one == other


def test_a_companion_is_found():
    """ "a" is recognised by the green thing beside it."""
    rng = np.random.default_rng(0)
    data = []
    for i in range(150):
        pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
        labels = [("a", "b"), ("b",), ("c",)][i % 3]
        corners = [(4, 4), (4, 30), (30, 4), (30, 30)]
        places_ = [corners[k] for k in rng.permutation(4)[: len(labels)]]
        for label, (x, y) in zip(labels, places_, strict=True):
            pixels[y : y + 12, x : x + 12] = {"a": RED, "b": GREEN, "c": BLUE}[label]
        objects = tuple(Object(label, (x, y, x + 12.0, y + 12.0)) for label, (x, y) in zip(labels, places_, strict=True))
        data.append(Sample(pixels, f"{i:03d}", labels, objects))
    module = Colours({"red": 5.0, "green": 60.0}, {"green": 60.0})
    module.weights = nn.Parameter(torch.cat([module.weights.data, torch.tensor([[0.0, 0, 0, 60]])]))
    model = lucidcam.wrap(module, network(*HONEST).preprocess, ["a", "b", "c"], layer="relu")
    found = lucidcam.audit(model, data, progress=False, multi_label=True)
    companions = [(each.label, each.beside) for each in found.findings if each.kind == "companion"]
    assert ("a", "b") in companions
    assert ("b", "a") not in companions
    [row] = [row for row in found.together if (row["label"], row["beside"]) == ("a", "b")]
    assert row["images"] == 50
    assert row["attention_beside"] > row["attention_own"]


def test_a_confusion_is_found():
    """Half of the "b" carry more white than the network takes: they are called "a"."""
    data = scenes(count=160)
    for i, each in enumerate(data):
        if i % 4 == 1:
            each.image[40:46, 20:26] = WHITE
    found = lucidcam.audit(network({"red": 60.0, "white": 1500.0}, {"green": 60.0}), data, progress=False)
    [confusion] = [each for each in found.findings if each.kind == "confusion"]
    assert (confusion.label, confusion.beside, confusion.share) == ("b", "a", 0.5)
    assert {(row["label"], row["predicted"]): row["images"] for row in found.confusions} == {("b", "a"): 40}


def test_calibration_is_told_where_it_is_wrong():
    rng = np.random.default_rng(0)
    facts = [Fact(str(i), "a", 0, 0.9, int(rng.random() < 0.4), 0.9, None) for i in range(400)]
    found = tables.calibration_error(facts)
    accuracy = np.mean([each.predicted == each.id for each in facts])
    assert found.counted == pytest.approx(abs(0.9 - accuracy))
    assert found.error.mean == pytest.approx(np.sqrt((0.9 - accuracy) ** 2 - 0.9 * 0.1 / 400))
    assert found.gap.mean == pytest.approx(0.9 - accuracy)
    assert found.error.low < 0.3 < found.error.high
    assert found.counted > found.chance + 0.2
    assert "too sure" in describe.calibration(found.error, found.gap)


@pytest.mark.parametrize("count", [1, 8, 32, 200])
def test_a_calibrated_network_is_not_blamed(count):
    """Each image is right with its confidence as the probability: the error that is counted is chance alone."""
    rng = np.random.default_rng(count)
    counted, errors, beyond = [], [], 0
    for _ in range(30):
        confidence = rng.uniform(0.3, 1, count)
        facts = [Fact(str(i), "a", 0, c, int(rng.random() >= c), c, None) for i, c in enumerate(confidence)]
        found = tables.calibration_error(facts)
        counted.append(found.counted)
        errors.append(found.error.mean)
        beyond += found.counted > found.chance + 0.05
        assert 0 <= found.error.low <= found.error.mean <= found.error.high
    assert beyond <= 2
    assert np.mean(errors) < 0.6 * np.mean(counted)


@pytest.mark.slow
def test_an_audit_does_not_blame_a_calibrated_network():
    """Confidence is 0.5 in every image, and half of them are right: with few images the counted error is large all the same."""
    flat = network({"red": 0.01}, {"green": 0.01})
    for count in (1, 4, 60):
        data = [replace(each, labels=("ab"[i // 2 % 2],), objects=()) for i, each in enumerate(scenes(count=count))]
        found = lucidcam.audit(flat, data, progress=False)
        assert not [each for each in found.findings if each.kind == "calibration"]
    wrong = [replace(each, labels=("ba"[i % 2],), objects=()) for i, each in enumerate(scenes(count=60))]
    assert [each.kind for each in lucidcam.audit(network(*HONEST), wrong, progress=False).findings][-1] == "calibration"


def test_calibration_error_equals_the_naive_one():
    rng = np.random.default_rng(1)
    facts = [Fact(str(i), "a", 0, 0.5, int(rng.random() < 0.3), float(rng.uniform(0.2, 1)), None) for i in range(300)]
    counted = without = 0.0
    for low in np.arange(10) / 10:
        some = [each for each in facts if low <= each.confidence < low + 0.1 or (low == 0.9 and each.confidence == 1)]
        if some:
            gap = abs(np.mean([e.confidence for e in some]) - np.mean([e.predicted == e.id for e in some]))
            chance = sum(e.confidence * (1 - e.confidence) for e in some) / len(some) ** 2
            counted += len(some) / 300 * gap
            without += len(some) / 300 * max(gap**2 - chance, 0) ** 0.5
    found = tables.calibration_error(facts)
    assert found.counted == pytest.approx(counted)
    assert found.error.mean == pytest.approx(without)


def test_an_image_with_two_marks_counts_once():
    """A second mark in another corner makes no more images of the same ones."""
    data = []
    for each in scenes(marked=True):
        if each.labels == ("a",):
            each.image[1:7, -7:-1] = each.image[1:7, 1:7]
        data.append(each)
    found = lucidcam.audit(network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), data, progress=False).findings[0]
    assert len(found.regions) == 2
    assert found.trial is not None
    for outcome in (found.trial.take, found.trial.give):
        assert outcome.n == len(set(outcome.names)) == 30
        assert outcome.p == max(each.p for each in outcome.parts)
    assert found.p == found.trial.p
    assert "30 images" in found.words


def test_outcomes_are_joined_image_by_image():
    def outcome(names: str, *values: float) -> Outcome:
        array = np.array(values)
        return Outcome(array, array / 2, array / 4, array - 0.5, -1, tuple(names))

    one, other = outcome("abc", 0.2, 0.4, 0.6), outcome("cbd", 0.8, 0.6, 1.0)
    found = Outcome.joined([one, other])
    assert found.names == ("a", "b", "c", "d")
    np.testing.assert_allclose(found.before, [0.2, 0.5, 0.7, 1.0])
    np.testing.assert_allclose(found.effect.mean, -np.mean([0.05, 0.125, 0.175, 0.25]))
    assert found.p == max(one.p, other.p)
    assert Outcome.joined([one, one]).effect == one.effect
    assert Outcome.joined([Outcome.none(1), Outcome.none(1)]).n == 0


def test_a_pasted_control_is_another_image_than_the_one_it_is_pasted_into():
    region = np.zeros((GRID, GRID), bool)
    region[2:5, 2:5] = True
    some = [view(f"image {i}", np.ones((GRID, GRID))) for i in range(6)]
    pixels = {each: torch.full((3, SIDE, SIDE), float(i)) for i, each in enumerate(some)}
    place = regions.Place("a", 0, region, "cluster")
    for seed in range(20):
        for change in regions._pasted(place, some[:3], some[3:], pixels.__getitem__, np.random.default_rng(seed)):
            [control] = change.controls
            assert not torch.equal(control, change.before)
    assert not list(regions._pasted(place, some[:3], some[3:4], pixels.__getitem__, np.random.default_rng(0)))


@pytest.mark.slow
@pytest.mark.parametrize("boxed", ["a", "b", "ab"])
def test_contexts_are_exchanged_in_one_way(boxed, monkeypatch):
    """Where one class alone has boxes, what is suspected and its control are changed by the same operation."""
    data = [replace(each, objects=each.objects if each.labels[0] in boxed else ()) for each in scenes(blue=True)]
    ways: list[bool] = []
    exchanged = backgrounds.Exchange.exchanged

    def watched(self: backgrounds.Exchange, one: View, giver: View, cut: bool) -> torch.Tensor | None:
        ways.append(cut)
        assert not cut or (one.sample.objects and giver.sample.objects)
        return exchanged(self, one, giver, cut)

    monkeypatch.setattr(backgrounds.Exchange, "exchanged", watched)
    found = lucidcam.audit(network(*HONEST), data, progress=False)
    assert found.shortcuts == ()
    assert found.tried["background"] == 2
    assert set(ways) == {boxed == "ab"}


def photographer(model: lucidcam.Model) -> Photographer:
    return Photographer(model, Explainer(model, "gradcam"), Prober(model))


def test_evidence_of_a_companion_leaves_the_object_alone():
    """The companion's box holds the object: what the trial covers is the rest of it, and the picture shows that."""
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    own, beside = Object("a", (40.0, 40.0, 80.0, 80.0)), Object("b", (20.0, 20.0, 100.0, 100.0))
    frame = Frame.whole(128, 128)
    heat, colours = np.full((GRID, GRID), 1 / GRID**2, np.float32), np.zeros((GRID, GRID, 3), np.uint8)
    sample, others = Sample(pixels, "x", ("a", "b"), (own, beside)), {"b": covered([beside], frame)}
    pair = View(sample, frame, "a", 0, heat, colours, covered([own], frame), others, 0.5)
    [shown] = photographer(network(*HONEST)).companion([pair, replace(pair, own=None)], "b")
    image, changed = (np.asarray(picture) for _, picture in (shown.pictures[0], shown.pictures[-1]))
    assert image.shape[0] % 128 == 0
    scale = image.shape[0] // 128
    moved = (image != changed).any(2)
    assert not moved[40 * scale : 80 * scale, 40 * scale : 80 * scale].any()
    assert moved[20 * scale : 40 * scale, 20 * scale : 100 * scale].mean() > 0.9
    assert not moved[: 20 * scale].any()


def test_evidence_of_a_background_covers_what_the_trial_covers():
    """A mark that is already known is covered in the picture as well as in the trial, and its share of the change is not told twice."""
    model = network({"red": 20.0, "white": 1500.0}, {"green": 60.0})
    views = []
    for each in scenes(count=40, marked=True):
        label = each.labels[0]
        own = [thing for thing in each.objects if thing.label == label]
        sample, frame = replace(each, objects=tuple(own)), Frame.whole(SIDE, SIDE)
        heat, colours = np.full((GRID, GRID), 1 / GRID**2, np.float32), np.zeros((GRID, GRID, 3), np.uint8)
        views.append(View(sample, frame, label, "ab".index(label), heat, colours, covered(own, frame), {}, 0.9))
    mine, others = ([view for view in views if view.label == label] for label in "ab")
    mark = np.zeros((GRID, GRID), bool)
    mark[:3, :3] = True
    plain, without = (photographer(model).background(mine, others, hidden) for hidden in ((), (mark,)))
    for raw, shown in zip(plain, without, strict=True):
        assert len(shown.pictures) == len(raw.pictures) + 1
        assert raw.changes[0] > shown.changes[0] + 0.1
        assert np.asarray(shown.pictures[-2][1])[:15, :15].max() < 150 < np.asarray(shown.pictures[0][1])[:15, :15].max()
        assert shown.changes[1] == pytest.approx(float(shown.pictures[-1][0].split(": ")[1].split()[0]), abs=0.006)


def test_kinds_of_maps_are_told_with_images(tmp_path):
    """Half of the "a" have a mark instead of a square: their maps are of two kinds."""
    data = []
    for each in scenes(count=160, boxes=False):
        if each.labels == ("a",) and int(each.name[-4:]) % 4 == 0:
            each.image[:] = 60
            each.image[1:7, 1:7] = WHITE
        data.append(each)
    found = lucidcam.audit(network({"red": 60.0, "white": 1500.0}, {"green": 60.0}), data, progress=False, out=tmp_path / "audit")
    kinds = [each for each in found.clusters if each.label == "a"]
    assert sum(each.images for each in kinds) == kinds[0].of == 40
    assert [each.number for each in kinds] == list(range(1, len(kinds) + 1))
    assert [each.images for each in kinds] == sorted((each.images for each in kinds), reverse=True)
    # Suspicions arise on every second image, by the order of its name.
    half = sorted((each.name for each in data if each.labels == ("a",)), key=lambda name: order_of(name, "a"))[::2]
    marked = [each for each in kinds if each.mean[:3, :3].sum() > 0.5]
    assert sum(each.images for each in marked) == sum(int(name[-4:]) % 4 == 0 for name in half)
    for each in marked:
        assert all(int(shown.name[-4:]) % 4 == 0 for shown in each.evidence)
        assert [caption for caption, _ in each.evidence[0].pictures] == ["image", "mean map"]
    document = read(tmp_path / "audit")
    assert [each["images"] for each in document["clusters"]] == [each.images for each in found.clusters]
    for each in document["clusters"]:
        assert all((tmp_path / "audit" / one["file"]).is_file() for entry in each["evidence"] for one in entry["pictures"])


def test_confusions_are_shown_whether_or_not_a_trial_confirms_them(tmp_path):
    """A third of the labels are wrong: nothing in the images speaks for the other class, but their maps are worth a look."""
    data = [replace(each, labels=("b",), objects=()) if i % 6 == 0 else replace(each, objects=()) for i, each in enumerate(scenes())]
    found = lucidcam.audit(network(*HONEST), data, progress=False, out=tmp_path / "audit")
    [row] = found.confusions
    assert (row["label"], row["predicted"], row["images"]) == ("b", "a", 20)
    assert len(row["evidence"]) == 2
    for each in row["evidence"]:
        assert [caption.split()[0] for caption, _ in each.pictures] == ["image", "b", "a"]
    [told] = read(tmp_path / "audit")["confusions"]
    assert [len(entry["pictures"]) for entry in told["evidence"]] == [3, 3]


def test_a_verdict_says_why_nothing_was_tried():
    one = [replace(each, objects=()) for each in scenes(count=80) if each.labels == ("a",)]
    found = lucidcam.audit(network(*HONEST), one, progress=False)
    assert found.coverage.shortcuts_tried == 0
    assert found.headline == "Nothing can be said of shortcuts in 40 images: no suspicion that can be tried arose."
    few = lucidcam.audit(network(*HONEST), one[:15], progress=False)
    assert few.headline == "Nothing can be said of shortcuts in 15 images: no class has the 16 images that a trial takes."


def test_holm_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        adjusted = np.maximum.accumulate([(6 - rank) * value for rank, value in enumerate(np.sort(p))])
        expected = [bool(adjusted[np.sort(p).tolist().index(value)] <= 0.05) for value in p]
        assert holm(p.tolist(), 0.05) == expected
    assert holm([], 0.05) == []


def test_an_estimate_covers_the_mean():
    rng = np.random.default_rng(0)
    hits = sum(each.low <= 1 <= each.high for each in (estimate(rng.normal(1, 2, 40)) for _ in range(200)))
    assert 170 <= hits <= 200
    assert np.isnan(estimate([]).mean)


def moved(by, sign=1):
    """An outcome whose images' probability moved so far, beyond 0.5 in the controls."""
    start, none = np.full(len(by), 0.5), np.zeros(len(by))
    return Outcome(start, start + sign * np.asarray(by), start, none, sign)


@pytest.mark.parametrize("size", [0.1, 0.3])
def test_the_effect_is_not_the_larger_of_two_without_correction(size):
    """Of two trials on 16 images the larger effect is taken; its interval allows for the choice, and covers the truth."""
    rng = np.random.default_rng(int(100 * size))
    covered = 0
    for _ in range(300):
        take, give = moved(rng.beta(1, 1 / size - 1, 16), -1), moved(rng.beta(1, 1 / size - 1, 16))
        effect = Trial(take, give, ()).effect
        covered += effect.low <= size <= effect.high
        larger = max(take, give, key=lambda each: each.effect.mean)
        assert effect.mean == larger.effect.mean
        assert effect.low <= larger.effect.low < larger.effect.high <= effect.high
    assert covered >= 0.93 * 300
    assert Trial(take, Outcome.none(1), ()).effect == take.effect


def test_an_effect_seen_in_every_image_alike_is_not_certain():
    """All of twelve images, or none: a thirteenth may do something else."""
    assert estimate([1.0] * 12).low < 0.5 < estimate([1.0] * 12).high == 1
    assert estimate([0.0] * 12).low < -0.2
    assert estimate([0.0] * 12).high > 0.2


def test_clusters_are_those_that_were_planted():
    rng = np.random.default_rng(0)
    centres = np.zeros((3, GRID, GRID), np.float32)
    centres[0, :4, :4], centres[1, :4, -4:], centres[2, -4:, 4:12] = 1, 1, 1
    truth = rng.integers(0, 3, 90)
    found = clusters((centres[truth] + rng.random((90, GRID, GRID)) * 0.2).reshape(90, -1).astype(np.float32))
    assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == 3
    assert clusters(rng.random((5, 9)).astype(np.float32)).tolist() == [0] * 5
    assert set(clusters(np.zeros((30, 9), np.float32)).tolist()) <= set(range(3))  # maps without energy: no error


def test_log_odds_equal_their_definition():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    for kind in ("softmax", "sigmoid", "probabilities"):
        said = Scores(logits.softmax(1) if kind == "probabilities" else logits, ClassScores(kind))
        p = said.probabilities()[torch.arange(5), torch.tensor([0, 1, 2, 3, 0])].numpy()
        np.testing.assert_allclose(said.log_odds([0, 1, 2, 3, 0]), np.log(p / (1 - p)))


def test_windows_change_nothing_of_the_filling():
    prober = Prober(network(*HONEST))
    images = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    masks = np.zeros((3, 40, 56), bool)
    masks[0, 3:9, 5:20], masks[1, 0:4, 50:56], masks[2, 10:38, 1:40] = True, True, True
    for image, mask, found in zip(images, masks, prober.covered(list(images), list(masks)), strict=True):
        whole = impute(image[None], torch.from_numpy(mask)[None])[0]
        assert float((whole - found).abs().max()) < 0.01
        assert torch.equal(found[:, ~torch.from_numpy(mask)], image[:, ~torch.from_numpy(mask)])
    everything = np.ones((40, 56), bool)
    assert prober.covered([images[0]], [everything])[0].flatten(1).std(1).max() < 1e-6
    for fill in ("mean", "blur", "zeros"):
        [found] = Prober(network(*HONEST), fill).covered([images[0]], [masks[0]])
        assert torch.equal(found[:, ~torch.from_numpy(masks[0])], images[0][:, ~torch.from_numpy(masks[0])])
    with pytest.raises(OptionError, match="filling"):
        Prober(network(*HONEST), "inpainted")


def test_a_region_is_seen_where_the_input_lies():
    region = np.zeros((100, 200), bool)
    region[10:40, 120:160] = True
    frame = Frame(200, 100, (50.0, -20.0, 190.0, 120.0))  # cropped at the sides, padded above and below
    found = seen(region, frame, (35, 35))
    for i in range(35):
        for j in range(35):
            x, y = int(np.floor(50 + (j + 0.5) * 4)), int(np.floor(-20 + (i + 0.5) * 4))
            assert found[i, j] == (0 <= y < 100 and 0 <= x < 200 and region[y, x])
    share = covered([Object("a", (0.0, 0.0, 50.0, 50.0))], Frame.whole(100, 100))
    assert share[:8, :8].min() == 1
    assert share[9:].max() == 0


def view(name: str, heat: np.ndarray, own: np.ndarray | None = None) -> View:
    colours = np.zeros((GRID, GRID, 3), np.uint8)
    return View(Sample(None, name), Frame.whole(8, 8), "a", 0, heat.astype(np.float32), colours, own, {}, 0.5, order=order_of(name, "a"))


def test_controls_are_as_large_elsewhere_and_off_the_object():
    region, own = np.zeros((2, GRID, GRID), bool)
    region[2:5, 3:8], own[8:, :] = True, True
    marked = view("x", np.ones((GRID, GRID)), own.astype(np.float32))
    found = regions.controls(marked, region, np.random.default_rng(0))
    assert len(found) == regions.CONTROLS
    for each in found:
        assert not (each & region).any()
        assert not (each & own).any()
        assert each.sum() >= region.sum() / 2
    for each in regions.controls(view("x", np.ones((GRID, GRID))), region, np.random.default_rng(0)):
        assert each.sum() == region.sum()


def test_likeness_tells_a_mark_from_things_at_the_same_place():
    rng = np.random.default_rng(0)
    region = np.zeros((GRID, GRID), bool)
    region[:4, :6] = True
    mark = (rng.random((3, 12, 18)) < 0.4).astype(np.float32)
    plain = [torch.from_numpy(rng.normal(0.3, 0.1, (3, 48, 48)).astype(np.float32)) for _ in range(12)]
    stamped = [each.clone() for each in plain]
    for each in stamped:
        each[:, :12, :18] += torch.from_numpy(mark)
    assert regions.likeness(stamped, region) > 0.8 > 0.1 > abs(regions.likeness(plain, region))
    pairs = [np.corrcoef(*(each[0, :12, :18].flatten().numpy() for each in pair))[0, 1] for pair in itertools.pairwise(stamped)]
    one = [each[:1] for each in stamped]
    assert regions.likeness(one, region) == pytest.approx(np.mean(pairs), abs=0.05)


def test_a_sample_of_a_class_hangs_on_names_alone():
    maps = np.ones((GRID, GRID)) / GRID**2
    views = [view(f"image {i}", maps) for i in range(300)]
    kept = []
    for order in (range(300), reversed(range(300))):
        drawer = Drawer(40)
        for i in order:
            drawer.offer(views[i])
        kept.append([each.sample.name for each in drawer.of(0)])
        assert drawer.counts == {0: 300}
    assert kept[0] == kept[1]
    assert len(set(kept[0])) == 40
    assert kept[0] == [each.sample.name for each in sorted(views, key=lambda each: each.order)[:40]]


def test_small_maps_keep_the_energy_where_it_is():
    raw = torch.zeros(64, 48)
    raw[:8, :6] = 2.0
    raw[40:, :] = -1.0
    heat = heat_of(raw)
    assert heat.sum() == pytest.approx(1)
    assert heat[:2, :2].sum() == pytest.approx(1)
    assert heat_of(torch.zeros(7, 7)).sum() == 0
    assert heat_of(torch.rand(7, 7)).sum() == pytest.approx(1)
    assert rim().sum() == GRID**2 - (GRID - 4) ** 2


def test_bad_images_are_listed_and_left_out(tmp_path):
    data = scenes(count=60)
    data[3] = Sample(tmp_path / "gone.png", "gone", ("a",))
    data[5] = replace(data[5], objects=(Object("b", (0.0, 0.0, 500.0, 500.0)),))
    found = lucidcam.audit(network(*HONEST), data, progress=False)
    assert found.images == 58
    assert len(found.problems) == 2
    assert any("outside" in each.error for each in found.problems)
    with pytest.raises(DataError, match="no image could be used"):
        lucidcam.audit(network(*HONEST), [Sample(tmp_path / "gone.png", "gone", ("a",))], progress=False)


def test_without_labels_the_predictions_are_audited():
    data = [replace(each, labels=(), objects=()) for each in scenes(marked=True)]
    found = lucidcam.audit(network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), [each.image for each in data], progress=False)
    assert found.settings["target"] == "predicted"
    assert (found.findings[0].kind, found.findings[0].label) == ("watermark", "a")
    assert not [each for each in found.findings if each.kind in ("confusion", "calibration")]


def test_options_are_checked_before_any_image_is_read():
    model, data = network(*HONEST), [Sample("nowhere.png", "x", ("a",))]
    for options, told in (
        ({"images_per_class": 4}, "images_per_class"),
        ({"min_effect": 2}, "min_effect"),
        ({"fill": "grey"}, "filling"),
        ({"target": "a"}, "target"),
        ({"limit": 0}, "limit"),
        ({"out": __file__}, "is a file"),
        ({"method": "gradcm"}, "gradcam"),
    ):
        with pytest.raises(lucidcam.LucidcamError, match=told):
            lucidcam.audit(model, data, progress=False, **options)


def test_few_images_are_counted_and_nothing_is_claimed():
    found = lucidcam.audit(network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(count=10, marked=True), progress=False)
    assert found.shortcuts == ()
    assert sum(found.tried.values()) == 0
    assert "Nothing can be said" in found.verdict
    assert [row["images"] for row in found.classes] == [5, 5]


def test_the_folder_holds_it_all(tmp_path):
    found = lucidcam.audit(
        network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(marked=True), progress=False, out=tmp_path / "audit"
    )
    document = read(tmp_path / "audit")
    assert [each["kind"] for each in document["findings"]] == [each.kind for each in found.findings]
    first = document["findings"][0]
    assert json.loads(json.dumps(found.to_dict()["findings"][0]["effect"])) == first["effect"]
    left, top, right, bottom = first["regions"][0]
    assert (left, top) == (0, 0)
    assert max(right, bottom) < 0.5
    with Image.open(tmp_path / "audit" / first["picture"]) as sheet:
        assert np.asarray(sheet.convert("L")).std() > 10
    for entry in first["evidence"]:
        assert entry["changes"][0] > entry["changes"][1] + 0.3
        assert all((tmp_path / "audit" / each["file"]).is_file() for each in entry["pictures"])
    with pytest.raises(DataError, match="holds no audit"):
        read(tmp_path)


def test_the_page_is_the_same_from_memory_and_from_the_folder(tmp_path):
    from lucidcam.outputs.html import render
    from lucidcam.reports import page

    found = lucidcam.audit(
        network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(marked=True), progress=False, out=tmp_path / "a"
    )
    one, other = page(found), page(tmp_path / "a")
    assert [each.title for each in one.sections] == [each.title for each in other.sections]
    html = render(other)
    assert found.findings[0].words.split(":")[0] in html
    assert html.count("<img") == render(one).count("<img") >= 12 + 2 * len(found.clusters)
    assert "Kinds of maps" in [each.title for each in one.sections]
    clean = lucidcam.audit(network(*HONEST), scenes(), progress=False)
    assert page(replace(clean, findings=())).lead == replace(clean, findings=()).verdict


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for each in scenes(count=80, marked=True):
        folder = tmp_path / "data" / each.labels[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each.image).save(folder / f"{each.name}.png")
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"no image")
    monkeypatch.setattr("lucidcam.cli.audit.load_model", lambda *_: network({"red": 20.0, "white": 1500.0}, {"green": 60.0}))
    run("audit", "data", "--out", "found", "--report", "found.html")
    told = capsys.readouterr()
    assert "1. watermark" in told.out
    assert "broken.png" in told.err
    assert max(map(len, told.out.splitlines())) <= 80 or "found" in told.out
    assert (tmp_path / "found" / "audit.json").is_file()
    assert "<html" in (tmp_path / "found.html").read_text(encoding="utf-8")
    run("audit", "nowhere", code=2)
    run("audit", "data", "--report", "found.txt", code=2)
    monkeypatch.setattr("lucidcam.cli.audit.load_model", lambda *_: pytest.fail("options are checked before the model is loaded"))
    run("audit", "data", "--fill", "grey", code=2)


@pytest.mark.slow
def test_trained_networks(tmp_path):
    """The planted fault is the first finding, and the clean twin has no shortcut; `examples/audit.py` does ten seeds."""
    from by_example import load

    found = load("audit").main(tmp_path, seeds=[0])
    for (shortcut, rate, _, _), audit in found.items():
        if rate > 0.5:
            assert (audit.findings[0].kind, audit.findings[0].label) == (shortcut, "circle")
        else:
            assert audit.shortcuts == ()
