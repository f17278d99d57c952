"""What the numbers that a classifier returns mean: the one place that turns its outputs into probabilities and into the predicted class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidcam.errors import ModelError, OptionError, TargetError, unknown
from lucidcam.utils.choices import OutputKind as OutputKind

OUTPUT_KINDS: tuple[str, ...] = get_args(OutputKind)

BINARY_CLASSES = 2
"""Classes of a network with one output column: the one that the column scores, and its complement."""

THRESHOLD = 0.5
"""The probability above which the class of a single column is predicted, unless another is said."""


@dataclass(frozen=True)
class ClassScores:
    """How the columns `[..., K]` that a network returns are read as scores and probabilities of classes.

    A single column stands for two classes: the *positive* one, whose score is the column itself, and its complement ("not tumour"), whose
    score is the column's negative (or, where the column is a probability p, 1 − p).

        >>> column = torch.tensor([[2.0], [-1.0]])
        >>> scores = ClassScores("sigmoid")
        >>> scores.of(column)
        tensor([[ 2., -2.],
                [-1.,  1.]])
        >>> scores.probabilities(column)
        tensor([[0.8808, 0.1192],
                [0.2689, 0.7311]])
        >>> scores.predicted(column)
        tensor([0, 1])

    Attributes:
        kind: "softmax": logits, one class excludes the others; "sigmoid": a logit for each class by itself; "probabilities": the network
            ends in a softmax or sigmoid of its own; "none": numbers that are no class scores (a regression, values of actions), which
            have no probabilities; None: not known yet, `resolved` finds it by value.
        positive: of a single column: the id, 0 or 1, of the class that it scores. The other id is the complement's.
        threshold: of a single column: the probability above which the positive class is predicted.
        is_exclusive: whether the probabilities of all classes add up to one, so that one class is predicted per image or pixel.
    """

    kind: OutputKind | None = None
    positive: int = 0
    threshold: float = THRESHOLD
    is_exclusive: bool = True

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in OUTPUT_KINDS:
            raise OptionError(unknown("kind of outputs", str(self.kind), OUTPUT_KINDS))
        if self.positive not in (0, 1):
            raise OptionError(f"expected 0 or 1 as the id of the class that a single output column scores; got {self.positive!r}.")
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)) or not 0 < self.threshold < 1:
            raise OptionError(f"expected a threshold between 0 and 1, a probability; got {self.threshold!r}.")

    def resolved(self, columns: Tensor, ends_in_probabilities: Callable[[], bool | None], multi_label: bool = False) -> ClassScores:
        """Find by value what the columns `[B, K]` (or `[B, K, *grid]`) mean, where it was not said; check it where it was.

        Rows that are not negative and add up to one are probabilities. So are values in [0, 1] of a network that runs a sigmoid (or a
        softmax) after its last linear operation. Else a single column is a logit of a sigmoid, and several are logits of a softmax.

        Args:
            columns: the network's outputs for its images as they are.
            ends_in_probabilities: asked only where all values lie in [0, 1] and no rows add up to one: whether the network runs a sigmoid
                or softmax after its last linear operation; None: it cannot be seen.
            multi_label: whether the network says of itself that several classes may hold at once.

        Raises:
            ModelError: probabilities were said, and a value lies outside [0, 1]; or it cannot be seen what the values are; or a threshold
                was said of a network that has no use for it.
        """
        count, values = columns.shape[1], columns.detach()
        known = self._found(count, values, ends_in_probabilities, multi_label)
        if self.threshold != THRESHOLD and (known.kind == "none" or (known.is_exclusive and count > 1)):
            came = (
                'outputs="none", which have no probabilities'
                if known.kind == "none"
                else f"{count} classes, of which the likeliest is predicted"
            )
            raise ModelError(f"the threshold {self.threshold:g} is for networks with one output column; this one has {came}: leave it out.")
        return known

    def _found(self, count: int, values: Tensor, ends_in_probabilities: Callable[[], bool | None], multi_label: bool) -> ClassScores:
        """What the values of `count` columns mean; see `resolved`."""
        adds_up = count > 1 and _sum_to(1.0, values)
        within = adds_up or _within_unit(values)
        if self.kind == "none":
            return self
        if count > 1 and _sum_to(100.0, values):
            raise ModelError(
                "the network returns percentages, which add up to 100: let it return logits, or probabilities between 0 and 1."
            )
        if self.kind == "probabilities" and not within:
            low, high = float(values.min()), float(values.max())
            raise ModelError(f'outputs="probabilities" was said, but the network returns values from {low:.4g} to {high:.4g}.')
        are_probabilities = self.kind == "probabilities" or adds_up
        if within and not are_probabilities:
            ends = ends_in_probabilities()
            if ends is None and self.kind is None:
                raise ModelError(
                    "all of the network's outputs lie between 0 and 1, and its operations cannot be seen: say whether they are "
                    'logits or probabilities, outputs="softmax", "sigmoid" or "probabilities" (--outputs).'
                )
            are_probabilities = bool(ends)
        if are_probabilities and self.kind not in (None, "probabilities"):
            raise ModelError(
                f'outputs="{self.kind}" was said, but the network returns probabilities already '
                f'({"they add up to one" if adds_up else "it ends in a sigmoid"}): say outputs="probabilities" (--outputs), or nothing.'
            )
        if are_probabilities:
            return replace(self, kind="probabilities", is_exclusive=count == 1 or adds_up)
        if count == 1:
            return replace(self, kind="sigmoid", is_exclusive=True)
        kind = self.kind or ("sigmoid" if multi_label else "softmax")
        return replace(self, kind=kind, is_exclusive=kind == "softmax")

    def of(self, columns: Tensor, dim: int = 1) -> Tensor:
        """The score of every class: the columns, or of a single one its own class's and the complement's, in the order of their ids."""
        if columns.shape[dim] != 1 or self.kind == "none":
            return columns
        complement = 1 - columns if self.kind == "probabilities" else -columns
        return torch.cat([columns, complement] if self.positive == 0 else [complement, columns], dim)

    def probabilities(self, columns: Tensor, dim: int = 1) -> Tensor:
        """The probability of every class, along `dim` as long as `of` makes it.

        Raises:
            TargetError: the outputs are no class scores.
        """
        return self.to_probabilities(self.of(columns, dim), dim)

    def to_probabilities(self, scores: Tensor, dim: int = 1) -> Tensor:
        """The probability of every class from the score of every class, see `of`.

        Raises:
            TargetError: the outputs are no class scores.
        """
        if self._known() == "softmax":
            return scores.softmax(dim)
        return scores if self.kind == "probabilities" else scores.sigmoid()

    def log_probabilities(self, columns: Tensor, dim: int = 1) -> Tensor:
        """The logarithm of every class's probability; see `probabilities`."""
        return self.to_log_probabilities(self.of(columns, dim), dim)

    def to_log_probabilities(self, scores: Tensor, dim: int = 1) -> Tensor:
        """The logarithm of every class's probability from the score of every class, see `of`."""
        if self._known() == "softmax":
            return scores.log_softmax(dim)
        return scores.clamp(min=torch.finfo(scores.dtype).tiny).log() if self.kind == "probabilities" else F.logsigmoid(scores)

    def log_odds(self, columns: Tensor, ids: Tensor) -> Tensor:
        """`log(p / (1 − p))` of one class per row `[B]`: unlike a probability it still moves where that is nearly 1."""
        scores, index = self.of(columns), ids.to(columns.device)[:, None]
        own = scores.gather(1, index)[:, 0]
        if self._known() == "softmax":
            return own - scores.scatter(1, index, -torch.inf).logsumexp(1)
        return torch.logit(own, torch.finfo(own.dtype).eps) if self.kind == "probabilities" else own

    def predicted(self, columns: Tensor, dim: int = 1) -> Tensor:
        """The id of the predicted class: that of the highest score; of a single column, the positive one above the threshold."""
        return self.predicted_by(self.of(columns, dim), columns.shape[dim] == 1, dim)

    def predicted_by(self, scores: Tensor, is_single_column: bool, dim: int = 1) -> Tensor:
        """The id of the predicted class, from the score of every class; see `predicted`."""
        if not is_single_column or self.kind == "none":
            return scores.argmax(dim)
        above = self._above(scores.select(dim, self.positive))
        return torch.where(above, self.positive, 1 - self.positive)

    def order(self, columns: Tensor) -> Tensor:
        """Class ids `[B, K]` from the highest probability to the lowest; the predicted class comes first."""
        scores = self.of(columns)
        order = scores.argsort(dim=1, descending=True, stable=True)
        if columns.shape[1] == 1 and self.kind != "none":
            predicted = self.predicted(columns)[:, None]
            return torch.cat([predicted, 1 - predicted], 1)
        return order

    def holds(self, columns: Tensor, ids: Tensor, dim: int = 1) -> Tensor:
        """Whether the class of the given ids is predicted, alone or (classes that do not exclude each other) among others.

        Args:
            columns: `[B, K, *grid]`.
            ids: `[B]`, one class for each row.
            dim: the classes' axis.
        """
        wide = ids.reshape(-1, *[1] * (columns.ndim - 2)).to(columns.device)
        if self.is_exclusive or self.kind == "none":
            return self.predicted(columns, dim) == wide
        index = ids.to(columns.device).reshape(-1, *[1] * (columns.ndim - 1)).expand(-1, 1, *columns.shape[2:])
        return self._above(columns.gather(dim, index).squeeze(dim))

    def count(self, columns: int) -> int:
        """How many classes that many columns stand for."""
        return BINARY_CLASSES if columns == 1 and self.kind != "none" else columns

    def _above(self, column: Tensor) -> Tensor:
        if self._known() == "probabilities":
            return column > self.threshold
        return column > torch.logit(torch.tensor(self.threshold, dtype=torch.float64)).to(column.dtype).item()

    def _known(self) -> OutputKind:
        """The kind, which must be one that has probabilities.

        Raises:
            TargetError: it is none.
        """
        if self.kind == "none":
            raise TargetError('the model\'s outputs are no class scores (outputs="none"), so they have no probabilities.')
        assert self.kind is not None, "resolved by value before probabilities are asked for"
        return self.kind


