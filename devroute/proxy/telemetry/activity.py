"""How many requests each target gets, and the last fallbacks, for the team's page. It has names of services
and targets, and reasons; nothing else of a request.

A request costs two additions. All that takes longer is done by `tick`, once every few seconds.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from devroute.downstream.context import CompletedExchange
from devroute.errors import DevrouteError
from devroute.proxy.telemetry.metrics import has_failed
from devroute.quoting import MAX_NAME, shortened
from devroute.routing.route import Route, Tally

#: Seconds between two ticks, and the ticks of a minute.
TICK_SECONDS: Final = 5.0
TICKS_A_MINUTE: Final = 12
#: Pairs of service and target that are counted; requests of further ones are counted together. Contracts may
#: name any address that policy permits.
MAX_TALLIES: Final = 2048
#: Under which further ones are counted.
OTHER: Final = "_OTHER"
#: Ticks without a request after which a pair is no longer counted: ten minutes.
IDLE_TICKS: Final = 120
#: Fallbacks that are kept, each by service, target and code.
MAX_FALLBACKS: Final = 64
#: Characters of a fallback's reason.
MAX_REASON: Final = 300


class _Counted:
    """`samples`: the counts at the last ticks, the newest last."""

    def __init__(self, service: str, target: str) -> None:
        self.service = service
        self.target = target
        self.tally = Tally()
        self.samples: deque[tuple[int, int]] = deque([(0, 0)], TICKS_A_MINUTE + 1)
        self.idle = 0


class Fallback(NamedTuple):
    """The sidecars of a service were sent to the service itself instead of to the target. `times`: decisions,
    each of which a sidecar may use for several requests. `last`: seconds since the epoch."""

    service: str
    target: str
    code: str
    reason: str
    times: int
    last: float


class Activity:
    """`count` is called with each completed exchange, `tick` every TICK_SECONDS."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], _Counted] = {}
        self._fallbacks: dict[tuple[str, str, str], Fallback] = {}

    def count(self, exchange: CompletedExchange) -> None:
        route = exchange.route
        if route is None:
            return
        tally = route.tally
        if tally is None or not tally.used:
            tally = route.tally = self._tally_of(route)
        tally.requests += 1
        if has_failed(exchange):
            tally.failed += 1

    def _tally_of(self, route: Route) -> Tally:
        key = route.service, route.target
        if key not in self._counted and len(self._counted) >= MAX_TALLIES:
            key = OTHER, OTHER
        if key not in self._counted:
            self._counted[key] = _Counted(*key)
        return self._counted[key].tally

    def tick(self) -> None:
        for key, counted in list(self._counted.items()):
            now = counted.tally.requests, counted.tally.failed
            counted.idle = 0 if now != counted.samples[-1] else counted.idle + 1
            counted.samples.append(now)
            if counted.idle > IDLE_TICKS:
                counted.tally.used = False
                del self._counted[key]

    def rates(self) -> Iterator[tuple[str, str, int, int]]:
        """Service, target, requests and failed ones of the last minute, of all that had any."""
        for counted in self._counted.values():
            requests, failed = counted.samples[0]
            made = counted.tally.requests - requests
            if made:
                yield counted.service, counted.target, made, counted.tally.failed - failed

    def fell_back(self, service: str, target: str, error: DevrouteError, now: float) -> None:
        """A sidecar was sent to the service. `now`: seconds since the epoch."""
        key = shortened(service, MAX_NAME), shortened(target, MAX_NAME), error.code
        found = self._fallbacks.pop(key, None)  # the last one comes last
        reason = shortened(error.message, MAX_REASON)
        times = 1 if found is None else found.times + 1
        self._fallbacks[key] = Fallback(*key, reason, times, now)
        if len(self._fallbacks) > MAX_FALLBACKS:
            del self._fallbacks[next(iter(self._fallbacks))]

    def fallbacks(self) -> list[Fallback]:
        """The newest first."""
        return list(reversed(self._fallbacks.values()))
