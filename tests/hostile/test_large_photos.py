"""Large photos take little more memory than their pixels: they are not copied, and what is made of them comes in bands or smaller."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from lucidcam.imaging import explanation, maps, render
from lucidcam.imaging.explanation import Explanation, Scale
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.io import images
from lucidcam.outputs.html import explanation as page
from lucidcam.pipeline.index import row_of
from lucidcam.samples import Object
from lucidcam.types import Frame

PEAK = 1.0e9
"""Bytes of the whole process that explains a photo of 100 megapixels."""

FRAMES = {
    "whole": Frame.whole(61, 47),
    "crop": Frame(61, 47, (9.4, 3.2, 50.1, 43.9)),
    "padded": Frame(61, 47, (-8.0, -15.0, 69.0, 62.0)),
    "turned": Frame(61, 47, (5.0, 0.0, 52.0, 47.0), mirrored=True, transposed=True),
    "low": Frame(61, 47, (0.0, 40.0, 61.0, 47.0)),
}


def explained(frame: Frame, seed: int = 0, ranged: bool = False, pixels: bool = False) -> Explanation:
    torch.manual_seed(seed)
    raw = torch.randn(7, 6)
    photo = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (47, 61, 3), np.uint8))
    colours = torch.randn(3, 20, 18) if pixels else None
    return Explanation(raw, photo, frame, 3, "cat", 1.0, 0.5, "gradcam", "layer", "photo.png", colours, ranged)


@pytest.fixture
def banded(monkeypatch):
    """Every photo counts as a large one."""

    def begin(rows: int = 5) -> None:
        monkeypatch.setattr(images, "BAND", 61 * rows)
        for module in (explanation, sys.modules["lucidcam.pipeline.index"]):
            monkeypatch.setattr(module, "LARGEST_WHOLE", 1)

    return begin


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_bands_give_what_the_whole_gives(frame, ranged, banded):
    whole = explained(FRAMES[frame], ranged=ranged)
    marked = [Object("cat", (3.0, 8.0, 30.0, 33.0)), Object("cat", (20.0, 2.0, 44.0, 30.0))]
    rows = [row_of(whole, 0, "cat", marked[:count], 0.2) for count in (0, 1, 2)]
    expected = [whole.boxes(0.2), whole.boxes(0.5), whole.overlay().tobytes(), whole.heatmap]
    banded()
    large = explained(FRAMES[frame], ranged=ranged)
    found = [large.boxes(0.2), large.boxes(0.5), large.overlay().tobytes(), np.concatenate([band for _, band in large.bands()])]
    assert "heatmap" not in large.__dict__
    assert found[:3] == expected[:3]
    assert np.array_equal(found[3], expected[3])
    for count, row in enumerate(rows):
        other = row_of(large, 0, "cat", marked[:count], 0.2)
        assert other == {name: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value for name, value in row.items()}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_rows_of_a_map_are_those_of_the_whole(mode):
    raw, size, box = torch.randn(5, 4), (40, 30), (3.0, -6.0, 33.0, 31.0)
    whole = maps.finish(raw, size, box, mode)
    for first, last in ((0, 40), (0, 7), (7, 8), (20, 40), (31, 40)):
        assert np.array_equal(maps.finish(raw, size, box, mode, (first, last)), whole[first:last])


def test_signed_colours_come_in_bands(banded):
    pixels = explained(FRAMES["crop"], pixels=True)
    scale = Scale(0, 1, render.signed_peak(np.stack([maps.in_photo(each, pixels.frame) for each in pixels.pixels], -1)))
    expected = pixels.rgb.tobytes()
    banded()
    assert lucidcam.imaging.explanation.replace(pixels, scale=scale).rgb.tobytes() == expected
    assert explained(FRAMES["crop"], pixels=True).rgb.tobytes() == expected  # small enough to be sampled as it is


@pytest.mark.parametrize("pixels", [False, True])
def test_pictures_of_large_photos_are_smaller(pixels, banded, monkeypatch, tmp_path):
    one = explained(FRAMES["crop"], pixels=pixels)
    one.save(tmp_path / "whole.png")
    monkeypatch.setattr(explanation, "LARGEST_DRAWN", 2000)
    monkeypatch.setattr(explanation, "DRAWN", 800)
    for suffix in ("png", "jpg", "tiff"):
        one.save(tmp_path / f"small.{suffix}", boxes=one.boxes())
        assert images.size(tmp_path / f"small.{suffix}") == (31, 24)
    one.save(tmp_path / "plain.png")
    before, after = (
        np.asarray(images.read(tmp_path / name)[0].resize((15, 12), Image.Resampling.BOX), float) for name in ("whole.png", "plain.png")
    )
    assert np.abs(before - after).mean() < 12
    assert page.page(one).sections[0].parts[0].shots[0].pictures[0].size == (31, 24)
    assert one.picture().size == (61, 47)
    assert one.to_dict()["size"] == [61, 47]


def grown(action) -> float:
    """Bytes that a call adds to the process at its peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not tell the peak")
    before = _status("VmRSS")
    kept = action()
    peak = _status("VmHWM") - before
    del kept
    return peak


