"""Checkpoints: what `lucidcam train` writes; and safetensors, or torch files that hold nothing but tensors, with their architecture."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lucidcam.errors import LucidcamError, ModelError, OptionError, first_line
from lucidcam.imaging.preprocess import Preprocess, Probed
from lucidcam.io.storage import damaged_entry
from lucidcam.models._card import WEIGHTS, Card
from lucidcam.models._formats import HEAD, foreign_format, is_safetensors
from lucidcam.nn import GAPNetwork
from lucidcam.registry import sources
from lucidcam.types import Model
from lucidcam.utils.flags import takes
from lucidcam.utils.rollback import SavedWarnings, closes_scopes

if TYPE_CHECKING:
    from PIL import Image

NESTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema",
)
"""Keys under which training scripts keep the weights beside other things."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "classifier.")
"""What wrappers (DataParallel, torch.compile, Lightning modules) put before the names of the weights."""

DEEPEST = 10
"""Dictionaries in dictionaries that are looked into."""

_SHOWN = 3
_SAFE_WAY = (
    "only tensors are loaded, since anything else in a pickle can run code. If you trust it, load it in a script of "
    "your own and save "
    "its weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)

Architecture = str | Callable[..., nn.Module]


@dataclass(frozen=True, kw_only=True)
class PreprocessFields:
    """The fields of `Preprocess` that differ from those of the architecture; None: they do not.

    Attributes:
        size: (height, width) of the input; unless `resize` is given, images are resized to it without a margin.
        resize: see `Preprocess`.
        mean: see `Preprocess`.
        std: see `Preprocess`.
        interpolation: see `Preprocess`.
        scale: see `Preprocess`.
        channels: see `Preprocess`.
    """

    size: int | tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | float | None = None
    std: tuple[float, ...] | float | None = None
    interpolation: str | None = None
    scale: float | None = None
    channels: str | None = None

    def stated(self) -> dict[str, Any]:
        """Those that were given, as `Preprocess` takes them."""
        size, resize = self.size, self.resize
        values = {
            "size": (size, size) if isinstance(size, int) else size,
            "resize": resize if resize is not None or size is None else min(size) if isinstance(size, tuple) else size,
            "mean": (self.mean,) if isinstance(self.mean, (int, float)) else self.mean,
            "std": (self.std,) if isinstance(self.std, (int, float)) else self.std,
            "interpolation": self.interpolation,
            "scale": self.scale,
            "channels": self.channels,
        }
        return {name: value for name, value in values.items() if value is not None}


@sources.register("file")
@takes(steps=PreprocessFields)
def load(
    name: str,
    *,
    pretrained: bool = True,
    architecture: Architecture | None = None,
    num_classes: int | None = None,
    labels: str | Path | Iterable[str] | None = None,
    layer: str | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    steps: PreprocessFields,
    **options: Any,
) -> Model:
    """Load a checkpoint.

    Args:
        name: the file's path; or the folder that `lucidcam train` wrote, which says all the rest by itself; or "module:function" without
            a checkpoint.
        pretrained: False for "module:function": the network as the function returns it. A checkpoint is its weights.
        architecture: "timm:NAME", "torchvision:NAME", "hf:REPO", "gap:NAME", "module:function", or a callable that returns the
            module; None: what the card beside the weights says.
        num_classes: of the head; None: read from the checkpoint where the architecture can be built with another
            number.
        labels: a text file with one label per line, or a list.
        layer: the default layer's dotted name.
        preprocess: any preprocessing; or the fields of `Preprocess` that differ from the architecture's own:
        steps: keywords, the fields of `PreprocessFields`.
        options: for the architecture.

    Raises:
        ModelError: the file is missing, empty, damaged, holds more than tensors, or does not fit the architecture.
        OptionError: no or an unknown architecture; wrong labels or preprocessing.
    """
    path = Path(name).expanduser()
    built: Model | None = None
    if not pretrained:
        if path.exists() or architecture is not None or ":" not in name:
            raise OptionError("a checkpoint is its weights; for random ones load the architecture itself with pretrained=False.")
        built = _build(name, options if num_classes is None else {**options, "num_classes": num_classes})
    card = None if built is not None else Card.beside(path)
    if card is not None and architecture is None and card.architecture is not None:
        architecture, options = card.architecture, {**card.options, **options}
    if card is not None and labels is None:
        labels = card.labels
    model = _loaded(path, card, architecture, num_classes, options) if built is None else built
    if card is not None and isinstance(model.module, GAPNetwork):
        model.module.multi_label = card.multi_label
    return Model(
        model.module.eval(),
        _preprocess(preprocess, model.preprocess if card is None else card.preprocess, steps.stated()),
        model.labels if labels is None else _read_labels(labels),
        layer if layer is not None or card is None else card.layer,
        path.resolve().name if built is None else name,
        outputs=model.outputs if card is None else card.output_kind,
        threshold=model.threshold if card is None else card.threshold,
    )


def _loaded(path: Path, card: Card | None, architecture: Architecture | None, num_classes: int | None, options: dict[str, Any]) -> Model:
    """The architecture with the checkpoint's weights in it."""
    tensors = _read(path / WEIGHTS if card is not None and path.is_dir() else path)
    if architecture is None:
        raise OptionError(
            f"{str(path)!r} holds weights only; say what they are for: architecture='timm:NAME', 'torchvision:NAME', "
            "'module:function' or a callable."
        )
    model, tensors = _built(architecture, tensors, num_classes, options)
    _fill(model.module, tensors, str(path), architecture)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name."""
    if path.exists() and (path.is_dir() or path.stat().st_size):
        format = foreign_format(path)
        if format is not None:
            raise ModelError(f"{str(path)!r} is {format.name}, no checkpoint of torch: {format.advice}.")
    if path.is_dir():
        raise ModelError(f"expected a checkpoint file; {str(path)!r} is a folder (for transformers write 'hf:{path}').")
    if not path.exists():
        raise ModelError(f"the checkpoint {str(path)!r} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise ModelError(f"the checkpoint {str(path)!r} is empty (0 bytes); copy or download it again.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    safetensors = is_safetensors(head, path.stat().st_size) or (path.suffix.lower() == ".safetensors" and head[:2] != b"PK")
    content = _read_safetensors(path) if safetensors else _read_torch(path)
    tensors = _unnested(content)
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        what = f"keys {keys}" if keys else f"a {type(content).__name__} without any"
        raise ModelError(f"expected named tensors (a state_dict) in {str(path)!r}; found {what}.")
    _check_tensors(path, tensors)
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


@closes_scopes
def _read_torch(path: Path) -> Any:
    _check_archive(path)
    try:
        with SavedWarnings(), path.open("rb") as file:  # a file: of a path, torch would trust the suffix
            warnings.simplefilter("ignore")  # torch warns of old pickle protocols before it raises
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"Unsupported class ([\w.]+)", str(error))
        if blocked or zipfile.is_zipfile(path):
            thing = f" ({blocked[1]})" if blocked else ""
            raise ModelError(f"{str(path)!r} holds pickled Python objects{thing}, which is refused: {_SAFE_WAY}.") from error
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged pickle or archive can raise anything
        raise _damaged(path, error) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that torch would unpack to more than the file has (torch itself packs nothing), or whose entries are damaged.

    Raises:
        ModelError: it is one, or a tar, which torch wrote before 2018 and would unpack to the disk.
    """
    size = path.stat().st_size
    try:
        if tarfile.is_tarfile(path):
            raise ModelError(f"the checkpoint {str(path)!r} is a tar, as torch wrote before version 0.2; {_SAFE_WAY}.")
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise _damaged(path, error) from error
    if unpacked > size:
        raise ModelError(
            f"the checkpoint {str(path)!r} has {size} bytes and would be unpacked to {unpacked}; expected tensors as torch.save writes "
            "them, which are not compressed: save it again."
        )
    entry = damaged_entry(path)
    if entry is not None:
        raise ModelError(
            f"the checkpoint {str(path)!r} is damaged: its entry {entry!r} is not what its checksum says; copy or download it again."
        )


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = re.split(r"[.:] ", first_line(error))[-1][:120] if isinstance(error, pickle.UnpicklingError) else first_line(error)[:120]
    return ModelError(
        f"the checkpoint {str(path)!r} is cut off, or no checkpoint at all ({reason.rstrip('.')}); copy or download it again."
    )


def _unnested(content: Any, tensors_by_id: dict[int, dict[str, Tensor]] | None = None, depth: int = 0) -> dict[str, Tensor]:
    """The first dictionary of tensors, from the outside in.

    Args:
        content: of the file; dictionaries in it may be in several others, or in themselves.
        tensors_by_id: of the dictionaries that were looked at, by their addresses.
        depth: in how many dictionaries it is.
    """
    known = {} if tensors_by_id is None else tensors_by_id
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return {}
    if id(content) not in known:
        known[id(content)] = {}
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        inner = [_unnested(content[key], known, depth + 1) for key in NESTS if isinstance(content.get(key), Mapping)]
        known[id(content)] = max(inner, key=len, default={}) or tensors
    return known[id(content)]


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold other things than numbers, one after the other in memory.

    Raises:
        ModelError: one does.
    """
    for name, tensor in tensors.items():
        kinds = {
            "on the meta device, without numbers": tensor.is_meta,
            "quantised": tensor.is_quantized,
            "nested": tensor.is_nested,
            "sparse": tensor.layout is not torch.strided,
        }
        kind = next((kind for kind, applies in kinds.items() if applies), None)
        if kind is not None:
            raise ModelError(
                f"expected tensors with a number for every place in {str(path)!r}; {name!r} is {kind}: save it as a dense one."
            )


def _is_whole(tensor: Tensor) -> bool:
    """Whether all of a tensor's numbers are in the file: an expanded one declares more than there are."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _built(
    architecture: Architecture, tensors: dict[str, Tensor], num_classes: int | None, options: dict[str, Any]
) -> tuple[Model, dict[str, Tensor]]:
    """Build the architecture with the checkpoint's number of classes; return it with the tensors under its names."""
    given = options if num_classes is None else {**options, "num_classes": num_classes}
    model = _build(architecture, given)
    expected = model.module.state_dict()
    tensors = _stripped(tensors, expected)
    if num_classes is None:
        heads = [
            (key, (len(tensor), len(expected[key])))
            for key, tensor in tensors.items()
            if key in expected
            and not _is_lazy(expected[key])
            and tensor.shape != expected[key].shape
            and tensor.ndim
            and tensor.shape[1:] == expected[key].shape[1:]
        ]
        # No head is built that is larger than the one in the file, for biases alone, say, or for numbers that are not there.
        is_there = any(tensors[key].ndim > 1 for key, _ in heads) and all(_is_whole(tensors[key]) for key, _ in heads)
        if is_there and len({sizes for _, sizes in heads}) == 1 and _takes_classes(architecture):
            model = _build(architecture, {**options, "num_classes": heads[0][1][0]})
    return model, tensors


