"""Any picture a user may hand over, as an upright RGB image; or one line that says what is wrong with it."""

from __future__ import annotations

import glob
import io
import math
import os
import re
import select
import stat
import warnings
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lucidcam.errors import InputError, OptionError
from lucidcam.io.ownership import Written
from lucidcam.io.remote import Stored, is_url
from lucidcam.utils.rollback import SharedChange, closes_scopes, restore_warning_filters, warning_filters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded."""

MAX_ASPECT = 200
"""Pictures with one side so many times the other, or more, are refused: what is made of them would be enormous."""

MAX_BYTES = 1_000_000_000
"""Larger files, and pipes that give more, are refused before they are read."""

PIPE_WAIT = 2
"""Seconds that a pipe may take until something is written to it."""

BAND = 500_000
"""Pixels of a large picture that are worked on together, where steps between take memory of their own."""

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that are opened, by their content whatever the name. Pillow knows others, some of which start programs (EPS: Ghostscript).
An MPO file is a JPEG with more behind it."""

MAX_SCANS = 100
"""Progressive JPEGs with more scans are refused (usual ones have ten): each scan, of a few bytes, goes over the whole picture."""

MIN_SIDE = 2
"""Smaller pictures are refused."""

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905 - reads better
)
"""File names in folders that count as images."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths that values in 16-bit files may have; the smallest that holds them all says what is white."""

Window = tuple[float, float]
"""(width, level): which values of a grey image are shown, from `level − width / 2` (black) to `level + width / 2` (white)."""

_ROUNDING = 1e-4  # what resampling and half precision may add to values in 0..1
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = frozenset({5, 6, 7, 8})  # width and height change places
_PHOTOMETRIC = 262  # TIFF's tag; 0: the smallest value is white, which Pillow heeds for 8 bits only
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Of a JPEG; what else follows a byte 255 is in a scan."""
_ALONE, _END, _SCAN = (0x01, 0xD8), 0xD9, 0xDA  # markers without a length, the end of the picture, the start of a scan
_PIECE = 2**16
_HIGH_BYTE = 63  # what is left of 14 bits where only the higher byte of 16 is read
_ASK = "say which values are shown: window=(width, level), on the command line --window and --level"


@closes_scopes
def read(source: Any, window: Window | None = None) -> tuple[Image.Image, str]:
    """Read one picture.

    Args:
        source: a path, or an address that fsspec knows ("s3://…", "https://…"); `bytes` or a binary file with the contents of an image
            file; anything else whose `read()` gives them, a `lucidcam.io.remote.Stored` for instance; a PIL image; a NumPy array
            `[H, W]` or `[H, W, C]` with 1, 3 or 4 channels (RGB, RGBA); or a torch tensor `[H, W]` or `[C, H, W]`. Numbers are
            uint8, uint16 or bool, or floats in 0–1; with a window, grey ones are any numbers.
        window: (width, level) of a grey image in the file's own values, as in radiology: v becomes
            `255 · (v − (level − width / 2)) / width`, rounded, and cut off at 0 and 255. Colours are taken as they are. None: 16-bit
            values are scaled by the smallest of 8, 10, 12, 14 and 16 bits that holds them all, so that 12-bit data in a 16-bit file are
            not black; signed and larger integers, and floats outside 0–1, are refused.

    Returns:
        The picture as RGB, EXIF orientation applied, transparency on white, the first frame of an animation, in 8 bits; and its name:
        the path or address, or "bytes", "image", "array", "tensor".

    Raises:
        InputError: one line that says what was expected, what came, and what to do.
        OptionError: a window that is no pair of finite numbers with a positive width.
    """
    if window is not None:
        window = checked_window(window)
    if is_url(source):
        source = Stored(source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, window)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_bytes(bytes(source), "bytes", window), "bytes"
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        with quiet():
            return _decode(source, name, window), name
    if isinstance(source, Tensor):
        return _from_array(_tensor_to_array(source), "tensor", window), "tensor"
    if isinstance(source, np.ndarray):
        return _from_array(_channels_last(source), "array", window), "array"
    if hasattr(source, "read"):
        return _read_file(source, window)
    raise InputError(f"expected a path, bytes, binary file, PIL image, NumPy array or tensor as image; got {type(source).__name__}.")


def checked_window(window: Any) -> Window:
    """Return a window's width and level.

    Raises:
        OptionError: they are no two finite numbers, or the width is not positive.
    """
    if isinstance(window, Tensor):
        window = window.tolist()
    pair = list(window) if isinstance(window, (tuple, list)) or (isinstance(window, np.ndarray) and window.ndim) else []
    pair = [number.item() if isinstance(number, np.generic) else number for number in pair]
    numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number) for number in pair)
    if len(pair) != 2 or not numbers or pair[0] <= 0:
        raise OptionError(f"expected window as (width, level) in the image's values, with a positive width, (400, 40) say; got {window!r}.")
    return float(pair[0]), float(pair[1])


@closes_scopes
def size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return an image file's (width, height) as its header promises, EXIF orientation applied. Nothing is decoded.

    Raises:
        InputError: the file is no image, or its header is damaged.
    """
    with quiet():
        try:
            with opened(path) as image:
                width, height = image.size
                turned = _orientation(image) in _TURNED
        except Exception as error:  # damaged headers make Pillow raise anything
            raise _damaged(str(path), error) from error
    return (height, width) if turned else (width, height)


