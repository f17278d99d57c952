"""What every metric is: numbers per image that add up, and the figures that are made from their sums.

A metric turns an image and its map into *records*: vectors that are summed over the data set. Its figures are functions of the sums, so
states of several workers merge by addition, thresholds are chosen over the whole data set and never per image, and a bootstrap needs
no second pass. A record belongs to a *group* (a class, a rival): metrics that average over classes give figures over groups.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lucidcam import registry
from lucidcam.engine.mixing import MixingError
from lucidcam.engine.run import Run, open_run
from lucidcam.errors import InputError
from lucidcam.imaging import maps
from lucidcam.reprs import OneLineRepr
from lucidcam.targets._as import target_of_row
from lucidcam.utils.class_scores import THRESHOLD, ClassScores, OutputKind
from lucidcam.utils.rollback import closes_scopes

Array = npt.NDArray[np.float64]
Explain = Callable[[Run], Tensor]
"""From a run with one target per image to raw maps `[B, h, w]`: the method that is judged, also on changed images or networks."""


@dataclass(frozen=True)
class Record(OneLineRepr):
    """What one image adds.

    Attributes:
        values: `[K]`, summed over images.
        group: the class, or the rival, the values are about; "" where the metric has no groups.
    """

    values: Array
    group: str = ""


@dataclass(frozen=True)
class Figure(OneLineRepr):
    """One number a metric gives.

    Attributes:
        name: in tables and files, for instance "localization_error_top1".
        unit: "%" or "".
        higher_is_better: None where neither is.
        bounds: what it lies between, infinite where there is no end; None: 0 to 100 for a figure in %, else nothing is known. What images
            that were not seen may be, its interval takes from here.
        tuned: whether it is the best over thresholds, chosen on the images that it is measured on. It is then too good, and its interval
            is one that allows for it.
    """

    name: str
    unit: str = ""
    higher_is_better: bool | None = True
    bounds: tuple[float, float] | None = None
    tuned: bool = False

    @property
    def digits(self) -> int:
        """After the point, where it is printed."""
        return 1 if self.unit == "%" else 3

    @property
    def direction(self) -> str:
        """Which figures are better, in words; "" where neither are."""
        return {True: "higher is better", False: "lower is better", None: ""}[self.higher_is_better]

    @property
    def limits(self) -> tuple[float, float]:
        """The ends of its scale, infinite where there is none."""
        return self.bounds or ((0.0, 100.0) if self.unit == "%" else (-math.inf, math.inf))


@dataclass(frozen=True)
class Curve(OneLineRepr):
    """What a figure was read from, for a plot.

    Attributes:
        name: of the plot.
        x: `[n]`.
        y: `[n]`.
        x_label: what x is.
        y_label: what y is.
    """

    name: str
    x: Array
    y: Array
    x_label: str
    y_label: str


@dataclass(frozen=True, kw_only=True)
class Metric(OneLineRepr, ABC):
    """A way to judge maps. Subclasses are final; their fields are the metric's options.

    Class attributes:
        name: the registered name.
        figures: what it gives, the main one first.
        paper: where it was defined.
        needs: what the data must have: "" (images alone), "labels" (classes per image), "boxes" or "masks".
        single: whether its figures mean something for one image; not where a threshold is chosen for the whole data set.
        exact: whether it must have the network as it is, and not a copy that gives the same scores.
    """

    name: ClassVar[str] = ""
    figures: ClassVar[tuple[Figure, ...]]
    paper: ClassVar[str]
    needs: ClassVar[Literal["", "labels", "boxes", "masks"]] = ""
    single: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    def compute(self, count: Array, sums: Array) -> Mapping[str, Array]:
        """From sums to figures, for many weightings of the images at once (the data set as it is, and bootstrap samples).

        Args:
            count: `[G, R]`: how many images (with fractions or repeats) each group has under each weighting.
            sums: `[G, R, K]`: sums of the records' values.

        Returns:
            Each figure by name `[R]`; NaN where nothing counted. By default the means of the values over all images, groups together.
        """
        total, n = sums.sum(0), count.sum(0)
        means = divide(total, n[:, None])
        return {figure.name: means[:, i] for i, figure in enumerate(self.figures)}

    def curves(self, count: Array, sums: Array) -> Sequence[Curve]:
        """Curves behind the figures, from `count` `[G]` and `sums` `[G, K]`; none by default."""
        return ()


@dataclass(frozen=True, eq=False)
class Batch(OneLineRepr):
    """Images, one target each, and a method's maps of them: what a faithfulness metric judges.

    Attributes:
        run: the network in a session, the images in its input space, and the target: one class logit per image.
        maps: the method's raw maps `[B, h, w]`, float32 or float64, on the images' device.
        explain: the method itself, for metrics that ask it about changed images or networks.
        black: what a black pixel is in the network's input space, `[C]`, one number per channel.
        names: of the images, for random draws that do not depend on the batch.
        cache: what metrics share, so that the network is asked once.
    """

    run: Run
    maps: Tensor
    explain: Explain
    black: Tensor
    names: tuple[str, ...]
    cache: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def resized(self) -> Tensor:
        """The maps in the images' size `[B, H, W]`, bilinear."""
        height, width = self.run.inputs.size
        return maps.resize(self.maps, (height, width))

    @cached_property
    def unit(self) -> Tensor:
        """The resized maps, each min-maxed to [0, 1] `[B, H, W]`; a flat map becomes 0."""
        return maps.unit(self.resized)

    @cached_property
    def probability(self) -> Run:
        """The same question, about the class's probability (`lucidcam.utils.class_scores`)."""
        return self.run.as_probability()

    @cached_property
    def clean(self) -> Tensor:
        """The class's probability for the images as they are, `[B]`."""
        return self.probability.clean_scores()[:, 0]


