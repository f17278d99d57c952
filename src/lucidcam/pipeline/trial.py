"""Images are read in a process beside this one first: what kills that one is a bad file, and does not end the run.

The process is a fork of this one, so that it has all that reading takes, also what was defined in a notebook. What it reads it throws away;
only whether it lives counts. Where a system cannot fork in this way, or a GPU is at work, which forks cannot use, nothing is tried.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import torch

from lucidcam.storage import let_go

NOT_SENT = (pickle.PicklingError, AttributeError, TypeError, RecursionError)


class Trial:
    """Does pieces of work in another process before they are done here.

    Args:
        function: what is done with a piece; its result and its errors are of no interest.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.is_possible = sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._process: int | None = None
        self._pipe: Connection | None = None

    def survivors(self, pieces: Sequence[Any]) -> list[bool]:
        """Whether each piece leaves the process alive that works on it; True where that cannot be tried."""
        found: list[bool] = []
        while self.is_possible and len(found) < len(pieces):
            try:
                content = pickle.dumps(list(pieces[len(found) :]))
            except NOT_SENT:
                break
            try:
                if self._pipe is None:
                    self._begin()
                assert self._pipe is not None
                self._pipe.send_bytes(content)
                while len(found) < len(pieces):
                    self._pipe.recv_bytes()
                    found.append(True)
            except (EOFError, OSError):
                if self._pipe is None:  # it could not begin
                    self.is_possible = False
                    break
                self.close()
                found.append(False)
        return found + [True] * (len(pieces) - len(found))

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            with suppress(OSError):
                os.kill(self._process, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(self._process, 0)
        self._process = self._pipe = None

    def _begin(self) -> None:
        ours, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads, whose locks this process does not take
            process = os.fork()
        if process:
            theirs.close()
            self._process, self._pipe = process, ours
            return
        try:
            ours.close()
            self._work(theirs)
        finally:
            os._exit(0)

    def _work(self, pipe: Connection) -> None:
        """What the other process does, until this one ends."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.disable()
        let_go()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        torch.set_num_threads(1)
        while True:
            for piece in pickle.loads(pipe.recv_bytes()):
                with suppress(Exception):
                    self.function(piece)
                pipe.send_bytes(b"")
