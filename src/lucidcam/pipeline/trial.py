"""Images are read in a process beside this one first: what kills that one is a bad file, and does not end the run.

The process is a fork of this one, so that it has all that reading takes, also what was defined in a notebook. What it reads it throws away;
only whether it lives counts. It works on the next images while this one explains those before. Where a system cannot fork in this way, or a
GPU is at work, which forks cannot use, nothing is tried.
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

from lucidcam.io.storage import let_go

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
        self._pieces: list[Any] = []
        self._alive: list[bool] = []

    def begin(self, pieces: Sequence[Any]) -> None:
        """Let the process work on pieces, while this one does something else; `survivors` tells what came of it."""
        self._pieces, self._alive = list(pieces), []
        self._send()

    def survivors(self) -> list[bool]:
        """Whether each piece that was begun leaves the process alive that works on it; True where that cannot be tried.

        A piece has to end two processes: something else may have ended the first.
        """
        suspect = -1
        while self.is_possible and len(self._alive) < len(self._pieces):
            try:
                if self._pipe is None:
                    raise EOFError
                self._pipe.recv_bytes()
                self._alive.append(True)
            except (EOFError, OSError):
                self.close()
                if suspect == len(self._alive):
                    self._alive.append(False)
                else:
                    suspect = len(self._alive)
                self._send()  # what is left, to a new process
        return self._alive + [True] * (len(self._pieces) - len(self._alive))

    def _send(self) -> None:
        """Send what is not done yet, to a new process where there is none."""
        left = self._pieces[len(self._alive) :]
        if not self.is_possible or not left:
            return
        try:
            content = pickle.dumps(left)
        except NOT_SENT:
            self._alive += [True] * len(left)
            return
        for _ in range(2):
            try:
                if self._pipe is None:
                    self._begin()
            except OSError:  # no process can be had
                self.is_possible = False
                return
            assert self._pipe is not None
            try:
                self._pipe.send_bytes(content)
            except OSError:  # something else ended it while it had nothing to do
                self.close()
            else:
                return

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
