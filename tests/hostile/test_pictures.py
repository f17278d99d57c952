"""Pictures of anyone's: opened by what they hold, never by what they are called; bounded before they are decoded."""

import io
import os
import resource
import socket
import struct
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucidcam
from commands import run as command
from lucidcam.data._files import read_values
from lucidcam.errors import InputError, LucidcamError
from lucidcam.imaging.preprocess import INTERPOLATIONS, Preprocess, _chooses_order, _is_vertical_first
from lucidcam.io import images
from lucidcam.targets.segmentation import _mask

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(%pipe%touch marker) (w) file closefile\nshowpage\n"


def encoded(kind: str, size=(40, 30), mode="RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, "gray").save(content, kind)
    return content.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises a size, with whatever in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(bytes(height * (width + 1)), 9))
        + chunk(b"IEND", b"")
    )


FOREIGN = {
    "EPS": EPS,
    **{kind: encoded(kind) for kind in ("PCX", "ICO", "SGI", "PDF", "DDS")},
    "MSP": encoded("MSP", mode="1"),
    "XBM": encoded("XBM", mode="1"),
    "SPIDER": encoded("SPIDER", mode="F"),
}


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    """Opening a picture starts no program."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"{args} was started"))
    monkeypatch.setattr(os, "system", lambda *args: pytest.fail(f"{args} was started"))


READERS = {
    "path": lambda path: images.read(path),
    "bytes": lambda path: images.read(path.read_bytes()),
    "file": lambda path: images.read(path.open("rb")),
    "size": lambda path: images.size(path),
    "grey": lambda path: images.read_grey(path),
    "mask": lambda path: read_values(path),
    "clip": lambda path: lucidcam.io.video.read(path),
    "region": lambda path: _mask(str(path)),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_formats_are_known_by_their_content(tmp_path, kind, reader, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(LucidcamError) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_a_picture_that_is_not_decoded_yet_is_not_decoded_either():
    with Image.open(io.BytesIO(EPS)) as image, pytest.raises(InputError, match="EPS"):
        images.read(image)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP", "MPO"])
def test_formats_of_photos_are_read_whatever_the_name(tmp_path, kind):
    path = tmp_path / "photo.txt"
    path.write_bytes(encoded(kind))
    assert images.read(path)[0].size == (40, 30)
    assert images.size(path) == (40, 30)


@pytest.mark.parametrize(
    ("width", "height"), [(2, 20_000), (20_000, 2), (2, 70_000), (1, 10**6), (2**31 - 1, 2**31 - 1), (10**5, 10**4), (3, 601)]
)
def test_sizes_are_refused_by_the_header(tmp_path, width, height):
    path = tmp_path / "photo.png"
    path.write_bytes(png(width, height, b"never decoded"))
    for read in (images.read, images.read_grey, read_values):
        with pytest.raises(InputError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fit", ["crop", "squash", "whole"])
def test_a_slim_picture_takes_little(fit):
    """The slimmest that there may be, at a large input: within a few hundred megabytes."""
    image = Image.new("RGB", (20, 3980))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensor = Preprocess(size=(224, 224), resize=1024, fit=fit)(image)
    assert tensor.numel() < 50_000_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 700


@pytest.mark.parametrize("interpolation", sorted({*INTERPOLATIONS} - {"nearest", "box"}))
@pytest.mark.parametrize("size", [(37, 500), (500, 37), (7, 90), (300, 211)])
@pytest.mark.parametrize("resize", [24, 90, (120, 64)])
def test_the_part_around_a_crop_is_the_crop_of_the_whole(size, interpolation, resize, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    steps = Preprocess(size=(48, 56), resize=resize, mean=(0.0,), std=(1.0,), scale=1, interpolation=interpolation)
    expected = steps(Image.fromarray(pixels))
    monkeypatch.setattr("lucidcam.imaging.preprocess.LARGEST_RESIZED", 1)
    found = steps(Image.fromarray(pixels))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1  # of 255


def test_the_order_of_the_axes_is_pillows():
    """Seen on noise: its clipped values tell which axis was resized first."""
    draws = np.random.default_rng(1)
    told = {True: 0, False: 0}
    for _ in range(300):
        (width, height), resized = draws.integers(5, 120, 2).tolist(), tuple(draws.integers(5, 120, 2).tolist())
        noise = Image.fromarray(draws.integers(0, 2, (height, width)).astype(np.uint8) * 255)
        whole = noise.resize(resized, Image.Resampling.LANCZOS).tobytes()
        across_first = noise.resize((resized[0], height), Image.Resampling.LANCZOS).resize(resized, Image.Resampling.LANCZOS).tobytes()
        down_first = noise.resize((width, resized[1]), Image.Resampling.LANCZOS).resize(resized, Image.Resampling.LANCZOS).tobytes()
        if across_first != down_first:
            vertical_first = _is_vertical_first((width, height), resized)
            told[vertical_first] += 1
            assert whole == (down_first if vertical_first else across_first), (width, height, resized)
    assert told[False] > 100
    assert told[True] > 50 or not _chooses_order()


def test_pipes_are_read_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "PIPE_WAIT", 0.3)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="nothing was written"):
        images.read(pipe)
    content = encoded("PNG")
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    assert images.read(pipe)[0].size == (40, 30)
    writer.join()
    with pytest.raises(InputError, match="pipe"):
        images.size(pipe)


def test_a_pipe_without_an_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)

    def write() -> None:
        try:
            with pipe.open("wb") as file:
                while True:
                    file.write(bytes(65536))
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(InputError, match="at most 100000 bytes"):
        images.read(pipe)
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_devices_are_no_pictures(name):
    for read in (images.read, images.size):
        with pytest.raises(InputError, match="device"):
            read(name)


def odd(folder: Path) -> Path:
    """A folder of photos with odd names, beside pipes, sockets and links to devices that are called like photos."""
    folder.mkdir()
    for name in (
        b"good.png",
        b"caf\xe9.png",
        "line\u2028separator.png".encode(),
        b"new\nline.png",
        b"tab\t.png",
        b"-x.png",
        "\U0001f600.png".encode(),
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(encoded("PNG"))
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.png"))
    return folder


GOOD, BAD = 7, 4


@pytest.fixture
def odd_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "PIPE_WAIT", 0.1)
    return odd(tmp_path / "photos")


def test_a_run_reports_odd_files_and_skips_them(odd_photos, tmp_path):
    import runs

    results = lucidcam.run(runs.colours(), odd_photos, tmp_path / "run", write=("npz", "png"), progress=False)
    assert results.manifest["images"] == GOOD
    assert len(list(results.failures())) == BAD


def test_an_evaluation_skips_odd_files(odd_photos, tmp_path):
    import runs

    report = lucidcam.evaluate(runs.colours(), odd_photos, "gradcam", "sparseness", baselines=[], out=tmp_path / "out", progress=False)
    assert len(report.names) == GOOD


@pytest.mark.parametrize("labels", ["coco", "voc", "yolo", "masks", "fiftyone"])
def test_labels_are_made_beside_odd_files(odd_photos, tmp_path, labels):
    command("localize", odd_photos, "--out", f"{labels}:{tmp_path / labels}", "--method", "gradcam", "--limit", 20, code=1)


def test_a_folder_with_odd_files_is_explained(odd_photos, tmp_path):
    command("explain", odd_photos, "--out", tmp_path / "explained", code=1)
