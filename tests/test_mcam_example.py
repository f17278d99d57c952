"""The example of M-CAM runs in small: a network, two memories, figures and a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parent.parent / "examples" / "mcam.py"

if importlib.util.find_spec("lightning") is None:  # importing it here would import torchvision, which may not load
    pytest.skip("training needs the extra 'train'", allow_module_level=True)


@pytest.mark.slow
def test_the_example_in_small(tmp_path):
    spec = importlib.util.spec_from_file_location("mcam_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.main(tmp_path, count=400, epochs=2, test=20)
    assert report.methods == ["Grad-CAM", "published", "unbiased"]
    assert all(row.n == 20 and 0 <= row.mean <= 100 for row in report.rows)
    assert {tuple(sorted(report.groups["companion"][method])) for method in report.methods} == {("circle", "square")}
    with Image.open(tmp_path / "mcam.webp") as picture:
        assert picture.width > 7 * 150
        assert np.asarray(picture.convert("L")).std() > 20
