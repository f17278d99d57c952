"""Label formats: what is written is what our readers, and the formats' own libraries, read; whatever ends the run."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lucidcam import registry
from lucidcam.data import open_data
from lucidcam.errors import InputError, OptionError
from lucidcam.outputs._labels import Exporter, Found, Labels
from lucidcam.samples import Sample

READ = ("coco", "voc", "yolo", "masks")
"""Formats that lucidcam reads itself."""

WIDTH, HEIGHT = 40, 30


def found(label: str, box: tuple[int, int, int, int], score: float = 0.5, masked: bool = True) -> Found:
    """A thing whose mask is its box without the upper left pixel, but with all four sides touched."""
    left, top, right, bottom = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    mask[top, left] = False
    return Found(label, box, score, mask if masked else None)


@pytest.fixture
def photos(tmp_path: Path) -> list[Labels]:
    """Two things of two classes; nothing; one thing in an image of the same name; one in an image that is no file."""
    for i, name in enumerate(("a/one.jpg", "a/two.png", "b/one.jpg")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (60 * i, 90, 30)).save(path)
    things = [
        (found("big dog", (3, 4, 20, 17), 0.75), found("naïve: “cat” #1", (22, 0, 40, 30), 0.25)),
        (),
        (found("big dog", (0, 0, 9, 9)),),
    ]
    paths = [tmp_path / "photos" / name for name in ("a/one.jpg", "a/two.png", "b/one.jpg")]
    files = [Labels(str(path), path, WIDTH, HEIGHT, each) for path, each in zip(paths, things, strict=True)]
    return [*files, Labels("image 7", None, WIDTH, HEIGHT, (found("big dog", (5, 6, 7, 8)),), Image.new("RGB", (WIDTH, HEIGHT), "blue"))]


def written(name: str, folder: Path, labels: list[Labels], **options: object) -> Path:
    with registry.exporters[name](folder, **options) as exporter:
        for each in labels:
            exporter.write(each)
    return folder


def read(folder: Path) -> dict[bytes, Sample]:
    """The samples of a data set by their images' pixels: names may change on the way, images may not."""
    samples = list(open_data(folder, data_root=str(folder.parent)))
    assert all(isinstance(each, Sample) for each in samples), samples
    return {Image.open(each.image).convert("RGB").tobytes(): each for each in samples if isinstance(each, Sample)}


def pixels(labels: Labels) -> bytes:
    image = labels.image if labels.path is None else Image.open(labels.path)
    assert image is not None
    return image.convert("RGB").tobytes()


def test_every_exporter_says_what_it_is() -> None:
    assert {*READ, "fiftyone"} <= set(registry.exporters)
    for name, kind in registry.exporters.items():
        assert issubclass(kind, Exporter)
        assert kind.name == name
        assert kind.about
        assert "\n" not in kind.about
    with pytest.raises(OptionError, match="did you mean 'coco'"):
        registry.exporters["cocoo"]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", READ)
def test_our_readers_give_back_what_was_written(name: str, copied: bool, photos: list[Labels], tmp_path: Path) -> None:
    folder = written(name, tmp_path / "out", photos, copy_images=copied)
    looks = [pixels(each) for each in photos]
    if copied:  # the data set stands by itself, wherever it is taken
        shutil.rmtree(tmp_path / "photos")
        folder = folder.rename(tmp_path / "taken")
    data = open_data(folder, data_root=str(tmp_path))
    assert data.format == name
    samples = read(folder)
    assert len(samples) == len(photos)
    for labels, look in zip(photos, looks, strict=True):
        sample = samples[look]
        assert [each.label for each in sample.objects] == [each.label for each in labels.objects]
        for given, got in zip(labels.objects, sample.objects, strict=True):
            if name != "masks":
                assert got.box == pytest.approx(given.box, abs=1e-6)
            if name != "yolo":
                assert got.mask is not None
                assert given.mask is not None
                assert np.array_equal(got.mask(), given.mask)


