"""Runs over data sets: the same maps as one by one, nothing lost or done twice, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import commands
import lucidcam
import runs
from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import HALF, Folder, open_store
from lucidcam.localization import localize
from lucidcam.pipeline.hands import Hands
from lucidcam.pipeline.memory_budget import bytes_of
from lucidcam.registry import exporters, packs
from lucidcam.samples import Object, Sample

QUIET: dict[str, Any] = {"progress": False}


def folder_of(tmp_path: Path, count: int, bad: int | None = None) -> Path:
    root = tmp_path / "photos"
    for i, image in enumerate(runs.images(count)):
        path = root / runs.LABELS[i % 3] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i == bad:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(image).save(path)
    return root


def test_maps_and_rows_are_those_of_explain(tmp_path: Path) -> None:
    model, images = runs.colours(), runs.images(23)
    results = lucidcam.run(model, images, tmp_path / "out", unit=7, images_at_once=3, optimized=False, **QUIET)
    expected = lucidcam.explain(model, images)
    rows, maps = list(results.rows()), list(results.maps())
    assert len(results) == len(rows) == len(maps) == 23
    for i, (row, made, one) in enumerate(zip(rows, maps, expected, strict=True)):
        assert np.array_equal(made, one.raw.numpy())
        assert (row["sample"], row["image"], row["label"], row["target"]) == (i, f"image {i}", one.label, one.target)
        assert row["box"] == list(one.boxes(0.2)[0])
        assert row["score"] == pytest.approx(one.score, rel=1e-6)
        assert row["probability"] == pytest.approx(one.probability, rel=1e-6)
        assert (row["width"], row["height"]) == (50, 40)
    assert np.array_equal(results.map(9), maps[9])
    assert results.index().num_rows == 23


def test_statistics_against_loops(tmp_path: Path) -> None:
    model, [image] = runs.colours(), runs.images(1)
    sample = Sample(image, "one", ("red",), (Object("red", (5.0, 5.0, 20.0, 20.0)), Object("red", (10.0, 10.0, 30.0, 25.0))))
    [row] = lucidcam.run(model, [sample], tmp_path / "out", target="label", **QUIET).rows()
    [one] = lucidcam.explain(model, [image], target="red")
    whole = one.map.astype(np.float64)
    total = inside = inner = across = down = 0.0
    left, top, right, bottom = row["box"]
    for y in range(40):
        for x in range(50):
            value = max(whole[y, x], 0.0)
            total += value
            across += value * (x + 0.5)
            down += value * (y + 0.5)
            inner += value if left <= x < right and top <= y < bottom else 0
            inside += value if (5 <= x < 20 and 5 <= y < 20) or (10 <= x < 30 and 10 <= y < 25) else 0
    assert row["energy"] == pytest.approx(total / whole.size, rel=1e-5)
    assert row["negative"] == pytest.approx(np.minimum(whole, 0).mean(), abs=1e-9)
    assert row["box_energy"] == pytest.approx(inner / total, rel=1e-5)
    assert row["inside"] == pytest.approx(inside / total, rel=1e-5)
    assert (row["centre_x"], row["centre_y"]) == pytest.approx((across / total, down / total), rel=1e-5)
    assert row["peak"] == pytest.approx(whole.max(), rel=1e-6)
    assert whole[row["peak_y"], row["peak_x"]] == whole.max()
    assert row["area"] == pytest.approx((one.heatmap >= 0.2).mean())


def test_targets_labels_and_several_maps_an_image(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 9)
    by_label = list(lucidcam.run(runs.colours(), root, tmp_path / "label", **QUIET).rows())
    assert [row["label"] for row in by_label] == [Path(row["image"]).parent.name for row in by_label]
    two = list(lucidcam.run(runs.colours(), root, tmp_path / "two", target=["red", "blue"], **QUIET).rows())
    assert [row["label"] for row in two] == ["red", "blue"] * 9
    assert [row["sample"] for row in two] == [i for i in range(9) for _ in range(2)]


def test_an_all_negative_map_has_no_box(tmp_path: Path) -> None:
    black = np.zeros((40, 50, 3), np.uint8)
    [row] = lucidcam.run(runs.colours(), [black], tmp_path / "out", target="red", **QUIET).rows()
    assert row["box"] is None
    assert row["peak_x"] is None
    assert row["area"] == 0


@pytest.mark.parametrize("name", ["npz", "zarr"])
def test_maps_of_different_sizes(tmp_path: Path, name: str) -> None:
    images = [*runs.images(3), np.full((64, 100, 3), 90, np.uint8)]
    model = lucidcam.wrap(
        runs.Colours(), lucidcam.imaging.preprocess.Preprocess(size=(32, 32), resize=32, fit="whole"), runs.LABELS, layer="seen"
    )
    results = lucidcam.run(model, images, tmp_path / "out", write=name, unit=4, optimized=False, **QUIET)
    for made, one in zip(results.maps(), lucidcam.explain(model, images), strict=True):
        assert np.array_equal(made, one.raw.numpy())


def test_pictures(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 4)
    results = lucidcam.run(runs.colours(), root, tmp_path / "out", write=["png"], unit=4, optimized=False, **QUIET)
    with tarfile.open(tmp_path / "out" / "pictures" / "000000.tar") as tar:
        members = tar.getmembers()
        assert members[0].name == "000000000-002-blue.png"
        with Image.open(tar.extractfile(members[0])) as picture:
            [one] = lucidcam.explain(runs.colours(), root / "blue" / "002.png", target="blue")
            assert np.array_equal(np.asarray(picture), np.asarray(one.overlay()))
    with pytest.raises(DataError, match="keeps no maps"):
        results.map(0)


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "masks"])
def test_labels_are_those_of_localize(tmp_path: Path, name: str) -> None:
    root = folder_of(tmp_path, 7)
    lucidcam.run(runs.colours(), root, tmp_path / "out", write=name, unit=3, optimized=False, **QUIET)
    with exporters[name](tmp_path / "one" / name) as exporter:
        for labels in localize(runs.colours(), root, target="label"):
            exporter.write(labels)
    made, expected = runs.digests(tmp_path / "out" / name), runs.digests(tmp_path / "one" / name)
    differs = {each for each in expected if made.get(each) != expected[each]} | (made.keys() - expected.keys())
    assert differs <= {"data.yaml"}  # which holds the folder's own path
    assert len(expected) > 0


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 12, bad=4)
    results = lucidcam.run(runs.colours(), root, tmp_path / "out", unit=5, **QUIET)
    [failure] = results.failures()
    assert failure["image"].endswith("004.png")
    assert "not an image" in failure["error"]
    assert results.manifest["images"] == 11
    assert failure["sample"] not in {row["sample"] for row in results.rows()}


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no image could be used"):
        lucidcam.run(runs.colours(), [tmp_path / "bad.png"], tmp_path / "out", **QUIET)


def test_a_second_call_does_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path, 6)
    lucidcam.run(runs.colours(), root, tmp_path / "out", unit=2, optimized=False, **QUIET)
    before = runs.digests(tmp_path / "out")
    (tmp_path / "out" / "units" / "000001.json").unlink()
    asked: list[Any] = []
    real = lucidcam.io.images.read
    monkeypatch.setattr(lucidcam.io.images, "read", lambda source, *rest: asked.append(source) or real(source, *rest))
    lucidcam.run(runs.colours(), root, tmp_path / "out", unit=2, optimized=False, **QUIET)
    assert len(asked) == 2  # the one unit that had no record
    assert runs.digests(tmp_path / "out") == before


def test_other_settings_and_other_data_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 6)
    lucidcam.run(runs.colours(), root, tmp_path / "out", unit=2, **QUIET)
    with pytest.raises(OptionError, match="method"):
        lucidcam.run(runs.colours(), root, tmp_path / "out", unit=2, method="layercam", **QUIET)
    Image.fromarray(runs.images(1)[0]).resize((60, 60)).save(root / "red" / "000.png")
    with pytest.raises(DataError, match="data changed"):
        lucidcam.run(runs.colours(), root, tmp_path / "out", unit=2, **QUIET)
    again = lucidcam.run(runs.colours(), root, tmp_path / "out", unit=3, method="layercam", restart=True, **QUIET)
    assert again.manifest["settings"]["method"]["name"] == "layercam"
    assert sorted(each.name for each in (tmp_path / "out" / "maps").iterdir()) == ["000000.npz", "000001.npz"]


def test_half_a_record_counts_as_none(tmp_path: Path) -> None:
    lucidcam.run(runs.colours(), runs.images(4), tmp_path / "out", unit=2, **QUIET)
    before = runs.digests(tmp_path / "out")
    record = tmp_path / "out" / "units" / "000000.json"
    record.write_text(record.read_text()[:20])
    (tmp_path / "out" / "maps" / "000000.npz.0123456789ab.tmp").write_bytes(b"half")
    lucidcam.run(runs.colours(), runs.images(4), tmp_path / "out", unit=2, **QUIET)
    assert runs.digests(tmp_path / "out") == before


def test_a_folder_anywhere(tmp_path: Path) -> None:
    images = runs.images(5)
    here = lucidcam.run(runs.colours(), images, tmp_path / "out", write=("npz", "zarr"), unit=2, **QUIET)
    there = lucidcam.run(runs.colours(), images, "memory://bucket/run", write=("npz", "zarr"), unit=2, **QUIET)
    assert list(there.rows()) == list(here.rows())
    names = list(there.store.names())
    assert names == list(here.store.names())
    assert all(there.store.read(name) == here.store.read(name) for name in names)
    with pytest.raises(OptionError, match="memory of one process"):
        lucidcam.run(runs.colours(), images, "memory://bucket/other", workers=2, **QUIET)
    with pytest.raises(OptionError, match="folder of this machine"):
        lucidcam.run(runs.colours(), images, "memory://bucket/other", write="coco", **QUIET)


def test_a_cache_spares_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path, 6, bad=2)
    kept = {**QUIET, "optimized": False, "cache": tmp_path / "cache"}
    first = lucidcam.run(runs.colours(), root, tmp_path / "one", **kept)

    read = lucidcam.io.images.read

    def unreadable(source: Any, *window: Any) -> Any:
        if isinstance(source, np.ndarray):  # of noise, to see whether the model or the file is at fault
            return read(source, *window)
        raise AssertionError("read again")

    monkeypatch.setattr(lucidcam.io.images, "read", unreadable)
    second = lucidcam.run(runs.colours(), root, tmp_path / "two", **kept)
    assert list(second.rows()) == list(first.rows())
    assert [each["sample"] for each in second.failures()] == [each["sample"] for each in first.failures()]
    assert "read again" in second.failures()[0]["error"]  # what failed is tried again
    assert lucidcam.run(runs.colours(), root, tmp_path / "three", method="layercam", **kept).manifest["images"] == 5


def test_activations_are_recalled(tmp_path: Path) -> None:
    """A second method runs the layers below for one image of each batch alone, and makes the same files."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )
    model = lucidcam.wrap(net.eval(), runs.colours().preprocess, runs.LABELS)
    seen: list[int] = []
    asked = {**QUIET, "optimized": False, "images_at_once": 4}
    plain = lucidcam.run(model, runs.images(12), tmp_path / "plain", method="layercam", **asked)
    net[0].register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    lucidcam.run(model, runs.images(12), tmp_path / "first", method="gradcam", cache=tmp_path / "cache", **asked)
    seen.clear()
    lucidcam.run(model, runs.images(12), tmp_path / "second", method="layercam", cache=tmp_path / "cache", **asked)
    assert seen == [4, 1, 1]  # the first batch is computed all the same, and compared
    assert all(np.array_equal(a, b) for a, b in zip(plain.maps(), lucidcam.Results(tmp_path / "second").maps(), strict=True))
    with torch.no_grad():
        net[0].weight += 1
    seen.clear()
    lucidcam.run(model, runs.images(12), tmp_path / "third", method="layercam", cache=tmp_path / "cache", **asked)
    assert [images for images in seen if images > 2] == [4, 4, 4]  # other weights: nothing is known of them


