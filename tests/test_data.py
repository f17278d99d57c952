"""Every data format: what it recognises, the numbers it reads, and what it says of what it cannot use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lucidcam import registry
from lucidcam.data import Dataset, open_data
from lucidcam.data.class_map import ClassMap
from lucidcam.data.voc import CLASSES
from lucidcam.errors import DataError, OptionError
from lucidcam.samples import Object, Problem, Sample
from lucidcam.types import Model

WIDTH, HEIGHT = 12, 10


def picture(path, size=(WIDTH, HEIGHT), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, **options)
    return path


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def block(value, rows, columns):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[rows, columns] = value
    return values


def taken(dataset):
    """Samples by name, and the problems' errors by name."""
    found = list(dataset)
    samples, problems = ([each for each in found if isinstance(each, kind)] for kind in (Sample, Problem))
    assert len({each.name for each in found}) == len(found)
    assert all("\n" not in each.error for each in problems)
    return {each.name: each for each in samples}, {each.name: each.error for each in problems}


def refused(source, *parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        open_data(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


# ---------------------------------------------------------------- one small data set per format


def xml(*objects, filename=""):
    body = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult>"
        f"<part><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
        f"<bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin><ymin>{y0}</ymin><ymax>{y1}</ymax></bndbox></object>"
        for name, hard, x0, y0, x1, y1 in objects
    )
    return f"<annotation><filename>{filename}</filename>{body}</annotation>"


def make_folder(root):
    for name in ("cat/10.png", "cat/2.JPG", "dog/deep/1.png", "loose.png", ".hidden/x.png", "dog/.y.png"):
        picture(root / name)
    (root / "empty").mkdir()
    return root


def make_table(root):
    picture(root / "a.png")
    picture(root / "b.png")
    return write(root / "labels.csv", "image,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,5,6\nb.png,dog,,,,\na.png,dog|cow,,,,\n")


def make_voc(root):
    picture(root / "JPEGImages/1.jpg")
    write(root / "Annotations/1.xml", xml(("cat", 0, 1, 2, 12, 10), ("dog", 1, 3, 3, 3, 4.5)))
    write(root / "ImageSets/Main/val.txt", "1\n")
    return root


def make_coco(root, **changes):
    picture(root / "val2017/a.png")
    picture(root / "val2017/b.png")
    content = {
        "info": {},
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 4, 3], "segmentation": [[1, 2, 5, 2, 5, 5, 1, 5]]},
            {"id": 2, "image_id": 7, "category_id": 8, "bbox": [0, 0, 2, 10], "iscrowd": 1,
             "segmentation": {"counts": [0, 20, 100], "size": [HEIGHT, WIDTH]}},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
    }  # fmt: skip
    return write(root / "annotations/instances_val2017.json", json.dumps({**content, **changes}))


def make_yolo(root):
    picture(root / "images/a.png")
    picture(root / "images/b.png")
    write(root / "labels/a.txt", "1 0.5 0.5 0.5 0.2\n0 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6\n")
    write(root / "data.yaml", "names:\n  0: cat\n  1: dog\n")
    return root


def make_ilsvrc(root):
    picture(root / "Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG")
    boxes = xml(("n02123045", 0, 0, 0, 11, 9), filename="ILSVRC2012_val_00000001")
    write(root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", boxes)
    return root


def make_cub(root):
    for name in ("001.Black_footed_Albatross/a.jpg", "002.Laysan_Albatross/b.jpg"):
        picture(root / "images" / name)
    write(root / "images.txt", "1 001.Black_footed_Albatross/a.jpg\n2 002.Laysan_Albatross/b.jpg\n")
    write(root / "image_class_labels.txt", "1 1\n2 2\n")
    write(root / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    write(root / "bounding_boxes.txt", "1 2.0 1.0 5.0 4.5\n2 0.0 0.0 12.0 10.0\n")
    write(root / "train_test_split.txt", "1 0\n2 1\n")
    return root


def make_wsol(root):
    picture(root / "dataset/CUB/x/a.jpg")
    write(root / "metadata/CUB/val/image_ids.txt", "x/a.jpg\n")
    write(root / "metadata/CUB/val/class_labels.txt", "x/a.jpg,17\n")
    write(root / "metadata/CUB/val/image_sizes.txt", f"x/a.jpg,{WIDTH},{HEIGHT}\n")
    write(root / "metadata/CUB/val/localization.txt", "x/a.jpg,1,2,5,6\nx/a.jpg,0,0,11,9\n")
    return root / "metadata/CUB/val"


def make_masks(root):
    picture(root / "images/a.png")
    png(root / "masks/a.png", block(2, slice(1, 3), slice(4, 9)) + block(255, slice(8, 10), slice(0, 3)))
    write(root / "classes.txt", "1: cat\n2: dog\n")
    return root


MADE = {
    "folder": make_folder,
    "table": make_table,
    "voc": make_voc,
    "coco": make_coco,
    "yolo": make_yolo,
    "ilsvrc": make_ilsvrc,
    "cub": make_cub,
    "wsol": make_wsol,
    "masks": make_masks,
}


@pytest.mark.parametrize("name", MADE)
def test_the_format_is_recognised(name, tmp_path):
    source = MADE[name](tmp_path)
    for given in (source, str(source)):
        dataset = open_data(given)
        assert dataset.format == name
    samples, problems = taken(dataset)
    assert samples
    assert not problems
    assert list(samples) == list(taken(dataset)[0])  # as often as asked
    assert dataset.count in (None, len(samples))
    for sample in samples.values():
        fitted = sample.fitted(WIDTH, HEIGHT)
        assert all(each.box is None or min(each.box) >= 0 for each in fitted.objects)
        assert all(each.mask is None or each.mask().shape == (HEIGHT, WIDTH) for each in fitted.objects)
        assert sample.ignore is None or sample.ignore().shape == (HEIGHT, WIDTH)
    assert open_data(dataset) is dataset


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("coco", lambda root: make_coco(root) and root),
        ("yolo", lambda root: make_yolo(root) / "data.yaml"),
        ("voc", lambda root: make_voc(root / "VOCdevkit/VOC2007") and root),
        ("voc", lambda root: make_voc(root / "VOC2012") and root),
        ("cub", lambda root: make_cub(root / "CUB_200_2011") and root),
        ("wsol", lambda root: make_wsol(root).parent),
        ("images", lambda root: [picture(root / "a.png")]),
    ],
)
def test_other_ways_in(name, source, tmp_path):
    assert open_data(source(tmp_path), **({"split": "val"} if name == "wsol" else {})).format == name


