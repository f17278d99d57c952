"""Which images go through a network together: of one shape, and no more than the memory holds."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.foreign import out_of_memory
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.mixing import MixingError
from lucidcam.engine.trace import batch_of
from lucidcam.errors import OptimizedCopyError
from lucidcam.targets import Target, local
from lucidcam.types import Model, Prepared

_max_batch: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Images that went through a network together when the memory did not suffice for more; read and written under `_lock`."""

_lock = threading.Lock()


class BatchQueue:
    """The batches that are still to be explained; what did not fit the memory comes back in halves.

    Attributes:
        limit: images of a batch at most.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Sequence[int]], images_at_once: int, fixed: int | None) -> None:
        """Take groups of image numbers that may go together; `fixed` is the number of images that the module takes, where it is fixed."""
        self._module = module
        with _lock:
            known = _max_batch.get(module, images_at_once)
        self.limit = min(images_at_once, known) if fixed is None else fixed
        self._waiting = deque(
            list(group[start : start + images_at_once]) for group in groups for start in range(0, len(group), images_at_once)
        )

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[list[int]]:
        """Numbers of the images of each batch, until nothing is left."""
        while self._waiting:
            rows = self._waiting.popleft()
            if len(rows) > self.limit:
                self._waiting.appendleft(rows[self.limit :])
                rows = rows[: self.limit]
            yield rows

    def retry(self, rows: list[int], error: Exception) -> bool:
        """Put a batch back that failed, to come in smaller batches; False where that would not help."""
        if isinstance(error, MixingError):
            self.limit = 1
        elif not isinstance(error, OptimizedCopyError):  # else the network as it is has taken the copy's place
            if len(rows) == 1 or not isinstance(error, (RuntimeError, MemoryError)) or not out_of_memory(error):
                return False
            self.limit = len(rows) // 2
            with _lock:
                _max_batch[self._module] = self.limit
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._waiting.appendleft(rows)
        return True


def fixed_batch_size(model: Model, prepared: Sequence[Prepared]) -> int | None:
    """How many photos a program takes at a time that was exported for a fixed number; None: any number."""
    if model.task is not None or not prepared:
        return None
    return batch_of(model.module, Inputs((prepared[0].tensor[None],), {}, 0))


def group_by_shape(model: Model, prepared: Sequence[Prepared], targets: Sequence[Any]) -> list[list[int]]:
    """Numbers of images that may go through the model together: same size, same kind of target, same place where that names one."""
    groups: dict[Hashable, list[int]] = {}
    for i, (image, target) in enumerate(zip(prepared, targets, strict=True)):
        kind = _hashable(target) if isinstance(target, Target) else None if target is None else len(target)
        place = image.frame if local(target) else None
        alone = i if model.task is not None and model.task.alone(target) else None
        groups.setdefault((tuple(image.tensor.shape), kind, place, alone), []).append(i)
    return list(groups.values())


def _hashable(target: Target) -> Hashable:
    """A key under which equal targets are equal."""
    try:
        hash(target)
    except TypeError:
        return id(target)
    return target


def stack_images(tensors: Sequence[Tensor], model: Model) -> Tensor:
    """Images `[B, C, h, w]` where the model is; to a GPU from pinned memory, so that nobody waits for the copy."""
    if model.device.type != "cuda":
        return torch.stack(list(tensors)).to(model.device, model.dtype)
    pinned = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(model.device, model.dtype, non_blocking=True)