def test_activations_are_not_recalled_where_branches_meet(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = torch.nn.Conv2d(3, 3, 3), torch.nn.Conv2d(3, 3, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.left(images), self.right(images)], 1).mean((2, 3))[:, ::2]

    model = lucidcam.wrap(Branches(), runs.colours().preprocess, runs.LABELS, layer="left")
    asked = {**QUIET, "optimized": False, "cache": tmp_path / "cache"}
    first = lucidcam.run(model, runs.images(6), tmp_path / "one", **asked)
    second = lucidcam.run(model, runs.images(6), tmp_path / "two", method="layercam", **asked)
    for results, method in ((first, "gradcam"), (second, "layercam")):
        for made, one in zip(results.maps(), lucidcam.explain(model, runs.images(6), method, images_at_once=8), strict=True):
            assert np.array_equal(made, one.raw.numpy())


def test_activations_are_not_recalled_where_an_image_passes_by(tmp_path: Path) -> None:
    """A branch around the layer carries the image itself; equal images in the first batch must not hide it."""

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images + self.branch(images)).mean((2, 3))

    model = lucidcam.wrap(Around(), runs.colours().preprocess, runs.LABELS, layer="branch")
    images = [np.zeros((40, 50, 3), np.uint8)] * 3 + runs.images(6)
    asked = {**QUIET, "optimized": False, "cache": tmp_path / "cache", "images_at_once": 3}
    lucidcam.run(model, images, tmp_path / "one", **asked)
    second = lucidcam.run(model, images, tmp_path / "two", method="layercam", **asked)
    for row, one in zip(second.rows(), lucidcam.explain(model, images, "layercam"), strict=True):
        assert row["score"] == pytest.approx(one.score, rel=1e-5, abs=1e-7)


