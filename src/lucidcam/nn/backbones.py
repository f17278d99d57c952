"""Convolutional networks that no library has: Network in Network, and a small one for small pictures."""

from __future__ import annotations

from torch import Tensor, nn

MAP_SIDE = 16
"""`Small` halves its map until a side has at most so many pixels."""


class NIN(nn.Module):
    """Network in Network (Lin et al., ICLR 2014), the ImageNet variant, up to its last maps.

    Four convolutions, each followed by two 1×1 convolutions. The third pooling of the original is left out, so that an input of
    224 × 224 gives a map of 13 × 13, as the networks of the CAM paper; the class convolution is left to `to_gap`.

    Attributes:
        features: `[B, 3, H, W]` → `[B, 1024, h, w]`, non-negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_mlpconv(3, 96, 11, stride=4),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_mlpconv(96, 256, 5, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_mlpconv(256, 384, 3, padding=1),
            nn.Dropout(0.5),
            *_mlpconv(384, 1024, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, 1024, h, w]`."""
        found: Tensor = self.features(x)
        return found


class Small(nn.Module):
    """3×3 convolutions with batch normalisation and ReLU; the map is halved until a side has at most 16 pixels, channels double.

    For digits, drawings and generated scenes: it trains in seconds to minutes on a CPU. The first convolution is 5×5, with stride 2 for
    inputs of more than 32 pixels.

    Args:
        size: pixels per side of the input, by which the number of halvings is chosen.
        width: channels of the first convolution; the last have four times as many.
        channels: of the input.

    Attributes:
        features: `[B, channels, H, W]` → `[B, 4 · width, h, w]`, non-negative.
    """

    def __init__(self, size: int = 64, width: int = 16, channels: int = 3) -> None:
        super().__init__()
        stride = 2 if size > 2 * MAP_SIDE else 1
        blocks: list[nn.Module] = [*_convolution(channels, width, 5, stride)]
        before, side = width, size // stride
        while side > MAP_SIDE:
            after = min(2 * before, 4 * width)
            blocks += [*_convolution(before, after), nn.MaxPool2d(2)]
            before, side = after, side // 2
        blocks += [*_convolution(before, 4 * width), *_convolution(4 * width, 4 * width)]
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, K, h, w]`."""
        found: Tensor = self.features(x)
        return found


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def _mlpconv(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    first = nn.Conv2d(before, after, kernel, stride, padding)
    return [first, nn.ReLU(), nn.Conv2d(after, after, 1), nn.ReLU(), nn.Conv2d(after, after, 1), nn.ReLU()]
