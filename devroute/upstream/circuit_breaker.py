"""A circuit breaker for connections to one address. Pure: the caller passes the time.

closed      connect as asked
open        after FAILURES failed attempts in a row: no attempts for OPEN_SECONDS
half-open   then one attempt is let through, and its outcome closes the circuit or opens it again
"""

from typing import Final

#: Requests to a sleeping laptop that wait for the whole connect timeout before others fail at once.
FAILURES: Final = 5

#: Short, since a person waits for the laptop to come back: with the sidecar's cache of a fallback
#: (routing/decision.py) less than half a second.
OPEN_SECONDS: Final = 0.2


class CircuitBreaker:
    __slots__ = ("_failures", "_retry_at")

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def admits(self, now: float) -> bool:
        """Whether an attempt may be made; call `succeeded` or `failed` after it. `now` is in seconds."""
        if self._failures < FAILURES:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + OPEN_SECONDS  # others wait for the outcome of this attempt
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._retry_at = now + OPEN_SECONDS
