"""What annotations say of their photos: declared sizes, exact class names, accents; over every data format that has them."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam import registry
from lucidcam.data import open_data
from lucidcam.data.class_map import ClassMap
from lucidcam.errors import DataError, InputError, TargetError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io import images
from lucidcam.samples import ClassId, Object, Problem, Sample
from lucidcam.train.labelled import read
from lucidcam.types import Model, fold

PHOTO = (80, 40)
DECLARED = {
    "resized since": ((160, 80), None),
    "turned by EXIF": (PHOTO, 6),
    "mirrored and turned": (PHOTO, 7),
    "cropped": ((80, 41), None),
}
"""What the annotations declare, and the photo's EXIF orientation; the file itself is always 80×40."""


def photo(path, orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", PHOTO, "red").save(path, exif=exif)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


# ---------------------------------------------------------------- one data set per format, with a label, a box and the photo's size


def coco(root, label, size, orientation=None):
    photo(root / "images/p.jpg", orientation)
    content = {
        "images": [{"id": 1, "file_name": "p.jpg", "width": size[0], "height": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30]}],
        "categories": [{"id": 1, "name": label}],
    }
    write(root / "annotations/instances.json", json.dumps(content))
    return root


def xml(label, size):
    return (
        f"<annotation><filename>p.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size><object>"
        f"<name>{label}</name><bndbox><xmin>6</xmin><ymin>6</ymin><xmax>35</xmax><ymax>35</ymax></bndbox></object></annotation>"
    )


def voc(root, label, size, orientation=None):
    photo(root / "JPEGImages/p.jpg", orientation)
    write(root / "Annotations/p.xml", xml(label, size))
    return root


def ilsvrc(root, label, size, orientation=None):
    photo(root / "images/p.jpg", orientation)
    write(root / "Annotations/CLS-LOC/val/p.xml", xml(label, size))
    return root


def cub(root, label, size, orientation=None):
    photo(root / "images/1/p.jpg", orientation)
    for name, text in (
        ("images.txt", "1 1/p.jpg"),
        ("image_class_labels.txt", "1 1"),
        ("classes.txt", f"1 {label}"),
        ("bounding_boxes.txt", "1 5 5 30 30"),
        ("sizes.txt", f"1 {size[0]} {size[1]}"),
    ):
        write(root / name, text + "\n")
    return root


def wsol(root, label, size, orientation=None):
    photo(root / "images/p.jpg", orientation)
    for name, text in (
        ("image_ids.txt", "p.jpg"),
        ("class_labels.txt", f"p.jpg,{label}"),
        ("localization.txt", "p.jpg,5,5,35,35"),
        ("image_sizes.txt", f"p.jpg,{size[0]},{size[1]}"),
    ):
        write(root / name, text + "\n")
    return root


def csv(root, label, size, orientation=None):
    photo(root / "p.jpg", orientation)
    head = "filename,width,height,class,xmin,ymin,xmax,ymax"
    return write(root / "labels.csv", f"{head}\np.jpg,{size[0]},{size[1]},{label},5,5,35,35\n")


def csv_of_widths(root, label, size, orientation=None):
    photo(root / "p.jpg", orientation)
    head = "image,label,x,y,width,height,image_width,image_height"
    return write(root / "labels.csv", f"{head}\np.jpg,{label},5,5,30,30,{size[0]},{size[1]}.0\n")


def jsonl(root, label, size, orientation=None):
    photo(root / "p.jpg", orientation)
    row = {"image": "p.jpg", "width": size[0], "height": size[1], "boxes": [[5, 5, 35, 35, label]]}
    return write(root / "labels.jsonl", json.dumps(row))


def hf(root, label, size, orientation=None):
    datasets = pytest.importorskip("datasets")
    objects = {"bbox": [[5.0, 5.0, 30.0, 30.0]], "category": [label]}
    row = {"image": str(photo(root / "p.jpg", orientation)), "width": size[0], "height": size[1], "objects": objects}
    return datasets.Dataset.from_list([row])


