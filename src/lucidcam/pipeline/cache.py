"""What runs over the same images can share, kept under names that are made from all that decided it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import Store, open_store, sealed, unsealed

VERSION = 2
"""Of the layout; another one is not read."""


class Cache:
    """Tensors by what they were made from.

    Args:
        place: a folder, or a URL.
    """

    def __init__(self, place: str) -> None:
        self.store: Store = open_store(place)

    def get(self, kind: str, made_from: Sequence[str]) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors that were made from this, and what was told beside them; None: there are none, or they are damaged."""
        try:
            tensors = load(unsealed(self.store.read(_name(kind, made_from))))
            told = json.loads(bytes(tensors.pop("told").numpy()))
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None
        except OSError as error:
            raise OptionError(f"the cache {self.store} cannot be read: {error.strerror or error}; give another folder, or none.") from None
        return tensors, told

    def put(self, kind: str, made_from: Sequence[str], tensors: Mapping[str, Tensor], told: Any) -> None:
        """Keep tensors, and what JSON can tell beside them."""
        text = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        content = {**{name: tensor.contiguous() for name, tensor in tensors.items()}, "told": text}
        try:
            self.store.write(_name(kind, made_from), sealed(save(content)))
        except DataError as error:  # not a fault of the images: it ends the run
            raise OptionError(f"the cache cannot be written: {error}") from error


@dataclass(eq=False)
class Activations:
    """A layer's outputs in a cache: what the engine takes as its memory.

    Attributes:
        cache: where they are.
        network: what decides them beside the inputs: the weights, and how the network is run.
        compared: whether what the cache holds was computed anew once, and was the same.
        refused: whether it was another: then nothing is read or kept any more.
    """

    cache: Cache
    network: str
    compared: bool = field(default=False, init=False)
    refused: bool = field(default=False, init=False)

    @property
    def note(self) -> str | None:
        """What is to be told, as the end of "explained …"."""
        if not self.refused:
            return None
        return f"without the cache {self.cache.store}: what it holds is not what the network computes now; give another folder"

    def compare(self, same: bool) -> None:
        """See `lucidcam.engine.activation_cache.Memory`."""
        self.compared, self.refused = self.compared or same, self.refused or not same

    def get(self, key: str) -> list[Tensor] | None:
        """See `lucidcam.engine.activation_cache.Memory`."""
        found = None if self.refused else self.cache.get("activations", [self.network, key])
        if found is None:
            return None
        tensors, last = found
        return [tensors[str(i)].permute(0, 3, 1, 2) if last[i] else tensors[str(i)] for i in range(len(last))]

    def put(self, key: str, tensors: Sequence[Tensor]) -> None:
        """See `lucidcam.engine.activation_cache.Memory`."""
        if self.refused:  # entries of two networks that nothing tells apart must not be mixed
            return
        # In the layout they came in: the same layout gives the same sums, to the last bit.
        last = [each.ndim == 4 and each.is_contiguous(memory_format=torch.channels_last) for each in tensors]
        kept = {str(i): each.permute(0, 2, 3, 1) if last[i] else each for i, each in enumerate(tensors)}
        self.cache.put("activations", [self.network, key], kept, last)


def _name(kind: str, made_from: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for each in (str(VERSION), kind, *made_from):
        digest.update(f"{len(each)} {each}".encode())
    found = digest.hexdigest()
    return f"{kind}/{found[:2]}/{found[2:]}.safetensors"
