"""Upstream that selects HTTP/1.1 or HTTP/2 per request: gRPC needs HTTP/2, everything else uses HTTP/1.1."""

from devroute.errors import DevrouteError
from devroute.http.http2.headers import is_grpc
from devroute.http.message import RequestHead
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.interface import ResponseSink, UpstreamStream


class NegotiatingUpstream:
    """HTTP/1.1 connections and HTTP/2 connections to one address; implements devroute.upstream.Upstream."""

    def __init__(self, host: str, port: int, *, unreachable: type[DevrouteError]) -> None:
        self._http1 = Http1Pool(host, port, unreachable=unreachable)
        self._http2 = Http2Pool(host, port, unreachable=unreachable)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if head.wire.find(b"application/grpc") >= 0 and is_grpc(head.wire):
            return self._http2.open(head, sink)
        return self._http1.open(head, sink)

    async def close(self) -> None:
        await self._http1.close()
        await self._http2.close()
