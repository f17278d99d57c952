"""What runs over the same images can share, kept under names that are made from all that decided it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lucidcam.storage import Store, open_store

VERSION = 1
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
            tensors = load(self.store.read(_name(kind, made_from)))
            told = json.loads(bytes(tensors.pop("told").numpy()))
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None
        return tensors, told

    def put(self, kind: str, made_from: Sequence[str], tensors: Mapping[str, Tensor], told: Any) -> None:
        """Keep tensors, and what JSON can tell beside them."""
        import torch

        text = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        content = {**{name: tensor.contiguous() for name, tensor in tensors.items()}, "told": text}
        self.store.write(_name(kind, made_from), save(content))


def _name(kind: str, made_from: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for each in (str(VERSION), kind, *made_from):
        digest.update(f"{len(each)} {each}".encode())
    found = digest.hexdigest()
    return f"{kind}/{found[:2]}/{found[2:]}.safetensors"
