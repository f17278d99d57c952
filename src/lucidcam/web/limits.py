"""What one visitor may ask for, so that all of them are served."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lucidcam.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes on.

    Attributes:
        megabytes: of one uploaded file.
        megapixels: of one photo, as its header promises; larger ones are refused before they are decoded.
        waiting: actions that may wait their turn; more are refused.
        together: actions that are worked on at the same time.
        long: computations of many forward passes (Score-CAM, curves) that may run or wait; one runs at a time for each model.
        maps: that are shown side by side.
        seconds: after which a computation is ended.
        room: megabytes of all photos at a time. Where a new one does not fit, those go that were not asked about for longest.
        photos: how many there are at a time; likewise.
        kept: seconds after which a photo goes that nobody asks about.
    """

    megabytes: float = 20.0
    megapixels: float = 25.0
    waiting: int = 512
    together: int = 8
    long: int = 4
    maps: int = 12
    seconds: float = 600.0
    room: float = 2000.0
    photos: int = 256
    kept: float = 3600.0

    def __post_init__(self) -> None:
        small = [name for name, value in vars(self).items() if not (value > 0 and math.isfinite(value))]
        if small:
            raise OptionError(f"expected limits above 0; got {', '.join(f'{name}={getattr(self, name)}' for name in small)}.")
        if self.long >= self.together:
            raise OptionError(
                f"expected together > long, so that quick actions pass long ones; got together={self.together} and long={self.long}."
            )
        if self.megabytes > self.room:
            raise OptionError(f"expected room for one file at least; got megabytes={self.megabytes:g} and room={self.room:g}.")