def own(root, label, size, orientation=None):
    return [Sample(photo(root / "p.jpg", orientation), "p", objects=(Object(label, (5, 5, 35, 35)),), size=size)]


SIZED = {"coco": coco, "voc": voc, "ilsvrc": ilsvrc, "cub": cub, "wsol": wsol, "csv": csv, "csv of widths": csv_of_widths, "jsonl": jsonl,
         "hf": hf, "images": own}  # fmt: skip
FORMAT_OF = {"csv": "table", "csv of widths": "table", "jsonl": "table"}
UNSIZED = {
    "folder": "no boxes",
    "webdataset": "no boxes",
    "synthetic": "made in its size",
    "yolo": "shares of the size",
    "masks": "the mask's own size is compared when it is listed",
}


def test_each_format_declares_sizes_or_says_why_not():
    assert {FORMAT_OF.get(name, name) for name in SIZED} | set(UNSIZED) == set(registry.formats)


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("case", DECLARED)
def test_another_size_than_the_declared_one_is_told_with_both(kind, case, tmp_path):
    size, orientation = DECLARED[case]
    (sample,) = open_data(SIZED[kind](tmp_path, "1" if kind == "wsol" else "cat", size, orientation))
    image, _ = images.read(sample.image)
    assert sample.size == size
    with pytest.raises(InputError) as caught:
        sample.fitted(*image.size)
    told = str(caught.value)
    assert "\n" not in told
    assert f"{size[0]}×{size[1]}" in told
    assert f"{image.width}×{image.height}" in told
    assert ("EXIF" in told) == (orientation is not None)


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("size", [PHOTO, (0, 0), ("", "")])
def test_the_right_size_and_none_are_fine(kind, size, tmp_path):
    if size == ("", "") and kind in ("hf", "images", "wsol", "cub", "csv of widths"):
        size = (0, 0)
    if kind == "images" and size == (0, 0):
        size = None
    (sample,) = open_data(SIZED[kind](tmp_path, "1" if kind == "wsol" else "cat", size))
    assert sample.size == (PHOTO if size == PHOTO else None)
    (thing,) = sample.fitted(*PHOTO).objects
    assert thing.box == ((6, 6, 36, 36) if kind == "ilsvrc" else (5, 5, 35, 35))


def test_a_size_matters_only_where_something_is_marked():
    assert Sample(None, "p", ("cat",), size=(1, 2)).fitted(80, 40).labels == ("cat",)


def test_evaluating_reports_the_photo_and_goes_on(tmp_path):
    root = coco(tmp_path, "cat", (160, 80))
    Image.new("RGB", PHOTO).save(root / "images/q.jpg")
    content = json.loads((root / "annotations/instances.json").read_text())
    content["images"].append({"id": 2, "file_name": "q.jpg", "width": 80, "height": 40})
    content["annotations"].append({"id": 2, "image_id": 2, "category_id": 1, "bbox": [5, 5, 30, 30]})
    write(root / "annotations/instances.json", json.dumps(content))
    report = lucidcam.evaluate(numbers(["cat", "dog"]), str(root), ["gradcam"], ["energy_pointing_game"], baselines=[], resamples=0)
    assert report.row("gradcam", "energy_pointing_game").n == 1
    assert ["160×80" in problem.error and "80×40" in problem.error for problem in report.skipped] == [True]


def test_rows_of_one_photo_declare_one_size(tmp_path):
    photo(tmp_path / "p.jpg")
    head = "image,label,xmin,ymin,xmax,ymax,width,height"
    (problem,) = open_data(write(tmp_path / "l.csv", f"{head}\np.jpg,cat,1,1,5,5,80,40\np.jpg,cat,1,1,5,5,40,80\n"))
    assert isinstance(problem, Problem)
    assert "40×80 and 80×40" in problem.error


