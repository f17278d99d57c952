"""What a network makes of a bank: three numbers for each image and channel, and where channels and concepts overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidcam.attribution import on_any_image
from lucidcam.dissection.bank import Bank
from lucidcam.dissection.channel_names import strength
from lucidcam.dissection.iou import Overlap, Peaks
from lucidcam.engine.run import Run, open_run
from lucidcam.errors import DataError, LayerError
from lucidcam.samples import Problem, Sample
from lucidcam.stats.ranks import Truth, Values
from lucidcam.stream.problems import prepare
from lucidcam.types import Model, Prepared
from lucidcam.utils.progress import bar
from lucidcam.utils.rollback import closes_scopes

AT_ONCE = 16
"""Images that go through the network together."""

POOLS = ("mean", "max")
"""How a channel's map becomes one value of an image."""


class Seen:
    """What a network makes of a bank, a few images at a time."""

    def __init__(self, model: Model, bank: Bank, layer: Any, progress: bool | None) -> None:
        self.model = model
        self.bank = bank
        self.asked = layer
        self.progress = progress
        self.layer = ""
        self.problems: list[Problem] = []
        self.peaks: Peaks | None = None

    def values(self, quantile: float) -> tuple[dict[str, Values], Truth]:
        """The pools and the strength `[n, C]`, and which concepts each image shows `[n, K]`."""
        pooled: dict[str, list[Tensor]] = {pool: [] for pool in (*POOLS, "strength")}
        truth = []
        for samples, _, maps in self._maps("naming channels"):
            flat = maps.flatten(2)
            pooled["mean"].append(flat.mean(-1).double().cpu())
            pooled["max"].append(flat.amax(-1).double().cpu())
            pooled["strength"].append(strength(maps).double().cpu())
            if self.peaks is None:  # data that do not say how many they are have to be counted first
                self.peaks = Peaks(quantile, self.bank.data.count or sum(1 for _ in self.bank.data))
            self.peaks.see(flat)
            truth += [[name in sample.labels for name in self.bank.concepts] for sample in samples]
        if not truth:
            first = f": {self.problems[0].error}" if self.problems else "."
            raise DataError(f"{self.bank.name}: no image could be used{first}")
        return {pool: torch.cat(found).numpy() for pool, found in pooled.items()}, np.array(truth, bool)

    def overlap(self, wanted: Truth) -> Any:
        """IoU `[C, K]` on the images that are wanted; NaN for concepts without masks, None where there are no masks at all."""
        if self.peaks is None or not self._has_masks():
            return None
        counted = Overlap(self.bank.concepts, self.bank.kinds, self.peaks.thresholds())
        problems, self.problems = self.problems, []
        for samples, prepared, maps in self._maps("overlaps", wanted):
            counted.see(samples, prepared, maps)
        self.problems = problems
        return counted.iou()

    def _has_masks(self) -> bool:
        return any(isinstance(sample, Sample) and any(each.mask for each in sample.objects) for sample in self.bank.data)

    def _maps(self, title: str, wanted: Truth | None = None) -> Iterator[tuple[list[Sample], list[Prepared], Tensor]]:
        """Activations `[n, C, h, w]` of some samples at a time: of all that can be used, or of those of them that are wanted."""
        waiting: list[tuple[Sample, Prepared]] = []
        usable = -1
        with bar(self.bank.data.count, title, self.progress) as advance:
            for sample in self.bank.data:
                if isinstance(sample, Problem):
                    self.problems.append(sample)
                    continue
                prepared = prepare(self.model, sample)
                if isinstance(prepared, Problem):
                    self.problems.append(prepared)
                    continue
                usable += 1
                if wanted is not None and not wanted[usable]:
                    continue
                most = 1 if self.model.task is not None else AT_ONCE
                if waiting and (len(waiting) >= most or prepared.tensor.shape != waiting[0][1].tensor.shape):
                    yield self._run(waiting)
                    advance(len(waiting))
                    waiting = []
                waiting.append((sample, prepared))
            if waiting:
                yield self._run(waiting)
                advance(len(waiting))

    @closes_scopes
    def _run(self, waiting: list[tuple[Sample, Prepared]]) -> tuple[list[Sample], list[Prepared], Tensor]:
        samples, prepared = [each for each, _ in waiting], [each for _, each in waiting]
        with on_any_image(self.model), _opened(self.model, torch.stack([each.tensor for each in prepared]), self.asked) as run:
            maps = run.capture().activations[:, 0]
            if maps.ndim != 4:
                raise LayerError(
                    f"the layer {run.layer.name!r} has maps of {maps.ndim - 2} axes; channels are named where maps are [h, w]."
                )
            self.layer = run.layer.name
        return samples, prepared, maps


@closes_scopes
def layer_of(model: Model, layer: Any = None) -> str:
    """The dotted name of the layer whose channels are named: as asked for, or the model's own, or the last spatial one."""
    with on_any_image(model), _opened(model, model.prepare(np.zeros((256, 256, 3), np.uint8))[0].tensor[None], layer) as run:
        return run.layer.name


def _opened(model: Model, images: Tensor, layer: Any) -> AbstractContextManager[Run]:
    inputs: Any = images.to(model.device, model.dtype)
    if model.task is not None:
        inputs = model.task.example(inputs, model)
    return open_run(model.module, inputs, layer=model.layer if layer is None else layer, progress=False, stated=model.class_scores)
