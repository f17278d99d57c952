"""What the methods that go down to the pixels share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lucidcam.engine.run import Run
from lucidcam.errors import OptionError
from lucidcam.methods._base import CHANNELS, Method

Reduce = Literal["max", "sum", "none"]


@dataclass(frozen=True, kw_only=True)
class PixelMethod(Method):
    """A method whose result has a value for each pixel and colour.

    Attributes:
        reduce: from colours to one value: "max" (the largest magnitude, Simonyan 2014), "sum" (signed), or "none": keep `[…, C, H, W]`.
    """

    kind = "pixel"

    reduce: Reduce = "max"

    def __post_init__(self) -> None:
        if self.reduce not in ("max", "sum", "none"):
            raise OptionError(f'expected reduce "max", "sum" or "none"; got {self.reduce!r}.')

    @abstractmethod
    def pixels(self, run: Run) -> Tensor:
        """Return signed values `[B, T, C, *spatial]`."""

    def maps(self, run: Run) -> Tensor:
        """Return `pixels` reduced over colours."""
        return self.reduced(self.pixels(run))

    def reduced(self, pixels: Tensor) -> Tensor:
        """Reduce `[B, T, C, *spatial]` over colours, as the option says."""
        if self.reduce == "none":
            return pixels
        return pixels.abs().amax(CHANNELS) if self.reduce == "max" else pixels.sum(CHANNELS)
