"""A token bucket, for what a peer may send although it costs it nothing. Pure: the time is passed in."""


class TokenBucket:
    """`burst` at once, `rate` more a second, and what is earned."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: int, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = now

    def earn(self, amount: float) -> None:
        self._left = min(self._burst, self._left + amount)

    def spend(self, now: float) -> bool:
        """False: there was none left, and nothing is taken."""
        self.earn((now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def charge(self, now: float, amount: int) -> float:
        """Take all of it, on credit if need be: the seconds until that is paid back, or 0."""
        self.earn((now - self._at) * self._rate)
        self._at = now
        self._left -= amount
        return max(0.0, -self._left / self._rate)
