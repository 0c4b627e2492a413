"""What a sampled request gets on its way: ids for its spans, and a `traceparent` that names the proxy's.

Spans are made later, of what the exchange has at its end (proxy/telemetry/tracing.py). Compiled (setup.py).
"""

import random
from collections.abc import Callable

from devroute.http.message import InboundRequest, RequestHead
from devroute.http.spans import AgentSpan, SpanIds, sampled_parent, with_parent
from devroute.http.trace_context import TraceParent
from devroute.routing.route import Route


class Sampler:
    """`report` gets the span of a laptop, once the tunnel has the end of its response."""

    def __init__(self, report: Callable[[AgentSpan], None]) -> None:
        self._report = report

    def sample(self, request: InboundRequest) -> SpanIds | None:
        """None unless the caller's span is sampled."""
        parent = sampled_parent(request.raw)
        return None if parent is None else SpanIds(parent, new_span_id(), new_span_id())

    def pass_on(self, ids: SpanIds, head: RequestHead, route: Route) -> None:
        """Put the client span into the head for the upstream."""
        head.wire = with_parent(head.wire, ids)
        if route.laptop:
            parent = TraceParent(ids.parent.trace_id, ids.client_id, ids.parent.flags)
            head.span = AgentSpan(parent, route.service, route.laptop, self._report)


def new_span_id() -> bytes:
    """Sixteen hexadecimal digits, not all zero (W3C Trace Context §3.2.2.4): unique, not secret."""
    return b"%016x" % (random.getrandbits(64) or 1)
