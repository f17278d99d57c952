"""Networks that lucidcam makes: class activation mapping's, and M-CAM's memory. Modules only; `lucidcam.train` has the loops."""

from lucidcam.nn.backbones import NIN, Small
from lucidcam.nn.gap import GAPNetwork, to_gap
from lucidcam.nn.memory import Memory

__all__ = ["NIN", "GAPNetwork", "Memory", "Small", "to_gap"]
