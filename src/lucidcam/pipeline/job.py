"""What is done with every unit of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lucidcam import registry
from lucidcam.localization.regions import Regions
from lucidcam.methods._base import Method
from lucidcam.stream.explainer import Explainer
from lucidcam.types import Model


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """What is done with every unit; it travels to the workers.

    Attributes:
        out: the run's folder, a path or a URL.
        model: the network.
        method: as for `lucidcam.explain`, like `target`, `layer` and `options`.
        target: see `Explainer`.
        layer: where.
        class_map: see `Explainer`.
        options: of the method.
        packs: names of the formats that maps are kept in.
        metrics: what the maps are judged by, as for `lucidcam.evaluate`.
        labels: whether boxes and masks are written down.
        regions: what counts as a thing; its threshold is that of the index's box.
        images_at_once: images that go through the network together.
        optimized: on a faster copy that gives the same scores.
        autocast: the precision that the copy computes in; None: its own.
        device: where the network goes; None: where it is.
        threads: of torch; None: as many as it takes by itself.
        decoders: processes that read images and finish maps; 0: the worker does it.
        cache: a folder for what other runs over the same images can use; None: nothing is kept.
    """

    out: str
    model: Model
    method: str | Method
    target: Any = None
    layer: Any = None
    class_map: Any = None
    options: Mapping[str, Any]
    packs: tuple[str, ...] = ("npz",)
    metrics: tuple[Any, ...] = ()
    labels: bool = False
    regions: Regions
    images_at_once: int
    optimized: bool = True
    autocast: torch.dtype | None = None
    device: str | None = None
    threads: int | None = None
    decoders: int = 0
    cache: str | None = None

    @property
    def pictures(self) -> bool:
        """Whether overlays are drawn."""
        return any(registry.packs[name].pictures for name in self.packs)

    @property
    def photos(self) -> bool:
        """Whether finishing a map takes the photo itself."""
        return self.pictures or bool(self.regions.refine)

    def explainer(self, model: Model | None = None) -> Explainer:
        """What is asked of every sample, of the model or of a copy of it."""
        return Explainer(model or self.model, self.method, self.target, self.layer, self.class_map, self.options)

    def without_network(self) -> Job:
        """For processes that do not run it."""
        return replace(self, model=replace(self.model, module=nn.Identity()))
