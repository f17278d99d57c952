"""One worker: units of samples in, files out. The same on this machine and on a cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace

import torch

from lucidcam import registry
from lucidcam.attribution import given_up, optimized_if_possible
from lucidcam.engine.activation_cache import recalling
from lucidcam.evaluation.journal import Part
from lucidcam.io.storage import digest_of, open_store
from lucidcam.pipeline.cache import Activations, Cache
from lucidcam.pipeline.hands import Hands, Task
from lucidcam.pipeline.index import encoded
from lucidcam.pipeline.job import Job
from lucidcam.pipeline.labels import lines
from lucidcam.pipeline.ledger import Record
from lucidcam.pipeline.map_writer import Finished, Made, Read, finish, is_safe, made, read
from lucidcam.pipeline.metrics import judged, measure, name_of
from lucidcam.pipeline.plan import Unit
from lucidcam.pipeline.trial import Trial
from lucidcam.samples import Problem, Sample
from lucidcam.stream.explainer import Explained, Ready
from lucidcam.stream.problems import prepare
from lucidcam.types import Prepared
from lucidcam.utils.fingerprint import architecture
from lucidcam.utils.rollback import closes_scopes

Tell = Callable[[int], None]
Samples = tuple[Sample | Problem, ...]


@dataclass(eq=False)
class _Shard:
    """What a unit gave so far: maps that are being finished, problems by the number of the sample, records of metrics."""

    unit: Unit
    finishing: list[Task[list[Made], tuple[list[Finished], list[tuple[int, Problem]]]]] = field(default_factory=list)
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    images: int = 0


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Samples that go through the network together; `first` is the number of the first one in the data set."""

    shard: _Shard
    first: int
    samples: Samples
    last: bool


class _Chunks(Iterator[tuple[_Chunk, Samples]]):
    """The samples of units, a few at a time; `ready` tells whether the next are there without waiting for a unit."""

    def __init__(self, units: Iterable[Unit], size: int, unit_ready: Callable[[], bool]) -> None:
        self._units, self._size, self._unit_ready = iter(units), size, unit_ready
        self._shard: _Shard | None = None
        self._start = 0

    def ready(self) -> bool:
        return self._shard is not None or self._unit_ready()

    def __next__(self) -> tuple[_Chunk, Samples]:
        if self._shard is None:
            self._shard, self._start = _Shard(next(self._units)), 0
        shard, start = self._shard, self._start
        some = shard.unit.samples[start : start + self._size]
        self._start += self._size
        last = self._start >= len(shard.unit.samples)
        if last:
            self._shard = None
        return _Chunk(shard, shard.unit.start + start, some, last), some