def test_networks_of_equal_weights_share_nothing(tmp_path: Path) -> None:
    def net(activation: torch.nn.Module) -> lucidcam.Model:
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 4, 3), activation, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
        return lucidcam.wrap(torch.nn.Sequential(*layers), runs.colours().preprocess, runs.LABELS, layer="1")

    asked = {**QUIET, "optimized": False, "cache": tmp_path / "cache"}
    lucidcam.run(net(torch.nn.ReLU()), runs.images(4), tmp_path / "one", **asked)
    other = lucidcam.run(net(torch.nn.Tanh()), runs.images(4), tmp_path / "two", **asked)
    for made, one in zip(other.maps(), lucidcam.explain(net(torch.nn.Tanh()), runs.images(4)), strict=True):
        assert np.array_equal(made, one.raw.numpy())
    with pytest.raises(OptionError, match="model"):
        lucidcam.run(net(torch.nn.Tanh()), runs.images(4), tmp_path / "one", **asked)


def test_a_function_as_preprocessing_goes_on(tmp_path: Path) -> None:
    def model() -> lucidcam.Model:
        def to_tensor(image: Image.Image) -> torch.Tensor:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

        return lucidcam.wrap(runs.Colours(), to_tensor, runs.LABELS, layer="seen")

    lucidcam.run(model(), runs.images(2), tmp_path / "out", **QUIET)
    assert lucidcam.run(model(), runs.images(2), tmp_path / "out", **QUIET).manifest["images"] == 2


