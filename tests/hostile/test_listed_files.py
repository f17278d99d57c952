"""Lists of anyone's name files: none outside of the data set's folder is read, unless the user allows its folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucidcam
import runs
from commands import run as command
from lucidcam.data import open_data
from lucidcam.errors import DataError, LucidcamError
from lucidcam.outputs._labels import Found, Labels
from lucidcam.registry import exporters
from lucidcam.samples import Problem, Sample


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 12, 3), 99, np.uint8)).save(path)
    return path


def coco(root: Path, names) -> Path:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    (root / "annotations.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return root / "annotations.json"


def csv(root: Path, names) -> Path:
    (root / "list.csv").write_text("image,label\n" + "".join(f'"{name}",cat\n' for name in names))
    return root / "list.csv"


def jsonl(root: Path, names) -> Path:
    (root / "list.jsonl").write_text("".join(json.dumps({"image": name, "label": "cat"}) + "\n" for name in names))
    return root / "list.jsonl"


def yolo(root: Path, names) -> Path:
    (root / "data.yaml").write_text("names: [cat]\ntrain: train.txt\n")
    (root / "good.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names))
    return root / "data.yaml"


def cub(root: Path, names) -> Path:
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} 1\n" for i, _ in enumerate(names, 1)))
    (root / "classes.txt").write_text("1 001.cat\n")
    return root


def wsol(root: Path, names) -> Path:
    (root / "image_ids.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "class_labels.txt").write_text("".join(f"{name},0\n" for name in names))
    return root


LISTS = {"coco": coco, "csv": csv, "jsonl": jsonl, "yolo": yolo, "cub": cub, "wsol": wsol}

OUTSIDE = {
    "parent": lambda root, secret: f"../{secret.name}",
    "deep parent": lambda root, secret: f"a/../../{secret.name}",
    "absolute": lambda root, secret: str(secret),
    "link": lambda root, secret: (root / "link.png").symlink_to(secret) or "link.png",
    "folder that is a link": lambda root, secret: (root / "link").symlink_to(secret.parent) or f"link/{secret.name}",
    "share": lambda root, secret: f"//server/share/{secret.name}",
    "sibling of a similar name": lambda root, secret: str(picture(Path(f"{root}-other") / "a.png")),
}

NOWHERE = {
    "address": "https://host/a.png",
    "file address": "file:///etc/passwd",
    "share of Windows": r"\\server\share\a.png",
    "device": "nul",
}


def laid(tmp_path: Path, write, name: str) -> Path:
    root = tmp_path / "set"
    picture(root / "good.png")
    return write(root, ["good.png", name])


@pytest.mark.parametrize("write", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("case", OUTSIDE)
def test_a_file_outside_is_a_problem_of_its_own(tmp_path, write, case):
    secret = picture(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    data = open_data(laid(tmp_path, write, OUTSIDE[case](tmp_path / "set", secret)))
    samples = [each for each in data if isinstance(each, Sample)]
    problems = [each for each in data if isinstance(each, Problem)]
    assert [Path(each.image).name for each in samples] == ["good.png"]
    assert len(problems) == 1
    assert "--data-root" in problems[0].error


@pytest.mark.parametrize("write", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("case", ["parent", "absolute", "link", "folder that is a link"])
def test_a_folder_that_is_named_is_allowed(tmp_path, write, case):
    secret = picture(tmp_path / "photos" / "secret.png")
    (tmp_path / "set").mkdir()
    name = OUTSIDE[case](tmp_path / "set", secret)
    if case == "parent":
        name = "../photos/secret.png"
    data = open_data(laid(tmp_path, write, name), data_root=str(tmp_path / "photos"))
    assert [Path(each.image).name for each in data if isinstance(each, Sample)] == ["good.png", Path(name).name]


@pytest.mark.parametrize("write", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("name", NOWHERE.values(), ids=NOWHERE)
def test_names_that_mean_other_places_are_names_of_missing_files(tmp_path, write, name):
    found = list(open_data(laid(tmp_path, write, name)))
    assert [type(each) for each in found] == [Sample, Problem]
    assert "does not exist" in found[1].error


@pytest.mark.parametrize("write", LISTS.values(), ids=LISTS)
def test_lists_of_nothing_but_files_outside_are_refused_at_once(tmp_path, write):
    (tmp_path / "set").mkdir()
    names = [str(picture(tmp_path / "photos" / f"{i}.png")) for i in range(3)]
    path = write(tmp_path / "set", names)
    with pytest.raises(DataError, match="outside of the data set's folder") as told:
        open_data(path)
    assert f"data_root={str(tmp_path / 'photos')!r} (--data-root)" in str(told.value)
    found = open_data(path, data_root=str(tmp_path / "photos"))
    assert len([each for each in found if isinstance(each, Sample)]) == 3


def test_masks_that_are_listed_stay_inside(tmp_path):
    root = tmp_path / "set"
    picture(root / "good.png")
    Image.fromarray(np.full((10, 12), 255, np.uint8)).save(tmp_path / "mask.png")
    wsol(root, ["good.png"])
    (root / "localization.txt").write_text("good.png,../mask.png,\n")
    [problem] = open_data(root)
    assert isinstance(problem, Problem)
    assert "--data-root" in problem.error


def test_the_yaml_of_yolo_names_no_folder_outside(tmp_path):
    picture(tmp_path / "photos" / "images" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.yaml").write_text("names: [cat]\npath: ../photos\ntrain: images\n")
    with pytest.raises(DataError, match="data_root"):
        open_data(tmp_path / "set" / "data.yaml")
    assert len(list(open_data(tmp_path / "set" / "data.yaml", data_root=str(tmp_path / "photos")))) >= 1


@pytest.mark.parametrize("name", ["instances_...json", "instances_..json", "x_....json"])
def test_the_name_of_an_annotation_file_leads_nowhere(tmp_path, name):
    picture(tmp_path / "secret" / "a.png")
    (tmp_path / "deep" / "set").mkdir(parents=True)
    path = coco(tmp_path / "deep" / "set", ["secret/a.png"])
    path = path.rename(path.with_name(name))
    with pytest.raises(DataError):
        open_data(path)


def test_images_of_a_folder_above_are_not_a_sets_own(tmp_path):
    picture(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError):
        open_data(coco(tmp_path / "set", ["secret.png"]))
    (tmp_path / "annotations").mkdir()
    assert len(list(open_data(coco(tmp_path / "annotations", ["secret.png"])))) == 1


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("copy", [False, True])
def test_what_is_written_comes_back(tmp_path, name, copy):
    photo = picture(tmp_path / "photos" / "a.png")
    labels = Labels("a.png", photo, 12, 10, (Found("cat", (1.0, 2.0, 6.0, 8.0), 0.9),))
    with exporters[name](tmp_path / "out", classes=["cat"], copy_images=copy) as exporter:
        exporter.write(labels)
    options = {} if copy else {"data_root": str(tmp_path / "photos")}
    [sample] = open_data(tmp_path / "out", **options)
    assert isinstance(sample, Sample)
    assert sample.objects[0].box == pytest.approx((1.0, 2.0, 6.0, 8.0), abs=1e-6)


def test_the_command_line_allows_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lucidcam, "load", lambda *_, **__: runs.colours())
    photo = picture(tmp_path / "photos" / "a.png")
    (tmp_path / "set").mkdir()
    path = coco(tmp_path / "set", [str(photo)])
    words = ("localize", path, "--method", "occlusion", "--target", "predicted", "--out", f"coco:{tmp_path / 'out'}")
    command(*words, code=2)
    assert f"data_root={str(photo.parent)!r} (--data-root)" in " ".join(capsys.readouterr().err.split())
    command(*words, "--data-root", photo.parent)
    with pytest.raises(LucidcamError):
        open_data(path, data_root=str(tmp_path / "nowhere"))
