"""Peaks of memory above those of a base.

On a GPU torch's allocator counts. On a CPU a child process is measured, so that what one method leaves behind does not count into the next;
it is forked, so that any network will do, also one that lives in a notebook and cannot be pickled.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from lucidcam.benchmark.timing import Step
from lucidcam.utils.rollback import SavedWarnings, closes_scopes

BLOCK = 65536
"""Bytes; freed memory of at least this size goes back to the system at once, so that the mark shows what is alive."""

PATIENCE = 60.0
"""Seconds that a child may take beyond the time its steps were given, before it is given up."""

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's mallopt


def measurable(device: torch.device) -> bool:
    """Whether peaks can be measured: on CUDA, and on Linux's CPUs (other systems cannot forget an earlier peak)."""
    return device.type == "cuda" or (device.type == "cpu" and Path("/proc/self/clear_refs").exists())


def above(base: Step, step: Step, device: torch.device, seconds: float) -> int | None:
    """Peak of memory while `step` runs minus the peak while `base` runs, in bytes; None where it cannot be measured.

    Args:
        base: what is subtracted.
        step: is run twice, the first time to load code and make what stays.
        device: where both compute.
        seconds: about how long both runs of `step` take; a child that takes a minute more is given up.
    """
    if not measurable(device):
        return None
    if device.type == "cuda":
        step()
        return _difference(base, step, lambda each: _peak_on_cuda(each, device))
    return _in_child(base, step, seconds + PATIENCE)


def peak_of(step: Step) -> int:
    """Highest resident memory of this process, in bytes, while `step` runs.

    Linux alone can forget an earlier peak (`/proc/self/clear_refs`).

    Raises:
        OSError: on other systems.
    """
    gc.collect()
    _allocator("malloc_trim", 0)  # holes that an earlier step left in the heap would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    kept = step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    del kept
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _difference(base: Step, step: Step, peak: Callable[[Step], int]) -> int:
    before = peak(base)
    return peak(step) - before


def _peak_on_cuda(step: Step, device: torch.device) -> int:
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    kept = step()
    torch.cuda.synchronize(device)
    found: int = torch.cuda.max_memory_allocated(device)
    del kept
    return found


@closes_scopes
def _in_child(base: Step, step: Step, seconds: float) -> int | None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(theirs, base, step), daemon=True)
    with SavedWarnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads are idle, and the child starts none
        child.start()
    theirs.close()
    try:
        return int(ours.recv()) if ours.poll(seconds) else None
    except EOFError:  # the child died: out of memory, say
        return None
    finally:
        ours.close()
        child.kill()
        child.join()


def _measure(connection: Connection, base: Step, step: Step) -> None:
    """What the child does. One thread: the pool's others did not come along."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    gc.freeze()
    _give_back_at_once()
    base()
    step()
    connection.send(_difference(base, step, peak_of))


def _give_back_at_once() -> None:
    """Make the C library return freed memory to the system."""
    _allocator("mallopt", _MMAP, BLOCK)
    _allocator("mallopt", _TRIM, BLOCK)


def _allocator(function: str, *numbers: int) -> None:
    """Call a function of the C library's allocator, where there is one of that name (glibc)."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), function)(*numbers)
