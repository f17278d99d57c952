"""Small networks that hold the things which make capturing hard: functional and in-place ReLUs, several FC layers, concatenation, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DRAWN = 1_000_003
"""Random numbers that are drawn for a tensor; a prime, so that a larger one's rows differ although the numbers come again."""


@contextmanager
def few_numbers_drawn() -> Iterator[None]:
    """Within the block large tensors of random weights repeat their first `DRAWN` numbers: drawing VGG's 140 million takes seconds."""

    def quick(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(tensor: Tensor, *given: Any, **options: Any) -> Tensor:
            if tensor.numel() <= DRAWN or not tensor.is_contiguous():
                return draw(tensor, *given, **options)
            flat = tensor.view(-1)
            first = draw(flat[:DRAWN], *given, **options)
            for part in flat[DRAWN:].split(DRAWN):
                part.copy_(first[: len(part)])
            return tensor

        return drawn

    with patch.object(Tensor, "normal_", quick(Tensor.normal_)), patch.object(Tensor, "uniform_", quick(Tensor.uniform_)):
        yield


class FunctionalGAP(nn.Module):
    """Functional ReLUs, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


class SeveralFC(nn.Module):
    """A VGG in small: in-place ReLU modules, pooling, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(
            nn.Linear(90, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class DenseConcat(nn.Module):
    """A DenseNet in small: concatenation of everything so far, and a functional in-place ReLU right after the last normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1)
        self.last = nn.BatchNorm2d(14)
        self.fc = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x), inplace=True))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x), inplace=True))], 1)
        x = F.relu(self.last(x), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Residual(nn.Module):
    """A ResNet block whose one ReLU module runs three times, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm0(self.stem(x)))
        y = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(x + self.norm2(self.conv2(y)))
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """Two parallel branches, concatenated: a layer in one of them sees only a part."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 5, 5, padding=2), nn.ReLU())
        self.fc = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([self.left(x), self.right(x)], 1).amax((2, 3)))


class Tokens(nn.Module):
    """A vision transformer in small: a class token, registers, attention, a head on the class token."""

    def __init__(self, prefix: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 16)) if prefix else None
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.pool else x[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Fully(nn.Module):
    """Fully convolutional: a 1×1 convolution makes the class scores, then global pooling."""

    def __init__(self, relu: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 5, 1), nn.ReLU() if relu else nn.Identity(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


class SiLUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.silu(self.conv(x)).mean((2, 3)))


@dataclass
class Answer:
    logits: Tensor
    extra: str = "kept"


CONVOLUTIONAL = {
    "functional": (FunctionalGAP, "conv2"),
    "several-fc": (SeveralFC, "features.4"),
    "in-place": (SeveralFC, "features.3"),
    "concat": (DenseConcat, "last"),
    "inner-concat": (DenseConcat, "norm2"),
    "residual": (Residual, "relu"),
    "branch": (Branches, "right"),
    "fully": (Fully, "features"),
}
"""Name → network and a layer that is hard for it."""


def build(kind: type[nn.Module], seed: int = 0, dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    """A network in evaluation mode with random weights and strong, random normalisation statistics (negative scales included)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind(**options).to(dtype)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn(module.num_features, generator=generator).to(dtype)
            module.bias.data = torch.randn(module.num_features, generator=generator).to(dtype) * 0.5
            module.running_mean = torch.randn(module.num_features, generator=generator).to(dtype) * 0.2
            module.running_var = (torch.rand(module.num_features, generator=generator) + 0.5).to(dtype)
    return net.eval()


def images(batch: int = 3, size: tuple[int, int] = (20, 28), seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)
