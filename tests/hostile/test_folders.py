"""Folders of the user's: nothing that lucidcam did not write is removed or replaced, and two runs never share one."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucidcam
import runs
from commands import run as command
from lucidcam.errors import LucidcamError, OptionError
from lucidcam.io.storage import LOCK, MADE_BY, SETTINGS, open_store, workplace
from lucidcam.outputs._labels import LIST, remove_owned
from lucidcam.registry import exporters
from lucidcam.samples import Sample

QUIET = {"progress": False}

FOREIGN = {
    ".git/objects/ab.tmp": "object",
    ".git/index.0123456789ab.tmp": "object",
    "notes.tmp": "mine",
    "labels/cat.txt": "0 0.5 0.5 1 1",
    "labels/000000.jsonl": "mine",
    "masks/cat.png": "mine",
    "index/000000.parquet": "mine",
    "pictures/holiday.jpg": "mine",
    "coco/annotations.json": '{"images": []}',
    "coco/annotations.json.images.part": "{}",
    "voc/Annotations/cat.xml": "<annotation/>",
    "voc/JPEGImages/cat.jpg": "mine",
    "yolo/data.yaml": "names: [cat]",
    "yolo/labels/cat.txt": "0 0.5 0.5 1 1",
    "metrics/000000.npz": "mine",
    "maps/a.npz": "mine",
    "units/1.json": "mine",
    "curves/deletion.png": "mine",
    "parts/images-000000.npz": "mine",
    "gallery/shots/mine.webp": "mine",
    "checkpoints/best.ckpt": "mine",
    "model.safetensors": "mine",
    "memory.safetensors": "mine",
    "slots.png": "mine",
    "results.json": "[]",
    "images.csv": "a,b",
    "failures.jsonl": "mine",
    "failures.json": '{"mine": true}',
    "manifest.json": "{}",
}


@pytest.fixture
def folder(tmp_path):
    """A folder that has a file of nearly every name that lucidcam knows, and none of lucidcam's."""
    return laid(tmp_path / "mine", FOREIGN)


