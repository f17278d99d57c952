"""Moving pictures of anyone's: sizes, numbers of frames and scans are measured before anything is decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lucidcam.data._files import read_values
from lucidcam.errors import InputError
from lucidcam.io import images, video


def gif(width, height, frames, frame=(1, 1)):
    content = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + bytes(6)
    one = b"\x21\xf9\x04\x00" + struct.pack("<H", 10) + b"\x00\x00"
    one += b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return content + one * frames + b";"


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def apng(width, height, frames, declared=None):
    packed = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    content += chunk(b"acTL", struct.pack(">II", declared or frames, 0))
    for number in range(frames):
        control = struct.pack(">IIIIIHHBB", max(0, 2 * number - 1), width, height, 0, 0, 1, 10, 0, 0)
        content += chunk(b"fcTL", control)
        content += chunk(b"IDAT", packed) if number == 0 else chunk(b"fdAT", struct.pack(">I", 2 * number) + packed)
    return content + chunk(b"IEND", b"")


def stack(width, height, frames):
    pages = [Image.new("1", (width, height))] * frames
    content = io.BytesIO()
    pages[0].save(content, "TIFF", compression="group4", save_all=True, append_images=pages[1:])
    return content.getvalue()


def shown(content, most=8):
    """What a network that takes eight frames of a clip asks for."""
    clip = video.read(content)
    return clip, clip.frames(sorted({int(at) for at in np.linspace(0, clip.count - 1, most)}))


BOMBS = {
    "gif": gif(60_000, 60_000, 3),
    "gif a little too large": gif(13_000, 13_000, 3),
    "gif with frames of that size": gif(9_000, 9_000, 40),
    "gif with very many frames": gif(5_000, 5_000, 20_000),
    "gif that grows": gif(100, 100, 3, frame=(20_000, 20_000)),
    "gif that grows to what Pillow would take": gif(100, 100, 3, frame=(13_000, 13_000)),
    "slim gif": gif(2, 20_000, 3),
    "apng": apng(9_000, 9_000, 12),
    "tiff": stack(9_000, 9_000, 8),
    "apng that declares two milliards of frames": apng(16, 16, 2, declared=2**31 - 1),
}


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("kind", BOMBS)
def test_what_is_declared_is_not_made(tmp_path, kind, as_file):
    (tmp_path / "clip.gif").write_bytes(BOMBS[kind])
    with pytest.raises(InputError) as told:
        shown(tmp_path / "clip.gif" if as_file else BOMBS[kind])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("content", [gif(40, 30, 5), gif(40, 30, 1), apng(40, 30, 5), stack(40, 30, 5)])
def test_small_clips_are_read(content):
    clip, frames = shown(content)
    assert len(frames) == clip.count in (1, 5)
    assert {frame.size for frame in frames} == {(40, 30)}


def test_durations_of_long_clips_are_not_looked_for(monkeypatch):
    """They are told frame by frame, each of which is decoded for that."""
    monkeypatch.setattr(video, "MAX_PIXELS", 40 * 30 * 4)
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.seek", lambda _, number: number and pytest.fail("decoded"))
    assert video.read(gif(40, 30, 5)).count == 5


def encoded_video(width, height, frames=3):
    av = pytest.importorskip("av")
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for number in range(frames):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


@pytest.mark.parametrize("limit", [("MAX_PIXELS", 64 * 48 - 1), ("MAX_ASPECT", 1.2)])
def test_frames_of_a_video_are_no_larger_than_a_picture(tmp_path, monkeypatch, limit):
    content = encoded_video(480, 64) if limit[0] == "MAX_ASPECT" else encoded_video(64, 48)
    assert len(shown(content)[1]) == 3
    monkeypatch.setattr(images, *limit)
    for source in (content, tmp_path / "a.mp4"):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(InputError):
            shown(source)


@pytest.mark.parametrize("name", ["http:film.mp4", "data:film.mp4", "concat:a.mp4|film.mp4", "pipe:0.mp4", "file:film.mp4", "-film.mp4"])
def test_the_name_of_a_video_is_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(encoded_video(64, 48))
    assert len(shown(name)[1]) == 3


LISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile secret.mp4\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_other_files_are_no_videos(tmp_path, monkeypatch, kind):
    """Nor where they begin like one: FFmpeg knows them by what is in them, and would open what they name."""
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(encoded_video(64, 48))
    (tmp_path / "list.mp4").write_bytes(LISTS[kind])
    for looks_like_one in (False, True):
        if looks_like_one:
            monkeypatch.setattr(video, "_is_video", lambda _: True)
        with pytest.raises(InputError):
            shown(tmp_path / "list.mp4")


def scans(count, side=64, mode="L", thumbnail=b""):
    """A progressive JPEG, its last scan many times over."""
    content = io.BytesIO()
    exif = {"exif": b"Exif\0\0" + thumbnail} if thumbnail else {}
    Image.effect_noise((side, side), 40).convert(mode).save(content, "JPEG", progressive=True, **exif)
    content = content.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


@pytest.mark.parametrize("side", [64, 700])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_scans_of_a_jpeg_are_counted(tmp_path, side, mode):
    path = tmp_path / "many.jpg"
    path.write_bytes(scans(images.MAX_SCANS + 1, side, mode))
    for read in (images.read, images.read_grey, read_values, lambda path: images.read(path.read_bytes()), video.read):
        with pytest.raises(InputError, match="scans"):
            read(path)
    path.write_bytes(scans(images.MAX_SCANS, side, mode))
    assert images.read(path)[0].size == (side, side)


def test_what_is_no_scan_is_not_counted():
    """A preview in the metadata, and what comes after the end."""
    assert images.read(scans(20, thumbnail=b"\xff\xda" * 1000) + b"\xff\xda" * 1000)[0].size == (64, 64)
