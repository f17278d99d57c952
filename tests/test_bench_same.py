"""The comparison of results before and after a change of the code."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def same():
    spec = importlib.util.spec_from_file_location("same", ROOT / "bench" / "same.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compared(same, tmp_path, before, after):
    for name, results in (("before", before), ("after", after)):
        np.savez(tmp_path / f"{name}.npz", **{key.replace("/", "\\"): value for key, value in results.items()})
    return same.compare(argparse.Namespace(before=tmp_path / "before.npz", after=tmp_path / "after.npz"))


MAP, BOX = "explain/demo/gradcam/map/0", "explain/demo/gradcam/boxes/0"
BEFORE = {MAP: np.array([[0.5, np.nan], [2.0, 3.0]]), BOX: np.array([1.0, 2.0, 3.0, 4.0])}


@pytest.mark.parametrize(
    ("changes", "status", "line"),
    [
        ({}, 0, "| explain / demo / map | 1 | 1 | 0 |"),
        ({MAP: BEFORE[MAP] + 1e-9}, 0, "| explain / demo / map | 1 | 0 |"),
        ({MAP: BEFORE[MAP] + 1e-3}, 1, "gradcam/map/0: differs by 0.000333"),
        ({BOX: BEFORE[BOX][:2]}, 1, "gradcam/boxes/0: shapes (4,) and (2,)"),
        ({MAP: np.nan_to_num(BEFORE[MAP])}, 1, "gradcam/map/0: differs"),
        ({"run/demo/maps": np.zeros(1)}, 1, "only on one side: run/demo/maps"),
    ],
    ids=["equal", "rounding", "other values", "other shape", "a value for none", "more results"],
)
def test_differences_are_told(same, tmp_path, capsys, changes, status, line):
    assert compared(same, tmp_path, BEFORE, BEFORE | changes) == status
    printed = capsys.readouterr()
    assert line in printed.out + printed.err


def test_photos_without_data(same, tmp_path):
    paths = same.photos(None, 5, tmp_path)
    assert len({path.read_bytes() for path in paths}) == 5