def test_images_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    from lucidcam.data import Dataset

    samples = [Sample(image, name) for image, name in zip(runs.images(3), ("a", "b", "a"), strict=True)]
    data = Dataset("twice", "made", lambda: iter(samples))
    rows = list(lucidcam.run(runs.colours(), data, tmp_path / "out", **QUIET).rows())
    assert [(row["sample"], row["image"], row["label"]) for row in rows] == [(0, "a", "red"), (1, "b", "green"), (2, "a", "blue")]


def test_data_without_labels_where_labels_are_asked(tmp_path: Path) -> None:
    samples = [Sample(image, str(i), ("red",) if i else ()) for i, image in enumerate(runs.images(3))]
    results = lucidcam.run(runs.colours(), samples, tmp_path / "out", target="label", **QUIET)
    assert [each["sample"] for each in results.failures()] == [0]
    with pytest.raises(DataError, match="no class"):
        lucidcam.run(runs.colours(), samples[:1], tmp_path / "none", target="label", **QUIET)


def test_one_image_that_is_too_small_does_not_end_the_run(tmp_path: Path) -> None:
    def to_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = lucidcam.wrap(net, to_tensor, runs.LABELS, layer="1")
    results = lucidcam.run(model, [np.zeros((8, 8, 3), np.uint8), *runs.images(3)], tmp_path / "out", optimized=False, **QUIET)
    assert [each["sample"] for each in results.failures()] == [0]
    assert results.manifest["images"] == 3


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:  # noqa: PTH123
        Image.fromarray(runs.images(1)[0]).save(file, "PNG")
    [row] = lucidcam.run(runs.colours(), [os.fsdecode(path)], tmp_path / "out", **QUIET).rows()
    assert row["image"].endswith("caf\\udce9.png")