def laid(folder: Path, files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def kept(folder: Path, files=None) -> bool:
    return all((folder / name).read_text() == content for name, content in (FOREIGN if files is None else files).items())


def photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i, image in enumerate(runs.images(count)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def run(out: Path, **options):
    return lucidcam.run(runs.colours(), runs.images(4), out, unit=2, **{**QUIET, **options})


def evaluate(out: Path, **options):
    return lucidcam.evaluate(runs.colours(), runs.images(3), "occlusion", "sparseness", baselines=[], out=out, **{**QUIET, **options})


WORK = {"run": run, "evaluate": evaluate}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("work", WORK)
def test_a_folder_of_others_is_refused(folder, work, restart):
    with pytest.raises(OptionError, match="files that are not of"):
        WORK[work](folder, restart=restart)
    assert kept(folder)
    assert sorted(each for each in folder.rglob("*") if each.is_file()) == sorted(folder / name for name in FOREIGN)


@pytest.mark.parametrize("name", FOREIGN)
def test_each_single_file_is_enough(tmp_path, name):
    only = {name: FOREIGN[name]}
    laid(tmp_path / "out", only)
    with pytest.raises(OptionError, match="not of a run"):
        run(tmp_path / "out", restart=True)
    assert kept(tmp_path / "out", only)


@pytest.fixture(scope="module")
def training():
    """What trains, and its options: the import of Lightning takes longer than a hostile file may, so it is not part of the test."""
    from lucidcam.train import Training
    from lucidcam.train.trainer import folder_of

    return folder_of, Training


@pytest.mark.parametrize("what", ["network", "memory"])
def test_a_training_refuses_a_folder_of_others(folder, training, what):
    folder_of, options = training
    with pytest.raises(OptionError, match="files that are not of"), folder_of(folder, {}, options(restart=True), what):
        pass
    assert kept(folder)


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
    "settings",
    [
        "{",
        "[]",
        "{}",
        '{"editor.fontSize": 12}',
        '{"made_by": "lucidcam"}',
        '{"made_by": "lucidcam", "holds": "a study"}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_settings_of_others_are_no_settings(folder, work, settings):
    (folder / SETTINGS).write_text(settings)
    for restart in (False, True):
        with pytest.raises(OptionError, match=SETTINGS) as caught:
            WORK[work](folder, restart=restart)
        assert len(str(caught.value)) < 400
    assert kept(folder)
    assert (folder / SETTINGS).read_text() == settings


@pytest.mark.parametrize(("first", "second"), [("run", "evaluate"), ("evaluate", "run")])
def test_work_of_another_kind_is_not_replaced(tmp_path, first, second):
    WORK[first](tmp_path / "out")
    before = runs.digests(tmp_path / "out")
    with pytest.raises(OptionError, match=r"not of an? "):
        WORK[second](tmp_path / "out", restart=True)
    assert runs.digests(tmp_path / "out") == before


ADDED = {
    "notes.txt": "mine",
    "notes.tmp": "mine",
    "index/notes.txt": "mine",
    "labels/cat.txt": "mine",
    "pictures/holiday.jpg": "mine",
    "maps/copy.npz": "mine",
    "maps/000000.npz.tmp": "mine",
    "curves/my plot.png": "mine",
    "parts/notes.npz": "mine",
    "gallery/shots/best.webp": "mine",
    "sub/units/000000.json": "mine",
    ".git/index.0123456789ab.tmp": "mine",
}


@pytest.mark.parametrize("work", WORK)
def test_what_was_put_beside_results_stays(tmp_path, work):
    WORK[work](tmp_path / "out")
    laid(tmp_path / "out", ADDED)
    WORK[work](tmp_path / "out")
    assert kept(tmp_path / "out", ADDED)
    WORK[work](tmp_path / "out", restart=True, method="rise") if work == "run" else WORK[work](tmp_path / "out", restart=True, seed=3)
    assert kept(tmp_path / "out", ADDED)


def test_half_files_of_a_kill_are_removed_and_no_others(tmp_path):
    run(tmp_path / "out")
    half = {f"{name}.0123456789ab.tmp": "half" for name in ("index/000000.parquet", "units/000001.json", SETTINGS, "manifest.json")}
    laid(tmp_path / "out", {**half, "mine.0123456789ab.tmp": "mine"})
    run(tmp_path / "out")
    assert not any((tmp_path / "out" / name).exists() for name in half)
    assert (tmp_path / "out" / "mine.0123456789ab.tmp").exists()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "masks", "fiftyone"])
def test_labels_of_others_within_a_run_are_refused_before_any_work(tmp_path, name):
    data = photos(tmp_path / "photos")
    out = tmp_path / "out"
    lucidcam.run(runs.colours(), data, out, write=("npz", name), restart=True, **QUIET)
    mine = {f"{name}/labels/cat.txt": "mine", f"{name}/annotations.json.bak": "mine"}
    laid(out, mine)
    lucidcam.run(runs.colours(), data, out, write=("npz", name), **QUIET)
    lucidcam.run(runs.colours(), data, out, restart=True, threshold=0.3, **QUIET)
    assert kept(out, mine)
    listed = [each for each in (out / name).rglob("*") if each.is_file() or each.is_symlink()]
    assert sorted(listed) == sorted(out / each for each in mine)  # what the run had written there is gone
    with pytest.raises(OptionError, match="lucidcam did not write"):
        lucidcam.run(runs.colours(), data, out, write=("npz", name), restart=True, **QUIET)
    assert kept(out, mine)


@pytest.mark.parametrize("name", sorted(exporters))
def test_overwriting_labels_takes_only_what_was_listed(tmp_path, name):
    data = photos(tmp_path / "photos")
    out = tmp_path / "labels"
    mine = {
        "notes.txt": "mine",
        "images/readme.txt": "mine",
        "labels/zebra.txt": "mine",
        "masks/zebra.png": "mine",
        "Annotations/zebra.xml": "mine",
    }
    laid(out, mine)
    first = localized(data, out, name)
    assert kept(out, mine)
    (data / "2.png").unlink()
    second = localized(data, out, name)
    assert kept(out, mine)
    assert len(second) < len(first) or name in ("coco", "fiftyone")
    assert not [each for each in out.rglob("*") if each.is_symlink() and not each.exists()]


def localized(data: Path, out: Path, name: str) -> list[str]:
    command("localize", str(data), "--overwrite", "--out", f"{name}:{out}")
    return (out / LIST).read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "file"), [("coco", "annotations.json"), ("yolo", "data.yaml"), ("masks", "classes.txt"), ("fiftyone", "samples.json")]
)
def test_labels_of_others_are_not_overwritten(tmp_path, name, file):
    mine = {file: "mine"}
    laid(tmp_path / "labels", mine)
    with pytest.raises(OptionError, match="not written by lucidcam"), exporters[name](tmp_path / "labels", overwrite=True):
        pass
    assert kept(tmp_path / "labels", mine)