def _build(architecture: Architecture, options: dict[str, Any]) -> Model:
    if isinstance(architecture, nn.Module):
        raise OptionError(
            "expected the architecture as a callable that builds it; got a module. Load its weights yourself and use lucidcam.wrap."
        )
    title = _name(architecture)
    if isinstance(architecture, str):
        source, colon, name = architecture.partition(":")
        if not (source and colon and name):
            raise OptionError(f"expected architecture='timm:NAME', 'torchvision:NAME' or 'module:function'; got {architecture!r}.")
        if source in sources and source not in ("demo", "file"):
            model: Model = sources[source](name, pretrained=False, **options)
            return model
        architecture = _imported(source, name)
    if not callable(architecture):
        raise OptionError(f"expected the architecture {title} to be a function that returns a module; got {type(architecture).__name__}.")
    try:
        module = architecture(**options)
    except LucidcamError:
        raise
    except TypeError as error:
        raise OptionError(f"the architecture {title} cannot be built: {first_line(error)}.") from error
    except (Exception, SystemExit) as error:  # code of the user's
        raise ModelError(f"the architecture {title} raised {type(error).__name__}: {first_line(error)}.") from error
    if not isinstance(module, nn.Module):
        raise OptionError(f"expected the architecture {title} to return a module; got {type(module).__name__}.")
    return Model(module)


