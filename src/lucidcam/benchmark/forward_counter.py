"""Counts what goes through a network, and ends what takes too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from lucidcam.engine.session import hook_until
from lucidcam.engine.trace import tensors_of
from lucidcam.utils.rollback import Scope


class TimeOverError(Exception):
    """Raised inside a network's forward pass, once the time is over."""


@dataclass
class Passes:
    """What went through a network.

    Attributes:
        rows: images whose outputs were computed.
        calls: forward passes they came in.
        stopped: whether the time was over before the work was done.
    """

    rows: int = 0
    calls: int = 0
    stopped: bool = False


@contextmanager
def counted(module: nn.Module, seconds: float | None = None) -> Iterator[Passes]:
    """Count a network's forward passes within the block; past the time the block ends after the pass that is under way.

    Rows of outputs are counted, not of inputs: a network above a layer may run on many activations of one image.

    Args:
        module: the network; a hook is on it as long as the block lasts.
        seconds: how long the block may take; the first pass is always let through. None: any time.
    """
    found = Passes()
    began = time.monotonic()

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        tensors = tensors_of(output)
        found.rows += len(tensors[0]) if tensors and tensors[0].ndim else 0
        found.calls += 1
        if seconds is not None and found.calls > 1 and time.monotonic() - began > seconds:
            raise TimeOverError

    with Scope() as scope:
        hook_until(scope, module, hook)
        try:
            yield found
        except TimeOverError:
            found.stopped = True
