"""The example of attention methods runs in small; what it judges and draws is there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from by_example import load


@pytest.mark.slow
def test_the_example_finds_the_colour_that_is_asked_for(tmp_path):
    report = load("attention").main(tmp_path, count=1500, epochs=5, test=40)
    own = {method: report.row(method, "companion").mean for method in ("rollout", "attention_relevance", "legrad")}
    assert own["attention_relevance"] > 85
    assert own["legrad"] > 85
    assert 25 < own["rollout"] < 75  # the same map for either colour
    for method in own:
        with Image.open(tmp_path / f"{method}.webp") as picture:
            assert np.asarray(picture.convert("L")).std() > 10