def test_a_data_set_that_shrank(tmp_path: Path) -> None:
    from lucidcam.data import Dataset

    def data(count: int) -> Dataset:
        return Dataset("stream", "made", lambda: iter(Sample(image, str(i)) for i, image in enumerate(runs.images(count))))

    lucidcam.run(runs.colours(), data(6), tmp_path / "out", unit=2, **QUIET)
    with pytest.raises(DataError, match="fewer images"):
        lucidcam.run(runs.colours(), data(4), tmp_path / "out", unit=2, **QUIET)


def test_failures_are_tried_again_when_asked(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 4, bad=1)
    assert lucidcam.run(runs.colours(), root, tmp_path / "out", **QUIET).manifest["failed"] == 1
    record = tmp_path / "out" / "units" / "000000.json"
    written = record.stat().st_mtime_ns
    lucidcam.run(runs.colours(), root, tmp_path / "out", **QUIET)
    assert record.stat().st_mtime_ns == written
    lucidcam.run(runs.colours(), root, tmp_path / "out", retry_failed=True, **QUIET)
    assert record.stat().st_mtime_ns > written


def test_what_was_never_begun_does_not_claim_the_folder(tmp_path: Path) -> None:
    with pytest.raises(lucidcam.LucidcamError, match="nolayer"):
        lucidcam.run(runs.colours(), runs.images(2), tmp_path / "out", layer="nolayer", **QUIET)
    assert lucidcam.run(runs.colours(), runs.images(2), tmp_path / "out", **QUIET).manifest["images"] == 2


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    lucidcam.run(runs.colours(), runs.images(2), tmp_path / "out", **QUIET)
    with open_store(tmp_path / "out").held(), pytest.raises(OptionError, match="another process"):
        lucidcam.run(runs.colours(), runs.images(2), tmp_path / "out", **QUIET)


def test_a_restart_leaves_nothing_of_the_run_before(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 3)
    lucidcam.run(runs.colours(), root, tmp_path / "out", write=("coco", "png"), metrics="sparseness", **QUIET)
    lucidcam.run(runs.colours(), root, tmp_path / "out", restart=True, **QUIET)
    lucidcam.run(runs.colours(), root, tmp_path / "new", **QUIET)
    assert runs.digests(tmp_path / "out").keys() == runs.digests(tmp_path / "new").keys()


