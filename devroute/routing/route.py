"""Where a request goes, and what is reported about it. Never judges whether it may go there (router.py)."""

from typing import Final, Protocol

from devroute import headers
from devroute.errors import FaultInjected
from devroute.headers import line_start
from devroute.http.message import InboundRequest, result_lines
from devroute.metrics.requests import Results
from devroute.upstream.interface import Upstream

#: The mesh identity that the caller has proved to the sidecar, which writes this line for every detour.
CALLER: Final = line_start(headers.CALLER)

#: Codes of the reason why a response is what it is, for logs and metrics; that of an error is its own code.
TUNNEL: Final = "tunnel"  # a laptop responds by its link
ADDRESS: Final = "address"  # a laptop, or what the contract names, responds at an address
RULE: Final = "rule"  # a rule of the laptop did something
FAILOVER: Final = "failover"  # the laptop declined, and the service responds
MIRROR: Final = "mirror"  # a copy that the contract asks for
SHADOW: Final = "shadow"  # a copy of shadow traffic
FAULT: Final = FaultInjected.code  # the contract's abort
REASON_CODES: Final = (TUNNEL, ADDRESS, RULE, FAILOVER, MIRROR, SHADOW, FAULT)

_NO_STORE: Final = b"cache-control: no-store\r\n"


class Tally:
    """The requests to one target of a service, and the failed ones among them. `used`: it is still read."""

    __slots__ = ("failed", "requests", "used")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.used = True


# No dataclass: mypyc cannot compile an __init__ that is made at run time.
class Route:
    """An upstream, and what responses, log and audit trail report about requests to it.

    `result` and `reason` are the values of the response headers of that name; `response_headers` are both as
    whole lines, unless others are given. `signer` is who signed the contract. `replica`: the address of the
    one that the request is forwarded to, None if the laptop's link ends here. `no_store`: no cache may keep
    a response, since it would serve a laptop's to others. `log_members`, `audit_members`, `metrics` and
    `tally` belong to proxy/telemetry, which keeps there, from first use on, what all requests of a route have
    in common.
    """

    __slots__ = (
        "_varied",
        "audit_members",
        "laptop",
        "log_members",
        "metrics",
        "no_store",
        "reason",
        "reason_code",
        "replica",
        "response_headers",
        "result",
        "service",
        "signer",
        "tally",
        "target",
        "upstream",
    )

    def __init__(
        self,
        upstream: Upstream,
        service: str,
        target: str,
        result: str,
        reason: str,
        signer: str | None = None,
        *,
        reason_code: str = TUNNEL,
        laptop: str = "",
        no_store: bool = False,
        replica: str | None = None,
        response_headers: bytes | None = None,
    ) -> None:
        self.replica = replica
        self.upstream = upstream
        self.service = service
        self.target = target
        self.result = result
        self.reason = reason
        self.reason_code = reason_code
        self.laptop = laptop
        self.signer = signer
        self.no_store = no_store
        if response_headers is None:
            response_headers = result_lines(result, reason) + (_NO_STORE if no_store else b"")
        self.response_headers = response_headers
        self.log_members = b""
        self.audit_members = b""
        self.metrics: Results | None = None
        self.tally: Tally | None = None
        self._varied: Route | None = None

    def with_outcome(self, result: str, reason: str, reason_code: str) -> "Route":
        """The same for requests whose response came about in another way (after a failover). The last one is
        kept: many responses in a row have the same."""
        kept = self._varied
        if kept is not None and (kept.result, kept.reason, kept.reason_code) == (result, reason, reason_code):
            return kept
        no_store = self.no_store and result != "service"
        self._varied = varied = Route(
            self.upstream,
            self.service,
            self.target,
            result,
            reason,
            self.signer,
            reason_code=reason_code,
            laptop=self.laptop,
            no_store=no_store,
            replica=self.replica,
        )
        return varied


class Router(Protocol):
    def __call__(self, request: InboundRequest) -> Route:
        """Raises DevrouteError."""