def test_masks_of_other_proportions(tmp_path):
    photo(tmp_path / "images/p.jpg", 6)
    for name, text in (("image_ids.txt", "p.jpg"), ("class_labels.txt", "p.jpg,1"), ("localization.txt", "p.jpg,m.png,")):
        write(tmp_path / name, text + "\n")
    Image.new("L", (20, 10), 255).save(tmp_path / "images/m.png")
    (sample,) = open_data(tmp_path)
    with pytest.raises(InputError, match="20×10, the image 40×80"):
        sample.fitted(40, 80).objects[0].mask()
    Image.new("L", (10, 20), 255).save(tmp_path / "images/m.png")
    assert sample.fitted(40, 80).objects[0].mask().shape == (80, 40)


# ---------------------------------------------------------------- an exact label beats a number


LISTS = {
    "ImageFolder": sorted(str(i) for i in range(12)),
    "from one": [str(i) for i in range(1, 13)],
    "backwards": [str(i) for i in range(11, -1, -1)],
    "floats": [f"{i}.0" for i in range(1, 13)],
    "synonyms": [f"{i}, number {i}" for i in range(11, -1, -1)],
}


def numbers(labels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, len(labels))).eval()
    return lucidcam.wrap(net, Preprocess(size=(24, 24), fit="squash"), labels=labels)


@pytest.mark.parametrize("kind", LISTS)
def test_a_text_is_the_class_of_that_name_an_int_an_id(kind):
    labels = LISTS[kind]
    model = numbers(labels)
    plain = [label.partition(",")[0].removesuffix(".0") for label in labels]
    for word in ("2", "10", "11", "2.0", "10.", " 10 "):
        right = plain.index(word.strip().partition(".")[0])
        assert model.find_label(word) == right
        assert model.find_label(word, exact=True) == right
        assert ClassMap.of(model).resolve(word) == right
        assert ClassMap.of(model, {"ten": word}).resolve("ten") == right
        assert ClassMap.of(model, f"ten={word}").resolve("ten") == right
        assert lucidcam.explain(model, np.zeros((30, 40, 3), np.uint8), target=word)[0].target == right
    for id in (0, 2, 10, 11):
        assert model.find_label(id) == id
        assert ClassMap.of(model, {"ten": id}).resolve("ten") == id
        assert ClassMap.of(model).resolve(ClassId(id)) == id
        assert lucidcam.explain(model, np.zeros((30, 40, 3), np.uint8), target=id)[0].target == id


def test_a_number_that_no_class_is_called_is_an_id():
    model = numbers(["cat", "dog", "7", "1.5"])
    assert [model.find_label(text) for text in ("0", "1", "3", "7", "7.0", "3.0", "1.5")] == [0, 1, 3, 2, 2, 3, 3]
    for text in ("4", "-1", "4.0"):
        with pytest.raises(TargetError, match="out of range"):
            model.find_label(text)
    with pytest.raises(TargetError, match="fits 2 classes"):
        numbers(["1.0", "1.00", "x"]).find_label("1")
    assert Model(nn.Identity()).find_label("3.0") == 3


@pytest.mark.parametrize("kind", ["from one", "floats", "synonyms of numbers"])
def test_among_labels_that_are_numbers_a_number_that_no_class_is_called_is_no_id(kind):
    labels = {**LISTS, "synonyms of numbers": [f"{i}, number {i}" for i in range(1, 13)]}[kind]
    model = numbers(labels)
    assert [model.find_label(text, exact=True) for text in ("01", "012", "002.0")] == [0, 11, 1]  # zeros before a number are not its value
    known = ClassMap.of(model)
    for word in ("0", "13", "0.0", "00", "-1"):
        with pytest.raises(TargetError, match="labels are numbers themselves"):
            model.find_label(word)
        assert known.resolve(word) is None
    assert known.resolve(ClassId(0)) == 0
    with pytest.raises(TargetError, match="fits 2 classes"):
        numbers(["1", "01", "x"]).find_label("001")


def test_a_class_map_knows_a_number_as_a_table_of_floats_writes_it():
    known = ClassMap.of(numbers(["cat", "dog", "fox"]), {"10": "dog", "11.0": "fox"})
    assert [known.resolve(word) for word in ("10", "10.0", "11.0", ClassId(10))] == [1, 1, 2, 1]


