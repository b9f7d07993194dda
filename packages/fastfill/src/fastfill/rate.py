"""A token bucket: how fast originals may be fetched and embedded."""

import time
from collections.abc import Callable


class TokenBucket:
    """Tokens come at a steady rate; a batch may take more than there are, the next one waits.

    In any stretch of t seconds at most `rate * t`, one second's worth and one batch are taken.

    Args:
        rate: Tokens a second; None for no limit.
        clock: Gives seconds.

    Raises:
        ValueError: `rate` is not > 0.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: float | None = None
        self._tokens, self._at = 0.0, clock()
        self.set_rate(rate)

    @property
    def rate(self) -> float | None:
        """Tokens a second; None for no limit."""
        return self._rate

    def set_rate(self, rate: float | None) -> None:
        """Go on at another rate; what was taken too much stays owed.

        Raises:
            ValueError: `rate` is not > 0.
        """
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"rate must be > 0 items a second, got {rate}")
        self._fill()
        self._rate = rate
        if rate is None:
            self._tokens = 0.0

    def take(self, count: int) -> None:
        """Take tokens, whether they are there or not."""
        self._fill()
        if self._rate is not None:
            self._tokens -= count

    def delay(self) -> float:
        """Return the seconds until nothing is owed; 0 where one may take."""
        self._fill()
        if self._rate is None or self._tokens >= 0:
            return 0.0
        return -self._tokens / self._rate

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
