"""What passes between the parts: a model, a prepared image, and where in the photo the network looked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lucidcam.errors import InputError, ModelError, OptionError, TargetError, nearest
from lucidcam.io import images, video
from lucidcam.reprs import OneLineRepr, one_line
from lucidcam.utils import framing
from lucidcam.utils.class_scores import BINARY_CLASSES, ClassScores, OutputKind
from lucidcam.utils.fingerprint import fingerprint
from lucidcam.utils.framing import Frame as Frame

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float64": torch.float64,
    "fp64": torch.float64,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""Floating-point types by name, as the command line takes them."""

_SHOWN = 8
_NUMBER = re.compile(r"([+-]?\d+)(?:\.0*)?")  # a whole number, also as a table of floating-point columns writes it


@dataclass(frozen=True, eq=False)
class Prepared(OneLineRepr):
    """One image or clip, ready for a network.

    Attributes:
        tensor: the network's input `[C, h, w]`, of a clip `[C, T, h, w]`; float32, on the CPU.
        image: the original, RGB, EXIF orientation applied; of a clip the first of its frames.
        frame: where in the original the input lies.
        name: the image's path, or "array", "tensor", … for images that are no files.
        film: of a clip: the original frames that the network gets, in time.
        times: their numbers in the clip, from 0.
    """

    tensor: Tensor = field(repr=False)
    image: Image.Image = field(repr=False)
    frame: Frame
    name: str
    film: tuple[Image.Image, ...] = field(default=(), repr=False)
    times: tuple[int, ...] = field(default=(), repr=False)


