"""Embeddings: how similar an image's is to others, of texts or of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target, kind_of, part


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """`scale · cos(embedding, reference)`: why an image is near a text (CLIP), or near another image (retrieval, faces).

        >>> outputs = torch.tensor([[3.0, 4.0]])
        >>> Similarity(torch.tensor([1.0, 0.0])).bind(outputs, 1).scores(outputs)
        tensor([[0.6000]])

    Args:
        reference: `[D]`, or `[T, D]` for T targets. The module returns embeddings `[B, D]`, or an object or mapping with `image_embeds`,
            `embeddings` or `pooler_output`.
        scale: CLIP's temperature, say.
        names: the targets in words.
    """

    reference: Tensor
    scale: float = 1.0
    names: Sequence[str] | None = None

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        found = _embedding(outputs)
        reference = torch.as_tensor(self.reference).detach()
        if reference.ndim not in (1, 2) or reference.shape[-1] != found.shape[1] or not reference.is_floating_point() or not len(reference):
            raise TargetError(f"expected references [D] or [T, D] with D = {found.shape[1]}, the model's; got {list(reference.shape)}.")
        if not bool((reference.norm(dim=-1) > 0).all()):
            raise TargetError("a reference embedding of zeros is similar to nothing.")
        every = F.normalize(reference.reshape(-1, reference.shape[-1]), dim=-1)
        names = None if self.names is None else tuple(self.names)
        if names is not None and len(names) != len(every):
            raise TargetError(f"expected a name for each of {len(every)} references; got {len(names)}.")

        def read(out: Any, rows: Tensor | None) -> Tensor:
            embedding = F.normalize(_embedding(out), dim=-1)
            return self.scale * embedding @ every.to(embedding).T

        return Bound(
            read, len(every), squeeze=reference.ndim == 1, say=None if names is None else lambda image, target, label: names[target]
        )


def _embedding(outputs: Any) -> Tensor:
    found = outputs if isinstance(outputs, Tensor) else part(outputs, "image_embeds", "embeddings", "pooler_output")
    if isinstance(found, Tensor) and found.ndim > 2 and found[0, 0].numel() == 1:
        found = found.flatten(1)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise TargetError(
            f"expected embeddings [B, D] from the module; got {kind_of(found if isinstance(found, Tensor) else outputs)}; "
            "lucidcam.targets.Head picks one of several outputs."
        )
    return found