def test_errors_travel_between_processes() -> None:
    import pickle

    from lucidcam import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = kind("pyarrow", "run", "the index") if kind is errors.MissingExtraError else kind("told")
            assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_model_that_cannot_travel(tmp_path: Path) -> None:
    model = lucidcam.wrap(runs.Colours(), lambda image: torch.zeros(3, 8, 8), runs.LABELS, layer="seen")
    for asked in ({"workers": 2}, {"decoders": 1}):
        with pytest.raises(lucidcam.LucidcamError, match="cannot travel"):
            lucidcam.run(model, runs.images(2), tmp_path / "out", optimized=False, **QUIET, **asked)


def test_metrics_are_those_of_evaluate(tmp_path: Path) -> None:
    samples = []
    for i, image in enumerate(runs.images(17)):
        rows, columns = np.nonzero(image[..., i % 3] == 230)
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        samples.append(Sample(image, f"{i}", (runs.LABELS[i % 3],), (Object(runs.LABELS[i % 3], box),)))
    metrics = ["energy_pointing_game", "maxboxacc", ("deletion", {"steps": 8})]
    asked: dict[str, Any] = {"target": "label", "optimized": False, **QUIET}
    results = lucidcam.run(runs.colours(), samples, tmp_path / "out", metrics=metrics, unit=5, images_at_once=4, **asked)
    expected = lucidcam.evaluate(runs.colours(), samples, "gradcam", metrics, baselines=(), **asked)
    assert results.report is not None
    for row in expected.rows:
        found = results.report.row(row.method, row.metric)
        assert (found.mean, found.low, found.high, found.n) == pytest.approx((row.mean, row.low, row.high, row.n), rel=1e-6)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    with pytest.raises(OptionError, match="masks"):
        lucidcam.run(runs.colours(), samples, tmp_path / "other", metrics="seed_miou", **asked)
    with pytest.raises(DataError, match="box"):
        lucidcam.run(runs.colours(), runs.images(2), tmp_path / "other", metrics="maxboxacc", **QUIET)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    kept = {**QUIET, "cache": tmp_path / "cache"}
    first = lucidcam.run(runs.colours(), runs.images(4), tmp_path / "one", **kept)
    for each in (tmp_path / "cache").rglob("*.safetensors"):
        each.write_bytes(each.read_bytes()[:100])
    second = lucidcam.run(runs.colours(), runs.images(4), tmp_path / "two", **kept)
    assert list(second.rows()) == list(first.rows())


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((OptionError, DataError), match="file"):
        lucidcam.run(runs.colours(), runs.images(2), tmp_path / "file" / "out", **QUIET)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write itself fails."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import lucidcam, runs
from lucidcam.errors import DataError
def images(count):
    return runs.images(count)
out = {str(tmp_path / "out")!r}
lucidcam.run(runs.colours(), images(4), out, unit=2, progress=False)
import pathlib
(pathlib.Path(out) / "units" / "000001.json").unlink()
(pathlib.Path(out) / "index" / "000001.parquet").unlink()
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    lucidcam.run(runs.colours(), images(4), out, unit=2, progress=False)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout, done.stderr
    assert "kept" in done.stdout
    assert not list((tmp_path / "out").rglob("*.tmp"))
    results = lucidcam.run(runs.colours(), runs.images(4), tmp_path / "out", unit=2, **QUIET)
    assert results.manifest["complete"]
    assert len(list(results.maps())) == 4


