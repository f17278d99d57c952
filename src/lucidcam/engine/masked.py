"""Streams of forward passes: masked inputs, or substituted activations, in batches that fit the memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.capture import Cut
from lucidcam.engine.foreign import out_of_memory, says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import hooks
from lucidcam.engine.trace import batch_of, replace_first, run_forward, tensors_of, trace
from lucidcam.reprs import OneLineRepr
from lucidcam.utils.progress import SLOW, Bar, listener, open_bar, shows_bars
from lucidcam.utils.rollback import Scope


@dataclass
class Stream(OneLineRepr):
    """Runs a function over a range of rows, a batch at a time.

    Attributes:
        batch: rows at a time; halved, for good, when the device runs out of memory.
        progress: show a progress bar on streams that take longer than two seconds; None: in a terminal or notebook.
        title: what the bar says.
    """

    batch: int
    progress: bool | None = None
    title: str = "explaining"
    _bar: Bar | None = field(default=None, repr=False)
    _inside: bool = field(default=False, repr=False)

    def run(self, count: int, step: Callable[[slice], Tensor], times: int = 1) -> Tensor:
        """Return the rows of `step(slice)` for all of `range(count)`, concatenated.

        Args:
            count: how many rows.
            step: makes some of them.
            times: how many of these rows take the place of one of a batch.

        Raises:
            torch.OutOfMemoryError: when not even one row fits.
        """
        found: list[Tensor] = []
        start = 0
        size = self.batch * times
        with self._watched(count) as tell:
            while start < count:
                rows = slice(start, min(start + size, count))
                try:
                    found.append(step(rows))
                except (RuntimeError, MemoryError) as error:
                    if size == 1 or not out_of_memory(error):
                        raise
                    size = max(1, min(size, rows.stop - rows.start) // 2)
                    self.batch = max(1, size // times)
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    continue
                start = rows.stop
                tell(start)
        return torch.cat(found)

    def steps(self, count: int) -> Iterator[int]:
        """Yield `range(count)` under the same progress bar; streams run meanwhile show none of their own."""
        with self._watched(count) as tell:
            for i in range(count):
                yield i
                tell(i + 1)

    @contextmanager
    def _watched(self, count: int) -> Iterator[Callable[[int], None]]:
        """Yield a function to tell how much is done; it shows a bar once that takes long, unless another one is on the screen."""
        wanted = shows_bars() if self.progress is None else self.progress
        began = time.monotonic()
        bar: Bar | None = None
        hear, inside = listener(), self._inside
        self._inside = inside or count > 1  # one step alone tells nothing; what runs in it does

        def end() -> None:
            self._inside = inside
            if bar is not None:
                bar.close()
                self._bar = None

        def tell(done: int) -> None:
            nonlocal bar
            if hear is not None:
                hear(None if inside or count == 1 else done / count)
            if bar is None and wanted and self._bar is None and done < count and time.monotonic() - began >= SLOW:
                bar = self._bar = open_bar(count, self.title)
            if bar is not None:
                bar.update(done)

        with Scope() as scope:
            scope.undo(end)
            yield tell


class Substitute:
    """Runs the network above a layer on other activations of one image.

    One image goes in, the layer's hook hands n activations to the rest of the network: the part below runs once. Where the layer sits in
    a branch that is concatenated with others of the one image, that fails or gives something else: it is tried once against n
    copies of the image, which are then used for good.
    """

    def __init__(self, module: nn.Module, kept: Cut, inputs: Inputs) -> None:
        self.module = module
        self.batch = batch_of(module, inputs)
        self.count = inputs.batch
        self.kept = kept
        calls = trace(module, inputs).calls
        places = [i for i, call in enumerate(calls) if call.name == kept.layer.name]
        self.call = len(places) - 1 if kept.layer.call is None else kept.layer.call
        sizes = [0 if call.shape is None else prod(call.shape[1:]) for call in calls]
        self._lighter = max(1, max(sizes) // max(1, *sizes[places[self.call] :]))
        self._copies: bool | None = None if self.batch is None else True

    def times(self, one: Inputs, tensor: Tensor, maps: Tensor) -> int:
        """How many rows above the layer take the memory of one that runs through the whole network.

        Args:
            one: as for `outputs`, like `tensor`.
            tensor: its layer's output.
            maps: any one activation to put there `[1, C, *grid]`.
        """
        if self._copies is None:
            layout = self.kept.layout
            try:
                self._copies = not self._agrees(one, layout.from_maps(torch.cat([layout.to_maps(tensor), maps]), tensor))
            except Exception as error:
                if says_nothing(error):
                    raise
                self.fix_batch()
        return 1 if self._copies else self._lighter

    def fix_batch(self) -> None:
        """Run as many copies at a time from now on as there are images: the module takes no other number."""
        self.batch, self._copies = self.count, True

    def outputs(self, one: Inputs, tensor: Tensor, maps: Tensor) -> Any:
        """Return the module's outputs (n rows) with the layer's maps replaced.

        Args:
            one: a single image's inputs.
            tensor: the layer's own output for that image `[1, …]`.
            maps: activations to use instead `[n, C, *grid]`.
        """
        self.times(one, tensor, maps[:1])
        return self._forward(one, self.kept.layout.from_maps(maps, tensor), len(maps) if self._copies else 1)

    def _forward(self, one: Inputs, values: Tensor, copies: int) -> Any:
        seen = 0

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            nonlocal seen
            seen += 1
            return replace_first(output, values.clone()) if seen - 1 == self.call else None

        if copies > 1:
            one = one.rows(torch.zeros(copies, dtype=torch.long, device=values.device))
        with hooks([(self.kept.layer.module, hook)]):
            return run_forward(self.module, one)

    def _agrees(self, one: Inputs, values: Tensor) -> bool:
        try:
            got = tensors_of(self._forward(one, values, 1))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if says_nothing(error):
                raise
            return False
        expected = tensors_of(self._forward(one, values, 2))
        return len(got) == len(expected) and all(alike(a, b) for a, b in zip(got, expected, strict=True))


def alike(got: Tensor, expected: Tensor) -> bool:
    """Whether two outputs agree, up to the rounding of their precision."""
    if got.shape != expected.shape:
        return False
    loose = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((got - expected).abs().max() <= loose * max(float(expected.abs().max()), 1e-12))