def _imported(module: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        known = ", ".join(repr(f"{source}:NAME") for source in sources if source not in ("demo", "file"))
        raise OptionError(f"no architecture is called '{module}:{attribute}' ({first_line(error)}); known: {known}.") from error
    except (Exception, SystemExit) as error:  # code of the user's, of any kind of fault
        raise ModelError(f"the module {module!r} of the architecture raised {type(error).__name__}: {first_line(error)}.") from error
    return found


def _takes_classes(architecture: Architecture) -> bool:
    if isinstance(architecture, str):
        source, _, name = architecture.partition(":")
        if source in sources:
            return source in ("timm", "torchvision")
        return _has_classes(_imported(source, name))
    return _has_classes(architecture)


def _has_classes(build: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # compiled code says nothing of its parameters
        return False
    return any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in parameters)


def _name(architecture: Architecture) -> str:
    return repr(architecture) if isinstance(architecture, str) else getattr(architecture, "__name__", type(architecture).__name__)


def _stripped(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take wrappers' prefixes off as long as that brings more of the architecture's names."""
    while True:
        hits = len(tensors.keys() & expected.keys())
        for prefix in PREFIXES:
            shorter = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            nested = any(key.startswith(PREFIXES) for key in shorter)
            if shorter and (len(shorter.keys() & expected.keys()) > hits or (not hits and nested and len(shorter) == len(tensors))):
                tensors = shorter
                break
        else:
            return tensors


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: str, architecture: Architecture) -> None:
    expected = module.state_dict()
    # checkpoints of before torch 0.4.1 do not count batches
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    surplus = [key for key in tensors if key not in expected]
    lazy = {key for key, tensor in expected.items() if _is_lazy(tensor)}
    unequal = [
        f"{key} {list(tensors[key].shape)} rather than {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in tensors and key not in lazy and tensors[key].shape != tensor.shape
    ]
    unreal = [key for key, tensor in expected.items() if key in tensors and tensors[key].is_complex() and not tensor.is_complex()]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', …' * (len(keys) > _SHOWN)})"
        for what, keys in (("missing", missing), ("unexpected", surplus), ("of another shape", unequal), ("of complex numbers", unreal))
        if keys
    ]
    if problems:
        raise ModelError(f"the weights in {path!r} do not fit {_name(architecture)}: {'; '.join(problems)}. Give the right architecture.")
    module.load_state_dict(tensors, strict=False)


def _is_lazy(tensor: Tensor) -> bool:
    """Whether a weight has no shape before the network runs, or weights are loaded."""
    return isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))


def _preprocess(
    chosen: Callable[[Image.Image], Tensor] | None, own: Callable[[Image.Image], Tensor] | None, given: dict[str, Any]
) -> Callable[[Image.Image], Tensor] | None:
    if chosen is not None:
        if given:
            raise OptionError(f"give either preprocess or {', '.join(given)}, not both.")
        return chosen if callable(getattr(chosen, "frame", None)) else Probed(chosen)
    if not given:
        return own
    return replace(own, **given) if isinstance(own, Preprocess) else Preprocess(**given)


def _read_labels(labels: str | Path | Iterable[str]) -> tuple[str, ...]:
    if isinstance(labels, (str, Path)):
        try:
            lines = Path(labels).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"the labels {str(labels)!r} cannot be read ({first_line(error)}); expected a text file, one label per line."
            ) from error
        while lines and not lines[-1].strip():
            lines.pop()
        labels = (line.strip() for line in lines)
    found = tuple(labels)
    if not found or not all(isinstance(label, str) for label in found):
        raise OptionError("expected labels as a text file or a list, one label per class, in the order of the class ids.")
    return found