@dataclass(frozen=True)
class ScoreReader:
    """Finds what class scores mean when they are seen first.

    Attributes:
        stated: what the user, a checkpoint or a configuration says of the outputs.
        is_probability: whether a tensor comes out of a sigmoid or softmax, seen in the network's operations; None: it cannot be seen.
        multi_label: whether the network says of itself that several classes may hold at once.
        size: (H, W) of the images; None: not known.
    """

    stated: ClassScores = field(default_factory=ClassScores)
    is_probability: Callable[[Tensor], bool | None] = lambda columns: False
    multi_label: bool = False
    size: tuple[int, ...] | None = None

    def __call__(self, columns: Tensor) -> ClassScores:
        """What the columns `[B, K]` or `[B, K, *grid]` mean, see `ClassScores.resolved`."""
        return self.stated.resolved(columns, lambda: self.is_probability(columns), self.multi_label)

    def of_queries(self) -> ScoreReader:
        """For the class scores of a detector's queries, of which nothing was said, and which are logits where nothing can be seen."""
        return replace(self.of_part(), is_probability=lambda columns: bool(self.is_probability(columns)))

    def of_part(self) -> ScoreReader:
        """For one of several outputs, of which nothing was said."""
        return replace(self, stated=ClassScores(), multi_label=False)


def _within_unit(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _sum_to(total: float, values: Tensor) -> bool:
    """Whether rows are not negative and add up to a number, up to the rounding of their type."""
    tolerance = 1e-5 if values.dtype in (torch.float32, torch.float64) else 1e-2
    wide = values if values.dtype == torch.float64 else values.float()
    return bool((wide >= 0).all()) and bool(((wide.sum(1) - total).abs() <= tolerance * total).all())
