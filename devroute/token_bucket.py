"""A token bucket: limits frames that are cheap to send, and lines in a log. Pure: the time is passed in."""


class TokenBucket:
    """`burst` tokens at once, `rate` more each second, and those that are earned. Times in seconds."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: int, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = now

    def earn(self, amount: float) -> None:
        self._left = min(self._burst, self._left + amount)

    def spend(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self.earn((now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def charge(self, now: float, amount: int) -> float:
        """Take `amount` tokens, on credit if necessary. The seconds until the credit is repaid, or 0."""
        self.earn((now - self._at) * self._rate)
        self._at = now
        self._left -= amount
        return max(0.0, -self._left / self._rate)