def _status(entry: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[entry].split()[0]) * 1024


def encoded(kind: str, mode: str, exif: bool = False, side: int = 3000) -> bytes:
    """An image file."""
    content = io.BytesIO()
    tags = Image.Exif()
    tags[0x010F] = "maker"
    Image.linear_gradient("L").resize((side, side)).convert(mode).save(content, kind, **({"exif": tags} if exif else {}))
    return content.getvalue()


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize(
    ("kind", "mode", "times"), [("JPEG", "RGB", 1), ("PNG", "RGB", 1), ("BMP", "RGB", 1), ("PNG", "L", 1.25), ("PNG", "RGBA", 2)]
)
def test_a_photo_is_read_without_copies(kind, mode, times, exif):
    if exif and kind == "BMP":
        pytest.skip("it has none")
    content = encoded(kind, mode, exif)
    images.read(encoded(kind, mode, exif, 16))
    steps = Preprocess(size=(32, 32), resize=32)

    def read():
        photo, _ = images.read(content)
        assert photo.info == {}
        assert dict(photo.getexif()) == {}
        return photo, steps(photo)

    assert grown(read) <= 4 * 3000**2 * times + 16e6


def test_a_picture_of_the_users_is_copied():
    with Image.open(io.BytesIO(encoded("PNG", "RGB", side=20))) as picture:
        photo, _ = images.read(picture)
        before = photo.getpixel((3, 3))
        picture.putpixel((3, 3), (1, 2, 3))
    assert photo.getpixel((3, 3)) == before


def test_transparency_is_laid_on_white_band_by_band(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    sources = [Image.fromarray(pixels), Image.fromarray(pixels).convert("LA")]
    palette = Image.fromarray(pixels[:, :, :3]).quantize(8)
    palette.info["transparency"] = 3
    sources.append(palette)
    expected = [images.read(each)[0].tobytes() for each in sources]
    white = Image.alpha_composite(Image.new("RGBA", (23, 37), "white"), Image.fromarray(pixels)).convert("RGB")
    assert expected[0] == white.tobytes()
    monkeypatch.setattr(images, "BAND", 23 * 5)
    assert [images.read(each)[0].tobytes() for each in sources] == expected


PROGRAM = """
import atexit, sys
from pathlib import Path
from lucidcam.cli import main
atexit.register(lambda: print(Path("/proc/self/status").read_text()))
sys.argv = ["lucidcam", "explain", sys.argv[1], "--out", sys.argv[2]]
main()
"""
"""Tells its own peak: that which the system counts for a process holds what the process that started it held."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program's own peak")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_of_100_megapixels_takes_a_gigabyte(kind, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(encoded(kind, "RGB", side=10_000))
    done = subprocess.run([sys.executable, "-c", PROGRAM, path, tmp_path / "out"], capture_output=True, text=True, check=True)
    peak = next(line for line in done.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) * 1024 <= PEAK