class Task(Protocol):
    """What a model that is no plain classifier can be asked, and how its inputs are made; the kinds are in `lucidcam.tasks`."""

    @property
    def name(self) -> str:
        """The task in words."""

    @property
    def takes(self) -> str:
        """What can be asked, in words."""

    def target(self, value: Any, model: Model) -> Any:
        """What a user wrote as a target (None, a label, an id, several) as a target object."""

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Any]:
        """What the module takes, and the target on what it returns, for images `[B, C, h, w]`."""

    def alone(self, target: Any) -> bool:
        """Whether the inputs depend on the image, so that images cannot be asked together."""

    def example(self, images: Tensor, model: Model) -> Any:
        """What the module takes for images `[1, C, h, w]` and whatever may be asked: to see which layers there are."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with what it takes to feed it photos and to read its answers.

    The module is the user's own object: it is neither copied nor changed, except by `to`, as in torch.

    Attributes:
        module: the network.
        preprocess: from an RGB PIL image to the network's input `[C, h, w]`, or `lucidcam.imaging.preprocess.Clips` of a network that takes
            clips. Its `frame((width, height))`, where it has
            one, tells which part of the image that is; else that is measured (`lucidcam.utils.framing`). None: `prepare` refuses.
        labels: the classes in words, by id, or None. Synonyms are separated by commas ("tabby, tabby cat").
        layer: dotted name of the default layer, or None for the last spatial one.
        name: how the model is called in reports.
        synsets: the classes' WordNet ids ("n02123045"), by id, for models trained on ImageNet; None: not known.
        task: what it can be asked where it is no plain classifier; see `lucidcam.tasks`.
        outputs: what its outputs mean: "softmax" (logits of classes that exclude each other), "sigmoid" (a logit for each class by itself),
            "probabilities" (it ends in a softmax or sigmoid) or "none" (no class scores); None: found by value whenever it is run.
        threshold: of a network with one output column: the probability above which its class is predicted.
    """

    module: nn.Module = field(repr=False)
    preprocess: Callable[[Any], Tensor] | None = None
    labels: tuple[str, ...] | None = field(default=None, repr=False)
    layer: str | None = None
    name: str = "model"
    synsets: tuple[str, ...] | None = field(default=None, repr=False)
    task: Task | None = field(default=None, repr=False)
    outputs: OutputKind | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _ = self.class_scores  # refuses what is not known

    def __repr__(self) -> str:
        """Name, layer, meaning of the outputs and preprocessing."""
        outputs = "found by value" if self.outputs is None else self.outputs
        return one_line("Model", [("", self.name), ("layer", self.layer), ("outputs", outputs), ("preprocess", self.preprocess)])

    @property
    def class_scores(self) -> ClassScores:
        """What is said of its outputs.

        With two labels a single output column scores the second of them, unless that one denies the first ("tumour", "not tumour"); else
        the first class.
        """
        labels = self.labels or ()
        positive = len(labels) == BINARY_CLASSES and fold(labels[1]) != fold(_complement(labels[0]))
        return ClassScores(self.outputs, positive=int(positive), threshold=self.threshold)

    @property
    def class_labels(self) -> tuple[str, ...] | None:
        """A label for every class: `labels`, and of a network with one output column and one label its complement ("not tumour")."""
        if self.labels is not None and len(self.labels) == 1 and self.outputs != "none":
            return (*self.labels, _complement(self.labels[0]))
        return self.labels

    def check_labels(self, columns: int) -> None:
        """Compare the labels with the number of output columns.

        Raises:
            ModelError: there is not one label per class; a single column stands for two classes, and takes one label or two.
        """
        if self.labels is None or len(self.labels) == columns or (columns == 1 and len(self.labels) == BINARY_CLASSES):
            return
        raise ModelError(f"{self.name} has {len(self.labels)} labels for {columns} classes; give one label per class.")

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are; the CPU for a module without any."""
        first = self._first_tensor()
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the module's parameters; float32 for a module without any."""
        first = self._first_tensor()
        return torch.float32 if first is None else first.dtype

    @property
    def window(self) -> images.Window | None:
        """(width, level) of grey images, as the preprocessing has it; None: none. See `lucidcam.io.images.read`."""
        window: images.Window | None = getattr(self.preprocess, "window", None)
        return window

    def fingerprint(self) -> str:
        """A short text that changes with the weights: of every parameter and buffer the name, type, shape and values."""
        return fingerprint(self.module)

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Model:
        """Move the module, in place as in torch, and return the model.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps", …; None leaves it where it is.
            dtype: "float32", "bfloat16", … or a torch type; None leaves it.

        Raises:
            ModelError: for a device that is unknown or absent, with those there are.
            OptionError: for a dtype that is unknown or not floating-point.
        """
        to_device = None if device is None else _device(device)
        to_dtype = None if dtype is None else _dtype(dtype)
        if to_device is not None or to_dtype is not None:
            try:
                self.module.to(device=to_device, dtype=to_dtype)
            except (RuntimeError, TypeError, NotImplementedError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ModelError(f"{self.name} cannot be moved to {to_device or to_dtype}: {reason}") from error
        return self

    def prepare(self, sources: Any) -> list[Prepared]:
        """Read and pre-process images, or clips for a model that takes those.

        Args:
            sources: one image (path, bytes, binary file, PIL image, NumPy array `[H, W(, C)]`, tensor `[C, H, W]`) or
                several: a list, any other iterable of them, or an array or tensor with one more axis. For a model whose preprocessing
                chooses frames (`lucidcam.imaging.preprocess.Clips`), one clip (`lucidcam.io.video.read`) or several likewise; a list of
                pictures is one clip.

        Raises:
            InputError: an image cannot be read, or the preprocessing does not return `[C, h, w]`.
            ModelError: the model has no preprocessing.
        """
        if callable(getattr(self.preprocess, "numbers", None)):
            return [self._prepare_clip(video.read(source, self.window)) for source in video.several(sources)]
        return [self._prepare(source) for source in _several(sources)]

    def label(self, id: int) -> str:
        """Return a class in words; "class 7" where the model has no word for it. Never fails."""
        labels = self.class_labels
        return labels[id] if labels is not None and 0 <= id < len(labels) else f"class {id}"

    def find_label(self, text: str | int, exact: bool = False) -> int:
        """Return the id of the class that is meant by `text`, case aside.

        An int is an id. A text that is a number is the class of that very name ("10" among the labels "0", "1", "10"; "10.0" is the same
        name, and "010" where no class is called that), and an id where no class is called so. Where most labels are numbers, a number that
        no class is called is no id but an error: "0" and "1" would both be the first of the classes "1", "2", "3". A text like
        "n02123045" is a synset, where the model knows its synsets. Otherwise
        the best of: a whole label, one of its synonyms between commas, a whole word, a part of a word.

        Args:
            text: id, synset or label.
            exact: only a whole label or synonym will do: for words that nobody looks at, such as a data set's.

        Raises:
            TargetError: nothing fits (with the nearest labels), several classes fit equally well (with their ids), the
                id is out of range, or the model has no labels.
        """
        if isinstance(text, int) and not isinstance(text, bool):
            return self._check_id(text)
        wanted = fold(str(text))
        if number := _NUMBER.fullmatch(wanted):
            names = [fold(label) for label in self.labels or ()]
            if not any(wanted in _names_of(name) for name in names):  # "1.0" is what a spreadsheet makes of 1
                plain = [i for i, name in enumerate(names) if number[1] in map(without_zeros, _names_of(name))]
                values = [set(map(_value, _names_of(name))) - {None} for name in names]
                fits = plain or [i for i, numbers in enumerate(values) if int(number[1]) in numbers]  # "01" is what sorts well
                if len(fits) > 1:
                    raise TargetError(f"{text!r} fits {len(fits)} classes: {self._listed(fits)}; write it like one of them.")
                if not fits and 2 * sum(map(bool, values)) > len(values):
                    shown = ", ".join([*map(repr, (self.labels or ())[:6]), *(["…"] if len(names) > 6 else [])])
                    raise TargetError(
                        f"no class is called {text!r}, and the labels are numbers themselves ({shown}), so that it is no class id either: "
                        "give a label; in Python an int is an id."
                    )
                return fits[0] if fits else self._check_id(int(number[1]))
        if self.synsets is not None and re.fullmatch(r"n\d{8}", wanted):
            if wanted in self.synsets:
                return self.synsets.index(wanted)
            raise TargetError(f"no class is the synset {text!r}; {self.name} knows {len(self.synsets)}, for instance {self.synsets[0]}.")
        if self.class_labels is None:
            raise TargetError(f"{self.name} has no labels, so {text!r} cannot be found; give the class id, or labels=… to wrap or load.")
        if not wanted:
            raise TargetError("expected a class label or id; got empty text.")
        labels = [fold(label) for label in self.class_labels]
        word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
        loose = [i for i, label in enumerate(labels) if word.search(label)]
        for fits in (
            [i for i, label in enumerate(labels) if label == wanted],
            [i for i, label in enumerate(labels) if wanted in _synonyms(label)],
            *([] if exact else [loose, [i for i, label in enumerate(labels) if wanted in label]]),
        ):
            if len(fits) == 1:
                return fits[0]
            if fits:
                raise TargetError(f"{text!r} fits {len(fits)} classes: {self._listed(fits)}; give more of the label, or the id.")
        if loose:
            raise TargetError(f"no class is called {text!r}; did you mean {self._listed(loose)}?")
        if exact and not nearest(wanted, {synonym for label in labels for synonym in _synonyms(label)}, cutoff=0.85):
            raise TargetError(f"no class is called {text!r}, nor anything like it.")
        raise TargetError(f"no class is called {text!r}; {self._suggestion(wanted, labels)}")

    def _first_tensor(self) -> Tensor | None:
        for tensors in (self.module.parameters(), self.module.buffers()):
            for tensor in tensors:
                if tensor.is_floating_point():
                    return tensor
        return None

    def _prepare(self, source: Any) -> Prepared:
        if self.preprocess is None:
            raise ModelError(
                f"{self.name} has no preprocessing, so it cannot take images: give preprocess=… to lucidcam.wrap "
                "(lucidcam.imaging.preprocess.Preprocess, "
                "or any callable from PIL image to tensor), or pass ready tensors to lucidcam.attribute."
            )
        image, name = images.read(source, self.window)
        tensor = self.preprocess(image)
        if isinstance(tensor, Tensor) and tensor.ndim == 4 and len(tensor) == 1:
            tensor = tensor[0]
        if not isinstance(tensor, Tensor) or tensor.ndim != 3:
            came = f"a tensor {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(f"the preprocessing must turn a PIL image into a tensor [C, h, w]; it returned {came}.")
        frame, check = self._frame(image), getattr(self.preprocess, "check_frame", None)
        if callable(check):
            check(image, tensor)
        return Prepared(tensor.detach().to("cpu", torch.float32), image, frame, name)

    def _frame(self, image: Image.Image) -> Frame:
        find = getattr(self.preprocess, "frame", None)
        if find is None:
            assert self.preprocess is not None
            return framing.measure(self.preprocess, image.size)
        frame: Frame = find(image.size)
        return frame

    def _prepare_clip(self, clip: video.Clip) -> Prepared:
        preprocess: Any = self.preprocess
        times = tuple(preprocess.numbers(clip.count))
        film = clip.frames(times)
        tensor = preprocess(film)
        if not isinstance(tensor, Tensor) or tensor.ndim != 4:
            came = f"a tensor {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(f"the preprocessing must turn a clip's frames into a tensor [C, T, h, w]; it returned {came}.")
        return Prepared(tensor.detach().to("cpu", torch.float32), film[0], self._frame(film[0]), clip.name, film, times)

    def _check_id(self, id: int) -> int:
        if id < 0 or (self.class_labels is not None and id >= len(self.class_labels)):
            known = "0 or more" if self.class_labels is None else f"0 to {len(self.class_labels) - 1}"
            raise TargetError(f"class id {id} is out of range; {self.name} has ids {known}.")
        return id

    def _listed(self, ids: list[int]) -> str:
        assert self.class_labels is not None
        shown = ", ".join(f"{i} ({self.class_labels[i]})" for i in ids[:_SHOWN])
        return f"{shown}, …" if len(ids) > _SHOWN else shown

    def _suggestion(self, wanted: str, labels: list[str]) -> str:
        """Did-you-mean over the single synonyms, since whole labels are long and rarely close."""
        ids: dict[str, int] = {}
        for i, label in enumerate(labels):
            for synonym in _synonyms(label) or {label}:
                ids.setdefault(synonym, i)
        close = list(dict.fromkeys(ids[name] for name in nearest(wanted, ids)))
        if close:
            return f"did you mean {self._listed(close)}?"
        return f"the model knows {len(labels)}, for instance {self._listed(list(range(min(3, len(labels)))))}."


def _several(sources: Any) -> list[Any]:
    if isinstance(sources, (Tensor, np.ndarray)):
        return list(sources) if sources.ndim == 4 else [sources]
    single = (
        isinstance(sources, (str, bytes, bytearray, memoryview, Image.Image)) or hasattr(sources, "__fspath__") or hasattr(sources, "read")
    )
    if single or not isinstance(sources, Iterable):
        return [sources]
    return list(sources)


def _complement(label: str) -> str:
    """What the complement of a class is called."""
    return f"not {label.split(',')[0]}"


def fold(text: str) -> str:
    """Return a label as it is compared: lower case, underscores as spaces, single spaces, accents composed (macOS writes them apart).

    >>> fold("Cafe\u0301__au  lait") == fold("caf\u00e9 au lait")
    True
    """
    return unicodedata.normalize("NFC", " ".join(text.replace("_", " ").casefold().split()))


def with_meaning(label: str, meaning: str) -> str:
    """Return a class as the data calls it, and the model's word for it where that says more; both without synonyms.

    >>> with_meaning("1", "goldfish, Carassius auratus"), with_meaning("tiger_cat", "tiger cat, Felis tigrina")
    ('1 (goldfish)', 'tiger_cat')
    """
    label, meaning = label.split(",")[0], meaning.split(",")[0]
    return label if fold(meaning) == fold(label) else f"{label} ({meaning})"


def without_zeros(label: str) -> str:
    """Return a whole number without the zeros behind its point, as tables of floating-point columns write it; any other label as it is.

    >>> without_zeros("10.0"), without_zeros("1.50"), without_zeros("cat")
    ('10', '1.50', 'cat')
    """
    number = _NUMBER.fullmatch(label)
    return label if number is None else number[1]


def _value(label: str) -> int | None:
    """The whole number that a label is, however it is written."""
    number = _NUMBER.fullmatch(label)
    return None if number is None else int(number[1])


def _names_of(label: str) -> set[str]:
    """What a class may be called: its whole label, and its synonyms."""
    return {label, *_synonyms(label)}


def _synonyms(label: str) -> set[str]:
    return {part.strip() for part in label.split(",")} - {""}


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        found: torch.dtype | None = dtype
    else:
        found = DTYPES.get(dtype.removeprefix("torch."))
    if found is None or not found.is_floating_point:
        raise OptionError(f"expected a floating-point dtype ({', '.join(DTYPES)}); got {dtype!s}.")
    return found


def _devices() -> list[str]:
    """The devices of this machine: "cpu", and "cuda:0" and the like."""
    found = ["cpu"]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        found += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    return found


def _device(device: str | torch.device) -> torch.device:
    available = _devices()
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ModelError(f"no device is called {str(device)!r}; available here: {', '.join(available)}.") from None
    index = found.index or 0
    if found.type == "cpu" or f"{found.type}:{index}" in available:
        return found
    raise ModelError(f"device {str(device)!r} is not available here; available: {', '.join(available)}.")
