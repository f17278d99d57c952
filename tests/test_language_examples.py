"""The examples about words: what is said of scenes is true, maps are judged rightly, and in small they run as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import by_example
import lucidcam


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name; they import what they share."""
    monkeypatch.syspath_prepend(str(by_example.EXAMPLES))
    return by_example.load


@pytest.fixture(autouse=True)
def draws():
    """Examples seed torch's generator; what comes after them gets the state from before."""
    with torch.random.fork_rng(devices=[]):
        yield


def spread(path) -> float:
    with Image.open(path) as picture:
        return float(np.asarray(picture.convert("L"), np.float32).std())


def thing(box, size=64, label="red square"):
    left, top, right, bottom = box
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return lucidcam.Object(label, tuple(map(float, box)), lambda: mask)


def test_maps_are_judged_by_hand_counted_shares(example):
    shared = example("coloured_scenes")
    square = thing((8, 16, 24, 32))
    energy = np.zeros((64, 64))
    energy[20, 10] = 3.0  # inside
    energy[20, 40] = 1.0  # outside; the centre of mass is at x = (3 · 10.5 + 40.5) / 4 = 18
    energy[50, 50] = -9.0  # does not count
    assert shared.judged(energy, square) == (0.75, 0.75, 1.0)
    assert shared.centre(np.maximum(energy, 0)) == (18.0, 20.5)
    energy[20, 40] = 2.0  # x = 22.5
    energy[20, 60] = 2.0
    assert shared.judged(energy, square) == (3 / 7, 3 / 7, 0.0)
    assert shared.judged(np.zeros((64, 64)), square)[:2] == (0.0, 0.0)
    assert shared.chance([square])["energy in the box"] == pytest.approx(100 * 256 / 4096)


def test_attention_sums_to_a_weighted_mean_per_head(example):
    torch.manual_seed(0)
    features, scores = torch.randn(2, 6, 3, 4), torch.randn(2, 2, 3, 4)
    found = example("coloured_scenes").Attend()(features, scores).sum((2, 3))
    for image in range(2):
        for channel in range(6):
            weights = scores[image, channel // 3].exp() / scores[image, channel // 3].exp().sum()
            torch.testing.assert_close(found[image, channel], (features[image, channel] * weights).sum())


def test_captions_are_true(example):
    captioning = example("captioning")
    upper, lower = thing((10, 2, 20, 12), label="red circle"), thing((14, 40, 24, 50), label="blue square")
    assert captioning.captions(lucidcam.Sample(None, "a", (), (upper, lower))) == (
        "a red circle above a blue square",
        "a blue square below a red circle",
    )
    left, right = thing((0, 20, 10, 30), label="red circle"), thing((50, 4, 60, 14), label="blue square")
    assert captioning.captions(lucidcam.Sample(None, "b", (), (left, right))) == (
        "a red circle left of a blue square",
        "a blue square right of a red circle",
    )


def test_questions_have_one_answer(example):
    module = example("questions")
    for sample in module.common.scenes(60, seed=5, objects=3):
        asked = module.questions(sample)
        assert asked
        for each in asked:
            words = each.text.removesuffix("?").split()
            fitting = [one for one in sample.objects if set(one.label.split()) & set(words)]
            assert fitting == [each.about]
            assert each.answer in each.about.label.split()
            assert each.answer not in words


def test_scenes_of_training_and_test_differ(example):
    shared = example("coloured_scenes")
    one, other = (shared.scenes(5, seed, 2) for seed in (shared.TRAINING, shared.UNSEEN))
    assert not any(np.array_equal(a.image, b.image) for a in one for b in other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captioning", "questions", "prompts"])
def test_in_small(name, example, tmp_path):
    """It runs, and the same seed gives the same figures."""
    module = example(name)
    small = {"count": 64, "test_count": 20, "epochs": 1}
    figures, path = module.main(tmp_path / "a", **small)
    assert spread(path) > 10
    chance = figures.pop("the same everywhere")
    assert 0 < chance["energy on the shape"] < chance["energy in the box"] < 15
    assert all(0 <= value <= 100 for each in figures.values() for value in each.values())
    again, _ = module.main(tmp_path / "b", **small)
    again.pop("the same everywhere")
    assert again == figures


def test_a_words_map_is_that_words(example):
    """Grad-CAM of word i at its own look: channels weighted by the mean gradient of log p(word i) there; written out with autograd."""
    module = example("captioning")
    samples = module.common.scenes(64, 3, 2)
    network, vocabulary = module.learn(samples, epochs=1)
    text = module.caption(*samples[0].objects)
    ids = torch.tensor([vocabulary.ids(f"{module.START} {text}")])
    for word in module.shape_words(text):
        kept = []
        hook = network.attend.register_forward_hook(lambda layer, given, out: kept.append(out))
        logits = network(module.common.pixels(samples[:1]), ids)
        hook.remove()
        (gradient,) = torch.autograd.grad(logits[0, word].log_softmax(-1)[ids[0, word + 1]], kept[word])
        expected = (gradient.mean((2, 3), keepdim=True) * kept[word]).sum(1).relu()[0].detach()
        found = module.explained(module.as_model(network, vocabulary), samples[0], text, word, "gradcam", "attend")
        assert found.label == text.split()[word]
        torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-8)
        assert expected.max() > 0


@pytest.mark.slow
def test_the_map_moves_with_the_question(example, tmp_path):
    figures, _ = example("questions").main(tmp_path, test_count=100)
    assert figures["gradcam, attend"]["energy in the box"] > 60
    assert figures["gradcam, attend"]["centre in the box"] > 90
