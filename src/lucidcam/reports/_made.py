"""How a page came to be: for those who want to make it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from lucidcam.outputs.html import Facts, Fold, Part, Section, Table, Text, fixed
from lucidcam.utils.text import counted

if TYPE_CHECKING:
    from lucidcam.types import Model


FEW = 20
"""Failures that are listed without being asked for."""


def section(command: str | None) -> Section:
    """Versions, machine and date; the command, where there is one."""
    facts: dict[str, object] = {} if command is None else {"command": command}
    facts |= {
        "lucidcam": version("lucidcam"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": platform.platform(),
        "page made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return Section("How this page was made", (Facts(facts),))


def of_model(model: Model) -> dict[str, object]:
    """What says which network it was."""
    return {"model": model.name, "weights' fingerprint": model.fingerprint(), "preprocessing": repr(model.preprocess)}


def chance(value: float | None) -> str:
    """A probability; a dash where there is none."""
    return fixed(value, 3)


def not_explained(failures: Sequence[tuple[str, str]], most: int, where: str = "failures.json") -> Fold:
    """Images that could not be explained, and why.

    Args:
        failures: (image, why).
        most: rows that are shown.
        where: the file that lists all.
    """
    parts: list[Part] = [Table(["image", "why"], failures[:most], "Images that could not be explained", filtered=True)]
    if len(failures) > most:
        parts.append(Text(f"The first {most} of {len(failures)}; {where} lists all.", "note"))
    return Fold(f"Not explained: {counted(len(failures), 'image')}", parts, anchor="not-explained", heading=True, open=len(failures) <= FEW)
