"""M-CAM (Kim & Ro, "M-CAM: Visual Explanation of Challenging Conditioned Dataset with Bias-reducing Memory", BMVC 2021)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lucidcam.engine.run import Run
from lucidcam.errors import LayerError, ModelError, OptionError, TargetError
from lucidcam.methods._base import Method, register, spatial_mean, weighted_sum
from lucidcam.nn.memory import Belongs, Memory
from lucidcam.utils.fingerprint import fingerprint


@register("mcam")
@dataclass(frozen=True, kw_only=True)
class MCAM(Method):
    """Channel weights from a memory of what each class's features look like (Kim & Ro 2021, section 3.3).

    `weights="slot"`, as published: `n_c` is the slot whose key, replaced by noise, lowers the memory's score of the class most;
    `w_k = exp cos(f_k, S_{n_c,k})` over the positions of channel k; `M = Σ_k w_k f_k`. The published text leaves S's shape and that axis
    to the reader; this is the reading that fits its equations. The weights lie in [1/e, e], so that the map stays near `Σ_k f_k`.

    Two forms go beyond the paper. With a memory that was trained with label-decorrelated sampling they tell apart objects that always
    occur together, which the published form does not (see the page about M-CAM):

    `weights="gradient"`: Grad-CAM through the memory's classifier, `w_k = mean_u ∂z_c/∂f_k(u)`, `M = ReLU(Σ_k w_k f_k)`.

    `weights="evidence"`: what each place adds to the memory's score, above the average place: `M = ReLU(M_c(u) − mean_u M_c(u))` with
    `mean_u M_c(u) + bias = z_c`. Needs a memory that reads places.

    Needs a memory of `lucidcam train memory` for this very network; it looks at the layer the memory was trained on.

    Attributes:
        memory: the memory's file, or a `lucidcam.nn.Memory`.
        weights: "slot" (the paper), "gradient" or "evidence".
        draws: how many times noise is drawn in the slot search; scores are averaged.
    """

    kind = "activation"
    paper = "Kim 2021"
    cost = "1 forward; needs a memory"

    memory: str | Path | Memory | None = None
    weights: Literal["slot", "gradient", "evidence"] = "slot"
    draws: int = 1

    def __post_init__(self) -> None:
        if self.weights not in ("slot", "gradient", "evidence"):
            raise OptionError(f"mcam: expected weights 'slot', 'gradient' or 'evidence'; got {self.weights!r}.")
        if self.draws < 1:
            raise OptionError(f"mcam: expected draws ≥ 1; got {self.draws}.")

    @cached_property
    def loaded(self) -> Memory:
        """The memory."""
        if self.memory is None:
            raise OptionError(
                "mcam needs a memory: train one with `lucidcam train memory DATA --model …`, then give memory=FILE (--memory)."
            )
        return self.memory if isinstance(self.memory, Memory) else Memory.load(self.memory)

    @property
    def _belongs(self) -> Belongs:
        if self.loaded.belongs is None:
            raise OptionError("mcam: this memory does not say which network it belongs to: set memory.belongs.")
        return self.loaded.belongs

    def layer_of(self, module: nn.Module, asked: Any, usual: str | None = None) -> Any:
        """The memory's layer.

        Raises:
            ModelError: the memory was trained on another network.
            LayerError: another layer was asked for.
        """
        belongs = self._belongs
        if fingerprint(module) != belongs.encoder:
            raise ModelError(
                f"this memory belongs to another network ({belongs.name}, fingerprint {belongs.encoder}); this one has "
                f"{fingerprint(module)}. Load the network it was trained with, in the same dtype (lucidcam.optimize takes bfloat16), or "
                "train a memory for this one."
            )
        if asked not in (None, belongs.layer, [belongs.layer], (belongs.layer,)):
            raise LayerError(f"mcam looks at the layer its memory was trained on, {belongs.layer!r}; leave the layer out.")
        return belongs.layer

    def identity(self) -> dict[str, Any]:
        """See `Method.identity`: the file of a memory may be written anew."""
        return {"memory_weights": fingerprint(self.loaded)}

    def maps(self, run: Run) -> Tensor:
        """See `Method.maps`."""
        features = run.capture().activations
        memory = self.loaded
        if memory.key.device != features.device or memory.key.dtype != features.dtype:
            memory = copy.deepcopy(memory).to(features.device, features.dtype)
        if features.shape[2] != memory.key.shape[1]:
            raise ModelError(f"mcam: the memory has {memory.key.shape[1]} channels, the layer {run.layer.name!r} {features.shape[2]}.")
        classes = self._classes(run)
        maps = features[:, 0]
        if self.weights == "gradient":
            return weighted_sum(spatial_mean(memory.gradients(maps, classes)), features).relu()
        with torch.no_grad():
            if self.weights == "evidence":
                evidence = memory.evidence(maps)[torch.arange(len(classes), device=classes.device)[:, None], classes]
                return (evidence - evidence.mean((-2, -1), keepdim=True)).relu()
            noise = torch.randn(self.draws, *memory.key.shape, generator=run.generator(), device=maps.device, dtype=maps.dtype)
            slots = memory.search(maps, noise).gather(1, classes)
            return weighted_sum(memory.slot_weights(maps, slots), features)

    def _classes(self, run: Run) -> Tensor:
        """The memory's classes that are asked for, `[B, T]`."""
        if run.bound.ids is None:
            raise TargetError("mcam explains classes that its memory knows; give a class id or label as target.")
        ids = run.bound.ids[:, run.targets]
        known = torch.tensor(self._belongs.ids, device=ids.device)
        hits = ids[..., None] == known
        if not bool(hits.any(-1).all()):
            stranger = int(ids[~hits.any(-1)][0])
            shown = ", ".join(f"{i} ({label})" for i, label in list(zip(self._belongs.ids, self._belongs.labels))[:8])
            raise TargetError(f"mcam: class {stranger} is none of the memory's {len(known)}: {shown}; give one of them as target.")
        return hits.int().argmax(-1)
