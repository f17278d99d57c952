"""What was measured, and the files that hold it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidcam.errors import OptionError
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.storage import check_writable, json_text, write_whole
from lucidcam.reprs import OneLineRepr
from lucidcam.utils.csv_rows import write_rows

FILES = ("costs.json", "costs.csv", "costs.png")
"""What `Costs.save` writes."""

if TYPE_CHECKING:
    from rich.console import Group

FORWARD = "forward"
"""How the forward pass itself is called among the methods."""


@dataclass(frozen=True)
class Cost(OneLineRepr):
    """One measurement.

    Attributes:
        method: its name, with options that were given; "forward" for the forward pass itself.
        optimized: on the optimised copy.
        images: explained together.
        ratio: its time divided by that of a plain forward pass of the user's network on the same images; median.
        low: the ratio's lower quartile; the least where there are fewer than four repeats.
        high: the ratio's upper quartile; the largest where there are fewer than four.
        seconds: for each image, the median; wall clock.
        repeats: how often it was measured.
        memory: peak in bytes above that of a plain forward pass on the same images; None: not measured.
        forwards: images (or activations of one) whose outputs the network computed, for each image that was explained.
        stopped: it was ended by the time limit: ratio, seconds and forwards are what it took at least.
    """

    method: str
    optimized: bool
    images: int
    ratio: float
    low: float
    high: float
    seconds: float
    repeats: int
    memory: int | None
    forwards: float
    stopped: bool


@dataclass(frozen=True)
class Costs(OneLineRepr):
    """What explanations cost on one network.

    Attributes:
        model: its name.
        device: where it ran.
        dtype: of its inputs.
        threads: of torch on the CPU.
        torch: its version.
        inputs: what it was measured on, in words.
        shape: of one input.
        batch: how many images were explained together.
        repeats: of each measurement, at most.
        time_limit: seconds that one run could take; None: any.
        copy: the precision of the optimised copy; "": there was none.
        rows: the measurements.
        refused: methods that could not be measured, and why.
        notes: what else to know.
    """

    model: str
    device: str
    dtype: str
    threads: int
    torch: str
    inputs: str
    shape: tuple[int, ...]
    batch: int
    repeats: int
    time_limit: float | None
    copy: str
    rows: tuple[Cost, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]

    def row(self, method: str, images: int | None = None, optimized: bool = False) -> Cost:
        """One measurement.

        Args:
            method: as in `rows`.
            images: how many together; None: the most that were measured.
            optimized: on the optimised copy.

        Raises:
            OptionError: it was not measured.
        """
        found = [row for row in self.rows if (row.method, row.optimized) == (method, optimized) and images in (None, row.images)]
        if not found:
            why = self.refused.get(f"{method}, optimised" if optimized else method, "it is not among the rows")
            raise OptionError(f"no cost of {method!r}{f' on {images} images' if images else ''}: {why}")
        return max(found, key=lambda row: row.images)

    def table(self, width: int | None = None) -> Group:
        """A table for a terminal; see `lucidcam bench`."""
        from lucidcam.benchmark.show import table

        return table(self, width)

    def plot(self) -> Any:
        """A matplotlib figure: ratios and memory as bars."""
        from lucidcam.benchmark.show import plot

        return plot(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {**asdict(self), "shape": list(self.shape), "rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    def save(self, folder: Path) -> list[Path]:
        """Write costs.json, costs.csv (one line per measurement) and costs.png.

        Raises:
            OptionError: the folder cannot be made, or a file of these names is someone else's.
            DataError: a file cannot be written.
        """
        owned = check_place(folder)
        folder.mkdir(parents=True, exist_ok=True)
        listing = io.StringIO(newline="")
        names = [field.name for field in fields(Cost)]
        write_rows(listing, [names, *([getattr(row, name) for name in names] for row in self.rows)], "\n")
        picture = io.BytesIO()
        self.plot().savefig(picture, dpi=120, format="png")
        contents = ((json_text(self.to_dict(), indent=2) + "\n").encode(), listing.getvalue().encode(), picture.getvalue())
        for name, content in zip(FILES, contents, strict=True):
            write_whole(owned.path(name), content)
        return [folder / name for name in FILES]


def check_place(folder: str | os.PathLike[str]) -> OwnedFiles:
    """The files of a folder that costs can be written to, found out before any work.

    Raises:
        OptionError: it cannot be written to, or a file of these names is someone else's.
    """
    check_writable(folder, *FILES)
    owned = OwnedFiles(folder)
    owned.check(*FILES)
    return owned
