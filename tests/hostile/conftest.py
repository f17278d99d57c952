"""What a hostile file, folder or model costs is bounded, and measured in every test of this folder."""

import importlib
import os
import resource
import sys
from pathlib import Path

import pytest

from lucidcam.utils.optional import import_timm

SECONDS = 5
"""Of processors, a test's own processes included: other work on the machine does not count."""

MEMORY = 1.5e9
"""Bytes that a test may add to what its process held before, and that each process it starts may hold."""


HEAVY = ("pandas", "pyarrow.parquet", "matplotlib.figure", "sympy", "pycocotools.mask", "typer", "lucidcam.cli")
"""Modules whose import is no cost of the file that happens to come first."""


@pytest.fixture(scope="session", autouse=True)
def imported():
    """Import what most tests need, before any is measured."""
    for name in HEAVY:
        importlib.import_module(name)
    import_timm()


@pytest.fixture(autouse=True)
def bounded(request):
    """Fail a test that takes more than `SECONDS` (unless it is marked slow) or `MEMORY`."""
    before, of_children = _seconds(), _peak_of_children()
    held = _held_from_now_on()
    yield
    seconds = _seconds() - before
    if request.node.get_closest_marker("slow") is None:
        assert seconds <= SECONDS, f"{seconds:.1f} s of processor time, more than {SECONDS}"
    if held is not None:
        peak = _status("VmHWM") - held
        assert peak <= MEMORY, f"{peak / 1e9:.2f} GB, more than {MEMORY / 1e9}"
    if held is not None and _peak_of_children() > of_children:
        most = max(MEMORY, _status("VmHWM"))  # until it runs a program of its own, a process counts with what this one holds
        assert _peak_of_children() <= most, f"{_peak_of_children() / 1e9:.2f} GB in a process of the test, more than {most / 1e9:.2f}"


def _seconds() -> float:
    return sum(os.times()[:4])


def _peak_of_children() -> int:
    """The largest that any process that was waited for became, in bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _held_from_now_on() -> int | None:
    """What the process holds now, in bytes, from where its peak counts anew; None where the system does not tell (only Linux does)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(entry: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[entry].split()[0]) * 1024