def test_opening_says_what_is_wrong(tmp_path):
    refused(tmp_path / "none", "does not exist")
    refused(tmp_path, "no images", ".jpeg")
    refused(7, "a int is no data set", "voc (Pascal VOC")
    refused(write(tmp_path / "a.json", '{"cat": 1}'), "no data set that is known")
    refused(tmp_path, "did you mean 'coco'", format="coc", error=OptionError)
    refused(make_folder(tmp_path), "did you mean 'split'", splt="x")
    for name in MADE:
        refused([], f"{name}: expected", format=name)
    refused(tmp_path, "expected a list", format="images")


@pytest.mark.parametrize("name", [*MADE, "hf", "images"])
def test_recognising_never_raises(name, tmp_path):
    kind = registry.formats[name]()
    (tmp_path / "annotations").write_bytes(b"\0")
    for source in (None, 5, "text", b"", {}, object(), tmp_path / "none", tmp_path / "annotations", write(tmp_path / "a.xml", "<")):
        assert kind.recognises(source) is False
    assert kind.about


# ---------------------------------------------------------------- folder, images


def test_one_image_is_a_data_set(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    dataset = open_data(tmp_path / "one.png")
    assert (dataset.format, dataset.count, [each.name for each in dataset]) == ("images", 1, [str(tmp_path / "one.png")])


def test_a_box_that_lacks_a_column_is_no_box(tmp_path):
    path = write(tmp_path / "a.csv", "image,label,xmin,ymin,xmax\na.png,cat,1,2,3\n")
    with pytest.raises(DataError, match="ymax is missing"):
        list(open_data(path))


def test_a_mask_value_that_the_classes_do_not_name_is_a_problem(tmp_path):
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (4, 4), 9 if mode == "L" else 0).save(tmp_path / folder / "a.png")
    write(tmp_path / "classes.txt", "1: cat\n2: dog\n")
    assert "holds the value 9, and the classes file names 1 to 2" in taken(open_data(tmp_path))[1]["images/a.png"]


def test_folder(tmp_path):
    dataset = open_data(make_folder(tmp_path))
    samples, _ = taken(dataset)
    assert {name: each.labels for name, each in samples.items()} == {
        "cat/2.JPG": ("cat",),
        "cat/10.png": ("cat",),
        "dog/deep/1.png": ("dog",),
        "loose.png": (),
    }
    assert list(samples)[:2] == ["cat/2.JPG", "cat/10.png"]
    assert dataset.classes == ("cat", "dog", "empty")


def test_folder_of_parts_and_of_one_images_folder(tmp_path):
    for part in ("train", "val"):
        picture(tmp_path / "a" / part / "n02123045" / "1.png")
    refused(tmp_path / "a", "train, val", "split=")
    assert [each.labels for each in open_data(tmp_path / "a", split="val")] == [("n02123045",)]
    refused(tmp_path / "a", "no sub-folder 'test'", split="test")
    picture(tmp_path / "b/images/1.png")
    assert [each.labels for each in open_data(tmp_path / "b")] == [()]


def test_images(tmp_path):
    path = picture(tmp_path / "a.png")
    given = [path, Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), path.read_bytes(), tmp_path / "gone.png"]
    samples, problems = taken(open_data(given))
    assert list(samples) == [str(path), "image 1", "image 2", "image 3", "image 4"]
    assert "does not exist" in problems[str(tmp_path / "gone.png")]
    assert open_data([]).count == 0
    mine = (Sample(path, "one", ("cat",)), Problem("two", "no"))
    assert tuple(open_data(mine)) == mine
    refused([mine[0], mine[0]], "'one'")
    refused([path, path], "more than once")
    refused([path, 5], "entry 1 is a int")


# ---------------------------------------------------------------- table


def test_table(tmp_path):
    samples, _ = taken(open_data(make_table(tmp_path)))
    assert samples["a.png"].labels == ("cat", "dog", "cow")
    assert [(each.label, each.box) for each in samples["a.png"].objects] == [("cat", (1, 2, 5, 6))]
    assert (samples["b.png"].labels, samples["b.png"].objects) == (("dog",), ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "Path\tclass\tx\ty\tw\th\na.png\tcat\t1\t2\t3\t4\n"),
        ("t.csv", "filename;label;x;y;w;h\r\na.png;cat;1;2;3;4\r\n"),
        ("t.csv", '\ufefffile,label,xmin,ymin,xmax,ymax,width,height\n"a.png",cat,1,2,4,6,12,10\n'),
        ("t.jsonl", '{"image": "a.png", "labels": ["cat"], "boxes": [[1, 2, 4, 6]]}\n'),
        ("t.jsonl", '{"image": "a.png", "boxes": [[1, 2, 4, 6, "cat"]]}\n'),
        ("t.jsonl", '{"image": "a.png", "boxes": [{"box": [1, 2, 4, 6], "label": "cat"}]}\n'),
        ("t.jsonl", '{"path": "a.png", "label": "cat", "x": 1, "y": 2, "w": 3, "h": 4}\n'),
    ],
)
def test_table_spellings(name, text, tmp_path):
    picture(tmp_path / "a.png")
    (sample,) = open_data(write(tmp_path / name, text))
    assert sample.labels == ("cat",)
    assert [(each.label, each.box) for each in sample.objects] == [("cat", (1, 2, 4, 6))]