@dataclass(frozen=True, kw_only=True)
class FaithfulnessMetric(Metric):
    """A metric that asks the network about masked images, or the method about changed ones."""

    @abstractmethod
    def measure(self, batch: Batch) -> Tensor:
        """Return one record per image, `[B, K]`: independent of the other images of the batch."""

    @closes_scopes
    def __call__(
        self,
        module: torch.nn.Module,
        inputs: Any,
        maps: Tensor | None = None,
        *,
        target: Any = None,
        explain: Callable[[torch.nn.Module, Tensor, Tensor], Tensor] | None = None,
        black: float | Sequence[float] | Tensor = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
        outputs: OutputKind | None = None,
        threshold: float = THRESHOLD,
    ) -> dict[str, Tensor]:
        """Judge maps of pre-processed images.

        Args:
            module: the network; it comes back as it was.
            inputs: what it takes, `[B, C, H, W]`.
            maps: `[B, h, w]`, of any size; None: made by `explain`.
            target: the class each map is of: None (predicted), an int, or `[B]`.
            explain: for metrics that ask the method again: `(module, images [B, C, H, W], classes [B]) → maps [B, h, w]`, for instance
                `lambda module, images, classes: lucidcam.attribute(module, images, "gradcam", target=classes)`.
            black: a black pixel in the network's input space, one number or one per channel: `(0 − mean) / std` for normalised inputs.
            batch_size: masked images at a time.
            seed: of random draws.
            outputs: what the network's outputs mean, see `lucidcam.wrap`; None: found by value.
            threshold: of one output column: the probability above which its class is predicted.

        Returns:
            Each figure by name, one value per image `[B]`, float64.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "stated": ClassScores(outputs, threshold=threshold)}
        try:
            values = self._records(module, inputs, maps, target, explain, black, options)
        except MixingError as error:  # its images go through the network one by one
            together, count = error.inputs, error.inputs.batch
            values = torch.cat(
                [
                    self._records(
                        module,
                        together.rows(slice(i, i + 1)),
                        maps[i : i + 1] if maps is not None and len(maps) == count else maps,
                        target_of_row(target, i, count),
                        explain,
                        black,
                        options,
                        first=i,
                    )
                    for i in range(count)
                ]
            )
        single = self.compute(np.ones((1, len(values))), values.numpy()[None])
        return {name: torch.from_numpy(np.asarray(figure)) for name, figure in single.items()}

    @closes_scopes
    def _records(
        self,
        module: torch.nn.Module,
        inputs: Any,
        maps: Tensor | None,
        target: Any,
        explain: Callable[[torch.nn.Module, Tensor, Tensor], Tensor] | None,
        black: float | Sequence[float] | Tensor,
        options: dict[str, Any],
        first: int = 0,
    ) -> Tensor:
        """One record per image, `[B, K]`, float64; images are called by their numbers, from `first` on."""
        with open_run(module, inputs, target, title=self.name, **options) as run:
            classes = run.bound.ids
            if classes is None or classes.shape[1] != 1:
                raise InputError(f"{self.name} judges one class per image: give target as None, an int or [B] class ids.")
            asked = explainer(self.name, explain)
            found = asked(run) if maps is None else torch.as_tensor(maps, device=run.image.device)
            found = found.to(run.image.device)
            if found.ndim != 3 or len(found) != len(run.image):
                raise InputError(f"expected maps [{len(run.image)}, h, w], one per image; got {list(found.shape)}.")
            if not bool(torch.isfinite(found).all()):
                raise InputError(f"{self.name}: the maps hold NaN or infinite values.")
            level = torch.as_tensor(black, dtype=run.image.dtype, device=run.image.device).flatten().expand(run.image.shape[1])
            wide = found if found.dtype == torch.float64 else found.float()
            names = tuple(str(first + i) for i in range(len(found)))
            return self.measure(Batch(run, wide, asked, level, names)).cpu().double()


@dataclass(frozen=True, kw_only=True)
class MosaicMetric(Metric):
    """A metric that asks about mosaics of several images, each cell with a class of its own.

    Attributes:
        confidence: the smallest probability that the network gives its predicted class in an image that takes part.
    """

    confidence: float = 0.5

    @abstractmethod
    def choose(self, images: Sequence[tuple[str, int, float]], seed: int) -> list[list[int]]:
        """Choose which images go together, by name, predicted class and its probability; numbers of images, mosaic by mosaic."""

    @abstractmethod
    def assemble(self, images: Sequence[Tensor], module: torch.nn.Module) -> Tensor:
        """One mosaic `[C, H, W]` of images `[C, h, w]`, in a size that the network takes."""

    @abstractmethod
    def measure(self, maps: Tensor) -> Tensor:
        """Return one record per cell, `[cells, K]`, from the maps of one mosaic for each cell's class, `[cells, H, W]` in its size."""


def explainer(name: str, explain: Callable[[torch.nn.Module, Tensor, Tensor], Tensor] | None) -> Explain:
    """From what a user gives to ask a method with, to what a metric asks."""

    def asked(run: Run) -> Tensor:
        if explain is None:
            raise InputError(f"{name} asks the method again: give explain=lambda module, images, classes: maps [B, h, w].")
        assert run.bound.ids is not None
        return explain(run.module, run.image, run.bound.ids[:, 0])

    return asked


@runtime_checkable
class Comparative(Protocol):
    """A metric that sets methods against each other: `measure` gives what they are compared by, and no record yet."""

    def against(self, own: Array, rival: Array) -> Array:
        """How one fares against another, `[B]`: the values of a record whose group is the rival."""


def divide(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


def mean_over_groups(values: Array) -> Array:
    """Average `[G, R]` over the groups that have a value; NaN where none has."""
    return divide(np.nansum(values, axis=0), np.isfinite(values).sum(0).astype(np.float64))


M = TypeVar("M", bound=type[Metric])


def register(name: str) -> Callable[[M], M]:
    """Register a metric under `name`."""
    return registry.metrics.register_class(name)