def opened(file: Any) -> Image.Image:
    """Open a picture of one of `FORMATS`; nothing is decoded yet.

    Args:
        file: a path or a binary file.

    Raises:
        InputError: the path is that of a pipe or device.
        PIL.UnidentifiedImageError: it is of no such format.
        Exception: whatever damaged headers make Pillow raise.
    """
    if isinstance(file, (str, os.PathLike)):
        mode = Path(file).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(f"expected an image file; {str(file)!r} is a {_kind(mode)}.")
    return Image.open(file, formats=FORMATS)


@closes_scopes
def read_grey(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file as it is stored, in 8 bits of grey; for masks, where white means something.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    with quiet():
        try:
            with opened(path) as image:
                check(image, str(path))
                grey: Image.Image = image.convert("L")
                return grey
        except InputError:
            raise
        except Exception as error:  # damaged files make Pillow raise anything
            raise _damaged(str(path), error) from error


def find(patterns: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[str]]:
    """Expand paths, globs and folders to image files.

    Args:
        patterns: files, taken as they are; globs (`**` goes through folders); and folders, with all that is below them.
            In folders and globs only files with the suffix of an image count, unless the glob names another; hidden
            files never do, nor what lucidcam itself wrote there, unless nothing else is. In natural order: 2 before 10.

    Returns:
        The files, each once, in the order of the patterns; and one line for each pattern that gave nothing.
    """
    found: dict[Path, None] = {}
    problems: list[str] = []
    for pattern in patterns:
        text = os.path.expanduser(os.fspath(pattern))  # noqa: PTH111 - a Path would drop the pattern's trailing slash
        path = Path(text)
        if path.is_dir():
            files = _in_folder(path)
            problem = f"{text!r} is a folder without images ({', '.join(sorted(SUFFIXES))})."
        elif path.exists() or not glob.has_magic(text):
            files = [path] if path.exists() else []
            problem = f"{text!r} does not exist; check the path."
        else:
            files = _in_glob(text)
            problem = f"{text!r} matches no image; check the pattern, and quote it so that the shell leaves it alone."
        if not files:
            problems.append(problem)
        found.update(dict.fromkeys(files))
    return list(found), problems


def _in_folder(folder: Path) -> list[Path]:
    return sorted(Written(folder).without(_below(folder)), key=natural)


def _below(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
    return found


def _in_glob(pattern: str) -> list[Path]:
    suffix = Path(pattern).suffix
    any_suffix = bool(suffix) and not glob.has_magic(suffix)
    found: list[Path] = []
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207 - Path.glob refuses absolute patterns
        path = Path(match)
        if path.is_dir():
            found += _below(path)
        elif any_suffix or path.suffix.lower() in SUFFIXES:
            found.append(path)
    return sorted(Written(_plain_start(pattern)).without(dict.fromkeys(found)), key=natural)


def _plain_start(pattern: str) -> Path:
    """The folder that a glob looks through: what is before its first wildcard."""
    folder = Path(pattern).parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The boxes (xyxy) of bands of rows of about `BAND` pixels that cover a picture of `size` (width, height), from above.

    >>> list(bands((125_000, 9)))
    [(0, 0, 125000, 4), (0, 4, 125000, 8), (0, 8, 125000, 9)]
    """
    width, height = size
    rows = max(1, BAND // max(1, width))
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def natural(path: PurePath) -> list[Any]:
    """The key of natural order: 2 before 10, case aside."""
    parts = (re.split(r"(\d+)", part.casefold()) for part in path.parts)
    return [[(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in part] for part in parts]


def _read_path(source: str | os.PathLike[str], window: Window | None) -> tuple[Image.Image, str]:
    name = str(os.fspath(source))
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            raise InputError(f"expected an image file; {name!r} is a folder: give one of its files.")
        if not path.exists():
            raise InputError(f"the image file {name!r} does not exist; check the path.")
        about = path.stat()
        if stat.S_ISFIFO(about.st_mode):
            return _read_bytes(_read_pipe(path, name), name, window), name  # a pipe cannot seek, Pillow has to
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"expected an image file; {name!r} is a {_kind(about.st_mode)}.")
        if about.st_size > MAX_BYTES:
            raise InputError(f"expected an image file of at most {MAX_BYTES} bytes; {name!r} has {about.st_size}.")
        with path.open("rb") as file:
            return _open(file, name, window, empty=about.st_size == 0), name
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name!r} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error


def _kind(mode: int) -> str:
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _read_pipe(path: Path, name: str) -> bytes:
    """All that is written to a pipe; one that nobody writes to is refused after a while, rather than waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if hasattr(select, "poll"):
            waiting = select.poll()
            waiting.register(handle, select.POLLIN | select.POLLHUP)
            if not waiting.poll(PIPE_WAIT * 1000):
                raise InputError(f"expected an image from the pipe {name!r}; nothing was written to it for {PIPE_WAIT} seconds.")
            os.set_blocking(handle, True)
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"expected at most {MAX_BYTES} bytes of image from the pipe {name!r}; it gives more.")
    return content


def _read_file(file: Any, window: Window | None) -> tuple[Image.Image, str]:
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "bytes"
    try:
        data = file.read()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # closed, or text mode on bytes that are no text
        raise InputError(f"{name} cannot be read as an image ({error}); open it with mode 'rb'.") from error
    if not isinstance(data, bytes):
        raise InputError(f"expected a binary file as image; {name} gives {type(data).__name__}: open it with mode 'rb'.")
    return _read_bytes(data, name, window), name


def _read_bytes(data: bytes, name: str, window: Window | None) -> Image.Image:
    return _open(io.BytesIO(data), name, window, empty=not data)


@closes_scopes
def _open(file: Any, name: str, window: Window | None, *, empty: bool) -> Image.Image:
    if empty:
        raise InputError(f"expected an image; {name!r} is empty (0 bytes): copy or download it again.")
    with quiet():
        try:
            with opened(file) as image:
                return _decode(image, name, window, owned=True)
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(name, re.sub(r"\D*(\d+) pixels.*", r"\1 pixels", str(error))) from None
        except UnidentifiedImageError:
            file.seek(0)
            start = file.read(512)
            text = _is_text(start) and not start.startswith(b"%!PS")
            what = "it contains text" if text else f"its content is none of {', '.join(FORMATS)}"
            raise InputError(f"{name!r} is not an image: {what}; give a JPEG, PNG, WebP, TIFF, GIF or BMP file.") from None
        except Exception as error:  # damaged files make Pillow raise anything, from SyntaxError to struct.error
            raise _damaged(name, error) from error


def _decode(image: Image.Image, name: str, window: Window | None, owned: bool = False) -> Image.Image:
    """Check the size that the header promises, decode, and convert; `owned`: nobody else has the picture, so that it need not be copied."""
    if image.format not in (None, "MPO", *FORMATS) and getattr(image, "tile", None):
        raise InputError(
            f"{name!r} is a {image.format} picture that is not decoded yet; decode it yourself (image.load()) if you trust it."
        )
    check(image, name)
    try:
        coding = str(getattr(image, "tile", [])[:1])  # gone when it is loaded
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, name, window, coding, owned)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # metadata that cannot be read is no reason to refuse the picture
        return 1


