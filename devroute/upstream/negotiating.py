"""Upstream that selects HTTP/1.1 or HTTP/2 per request: gRPC needs HTTP/2, everything else uses HTTP/1.1."""

from devroute.http.http2.headers import is_grpc
from devroute.http.message import RequestHead
from devroute.upstream.address_pool import MAX_IN_FLIGHT
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.interface import ResponseSink, UpstreamStream


class NegotiatingUpstream:
    """The two pools of connections to one address; implements Upstream."""

    def __init__(self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._http1 = Http1Pool(dialer, max_in_flight)
        self._http2 = Http2Pool(dialer, max_in_flight)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if head.wire.find(b"application/grpc") >= 0 and is_grpc(head.wire):
            return self._http2.open(head, sink)
        return self._http1.open(head, sink)

    @property
    def busy(self) -> bool:
        """Whether anything is connected, or about to be."""
        return self._http1.busy or self._http2.busy

    @property
    def in_flight(self) -> int:
        return self._http1.in_flight + self._http2.in_flight

    def limit(self, max_in_flight: int) -> None:
        """The number of requests in flight over each HTTP version; those beyond it are not interrupted."""
        self._http1.max_in_flight = max_in_flight
        self._http2.max_in_flight = max_in_flight

    async def probe(self) -> None:
        """Check that the target accepts connections. Raises what `open` would have reported."""
        await self._http1.probe()

    def close_idle(self) -> None:
        """Close idle connections, and use busy ones for no further request."""
        self._http1.close_idle()
        self._http2.close_idle()

    async def close(self) -> None:
        await self._http1.close()
        await self._http2.close()