def test_a_table_that_calls_one_class_1_and_1_0_has_one_class(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    rows = "image,label,x,y,w,h\na.png,0,1,2,3,4\nb.png,0.0,1,2,3,4\nc.png,1.0|0.0|1.50,,,,\n"
    dataset = open_data(write(tmp_path / "t.csv", rows))
    samples, _ = taken(dataset)
    assert dataset.classes == ("0", "1.0", "1.50")
    assert [samples[f"{name}.png"].labels for name in "abc"] == [("0",), ("0",), ("1.0", "0", "1.50")]
    assert [each.label for each in samples["b.png"].objects] == ["0"]
    lines = "".join(f'{{"image": "{name}.png", "label": {label}}}\n' for name, label in zip("abc", ("1", "1.0", '"1"'), strict=True))
    dataset = open_data(write(tmp_path / "t.jsonl", lines))
    assert dataset.classes == ("1",)
    assert {each.labels for each in dataset} == {("1",)}


def test_table_tells_the_line(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    rows = "image,label,x,y,w,h\na.png,cat,1,2,3,4\nb.png,cat,1,2,3\nc.png,cat,1,two,3,4\nd.png,,1,2,3,4\nnone.png,cat,,,,\n,cat,,,,\n"
    samples, problems = taken(open_data(write(tmp_path / "t.csv", rows)))
    assert list(samples) == ["a.png"]
    assert "line 3: expected 6 values" in problems["b.png"]
    assert "line 4: expected a box of 4 numbers" in problems["c.png"]
    assert "line 5: the box has no label" in problems["d.png"]
    assert "does not exist" in problems["none.png"]
    assert "names no image" in problems["t.csv, line 7"]
    samples, problems = taken(open_data(write(tmp_path / "t.jsonl", '{"image": "a.png"}\n{"image": "b.p\n{"label": "cat"}\n')))
    assert list(samples) == ["a.png"]
    assert "cut off" in problems["t.jsonl, line 2"]
    assert "expected a JSON object" in problems["t.jsonl, line 3"]


def test_table_in_a_wrong_format(tmp_path):
    refused(write(tmp_path / "t.csv", "name,label\na,b\n"), "line 1", "column image")
    refused(write(tmp_path / "t.csv", ""), "line 1")
    refused(write(tmp_path / "t.csv", 'image,label\n"a.png"x,b\n'), "line 2")
    refused(write(tmp_path / "t.jsonl", '{"label": "cat"}\n'), "line 1", "JSON object")
    refused(picture(tmp_path / "t.png").rename(tmp_path / "t.csv"), "no text")
    (tmp_path / "z.csv").write_bytes(b"image\0\n")
    refused(tmp_path / "z.csv", "zero bytes")


def test_table_with_images_elsewhere(tmp_path):
    picture(tmp_path / "pictures/a.png")
    table = write(tmp_path / "t.csv", "image\na.png\n")
    assert [each.name for each in open_data(table, images=str(tmp_path / "pictures"))] == ["a.png"]
    refused(table, "no folder", images=str(tmp_path / "none"))


# ---------------------------------------------------------------- voc, ilsvrc


def test_voc_boxes_start_at_one_and_include_their_last_pixel(tmp_path):
    (sample,) = open_data(make_voc(tmp_path))
    assert sample.name == "JPEGImages/1.jpg"
    assert sample.labels == ("cat", "dog")
    assert [(each.box, each.difficult) for each in sample.objects] == [((0, 1, 12, 10), False), ((2, 2, 3, 4.5), True)]


def test_voc_splits(tmp_path):
    make_voc(tmp_path)
    for name in ("2", "3"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        write(tmp_path / f"Annotations/{name}.xml", xml())
    write(tmp_path / "ImageSets/Main/cat_val.txt", "1  1\n2 -1\n3  0\n")
    write(tmp_path / "ImageSets/Segmentation/val.txt", "2\n9\n")
    names = {split: list(taken(open_data(tmp_path, split=split))[0]) for split in ("", "val", "cat_val", "Segmentation/val")}
    assert {split: [name[11] for name in found] for split, found in names.items()} == {
        "": ["1", "2", "3"],
        "val": ["1"],
        "cat_val": ["1", "3"],
        "Segmentation/val": ["2"],
    }
    assert "a list names it" in taken(open_data(tmp_path, split="Segmentation/val"))[1]["9"]
    refused(tmp_path, "no split 'test'", "there are val", split="test")


def test_voc_masks(tmp_path):
    make_voc(tmp_path)
    instances = block(1, slice(1, 4), slice(0, 5)) + block(2, slice(6, 8), slice(6, 9)) + block(255, slice(9, 10), slice(0, 2))
    classes = instances.copy()
    for i, name in enumerate(("cat", "dog"), start=1):
        classes[instances == i] = CLASSES.index(name) + 1
    palette = Image.fromarray(classes)
    palette.putpalette(list(range(255, -1, -1)) * 3)  # colours that tell nothing of the values
    (tmp_path / "SegmentationClass").mkdir()
    palette.save(tmp_path / "SegmentationClass/1.png")
    (sample,) = open_data(tmp_path)
    cat, dog = (each.mask() for each in sample.objects)
    assert np.array_equal(cat, instances == 1)
    assert dog.sum() == 0  # the dog's box is elsewhere: a class's mask is cut to the object's box
    assert np.array_equal(sample.ignore(), instances == 255)
    png(tmp_path / "SegmentationObject/1.png", instances)
    (sample,) = open_data(tmp_path)
    assert [np.array_equal(each.mask(), instances == i) for i, each in enumerate(sample.objects, start=1)] == [True, True]
    assert all(each.box is not None for each in sample.objects)
    assert np.array_equal(sample.ignore(), instances == 255)


def test_voc_in_loose_folders(tmp_path):
    picture(tmp_path / "a/images/1.png")
    write(tmp_path / "a/annotations/1.xml", xml(("cat", 0, 1, 1, 2, 2), filename="renamed.jpg"))
    picture(tmp_path / "b/2.png")
    write(tmp_path / "b/2.xml", xml(("cat", 0, 1, 1, 2, 2)))
    picture(tmp_path / "c/images/sub/3.png")
    write(tmp_path / "c/annotations/other.xml", xml(("cat", 0, 1, 1, 2, 2), filename="3.png"))
    for folder, name in (("a", "images/1.png"), ("b", "2.png"), ("c", "images/sub/3.png")):
        dataset = open_data(tmp_path / folder)
        assert (dataset.format, [each.name for each in dataset]) == ("voc", [name])
    (tmp_path / "c/images").rename(tmp_path / "elsewhere")
    assert [each.name for each in open_data(tmp_path / "c", images=str(tmp_path / "elsewhere"))] == ["sub/3.png"]


def test_voc_problems(tmp_path):
    make_voc(tmp_path)
    for name in ("2", "3", "4", "5"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
    write(tmp_path / "Annotations/2.xml", xml(("cat", 0, 1, 1, 2, 2))[:-30])
    write(tmp_path / "Annotations/3.xml", xml(("", 0, 1, 1, 2, 2)))
    write(tmp_path / "Annotations/4.xml", xml(("cat", 0, "one", 1, 2, 2)))
    write(tmp_path / "Annotations/6.xml", xml(("cat", 0, 1, 1, 2, 2)))
    samples, problems = taken(open_data(tmp_path))
    assert list(samples) == ["JPEGImages/1.jpg"]
    assert "2.xml is no XML" in problems["JPEGImages/2.jpg"]
    assert "object 1: it has no <name>" in problems["JPEGImages/3.jpg"]
    assert "xmin=one" in problems["JPEGImages/4.jpg"]
    assert "no XML file" in problems["JPEGImages/5.jpg"]
    assert "no image 6.jpg" in problems["6"]
    assert len(problems) == 5


def test_voc_refuses(tmp_path):
    refused(make_folder(tmp_path / "a"), "no XML files", "Annotations/*.xml", format="voc")
    make_voc(tmp_path / "b/VOC2007")
    make_voc(tmp_path / "b/VOC2012")
    refused(tmp_path / "b", "VOC2007, VOC2012")


def test_ilsvrc_boxes_start_at_zero(tmp_path):
    (sample,) = open_data(make_ilsvrc(tmp_path))
    assert (sample.labels, sample.objects[0].box) == (("n02123045",), (0, 0, 12, 10))


def test_ilsvrc_training_set(tmp_path):
    make_ilsvrc(tmp_path)
    for name in ("1", "2"):
        picture(tmp_path / f"Data/CLS-LOC/train/n02123045/n02123045_{name}.JPEG")
    write(tmp_path / "Annotations/CLS-LOC/train/n02123045/n02123045_1.xml", xml(("n02123045", 0, 2, 2, 5, 5)))
    picture(tmp_path / "Data/CLS-LOC/train/stray.JPEG")
    samples, problems = taken(open_data(tmp_path, split="train"))
    assert [(each.labels, len(each.objects)) for each in samples.values()] == [(("n02123045",), 1), (("n02123045",), 0)]
    assert list(problems) == ["Data/CLS-LOC/train/stray.JPEG"]
    refused(tmp_path, "no annotations", "CLS-LOC/test", split="test")


def test_ilsvrc_in_flat_folders(tmp_path):
    picture(tmp_path / "images/v1.JPEG")
    write(tmp_path / "annotations/v1.xml", xml(("n02123045", 0, 0, 0, 3, 3), ("n02123045", 0, 4, 4, 5, 5)))
    dataset = open_data(tmp_path)
    assert (dataset.format, [len(each.objects) for each in dataset]) == ("ilsvrc", [2])
    make_ilsvrc(tmp_path / "whole")
    (tmp_path / "whole/Data").rename(tmp_path / "pictures")
    assert taken(open_data(tmp_path / "whole", images=str(tmp_path / "pictures")))[0]


# ---------------------------------------------------------------- coco


def test_coco(tmp_path):
    dataset = open_data(make_coco(tmp_path))
    samples, _ = taken(dataset)
    assert (dataset.name, dataset.classes, dataset.count) == ("instances_val2017", ("cat", "dog"), 2)
    first = samples["a.png"]
    assert first.labels == ("cat", "dog")
    (cat,) = first.objects
    assert cat.box == (1, 2, 5, 5)
    assert np.array_equal(cat.mask(), block(1, slice(2, 5), slice(1, 5)))
    assert np.array_equal(first.ignore(), block(1, slice(0, 10), slice(0, 2)))  # run lengths go down the columns
    assert (samples["b.png"].labels, samples["b.png"].objects, samples["b.png"].ignore) == ((), (), None)


def test_coco_masks_in_all_spellings(tmp_path):
    coder = pytest.importorskip("pycocotools.mask")
    values = block(1, slice(2, 5), slice(3, 7))
    packed = coder.encode(np.asfortranarray(values))
    counts = [3 * HEIGHT + 2, 3, 7, 3, 7, 3, 7, 3]
    for segmentation in (
        {"counts": packed["counts"].decode(), "size": [HEIGHT, WIDTH]},
        {"counts": [*counts, HEIGHT * WIDTH - sum(counts)], "size": [HEIGHT, WIDTH]},
        [[3, 2, 5, 2, 5, 5, 3, 5], [5, 2, 7, 2, 7, 5, 5, 5]],
    ):
        changed = [{"id": 1, "image_id": 9, "category_id": 3, "segmentation": segmentation}]
        samples, _ = taken(open_data(make_coco(tmp_path, annotations=changed)))
        assert np.array_equal(samples["b.png"].objects[0].mask(), values)  # the entry has no size: it is read from the image
        assert samples["b.png"].objects[0].box is None


def test_coco_run_lengths_agree_with_pycocotools():
    from lucidcam.data.coco import _painted, unpack

    coder = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 0.99, 1):
        for height, width in ((1, 1), (7, 300), (301, 5)):
            values = generator.random((height, width)) < share
            packed = coder.encode(np.asfortranarray(values.astype(np.uint8)))
            assert np.array_equal(_painted(unpack(packed["counts"].decode()), height, width), values)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"category_id": 5}, "category_id 5"),
        ({"bbox": [1, 2, 3]}, "box of 4 numbers"),
        ({"bbox": [1, 2, None, 4]}, "box of 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "polygons of numbers"),
        ({"segmentation": {"counts": [5], "size": [10, 12]}}, "add up to 5"),
        ({"segmentation": {"counts": "0480", "size": [10, 12]}}, "add up to 16"),
        ({"segmentation": {"counts": [-5, 125], "size": [10, 12]}}, "from 0 on"),
        ({"segmentation": {"counts": [5]}}, "run lengths"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "polygons of numbers"),
    ],
)
def test_coco_problems(change, part, tmp_path):
    annotation = {"id": 4, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]} | change
    samples, problems = taken(open_data(make_coco(tmp_path, annotations=[annotation])))
    assert list(samples) == ["b.png"]
    assert "annotation 4" in problems["a.png"]
    assert part in problems["a.png"]