@pytest.mark.slow
def test_options_are_checked(tmp_path: Path) -> None:
    asked = runs.colours(), runs.images(2), tmp_path / "out"
    for wrong, message in (
        ({"write": "npy"}, "npz"),
        ({"engine": "rya"}, "ray"),
        ({"max_memory": "lots"}, "8G"),
        ({"max_memory": "1M"}, "MiB"),
        ({"unit": 0}, "unit"),
        ({"method": "gradcm"}, "gradcam"),
        ({"autocast": torch.bfloat16, "optimized": False}, "autocast"),
    ):
        with pytest.raises(OptionError, match=message):
            lucidcam.run(*asked, **QUIET, **wrong)
    assert not (tmp_path / "out").exists()


def test_memory_bounds_images_and_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucidcam.pipeline import memory_budget

    monkeypatch.setattr(memory_budget, "_peaks_on_cpu", lambda job, counts: [500 * 2**20, 540 * 2**20])  # 20 MiB for each further image
    asked: dict[str, Any] = {**QUIET, "unit": 2}
    results = lucidcam.run(runs.colours(), runs.images(3), tmp_path / "out", max_memory="550M", **asked)
    assert results.manifest["settings"]["images_at_once"] == 3
    monkeypatch.setattr(memory_budget, "_peaks_on_cpu", lambda job, counts: [500 * 2**20, 580 * 2**20])
    again = lucidcam.run(runs.colours(), runs.images(3), tmp_path / "out", max_memory="550M", **asked)
    assert again.manifest["settings"]["images_at_once"] == 3  # the same command goes on, whatever is measured now


@pytest.mark.slow
def test_memory_is_measured(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="explaining one image takes"):
        lucidcam.run(runs.colours(), runs.images(3), tmp_path / "out", max_memory="100M", **QUIET)
    assert bytes_of("2g") == 2**31
    assert bytes_of(12) == 12


def test_fewer_images_at_once_where_memory_ends() -> None:
    class Small(runs.Colours):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().forward(images)

    model = runs.colours()
    images = runs.images(10)
    tight = lucidcam.wrap(Small(), model.preprocess, runs.LABELS, layer="seen")
    for one, other in zip(lucidcam.explain(tight, images), lucidcam.explain(model, images), strict=True):
        assert torch.equal(one.raw, other.raw)


def doubled(shared: int, piece: int) -> int:
    if piece == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return shared * piece


@pytest.mark.slow
def test_hands_keep_the_order_and_survive_a_death() -> None:
    hands = Hands(2, 10)
    try:
        found = list(hands.ahead(doubled, ((str(i), i) for i in range(8)), lambda piece: -piece))
    finally:
        hands.close()
    assert found == [(str(i), -3 if i == 3 else 10 * i) for i in range(8)]


@pytest.mark.slow
def test_workers_and_decoders_give_the_same_files(tmp_path: Path) -> None:
    asked = {"write": ("npz", "coco"), "unit": 8, **QUIET}
    root = folder_of(tmp_path, 40, bad=7)
    lucidcam.run(runs.colours(), root, tmp_path / "one", **asked)
    lucidcam.run(runs.colours(), root, tmp_path / "two", workers=2, **asked)
    lucidcam.run(runs.colours(), root, tmp_path / "three", decoders=1, **asked)
    assert runs.digests(tmp_path / "two") == runs.digests(tmp_path / "one")
    assert runs.digests(tmp_path / "three") == runs.digests(tmp_path / "one")


def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    """A worker that dies while it writes, and is replaced, leaves half a file in a run that goes on."""
    half = tmp_path / "out" / "units" / f"000000.json.0123456789ab{HALF}"

    class Dying:
        name = "dying"

        def read(self) -> bytes:
            half.write_bytes(b"{")
            raise OSError("gone")

    images = [*runs.images(5), Sample(Dying(), "dying")]
    lucidcam.run(runs.colours(), images, tmp_path / "out", unit=2, **QUIET)
    assert len(list(half.parent.iterdir())) == 3
    assert not half.exists()


