"""Files of other frameworks, and programs of torch: recognised by what is in them, so that an error can say what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD = 4096
"""Bytes that are looked at."""

_RUN = (
    "wrap a torch module whose forward runs it, from a tensor to a tensor (lucidcam.wrap): occlusion and rise then explain it; other "
    "methods need the network in torch"
)


@dataclass(frozen=True)
class Format:
    """A kind of file that holds no checkpoint.

    Attributes:
        name: what it is, with its article.
        advice: what to do.
        suffixes: by which such files are known, where what is in them does not say.
        matches: whether the first bytes of a file, and the names in it if it is a zip archive, say so.
    """

    name: str
    advice: str
    suffixes: tuple[str, ...] = ()
    matches: Callable[[bytes, tuple[str, ...]], bool] = lambda head, names: False


def _ends(names: tuple[str, ...], *wanted: str) -> bool:
    return all(any(name.endswith(end) for name in names) for end in wanted)


def _is_onnx(head: bytes, names: tuple[str, ...]) -> bool:
    """A protocol buffer that starts with the version of ONNX's format, and goes on with another of a model's fields."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


FORMATS = (
    Format(
        "a TorchScript program",
        "lucidcam.wrap(torch.jit.load(path), preprocess), which gradient, occlusion and rise explain; methods that look at a layer need "
        "the eager network",
        matches=lambda head, names: _ends(names, "constants.pkl") and any("/code/" in name for name in names),
    ),
    Format(
        "a program compiled by torch's AOTInductor",
        _RUN,
        matches=lambda head, names: any("aotinductor" in name for name in names),
    ),
    Format(
        "an exported program of torch",
        "lucidcam.wrap(torch.export.unflatten(torch.export.load(path)), preprocess), which keeps its layers",
        (".pt2",),
        lambda head, names: _ends(names, "models/model.json") or _ends(names, "serialized_exported_program.json"),
    ),
    Format(
        "a Keras model",
        _RUN,
        (".keras",),
        lambda head, names: _ends(names, "config.json", "model.weights.h5"),
    ),
    Format(
        "an HDF5 file, as Keras writes",
        _RUN,
        (".h5", ".hdf5"),
        lambda head, names: head.startswith(b"\x89HDF\r\n\x1a\n"),
    ),
    Format("a TensorFlow Lite model", _RUN, (".tflite",), lambda head, names: head[4:8] == b"TFL3"),
    Format("an OpenVINO model", _RUN, (), lambda head, names: b"<net " in head and b"<layers" in head),
    Format("a TensorRT engine", _RUN, (".engine", ".plan", ".trt"), lambda head, names: head[:4] in (b"ptrt", b"ftrt")),
    Format("a GGUF file", _RUN, (".gguf",), lambda head, names: head[:4] == b"GGUF"),
    Format("a TorchServe archive", "load the weights that are in it", (".mar",), lambda head, names: _ends(names, "MANIFEST.json")),
    Format(
        "the pointer of Git LFS to a file",
        "fetch the file itself: git lfs pull",
        matches=lambda head, names: head.startswith(b"version https://git-lfs"),
    ),
    Format(
        "a page of the web",
        "download the file itself; the address led to a page about it",
        matches=lambda head, names: head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")),
    ),
    Format(
        "an ONNX model",
        f"rebuild it as a torch module (onnx2torch.convert) and use lucidcam.wrap; or {_RUN}",
        (".onnx",),
        _is_onnx,
    ),
    Format("a TensorFlow graph", _RUN, (".pb",)),
    Format("a Core ML model", _RUN, (".mlmodel", ".mlpackage")),
    Format("a Caffe model", _RUN, (".caffemodel",)),
    Format("weights of Darknet", "rebuild the network in torch and load them there", (".weights",)),
)
"""Those that are told by what is in a file come first."""

SUFFIXES = frozenset(suffix for format in FORMATS for suffix in format.suffixes)


def foreign_format(path: Path) -> Format | None:
    """What a file or folder is that is no checkpoint of torch; None: it may be one."""
    if path.is_dir():
        name = ".pb" if (path / "saved_model.pb").is_file() else path.suffix.lower()
        return next((format for format in FORMATS if name in (".pb", ".mlpackage") and name in format.suffixes), None)
    with path.open("rb") as file:
        head = file.read(HEAD)
    names = _members(path)
    suffix = path.suffix.lower()
    for format in FORMATS:
        if suffix == ".mlmodel" and format.matches is _is_onnx:  # both are protocol buffers that begin alike
            continue
        if format.matches(head, names):
            return format
    if names or is_safetensors(head, path.stat().st_size) or head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return None
    if suffix == ".bin" and path.with_suffix(".xml").is_file():
        return next(format for format in FORMATS if "OpenVINO" in format.name)
    return next((format for format in FORMATS if suffix in format.suffixes), None)


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of this size starts as safetensors do: the length of a header, and the header, which is JSON."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def _members(path: Path) -> tuple[str, ...]:
    if not zipfile.is_zipfile(path):
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ()
