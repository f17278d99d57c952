"""What channels are called, and the file that keeps it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lucidcam.dissection import telling
from lucidcam.errors import DataError, OptionError
from lucidcam.io.ownership import check_document
from lucidcam.io.storage import check_writable_file, json_text, parsed_json, write_whole, writing
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem
from lucidcam.types import Model
from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.fingerprint import architecture, steady

if TYPE_CHECKING:
    from rich.console import Group

LEAST = 0.8
"""Held-out AUC that a name needs."""

NARROWEST = 0.05
"""A level's deviation is taken to be this share of the largest mean at least."""

VERSION = 1
"""Of the file."""


@dataclass(frozen=True)
class Meaning(OneLineRepr):
    """One thing that a channel answers to.

    Attributes:
        concept: of the bank.
        pool: "mean" or "max": how the channel's map becomes one value of an image.
        auc: how well that value tells held-out images with the concept from those without: 0.5 is chance, 1 perfect. From the second
            meaning on, images that show an earlier one are left out.
        low: lower end of the 95 % interval of `auc`.
        high: upper end.
        p: probability of such an `auc` by chance, times the number of tests that could have been made (Bonferroni).
        iou: overlap of the channel's most active places with the concept's, on held-out images; None: the bank has no masks of it.
        level: the channel's mean `strength` on the images with the concept that were counted.
        spread: its standard deviation there.
    """

    concept: str
    pool: str
    auc: float
    low: float
    high: float
    p: float
    iou: float | None
    level: float
    spread: float


@dataclass(frozen=True)
class Name(OneLineRepr):
    """What one channel is called.

    Attributes:
        channel: its number in the layer, from 0.
        meanings: what it answers to, first what suits it best; empty: no concept of the bank is good enough.
        nearest: the concept that suits it best, good enough or not, as tested; None: the channel is constant on the bank.
    """

    channel: int
    meanings: tuple[Meaning, ...]
    nearest: Meaning | None

    def __str__(self) -> str:
        """What it is called, with how sure that is; a concept that is no name is not given without saying so."""
        if self.meanings:
            meanings = "; ".join(f"{each.concept} (AUC {each.auc:.2f}, p = {each.p:.2g})" for each in self.meanings)
            return f"channel {self.channel}: {meanings}"
        if self.nearest is None:
            return f"channel {self.channel}: constant on the bank"
        least = f"nearest is {self.nearest.concept}, AUC {self.nearest.auc:.2f}, p = {self.nearest.p:.2g}"
        return f"channel {self.channel}: no concept stands out ({least})"

    @property
    def concept(self) -> str | None:
        """Its name: the first of its meanings; None: it has none."""
        return self.meanings[0].concept if self.meanings else None

    def shares(self, activation: Tensor) -> dict[str, float]:
        """How an activation `[h, w]` of the channel is divided among its meanings, summing to 1.

        A channel that answers strongly to red and faintly to orange means orange where it answers faintly. The shares are those of normal
        densities at the channel's `strength` here, with the mean and deviation that this has on the bank's images of each meaning, times
        that mean: what usually drives the channel more is more often behind its evidence. Beyond the outermost means the strength
        is taken to be theirs.
        """
        if len(self.meanings) < 2:
            return {each.concept: 1.0 for each in self.meanings}
        levels = [each.level for each in self.meanings]
        here = min(max(float(strength(activation[None, None])), min(levels)), max(levels))
        least = NARROWEST * max(map(abs, levels)) or 1.0
        found = []
        for each in self.meanings:
            spread = max(each.spread, least)
            found.append(math.log(max(abs(each.level), least)) - 0.5 * ((here - each.level) / spread) ** 2 - math.log(spread))
        weights = [math.exp(value - max(found)) for value in found]
        return {each.concept: weight / sum(weights) for each, weight in zip(self.meanings, weights, strict=True)}


def network_of(model: Model) -> str:
    """A short text that changes with what a network does with its weights, and with its preprocessing."""
    return behaviour((architecture(model.module), steady(model.preprocess)))