def _to_rgb(image: Image.Image, name: str, window: Window | None, coding: str, owned: bool) -> Image.Image:
    mode = image.mode
    if mode == "F" or mode == "I" or mode.startswith("I;16") or (window is not None and mode in ("1", "L")):
        return _from_array(*_grey(image, name, window, coding))
    if ";16" in coding and np.asarray(image.convert("RGB")).max() <= _HIGH_BYTE:
        raise InputError(
            f"{name!r} holds colours of 16 bits that use 14 or fewer, of which only the higher 8 can be read: convert it to 8 bits."
        )
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        if mode in ("LA", "La") and window is not None:
            grey, alpha = image.convert("LA").split()
            image = Image.merge("LA", (Image.fromarray(_windowed(np.asarray(grey), name, window)), alpha))
        return _on_white(image)
    if mode != "RGB":
        rgb = image.convert("RGB")
    elif owned and hasattr(image, "_new"):
        rgb = image._new(image.im)  # a plain image of the same pixels: a copy of a large photo would take as much again
    else:
        rgb = image.copy()
    rgb.info = {}  # nothing of the file is left: no EXIF tag that would turn it a second time
    return rgb


def _grey(image: Image.Image, name: str, window: Window | None, coding: str) -> tuple[Any, str, Window | None, int | None]:
    """The values `[H, W]` of a grey image of any depth, its name, the window for them, and the value that is white by declaration."""
    array = np.asarray(image)
    white: int | None = None
    if image.format in ("PPM", "JPEG2000") and image.mode != "L":  # Pillow scales these to 16 bits, by the maximum that the file declares
        white = 65535
        declared = re.search(r"'ppm'.*\('\w+', (\d+)\)", coding)
        if window is not None and declared is not None:
            array = array.astype(np.float64) * int(declared[1]) / white
        elif window is not None and image.format == "JPEG2000":
            raise InputError(f"{name!r} is a JPEG 2000 file, whose own values are lost in reading; convert it to PNG or TIFF for a window.")
    elif image.mode == "I" and window is None:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise InputError(f"expected 8 or 16 bits without sign; {name!r} holds whole numbers from {low} to {high}: {_ASK}.")
    if image.mode == "I" and window is None:
        array = array.astype(np.uint16)
    inverted = image.mode not in ("1", "L") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return (255 - _to_bytes(array, name, window, white) if inverted else array), name, None if inverted else window, white


