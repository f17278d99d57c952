"""Detections: the class score of one box of a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lucidcam.errors import TargetError, TargetNotFoundError
from lucidcam.targets._base import Bound, Label, Target, kind_of, part
from lucidcam.types import Frame
from lucidcam.utils.class_scores import ClassScores
from lucidcam.utils.text import short

_SHOWN = 5


@dataclass(frozen=True)
class Detection(Target):
    """The class score of the detection nearest to a box (largest intersection over union), or of a query of DETR's kind.

    DETR's queries are many, and most say "no object": the one that is meant has the largest product of overlap and class probability.

    Reads what torchvision's detectors return (a list with `boxes`, `labels` and `scores` of each image; the score is 0 where no
    detection of the class touches the box), and what DETR's do (`logits` `[B, Q, K]` and `pred_boxes` `[B, Q, 4]`: centre, width and
    height as shares of the input).

        >>> outputs = [{"boxes": torch.tensor([[0.0, 0, 8, 8], [20, 20, 30, 30]]), "labels": torch.tensor([1, 3]),
        ...             "scores": torch.tensor([0.9, 0.7])}]
        >>> Detection(box=(19, 19, 29, 29)).bind(outputs, 1).scores(outputs)
        tensor([[0.7000]])

    Args:
        box: xyxy in pixels, of the network's input for `attribute`, of the photo for `explain`; None: the detection of highest score.
        label: class id, or label text for `explain`; None: the class of the detection that is found.
        query: for DETR's kind: this query, wherever its box lies.
        size: (H, W) of the network's input, which boxes in shares of it are measured against; `explain` knows it.
        background: for DETR's kind: the last class is "no object", and scores are a softmax's.
        frame: where in the photo the input lies; `explain` knows it.
        names: the classes in words; `explain` knows them.
    """

    box: Sequence[float] | None = None
    label: int | str | None = None
    query: int | None = None
    size: tuple[int, int] | None = None
    background: bool = True
    frame: Frame | None = None
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.box is None:
            return
        box = tuple(float(side) for side in self.box)
        object.__setattr__(self, "box", box)
        if self.query is not None:
            raise TargetError("a detection is told by its box or by its query; got both.")
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise TargetError(f"expected a box (left, top, right, bottom) with left < right and top < bottom; got {box}.")

    local: ClassVar[bool] = True

    def labelled(self, find: Any) -> Target:
        """See `Target.labelled`."""
        return replace(self, label=find(self.label)) if isinstance(self.label, str) else self

    def placed(self, frame: Frame, size: tuple[int, int]) -> Target:
        """See `Target.placed`."""
        return replace(self, box=None if self.box is None else frame.inside(self.box, size), size=size, frame=frame)

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        if isinstance(self.label, str):
            raise TargetError(f"the label {self.label!r} needs a model with labels: use lucidcam.explain, or give a class id.")
        meaning = self._meaning(outputs)
        every = _read(outputs, self, meaning)
        if self.query is not None and not isinstance(every[0], _Queries):
            raise TargetError("only detectors of DETR's kind have queries; give a box.")
        found = [row.find(self) for row in every]
        if len(found) != batch:
            raise TargetError(f"expected detections of {batch} images; got {len(found)}.")

        def read(out: Any, rows: Tensor | None) -> Tensor:
            every = _read(out, self, meaning)
            which = range(len(every)) if rows is None else rows.tolist()
            return torch.stack([row.score(found[i][0], found[i][1], self.query) for row, i in zip(every, which, strict=True)])[:, None]

        def say(image: int, target: int, label: Label) -> str:
            id, box = found[image]
            return f"{label(id).split(',')[0]} at {self.sides(box)}"

        return Bound(read, 1, say=say)

    def _meaning(self, outputs: Any) -> ClassScores:
        """What the class scores of queries mean: a softmax's with "no object", a sigmoid's, or probabilities, which is seen by value."""
        logits, _ = _queries(outputs)
        if logits is None:
            return ClassScores("none")
        found = self.reader.of_queries()(logits.movedim(-1, 1))
        is_exclusive = self.background and logits.shape[-1] > 1 and (found.kind != "probabilities" or found.is_exclusive)
        return ClassScores(
            "probabilities" if found.kind == "probabilities" else "softmax" if is_exclusive else "sigmoid", is_exclusive=is_exclusive
        )

    def sides(self, box: Tensor | Sequence[float]) -> str:
        """A box of the network's input in words: in the photo's pixels, where its place there is known."""
        sides: Sequence[float] = box.tolist() if isinstance(box, Tensor) else box
        if self.frame is not None and self.size is not None:
            sides = self.frame.outside(sides, self.size)
        return ",".join(str(round(side)) for side in sides)

    def word(self, label: int) -> str:
        """A class in words, as far as they are known."""
        return f"class {label}" if self.names is None or not 0 <= label < len(self.names) else short(self.names[label])


@dataclass(frozen=True)
class _Listed:
    """One image's detections as a list: boxes `[N, 4]`, labels `[N]`, scores `[N]`."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def find(self, asked: Detection) -> tuple[int, Tensor]:
        """The class and box of the detection that is asked for."""
        every = torch.arange(len(self.labels), device=self.labels.device)
        where = every if asked.label is None else every[self.labels.eq(int(asked.label))]
        if not len(where):
            what = "at all" if asked.label is None else f"of {asked.word(int(asked.label))}"
            raise TargetNotFoundError(f"no detection {what}; {self._told(asked)}")
        if asked.box is None:
            best = where[self.scores[where].argmax()]
        else:
            overlap = _iou(self.boxes[where], self.boxes.new_tensor(asked.box))
            if not float(overlap.max()) > 0:
                raise TargetNotFoundError(f"no such detection touches the box {asked.sides(asked.box)}; {self._told(asked)}")
            best = where[overlap.argmax()]
        return int(self.labels[best]), self.boxes[best].detach()

    def score(self, label: int, box: Tensor, query: int | None) -> Tensor:
        """Its score in other outputs; 0 where nothing of the class touches its box."""
        where = (self.labels == label).nonzero()[:, 0]
        overlap = _iou(self.boxes[where], box.to(self.boxes))
        return self.scores[where[overlap.argmax()]] if len(where) and float(overlap.max()) > 0 else self.scores.new_zeros(())

    def _told(self, asked: Detection) -> str:
        best = self.scores.argsort(descending=True)[:_SHOWN].tolist()
        listed = [f"{asked.word(int(self.labels[i]))} ({float(self.scores[i]):.2f}) at {asked.sides(self.boxes[i])}" for i in best]
        return f"it sees {'; '.join(listed)}." if listed else "the network found nothing: lower its score threshold."