class Worker:
    """Explains units, one after the other, and writes what they give.

    Args:
        job: what is done.
        alone: nobody replaces this process, should an image kill it: images are tried beside it.

    Raises:
        LucidcamError: what is asked for is wrong, whatever the images.
    """

    def __init__(self, job: Job, alone: bool = False) -> None:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job = job
        self.store = open_store(job.out)
        if job.device is not None:
            job.model.to(job.device)
        fast, self.note = optimized_if_possible(job.model, job.autocast) if job.optimized else (job.model, None)
        self.explainer = job.explainer(fast)
        self.asking = self.explainer.asking()
        self.packs = [registry.packs[name]() for name in job.packs]
        network = f"{job.model.fingerprint()} {architecture(job.model.module)} {job.optimized} {job.autocast} {job.model.dtype}"
        self.activations = None if job.cache is None else Activations(Cache(job.cache), network)
        self.measure = measure(job, self.explainer.model, self.asking) if job.metrics else None
        self.hands = Hands(job.decoders, job.without_network())
        self.trial: Trial | None = None
        if alone and not job.decoders:
            without = replace(job.without_network(), cache=None)
            self.trial = Trial(lambda sample: prepare(without.model, sample))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.hands.close()
        if self.trial is not None:
            self.trial.close()

    def __call__(self, units: Iterable[Unit], tell: Tell = lambda _: None, ready: Callable[[], bool] = lambda: True) -> Iterator[Record]:
        """Explain and write units; each record comes when all of its unit is written.

        Args:
            units: taken one by one, some ahead of time.
            tell: told how many images are done, as they are.
            ready: whether the next unit is there, or has to be waited for.

        Raises:
            LucidcamError: what is asked for is wrong, whatever the images; or nothing can be written.
        """
        with ThreadPoolExecutor(1) as writer:
            writing: deque[Future[Record]] = deque()
            chunks = _Chunks(units, self.job.images_at_once, ready)
            for chunk, found in self.hands.ahead(read, self._tried(chunks), self._salvaged, chunks.ready):
                self._explain(chunk, found.unpacked())
                tell(len(chunk.samples))
                if chunk.last:
                    writing.append(writer.submit(self._write, chunk.shard))
                while writing and (len(writing) > 1 or writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()

    def _tried(self, chunks: _Chunks) -> Iterator[tuple[_Chunk, Samples]]:
        """Where this process reads the images itself: with problems in the place of those that would kill it.

        The next chunk, where it is there, is tried while this process is at the one before.
        """
        if self.trial is None:
            yield from chunks
            return
        following = self._on_trial(chunks)
        while following is not None:
            chunk, samples, doubtful = following
            alive = dict(zip(doubtful, self.trial.survivors(), strict=True))
            following = self._on_trial(chunks) if (early := chunks.ready()) else None
            yield chunk, tuple(each if alive.get(i, True) else _deadly(each) for i, each in enumerate(samples))
            if not early:
                following = self._on_trial(chunks)

    def _on_trial(self, chunks: _Chunks) -> tuple[_Chunk, Samples, list[int]] | None:
        """The next chunk, begun to be tried, and the places of the images that are; None: there is none."""
        assert self.trial is not None
        chunk, samples = next(chunks, (None, ()))
        if chunk is None:
            return None
        doubtful = [i for i, each in enumerate(samples) if not is_safe(self.job, each)]
        self.trial.begin([samples[i] for i in doubtful])
        return chunk, samples, doubtful

    @closes_scopes
    def _explain(self, chunk: _Chunk, prepared: Sequence[Prepared | Problem]) -> None:
        shard = chunk.shard
        ready: list[Ready] = []
        for number, (sample, found) in enumerate(zip(chunk.samples, prepared, strict=True), chunk.first):
            asked = self._asked(sample, found, number)
            if isinstance(asked, Problem):
                shard.problems.append((number, asked))
            else:
                ready.append(asked)
        with recalling(self.activations):
            done = self._explained(ready, shard)
            if self.measure is not None:
                numbers = {each.number for each in done}
                part, lost = judged(self.measure, [each for each in ready if each.number in numbers])
                shard.parts.append(part)
                shard.problems += lost
        shard.images += len(done)
        maps = [each for explained in done for each in made(self.job, explained)]
        # Where reading is what all wait for, this process has the time to finish maps.
        shard.finishing.append(self.hands.here(finish, maps) if self.hands.behind else self.hands.begin(finish, maps))

    def _explained(self, ready: list[Ready], shard: _Shard) -> list[Explained]:
        def failed(one: Ready, problem: Problem) -> None:
            shard.problems.append((one.number, problem))

        return self.explainer.explained(ready, failed)

    def _asked(self, sample: Sample | Problem, prepared: Prepared | Problem, number: int) -> Ready | Problem:
        if isinstance(sample, Problem):
            return sample
        if isinstance(prepared, Problem):
            return prepared
        try:
            fitted = sample.fitted(prepared.frame.width, prepared.frame.height)
        except Exception as error:  # a box outside the image, say
            return Problem.of(sample.name, error)
        if self.asking.fixed is None and not sample.labels:
            return Problem(sample.name, f"{sample.name}: the data tells no class of it, and the target is the label.")
        if self.job.labels and not isinstance(sample.image, (str, os.PathLike)):
            return Problem(sample.name, f"{sample.name}: label formats refer to image files, and this is none.")
        return self.asking.ready(fitted, prepared, self.explainer.model, number)

    def _write(self, shard: _Shard) -> Record:
        """Write all files of a unit, its record last: without it the unit counts as not begun."""
        unit = shard.unit
        results = [task.result() for task in shard.finishing]
        found = [each for finished, _ in results for each in finished]
        problems = [*shard.problems, *(each for _, lost in results for each in lost)]
        files: dict[str, str] = {}

        def write(name: str, content: bytes) -> None:
            self.store.write(name, content)
            files[name] = digest_of(content)

        packable = [each.packable for each in found]
        for pack in self.packs if packable else ():
            for name, content in pack.files(unit.number, packable):
                write(name, content)
        if self.measure is not None:
            write(name_of(unit.number), Part.joined(shard.parts).encoded())
        if self.job.labels:
            write(f"labels/{unit.number:06d}.jsonl", lines(unit, found))
        write(f"index/{unit.number:06d}.parquet", encoded([each.row for each in found]))
        failed = tuple((number, problem.name, problem.error) for number, problem in sorted(problems, key=lambda pair: pair[0]))
        notes = (self.note, given_up(self.explainer.model), None if self.activations is None else self.activations.note)
        record = Record(
            number=unit.number,
            start=unit.start,
            samples=len(unit.samples),
            identity=unit.identity(),
            usable=unit.identity({number for number, _, _ in failed}),
            images=shard.images,
            maps=len(found),
            failures=failed,
            files=files,
            notes=tuple(f"explained {note}" for note in notes if note is not None),
        )
        record.write(self.store)
        return record

    def _salvaged(self, samples: Samples) -> Read:
        """Images one by one, each read by a process of its own; one that kills it is a problem."""
        found: list[Prepared | Problem] = []
        for each in samples:
            try:
                found += self.hands.alone(read, (each,)).unpacked()
            except BrokenProcessPool:
                found.append(_deadly(each))
        return Read.packed(found)


def _deadly(sample: Sample | Problem) -> Problem:
    return Problem(sample.name, f"{sample.name}: the process that read it died; look at the file.")