@pytest.mark.slow
def test_an_image_that_kills_its_process_is_a_failure(tmp_path: Path) -> None:
    images: list[Any] = runs.images(8)
    images[3] = Sample(runs.Deadly(), "deadly")
    results = lucidcam.run(runs.colours(), images, tmp_path / "out", workers=2, unit=2, **QUIET)
    [failure] = results.failures()
    assert (failure["sample"], failure["image"]) == (3, "deadly")
    assert results.manifest["images"] == 7


def undisturbed(folder: Path, count: int, unit: int = 10) -> None:
    """What `runs.py` does, in this process."""
    lucidcam.run(runs.colours(), runs.images(count), folder, write=("npz", "zarr"), unit=unit, **QUIET)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """A run of two processes and their parent, killed at random moments, ends with an undisturbed run's files."""
    command = [sys.executable, str(Path(__file__).parent / "runs.py")]
    asked = ["count=240", "unit=6"]
    undisturbed(tmp_path / "whole", 240, unit=6)
    draw = random.Random(0)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen([*command, str(tmp_path / "killed"), *asked, "workers=2"], start_new_session=True)
        began, done = time.monotonic(), 0
        units = tmp_path / "killed" / "units"
        before = len(list(units.glob("*.json"))) if units.exists() else 0
        while process.poll() is None and time.monotonic() - began < 60:
            done = len(list(units.glob("*.json"))) if units.exists() else 0
            if done > before + draw.randint(0, 6) and kills < 3:
                time.sleep(draw.random() * 0.05)
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        if process.wait() == 0:
            break
    assert kills >= 2
    assert runs.digests(tmp_path / "killed") == runs.digests(tmp_path / "whole")


@pytest.mark.slow
def test_ray_gives_the_same_files_also_when_a_worker_is_killed(tmp_path: Path) -> None:
    undisturbed(tmp_path / "whole", 200)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "runs.py"), str(tmp_path / "ray"), "count=200", "engine=ray", "workers=2"]
    )
    killed = False
    while process.poll() is None:
        if not killed and (tmp_path / "ray" / "units").exists() and any((tmp_path / "ray" / "units").glob("*.json")):
            for each in psutil.Process(process.pid).children(recursive=True):
                if "MapWorker" in " ".join(each.cmdline()):
                    each.kill()
                    killed = True
                    break
        time.sleep(0.02)
    assert process.returncode == 0
    assert killed
    assert runs.digests(tmp_path / "ray") == runs.digests(tmp_path / "whole")


def test_every_map_format_has_a_line_about_it() -> None:
    assert {name: bool(kind.about) for name, kind in packs.items()} == {"npz": True, "png": True, "zarr": True}


def test_stores(tmp_path: Path) -> None:
    for store in (open_store(tmp_path / "here"), open_store("memory://there/folder")):
        store.write("a/b.txt", b"one")
        store.write("a/b.txt", b"two")
        store.write("c.txt", b"three")
        assert store.read("a/b.txt") == b"two"
        assert list(store.names()) == ["a/b.txt", "c.txt"]
        assert list(store.names("a")) == ["a/b.txt"]
        assert list(store.names("nowhere")) == []
        store.remove("a/b.txt")
        store.remove("a/b.txt")
        with pytest.raises(FileNotFoundError):
            store.read("a/b.txt")
    assert isinstance(open_store("plain"), Folder)
    with pytest.raises(OptionError, match="nosuch"):
        open_store("nosuch://x")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(tmp_path, 5, bad=1)
    out = tmp_path / "out"
    commands.run(
        "run", root, "--out", out, "--class-map", "red=1", "--class-map", "green=2", "--class-map", "blue=3",
        "--workers", 1, "--write", "npz", "--untrained", code=1,
    )  # fmt: skip
    told = capsys.readouterr()
    assert "4 images, 4 maps, 1 failed" in told.out
    assert "001.png" in told.err
    assert json.loads((out / "manifest.json").read_text())["complete"]
    commands.run("run", root, "--out", out, "--write", "npzz", code=2)
    assert "npz" in capsys.readouterr().err
