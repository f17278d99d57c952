"""A log that visitors cannot flood."""

from __future__ import annotations

import logging

from lucidcam.server.rates import TokenBucket

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
        self.bucket = TokenBucket(lines, per_minute / 60)
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if not self.bucket.take():
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.getMessage()} ({self._left_out} lines before this one were left out)"
            record.args, self._left_out = None, 0
        return True


log = logging.getLogger("lucidcam.server")
"""What servers tell whoever runs them: faults of our own, and requests that are no HTTP."""

log.addFilter(Bounded())