@dataclass(frozen=True, eq=False)
class Names(OneLineRepr):
    """What the channels of a layer are called.

    Attributes:
        rows: one for each channel, in order.
        concepts: of the bank.
        layer: dotted name.
        model: the network's name.
        fingerprint: of its weights.
        bank: the bank's name.
        identity: of the bank's images.
        images: that were used.
        least: held-out AUC that a name needs.
        problems: images that could not be used.
        network: a short text that changes with what the network does with its weights, and with its preprocessing; "": not known.
    """

    rows: tuple[Name, ...]
    concepts: tuple[str, ...]
    layer: str
    model: str
    fingerprint: str
    bank: str
    identity: str
    images: int
    least: float = LEAST
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    network: str = ""

    def __getitem__(self, channel: int) -> Name:
        """The name of a channel by its number."""
        return self.rows[channel]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def named(self) -> tuple[Name, ...]:
        """The channels that have a name, surest first."""
        return tuple(sorted((row for row in self.rows if row.meanings), key=lambda row: (-row.meanings[0].auc, row.channel)))

    @property
    def counts(self) -> dict[str, int]:
        """How many channels have each of the bank's names, most often first."""
        found = Counter(row.concept for row in self.rows if row.concept)
        return {name: found[name] for name in sorted(self.concepts, key=lambda name: -found[name])}

    def called(self, concept: str) -> tuple[Name, ...]:
        """The channels that are called so, surest first."""
        return tuple(row for row in self.named if row.concept == concept)

    def meaning(self, concept: str) -> dict[int, Meaning]:
        """The channels that answer to it, first or among other things, by their number."""
        return {row.channel: each for row in self.rows for each in row.meanings if each.concept == concept}

    def check(self, model: Model, layer: str, channels: int) -> None:
        """Refuse names that are of another network or layer.

        Raises:
            OptionError: with what they are of.
        """
        if layer != self.layer:
            raise OptionError(
                f"these names are of the layer {self.layer!r}; asked is {layer!r}: name that one, or give layer={self.layer!r}."
            )
        if channels != len(self.rows) or model.fingerprint() != self.fingerprint:
            raise OptionError(f"these names are of other weights ({self.model}, {len(self.rows)} channels): name this network's channels.")

    def table(self) -> Group:
        """How often each concept is a name, and its surest channel."""
        return telling.names_table(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "version": VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "network": self.network,
            "layer": self.layer,
            "bank": self.bank,
            "identity": self.identity,
            "images": self.images,
            "least": self.least,
            "concepts": list(self.concepts),
            "problems": [asdict(each) for each in self.problems],
            "names": [{**asdict(row), "stands_out": bool(row.meanings)} for row in self.rows],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a JSON file that `Names.load` reads; folders are made.

        Raises:
            OptionError: nothing can be written there, or a file is there that holds no names.
        """
        path = check_names_file(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json_text(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Names:
        """Read what `save` wrote.

        Raises:
            DataError: it is no such file.
        """
        path = Path(path).expanduser()
        try:
            told: Mapping[str, Any] = parsed_json(path.read_text(encoding="utf-8"))
            if told["version"] != VERSION:
                raise DataError(f"{path} is of another version of lucidcam: name the channels again.")
            rows = tuple(_read(row) for row in told["names"])
            problems = tuple(Problem(**each) for each in told["problems"])
            layer, model, mark, bank, identity = (str(told[key]) for key in ("layer", "model", "fingerprint", "bank", "identity"))
            images, least = int(told["images"]), float(told["least"])
            network = str(told.get("network", ""))
            return cls(rows, tuple(told["concepts"]), layer, model, mark, bank, identity, images, least, problems, network)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}; lucidcam concepts writes such a file.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} holds no names of channels: expected what lucidcam concepts writes.") from None


def check_names_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that names can be written to, found out before any work.

    Raises:
        OptionError: nothing can be written there, or a file is there that holds no names.
    """
    check_writable_file(path)
    check_document(path, '"fingerprint": ', '"identity": ')
    return Path(path).expanduser()


def _read(row: Mapping[str, Any]) -> Name:
    nearest = row["nearest"]
    meanings = tuple(Meaning(**each) for each in row["meanings"])
    return Name(int(row["channel"]), meanings, None if nearest is None else Meaning(**nearest))


def strength(maps: Tensor) -> Tensor:
    """How active channels are where they are active, however large that place: `Σ A|A| / Σ |A|`, 0 for none.

    Args:
        maps: `[n, C, h, w]`.

    Returns:
        `[n, C]`.
    """
    size = maps.abs().flatten(2)
    total = size.sum(-1)
    return torch.where(total > 0, (maps.flatten(2) * size).sum(-1) / total.clamp(min=1e-30), 0)
