"""Tars and XML files of anyone's: what they declare is bounded before it is made, and one bad entry does not lose the rest."""

import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lucidcam.data import open_data
from lucidcam.data._voc import LARGEST_XML, parse
from lucidcam.errors import DataError, LucidcamError
from lucidcam.samples import Problem, Sample
from lucidcam.utils.csv_rows import escape_cell, restore_cell, write_rows


def png() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


PHOTO = png()


def add(tar, name, content=b"", type=tarfile.REGTYPE, size=None, link="", edit=None):
    """Add a member; with `size` only its header, which declares that; `edit` changes the header's bytes."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = type, link, len(content) if size is None else size
    if size is None and edit is None:
        tar.addfile(entry, io.BytesIO(content))
        return
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    if edit is not None:
        edit(header)
        header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    tar.fileobj.write(bytes(header))
    tar.offset += len(header)


def sparse(header):
    header[386:398], header[398:410], header[483:495] = b"00000000000\0", b"77777777777\0", b"77777777777\0"


def negative(header):
    header[124:136] = b"\xff" * 4 + (-1_000_000).to_bytes(8, "big", signed=True)


ODD = {
    "link": {"type": tarfile.SYMTYPE, "link": "/etc/passwd"},
    "hard link that declares a terabyte": {"type": tarfile.LNKTYPE, "link": "../x", "size": 10**12},
    "device": {"type": tarfile.CHRTYPE},
    "pipe": {"type": tarfile.FIFOTYPE},
    "sparse file of eight gigabytes": {"type": tarfile.GNUTYPE_SPARSE, "edit": sparse},
}

ENDS = {
    "terabyte": {"size": 10**12},
    "negative": {"edit": negative},
    "negative of an unknown type": {"type": b"Z", "edit": negative},
    "long name of a terabyte": {"type": tarfile.GNUTYPE_LONGNAME, "size": 10**12},
    "long name of three gigabytes": {"type": tarfile.GNUTYPE_LONGNAME, "size": 3 * 10**9},
    "attributes of a terabyte": {"type": tarfile.XHDTYPE, "size": 10**12},
}


def shard(tmp_path, fill):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        fill(tar)
    return path


def found(path):
    tracemalloc.start()
    try:
        entries = list(open_data(path))
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert not any("\n" in each.error for each in entries if isinstance(each, Problem))
    return {each.name.partition("/")[2]: each.labels for each in entries if isinstance(each, Sample)}, [
        each.error for each in entries if isinstance(each, Problem)
    ]


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_passed_over(tmp_path, case):
    def fill(tar):
        add(tar, "a.jpg", PHOTO)
        add(tar, "b.jpg", **ODD[case])
        add(tar, "c.jpg", PHOTO)

    assert found(shard(tmp_path, fill)) == ({"a": (), "c": ()}, [])


@pytest.mark.parametrize("case", ENDS)
def test_a_header_that_declares_what_is_not_there_ends_the_tar_in_one_line(tmp_path, case):
    def fill(tar):
        for name in ("a.jpg", "b.jpg"):
            add(tar, name, PHOTO)
        add(tar, "c.jpg", **ENDS[case])
        add(tar, "d.jpg", PHOTO)

    samples, problems = found(shard(tmp_path, fill))
    assert "a" in samples
    assert len(problems) == 1
    assert "cut off or damaged" in problems[0]


def test_the_first_of_members_that_share_a_name_counts(tmp_path):
    def fill(tar):
        for name, content in (("a.jpg", PHOTO), ("a.cls", b"1"), ("a.cls", b"2"), ("a.jpg", b"bad"), ("b.jpg", PHOTO), ("b.cls", b"3")):
            add(tar, name, content)

    samples, problems = found(shard(tmp_path, fill))
    assert samples == {"a": ("1",), "b": ("3",)}
    assert problems == ["'s.tar/a' has .jpg more than once; only the first counts."]
    sample = next(each for each in open_data(tmp_path / "s.tar") if isinstance(each, Sample))
    assert sample.image.read() == PHOTO


LABELS = {
    "cut": b"{",
    "no text": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "object": b'{"label": {"a": 1}}',
    "nan": b'{"label": NaN}',
    "true": b'{"label": true}',
    "digits": b"9" * 5000,
    "large": b" " * (2**20 + 1),
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_bad_label_loses_its_image_only(tmp_path, label):
    def fill(tar):
        for name, content in (("a.jpg", PHOTO), ("a.json", label), ("b.jpg", PHOTO), ("b.json", b'{"label": "cat"}')):
            add(tar, name, content)

    samples, problems = found(shard(tmp_path, fill))
    assert samples == {"b": ("cat",)}
    assert len(problems) == 1


def annotation(inner):
    return f"<annotation><filename>a.jpg</filename><object><name>cat</name>{inner}</object></annotation>"


def box(*numbers):
    sides = ("xmin", "ymin", "xmax", "ymax")
    return annotation("<bndbox>" + "".join(f"<{side}>{number}</{side}>" for side, number in zip(sides, numbers, strict=True)) + "</bndbox>")


ENTITY = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>' + annotation("<pose>&b;</pose>")

REFUSED = {
    "comment": annotation(f"<!--{'x' * LARGEST_XML}-->"),
    "attribute": f'<annotation a="{"x" * LARGEST_XML}"/>',
    "entities": ENTITY,
    "entities in UTF-16": ENTITY.encode("utf-16"),
    "file": '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + annotation("<pose>&a;</pose>"),
    "deep, cut off": "<a>" * 100_000,
    "encoding": '<?xml version="1.0" encoding="utf-7"?>' + annotation(""),
    "no encoding": '<?xml version="1.0" encoding="hex"?>' + annotation(""),
    "not a number": box("nan", 1, 2, 3),
    "infinite": box(1, 1, "inf", 3),
    "digits": box("9" * 5000, 1, 2, 3),
    "empty": "",
    "zero byte": annotation("\0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_xml_of_anyones_is_refused_in_one_line(tmp_path, case):
    content = REFUSED[case]
    (tmp_path / "a.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as told:
            parse(tmp_path / "a.xml", 1)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(told.value)


def test_one_bad_xml_does_not_lose_the_rest(tmp_path):
    for name, content in (("a", annotation("")), ("b", ENTITY)):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.xml").write_text(content)
    assert [type(each) for each in open_data(tmp_path)] == [Sample, Problem]


WRONG = [None, True, -1, 1.5, float("nan"), "", "x", [], [[]], {}, 10**30, "\0", "9" * 4000, [1e308] * 4, [None]]

SOURCES = {
    "coco": (
        "annotations.json",
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0}
            ],
            "categories": [{"id": 1, "name": "cat"}],
        },
    ),
    "table": ("l.jsonl", {"image": "a.png", "boxes": [{"box": [1, 2, 3, 4], "label": "cat"}], "image_width": 40, "image_height": 30}),
    "yolo": ("d.yaml", {"names": {"0": "cat"}, "path": ".", "train": "t.txt", "kpt_shape": [1, 2]}),
}


def places(value, path=()):
    """The way to every part of a document."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(document, path, value):
    if not path:
        return value
    document = json.loads(json.dumps(document))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(("name", "document"), SOURCES.values(), ids=SOURCES)
