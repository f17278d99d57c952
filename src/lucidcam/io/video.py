"""Clips: any moving picture a user may hand over, as numbered frames that are decoded when they are asked for.

Pillow reads GIF, WebP, APNG and TIFF. Video files (MP4, WebM, …) need PyAV, which the extra "video" brings.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lucidcam.errors import InputError, first_line
from lucidcam.io import images
from lucidcam.io.remote import Stored, is_url
from lucidcam.reprs import OneLineRepr
from lucidcam.utils.optional import import_optional
from lucidcam.utils.rollback import closes_scopes

MAX_PIXELS = 250_000_000
"""Of all frames that are held together: 750 MB."""

MAX_DECODED = 2_000_000_000
"""Pixels of a moving picture up to the last frame that is wanted: frames of GIF, WebP, APNG and AVIF are decoded one after the other."""

MOST_STEPS = 10_000
"""Of a clip whose frames last unequally long; beyond, each frame counts once."""

APART = frozenset({"TIFF", "MPO"})
"""Formats whose frames are decoded without those before."""

MOVING = frozenset({".gif", ".webp", ".avif"})
"""Picture files that may move: in a list of paths each is a clip of its own, where other pictures are frames of one clip."""

VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,ogg,flv,mpeg,mpegts"
"""What FFmpeg may take a video for, by its names of formats. It knows others: lists of further files and addresses, which it would open."""

_VIDEO = (b"ftyp", b"moov", b"mdat", b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"\x00\x00\x01\xba", b"\x47\x40")
"""What video files begin with, at the first or the fifth byte."""


@dataclass(frozen=True)
class Clip(OneLineRepr):
    """Frames in time.

    Attributes:
        name: its path, or "frames", "array", "tensor", … for clips that are no files.
        count: how many frames.
        pick: from ascending frame numbers to the frames, RGB, upright.
    """

    name: str
    count: int
    pick: Callable[[Sequence[int]], list[Image.Image]] = field(repr=False)

    def frames(self, numbers: Sequence[int]) -> tuple[Image.Image, ...]:
        """Decode frames by their numbers, ascending; a number may come several times.

        Raises:
            InputError: they have several sizes, are too many, or cannot be decoded.
        """
        found = self.pick(numbers)
        sizes = sorted({frame.size for frame in found})
        if len(sizes) > 1:
            (width, height), (other_width, other_height) = sizes[:2]
            raise InputError(
                f"expected frames of one size; {self.name!r} has {width}×{height} and {other_width}×{other_height}: resize them first."
            )
        return tuple(found)


def read(source: Any, window: images.Window | None = None) -> Clip:
    """Open one clip.

    Args:
        source: a path or address, `bytes` or a binary file of a moving picture (GIF, WebP, APNG, TIFF) or a video; a folder of pictures,
            which are taken in natural order; a PIL image; a list of frames, each of anything that `lucidcam.io.images.read` takes; a NumPy
            array `[T, H, W]` or `[T, H, W, C]`, or a tensor `[T, C, H, W]`. A picture that stands still is a clip of one frame.
        window: of grey frames, see `lucidcam.io.images.read`.

    Raises:
        InputError: one line that says what was expected, what came, and what to do.
    """
    if isinstance(source, Clip):
        return source
    if isinstance(source, (Tensor, np.ndarray)):
        return _of_frames(list(source) if _is_clip(source) else [source], "tensor" if isinstance(source, Tensor) else "array", window)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        return Clip(name, getattr(source, "n_frames", 1), lambda numbers: _seek(source, numbers, name, window))
    if isinstance(source, (list, tuple)):
        return _of_frames(source, "frames", window)
    if isinstance(source, (str, os.PathLike)) and not is_url(source):
        path = Path(source).expanduser()
        if path.is_dir():
            return _of_frames(images.find([path])[0], str(path), window)
        return _of_file(path, str(source), window) if path.is_file() else _of_still(source, window)
    if is_url(source):
        source = Stored(source)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "bytes"))
        return _of_file(io.BytesIO(source.read()), name, window)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _of_file(io.BytesIO(bytes(source)), "bytes", window)
    return _of_still(source, window)


def several(sources: Any) -> list[Any]:
    """Take apart what may be one clip or many: anything iterable whose items are clips by themselves is many."""
    if isinstance(sources, (Tensor, np.ndarray)):
        return list(sources) if sources.ndim == 5 else [sources]
    single = isinstance(sources, (str, bytes, bytearray, memoryview, Image.Image, Clip)) or hasattr(sources, "__fspath__")
    if single or hasattr(sources, "read") or not isinstance(sources, Iterable):
        return [sources]
    items = list(sources)
    return items if any(_is_clip(each) for each in items) else [items] if items else []


def _is_clip(item: Any) -> bool:
    """Whether an item of a list is a clip rather than a frame."""
    if isinstance(item, Tensor):
        return item.ndim == 4 or (item.ndim == 3 and item.shape[0] not in (1, 3, 4))
    if isinstance(item, np.ndarray):
        return item.ndim == 4 or (item.ndim == 3 and item.shape[-1] not in (1, 3, 4))
    if isinstance(item, (str, os.PathLike)):
        suffix = Path(item).suffix.lower()
        return suffix in MOVING or suffix not in images.SUFFIXES
    return isinstance(item, (list, tuple, Clip))


def _of_frames(frames: Sequence[Any], name: str, window: images.Window | None) -> Clip:
    if not len(frames):
        raise InputError(f"expected a clip with at least one frame; {name!r} has none.")

    def pick(numbers: Sequence[int]) -> list[Image.Image]:
        found: list[Image.Image] = []
        for number in numbers:
            found.append(images.read(frames[number], window)[0])
            _check_room(found[0].size, len(numbers), name)
        return found

    return Clip(name, len(frames), pick)


def _of_still(source: Any, window: images.Window | None) -> Clip:
    """A clip of one picture, or the error that says why it is none."""
    frame, name = images.read(source, window)
    return Clip(name, 1, lambda numbers: [frame] * len(numbers))


@closes_scopes
def _of_file(file: Path | io.BytesIO, name: str, window: images.Window | None) -> Clip:
    try:
        with images.quiet(), images.opened(file) as image:
            images.check(image, name)
            steps = _steps(image, name)
    except InputError:
        raise
    except Exception:
        if _is_video(file):
            return _of_video(file, name)
        return _of_still(file if isinstance(file, Path) else file.getvalue(), window)  # says what is wrong with it

    @closes_scopes
    def pick(numbers: Sequence[int]) -> list[Image.Image]:
        with images.quiet(), images.opened(file) as image:
            return _seek(image, [steps[number] for number in numbers], name, window)

    return Clip(name, len(steps), pick)


def _steps(image: Image.Image, name: str) -> Sequence[int]:
    """The frame that is shown at each step of time; a step is the shortest of the frames' durations, where the file tells them.

    Writers of GIFs make one long frame of several equal ones. Durations are told frame by frame; where that would take long, each frame
    counts once.
    """
    count = int(getattr(image, "n_frames", 1))
    width, height = image.size
    durations: list[float] = []
    for number in range(count if count > 1 and width * height * count <= MAX_PIXELS else 0):
        try:
            image.seek(number)
        except Exception:  # told when this frame is wanted
            return range(count)
        images.check_size(*image.size, name)  # a frame may go beyond those before it
        durations.append(float(image.info.get("duration") or 0))
    shortest = min(durations, default=0.0)
    if shortest <= 0 or sum(durations) / shortest > MOST_STEPS:
        return range(count)
    return [number for number, duration in enumerate(durations) for _ in range(round(duration / shortest))]


@closes_scopes
def _seek(image: Image.Image, numbers: Sequence[int], name: str, window: images.Window | None) -> list[Image.Image]:
    _check_room(image.size, len(numbers), name)
    width, height = image.size
    if image.format is not None and image.format not in APART and width * height * max(numbers, default=0) > MAX_DECODED:
        raise InputError(
            f"expected at most {MAX_DECODED} pixels up to the last frame that is wanted; {name!r} has {max(numbers)} frames of "
            f"{width}×{height} before it: make them smaller, or raise lucidcam.io.video.MAX_DECODED."
        )
    found: dict[int, Image.Image] = {}
    with images.quiet():
        for number in numbers:
            if number not in found:
                try:
                    image.seek(number)
                except Exception as error:  # damaged files make Pillow raise anything
                    raise InputError(f"frame {number} of {name!r} cannot be decoded ({first_line(error)}); copy it again.") from error
                found[number] = images.read(image, window)[0]
    return [found[number] for number in numbers]


def _is_video(file: Path | io.BytesIO) -> bool:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(12)
    else:
        start = file.getvalue()[:12]
    return start[4:8] in _VIDEO or any(start.startswith(each) for each in _VIDEO)


def _of_video(file: Path | io.BytesIO, name: str) -> Clip:
    """A video file, decoded by PyAV from its start; only the frames that are asked for are kept."""
    av = import_optional("av", "video", f"the video {name!r}")

    def decoded(each: Callable[[int, Any], bool]) -> int:
        """Show frames to `each` until it has enough; return how many were seen."""
        seen = 0
        # By its name FFmpeg would take a file called "http:…" for an address; and what it opens otherwise has no place to open more from.
        options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "none", "max_pixels": str(images.MAX_PIXELS)}
        content = file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getbuffer())
        try:
            with content, av.open(content, options=options) as container:
                for frame in container.decode(video=0):
                    images.check_size(frame.width, frame.height, name)
                    seen += 1
                    if not each(seen - 1, frame):
                        break
        except (av.FFmpegError, IndexError) as error:
            raise InputError(f"the video {name!r} cannot be decoded ({first_line(error)}); copy it again, or give its frames.") from error
        return seen

    count = decoded(lambda *_: True)  # what a file's header says of it is often missing, and sometimes wrong
    if not count:
        raise InputError(f"expected a video; {name!r} has no frames.")

    def pick(numbers: Sequence[int]) -> list[Image.Image]:
        wanted = set(numbers)
        found: dict[int, Image.Image] = {}

        def keep(number: int, frame: Any) -> bool:
            _check_room((frame.width, frame.height), len(wanted), name)
            if number in wanted:
                found[number] = frame.to_image().rotate(getattr(frame, "rotation", 0), expand=True)
            return number < max(wanted)

        decoded(keep)
        return [found[number] for number in numbers]

    return Clip(name, count, pick)


def _check_room(size: tuple[int, int], count: int, name: str) -> None:
    width, height = size
    if width * height * count > MAX_PIXELS:
        raise InputError(
            f"expected at most {MAX_PIXELS} pixels in a clip's frames; {name!r} gives {count} frames of {width}×{height}: take fewer "
            "(lucidcam.imaging.preprocess.Clips(count=…)), make them smaller, or raise lucidcam.io.video.MAX_PIXELS."
        )
