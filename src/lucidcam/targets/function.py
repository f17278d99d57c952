"""Anything else: a callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target


@dataclass(frozen=True)
class Function(Target):
    """Anything else: a callable from the module's outputs to scores `[n]` or `[n, T]`, for any number n of rows."""

    function: Callable[[Any], Tensor]

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        scores = self._call(outputs)
        if scores.ndim not in (1, 2) or len(scores) != batch:
            raise TargetError(
                f"the target callable must return one score per image, [B] or [B, T] with B = {batch}; it returned {list(scores.shape)}."
            )

        def read(out: Any, rows: Tensor | None) -> Tensor:
            scores = self._call(out)
            if rows is not None and len(scores) != len(rows):
                raise TargetError(
                    f"the target callable returned {len(scores)} scores for {len(rows)} masked images; it must not depend on the "
                    "number of rows (give class ids as target for per-image classes)."
                )
            return scores[:, None] if scores.ndim == 1 else scores

        count = 1 if scores.ndim == 1 else scores.shape[1]
        return Bound(read, count, squeeze=scores.ndim == 1)

    def _call(self, outputs: Any) -> Tensor:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            got = str(scores.dtype) if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(f"the target callable must return a floating-point tensor [B]; it returned {got}.")
        return scores
