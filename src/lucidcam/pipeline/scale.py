"""The same run on Ray Data: workers on one machine or many. The only file that imports Ray."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from lucidcam.errors import DataError, LucidcamError, OptionError
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.ledger import Record
from lucidcam.pipeline.plan import Unit
from lucidcam.pipeline.worker import Tell, Worker
from lucidcam.utils.optional import Loaded, import_optional

WAVE = 4096
"""Units that are handed to Ray at a time: what the driver keeps in memory."""

TRIES = 3
"""Times that a worker may die at one unit, and that Ray may give up, before the run does."""


def on_ray(job: Job, units: Iterator[Unit], tell: Tell, workers: int | None, address: str | None) -> Iterator[Record]:
    """Do units by a pool of actors, one per GPU or processor. One that dies, or whose machine does, is replaced, and its unit done again.

    The run's folder must be one that every machine reaches: a shared file system, or a URL.

    Args:
        job: what is done.
        units: taken a wave at a time.
        tell: told how many images are done.
        workers: actors; None: one per GPU of the cluster, or per processor where it has none.
        address: of the cluster ("auto", "ray://host:10001"); None: the one this process is connected to, or a new one on this machine.

    Raises:
        LucidcamError: what a worker cannot go on with.
    """
    ray = import_optional("ray", "ray", "a run on a Ray cluster")
    data = import_optional("ray.data", "ray", "a run on a Ray cluster")
    ours = not ray.is_initialized()
    if ours:
        try:
            own: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            told = f"no Ray cluster answers at {address!r} ({error}); start one (ray start --head), or leave the address out."
            raise OptionError(told) from None
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        kept = ray.put((Loaded(), job))
        pool = _Pool.of(ray.cluster_resources(), job, workers)
        while wave := list(islice(units, WAVE)):
            left = {each.number: each for each in wave}
            for again in reversed(range(TRIES)):
                try:
                    for record in _wave(data, kept, pool, list(left.values()), tell):
                        del left[record.number]
                        yield record
                    break
                except _GaveUpError:  # Ray replaces what dies at work, but not what dies while it starts
                    if not again:
                        raise
    finally:
        if ours:
            ray.shutdown()


class _GaveUpError(DataError):
    """Ray could not finish."""


@dataclass(frozen=True)
class _Pool:
    """The actors of a run: how many, and what each takes."""

    workers: int
    cpus: int
    gpus: int

    @classmethod
    def of(cls, resources: Mapping[str, float], job: Job, workers: int | None) -> _Pool:
        gpus = int(resources.get("GPU", 0))
        if gpus:
            return cls(workers or gpus, 1 + job.decoders, 1)
        each = max(1, job.threads or 1) + job.decoders
        return cls(workers or max(1, int(resources.get("CPU", 1)) // each), each, 0)


def _wave(data: Any, kept: Any, pool: _Pool, wave: Sequence[Unit], tell: Tell) -> Iterator[Record]:
    items = [{"unit": pickle.dumps(each)} for each in wave]
    records = data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=([kept],),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=min(pool.workers, len(wave))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_concurrency=2 if pool.gpus else 1,  # the next unit is read while this one is explained
        max_restarts=-1,
        max_task_retries=TRIES,
    )
    try:
        for row in records.iter_rows():
            record: Record | LucidcamError = pickle.loads(row["record"])
            if isinstance(record, LucidcamError):
                raise record
            tell(record.samples)
            yield record
    except LucidcamError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise _GaveUpError(f"Ray gave up ({lines[-1].strip()}); what was written is kept: run it again.") from error


class _Actor:
    """A worker in a process of Ray's. What it cannot go on with goes to the driver as a result: what an actor raises, Ray buries."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept[0]

    @cached_property
    def worker(self) -> Worker:
        ray = import_optional("ray", "ray", "a run on a Ray cluster")
        job: Job
        _, job = ray.get(self.kept)
        on_gpu = bool(ray.get_gpu_ids())
        died = ray.get_runtime_context().was_current_actor_reconstructed
        return Worker(
            replace(
                job,
                device="cuda:0" if on_gpu else job.device,
                threads=None if on_gpu else max(1, job.threads or 1),
                # After a death images are read in a process of their own: what kills that one is a bad file, not the run.
                decoders=max(1, job.decoders) if died else job.decoders,
            )
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        try:
            found: list[Any] = list(self.worker([pickle.loads(each) for each in batch["unit"]]))
        except LucidcamError as error:
            found = [error]
        return {"record": [pickle.dumps(each) for each in found]}
