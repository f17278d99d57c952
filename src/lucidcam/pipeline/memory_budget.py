"""How many images go through the network together, and how many workers there are, in the memory there is."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lucidcam.attribution import on_any_image, optimized_if_possible
from lucidcam.errors import OptionError
from lucidcam.pipeline.job import Job
from lucidcam.stream.explain import explain
from lucidcam.stream.explainer import LABEL
from lucidcam.utils.optional import Loaded

CPU_IMAGES = 8
"""More make no network faster on a processor, and take more memory."""

GPU_IMAGES = 256
SHARE = 0.8
"""Of a GPU's free memory; the rest is for what fragments."""

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def bytes_of(text: str | int) -> int:
    """A size in bytes.

    >>> bytes_of("1.5G") == 3 * 2**29
    True

    Raises:
        OptionError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(text).casefold())
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size <= 0:
        raise OptionError(f"expected a size of memory such as 8G or 500M; got {text!r}.")
    return size


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitted(job: Job, images: int | None, workers: int | None, limit: int | None) -> tuple[int, int]:
    """Images at once and workers that fit the memory.

    Args:
        job: what is done.
        images: asked for; None: whatever fits, at most 8 on a CPU and 256 on a GPU.
        workers: asked for; None: one per GPU, or per processor.
        limit: bytes, of all workers' processes together, or of each GPU; None: no limit on a CPU, four fifths of what is free on a GPU.

    Raises:
        OptionError: when not even one image and one worker fit.
    """
    device = job.model.device
    if device.type == "cuda":
        crew = workers or torch.cuda.device_count()
        if images is not None and limit is None:
            return images, crew
        room = limit or int(torch.cuda.mem_get_info(device)[0] * SHARE)
        one, two = (_peak_on_gpu(job, count) for count in (1, 2))
        return _images(room, one, two, images or GPU_IMAGES), crew
    crew = workers or usable_cores()
    if limit is None:
        return images or CPU_IMAGES, crew
    one, two = _peaks_on_cpu(job, (1, 3))
    two = one + (two - one) // 2
    while crew > 1 and limit // crew < one:
        crew -= 1
    return _images(limit // crew, one, two, images or CPU_IMAGES), crew


def _images(room: int, one: int, two: int, most: int) -> int:
    if room < one:
        raise OptionError(
            f"explaining one image takes {one / 2**20:.0f} MiB, and {room / 2**20:.0f} are allowed: raise max_memory (--max-memory), or "
            "use a smaller network or half precision."
        )
    return max(1, min(most, 1 + (room - one) // max(1, two - one)))


def _peak_on_gpu(job: Job, count: int) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _try(job, count)
    return torch.cuda.max_memory_allocated() - before


def _peaks_on_cpu(job: Job, counts: tuple[int, ...]) -> list[int]:
    """Highest resident memory of a worker's process, for each number of images; measured in a process that does only this."""
    context = torch.multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, Loaded(), job, counts))
    process.start()
    theirs.close()
    try:
        found: list[int] = ours.recv()
    except EOFError:
        raise OptionError("the memory of a worker could not be measured; give images_at_once and workers instead of max_memory.") from None
    finally:
        process.join()
    return found


def _measure(pipe: object, _: Loaded, job: Job, counts: tuple[int, ...]) -> None:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    peaks = []
    fast = optimized_if_possible(job.model, job.autocast)[0] if job.optimized else job.model  # a worker holds both
    for count in counts:
        _try(replace(job, model=fast), count)
        peaks.append(_highest())
    pipe.send(peaks)  # type: ignore[attr-defined]


def _highest() -> int:
    """Highest resident memory of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _try(job: Job, count: int) -> None:
    """Explain noise as a worker would."""
    noise = np.random.default_rng(0).random((256, 320, 3), np.float32)
    target = None if job.target == LABEL else job.target
    asked = job.explainer()
    with on_any_image(asked.model):
        prepared = asked.model.prepare([noise]) * count
    explain(asked.model, prepared, asked.method, target, asked.layer, **{**asked.options, "images_at_once": count, "progress": False})
