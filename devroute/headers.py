"""The names of devroute's own headers, baggage members, cookie, query parameter and metadata namespaces.

Who sets each header, who reads it and who removes it: routing/SIDECAR.md, tunnel/PROTOCOL.md for a
laptop's link, and replicas/REGISTRY.md for the links between replicas. The Lua filters get these names
when the manifests are generated. Pure: names only, never values.
"""

from typing import Final

#: What all header names of devroute start with, the contract's own among them.
PREFIX: Final = "x-devroute"

# --- the request -------------------------------------------------------------------------------------------

#: The contract: JSON, or a signed one (a compact JWS).
CONTRACT: Final = "x-devroute"
#: The contract's key of the service whose sidecar detoured the request.
MATCHED: Final = "x-devroute-matched"
#: The services that have detoured this request so far: "b, c.shop". Guards against loops.
VIA: Final = "x-devroute-via"
#: The caller's mesh identity (a SPIFFE URI), from the certificate that it presented to the sidecar.
CALLER: Final = "x-devroute-caller"
#: Where the mesh finds the service itself, for failover: "b.shop.svc.cluster.local:8080".
ORIGIN: Final = "x-devroute-origin"
#: On a request that failed over: the service whose laptop declined it, and the Host by which it was called.
FAILOVER: Final = "x-devroute-failover"
HOST: Final = "x-devroute-host"
#: For the proxy's own sidecar: the service that a request is for, as host and port, and ":0" behind it, which
#: Envoy takes off (`ignore_port_in_host_matching`, which Istio sets) before it looks for the route.
EGRESS: Final = "x-devroute-egress"
#: The id of the trace (`devroute trace`) that this request belongs to.
TRACE: Final = "x-devroute-trace"
#: On a sidecar's report: TRACEPARENT, if that alone had the trace's id.
TRACE_SOURCE: Final = "x-devroute-trace-source"
#: On a sidecar's report: what the contract came by, "x-devroute,baggage".
ARRIVED: Final = "x-devroute-carriers"
#: W3C Trace Context: what tracing systems read. Traces of `devroute trace` have ids that sidecars know in it.
TRACEPARENT: Final = "traceparent"
#: Beside it, and passed on with it: what tracers of several vendors add.
TRACESTATE: Final = "tracestate"
#: On what a laptop reaches in the mesh: its subject, from this proxy. Proves something only together with the
#: proxy's mesh identity.
SUBJECT: Final = "x-devroute-subject"
#: The id that pairs the service's and the laptop's responses to one shadow request.
COMPARE: Final = "x-devroute-compare"
#: The ticket of the laptop that a shadow request without a contract is for.
COPY: Final = "x-devroute-copy"
#: "Bearer JWT" of a caller who may send contracts through the gateway. A header of its own, so that
#: Authorization is left to laptops and apps.
AUTHORIZATION: Final = "x-devroute-authorization"
#: From the Lua to Envoy's routes within one sidecar: the cluster of the request, and of its mirrored copy.
CLUSTER: Final = "x-devroute-cluster"
SHADOW: Final = "x-devroute-shadow"

# --- the response ------------------------------------------------------------------------------------------

#: What responded: "laptop", "service", "version", "mirror", "fallback" or "error".
RESULT: Final = "x-devroute-result"
#: Why, as one line of printable ASCII.
REASON: Final = "x-devroute-reason"

#: From the proxy's own sidecar to the caller's: nothing of the request has reached the proxy, and why. The
#: caller's sidecar sends such a request again, so an upstream's own ends at agent and proxy.
UNSENT: Final = "x-devroute-unsent"

#: Envoy's own: a response with it is not asked for again by the retries of the caller's sidecar, Istio's
#: default ones among them, unless they name `envoy-ratelimited`. (x-envoy-overloaded has no such effect.)
NO_RETRY: Final = "x-envoy-ratelimited"

# --- between sidecar, proxy and laptop ---------------------------------------------------------------------

#: On the 101 for a laptop's link: the id of the replica (tunnel/PROTOCOL.md).
REPLICA: Final = "x-devroute-replica"
#: The first field of a request for another replica's laptop: which link, and the service (replicas/node.py).
LINK: Final = "x-devroute-link"

#: The names by which a sidecar's service may stand in the contract, the most trusted first; its namespace.
CANDIDATES: Final = "x-devroute-candidates"
NAMESPACE: Final = "x-devroute-namespace"
#: "yes" if a reported response has its whole body, else "no".
WHOLE: Final = "x-devroute-whole"
#: The number of comparisons that were dropped before this one.
LOST: Final = "x-devroute-lost"
#: On a response from a laptop's tunnel: what one of the laptop's rules did, as a part of a sentence.
RULE: Final = "x-devroute-rule"

# --- other names -------------------------------------------------------------------------------------------

#: Members of W3C baggage: the contract, VIA (joined by "~") and TRACE.
BAGGAGE_CONTRACT: Final = "devroute"
BAGGAGE_VIA: Final = "devroute-via"
BAGGAGE_TRACE: Final = "devroute-trace"
#: A browser's contract, and the query parameter that sets it (gateways only).
COOKIE: Final = "devroute"
PARAMETER: Final = "devroute"
#: The parameter of the form by which a browser's user confirms that contract.
CONFIRMATION: Final = "confirm-devroute"
#: Envoy's metadata: a sidecar's settings and decision; a gateway's.
METADATA: Final = "devroute"
EDGE_METADATA: Final = "devroute.edge"


def line_start(name: str) -> bytes:
    """What a field line starts with in a head that a sidecar wrote, from the CRLF before it on."""
    return f"\r\n{name}: ".encode("ascii")