def test_coco_whole_file(tmp_path):
    path = make_coco(tmp_path, annotations=[{"id": 1, "image_id": 55, "category_id": 3, "bbox": [1, 2, 3, 4]}])
    (tmp_path / "val2017/b.png").unlink()
    samples, problems = taken(open_data(path))
    assert list(samples) == ["a.png"]
    assert "does not exist" in problems["b.png"]
    assert "1 annotations" in problems[path.name]
    (tmp_path / "val2017").rename(tmp_path / "moved")
    refused(path, "images=", str(tmp_path / "val2017"))
    assert taken(open_data(path, images=str(tmp_path / "moved")))[0]
    write(tmp_path / "annotations/instances_train2017.json", path.read_text())
    refused(tmp_path, "instances_train2017.json, instances_val2017.json", "split=")
    assert open_data(tmp_path, split="val", images=str(tmp_path / "moved")).name == "instances_val2017"
    refused(tmp_path, "'test'", split="test", format="coco")
    text = path.read_text()
    refused(write(path, text[: len(text) // 2]), "no JSON", "cut off")
    refused(write(path, '{"images": []}'), "no lists images, annotations and categories")
    assert open_data(make_coco(tmp_path, images=[], annotations=[])).count == 0


# ---------------------------------------------------------------- yolo


def test_yolo(tmp_path):
    dataset = open_data(make_yolo(tmp_path))
    samples, _ = taken(dataset)
    dog, cat = samples["images/a.png"].objects
    assert (dog.label, dog.mask) == ("dog", None)
    assert dog.box == pytest.approx((3, 4, 9, 6))
    assert cat.box == pytest.approx((3, 2, 9, 6))
    assert np.array_equal(cat.mask(), block(1, slice(2, 6), slice(3, 9)))
    assert (samples["images/b.png"].labels, samples["images/b.png"].objects) == ((), ())
    assert dataset.classes == ("cat", "dog")


def test_yolo_polygons_agree_with_point_in_polygon(tmp_path):
    from matplotlib.path import Path as Polygon

    from lucidcam.data.yolo import polygon

    generator = np.random.default_rng(0)
    for _ in range(20):
        points = generator.uniform(-2, 14, (7, 2))
        angles = np.arctan2(*(points - points.mean(0)).T)
        points = points[np.argsort(angles)]  # a star without crossings
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
        inside = Polygon(points).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(HEIGHT, WIDTH)
        assert np.array_equal(polygon(points, WIDTH, HEIGHT), inside)


def test_yolo_takes_the_upright_size(tmp_path):
    make_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images/a.png", exif=exif)
    samples, _ = taken(open_data(tmp_path))
    assert samples["images/a.png"].objects[0].box == pytest.approx((2.5, 4.8, 7.5, 7.2))


def test_yolo_splits(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images/a.png")
        write(tmp_path / part / "labels/a.txt", "0 0.5 0.5 0.5 0.5")
    path = write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    assert open_data(tmp_path).format == "yolo"
    assert list(taken(open_data(path))[0]) == ["train/images/a.png", "valid/images/a.png"]
    assert list(taken(open_data(path, split="val"))[0]) == ["valid/images/a.png"]
    refused(path, "'test'", "tried", split="test")
    write(tmp_path / "list.txt", "./train/images/a.png\n./train/images/gone.png\n")
    write(path, "path: .\ntrain: list.txt\nnames: [cat]\n")
    samples, problems = taken(open_data(path))
    assert list(samples) == ["train/images/a.png"]
    assert "does not exist" in problems["train/images/gone.png"]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("2 0.5 0.5 0.5 0.5", "class 2 is not among the 2 names"),
        ("0 0.5 0.5 0.5", "got 3 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.9", "got 5 numbers"),
        ("0 60 50 20 10", "in 0–1"),
        ("0 nan 0.5 0.5 0.5", "in 0–1"),
        ("cat 0.5 0.5 0.5 0.5", "expected a class number"),
    ],
)
def test_yolo_problems(line, part, tmp_path):
    make_yolo(tmp_path)
    write(tmp_path / "labels/a.txt", f"0 0.5 0.5 0.5 0.5\n{line}\n")
    write(tmp_path / "labels/gone.txt", "0 0.5 0.5 0.5 0.5\n")
    samples, problems = taken(open_data(tmp_path))
    assert list(samples) == ["images/b.png"]
    assert "a.txt, line 2" in problems["images/a.png"]
    assert part in problems["images/a.png"]
    assert "no image of this name" in problems["labels/gone.txt"]


def test_yolo_refuses(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "images/a.png").write_bytes(b"no image")
    assert "a.png" in taken(open_data(tmp_path))[1]["images/a.png"]
    refused(write(tmp_path / "data.yaml", "names: [cat\nx: :\n"), "no YAML", "line")
    refused(write(tmp_path / "data.yaml", "names: 5\n"), "has no names")
    (tmp_path / "data.yaml").unlink()
    refused(tmp_path, "no YAML file with names")


# ---------------------------------------------------------------- cub, wsol


def test_cub(tmp_path):
    dataset = open_data(make_cub(tmp_path))
    samples, _ = taken(dataset)
    first = samples["001.Black_footed_Albatross/a.jpg"]
    assert (first.labels, first.objects[0].box) == (("Black footed Albatross",), (2, 1, 7, 5.5))
    assert dataset.classes == ("Black footed Albatross", "Laysan Albatross")
    assert first.objects[0].mask is None
    assert list(taken(open_data(tmp_path, split="test"))[0]) == ["001.Black_footed_Albatross/a.jpg"]
    assert list(taken(open_data(tmp_path, split="train"))[0]) == ["002.Laysan_Albatross/b.jpg"]
    refused(tmp_path, "'train', 'test'", split="val", error=OptionError)
    votes = block(255, slice(0, 3), slice(0, 3)) + block(51, slice(5, 6), slice(5, 6)) + block(153, slice(7, 8), slice(7, 9))
    png(tmp_path / "segmentations/001.Black_footed_Albatross/a.png", votes)
    samples, _ = taken(open_data(tmp_path))
    assert np.array_equal(samples["001.Black_footed_Albatross/a.jpg"].objects[0].mask(), votes > 100)


def test_cub_problems(tmp_path):
    make_cub(tmp_path)
    write(tmp_path / "image_class_labels.txt", "1 1\n2 9\n")
    write(tmp_path / "bounding_boxes.txt", "1 2.0 1.0 5.0\n")
    _, problems = taken(open_data(tmp_path))
    assert "no class" in problems["002.Laysan_Albatross/b.jpg"]
    assert "4 numbers" in problems["001.Black_footed_Albatross/a.jpg"]
    (tmp_path / "images/001.Black_footed_Albatross/a.jpg").unlink()
    assert "does not exist" in taken(open_data(tmp_path))[1]["001.Black_footed_Albatross/a.jpg"]
    write(tmp_path / "images.txt", "1\n")
    refused(tmp_path, "images.txt", "line 1")
    (tmp_path / "images.txt").unlink()
    refused(tmp_path, "images.txt is missing")


def test_wsol_boxes_stay_as_they_are(tmp_path):
    dataset = open_data(make_wsol(tmp_path))
    (sample,) = dataset
    assert (dataset.name, sample.name, sample.labels) == ("CUB/val", "x/a.jpg", ("17",))
    assert [each.box for each in sample.objects] == [(1, 2, 5, 6), (0, 0, 11, 9)]
    root = tmp_path / "metadata/CUB"
    refused(root, "give split='val'")
    refused(root, "'test'", split="test")
    assert len(list(open_data(root, split="val", images=str(tmp_path / "dataset/CUB")))) == 1
    (tmp_path / "dataset").rename(tmp_path / "gone")
    refused(root, "images=", "tried", split="val")


def test_wsol_masks(tmp_path):
    root = tmp_path / "OpenImages"
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(root / "val/0bt" / name)
    big = np.kron(block(255, slice(0, 4), slice(0, 4)), np.ones((2, 2)))  # masks may have a size of their own
    png(root / "val/0bt/a_1.png", big)
    png(root / "val/0bt/a_2.png", block(255, slice(8, 9), slice(0, 2)))
    png(root / "val/0bt/a_ignore.png", block(255, slice(0, 6), slice(0, 4)))
    ids = ["val/0bt/a.jpg", "val/0bt/b.jpg", "val/0bt/c.jpg"]
    write(root / "meta/image_ids.txt", "\n".join(ids))
    write(root / "meta/class_labels.txt", f"{ids[0]},3\n{ids[1]},3\n")
    lines = [f"{ids[0]},val/0bt/a_1.png,val/0bt/a_ignore.png", f"{ids[0]},val/0bt/a_2.png,", f"{ids[1]},val/0bt/gone.png,"]
    write(root / "meta/localization.txt", "\n".join(lines))
    samples, problems = taken(open_data(root / "meta"))
    one, two = (each.mask() for each in samples[ids[0]].objects)
    assert np.array_equal(one, block(1, slice(0, 4), slice(0, 4)))
    assert np.array_equal(two, block(1, slice(8, 9), slice(0, 2)))
    assert np.array_equal(samples[ids[0]].ignore(), block(1, slice(4, 6), slice(0, 4)))
    assert "gone.png" in problems[ids[1]]
    assert "class_labels.txt" in problems[ids[2]]
    write(root / "meta/localization.txt", f"{ids[0]},1,2\n{ids[0]},1,2,3\n")
    refused(root / "meta", "line 2", "3 or 5 values")


# ---------------------------------------------------------------- masks


def test_masks_of_class_indices(tmp_path):
    dataset = open_data(make_masks(tmp_path))
    (sample,) = dataset
    assert (sample.labels, dataset.classes) == (("dog",), ("cat", "dog"))
    assert np.array_equal(sample.objects[0].mask(), block(1, slice(1, 3), slice(4, 9)))
    assert np.array_equal(sample.ignore(), block(1, slice(8, 10), slice(0, 3)))
    (tmp_path / "classes.txt").unlink()
    assert [each.labels for each in open_data(tmp_path)] == [("value 2",)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "2 big dog\n1 cat\n"),
        ("classes.txt", "background\ncat\nbig dog\n"),
        ("classes.txt", "cat\nbig dog\n"),
        ("labels.txt", "1: cat\n2:big dog\n"),
        ("classes.yaml", "names: [_background_, cat, big dog]\n"),
        ("classes.json", '{"1": "cat", "2": "big dog"}'),
    ],
)
def test_masks_classes_files(name, text, tmp_path):
    make_masks(tmp_path)
    (tmp_path / "classes.txt").unlink()
    write(tmp_path / name, text)
    assert [each.labels for each in open_data(tmp_path)] == [("big dog",)]