def test_a_list_names_nothing_outside_its_folder(tmp_path):
    outside = laid(tmp_path / "outside", {"a.txt": "mine", "b.txt": "mine"})
    out = laid(tmp_path / "out", {"labels/c.txt": "listed", "d.txt": "mine"})
    (out / "link").symlink_to(outside)
    names = ["../outside/a.txt", str(outside / "b.txt"), "link/a.txt", "labels/c.txt", "labels", "", ".", "..", "\0"]
    (out / LIST).write_text("\n".join(names))
    remove_owned(out)
    assert kept(outside, {"a.txt": "mine", "b.txt": "mine"})
    assert kept(out, {"d.txt": "mine"})
    assert not (out / "labels" / "c.txt").exists()


class Waiting:
    """An image that says that it is read, and waits."""

    def __init__(self) -> None:
        self.name, self.begun, self.go = "waiting", threading.Event(), threading.Event()

    def read(self) -> bytes:
        self.begun.set()
        self.go.wait(20)
        raise OSError("gone")


@pytest.mark.parametrize("restart", [False, True])
def test_a_live_run_is_left_alone(tmp_path, restart):
    image, ended = Waiting(), []
    images = [*runs.images(3), Sample(image, "waiting")]
    live = threading.Thread(target=lambda: ended.append(lucidcam.run(runs.colours(), images, tmp_path / "out", unit=8, **QUIET)))
    live.start()
    assert image.begun.wait(20)
    before = runs.digests(tmp_path / "out")
    with pytest.raises(OptionError, match="another process"):
        run(tmp_path / "out", restart=restart, threshold=0.5)
    assert runs.digests(tmp_path / "out") == before
    image.go.set()
    live.join()
    assert ended[0].manifest["images"] == 3
    assert not (tmp_path / "out" / LOCK).exists()


def test_of_many_first_starts_each_is_alone(tmp_path):
    """Fifty threads at a gate, many times over: never two in the folder at once, and all others are told."""
    inside, most, refused, errors = [], [], [], []

    def start(number: int) -> None:
        gate.wait()
        try:
            with workplace(tmp_path / f"out{number}", {"a": 1}, "a run", lambda name: False):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
        except OptionError as error:
            refused.append(str(error))
        except BaseException as error:
            errors.append(error)

    for number in range(20):
        gate = threading.Barrier(10)
        threads = [threading.Thread(target=start, args=(number,)) for _ in range(10)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert max(most) == 1
    assert not errors
    assert all("another process" in each for each in refused)
    assert len(most) + len(refused) == 200
    assert not list(tmp_path.rglob(LOCK))


def test_a_folder_made_for_a_refused_run_is_taken_away(tmp_path):
    with pytest.raises(LucidcamError):
        run(tmp_path / "out", write="no such format")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_of_the_users_stays_where_a_run_fails(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("out", "new"):
        with pytest.raises(RuntimeError), open_store(tmp_path / name).held():
            raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").iterdir())


def test_a_lock_that_a_kill_left_holds_nobody(tmp_path):
    script = f"""
import os, signal
from lucidcam.io.storage import open_store
with open_store({str(tmp_path / "out")!r}).held():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ})
    assert (tmp_path / "out" / LOCK).exists()
    assert run(tmp_path / "out").manifest["images"] == 4
    assert not (tmp_path / "out" / LOCK).exists()


def test_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OptionError), open_store(tmp_path / "out").held():
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_settings_say_whose_they_are(tmp_path):
    run(tmp_path / "out")
    assert json.loads((tmp_path / "out" / SETTINGS).read_text())[MADE_BY] == "lucidcam"


def test_a_store_elsewhere_is_refused_alike():
    import fsspec

    with fsspec.open("memory://hostile/notes.txt", "w") as file:
        file.write("mine")
    with pytest.raises(OptionError, match="files that are not of a run"):
        run("memory://hostile", restart=True)
    assert fsspec.open("memory://hostile/notes.txt").open().read() == b"mine"


def test_explain_leaves_failures_of_others(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "failures.json").write_text('{"mine": true}')
    command("explain", tmp_path / "a.png", "--out", tmp_path)
    assert json.loads((tmp_path / "failures.json").read_text()) == {"mine": True}