def _on_white(image: Image.Image) -> Image.Image:
    """A picture of any mode with transparency, as RGB; band by band, since the steps between would take several times the picture."""
    flat = Image.new("RGB", image.size)
    for band in bands(image.size):
        part = image.crop(band).convert("RGBA")
        flat.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), band[:2])
    return flat


def _tensor_to_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    if tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim not in (2, 3):
        raise InputError(f"expected a tensor [C, H, W] or [H, W] as image; got {list(tensor.shape)}: give batches as a list of images.")
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32) if tensor.dtype != torch.float64 else tensor
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        hint = ": channels come first, use tensor.permute(2, 0, 1)" if tensor.shape[-1] in (1, 3, 4) else ""
        raise InputError(f"expected a tensor [C, H, W] with 1, 3 or 4 channels as image; got {list(tensor.shape)}{hint}.")
    return (tensor if tensor.ndim == 2 else tensor.permute(1, 2, 0)).numpy()


def _channels_last(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim not in (2, 3):
        raise InputError(f"expected an array [H, W] or [H, W, C] as image; got {list(array.shape)}: give batches as a list of images.")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        hint = ": channels come last, use array.transpose(1, 2, 0)" if array.shape[0] in (1, 3, 4) else ""
        raise InputError(f"expected an array [H, W, C] with 1, 3 or 4 channels as image; got {list(array.shape)}{hint}.")
    return array


def _from_array(array: np.ndarray[Any, Any], name: str, window: Window | None = None, white: int | None = None) -> Image.Image:
    """From `[H, W]` or `[H, W, 1 | 3 | 4]` to RGB."""
    height, width = array.shape[:2]
    check_size(width, height, name)
    pixels = _to_bytes(array, name, window, white)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _to_bytes(
    array: np.ndarray[Any, Any], name: str, window: Window | None = None, white: int | None = None
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels in 8 bits; `white` is the largest value there could be, where it is known."""
    if window is not None and array.dtype.kind in "buif" and (array.ndim == 2 or array.shape[2] == 1):
        return _windowed(array, name, window)
    if array.dtype == np.uint8:
        return np.asarray(array, dtype=np.uint8)
    if array.dtype == np.bool_:
        return np.asarray(array * 255, dtype=np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        if white is None:
            white = next(2**bits - 1 for bits in DEPTHS if int(array.max()) < 2**bits)
        return np.asarray((array.astype(np.uint32) * 255 + white // 2) // white, dtype=np.uint8)
    if array.dtype.kind != "f":
        raise InputError(f"expected uint8, uint16 or bool pixels, or floats in 0–1; {name!r} has {array.dtype}: convert it to uint8.")
    _check_finite(array, name)
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        what = "divide by 255" if low >= 0 and high <= 255 else "give the picture as it was before normalisation"
        ask = f"; or {_ASK}" if array.ndim == 2 or array.shape[2] == 1 else ""
        raise InputError(f"expected float pixels in 0–1; {name!r} has {low:.4g} to {high:.4g}: {what}{ask}.")
    return np.asarray((array.clip(0, 1) * 255).round(), dtype=np.uint8)


def _windowed(array: np.ndarray[Any, Any], name: str, window: Window) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey values as a window shows them."""
    _check_finite(array, name)
    width, level = window
    return np.asarray((((array.astype(np.float64) - (level - width / 2)) / width).clip(0, 1) * 255).round(), dtype=np.uint8)


def _check_finite(array: np.ndarray[Any, Any], name: str) -> None:
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise InputError(f"expected finite pixels; {name!r} has {bad} NaN or infinite values of {array.size}: repair them (np.nan_to_num).")


def check(image: Image.Image, name: str) -> None:
    """Refuse a picture that is too large, too slim, too small or takes too long, before it is decoded.

    Raises:
        InputError: it is, or does.
    """
    check_size(*image.size, name)
    tiles, file = getattr(image, "tile", None), getattr(image, "fp", None)  # gone when it is decoded
    if tiles and file is not None and image.info.get("progressive") and _scans(file, tiles[0][2]) > MAX_SCANS:
        raise InputError(
            f"expected a JPEG of at most {MAX_SCANS} scans; {name!r} has more: save it anew, or raise lucidcam.io.images.MAX_SCANS."
        )


def _scans(file: Any, start: int) -> int:
    """How many scans a JPEG has, counted no further than `MAX_SCANS` and one more."""
    before = file.tell()
    file.seek(start)
    count, content, at = 0, b"", 0
    while count <= MAX_SCANS:
        found = _MARKER.search(content, at)
        code = _END if found is None else found[0][1]
        needed = 1 if found is None else 0 if code in (*_ALONE, _END) else found.end() + 2 - len(content)  # two bytes tell a length
        if needed > 0:
            piece = file.read(_PIECE)
            if not piece:
                break
            content, at = content[len(content) - 1 if found is None else found.start() :] + piece, 0
            continue
        if code == _END or found is None:
            break
        count += code == _SCAN
        at = found.end()
        if code not in _ALONE:
            at += int.from_bytes(content[at : at + 2], "big")
            if at > len(content):
                file.seek(at - len(content), 1)
                content, at = b"", 0
    file.seek(before)
    return count


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is too large, too slim or too small, before it is decoded.

    Raises:
        InputError: it is.
    """
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}×{height} pixels")
    if max(width, height) >= MAX_ASPECT * max(1, min(width, height)) and max(width, height) > MAX_ASPECT * MIN_SIDE:
        raise InputError(
            f"expected an image with sides that differ less than {MAX_ASPECT} times; {name!r} has {width}×{height}: give a part of it, or "
            "raise lucidcam.io.images.MAX_ASPECT."
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(f"expected an image of at least {MIN_SIDE}×{MIN_SIDE} pixels; {name!r} has {width}×{height}: give a larger one.")


def _too_large(name: str, size: str) -> InputError:
    return InputError(
        f"expected an image of at most {MAX_PIXELS} pixels; {name!r} has {size}: make it smaller, or raise lucidcam.io.images.MAX_PIXELS."
    )


def _damaged(name: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    cut = isinstance(error, EOFError) or any(
        word in reason.lower() for word in ("truncated", "broken data", "eof", "not enough", "create decoder")
    )
    what = "is cut off or damaged" if cut else "cannot be decoded"
    return InputError(f"the image {name!r} {what} ({reason.rstrip('.')}); copy or download it again.")


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode("utf-8") if error.start >= len(start) - 3 else ""
    return bool(text) and all(c.isprintable() or c.isspace() for c in text)


def _silence() -> None:
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# `warnings.catch_warnings` by itself is not safe among threads: the second one to enter would restore what the first one had set.
_silenced = SharedChange(warning_filters, _silence, restore_warning_filters)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, in all threads."""
    with _silenced.held():
        yield
