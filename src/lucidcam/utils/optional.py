"""Optional libraries, imported when they are used, with a one-line error where they are missing.

The torchvision wheel of PyPI is built against CUDA. On a CPU-only torch its compiled operators do not load, and `import
torchvision` (hence `import timm`, and parts of transformers) ends in "operator torchvision::nms does not exist". Declaring
their schemas is enough for the import to pass; the two that detectors call, `nms` and `roi_align`, are given in torch. Calling another
still fails, with torchvision's own error. Nothing is touched where compiled operators are there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lucidcam.errors import MissingExtraError, ModelError, first_line
from lucidcam.utils.locks import new_lock
from lucidcam.utils.rollback import SavedWarnings, Scope, closes_scopes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PATIENCE = 10.0
"""Seconds that a download may take to connect or to send the next bytes."""

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_ROI_SCHEMA = (
    "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio, bool aligned) -> Tensor"
)
_OPERATORS = {"nms": _SCHEMA, "qnms": _SCHEMA, "roi_align": _ROI_SCHEMA}
_lock = new_lock()
_downloading = new_lock()
_library: Any = None  # the schemas vanish with the Library object, so it lives as long as the process


def import_torchvision(purpose: str = "this model") -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    Args:
        purpose: what needs it, for the error message.

    Raises:
        MissingExtraError: torchvision is not installed.
        ModelError: torchvision is installed, but does not load with this torch.
    """
    with _lock:
        try:
            return _complete(_import("torchvision", "zoo", purpose))
        except (RuntimeError, AttributeError) as error:
            if "torchvision" not in str(error):
                raise
        _declare_operators()
        # What a failed import leaves behind is half-initialised; a second import would not run it again.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        try:
            return _complete(_import("torchvision", "zoo", purpose))
        except (RuntimeError, AttributeError) as error:
            import torch

            raise ModelError(
                f"torchvision does not load with torch {torch.__version__} ({first_line(error)}); install the pair that belongs together."
            ) from error


def import_timm(purpose: str = "this model") -> ModuleType:
    """Import timm.

    Args:
        purpose: what needs it, for the error message.

    Raises:
        MissingExtraError: timm or torchvision is not installed.
        ModelError: torchvision does not load with this torch.
    """
    import_torchvision(purpose)
    with _lock:
        return _import("timm", "zoo", purpose)


def import_transformers(purpose: str = "this model") -> ModuleType:
    """Import transformers.

    Args:
        purpose: what needs it, for the error message.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    with _lock:
        if importlib.util.find_spec("torchvision") is not None:
            import_torchvision(purpose)  # transformers imports it later, by itself, wherever it is installed
        return _import("transformers", "hf", purpose)


class Loaded:
    """Goes before a model into another process: there, libraries that are loaded here are loaded first, in the way that works."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (tuple(name for name in _LOADERS if name in sys.modules),)


def _load(names: tuple[str, ...]) -> Loaded:
    for name in names:
        _LOADERS[name]()
    return Loaded()


_LOADERS = {"torchvision": import_torchvision, "timm": import_timm, "transformers": import_transformers}


def import_optional(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a library, or one of its modules, that an extra brings.

    Args:
        name: what to import, "pycocotools.mask" for instance.
        extra: which extra of lucidcam brings it.
        purpose: what needs it, for the error message.

    Raises:
        MissingExtraError: it is not installed.
    """
    with _lock:
        return _import(name, extra, purpose)


@contextmanager
def impatient_downloads() -> Iterator[None]:
    """Within the block downloads give up soon: unreachable hosts raise within seconds, not after minutes of retries.

    Local copies in the caches of torch and of the Hugging Face hub are used as ever.
    """
    with _downloading, Scope() as scope:  # both settings belong to the process: one block at a time changes them back
        before = socket.getdefaulttimeout()
        scope.undo(socket.setdefaulttimeout, before)
        socket.setdefaulttimeout(PATIENCE if before is None else before)
        if "huggingface_hub" in sys.modules and not hub_reachable():
            constants: Any = importlib.import_module("huggingface_hub.constants")
            scope.undo(setattr, constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
            constants.HF_HUB_OFFLINE = True
        yield


def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers; True where a proxy would have to be asked."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if address.hostname is None or address.scheme in getproxies():
        return True
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=PATIENCE):
            return True
    except OSError:
        return False


@closes_scopes
def _import(name: str, extra: str, purpose: str) -> ModuleType:
    try:
        with SavedWarnings():
            # torchvision's image codecs are compiled too; lucidcam reads images with Pillow.
            warnings.filterwarnings("ignore", message="Failed to load image Python extension")
            # tqdm in a notebook without widgets; what lucidcam does needs none.
            warnings.filterwarnings("ignore", message="IProgress not found")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if error.name != library:
            raise
        raise MissingExtraError(library, extra, purpose) from None


def _declare_operators() -> None:
    import torch

    global _library
    if _library is None:
        # FRAGMENT and not DEF: a namespace has one DEF only, and another package may have made the same repair.
        _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, operator):
            _library.define(f"{operator}{schema}")


def _complete(library: ModuleType) -> ModuleType:
    """Give torchvision the operators that detectors call, where its compiled ones did not load."""
    import torch

    from lucidcam.utils.torchvision_ops import nms, roi_align

    boxes, regions = (sys.modules[f"torchvision.ops.{name}"] for name in ("boxes", "roi_align"))
    if library.extension._has_ops() or getattr(boxes, "_assert_has_ops", None) is _allowed:
        return library
    _declare_operators()
    for name, kernel in (("nms", nms), ("roi_align", roi_align)):
        if not any(
            torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", key)
            for key in ("CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
        ):
            _library.impl(name, kernel, "CompositeExplicitAutograd" if name == "nms" else "CompositeImplicitAutograd")
    vars(boxes)["_assert_has_ops"] = vars(regions)["_assert_has_ops"] = _allowed
    vars(regions)["_has_ops"] = _true  # else it compiles its own roi_align on the first call
    return library


def _allowed() -> None:
    """Stands for torchvision's check that the compiled operators are there."""


def _true() -> bool:
    return True
