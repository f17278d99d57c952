"""Written words: the log-probability of a caption, an answer, or some of their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target, kind_of, part
from lucidcam.utils.class_scores import ClassScores

VOCABULARY = ClassScores("softmax")
"""A language model's logits: one word of the vocabulary excludes the others."""


@dataclass(frozen=True)
class Tokens(Target):
    """The log-probability of written tokens, `Σ_i log p(ids_i | ids_<i, image)`: Grad-CAM of a captioning model (Selvaraju 2017, § 8.1).

    The module is given the tokens as its text (teacher forcing), and returns logits `[B, L, V]`, or an object or mapping with `logits`.

        >>> logits = torch.zeros(1, 3, 4)                                 # three tokens of a vocabulary of four
        >>> Tokens([0, 2, 1]).bind(logits, 1).scores(logits).exp()        # the second and third: 1/4 each
        tensor([[0.0625]])

    Args:
        ids: `[L]`, token ids, one sentence for all images. Where the logits are longer, the last L are those of the sentence.
        positions: of the tokens whose log-probabilities are added: a list; or a list of lists, one for each of T targets; None: all.
        shift: how far the logits run ahead: those at i − shift are about token i. 1: a language model's; 0: the module
            shifts by itself.
        names: the targets in words.
    """

    ids: Sequence[int] | Tensor
    positions: Sequence[int] | Sequence[Sequence[int]] | None = None
    shift: int = 1
    names: Sequence[str] | None = None

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        ids = torch.as_tensor(self.ids)
        if ids.ndim != 1 or ids.is_floating_point() or not len(ids):
            raise TargetError(f"expected token ids [L] of one sentence; got {str(ids.dtype)[6:]} {list(ids.shape)}.")
        groups, squeeze = self._groups(len(ids))
        names = list(self.names or ["sentence" if self.positions is None else f"tokens {','.join(map(str, each))}" for each in groups])
        if len(names) != len(groups):
            raise TargetError(f"expected a name for each of {len(groups)} targets; got {len(names)}.")
        wanted = sorted({position for group in groups for position in group})
        sums = torch.zeros(len(groups), len(wanted), dtype=torch.float32, device="cpu")
        for t, group in enumerate(groups):
            for position in group:
                sums[t, wanted.index(position)] += 1

        def read(out: Any, rows: Tensor | None) -> Tensor:
            logits = _written(out, len(ids))
            steps = torch.tensor(wanted, device=logits.device)
            said = logits[:, logits.shape[1] - len(ids) :][:, steps - self.shift]
            said = VOCABULARY.to_log_probabilities(said, -1)
            chosen = ids.to(logits.device)[steps].expand(len(said), -1)[..., None]
            return said.gather(2, chosen)[..., 0] @ sums.to(said).T

        size = _written(outputs, len(ids)).shape[2]
        if int(ids.min()) < 0 or int(ids.max()) >= size:
            raise TargetError(f"token ids from {int(ids.min())} to {int(ids.max())}: the model's vocabulary has {size}, 0 to {size - 1}.")
        return Bound(read, len(groups), squeeze=squeeze, say=lambda image, target, label: names[target])

    def _groups(self, length: int) -> tuple[list[list[int]], bool]:
        """The positions of each target, and whether there is one target by itself."""
        if self.positions is None:
            groups, one = [list(range(self.shift, length))], True
        else:
            one = not any(isinstance(each, Sequence) for each in self.positions)
            groups = [list(self.positions)] if one else [list(each) for each in self.positions]  # type: ignore[arg-type]
        for group in groups:
            if not group or not all(self.shift <= position < length for position in group):
                told = f"positions from {self.shift} to {length - 1}" if length > self.shift else f"more than {self.shift} tokens"
                raise TargetError(f"expected {told}, at least one for each target; got {group} of {length} tokens.")
        return groups, one


def _written(outputs: Any, length: int) -> Tensor:
    found = outputs if isinstance(outputs, Tensor) else part(outputs, "logits")
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[1] < length:
        raise TargetError(
            f"expected logits [B, L, V] over a vocabulary, for {length} tokens or more, as the module's output or its 'logits'; "
            f"got {kind_of(found if isinstance(found, Tensor) else outputs)}."
        )
    return found
