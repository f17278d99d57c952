"""A log that visitors cannot flood."""

from __future__ import annotations

import logging
import threading
import time

LINES = 30
"""Lines that are written in a row."""

PER_MINUTE = 10.0
"""Lines a minute that are written after that."""


class Bounded(logging.Filter):
    """Lets so many records pass, then a few each minute; tells how many it left out.

    Args:
        lines: that pass in a row.
        per_minute: that pass after that.
    """

    def __init__(self, lines: int = LINES, per_minute: float = PER_MINUTE) -> None:
        super().__init__()
        self.lines, self.rate = lines, per_minute / 60
        self._lock = threading.Lock()
        self._left, self._at, self._dropped = float(lines), time.monotonic(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        with self._lock:
            now = time.monotonic()
            self._left, self._at = min(self.lines, self._left + (now - self._at) * self.rate), now
            if self._left < 1:
                self._dropped += 1
                return False
            self._left -= 1
            if self._dropped:
                record.msg = f"{record.getMessage()} ({self._dropped} lines before this one were left out)"
                record.args, self._dropped = None, 0
            return True


log = logging.getLogger("lucidcam.server")
"""What servers tell whoever runs them: faults of our own, and requests that are no HTTP."""

log.addFilter(Bounded())