@pytest.mark.parametrize("foreground", [1, 255])
def test_binary_masks(foreground, tmp_path):
    for name in ("cat/a", "b", "c"):
        picture(tmp_path / f"images/{name}.png")
        png(tmp_path / f"masks/{name}.png", block(foreground if name != "c" else 0, slice(0, 2), slice(0, 3)))
    samples, _ = taken(open_data(tmp_path))
    assert {name: each.labels for name, each in samples.items()} == {
        "images/cat/a.png": ("cat",),
        "images/b.png": ("object",),
        "images/c.png": (),
    }
    for name in ("images/cat/a.png", "images/b.png"):
        assert samples[name].objects[0].mask().sum() == 6
        assert samples[name].ignore is None
    assert next(iter(open_data(tmp_path, values="index"))).labels == (("value 1",) if foreground == 1 else ())


def test_masks_problems(tmp_path):
    make_masks(tmp_path)
    for name in "bcd":
        picture(tmp_path / f"images/{name}.png")
    png(tmp_path / "masks/b.png", np.zeros((3, 4)))
    Image.effect_noise((WIDTH, HEIGHT), 50).convert("RGB").save(tmp_path / "masks/c.png")
    Image.merge("RGB", [Image.new("L", (WIDTH, HEIGHT), i) for i in range(3)]).save(tmp_path / "masks/c.png")
    png(tmp_path / "masks/stray.png", np.zeros((3, 4)))
    samples, problems = taken(open_data(tmp_path))
    assert list(samples) == ["images/a.png"]
    assert "4×3 pixels, the image 12×10" in problems["images/b.png"]
    assert "holds colours" in problems["images/c.png"]
    assert "no mask" in problems["images/d.png"]
    assert "no image" in problems["masks/stray.png"]
    assert "expected a binary mask" in taken(open_data(tmp_path, values="binary"))[1]["images/a.png"]
    refused(tmp_path, "'index'", values="colour", error=OptionError)
    refused(tmp_path, "lists no classes", classes=str(write(tmp_path / "x.json", '{"cat": "dog"}')))


