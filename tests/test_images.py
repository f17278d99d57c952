"""Pictures of every kind are read right; bad ones are refused in one line. Every file is made here."""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lucidcam.errors import InputError, OptionError
from lucidcam.io import images

RED = (255, 0, 0)


def save(image, path, **options):
    image.save(path, **options)
    return path


def refused(source):
    """The one-line refusal of a source."""
    with pytest.raises(InputError) as caught:
        images.read(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def colour(source, at=(0, 0)):
    image, _ = images.read(source)
    assert image.mode == "RGB"
    return image.getpixel(at)


def png(width, height, *chunks, bits=8, kind=2):
    """A PNG with a proper header (and CRC) of any size, with the given chunks and no more."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")


@pytest.fixture
def photo():
    from skimage import data

    return data.chelsea()


# ---------------------------------------------------------------- kinds of sources


def test_every_kind_of_source_gives_the_same_picture(tmp_path, photo):
    path = save(Image.fromarray(photo), tmp_path / "cat.png")
    data = path.read_bytes()
    with path.open("rb") as file, Image.open(path) as lazy:
        sources = [str(path), path, data, bytearray(data), memoryview(data), io.BytesIO(data), file, lazy]
        sources += [photo, photo / 255, (photo / 255).astype(np.float32), photo.astype(np.uint16) * 257]
        tensor = torch.from_numpy(photo).permute(2, 0, 1)
        sources += [tensor, tensor[None], tensor / 255, (tensor.double() / 255).requires_grad_()]
        for source in sources:
            assert np.array_equal(np.asarray(images.read(source)[0]), photo)
        assert np.abs(np.asarray(images.read((tensor / 255).bfloat16())[0]).astype(int) - photo).max() <= 1


def test_names(tmp_path):
    picture = Image.new("RGB", (4, 3), RED)
    path = save(picture, tmp_path / "red.png")
    assert images.read(path)[1] == images.read(str(path))[1] == str(path)
    with path.open("rb") as file:
        assert images.read(file)[1] == str(path)
    with Image.open(path) as lazy:
        assert images.read(lazy)[1] == str(path)
    named = {"bytes": path.read_bytes(), "image": picture, "array": np.zeros((4, 3)), "tensor": torch.zeros(3, 4, 3)}
    assert {name: images.read(source)[1] for name, source in named.items()} == {name: name for name in named}


def test_a_pipe_on_standard_input_is_read(monkeypatch):
    class Pipe(io.RawIOBase):
        name = 0

        def __init__(self, data):
            self.data = data

        def read(self, size=-1):
            return self.data

    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), RED).save(buffer, "PNG")
    monkeypatch.setattr(sys, "stdin", Pipe(buffer.getvalue()))
    image, name = images.read(sys.stdin)
    assert (image.getpixel((0, 0)), name) == (RED, "bytes")


def test_the_source_is_left_alone(photo):
    array, tensor = photo.copy(), torch.rand(3, 5, 5)
    picture = Image.fromarray(photo)
    before = tensor.clone()
    result, _ = images.read(picture)
    assert result is not picture
    result.paste(RED, (0, 0, 5, 5))
    images.read(array), images.read(tensor)
    assert np.array_equal(np.asarray(picture), photo)
    assert np.array_equal(array, photo)
    assert torch.equal(tensor, before)


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = RED  # top left
    upright[8:, :8] = (0, 0, 255)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "turned.png", exif=exif)
    image, _ = images.read(path)
    assert np.array_equal(np.asarray(image), upright)
    assert np.array_equal(np.asarray(images.read(image)[0]), upright)  # not turned a second time
    with Image.open(path) as lazy:
        assert np.array_equal(np.asarray(images.read(lazy)[0]), upright)


def test_unreadable_exif_is_no_reason_to_refuse(tmp_path):
    path = save(Image.new("RGB", (8, 8), RED), tmp_path / "exif.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff junk")
    assert colour(path) == (254, 0, 0)


def test_cmyk(tmp_path):
    path = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.subtract(colour(path), RED)).max() < 5
    assert np.abs(np.subtract(colour(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "c.tif")), RED)).max() < 5


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896], [65535, 128, 129]], np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"deep.{suffix}")
    image, _ = images.read(path)
    assert np.asarray(image)[..., 0].tolist() == [[0, 1, 128], [255, 0, 1]]
    assert len(set(image.getpixel((2, 0)))) == 1


def test_32_bit_integers_that_hold_16_bits():
    assert np.asarray(images.read(Image.fromarray(np.full((2, 2), 65535, np.int32)))[0]).max() == 255
    assert "from 70000 to 70000: say which values are shown: window=" in refused(Image.fromarray(np.full((2, 2), 70000, np.int32)))


def signed_tiff(path, values, bits=16, photometric=1, kind=2):
    """A TIFF as Pillow does not write it: 16 bits with sign (kind 2), or with white as zero (photometric 0)."""
    height, width = values.shape
    data = values.astype({1: f"<u{bits // 8}", 2: f"<i{bits // 8}"}[kind]).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def pgm(path, values, most):
    path.write_bytes(b"P5 %d %d %d\n" % (*values.shape[::-1], most) + values.astype(">u2").tobytes())
    return path


def of_16_bits(values, kind, tmp_path):
    if kind == "array":
        return values
    if kind == "tensor":
        return torch.from_numpy(values)
    if kind == "signed.tif":
        return signed_tiff(tmp_path / "deep.tif", values)
    return save(Image.fromarray(values.astype(np.uint16)), tmp_path / f"deep.{kind}")


@pytest.mark.parametrize("most", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["png", "tif", "array", "tensor", "signed.tif"])
def test_data_of_fewer_bits_in_16_are_not_black(most, kind, tmp_path):
    if kind == "signed.tif" and most == 65535:
        most = 16383
    values = np.linspace(0, most, 20 * 30).round().astype(np.uint16).reshape(20, 30)
    right = (values.astype(np.float64) / most * 255).round()
    assert np.array_equal(np.asarray(images.read(of_16_bits(values, kind, tmp_path))[0])[..., 0], right)


def test_a_pgm_declares_its_white(tmp_path):
    values = np.array([[0, 100], [500, 1000]])  # 10 bits would do, but the file says 4095
    path = pgm(tmp_path / "deep.pgm", values, 4095)
    assert np.abs(np.asarray(images.read(path)[0])[..., 0] - values / 4095 * 255).max() <= 0.51
    assert np.abs(np.asarray(images.read(path, (1000, 500))[0])[..., 0] - values / 1000 * 255).max() <= 0.51
    path = pgm(tmp_path / "full.pgm", values, 65535)
    assert np.asarray(images.read(path)[0]).max() == 4
    assert np.abs(np.asarray(images.read(path, (1000, 500))[0])[..., 0] - values / 1000 * 255).max() <= 0.51


@pytest.mark.parametrize("window", [(400, 40), (1, 0), (1500, -600), (4095, 2047.5), (0.5, 3)])
@pytest.mark.parametrize("kind", ["png", "tif", "signed.tif", "float.tif", "32 bits", "array", "float array", "tensor", "grey"])
def test_windows_are_exact(window, kind, tmp_path):
    values = np.arange(-1100, 4096, 4).reshape(3, -1)
    if kind in ("png", "tif"):
        values = values.clip(0)
    if kind in ("float.tif", "float array"):
        values = values + 0.25
    if kind == "grey":
        source = save(Image.fromarray(values.clip(0, 255).astype(np.uint8)), tmp_path / "grey.png")
        values = values.clip(0, 255)
    elif kind == "float.tif":
        source = save(Image.fromarray(values.astype(np.float32)), tmp_path / "float.tif")
    elif kind == "32 bits":
        source = save(Image.fromarray(values.astype(np.int32)), tmp_path / "long.tif")
    else:
        source = of_16_bits(values, kind.removeprefix("float "), tmp_path)
    width, level = window
    right = np.interp(values, [level - width / 2, level + width / 2], [0, 255])
    image, _ = images.read(source, window)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[..., 0] - right).max() <= 0.5 + 1e-9


def test_what_a_window_leaves_alone_and_what_needs_one(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    for source in (colours, Image.fromarray(colours), save(Image.fromarray(colours), tmp_path / "c.png")):
        assert np.array_equal(np.asarray(images.read(source, (10, 5))[0]), colours)
    half = Image.merge("LA", (Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 255)))
    assert np.asarray(images.read(half, (20, 10))[0]).max() == 128
    told = refused(signed_tiff(tmp_path / "hu.tif", np.array([[-1000, 40], [0, 3000]])))
    assert "from -1000 to 3000" in told
    assert "--window and --level" in told
    assert "--window" in refused(np.array([[-1000.0, 40], [0, 3000]]))
    assert "--window" not in refused(np.full((3, 4, 3), 200.0))
    assert "uint8" in refused(np.zeros((4, 4), np.int64))
    for wrong in (400, (400,), (0, 40), (-1, 40), (float("nan"), 0), ("a", "b"), (1, 2, 3)):
        with pytest.raises(OptionError, match="window as"):
            images.read(colours, wrong)
    with pytest.raises(InputError, match="NaN"):
        images.read(np.array([[np.nan, 0], [0, 1]]), (10, 5))


def test_white_is_zero(tmp_path):
    path = signed_tiff(tmp_path / "inverted.tif", np.array([[0, 1000], [2000, 4095]]), photometric=0, kind=1)
    assert np.asarray(images.read(path)[0])[..., 0].tolist() == [[255, 193], [130, 0]]
    assert np.asarray(images.read(path, (4095, 2047.5))[0])[..., 0].tolist() == [[255, 193], [130, 0]]


def test_colours_of_12_or_14_bits_in_16_are_refused(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for suffix in ("png", "tif"):
        path = tmp_path / f"colours.{suffix}"
        assert cv2.imwrite(str(path), np.full((6, 6, 3), (4000, 10, 2000), np.uint16))
        assert "colours of 16 bits" in refused(path)
        assert cv2.imwrite(str(path), np.full((6, 6, 3), (16000, 10, 2000), np.uint16))
        assert "14 or fewer" in refused(path)
        assert cv2.imwrite(str(path), np.full((6, 6, 3), (40000, 10, 2000), np.uint16))
        assert colour(path)[2] == 156


def test_every_reader_takes_the_model_s_window(tmp_path):
    import lucidcam
    from lucidcam.imaging.preprocess import Clips, Preprocess
    from lucidcam.io import video
    from lucidcam.models._card import Card
    from lucidcam.train.labelled import read as labelled
    from lucidcam.train.loading import Photos

    values = np.linspace(-1000, 3000, 30 * 40).reshape(30, 40).round()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        signed_tiff(tmp_path / name / "x.tif", values)
    path = tmp_path / "a/x.tif"
    right = np.interp(values, [-160, 240], [0, 255]).round()
    steps = Preprocess(size=(30, 40), fit="squash", mean=0.0, std=1.0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def plain(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    windowed = Preprocess(size=(30, 40), fit="squash", mean=0.0, std=1.0, window=(400, 40))
    for model in (lucidcam.wrap(net, windowed), lucidcam.wrap(net, steps, window=(400, 40)), lucidcam.wrap(net, plain, window=(400, 40))):
        assert model.window == (400, 40)
        (prepared,) = model.prepare(path)
        assert np.abs(prepared.tensor[0].numpy() * 255 - right).max() < 1e-3
        (found,) = lucidcam.explain(model, path)
        assert np.array_equal(np.asarray(found.image)[..., 0], right)
        assert np.array_equal(np.asarray(lucidcam.explain(model, found.image)[0].image), np.asarray(found.image))  # windowed once
    with pytest.raises(InputError, match="--window"):
        lucidcam.wrap(net, steps).prepare(path)
    with pytest.raises(OptionError, match="window"):
        lucidcam.wrap(net, window=(400, 40))
    film = lucidcam.wrap(net, Clips(still=steps, count=2), window=(400, 40))
    assert np.abs(film.prepare([[path, path]])[0].tensor[0, 0].numpy() * 255 - right).max() < 1e-3
    assert np.array_equal(np.asarray(video.read([path], (400, 40)).frames([0])[0])[..., 0], right)
    item = Photos(labelled(str(tmp_path)), windowed)[0]
    assert np.abs(item.tensor[0].numpy() * 255 - right).max() < 1e-3
    Card("gap:small", {}, ("a", "b"), None, windowed).write(tmp_path)
    assert Card.beside(tmp_path).preprocess == windowed
    assert windowed.refit("crop").window == (400, 40)


def test_float_tiff(tmp_path):
    assert colour(save(Image.fromarray(np.full((2, 2), 0.5, np.float32)), tmp_path / "half.tif")) == (128, 128, 128)
    assert "divide by 255" in refused(save(Image.fromarray(np.full((2, 2), 200, np.float32)), tmp_path / "f.tif"))


def test_transparency_lies_on_white(tmp_path):
    assert colour(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == (255, 255, 255)
    assert colour(Image.new("RGBA", (4, 4), (255, 0, 0, 51))) == (255, 204, 204)
    assert colour(Image.new("LA", (4, 4), (0, 51))) == (204, 204, 204)
    assert colour(np.full((4, 4, 4), (0, 0, 0, 0), np.uint8)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    one_clear = save(palette, tmp_path / "clear.png", transparency=0)
    assert (colour(one_clear), colour(one_clear, (1, 0))) == ((255, 255, 255), (0, 255, 0))
    table = save(palette, tmp_path / "table.png", transparency=bytes([51, 255]))
    assert (colour(table), colour(table, (1, 0))) == ((255, 204, 204), (0, 255, 0))
    grey = save(Image.new("L", (4, 4), 7), tmp_path / "grey.png", transparency=7)
    assert colour(grey) == (255, 255, 255)


def test_animated_gif_gives_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 6), c) for c in (RED, (0, 255, 0), (0, 0, 255))]
    path = save(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert colour(path) == RED


def test_one_bit_grey_and_bool(tmp_path):
    assert colour(save(Image.new("1", (4, 4), 1), tmp_path / "bit.png")) == (255, 255, 255)
    assert colour(Image.new("L", (4, 4), 9)) == (9, 9, 9)
    assert colour(np.ones((4, 4), bool)) == (255, 255, 255)
    assert colour(np.full((4, 4, 1), 9, np.uint8)) == (9, 9, 9)
    assert colour(torch.full((1, 4, 4), 9, dtype=torch.uint8)) == (9, 9, 9)


# ---------------------------------------------------------------- refusals


def test_paths_that_lead_nowhere(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.jpg")
    assert "is a folder" in refused(tmp_path)
    assert "fsspec knows" in refused("nowhere://example.org/cat.jpg")
    assert "PIL image" in refused(3)


def test_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "empty.jpg")
    assert "is empty" in refused(b"")
    assert "is empty" in refused(io.BytesIO())


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_truncated_file(tmp_path, photo, suffix):
    data = save(Image.fromarray(photo), tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: len(data) // 2])
    message = refused(cut)
    assert "cut off or damaged" in message
    assert "copy or download it again" in message


def test_text_and_other_files_renamed(tmp_path):
    (tmp_path / "text.jpg").write_text("This is no picture. Größe: 3 €\n" * 40, encoding="utf-8")
    assert "is not an image: it contains text" in refused(tmp_path / "text.jpg")
    (tmp_path / "random.jpg").write_bytes(bytes(range(256)))
    assert "its content is none of AVIF, BMP" in refused(tmp_path / "random.jpg")
    with (tmp_path / "text.jpg").open(encoding="utf-8") as file:
        assert "mode 'rb'" in refused(file)


@pytest.mark.parametrize("side", [20_000, 12_000, 60_000])
def test_header_bomb_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, (b"IDAT", zlib.compress(b"\0" * 100))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        message = refused(path)
    assert "at most 100000000 pixels" in message
    assert f"{side * side} pixels" in message or f"{side}×{side} pixels" in message
    assert not caught


def test_a_large_picture_below_the_limit_gives_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    buffer = io.BytesIO()
    Image.new("RGB", (15, 10), RED).save(buffer, "PNG")
    assert colour(buffer.getvalue()) == RED


@pytest.mark.parametrize("shape", [(0, 0), (0, 0, 3), (0, 5, 3), (1, 1, 3), (1, 9, 3), (1, 1)])
def test_arrays_without_enough_pixels(shape):
    assert "at least 2×2 pixels" in refused(np.zeros(shape, np.uint8))
    tensor = torch.zeros(shape if len(shape) == 2 else (3, *shape[:2]))
    assert "at least 2×2 pixels" in refused(tensor)


def test_files_without_enough_pixels(tmp_path):
    assert "has 1×1" in refused(save(Image.new("RGB", (1, 1)), tmp_path / "one.png"))
    assert "has 0×0" in refused(Image.new("RGB", (0, 0)))
    (tmp_path / "zero.png").write_bytes(png(0, 0))
    refused(tmp_path / "zero.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(tmp_path, value):
    array = np.zeros((4, 4, 3), np.float32)
    array[1, 2, 0] = value
    assert "1 NaN or infinite values of 48" in refused(array)
    assert "1 NaN or infinite values" in refused(torch.from_numpy(array).permute(2, 0, 1))
    assert "NaN" in refused(save(Image.fromarray(array[..., 0]), tmp_path / "nan.tif"))


def test_floats_out_of_range():
    assert "divide by 255" in refused(np.full((4, 4, 3), 200.0))
    assert "before normalisation" in refused(torch.randn(3, 8, 8) * 3)
    assert colour(np.full((4, 4, 3), 1 + 1e-6)) == (255, 255, 255)


def test_wrong_shapes_and_types():
    assert "array.transpose(1, 2, 0)" in refused(np.zeros((3, 8, 9), np.uint8))
    assert "tensor.permute(2, 0, 1)" in refused(torch.zeros(8, 9, 3))
    assert "1, 3 or 4 channels" in refused(np.zeros((8, 9, 2), np.uint8))
    assert "1, 3 or 4 channels" in refused(torch.zeros(7, 8, 9))
    assert "[5]" in refused(np.zeros(5))
    assert "list of images" in refused(np.zeros((2, 8, 8, 3)))
    assert "list of images" in refused(torch.zeros(2, 3, 8, 8))
    assert "has int64" in refused(np.zeros((8, 8), np.int64))
    assert "has complex64" in refused(torch.zeros(8, 8, dtype=torch.complex64))


def test_threads_silence_pillow_without_leaving_a_trace(tmp_path):
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([255, 0, 0])
    path = save(palette, tmp_path / "table.png", transparency=bytes([0]))
    filters, wrong = list(warnings.filters), []

    def work():
        for _ in range(20):
            if colour(path) != (255, 255, 255):
                wrong.append(path)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(warnings.filters) == filters


# ---------------------------------------------------------------- finding files


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a/img10.jpg",
        "a/img2.JPG",
        "a/deep/er/x.png",
        "a/notes.txt",
        "a/.hidden.jpg",
        "a/.cache/y.jpg",
        "b/z.bmp",
        "c/odd.dat",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "void").mkdir()
    return tmp_path


def found(tree, *patterns):
    files, problems = images.find([f"{tree}/{p}" for p in patterns])
    return [str(f.relative_to(tree)) for f in files], problems


def test_find_folders(tree):
    assert found(tree, "a") == (["a/deep/er/x.png", "a/img2.JPG", "a/img10.jpg"], [])
    assert images.find([tree / "b"]) == ([tree / "b/z.bmp"], [])


def test_find_globs_and_files(tree):
    assert found(tree, "a/*")[0] == ["a/deep/er/x.png", "a/img2.JPG", "a/img10.jpg"]
    assert found(tree, "*/img*.jpg")[0] == ["a/img10.jpg"]
    assert found(tree, "**/*.png")[0] == ["a/deep/er/x.png"]
    assert found(tree, "**")[0] == ["a/deep/er/x.png", "a/img2.JPG", "a/img10.jpg", "b/z.bmp"]
    assert found(tree, "c/*.dat")[0] == ["c/odd.dat"]
    assert found(tree, "a/notes.txt")[0] == ["a/notes.txt"]  # asked for by name: its reader says what is wrong


def test_find_keeps_the_order_and_takes_each_file_once(tree):
    assert found(tree, "b/z.bmp", "a/img10.jpg", "a")[0] == ["b/z.bmp", "a/img10.jpg", "a/deep/er/x.png", "a/img2.JPG"]


def test_find_takes_a_name_with_brackets_for_a_name(tree):
    (tree / "img[1].jpg").touch()
    assert found(tree, "img[1].jpg") == (["img[1].jpg"], [])


def test_find_tells_what_gave_nothing(tree):
    files, problems = found(tree, "none.jpg", "b/*.jpg", "void", "b")
    assert files == ["b/z.bmp"]
    assert ["does not exist" in problems[0], "matches no image" in problems[1], "without images" in problems[2]] == [True] * 3
    assert len(problems) == 3


@pytest.mark.parametrize(
    "window", [np.array([400, 40]), np.array([400.0, 40.0]), (np.float32(400), np.int64(40)), [400, 40], torch.tensor([400, 40])]
)
def test_a_window_of_any_numbers(window):
    assert images.checked_window(window) == (400.0, 40.0)


@pytest.mark.parametrize(
    "window", [np.array([[400, 40]]), np.array(400), (400, [40]), np.array([True, True]), (np.nan, 1), torch.tensor(4)]
)
def test_a_window_that_is_none(window):
    with pytest.raises(OptionError, match="expected window as"):
        images.checked_window(window)
