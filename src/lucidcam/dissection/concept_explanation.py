"""Why a class, in words: Grad-CAM's importances of channels, under the names that the channels have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lucidcam.dissection import sheets, telling
from lucidcam.dissection.bank import Bank
from lucidcam.dissection.channel_names import Names
from lucidcam.dissection.naming import concepts
from lucidcam.dissection.query import asked
from lucidcam.errors import LayerError, OptionError, unknown
from lucidcam.methods._base import spatial_mean
from lucidcam.reprs import OneLineRepr
from lucidcam.types import Frame, Model
from lucidcam.utils.rollback import closes_scopes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group

FAINTEST = 1e-3
"""A channel that means a concept less than this does not mean it here."""

LUCK = 0.05
"""A word stands out from chance where it is less probable than this, all words of the image taken together."""

DRAWS = 1000
"""Shufflings of the names that words are compared with."""


@dataclass(frozen=True)
class Word(OneLineRepr):
    """What one concept has to do with a class in an image.

    Attributes:
        concept: its name.
        share: the sum of `α_k Σ A_k` over the channels that mean it, as far as they do, as a share of the sum of all channels' magnitudes,
            in [−1, 1]: positive speaks for the class, negative against it.
        confidence: how sure the name is: the lower ends of its channels' 95 % intervals of held-out AUC, averaged by their part here;
            0.5 is chance, 1 perfect.
        chance: how often, when the names are shuffled among the channels that have one, *any* word has so much more evidence, on either
            side, than its channels are worth on average. A concept that names many channels gets a share by that alone. It holds for
            all words of the image together: with names that mean nothing, one image in twenty has a word below 0.05.
        channels: that mean it here, largest part first.
    """

    concept: str
    share: float
    confidence: float
    chance: float
    channels: tuple[int, ...]

    @property
    def stands_out(self) -> bool:
        """Whether it has more evidence than the largest of all words has by chance, but one time in twenty."""
        return self.chance < LUCK


@dataclass(frozen=True, eq=False)
class Words(OneLineRepr):
    """What speaks for a class and against it in one image, in the words of a bank.

    Attributes:
        words: concepts that some evidence has, largest share first, those against the class last.
        maps: of each word `Σ α_k A_k` over its channels, as far as they mean it `[n, h, w]`, signed.
        unnamed: share of the evidence's magnitude in channels without a name.
        nameless: map of those channels `[h, w]`, signed.
        image: the photo.
        frame: where in the photo the network's input lies.
        name: the photo's.
        target: class id, or None where the target is not one class.
        label: the target in words.
        score: of the image.
        probability: of the class, or None where the target is not one class.
        names: what the channels are called.
        shown: words of each side in texts, tables and pictures.
    """

    words: tuple[Word, ...]
    maps: Tensor = field(repr=False)
    unnamed: float
    nameless: Tensor = field(repr=False)
    image: Image.Image = field(repr=False)
    frame: Frame
    name: str
    target: int | None
    label: str
    score: float
    probability: float | None
    names: Names = field(repr=False)
    shown: int

    @property
    def because(self) -> tuple[Word, ...]:
        """What speaks for the class, most first."""
        return tuple(word for word in self.words if word.share > 0)[: self.shown]

    @property
    def against(self) -> tuple[Word, ...]:
        """What speaks against it, most first."""
        return tuple(word for word in reversed(self.words) if word.share < 0)[: self.shown]

    @property
    def text(self) -> str:
        """In one sentence or two: "tabby because: stripes (12%), dots (3%, by chance); against: red (1%). 84% of the evidence …".

        Of a word that does not stand out from chance that is said beside it; where none does, "because (no word stands out from chance)".
        """
        return telling.sentence(self)

    @property
    def stands_out(self) -> bool:
        """Whether any word stands out from chance."""
        return any(word.stands_out for word in self.words)

    def map(self, concept: str) -> Tensor:
        """The map `[h, w]` of a concept, signed, at the layer's resolution.

        Raises:
            OptionError: no evidence has that name.
        """
        for place, word in enumerate(self.words):
            if word.concept == concept:
                return self.maps[place]
        raise OptionError(unknown("word here", concept, (word.concept for word in self.words)))

    def table(self) -> Group:
        """The words with their shares and confidence, for a terminal of 80 columns."""
        return telling.words_table(self)

    def picture(self) -> Image.Image:
        """Where each word is: the concepts' maps over the photo."""
        return telling.words_picture(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, for JSON."""
        return {
            "image": self.name,
            "label": self.label,
            "id": self.target,
            "score": self.score,
            "probability": self.probability,
            "layer": self.names.layer,
            "bank": self.names.bank,
            "text": self.text,
            "unnamed": self.unnamed,
            "stands_out": self.stands_out,
            "words": [{**asdict(word), "stands_out": word.stands_out} for word in self.words],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a `.json` or a `.png`; anything else is a folder, that gets `words.json` and `words.png`.

        Returns:
            The path.
        """
        return sheets.save(path, "words", self.name, self.to_dict, self.picture)

    def __str__(self) -> str:
        return self.text

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return sheets.png(self.picture())


@closes_scopes
def words(
    model: Model,
    image: Any,
    target: Any = None,
    *,
    names: Names | str | os.PathLike[str] | None = None,
    bank: Bank | str | os.PathLike[str] | None = None,
    layer: Any = None,
    top: int = 5,
    progress: bool | None = None,
) -> Words:
    """Say why a class, in the words of a bank of concepts: Grad-CAM's importances, added up by the channels' names.

    Grad-CAM's map is `Σ_k α_k A_k`. Each channel's part of it, `α_k Σ_xy A_k`, goes to the concept that the channel is named by, or is
    divided among several by how active it is (`Name.shares`); the part of channels without a name is told as such.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        image: a photo as for `lucidcam.explain`.
        target: one class, by id or label, or a target object; None: the predicted class.
        names: from `lucidcam.concepts`, or the file that they were saved to; None: the channels are named now, which takes a
            pass over the bank.
        bank: to name them by, as for `lucidcam.concepts`.
        layer: a dotted name; None: that of the names, else the model's own, or the last spatial layer.
        top: words of each side in texts, tables and pictures.
        progress: a bar; None: in a terminal or notebook.

    Raises:
        OptionError: names of another network or layer; both names and a bank; a value outside its range.
        LucidcamError: as for `lucidcam.concepts` and `lucidcam.explain`.
    """
    if not (isinstance(top, int) and top >= 1):
        raise OptionError(f"expected a whole number top ≥ 1; got {top!r}.")
    if names is not None and bank is not None:
        raise OptionError("give names, or a bank to name the channels by; not both.")
    if names is None:
        names = concepts(model, bank, layer, progress=progress)
    elif not isinstance(names, Names):
        names = Names.load(names)
    with asked(model, image, target, names.layer if layer is None else layer, progress=progress, title="words") as (run, prepared):
        capture = run.capture(gradients=True)
        if capture.activations.ndim != 5:
            raise LayerError(f"the layer {run.layer.name!r} has maps of {capture.activations.ndim - 3} axes; words need maps [h, w].")
        names.check(model, run.layer.name, capture.activations.shape[2])
        importances = spatial_mean(capture.gradients)[0, 0]
        activations = capture.activations[0, 0].float().cpu()
        parts = importances[:, None, None].float().cpu() * activations
        bound, scores = run.bound.on_host(), run.clean_scores()
        id = None if bound.ids is None else int(bound.ids[0, 0])
        probability = None if id is None else run.class_probability(0, id)
        label, score = bound.name(0, 0, model.label), float(scores[0, 0])
    evidence = parts.sum((1, 2)).double()
    total = float(evidence.abs().sum()) or 1.0
    shares = {row.channel: row.shares(activations[row.channel]) for row in names.rows if row.meanings and evidence[row.channel] != 0}
    meant = torch.tensor([[each.get(concept, 0.0) for concept in names.concepts] for each in shares.values()], dtype=torch.float64)
    meant = F.threshold(meant.reshape(len(shares), len(names.concepts)), FAINTEST, 0)
    mine, own = list(shares), evidence[list(shares)]
    by_chance = chances(meant, own)
    found = [
        (_word(names, concept, mine, meant[:, i] * own, total, by_chance[i]), torch.einsum("k,khw->hw", meant[:, i].float(), parts[mine]))
        for i, concept in enumerate(names.concepts)
        if meant[:, i].any()
    ]
    found.sort(key=lambda each: -each[0].share)
    nameless = torch.tensor([row.channel for row in names.rows if not row.meanings], dtype=torch.long)
    return Words(
        tuple(word for word, _ in found),
        _stacked((of for _, of in found), parts),
        float(evidence[nameless].abs().sum()) / total,
        parts[nameless].sum(0),
        prepared.image,
        prepared.frame,
        prepared.name,
        id,
        label,
        score,
        probability,
        names,
        top,
    )


def chances(meant: Tensor, evidence: Tensor) -> list[float]:
    """How probable words with so much evidence are when names mean nothing: by shuffling, the largest excess over all words.

    The excess of a word is what it has on its side beyond what its channels, with the average evidence of all, would have, in standard
    deviations over shufflings (in closed form). Comparing with the largest over all words, positive and negative, makes it
    hold for all of them together (Westfall & Young 1993).

    Args:
        meant: how far each channel means each concept `[n, K]`.
        evidence: of each channel `[n]`.
    """
    centred = meant - meant.mean(0)
    spread = (centred.square().sum(0) * evidence.var(correction=1)).sqrt() if len(evidence) > 1 else meant.new_zeros(meant.shape[1])
    least = 1e-9 * (meant.T @ evidence.abs())

    def excess(shuffled: Tensor) -> Tensor:
        above = (shuffled @ meant).sign() * (shuffled @ centred)
        return torch.where(spread > least, above / spread.clamp(min=1e-300), 0)

    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(DRAWS, len(evidence), generator=generator).argsort(1)
    largest = excess(evidence[orders]).amax(1)
    as_much = (largest[:, None] >= excess(evidence) - 1e-9).sum(0)
    return [float(each) for each in (1 + as_much) / (1 + DRAWS)]


def _word(names: Names, concept: str, channels: Sequence[int], part: Tensor, total: float, chance: float) -> Word:
    meaning = names.meaning(concept)
    order = [i for i in part.abs().argsort(descending=True, stable=True).tolist() if part[i] != 0]
    sure = sum(float(part[i].abs()) * meaning[channels[i]].low for i in order) / float(part.abs().sum())
    return Word(concept, float(part.sum()) / total, sure, chance, tuple(channels[i] for i in order))


def _stacked(maps: Iterable[Tensor], like: Tensor) -> Tensor:
    every = list(maps)
    return torch.stack(every) if every else like.new_zeros(0, *like.shape[1:])
