"""The data port as its exchanges see it, of HTTP/1.1 (proxy/downstream/exchange.py) and HTTP/2
(proxy/downstream/http2_exchange.py) alike: which
route a request gets, how long anything may take, and what logs and counters hear when it is over. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from devroute import headers
from devroute.errors import DevrouteError
from devroute.headers import line_start
from devroute.http.message import InboundRequest
from devroute.proxy.telemetry.audit_events import answered
from devroute.upstream.interface import Upstream

#: The mesh identity that the caller has proved to the sidecar, which writes this line for every detour.
CALLER: Final = line_start(headers.CALLER)


@dataclass(slots=True, frozen=True)
class Route:
    """Where a request goes, and what is reported about it. `response_headers` are whole header lines, `label`
    is service and target as members of a JSON object, for the log, and `decision` those for the audit trail.
    `http2` is for requests that cannot do without it (gRPC), where that is another upstream."""

    upstream: Upstream
    service: str
    target: str
    response_headers: bytes
    label: bytes
    http2: Upstream | None = None
    decision: bytes = b""

    def with_response_headers(self, response_headers: bytes) -> "Route":
        """The same for one request whose answer says more of itself than its route can know."""
        decided = answered(self.decision, response_headers) if self.decision else b""
        return Route(
            self.upstream, self.service, self.target, response_headers, self.label, self.http2, decided
        )


@dataclass(slots=True)
class Timeouts:
    """In seconds. A breakpoint in the engineer's debugger is no reason to give up, so the waits for the
    answer are long; the waits for the client's own bytes are short."""

    head: float
    body: float
    first_byte: float
    idle: float
    keep_alive: float
    total: float


class Router(Protocol):
    def __call__(self, request: InboundRequest) -> Route:
        """Raises DevrouteError."""


class CompletedExchange(Protocol):
    """An exchange that is over, as logs and counters see it. `error` says why it failed; `status` is 0 where
    nobody got an answer."""

    request: InboundRequest
    request_id: bytes
    route: Route | None
    error: DevrouteError | None
    status: int
    bytes_in: int
    bytes_out: int

    def elapsed(self) -> float:
        """Seconds since the request's head was complete."""


class Context(Protocol):
    """What the exchanges of one data port share; `now` is a coarse clock in seconds."""

    router: Router
    timeouts: Timeouts
    observe: Callable[[CompletedExchange], None]
    now: float
    draining: bool
