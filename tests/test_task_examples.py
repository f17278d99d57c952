"""The examples of policies, detectors and segmenters: their games and truths are right, they run, and what they claim holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from by_example import load


@pytest.fixture
def policy():
    pytest.importorskip("stable_baselines3")
    return load("policy")


def follow(game):
    """Go where the ball falls."""
    column = game.falling[0][2]
    return 0 if column == game.paddle else 1 if column < game.paddle else 2


def test_catch_is_a_game_of_its_seed(policy):
    """Who follows the ball catches all ten; who stays does not; what is seen is what is there."""
    game = policy.Catch()
    moments, returns = policy.play(game, lambda screen: follow(game), 3, seed=0)
    assert returns == [10.0] * 3
    assert policy.play(policy.Catch(), lambda screen: 0, 3, seed=0)[1] != returns
    again, _ = policy.play(other := policy.Catch(), lambda screen: follow(other), 3, seed=0)
    assert all(np.array_equal(np.array(one.screen), np.array(two.screen)) for one, two in zip(moments, again, strict=True))
    for each in moments[:40]:
        lit = np.array(each.screen).any(-1)
        assert np.array_equal(lit, each.mask(list(game.colours)))
        assert each.cells["ball"].sum() == 1
        assert each.cells["paddle"].sum() == 3
        assert not (each.mask(game.matters) & each.mask([kind for kind in game.colours if kind not in game.matters])).any()


def test_breakout_is_seen_as_it_is(policy):
    pytest.importorskip("minatar")
    game = policy.Breakout()
    screen, _ = game.reset(seed=0)
    assert game.where()["brick"].sum() == 30
    covered = game.where()["brick"] & (game.where()["ball"] | game.where()["trail"])  # the ball starts in front of one
    seen = (screen.transpose(1, 2, 0) == policy.Breakout.colours["brick"]).all(-1)
    assert np.array_equal(seen, game.where()["brick"] & ~covered)
    before = np.argwhere(game.where()["paddle"])[0]
    game.step(2)
    assert np.argwhere(game.where()["paddle"])[0].tolist() == [before[0], before[1] + 1]


def test_energy_of_a_policys_maps(policy):
    """A map on the ball alone lies on what matters; one of what means nothing does not; an even one gives the areas."""
    game = policy.Catch()
    moments, _ = policy.play(game, lambda screen: follow(game), 1, seed=0)
    on_ball = policy.shares([each.mask(["ball"]).astype(float) for each in moments], moments, policy.Catch)
    assert on_ball == pytest.approx({"what matters": 100, "other objects": 0, "black cells": 0})
    decoys = [kind for kind in game.colours if kind.endswith("decoy")]
    assert policy.shares([each.mask(decoys).astype(float) for each in moments], moments, policy.Catch)["what matters"] == 0
    even = policy.shares([np.ones((10, 10))] * len(moments), moments, policy.Catch)
    assert even["what matters"] == pytest.approx(100 * np.mean([each.mask(policy.Catch.matters).mean() for each in moments]))
    assert sum(even.values()) == pytest.approx(100)


@pytest.mark.slow
def test_policy_runs(policy, tmp_path, capsys):
    """One update of the network, all that follows from it, and a film that moves."""
    figures, path = policy.main(tmp_path, steps=2048, episodes=1, count=6, methods=("hirescam", "occlusion"))
    assert set(figures["return"]) == {"learnt", "at random"}
    assert {"chance", "hirescam", "hirescam, untrained", "occlusion"} <= set(figures)
    assert figures["chance"]["what matters"] < 5
    assert figures["hirescam"]["black cells"] == pytest.approx(0, abs=1e-3)  # no bias: nothing is seen where nothing is
    assert path.stat().st_size < 500_000
    with Image.open(path) as film:
        assert film.n_frames > 10
        frames = []
        for i in (0, film.n_frames - 1):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB"), np.float32))
    assert np.abs(frames[0] - frames[1]).mean() > 1


@pytest.mark.slow
def test_policy_learns_and_looks_at_what_matters(policy, tmp_path):
    figures, _ = policy.main(tmp_path, steps=60_000, episodes=4, count=80, methods=("hirescam",))
    assert figures["return"]["learnt"] > figures["return"]["at random"] + 5
    assert figures["hirescam"]["what matters"] > 60
    assert figures["hirescam, untrained"]["what matters"] < figures["hirescam"]["what matters"] - 10
    assert figures["chance"]["what matters"] < 5
    moved = figures["move changed without"]
    assert moved["ball"] > 3 * max(value for kind, value in moved.items() if kind.endswith("decoy"))


@pytest.fixture(scope="module")
def tasks():
    return load("detect_and_segment")


def test_scenes_have_twins_and_truth(tasks):
    drawn = tasks.scenes(40, 3)
    assert len(drawn) == 40
    assert 0 < sum(any(map(each.twin, each.things)) for each in drawn) < 30
    for scene in drawn:
        for thing in scene.things:
            left, top, right, bottom = map(int, thing.box)
            assert thing.mask[top:bottom, left:right].sum() == thing.mask.sum() > 0
    (truth,) = tasks.classes_of(drawn[0])
    assert all((truth[torch.from_numpy(each.mask)] == 1 + each.label).all() for each in drawn[0].things)
    assert (truth > 0).sum() == sum(each.mask.sum() for each in drawn[0].things)


def test_the_detector_says_what_it_is_told(tasks, monkeypatch):
    """What is trained to be true is read back as the true boxes and classes."""
    net = tasks.Detector()
    for scene in tasks.scenes(30, 4):
        bumps, sides = tasks.peaks_of(scene)
        monkeypatch.setattr(net, "dense", lambda x, bumps=bumps, sides=sides: (torch.logit(bumps[None], eps=1e-6), sides[None]))
        (found,) = net(torch.zeros(1, 3, 64, 64))
        sure = found["scores"] > 0.99
        said = sorted((label, *map(round, box)) for label, box in zip(found["labels"][sure].tolist(), found["boxes"][sure].tolist()))
        assert said == sorted((each.label, *map(round, each.box)) for each in scene.things)


def test_energy_of_a_scenes_maps(tasks):
    scene = next(each for each in tasks.scenes(20, 5) if len(each.things) == 3)
    one, other, _ = scene.things
    assert tasks.energy(one.mask.astype(np.float32), scene, one) == pytest.approx((1, 1, 0))
    assert tasks.energy(other.mask.astype(np.float32), scene, one) == pytest.approx((0, 0, 1))
    assert tasks.energy(np.zeros((64, 64), np.float32), scene, one) == (0, 0, 0)
    even = tasks.energies([(scene, [tasks.Question(each, None) for each in scene.things])], tasks.flat)
    assert even["on the object"] == pytest.approx(np.mean([each.mask.mean() for each in scene.things]))


def test_untrained_networks_are_asked_the_same(tasks):
    """Each cell of an untrained detector is a detection, so that each box finds one; and networks that take turns share the scenes."""
    nets = tasks.untrained(tasks.Detector)
    assert len({float(net.peaks.weight.detach().sum()) for net in nets}) == tasks.UNTRAINED == len(nets)
    scene = next(each for each in tasks.scenes(20, 5) if len(each.things) == 3)
    with torch.inference_mode():
        (found,) = nets[0](tasks.prepare(scene.pixels)[None])
    assert len(found["boxes"]) == 4 * 16 * 16
    asked = [tasks.Question(each, tasks.Detection(each.box, each.label)) for each in scene.things]
    for question in asked:
        own = found["boxes"][found["labels"] == question.thing.label]
        assert max(tasks.iou(box, question.thing.box) for box in own.tolist()) > 0.5
    turns = tasks.maps_of([tasks.model_of(net, "trunk.wide.1") for net in nets[:2]], "hirescam")
    first, second, third = (turns(scene, asked) for _ in range(3))
    assert all(np.array_equal(one, other) for one, other in zip(first, third, strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_detect_and_segment(tasks, tmp_path):
    """With less training than by default: maps lie on the object that is asked about, also where another is of the same shape.

    And because of what was learnt: untrained networks that are asked the same at the same layer are far from it.
    """
    asked = {name: each[:1] for name, each in tasks.ASKED.items()}
    figures, path = tasks.main(tmp_path, count=600, test_count=40, epochs=(8, 7), asked=asked)
    assert figures["detector"]["found"] > 0.8
    assert figures["segmenter"]["found"] > 0.75
    assert figures["chance"]["in its box"] < 0.15
    for name, [(layer, method)] in asked.items():
        found, before = (figures[f"{name}, {layer}, {method}{note}"] for note in ("", ", untrained"))
        for where in ("on the object", "on the object, of twins"):
            assert found[where] >= before[where] + 0.3
        assert found["on other objects"] < figures["chance"]["on other objects"]
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L"), np.float32).std() > 10