def test_a_value_of_the_wrong_kind_anywhere_is_one_line(tmp_path, name, document):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "t.txt").write_text("a.png\n")
    (tmp_path / "a.txt").write_text("0 .5 .5 .2 .2 .1 .1\n")
    for path in places(document):
        for value in WRONG:
            (tmp_path / name).write_text(json.dumps(changed(document, path, value)))
            try:
                entries = list(open_data(tmp_path / name, format={"l.jsonl": "table", "d.yaml": "yolo"}.get(name, "coco")))
            except LucidcamError as error:
                entries = [Problem("data", str(error))]
            for each in entries:
                if isinstance(each, Problem):
                    assert "\n" not in each.error, (path, value)
                    assert "reading failed" not in each.error, (path, value)
                else:
                    assert all(np.isfinite(thing.box).all() for thing in each.objects if thing.box is not None), (path, value)


CELLS = ["cat", "=1+1", "+1", "-5", "@x", "\tx", "\rx", "'=1", "''=1", "'cat'", 'a"b', "a;=1", "a,b", "＝1", "", "é", "-", "two\nlines"]


def test_cells_of_csv_are_no_formulas_and_come_back():
    file = io.StringIO(newline="")
    write_rows(file, [["name", "value"], *([cell, number] for cell, number in zip(CELLS, (-1.5, -3, None) * 6, strict=True))])
    file.seek(0)
    import csv

    rows = list(csv.DictReader(file))
    assert [restore_cell(row["name"]) for row in rows] == CELLS
    assert not any(row["name"][:1] in ("=", "+", "-", "@", "\t", "\r", "＝") for row in rows)
    assert [row["value"] for row in rows] == ["-1.5", "-3", ""] * 6
    assert all(escape_cell(cell) == cell for cell in ("cat", "'cat'", "a-b", "1"))


NAMES = ["=1+1.png", "+a.png", "-x.png", "@b.png", "'=q.png", "'cat'.png", "a;b.png", "plain.png"]


@pytest.mark.parametrize("columns", [("image", "label"), ("image", "method", "metric", "value")])
def test_tables_that_were_written_are_read(tmp_path, columns):
    """`images.csv` of an evaluation, and any other table whose names and classes got an apostrophe."""
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with (tmp_path / "images.csv").open("w", newline="") as file:
        write_rows(file, [columns, *([name, "=cat", "x", 1.0][: len(columns)] for name in NAMES)])
    found = list(open_data(tmp_path / "images.csv", "table"))
    assert [each.name for each in found] == NAMES
    assert all(isinstance(each, Sample) for each in found)
    assert {label for each in found for label in each.labels} == ({"=cat"} if "label" in columns else set())


def test_names_that_begin_with_an_apostrophe_are_names(tmp_path):
    """Where the file is called so, and no other is called like what comes after it."""
    Image.new("RGB", (8, 8)).save(tmp_path / "'-x.png")
    (tmp_path / "a.csv").write_text("image\n'-x.png\n")
    [only] = open_data(tmp_path / "a.csv", "table")
    assert only.name == "'-x.png"
