"""Random draws that hang on the seed and the image alone, never on the batch an image happens to be in."""

from __future__ import annotations

import hashlib

import torch


def draws(seed: int, name: str, number: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one draw about one image.

    Args:
        seed: of the whole evaluation.
        name: of the image.
        number: of the draw: draws can be made in any order, and again.
        device: where the numbers are needed.

    >>> torch.rand(2, generator=draws(0, "cat.jpg")).equal(torch.rand(2, generator=draws(0, "cat.jpg")))
    True
    """
    digest = hashlib.blake2b(f"{seed}\n{number}\n{name}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
