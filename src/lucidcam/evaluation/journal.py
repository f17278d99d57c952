"""What was measured so far, on disk: a killed evaluation goes on where it stopped, and gives the same figures."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import Folder, sealed, unsealed, workplace, write_whole
from lucidcam.metrics import Record
from lucidcam.outputs.npz import check_archive
from lucidcam.samples import Problem


@dataclass(frozen=True, eq=False)
class Part:
    """What one batch of samples gave.

    Attributes:
        names: of the images that were measured.
        records: by contender and metric (their labels), for each image its records.
        problems: what could not be used.
        classes: for each image its class and the network's confidence in it, for metrics that choose images by that.
    """

    names: tuple[str, ...] = ()
    records: Mapping[tuple[str, str], Sequence[Sequence[Record]]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    classes: tuple[tuple[int, float], ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Part]) -> Part:
        """The parts of several batches, measured by the same, as one."""
        records: dict[tuple[str, str], list[Sequence[Record]]] = {}
        for part in parts:
            for key, found in part.records.items():
                records.setdefault(key, []).extend(found)
        return cls(
            tuple(name for part in parts for name in part.names),
            records,
            tuple(problem for part in parts for problem in part.problems),
            tuple(each for part in parts for each in part.classes),
        )

    def encoded(self, asked: Sequence[str] = ()) -> bytes:
        """The part as a file; the same part gives the same bytes.

        Args:
            asked: what it was measured from.
        """
        arrays: dict[str, Any] = {}
        listed = []
        for i, ((contender, judge), found) in enumerate(self.records.items()):
            flat = [(row, record) for row, records in enumerate(found) for record in records]
            groups = list(dict.fromkeys(record.group for _, record in flat))
            arrays[f"rows{i}"] = np.array([row for row, _ in flat], np.int64)
            arrays[f"groups{i}"] = np.array([groups.index(record.group) for _, record in flat], np.int64)
            arrays[f"values{i}"] = np.stack([record.values for _, record in flat]) if flat else np.zeros((0, 0))
            listed.append((contender, judge, groups))
        told = {
            "asked": list(asked),
            "names": self.names,
            "records": listed,
            "problems": [asdict(each) for each in self.problems],
            "classes": self.classes,
        }
        content = io.BytesIO()
        np.savez_compressed(content, told=np.array(json.dumps(told)), **arrays)
        return content.getvalue()

    @classmethod
    def decoded(cls, content: bytes) -> tuple[Part, list[str]]:
        """A part from its file, and what it was measured from.

        Raises:
            OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: it is damaged.
        """
        check_archive(io.BytesIO(content), "a part of an evaluation")
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        told = json.loads(str(arrays["told"]))
        records = {}
        for i, (contender, judge, groups) in enumerate(told["records"]):
            found: list[list[Record]] = [[] for _ in told["names"]]
            for row, group, value in zip(arrays[f"rows{i}"], arrays[f"groups{i}"], arrays[f"values{i}"], strict=True):
                found[row].append(Record(value, groups[group]))
            records[contender, judge] = found
        problems = tuple(Problem(**each) for each in told["problems"])
        return cls(tuple(told["names"]), records, problems, tuple((int(c), float(p)) for c, p in told["classes"])), told["asked"]


WRITTEN = re.compile(
    r"results\.json|images\.(csv|parquet)|curves/[\w.=+-]+\.(png|svg)|parts/[a-z]+-\d{6,}\.npz"
    r"|gallery/(shots\.json|[\w.=+-]+\.jpg|shots/[0-9a-f]{16}\.webp)"
)
"""Files that an evaluation writes."""


class Journal:
    """Parts in a folder, each written whole or not at all; a context manager that holds the folder meanwhile.

    Args:
        folder: where to; None: nothing is kept.
        settings: of this evaluation; an evaluation with others must not go on here.
        restart: forget what an evaluation left there.

    Raises:
        OptionError: the folder holds an evaluation with other settings or files of others, is in use, or cannot be written.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.folder = None if folder is None else folder / "parts"
        self.damaged: list[str] = []
        self._place: AbstractContextManager[Any] = nullcontext()
        if folder is not None:
            self._place = workplace(folder, settings, "an evaluation", lambda name: WRITTEN.fullmatch(name) is not None, restart)

    def __enter__(self) -> Journal:
        self._place.__enter__()
        try:
            if self.folder is not None:
                self.folder.mkdir(exist_ok=True)
        except OSError as error:
            self._place.__exit__(None, None, None)
            raise OptionError(f"cannot keep results in {self.folder}: {error.strerror or error}.") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._place.__exit__(kind, error, trace)

    def read(self, kind: str, number: int, asked: Sequence[str]) -> Part | None:
        """The part that was measured from samples of these identities; None when there is none yet.

        Raises:
            DataError: when it was measured from others.
        """
        path = self._path(kind, number)
        if path is None or not os.path.lexists(path):
            return None
        try:
            part, measured = Part.decoded(unsealed(Folder(path.parent).read(path.name)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.damaged.append(f"parts/{path.name}")  # a power cut may leave half a file
            return None
        if measured != list(asked):
            raise DataError(
                f"the data changed since {path.parent.parent} was begun ({path.name} is of other images, classes or boxes); choose another "
                "folder, or restart it (restart=True, --restart)."
            )
        return part

    def write(self, kind: str, number: int, asked: Sequence[str], part: Part) -> None:
        """Keep a part.

        Raises:
            DataError: when it cannot be written: a full disk, say.
        """
        path = self._path(kind, number)
        if path is not None:
            write_whole(path, sealed(part.encoded(asked)))

    def _path(self, kind: str, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{kind}-{number:06d}.npz"
