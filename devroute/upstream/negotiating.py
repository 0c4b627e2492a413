"""AppUpstream: an app on the laptop of which nobody said what it speaks. gRPC cannot do without HTTP/2, and
everything else can; so each request says it itself."""

from devroute.errors import DevrouteError
from devroute.http.http2.headers import is_grpc
from devroute.http.message import RequestHead
from devroute.upstream.http1_pool import DirectUpstream
from devroute.upstream.http2_pool import H2Upstream
from devroute.upstream.interface import ResponseSink, UpstreamStream


class AppUpstream:
    """HTTP/1.1 connections and HTTP/2 connections to one address; implements devroute.upstream.Upstream."""

    def __init__(self, host: str, port: int, *, unreachable: type[DevrouteError]) -> None:
        self._http1 = DirectUpstream(host, port, unreachable=unreachable)
        self._http2 = H2Upstream(host, port, unreachable=unreachable)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if head.wire.find(b"application/grpc") >= 0 and is_grpc(head.wire):
            return self._http2.open(head, sink)
        return self._http1.open(head, sink)

    async def close(self) -> None:
        await self._http1.close()
        await self._http2.close()
