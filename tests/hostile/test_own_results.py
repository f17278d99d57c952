"""Results in a folder of data: what lucidcam wrote is not read as data when the same command is given again, or another one."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import lucidcam
import runs
from commands import run as command
from lucidcam.data import open_data
from lucidcam.io import images
from lucidcam.io.ownership import LIST, OwnedFiles
from lucidcam.io.storage import HOLDS, MADE_BY, SETTINGS
from lucidcam.registry import exporters

BOX = "<annotation><object><name>red</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"


def photos(folder, names=("cat/0.png", "cat/1.png", "dog/2.png")):
    for name, image in zip(names, runs.images(len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def pictures(folder):
    owned = OwnedFiles(folder)
    for name in ("a-gradcam-cat.png", "classes/cat.png"):
        Image.new("RGB", (8, 8)).save(owned.path(name))


def labels(format):
    def write(folder):
        sample = folder.parent / "cat" / "0.png"
        source = str(sample if sample.is_file() else folder.parent / "0.png")
        with exporters[format](folder, **({"copy_images": True} if format == "yolo" else {})) as writer:
            for each in lucidcam.localize(runs.colours(), [source], target="red", method="occlusion", progress=False):
                writer.write(each)

    return write


def work(folder):
    """What an evaluation and a run leave, pictures among it."""
    (folder / "gallery").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "gallery" / "cat.png")
    (folder / SETTINGS).write_text(json.dumps({MADE_BY: "lucidcam", HOLDS: "an evaluation"}))


RESULTS = {"pictures": pictures, "voc": labels("voc"), "yolo": labels("yolo"), "masks": labels("masks"), "work": work}


def content(data):
    return data.format, data.count, data.classes, [(sample.name, sample.labels) for sample in data]


@pytest.mark.parametrize("layout", ["classes", "flat", "annotated"])
@pytest.mark.parametrize("result", RESULTS)
def test_a_data_set_is_the_same_with_results_in_it(tmp_path, result, layout):
    data = photos(tmp_path / "data", ("cat/0.png", "dog/1.png") if layout == "classes" else ("0.png", "1.png"))
    if layout == "annotated":
        for photo in list(data.glob("*.png")):
            photo.with_suffix(".xml").write_text(BOX)
    before, found = content(open_data(data)), images.find([data])
    RESULTS[result](data / "out")
    assert content(open_data(data)) == before
    assert images.find([data]) == found


def test_pictures_beside_the_photos(tmp_path, monkeypatch):
    data = photos(tmp_path / "data", ("0.png", "1.png"))
    before = images.find([data])
    pictures(data)
    assert images.find([data]) == before
    assert [path.name for path in images.find([f"{data}/**/*.png"])[0]] == ["0.png", "1.png"]
    monkeypatch.chdir(data)
    for words in (["."], ["./"], ["**/*.png"], ["./**"], ["../data"]):
        assert [path.name for path in images.find(words)[0]] == ["0.png", "1.png"], words


@pytest.mark.parametrize("result", RESULTS)
def test_results_that_are_named_are_data(tmp_path, result):
    data = photos(tmp_path / "data")
    RESULTS[result](data / "out")
    written = sorted(path for path in (data / "out").rglob("*") if path.suffix == ".png" or "images" in path.parts)
    named = [path for path in written if path.suffix == ".png"][:1]
    assert images.find(named)[0] == named
    shutil.move(data / "out", tmp_path / "alone")
    shutil.rmtree(data)
    if written:
        assert images.find([tmp_path / "alone"])[0]
        assert images.find([tmp_path])[0], "a folder of nothing but results"


@pytest.mark.parametrize("kind", ["another program's", "no JSON", "long", "a folder", "a fifo"])
def test_settings_of_others_hide_nothing(tmp_path, kind):
    data = photos(tmp_path / "data")
    path = data / "cat" / SETTINGS
    match kind:
        case "another program's":
            path.write_text('{"holds": 3, "made_by": "me"}')
        case "no JSON":
            path.write_text("[" * 100_000)
        case "long":
            with path.open("wb") as file:
                file.truncate(2**40)
        case "a folder":
            path.mkdir()
        case "a fifo":
            os.mkfifo(path)
    assert len(images.find([data])[0]) == 3
    assert open_data(data).classes == ("cat", "dog")


@pytest.mark.parametrize("lines", [b"\xff\n", b"../cat/1.png\n/etc/passwd\n\x00\n", b"", b"cat\n"])
def test_lists_of_others_hide_nothing_but_what_they_name(tmp_path, lines):
    data = photos(tmp_path / "data")
    (data / "cat" / LIST).write_bytes(lines)
    with (data / "dog" / LIST).open("wb") as file:
        file.truncate(2**28)
    assert len(images.find([data])[0]) == 3
    assert open_data(data).classes == ("cat", "dog")


def test_explain_twice(tmp_path, monkeypatch):
    data = photos(tmp_path / "data", ("0.png", "1.png"))
    monkeypatch.setattr("lucidcam.cli.explain.load_model", lambda *_, **__: runs.colours())
    for out in (data / "out", data / "out", data, data):
        command("explain", data, "--method", "occlusion", "--out", out)
        entries = json.loads((out / "explanations.json").read_text())
        assert [entry["image"] for entry in entries] == [str(data / "0.png"), str(data / "1.png")]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("layout", [("cat/0.png", "dog/1.png"), ("0.png", "1.png")])
def test_work_goes_on_in_a_folder_of_its_data(tmp_path, layout, restart):
    data = photos(tmp_path / "data", layout)
    options = {"restart": restart, "progress": False}
    classes = {"class_map": {"cat": "red", "dog": "green"}} if layout[0].startswith("cat") else {}
    for _ in range(2):
        written = lucidcam.run(runs.colours(), str(data), data / "run", write=["voc", "masks"], **classes, **options)
        assert written.manifest["images"] == 2
        assert not written.failures()
        judged = lucidcam.evaluate(
            runs.colours(), str(data), "occlusion", "sparseness", baselines=[], out=data / "judged", **classes, **options
        )
        assert sorted(judged.names) == sorted(layout)


NAMES = {
    "an escape": ("a\x1b[31m\x1b]0;title\x07.png", r"a\x1b[31m\x1b]0;title\x07.png"),
    "two lines": ("a\nb.png", r"a\nb.png"),
    "a return": ("a\rb.png", r"a\rb.png"),
    "turned": ("a\u202egnp.png", r"a\u202egnp.png"),
    "half a character": ("a\udce9.png", r"a\udce9.png"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_steer_no_terminal(tmp_path, monkeypatch, capsys, kind):
    name, shown = NAMES[kind]
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    try:
        shutil.copy(tmp_path / "a.png", tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    (tmp_path / "in" / f"broken {name}").write_bytes(b"")
    label = f"red {name}"
    model = runs.colours()
    model = lucidcam.wrap(model.module, model.preprocess, [label, "green", "blue"], layer=model.layer)
    monkeypatch.setattr("lucidcam.cli.explain.load_model", lambda *_, **__: model)
    monkeypatch.setattr("lucidcam.cli._screen.out._width", 300)
    command("explain", tmp_path / "in", "--method", "occlusion", "--target", "0", "--out", tmp_path / "out", code=1)
    told = capsys.readouterr()
    for text in (told.out, told.err):
        text.encode()
        assert all(each.isprintable() or each == "\n" for each in text), repr(text)
    assert shown in told.out
    assert f"red {shown}" in told.out
    assert shown in told.err.replace("\\\\", "\\")