@dataclass(frozen=True)
class _Queries:
    """One image's queries: class logits `[Q, K]`, boxes `[Q, 4]` in pixels of the input."""

    boxes: Tensor
    logits: Tensor
    meaning: ClassScores

    def find(self, asked: Detection) -> tuple[int, Tensor]:
        """The class and box of the query that is asked for."""
        sure = self._sure()
        count, classes = sure.shape
        if asked.label is not None and not 0 <= int(asked.label) < classes:
            raise TargetError(f"class id {asked.label} is out of range: the detector has {classes} classes, 0 to {classes - 1}.")
        if asked.query is not None and not 0 <= asked.query < count:
            raise TargetError(f"query {asked.query} is out of range: the detector has {count}, 0 to {count - 1}.")
        fit = sure.amax(1) if asked.label is None else sure[:, int(asked.label)]
        if asked.query is not None:
            query = asked.query
        elif asked.box is None:
            query = int(fit.argmax())
        else:
            overlap = _iou(self.boxes, self.boxes.new_tensor(asked.box))
            if not float(overlap.max()) > 0:
                best = int(fit.argmax())
                seen = f"{asked.word(int(sure[best].argmax()))} ({float(fit[best]):.2f}) at {asked.sides(self.boxes[best])}"
                raise TargetNotFoundError(f"no query's box touches the box {asked.sides(asked.box)}; the surest is {seen}.")
            query = int((overlap * fit).argmax())
        label = int(sure[query].argmax()) if asked.label is None else int(asked.label)
        return label, self.boxes[query].detach()

    def score(self, label: int, box: Tensor, query: int | None) -> Tensor:
        """Its logit in other outputs."""
        if query is None:
            overlap = _iou(self.boxes, box.to(self.boxes))
            if float(overlap.max()) > 0:
                query = int((overlap * self._sure()[:, label]).argmax())
            else:  # the nearest: a query has a score wherever it is
                query = int((self.boxes[:, :2] + self.boxes[:, 2:] - (box[:2] + box[2:]).to(self.boxes)).norm(dim=1).argmin())
        return self.logits[query, label]

    def _sure(self) -> Tensor:
        """Probabilities of the classes `[Q, classes]`."""
        probabilities = self.meaning.to_probabilities(self.logits.detach())
        return probabilities[:, :-1] if self.meaning.is_exclusive else probabilities  # without "no object"


def _queries(outputs: Any) -> tuple[Tensor | None, Tensor | None]:
    """Class scores `[B, Q, K]` and boxes `[B, Q, 4]` of a detector of DETR's kind, also where it squeezed a single image's axis away."""
    if isinstance(outputs, Tensor):
        return None, None
    logits, boxes = part(outputs, "logits", "pred_logits"), part(outputs, "pred_boxes")
    if not isinstance(logits, Tensor) or not isinstance(boxes, Tensor):
        return None, None
    return (logits[None], boxes[None]) if logits.ndim == boxes.ndim == 2 else (logits, boxes)


def _read(outputs: Any, asked: Detection, meaning: ClassScores) -> Sequence[_Listed | _Queries]:
    """Each image's detections."""
    keys = ("boxes", "labels", "scores")
    if isinstance(outputs, (list, tuple)) and outputs and all(isinstance(row, Mapping) and set(keys) <= set(row) for row in outputs):
        return [_Listed(*(row[key] for key in keys)) for row in outputs]
    logits, boxes = _queries(outputs)
    if logits is not None and boxes is not None:
        if asked.size is None and asked.query is None:
            raise TargetError("this detector's boxes are shares of its input: give size=(H, W) of the input, or use lucidcam.explain.")
        height, width = asked.size or (1, 1)
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        pixels = torch.cat([middle - half, middle + half], dim=-1) * boxes.new_tensor([width, height, width, height])
        return [_Queries(box, row, meaning) for box, row in zip(pixels.detach(), logits, strict=True)]
    raise TargetError(
        "expected a detector's output, a list with boxes, labels and scores of each image, or logits and pred_boxes; "
        f"got {kind_of(outputs)}; for other outputs give a callable: target=lambda outputs: …, one score per image."
    )


def _iou(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of boxes `[N, 4]` with one `[4]`."""
    boxes = boxes.detach()
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp(min=0)
    common = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) + (box[2:] - box[:2]).prod()
    return common / (areas - common).clamp(min=1e-12)
