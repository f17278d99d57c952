"""The examples that learn from image-level labels: what they draw is what they say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from by_example import load

pytest.importorskip("skimage")
pytest.importorskip("cv2")

text = load("text_detector")
parts = load("discover_parts")


def test_nothing_of_the_test_is_in_training():
    assert not set(text.TRAINING.backgrounds) & set(text.UNSEEN.backgrounds)
    assert not set(text.TRAINING.fonts) & set(text.UNSEEN.fonts)
    words = [{text._word(np.random.default_rng(i), held_out).lower() for i in range(300)} for held_out in (False, True)]
    assert not words[0] & words[1]
    assert not set(parts.TRAINING_SHAPES) & set(parts.UNSEEN_SHAPES)


@pytest.mark.parametrize("sources", [text.TRAINING, text.UNSEEN])
def test_half_of_the_images_have_text_and_its_boxes(sources):
    drawn = text.samples(sources, 20, seed=5)
    assert [each.labels for each in drawn] == [("text",), ("no text",)] * 10
    assert all(bool(each.objects) == (each.labels == ("text",)) for each in drawn)
    boxes = np.array([thing.box for each in drawn for thing in each.objects])
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= text.SIZE
    again = text.samples(sources, 20, seed=5)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(drawn, again))


@pytest.mark.parametrize("seed", range(6))
def test_text_lies_in_its_box(seed):
    rng, canvas = np.random.default_rng(seed), Image.new("RGB", (text.SIZE, text.SIZE), (128, 128, 128))
    (box,) = text._stamp(canvas, text._text(rng, text.TRAINING).resize((40, 12)), rng, [])
    changed = (np.asarray(canvas) != 128).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert np.abs(np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) - box).max() <= 1


def test_only_odd_ones_and_beaks_are_marked():
    concepts, birds = parts.concept_samples(24, 3, parts.UNSEEN_SHAPES), parts.bird_samples(24, 3)
    for drawn, classes in ((concepts, parts.CONCEPTS), (birds, parts.SPECIES)):
        assert {label for each in drawn for label in each.labels} == set(classes)
        assert all(len(each.labels) == len(each.objects) <= 1 for each in drawn)
        assert max(parts._area(each) for each in drawn if each.objects) < 0.12
    assert sum(not each.labels for each in concepts) == 12
    assert sum(not each.labels for each in birds) == 6


def test_species_differ_in_their_beaks_only():
    """The same draws with another species: pixels outside both beaks' boxes are the same."""
    for i in range(5):
        one, other = (parts._bird(species, np.random.default_rng([9, i]), i) for species in ("hooked", "cone"))
        differ = (one.image.astype(int) != other.image).any(-1)
        for each in (one, other):
            left, top, right, bottom = map(round, each.objects[0].box)
            differ[top:bottom, left:right] = False
        assert not differ.any()


@pytest.mark.slow
def test_text_is_found_by_a_network_that_was_told_no_box(tmp_path):
    _, report, _ = text.main(tmp_path, train=200, test=40, epochs=2)
    cam = report.row("cam", "pointing_game:tolerance=0").mean
    assert cam > 50
    assert cam > max(report.row(trivial, "pointing_game:tolerance=0").mean for trivial in report.trivial)
    for name in ("generated.png", "photos.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 20
