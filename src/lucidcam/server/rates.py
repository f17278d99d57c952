"""How often something may happen."""

from __future__ import annotations

import threading
import time


class TokenBucket:
    """A limit on how often something happens: a burst, and then a steady rate.

    >>> bucket = TokenBucket(burst=2, per_second=0.001)
    >>> [bucket.take() for _ in range(3)], bucket.wait() > 900
    ([True, True, False], True)

    Args:
        burst: how often it may happen at once.
        per_second: how often after that.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst, self.per_second = float(burst), per_second
        self._lock = threading.Lock()
        self._tokens, self._filled_at = self.burst, time.monotonic()

    def take(self) -> bool:
        """Take a token; False: there is none left at the moment."""
        with self._lock:
            self._fill()
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def wait(self) -> float:
        """Seconds until there is a token; 0.0: now."""
        with self._lock:
            self._fill()
            return max(0.0, (1 - self._tokens) / self.per_second)

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._filled_at) * self.per_second)
        self._filled_at = now