# ---------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A data set with a class, objects, a damaged image and a row without label."""
    datasets = pytest.importorskip("datasets")
    path = picture(tmp_path_factory.mktemp("hf") / "a.png")
    damaged = path.with_name("b.png")
    damaged.write_bytes(path.read_bytes()[:40])
    content = {
        "image": [str(path), str(damaged), str(path)],
        "image_id": [11, 12, 13],
        "label": [1, 0, -1],
        "objects": [
            {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [0]},
            {"bbox": [], "category": []},
            {"bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]], "category": [1, 0]},
        ],
    }
    names = datasets.ClassLabel(names=["cat", "dog"])
    objects = {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))), "category": datasets.Sequence(names)}
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("int64"), "label": names, "objects": objects})
    return datasets.Dataset.from_dict(content, features=features)


def test_hf(rows):
    from lucidcam.errors import InputError
    from lucidcam.io import images

    for source in (rows, rows.to_iterable_dataset()):
        dataset = open_data(source)
        samples, problems = taken(dataset)
        assert (dataset.format, dataset.classes, list(samples), problems) == ("hf", ("cat", "dog"), ["11", "12", "13"], {})
        assert [each.labels for each in samples.values()] == [("dog",), ("cat",), ("dog", "cat")]
        assert [each.box for each in samples["13"].objects] == [(1, 2, 4, 6), (0, 0, 1, 1)]
        assert images.read(samples["11"].image)[0].size == (WIDTH, HEIGHT)
        with pytest.raises(InputError):
            images.read(samples["12"].image)
    assert open_data(rows).count == 3
    assert open_data(rows.to_iterable_dataset()).count is None
    assert next(iter(open_data(rows, box_format="xyxy"))).objects[0].box == (1, 2, 3, 4)
    refused(rows, "did you mean 'image'", image="imag")
    refused(rows, "'xywh' or 'xyxy'", box_format="yxyx", error=OptionError)


