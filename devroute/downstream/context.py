"""What the connections and exchanges of one listener share: router, timeouts, clock, observer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from devroute.downstream.sampling import Sampler
from devroute.errors import DevrouteError
from devroute.http.message import HEAD_LIMITS, HeadLimits, InboundRequest
from devroute.http.spans import SpanIds
from devroute.quoting import MAX_REQUEST_ID
from devroute.routing.route import Route, Router


@dataclass(slots=True)
class Timeouts:
    """In seconds. The waits for the response are long, since an engineer may have stopped the app at a
    breakpoint; the waits for the client's own bytes are short."""

    head: float
    body: float
    first_byte: float
    idle: float
    keep_alive: float
    total: float


# A base class rather than a Protocol: mypyc reads its attributes directly.
class CompletedExchange:
    """An exchange after its end, as metrics, logs and traces see it. `error` is why it failed; `status` is 0
    if the client got no response head. `spans`: None unless the request is sampled.

    Times by time.monotonic(): `started`, its request's head was complete; `opened`, it was sent upstream (0:
    never); `ended`, the upstream's response was complete or has failed; `finished`, the client's was written.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "ended",
        "error",
        "finished",
        "opened",
        "request",
        "request_id",
        "route",
        "spans",
        "started",
        "status",
    )

    def __init__(self, request: InboundRequest, started: float) -> None:
        self.request = request
        self.request_id = request.request_id[:MAX_REQUEST_ID]
        self.route: Route | None = None
        self.spans: SpanIds | None = None
        self.error: DevrouteError | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.started = started
        self.opened = 0.0
        self.ended = 0.0
        self.finished = 0.0


class ServerConnection(Protocol):
    """A client's connection, of either HTTP version."""

    @property
    def in_flight(self) -> int:
        """The number of requests whose response is not complete."""

    def check(self, now: float) -> None:
        """Enforce the timeouts; called about once a second."""

    def drain(self) -> None:
        """Accept no new requests; close when none is in flight."""

    def abort(self) -> None: ...


class Context:
    """The state that the connections of one listener share. `now` is a coarse clock in seconds, so that a
    request needs neither a timer nor a system call."""

    def __init__(
        self,
        router: Router,
        timeouts: Timeouts,
        observe: Callable[[CompletedExchange], None],
        now: float,
        head_limits: HeadLimits = HEAD_LIMITS,
        sampler: Sampler | None = None,
    ) -> None:
        """`sampler`: None without traces."""
        self.router = router
        self.timeouts = timeouts
        self.observe = observe
        self.now = now
        self.head_limits = head_limits
        self.sampler = sampler
        self.draining = False
        self.drained = asyncio.Event()  # draining, and no request is in flight any more
        self.connections: set[ServerConnection] = set()

    @property
    def in_flight(self) -> int:
        return sum(connection.in_flight for connection in self.connections)

    def exchange_ended(self) -> None:
        """Connections call this after each exchange while `draining`."""
        if self.draining and not self.in_flight:
            self.drained.set()