def test_images_are_links_or_paths_unless_copies_are_wanted(photos: list[Labels], tmp_path: Path) -> None:
    for name, folder in (("yolo", "images"), ("voc", "JPEGImages"), ("masks", "images")):
        kept = sorted((written(name, tmp_path / name, photos) / folder).iterdir())
        assert [each.is_symlink() for each in kept].count(True) == 3
        assert [each.name for each in kept] == ["image_7.png", "one-2.jpg", "one.jpg", "two.png"]
        copies = (written(name, tmp_path / f"{name}-copies", photos, copy_images=True) / folder).iterdir()
        assert not any(each.is_symlink() for each in copies)
    assert [each.name for each in (written("coco", tmp_path / "coco", photos) / "images").iterdir()] == ["image_7.png"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own, when it decodes
def test_coco_loads_in_pycocotools(photos: list[Labels], tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    folder = written(
        "coco",
        tmp_path / "out",
        [*photos, Labels("image 8", None, WIDTH, HEIGHT, (found("cow", (1, 2, 4, 8), 0.125, False),), photos[3].image)],
    )
    assert sorted(each.name for each in folder.iterdir()) == [".lucidcam-files", "annotations.json", "images"]
    coco = COCO(str(folder / "annotations.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["big dog", "naïve: “cat” #1", "cow"]
    assert [(folder / each["file_name"]).resolve().is_file() for each in coco.loadImgs(coco.getImgIds())] == [True] * 5
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert first["bbox"] == [3, 4, 17, 13]
    assert (first["score"], first["iscrowd"], first["area"]) == (0.75, 0, 17 * 13 - 1)
    assert np.array_equal(coco.annToMask(second).astype(bool), photos[0].objects[1].mask)
    assert coco.getAnnIds(imgIds=[2]) == []
    [boxed] = coco.loadAnns(coco.getAnnIds(imgIds=[5]))
    assert "segmentation" not in boxed
    assert boxed["area"] == 18
    # Scored annotations are COCO's results format, too.
    results = [{**each, "image_id": each["image_id"]} for each in coco.loadAnns(coco.getAnnIds())]
    assert len(coco.loadRes(results).getAnnIds()) == 5


def test_voc_counts_from_one_with_the_last_pixel_inside(photos: list[Labels], tmp_path: Path) -> None:
    folder = written("voc", tmp_path / "out", photos)
    root = ElementTree.parse(folder / "Annotations" / "one.xml").getroot()
    box = root.find("object/bndbox")
    assert box is not None
    assert [box.findtext(each) for each in ("xmin", "ymin", "xmax", "ymax")] == ["4", "5", "20", "17"]
    assert root.findtext("object/confidence") == "0.750000"
    assert root.findtext("filename") == "one.jpg"
    assert [root.findtext(f"size/{each}") for each in ("width", "height", "depth")] == ["40", "30", "3"]
    assert (folder / "ImageSets" / "Main" / "trainval.txt").read_text().split() == ["one", "two", "one-2", "image_7"]
    assert (folder / "ImageSets" / "Segmentation" / "trainval.txt").read_text().split() == ["one", "one-2", "image_7"]
    with Image.open(folder / "SegmentationClass" / "one.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's colours
        assert sorted(set(np.asarray(image).ravel().tolist())) == [0, 1, 2]
    assert (folder / "labels.txt").read_text("utf-8") == "1: big dog\n2: naïve: “cat” #1\n"


def test_yolo_writes_shares(photos: list[Labels], tmp_path: Path) -> None:
    folder = written("yolo", tmp_path / "out", photos, classes=["cow", "big dog"])
    lines = (folder / "labels" / "one.txt").read_text().splitlines()
    number, *shares = lines[0].split()
    assert number == "1"  # classes that are known beforehand keep their numbers
    assert [float(each) for each in shares] == pytest.approx([11.5 / 40, 10.5 / 30, 17 / 40, 13 / 30])
    assert lines[1].startswith("2 ")
    assert (folder / "labels" / "two.txt").read_text() == ""
    assert open_data(folder, data_root=str(tmp_path)).classes == ("cow", "big dog", "naïve: “cat” #1")


def test_masks_put_the_surest_on_top(tmp_path: Path) -> None:
    under, over = found("a", (0, 0, 20, 20), 0.4), found("b", (10, 10, 30, 30), 0.6, masked=False)
    for order in ((under, over), (over, under)):
        labels = Labels("x", None, WIDTH, HEIGHT, order, Image.new("RGB", (WIDTH, HEIGHT)))
        folder = written("masks", tmp_path / order[0].label, [labels], classes=["a", "b"])
        values = np.asarray(Image.open(folder / "masks" / "x.png"))
        assert (values[0, 0], values[1, 1], values[15, 15], values[25, 25], values[25, 5]) == (0, 1, 2, 2, 0)
    many = tuple(found(f"class {i}", (0, 0, 2, 2)) for i in range(255))
    with pytest.raises(OptionError, match="room for 254"):
        written("masks", tmp_path / "many", [Labels("x", None, WIDTH, HEIGHT, many, Image.new("RGB", (WIDTH, HEIGHT)))])


def test_fiftyone_has_shares_and_masks_within_the_box(photos: list[Labels], tmp_path: Path) -> None:
    samples = json.loads((written("fiftyone", tmp_path / "out", photos) / "samples.json").read_text())["samples"]
    assert [Path(each["filepath"]).is_file() and Path(each["filepath"]).is_absolute() for each in samples] == [True] * 4
    first, second = samples[0]["predictions"]["detections"]
    assert first["label"] == "big dog"
    assert first["confidence"] == 0.75
    assert first["bounding_box"] == pytest.approx([3 / 40, 4 / 30, 17 / 40, 13 / 30])
    mask = np.load(io.BytesIO(zlib.decompress(base64.b64decode(second["mask"]["$binary"]["base64"]))))
    given = photos[0].objects[1].mask
    assert given is not None
    assert np.array_equal(mask, given[0:30, 22:40])
    assert samples[1]["predictions"]["detections"] == []


@pytest.mark.parametrize("name", sorted(registry.exporters))
def test_an_exception_keeps_what_was_written(name: str, photos: list[Labels], tmp_path: Path) -> None:
    def interrupted() -> None:
        with registry.exporters[name](tmp_path / "out") as exporter:
            exporter.write(photos[0])
            raise RuntimeError("the model's")

    with pytest.raises(RuntimeError, match="the model's"):
        interrupted()
    assert not list((tmp_path / "out").rglob("*.part"))
    if name in READ:
        assert [len(each.objects) for each in read(tmp_path / "out").values()] == [2]
    else:
        assert len(json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]) == 1


def test_a_kill_keeps_what_was_written(photos: list[Labels], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom contextlib import ExitStack\nfrom pathlib import Path\n\nimport numpy as np\n"
        "from lucidcam import registry\nfrom lucidcam.outputs._labels import Found, Labels\n"
        "with ExitStack() as stack:\n"
        "    all = [stack.enter_context(kind(Path(sys.argv[1]) / name)) for name, kind in registry.exporters.items()]\n"
        "    for path in sys.argv[2:]:\n"
        f"        thing = Found('cat', (1, 2, 9, 8), 0.5, np.eye({HEIGHT}, {WIDTH}) > 0)\n"
        "        for exporter in all:\n"
        f"            exporter.write(Labels(path, Path(path), {WIDTH}, {HEIGHT}, (thing,)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = [str(each.path) for each in photos[:3]]
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), *paths], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL
    for name in ("voc", "yolo", "masks"):
        samples = read(tmp_path / name).values()
        assert [[each.label for each in sample.objects] for sample in samples] == [["cat"]] * 3
    # The documents of the others come at the end; until then each entry is a whole line.
    parts = {each.name: each.read_text() for name in ("coco", "fiftyone") for each in (tmp_path / name).glob("*.part")}
    assert json.loads(parts.pop("annotations.json.categories.part")) == [{"id": 1, "name": "cat", "supercategory": ""}]
    assert set(parts) == {"annotations.json.images.part", "annotations.json.annotations.part", "samples.json.samples.part"}
    for text in parts.values():
        assert len([json.loads(line) for line in text.splitlines()]) == 3


@pytest.mark.parametrize("name", sorted(registry.exporters))
def test_labels_of_two_runs_do_not_mix(name: str, photos: list[Labels], tmp_path: Path) -> None:
    zebra = Labels("zebra.jpg", photos[0].path, WIDTH, HEIGHT, (found("zebra", (1, 1, 9, 9)),))
    folder = written(name, tmp_path / "out", [*photos[:3], zebra])
    (folder / "notes.md").write_text("mine")
    with pytest.raises(OptionError, match=r"not empty.*--overwrite"):
        registry.exporters[name](folder)
    written(name, folder, photos[2:3], overwrite=True)
    assert (folder / "notes.md").read_text() == "mine"
    text = "".join(each.read_text("utf-8") for each in folder.rglob("*") if each.suffix in (".txt", ".json", ".yaml", ".xml"))
    assert "zebra" not in text
    if name in READ:
        assert len(list(open_data(folder, data_root=str(tmp_path)))) == 1
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OptionError, match="is a file"):
        registry.exporters[name](file, overwrite=True)


def test_overwriting_leaves_the_images_it_reads_alone(tmp_path: Path) -> None:
    path = tmp_path / "images" / "one.png"
    path.parent.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(path)
    written("yolo", tmp_path, [Labels("one.png", path, WIDTH, HEIGHT, (found("cat", (1, 2, 5, 6)),))], overwrite=True)
    assert not path.is_symlink()
    assert len(read(tmp_path)) == 1


def test_without_links_images_are_copied(photos: list[Labels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = written("yolo", tmp_path / "out", photos)
    assert not any(each.is_symlink() for each in (folder / "images").iterdir())
    assert len(read(folder)) == 4


def test_labels_need_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="path of the image"):
        written("yolo", tmp_path / "out", [Labels("x", None, WIDTH, HEIGHT)])