def test_hf_refuses(rows):
    datasets = pytest.importorskip("datasets")
    refused(datasets.DatasetDict({"test": rows}), "one split", "data['test']")
    refused([1], "expected a datasets.Dataset", format="hf")
    made = datasets.Dataset.from_dict({"image": ["/none.png"], "label": ["cat"]})
    assert taken(open_data(made))[1] == {"0": "the image '/none.png' does not exist."}
    wrong = datasets.Dataset.from_list([{"image": None, "label": "cat"}])
    assert "no image" in taken(open_data(wrong))[1]["0"]


# ---------------------------------------------------------------- classes


@pytest.fixture
def model():
    labels = ("tabby, tabby cat", "wallaby, brush kangaroo", "crane", "crane", "school bus")
    return Model(nn.Identity(), labels=labels, synsets=("n02123045", "n01877812", "n02012849", "n03126707", "n04146614"))


def test_classes_are_matched(model):
    found = ClassMap.of(model)
    met = ["n01877812", "tabby_cat", "4", "crane", "n99999999", "crane", "9", "zebra", "kangaroo"]
    assert [found.resolve(name) for name in met] == [1, 0, 4, None, None, None, None, None, None]
    assert found.unmatched == ("crane", "n99999999", "9", "zebra", "kangaroo")  # part of a label is a guess: it is suggested, not taken
    assert found.matched == {"n01877812": 1, "tabby_cat": 0, "4": 4}
    for name, part in (
        ("crane", "fits 2 classes"),
        ("n99999999", "synset"),
        ("9", "out of range"),
        ("zebra", "no class is called"),
        ("kangaroo", "did you mean 1 (wallaby"),
    ):
        assert part in found.reasons[name]


def test_a_name_is_looked_up_once(model, monkeypatch):
    asked = []
    find = Model.find_label
    monkeypatch.setattr(Model, "find_label", lambda self, text, **options: asked.append(text) or find(self, text, **options))
    found = ClassMap.of(model)
    for _ in range(3):
        found.resolve("tabby")
        found.resolve("zebra")
    assert asked == ["tabby", "zebra"]


@pytest.mark.parametrize(
    "given",
    [
        {"Red Kangaroo": 1, "puss": "tabby", "big_bird": "n03126707"},
        "red kangaroo=1,puss=tabby, tabby cat,big bird=3",
        ["red kangaroo=n01877812", "puss=0", "big bird=3"],
        '{"red kangaroo": 1, "puss": "tabby", "big bird": "3"}',
        "# mine\nred kangaroo=1\n\npuss = tabby\nbig bird=3\n",
    ],
)
def test_given_classes_come_first(given, model, tmp_path):
    if isinstance(given, str) and ("{" in given or "\n" in given):
        given = write(tmp_path / "classes", given)
        assert ClassMap.of(model, str(given)).given == ClassMap.of(model, given).given
    found = ClassMap.of(model, given)
    assert [found.resolve(name) for name in ("red_kangaroo", "puss", "big bird", "tabby")] == [1, 0, 3, 0]
    assert ClassMap.of(model, {"tabby": "school bus"}).resolve("tabby") == 4


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"cat": 5}, "out of range"),
        ({"cat": -1}, "out of range"),
        ({"cat": "tiger"}, "no class is called"),
        ({"cat": "n99999999"}, "synset"),
        ({"cat": 1.5}, "1.5"),
        ({"cat": True}, "True"),
        ("cat=crane", "fits 2 classes"),
        (["cat"], "name=class"),
        (["cat="], "name=class"),
        ([5], "kangaroo=104"),
        ("no/such/file", "does not exist"),
    ],
)
def test_given_classes_that_do_not_exist(given, part, model):
    with pytest.raises(OptionError, match=part) as caught:
        ClassMap.of(model, given)
    assert "\n" not in str(caught.value)


