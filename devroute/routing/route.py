"""Where a request goes, and what is reported about it. Never judges whether it may go there (router.py)."""

from typing import Final, Protocol

from devroute import headers
from devroute.headers import line_start
from devroute.http.message import InboundRequest, result_lines
from devroute.upstream.interface import Upstream

#: The mesh identity that the caller has proved to the sidecar, which writes this line for every detour.
CALLER: Final = line_start(headers.CALLER)

_NO_STORE: Final = b"cache-control: no-store\r\n"


# No dataclass: mypyc cannot compile an __init__ that is made at run time.
class Route:
    """An upstream, and what responses, log and audit trail report about requests to it.

    `result` and `reason` are the values of the response headers of that name; `response_headers` are both as
    whole lines. `signer` is who signed the contract. `replica`: the address of the one that the request is
    forwarded to, None if the laptop's link ends here. `no_store`: no cache may keep a response, since it
    would serve a laptop's to others. `log_members` and `audit_members` belong to
    proxy/telemetry, which renders there, on first use, what all requests of a route have in common.
    """

    __slots__ = (
        "audit_members",
        "log_members",
        "no_store",
        "reason",
        "replica",
        "response_headers",
        "result",
        "service",
        "signer",
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
        no_store: bool = False,
        replica: str | None = None,
    ) -> None:
        self.replica = replica
        self.upstream = upstream
        self.service = service
        self.target = target
        self.result = result
        self.reason = reason
        self.signer = signer
        self.no_store = no_store
        self.response_headers = result_lines(result, reason) + (_NO_STORE if no_store else b"")
        self.log_members = b""
        self.audit_members = b""

    def with_outcome(self, result: str, reason: str) -> "Route":
        """The same for one request, whose response came about in another way (after a failover)."""
        no_store = self.no_store and result != "service"
        return Route(
            self.upstream,
            self.service,
            self.target,
            result,
            reason,
            self.signer,
            no_store=no_store,
            replica=self.replica,
        )


class Router(Protocol):
    def __call__(self, request: InboundRequest) -> Route:
        """Raises DevrouteError."""
