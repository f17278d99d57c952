"""Features of a frozen network, made once and kept on disk: each epoch of a memory's training reads them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lucidcam.engine.run import open_run
from lucidcam.errors import DataError
from lucidcam.io.storage import digest_of, sealed, unsealed, write_whole
from lucidcam.samples import Problem
from lucidcam.train.labelled import Labelled
from lucidcam.train.loading import Photos, steps_of
from lucidcam.types import Model
from lucidcam.utils.fingerprint import architecture, steady
from lucidcam.utils.progress import bar, say
from lucidcam.utils.rollback import closes_scopes

Maps = npt.NDArray[Any]

AT_ONCE = 32
SAVED = 512
"""Images between two notes of how far it got."""


class Features(Dataset[Any]):
    """Features and labels of the photos that could be read.

    Args:
        data: the samples.
        maps: `[m, c, h, w]`, float32, read from disk as they are asked for.
        rows: of the samples in `maps`.
        layer: whose activations they are.
        problems: photos that could not be read.
    """

    def __init__(self, data: Labelled, maps: Maps, rows: Maps, layer: str, problems: tuple[Problem, ...]) -> None:
        self.data, self.maps, self.rows, self.layer, self.problems = data, maps, rows, layer, problems

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        maps, labels = self.__getitems__([row])
        return maps[0], labels[0]

    def __getitems__(self, keys: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """A whole batch at once: maps `[B, c, h, w]` and labels `[B, K]`; the loader asks for it."""
        rows = [key[0] if isinstance(key, tuple) else key for key in keys]
        return torch.from_numpy(np.asarray(self.maps[self.rows[rows]])), torch.from_numpy(self.data.labels[rows]).float()

    def loader(self, batch_size: int = 256, sampler: Any = None) -> DataLoader[Any]:
        """Batches of maps and labels; all of them in order without a sampler."""
        return DataLoader(self, batch_size, sampler=sampler, collate_fn=_as_it_is)

    def part(self, rows: Sequence[int]) -> Features:
        """Some of them; the maps stay on disk."""
        return Features(self.data.part(rows), self.maps, self.rows[list(rows)], self.layer, self.problems)


def _as_it_is(batch: Any) -> Any:
    return batch


def features_of(model: Model, data: Labelled, layer: str | None, folder: Path, progress: bool | None) -> Features:
    """Features of all photos of a data set; those that are in the folder already are not made again.

    Args:
        model: the network; it is left as it is.
        data: the photos.
        layer: whose activations; None: the model's own, or the last spatial one.
        folder: where `features.npy` and `features.json` are kept.
        progress: a bar; None: in a terminal or notebook.

    Raises:
        DataError: no photo can be read, or the folder cannot be written.
    """
    steps = steps_of(model)
    asked = [each.identity() for each in data.samples]
    made_from = (model.fingerprint(), architecture(model.module), layer or model.layer, steady(steps), asked)
    key = hashlib.blake2b(repr(made_from).encode(), digest_size=12).hexdigest()
    path, told = folder / "features.npy", folder / "features.json"
    state = _state(told, key, path, progress)
    if state is None or state["done"] < len(data):
        state = _made(model, data, layer or model.layer, path, told, key, state, progress)
    maps = np.load(path, mmap_mode="r")
    rows = state["rows"]
    if not rows:
        raise DataError(f"{data.name}: none of the {len(data)} photos can be read; the first: {state['problems'][0]['error']}")
    problems = tuple(Problem(**each) for each in state["problems"])
    return Features(data.part(rows), maps, np.arange(len(rows)), state["layer"], problems)


def _state(told: Path, key: str, path: Path, progress: bool | None) -> dict[str, Any] | None:
    """What an earlier run noted, where it was about the same features, and these are as they were written."""
    if not os.path.lexists(told):
        return None
    try:
        state: dict[str, Any] = json.loads(unsealed(told.read_bytes()))
        if state["key"] != key:
            return None
        if not state["rows"] or _digests(np.load(path, mmap_mode="r"), state["ends"]) == state["digests"]:
            return state
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        pass
    say(f"{path} or {told.name} is gone, or not as it was written: the features are made again", progress)
    return None


def _digests(maps: Maps, ends: Sequence[int]) -> list[str]:
    """Of the rows between one note and the next."""
    starts = [0, *ends[:-1]]
    return [digest_of(np.ascontiguousarray(maps[start:end])) for start, end in zip(starts, ends, strict=True)]


def _made(
    model: Model,
    data: Labelled,
    layer: str | None,
    path: Path,
    told: Path,
    key: str,
    state: dict[str, Any] | None,
    progress: bool | None,
) -> dict[str, Any]:
    """Run the network over the photos that are left, and note every now and then how far it got."""
    photos = Photos(data, steps_of(model))
    state = state or {"key": key, "done": 0, "rows": [], "problems": [], "layer": layer, "ends": [], "digests": []}
    maps: Any = np.load(path, mmap_mode="r+") if state["rows"] else None
    try:
        with bar(len(data), "features", progress) as advance:
            advance(state["done"])
            for start in range(state["done"], len(data), AT_ONCE):
                batch = photos.collate([photos[i] for i in range(start, min(start + AT_ONCE, len(data)))])
                state["problems"] += [{"name": each.name, "error": each.error} for each in batch.problems]
                if batch.inputs is not None:
                    found, state["layer"] = _activations(model, batch.inputs, layer)
                    if maps is None:
                        maps = _empty(path, (len(data), *found.shape[1:]))
                    maps[len(state["rows"]) : len(state["rows"]) + len(found)] = found
                    state["rows"] += batch.rows
                state["done"] = min(start + AT_ONCE, len(data))
                if state["done"] == len(data) or state["done"] % SAVED < AT_ONCE:
                    if maps is not None:
                        maps.flush()
                        start_of_part = state["ends"][-1] if state["ends"] else 0
                        state["digests"].append(digest_of(np.ascontiguousarray(maps[start_of_part : len(state["rows"])])))
                        state["ends"].append(len(state["rows"]))
                    write_whole(told, sealed(json.dumps(state).encode()))
                advance(state["done"] - start)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}; mend that and run again, it goes on.") from error
    return state


def _empty(path: Path, shape: tuple[int, ...]) -> Any:
    """A new file of features, whose place on the disk is taken at once: a full disk is an error now, not a crash later."""
    maps: Any = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return maps


@closes_scopes
def _activations(model: Model, inputs: Tensor, layer: str | None) -> tuple[npt.NDArray[np.float32], str]:
    with open_run(model.module, inputs.to(model.device, model.dtype), layer=layer, progress=False, stated=model.class_scores) as run:
        found = run.capture().activations[:, 0]
        return found.float().cpu().numpy(), run.layer.name
