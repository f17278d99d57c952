"""The examples that learn from image-level labels: what they draw is what they say, and networks find what tells the classes apart."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"

pytest.importorskip("skimage")
pytest.importorskip("cv2")
if importlib.util.find_spec("lightning") is None:  # importing it here would import torchvision, which may not load
    pytest.skip("training needs the extra 'train'", allow_module_level=True)


def example(name: str):
    """Import an example by its path."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


text = example("text_detector")
parts = example("discover_parts")


@pytest.fixture
def two_threads():
    """As many as the time limits are meant for."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def spread(path: Path) -> float:
    with Image.open(path) as picture:
        return float(np.asarray(picture.convert("L"), np.float32).std())


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
    concepts = parts.concept_samples(24, 3, parts.UNSEEN_SHAPES)
    assert {each.labels[0] for each in concepts} == set(parts.CONCEPTS)
    assert all(bool(each.objects) == (each.labels[0] in ("broken pattern", "lonely one")) for each in concepts)
    birds = parts.bird_samples(24, 3)
    assert {each.labels[0] for each in birds} == set(parts.SPECIES)
    assert all(len(each.objects) == 1 for each in birds)
    assert max(parts._area(each) for each in (*birds, *(each for each in concepts if each.objects))) < 0.12


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
@pytest.mark.usefixtures("two_threads")
def test_text_detector(tmp_path, capsys):
    """With a third of the images and steps: far better than chance, on backgrounds, fonts and words that were never seen."""
    _, report, right = text.main(tmp_path, train=560, test=60, epochs=8)
    figures = {(row.method, row.metric): row.mean for row in report.rows}
    assert right > 65
    assert figures["cam", "pointing_game:tolerance=0"] > 2 * figures["random", "pointing_game:tolerance=0"]
    assert figures["cam", "energy_pointing_game"] > figures["random", "energy_pointing_game"]
    assert spread(tmp_path / "generated.png") > 10
    assert spread(tmp_path / "photos.png") > 10
    assert "evidence for text in photos" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_birds_are_told_by_their_beaks(tmp_path):
    """With half of the images: what speaks most for a species is its beak."""
    _, found, _ = parts.study(tmp_path, parts.bird_samples(600, 1), parts.bird_samples(60, 2), epochs=10, top=10)
    assert [each.label for each in found] == list(parts.SPECIES)
    assert sum(each.hits for each in found) > 0.6 * sum(each.regions for each in found)
    assert max(each.chance for each in found) < 15
    assert spread(tmp_path / "overview.png") > 10
