"""The example of M-CAM runs in small: a network, two memories, figures and a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from by_example import load


@pytest.mark.slow
def test_the_example_in_small(tmp_path):
    report = load("mcam").main(tmp_path, count=400, epochs=2, test=20)
    assert report.methods == ["Grad-CAM", "published", "unbiased"]
    assert all(row.n == 20 and 0 <= row.mean <= 100 for row in report.rows)
    assert {tuple(sorted(report.groups["companion"][method])) for method in report.methods} == {("circle", "square")}
    with Image.open(tmp_path / "mcam.webp") as picture:
        assert picture.width > 7 * 150
        assert np.asarray(picture.convert("L")).std() > 20