@pytest.mark.parametrize("label", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3)])
def test_whole_numbers_are_class_ids(label):
    (found,) = Sample(None, "p", labels=(label,)).labels
    assert (found, type(found)) == ("3", ClassId)


@pytest.mark.parametrize("label", [3.5, None, True, float("nan"), float("inf"), (1, 2)])
def test_what_is_neither_text_nor_a_whole_number_is_no_label(label):
    with pytest.raises(InputError, match="expected a label"):
        Sample(None, "p", labels=(label,))
    with pytest.raises(InputError, match="expected a label"):
        Object(label)


def yolo(root, label, size, orientation=None):
    photo(root / "images/p.jpg")
    write(root / "labels/p.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "data.yaml", f"names: ['{label}']\n")
    return root


def folder(root, label, size, orientation=None):
    photo(root / label / "p.jpg")
    return root


def masks(root, label, size, orientation=None):
    photo(root / "images/p.jpg")
    (root / "masks").mkdir(exist_ok=True)
    Image.new("L", PHOTO, 1).save(root / "masks/p.png")
    write(root / "classes.txt", f"1: {label}\n")
    return root


def shard(root, label, size, orientation=None, member="txt"):
    photo(root / "p.jpg")
    with tarfile.open(root / "s.tar", "w") as tar:
        tar.add(root / "p.jpg", "0.jpg")
        told = tarfile.TarInfo(f"0.{member}")
        told.size = len(label.encode())
        tar.addfile(told, io.BytesIO(label.encode()))
    return root / "s.tar"


NAMING = {**SIZED, "yolo": yolo, "folder": folder, "masks": masks, "webdataset": shard}
del NAMING["wsol"]  # it has ids only


@pytest.mark.parametrize("kind", NAMING)
@pytest.mark.parametrize("word", ["10", "2"])
def test_every_format_names_classes(kind, word, tmp_path):
    labels = LISTS["ImageFolder"]
    data = open_data(NAMING[kind](tmp_path, word, PHOTO), **({"label": "txt"} if kind == "webdataset" else {}))
    (sample,) = data
    assert sample.labels == (word,)
    report = lucidcam.evaluate(numbers(labels), data, ["gradcam"], ["average_drop"], target="label", baselines=[], resamples=0)
    assert (report.classes, report.unmatched) == ({word: labels.index(word)}, {})


def test_what_a_format_calls_an_id_is_one(tmp_path):
    labels = LISTS["ImageFolder"]
    known = ClassMap.of(numbers(labels))
    (row,) = open_data(write(tmp_path / "l.jsonl", json.dumps({"image": str(photo(tmp_path / "p.jpg")), "label": 10})))
    sources = [wsol(tmp_path / "w", "10", PHOTO), shard(tmp_path, "10", PHOTO, member="cls"), shard(tmp_path, "10", PHOTO, member="json")]
    for source in sources:
        (sample,) = open_data(source)
        assert known.resolve(sample.labels[0]) == 10, source
    assert ClassMap.of(numbers(labels)).resolve(row.labels[0]) == 10
    assert Sample(None, "p", labels=(10,)).labels == ("10",)


@pytest.mark.parametrize("spelling", ["0", "0.0"])
def test_tables_of_floats(spelling, tmp_path):
    for name in "ab":
        photo(tmp_path / f"{name}.jpg")
    table = write(tmp_path / "l.csv", f"image,label\na.jpg,{spelling}\nb.jpg,{spelling.replace('0', '1', 1)}\n")
    model = numbers(["1", "0"])
    report = lucidcam.evaluate(model, str(table), ["gradcam"], ["average_drop"], target="label", baselines=[], resamples=0)
    assert sorted(report.classes.values()) == [0, 1]
    assert report.classes[spelling] == 1
    data = read(str(table), classes=["1", "0"])
    assert (data.classes, data.labels.tolist()) == (("1", "0"), [[0, 1], [1, 0]])


def test_training_takes_folders_by_their_names(tmp_path):
    names = LISTS["ImageFolder"]
    for name in names:
        photo(tmp_path / name / "p.jpg")
    data = read(str(tmp_path))
    assert data.classes == tuple(names)
    assert [data.classes[row.argmax()] for row in data.labels] == [sample.labels[0] for sample in data.samples]
    first = read(str(tmp_path), classes=["10", *(name for name in names if name != "10")])
    assert [sample.labels for sample, row in zip(first.samples, first.labels, strict=True) if row[0]] == [("10",)]


# ---------------------------------------------------------------- accents


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", NAMING)
def test_accents_are_composed_or_apart(kind, form, tmp_path):
    word = unicodedata.normalize(form, "Épée_noire")
    (sample,) = open_data(NAMING[kind](tmp_path, word, PHOTO), **({"label": "txt"} if kind == "webdataset" else {}))
    assert sample.labels[0].replace("_", " ") == "Épée noire"
    for other in ("NFC", "NFD"):
        model = numbers(["x", unicodedata.normalize(other, "épée noire")])
        assert model.find_label(word) == 1
        assert ClassMap.of(model).resolve(sample.labels[0]) == 1
        assert ClassMap.of(model, {unicodedata.normalize(other, "épée noire"): 0}).resolve(sample.labels[0]) == 0
    assert fold(unicodedata.normalize("NFD", "É")) == fold("é")


@pytest.mark.parametrize(("listed", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_photos_are_found_however_their_names_are_written(listed, there, tmp_path):
    name, file = (unicodedata.normalize(form, "été.jpg") for form in (listed, there))
    stem = name.removesuffix(".jpg")
    photo(tmp_path / "coco/images" / file)
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}
    write(tmp_path / "coco/annotations/instances.json", json.dumps(content))
    photo(tmp_path / "voc/JPEGImages" / file)
    write(tmp_path / "voc/Annotations" / f"{stem}.xml", xml("cat", PHOTO))
    photo(tmp_path / "yolo/images" / file)
    write(tmp_path / "yolo/labels" / f"{stem}.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "yolo/data.yaml", "names: [cat]\n")
    photo(tmp_path / "masks/images" / file)
    (tmp_path / "masks/masks").mkdir()
    Image.new("L", PHOTO, 1).save(tmp_path / "masks/masks" / f"{stem}.png")
    photo(tmp_path / "table" / file)
    write(tmp_path / "table/l.csv", f"image,label\n{name},cat\n")
    for source in (tmp_path / "coco", tmp_path / "voc", tmp_path / "yolo", tmp_path / "masks", tmp_path / "table/l.csv"):
        (sample,) = open_data(source)
        assert isinstance(sample, Sample), sample
        assert images.read(sample.image)[0].size == PHOTO
        assert source.name == "coco" or sample.labels


# ---------------------------------------------------------------- poses, oriented boxes, outlines without area


def yolo_of(root, text, yaml="names: [cat, dog]"):
    photo(root / "images/train/p.jpg")
    write(root / "labels/train/p.txt", text)
    write(root / "data.yaml", f"train: images/train\n{yaml}\n")
    found = list(open_data(root))
    return [each for each in found if isinstance(each, Sample)], [each.error for each in found if isinstance(each, Problem)]


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("[3, 2]", "0.45 0.45 0.55 0.45 0.55 0.55"),
        ("[2, 3]", "0.45 0.45 1 0.55 0.45 1"),
        ("[1, 2]", "0.1 0.9"),
        ("[2, 2]", "0 0 0.9 0.9"),
        ("[1, 3]", "0 0 0"),
        ("[17, 3]", " ".join(["0.5 0.5 2"] * 17)),
    ],
)
def test_the_object_of_a_pose_is_its_box(shape, points, tmp_path):
    (sample,), problems = yolo_of(tmp_path, f"0 0.5 0.5 0.2 0.2 {points}\n", f"kpt_shape: {shape}\nnames: [cat]")
    assert not problems
    assert [(thing.label, thing.mask) for thing in sample.objects] == [("cat", None)]
    assert sample.objects[0].box == pytest.approx((32, 16, 48, 24))


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("0 0.5 0.5 0.2 0.2", "expected 11 columns"),
        ("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5", "got 10"),
        ("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5 2 0.9", "got 12"),
        ("0 0.5 0.5 0.2 0.2 0.4 0.4 40 0.5 0.5 2", "visibility"),
        ("0 0.5 0.5 0.2 0.2 0.4 40 2 0.5 0.5 2", "in 0–1"),
    ],
)
def test_columns_of_poses(line, part, tmp_path):
    samples, problems = yolo_of(tmp_path, f"{line}\n", "kpt_shape: [2, 3]\nnames: [cat]")
    assert not samples
    assert "p.txt, line 1" in problems[0]
    assert part in problems[0]


