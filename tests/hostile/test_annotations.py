"""Annotations of anyone's: what they declare is bounded before anything is made of it, and what is odd is one line."""

import json
import resource
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lucidcam.data import open_data
from lucidcam.data._files import LARGEST_YAML, read_json, read_yaml
from lucidcam.data.coco import unpack
from lucidcam.errors import DataError, LucidcamError
from lucidcam.io.storage import parsed_json
from lucidcam.samples import Sample


def coco(folder, **changes):
    """A set of one photo of 40 × 30 pixels with one object, whose entries are changed."""
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "a.png")
    image = {"id": 1, "file_name": "a.png", **changes.pop("image", {})}
    thing = {"id": 1, "image_id": 1, "category_id": 1, **changes}
    (folder / "annotations.json").write_text(
        json.dumps({"images": [image], "annotations": [thing], "categories": [{"id": 1, "name": "cat"}]})
    )
    return folder / "annotations.json"


HUGE = {
    "counts": {"segmentation": {"counts": [10**10], "size": [10**5, 10**5]}},
    "many counts": {"segmentation": {"counts": [0, 10**18], "size": [10**9, 10**9]}},
    "float counts": {"segmentation": {"counts": [1e10], "size": [1e5, 1e5]}},
    "negative size": {"segmentation": {"counts": [100], "size": [-10, -10]}},
    "true size": {"segmentation": {"counts": [1], "size": [True, True]}},
    "endless number": {"segmentation": {"counts": "o" * 1_000_000, "size": [30, 40]}},
    "declared, polygon": {"image": {"width": 10**9, "height": 10}, "segmentation": [[1, 1, 9, 1, 9, 9]]},
    "declared, crowd": {"image": {"width": 10**5, "height": 10**5}, "bbox": [1, 1, 5, 5], "iscrowd": 1},
    "box": {"bbox": [0, 0, 1e308, 1e308]},
    "negative box": {"bbox": [5, 5, -3, -3]},
    "infinite box": {"bbox": [0, 0, float("inf"), float("nan")]},
    "far polygon": {"segmentation": [[1e300, 1, 9, 1e300, 9, 9]]},
}


@pytest.mark.parametrize("case", HUGE)
def test_what_is_declared_is_not_made(tmp_path, case):
    path = coco(tmp_path, **HUGE[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        for each in open_data(path):
            assert "\n" not in (each.error if not isinstance(each, Sample) else "")
            if isinstance(each, Sample):
                problem = ""
                try:
                    fitted = each.fitted(40, 30)
                    masks = [fitted.ignore, *(thing.mask for thing in fitted.objects)]
                    assert all(mask().shape == (30, 40) for mask in masks if mask is not None)
                except LucidcamError as error:
                    problem = str(error)
                assert "\n" not in problem
        assert tracemalloc.get_traced_memory()[1] < 250e6
    finally:
        tracemalloc.stop()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400


DEEP = {
    "lists": "[" * 200_000,
    "closed lists": "[" * 200_000 + "]" * 200_000,
    "objects": '{"a":' * 100_000,
    "digits": "9" * 5_000,
    "negative digits": "[-" + "9" * 5_000 + "]",
    "cut off": '{"a": [1, 2',
    "text": "no json at all",
    "empty": "",
}


@pytest.mark.parametrize("case", DEEP)
def test_json_is_one_line_or_parsed(tmp_path, case):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        parsed_json(DEEP[case])
    (tmp_path / "annotations.json").write_text(DEEP[case])
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "annotations.json")
    assert "\n" not in str(caught.value)
    (tmp_path / "a.jsonl").write_text('{"image": "a.png"}\n' + DEEP[case] + "\n")
    problems = [each.error for each in open_data(tmp_path / "a.jsonl") if not isinstance(each, Sample)]
    assert all("\n" not in each for each in problems)
    assert any("no JSON" in each for each in problems) or case == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "a: " * 3_000,
        "&a [" * 5_000,
        "#" * (LARGEST_YAML + 1),
        "? " * 20_000,
        "{" * 20_000,
        "- " * 20_000,
        "\t",
        "%YAML 9.9\n---\n",
    ],
    ids=["lists", "keys", "anchors", "comment", "questions", "mappings", "dashes", "tab", "version"],
)
def test_yaml_is_one_line_or_parsed(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    try:
        read_yaml(tmp_path / "data.yaml", "a test")
        problem = ""
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem


def test_run_lengths_that_are_numbers_are_unpacked():
    assert unpack("0480") == [0, 4, 8, 4]
    with pytest.raises(ValueError, match="damaged"):
        unpack("o" * 100)
