"""A small network for tests of the web app: quick, and every photo has scores of its own."""

from __future__ import annotations

import io
import time

import numpy as np
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam.imaging.preprocess import Preprocess

LABELS = ("red", "green", "blue", "dark", "bright", "plain")


def tiny(seed: int = 0) -> lucidcam.Model:
    """Three convolutions, global average pooling, six classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(LABELS)),
        )  # fmt: skip
        for each in net.modules():
            if isinstance(each, nn.Conv2d):
                nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
    return lucidcam.wrap(net.eval(), Preprocess(size=(48, 48), resize=48), labels=LABELS, name="tiny")


class Unhurried(nn.Module):
    """Takes a millisecond of the processor for each image, on however fast a machine."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        end = time.thread_time() + 0.001 * len(x)
        while time.thread_time() < end:
            pass
        return x


def unhurried() -> lucidcam.Model:
    """`tiny`, of which thousands of masked images take seconds everywhere."""
    quick = tiny()
    return lucidcam.wrap(nn.Sequential(Unhurried(), *quick.module), quick.preprocess, labels=LABELS, name="tiny")


class Tokens(nn.Module):
    """One block of a vision transformer: 16 tokens and one for the class, 12 channels, 20 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first = nn.Conv2d(3, 12, 12, 12), nn.Parameter(torch.randn(1, 1, 12))
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 2, batch_first=True)
        self.wide, self.narrow, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.head(self.narrow(self.wide(tokens).relu())[:, 0] + tokens[:, 1:].mean(1))


class ChannelsLast(nn.Module):
    """Patches, then layers on `[B, h, w, C]`: 12 channels, 20 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 8, 8), nn.LayerNorm(12)
        self.wide, self.narrow, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.narrow(self.wide(self.norm(self.patches(x).permute(0, 2, 3, 1))).relu()).mean((1, 2)))


def transformer() -> lucidcam.Model:
    return _seeded(Tokens, "transformer")


def channels_last() -> lucidcam.Model:
    return _seeded(ChannelsLast, "channels-last")


def _seeded(kind: type[nn.Module], name: str) -> lucidcam.Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lucidcam.wrap(kind().eval(), Preprocess(size=(48, 48), resize=48), labels=LABELS, name=name)


def photo(number: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A picture of blobs, one for each number."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a few bytes whose header promises far too many pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