def test_classes_of_models_that_know_little():
    bare = ClassMap.of(Model(nn.Identity()))
    assert (bare.resolve("7"), bare.resolve("cat"), bare.resolve("n02123045")) == (7, None, None)
    assert ClassMap.of(Model(nn.Identity(), labels=("n02123045", "n01877812"))).resolve("n01877812") == 1


def test_a_data_set_is_what_its_stream_gives():
    made = Dataset("mine", "", lambda: iter([Sample("a", "a", (), (Object("cat"),))]))
    assert [each.name for each in made] == [each.name for each in made] == ["a"]


ROW = "0 .5 .5 .2 .2\n"
XML = (
    "<annotation><filename>{}</filename><object><name>cat</name>"
    "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(("filename", "kept", "left"), [("p.jpg", "p.jpg", "p.png"), ("p.png", "p.png", "p.jpg"), ("", "p.jpg", "p.png")])
def test_voc_two_images_of_one_name(filename, kept, left, tmp_path):
    for name in ("p.jpg", "p.png"):
        picture(tmp_path / "JPEGImages" / name)
    write(tmp_path / "Annotations/p.xml", XML.format(filename))
    samples, problems = taken(open_data(tmp_path))
    assert list(samples) == [f"JPEGImages/{kept}"]
    assert f"only {kept} is taken" in problems[f"JPEGImages/{left}"]


def test_voc_two_images_of_one_name_in_two_folders_are_not_guessed_between(tmp_path):
    for name in ("a/p.jpg", "b/p.jpg"):
        picture(tmp_path / "JPEGImages" / name)
    write(tmp_path / "Annotations/p.xml", XML.format("p.jpg"))
    samples, problems = taken(open_data(tmp_path))
    assert not samples
    assert "JPEGImages/a/p.jpg and JPEGImages/b/p.jpg have this name" in problems["p"]


def test_masks_two_images_or_masks_of_one_name(tmp_path):
    for name in ("images/p.jpg", "images/p.png", "images/q.jpg"):
        picture(tmp_path / name)
    for name in ("masks/p.png", "masks/q.bmp", "masks/q.png"):
        png(tmp_path / name, block(255, slice(2, 5), slice(2, 5)))
    samples, problems = taken(open_data(tmp_path))
    assert list(samples) == ["images/p.jpg", "images/q.jpg"]
    assert "only p.jpg is taken" in problems["images/p.png"]
    assert "only q.bmp is taken" in problems["masks/q.png"]


@pytest.mark.parametrize(
    ("segmentation", "part"),
    [
        ([[50, 50, 60, 50, 60, 60]], "lies outside the photo of 12×10 pixels"),
        ([[-9, 2, -3, 2, -3, 8]], "lies outside the photo"),
        ([[5.1, 5.1, 5.2, 5.1, 5.2, 5.15]], "holds the centre of none"),
        ({"counts": [WIDTH * HEIGHT], "size": [HEIGHT, WIDTH]}, "hold no pixel"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_coco_an_outline_without_a_pixel_leaves_out_its_object(segmentation, part, declared, tmp_path):
    picture(tmp_path / "p.jpg")
    size = {"width": WIDTH, "height": HEIGHT} if declared else {}
    whole = [[1, 1, 6, 1, 6, 6]]
    marks = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": s} for i, s in enumerate([segmentation, whole])
    ]
    content = {"images": [{"id": 1, "file_name": "p.jpg", **size}], "annotations": marks, "categories": [{"id": 1, "name": "cat"}]}
    samples, problems = taken(open_data(write(tmp_path / "instances.json", json.dumps(content))))
    [thing] = samples["p.jpg"].objects
    assert thing.mask().any()
    assert part in problems["p.jpg, annotation 0"]


def test_yolo_a_polygon_without_a_pixel_leaves_out_its_object(tmp_path):
    picture(tmp_path / "images/p.jpg")
    write(tmp_path / "labels/p.txt", "0 .1 .1 .103 .1 .103 .105\n0 .1 .1 .9 .1 .9 .9\n")
    write(tmp_path / "data.yaml", "names: [cat]\n")
    samples, problems = taken(open_data(tmp_path))
    assert len(samples["images/p.jpg"].objects) == 1
    assert "holds the centre of none" in problems["images/p.jpg, p.txt, line 1"]


@pytest.mark.parametrize(
    ("folder", "yaml"),
    [("", ""), ("train", "train: train\n"), ("images", ""), ("train/images", "train: train/images\n"), ("images/train", "")],
)
def test_yolo_text_files_beside_the_images(folder, yaml, tmp_path):
    picture(tmp_path / folder / "p.JPG")
    write(tmp_path / folder / "p.txt", ROW)
    write(tmp_path / "data.yaml", f"names: [cat, dog]\n{yaml}")
    data = open_data(tmp_path)
    [sample] = data
    assert data.format == "yolo"
    assert sample.labels == ("cat",)
    assert len(sample.objects) == 1


@pytest.mark.parametrize(("folder", "names"), [("", "classes.txt"), ("", ""), ("obj_train_data", "obj.names")])
def test_yolo_text_files_beside_the_images_need_the_classes(folder, names, tmp_path):
    picture(tmp_path / folder / "p.jpg")
    write(tmp_path / folder / "p.txt", ROW)
    if names:
        write(tmp_path / names, "cat\ndog\n")
    refused(tmp_path, "no YAML file with names")


@pytest.mark.parametrize("text", ["a photo of 1 cat", "0.3\n", "1 2 3\n", ""])
def test_other_text_files_beside_images_are_no_boxes(text, tmp_path):
    picture(tmp_path / "cat/p.jpg")
    write(tmp_path / "cat/p.txt", text)
    write(tmp_path / "classes.txt", "cat\n")
    assert open_data(tmp_path).format == "folder"