@pytest.mark.parametrize("yaml", ["kpt_shape: [3]", "kpt_shape: [0, 2]", "kpt_shape: [17, 4]", "kpt_shape: many", "flip_idx: [0, 1]"])
def test_shapes_of_poses(yaml, tmp_path):
    with pytest.raises(DataError, match="kpt_shape"):
        yolo_of(tmp_path, "0 0.5 0.5 0.2 0.2\n", f"{yaml}\nnames: [cat]")


def test_oriented_boxes_are_outlines(tmp_path):
    (sample,), problems = yolo_of(tmp_path, "0.0 0.5 0.1 0.75 0.5 0.5 0.9 0.25 0.5\n")  # class 0 as NumPy writes it
    assert not problems
    (thing,) = sample.objects
    assert thing.box == pytest.approx((20, 4, 60, 36))
    y, x = np.mgrid[:40, :80] + 0.5
    assert np.array_equal(thing.mask(), np.abs(x - 40) / 20 + np.abs(y - 20) / 16 < 1)


@pytest.mark.parametrize(
    "line",
    ["1 0.1 0.1 0.2 0.2 0.3 0.3", "1 0.1 0.1 0.1 0.1 0.1 0.1", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1", "1 0.5 0.5 0 0.2"],
    ids=["a line", "a point", "odd", "no width"],
)
def test_an_outline_without_area_leaves_out_its_object_only(line, tmp_path):
    (sample,), problems = yolo_of(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n")
    assert [thing.label for thing in sample.objects] == ["cat"]
    assert sample.labels == ("cat", "dog")  # it is in the image, only where is not known
    assert len(problems) == 1
    assert "line 2 of images/train/p.jpg" in problems[0]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, False),
        ({"segmentation": [[1, 1, 2, 2, 3, 3]]}, False),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, False),
        ({"segmentation": [[1, 2, 5, 2, 5, 5, 1]]}, False),
        ({"segmentation": [[1, 2, 3, 4], [1, 2, 5, 2, 5]]}, False),
        ({"bbox": [5, 5, 0, 3]}, False),
        ({"segmentation": [[]]}, True),
        ({"segmentation": []}, True),
        ({"segmentation": [[1, 2, 3, 4], [1, 2, 5, 2, 5, 5, 1, 5]]}, True),
        ({"segmentation": [[1, 2, 5, 5, 5, 2, 1, 5]]}, True),  # a figure of eight
        ({"category_id": 1.0, "image_id": 1.0}, True),
    ],
)
def test_coco_leaves_out_one_object_only(change, left, tmp_path):
    root = coco(tmp_path, "cat", PHOTO)
    content = json.loads((root / "annotations/instances.json").read_text())
    content["annotations"].append({"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 6, 6], **change})
    write(root / "annotations/instances.json", json.dumps(content))
    sample, *problems = open_data(root)
    assert [thing.box for thing in sample.fitted(*PHOTO).objects] == [(5, 5, 35, 35)] + [(1, 1, 7, 7)] * left
    assert [("annotation 2" in each.error, "p.jpg" in each.name) for each in problems] == [(True, True)] * (not left)


# ---------------------------------------------------------------- one object does not discard its image


EMPTY = {
    "voc": "<object><name>{}</name><bndbox><xmin>10</xmin><ymin>6</ymin><xmax>8</xmax><ymax>30</ymax></bndbox></object>",
    "csv": "p.jpg,{},5,5,5,20\n",
    "jsonl": '{{"image": "p.jpg", "boxes": [[9, 5, 5, 20, "{}"]]}}\n',
    "coco": '{{"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 20, -10, 10]}}, ',
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_box_without_area_is_left_out_and_the_others_stay(kind, tmp_path):
    photo(tmp_path / "p.jpg")
    entry = EMPTY[kind].format("dog")
    if kind == "voc":
        write(tmp_path / "p.xml", f"<annotation>{entry}{entry.replace('<xmax>8', '<xmax>20')}</annotation>")
    elif kind == "csv":
        write(tmp_path / "t.csv", f"image,label,xmin,ymin,xmax,ymax\n{entry}{entry.replace('5,5,5', '5,5,9')}")
    elif kind == "jsonl":
        write(tmp_path / "t.jsonl", f"{entry}{entry.replace('[9', '[1')}")
    else:
        text = f'"annotations": [{entry}{entry.replace("-10, 10", "10, 10").rstrip(", ")}], "categories": [{{"id": 1, "name": "dog"}}]'
        write(tmp_path / "instances.json", f'{{"images": [{{"id": 1, "file_name": "p.jpg"}}], {text}}}')
    sample, problem = open_data({"csv": tmp_path / "t.csv", "jsonl": tmp_path / "t.jsonl"}.get(kind, tmp_path))
    assert isinstance(sample, Sample)
    assert isinstance(problem, Problem)
    assert sample.labels == ("dog",)
    assert len(sample.fitted(*PHOTO).objects) == 1
    assert problem.name == "p.jpg, object 1"
    assert "left out, the others stay" in problem.error
    assert "'dog' is empty" in problem.error


def test_masks_of_objects_keep_their_numbers_when_one_is_left_out(tmp_path):
    photo(tmp_path / "JPEGImages/p.jpg")
    entries = [EMPTY["voc"].format("dog"), EMPTY["voc"].format("cat").replace("<xmax>8", "<xmax>20")]
    write(tmp_path / "Annotations/p.xml", f"<annotation>{''.join(entries)}</annotation>")
    values = np.zeros(PHOTO[::-1], np.uint8)
    values[6:30, 10:20] = 2
    (tmp_path / "SegmentationObject").mkdir()
    Image.fromarray(values).save(tmp_path / "SegmentationObject/p.png")
    sample, problem = open_data(tmp_path)
    assert problem.name.endswith("object 1")
    (thing,) = sample.objects
    assert (thing.label, int(thing.mask().sum())) == ("cat", 240)


# ---------------------------------------------------------------- names as they are written


@pytest.mark.parametrize(
    "names", [["yes", "no"], ["on", "off"], ["007", "1.0"], ["0x10", "1_000"], ["2020-01-02", "1e3"], ["true", "12:30"]]
)
@pytest.mark.parametrize("form", ["list", "mapping", "mapping of floats"])
def test_names_in_yaml_stay_as_they_are_written(names, form, tmp_path):
    pytest.importorskip("yaml")
    photo(tmp_path / "images/p.jpg")
    write(tmp_path / "labels/p.txt", "0 .5 .5 .2 .2\n1.0 .5 .5 .2 .2\n")
    keys = ["0", "1"] if form == "mapping" else ["0.0", "1.0"]
    text = (
        f"[{', '.join(names)}]" if form == "list" else f"{{{', '.join(f'{key}: {name}' for key, name in zip(keys, names, strict=True))}}}"
    )
    write(tmp_path / "data.yaml", f"nc: 2\ntrain: images\nval:\ntest: null\nnames: {text}\n")
    data = open_data(tmp_path)
    assert data.classes == tuple(names)
    assert [sample.labels for sample in data] == [tuple(names)]


def test_coco_may_call_a_class_by_a_number(tmp_path):
    content = json.loads(coco(tmp_path, "x", PHOTO).joinpath("annotations/instances.json").read_text())
    content["categories"][0]["name"] = 10
    write(tmp_path / "annotations/instances.json", json.dumps(content))
    (sample,) = open_data(tmp_path)
    assert sample.labels == ("10",)
    assert not isinstance(sample.labels[0], ClassId)


@pytest.mark.parametrize(("folder", "labels"), [("JPEGImages", "labels"), ("imgs", "labels"), ("Images", "Labels"), ("images", "labels")])
@pytest.mark.parametrize("inner", ["", "train/"])
def test_yolo_takes_the_labels_beside_any_folder_of_images(folder, labels, inner, tmp_path):
    photo(tmp_path / f"{folder}/{inner}p.jpg")
    write(tmp_path / f"{labels}/{inner}p.txt", "0 .5 .5 .2 .2\n")
    write(tmp_path / "data.yaml", f"train: {folder}\nnames: [cat]\n")
    assert [sample.labels for sample in open_data(tmp_path)] == [("cat",)]


def test_yolo_without_any_text_file_says_so(tmp_path):
    photo(tmp_path / "images/p.jpg")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    sample, problem = open_data(tmp_path / "data.yaml")
    assert sample.labels == ()
    assert "no image has a text file" in problem.error


@pytest.mark.parametrize(("outer", "inner"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_folders_and_files_may_write_accents_unlike(outer, inner, tmp_path):
    folder, name = unicodedata.normalize(outer, "été"), unicodedata.normalize(inner, "café.jpg")
    photo(tmp_path / folder / name)
    for form in ("NFC", "NFD"):
        table = write(tmp_path / f"{form}.csv", unicodedata.normalize(form, "image,label\nété/café.jpg,cat\n"))
        assert [sample.labels for sample in open_data(table)] == [("cat",)]


@pytest.mark.parametrize("folder", ["SegmentationObject", "SegmentationClass"])
def test_masks_of_voc_may_write_accents_unlike(folder, tmp_path):
    photo(tmp_path / "JPEGImages" / unicodedata.normalize("NFD", "café.jpg"))
    entry = EMPTY["voc"].format("aeroplane").replace("<xmax>8", "<xmax>20")
    write(tmp_path / "Annotations" / unicodedata.normalize("NFC", "café.xml"), f"<annotation>{entry}</annotation>")
    (tmp_path / folder).mkdir()
    Image.new("L", PHOTO, 1).save(tmp_path / folder / unicodedata.normalize("NFC", "café.png"))
    (sample,) = open_data(tmp_path)
    assert sample.objects[0].mask is not None


# ---------------------------------------------------------------- mask files that are none


def mask_of_fractions(path):
    Image.fromarray(np.linspace(0, 1, PHOTO[0] * PHOTO[1], dtype=np.float32).reshape(PHOTO[::-1])).save(path.with_suffix(".tiff"))


def mask_of_a_jpeg(path):
    values = np.zeros(PHOTO[::-1], np.uint8)
    values[5:9, 5:10] = 255
    Image.fromarray(values).save(path.with_suffix(".jpg"))


def mask_in_the_transparency(path):
    values = np.zeros((*PHOTO[::-1], 4), np.uint8)
    values[5:9, 5:10, 3] = 255
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("make", "reason"), [(mask_of_fractions, "fractions"), (mask_of_a_jpeg, "JPEG"), (mask_in_the_transparency, "transparency")]
)
def test_masks_whose_values_are_lost_are_refused(make, reason, tmp_path):
    photo(tmp_path / "images/p.jpg")
    (tmp_path / "masks").mkdir()
    make(tmp_path / "masks/p.png")
    (problem,) = open_data(tmp_path)
    assert reason in problem.error


def test_a_mask_of_a_turned_photo_says_so(tmp_path):
    photo(tmp_path / "images/p.jpg", 6)
    (tmp_path / "masks").mkdir()
    Image.new("L", PHOTO, 1).save(tmp_path / "masks/p.png")
    (problem,) = open_data(tmp_path)
    assert "80×40" in problem.error
    assert "40×80" in problem.error
    assert "EXIF" in problem.error
