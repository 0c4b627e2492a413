"""Upstream that selects HTTP/1.1 or HTTP/2 for each request: gRPC needs HTTP/2, and for others the app gets
what the client speaks, if it understands that.

Whether an app speaks HTTP/2 is found out by the first such request, before anything of it is sent. In a
process that may never have one, as `devroute up`, it also has HTTP/2 loaded (lazy_http2.py).
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from devroute.errors import DevrouteError, UpstreamInvalid
from devroute.http.http2.headers import is_grpc
from devroute.http.message import VIA_HTTP2, Framing, RequestHead
from devroute.tasks import TaskOwner
from devroute.upstream.address_pool import MAX_IN_FLIGHT
from devroute.upstream.deferred import DeferredStream
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.lazy_http2 import load_http2, new_pool
from devroute.upstream.quota import RefusedStream

if TYPE_CHECKING:  # it is loaded when it is needed
    from devroute.upstream.http2_pool import Http2Pool

#: Seconds for an app to reply to HTTP/2's preface, unless the request needs HTTP/2: most of those that do not
#: speak it respond with an error, and some never.
NEGOTIATE_SECONDS: Final = 1.0

_UPGRADE: Final = Framing.UPGRADE


class NegotiatingUpstream:
    """The two pools of connections to one address; implements Upstream."""

    def __init__(
        self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT, http2: "Http2Pool | None" = None
    ) -> None:
        """`http2`: of the same dialer; None where HTTP/2 is loaded for the first request that needs it."""
        self._dialer = dialer
        self._http1 = Http1Pool(dialer, max_in_flight)
        self._http2 = http2
        self._tasks = TaskOwner()
        self._before_http2: list[DeferredStream] = []  # until it is loaded
        self._waiting: list[DeferredStream] = []  # until it is known what the app speaks

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        wire = head.wire
        if wire.find(b"application/grpc") >= 0 and is_grpc(wire):
            http2 = self._http2
            return self._once_loaded(head, sink) if http2 is None else http2.open(head, sink)
        if wire.endswith(VIA_HTTP2) and head.framing is not _UPGRADE:  # Via is the last line
            return self._open_over_http2(head, sink)
        return self._http1.open(head, sink)

    def _open_over_http2(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        http2 = self._http2
        if http2 is not None and http2.connected:
            return http2.open(head, sink)
        if self._http1.understood:
            return self._http1.open(head, sink)
        if http2 is None:
            return self._once_loaded(head, sink)
        return self._deferred(head, sink, self._waiting, self._negotiate)

    def _once_loaded(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return self._deferred(head, sink, self._before_http2, self._load)

    def _deferred(
        self,
        head: RequestHead,
        sink: ResponseSink,
        waiting: list[DeferredStream],
        work: Callable[[], Coroutine[Any, Any, None]],
    ) -> UpstreamStream:
        """A request that joins those `waiting` for `work`, which the first of them starts."""
        error = self.reserve()
        if error is not None:
            return RefusedStream(sink, error)
        stream = DeferredStream(head, sink)
        waiting.append(stream)
        if len(waiting) == 1:
            self._tasks.start(work())
        return stream

    async def _load(self) -> None:
        failure: DevrouteError | None = None
        try:
            await load_http2()
            self._http2 = new_pool(self._dialer, self._http1.max_in_flight)
        except ImportError as error:
            failure = DevrouteError(
                f"HTTP/2 cannot be loaded: {error}", hint="start devroute again: it was replaced meanwhile"
            )
        except RuntimeError as error:  # no thread: a limit of processes or memory
            failure = DevrouteError(f"HTTP/2 cannot be loaded: {error}")
        waiting, self._before_http2 = self._before_http2, []
        self._go_on(waiting, self, failure)

    async def _negotiate(self) -> None:
        http2 = self._http2
        assert http2 is not None
        upstream: Upstream = http2
        failure: DevrouteError | None = None
        try:
            await http2.probe(NEGOTIATE_SECONDS)
        except UpstreamInvalid:
            self._http1.understood = True
            upstream = self._http1
        except DevrouteError as error:
            failure = error
        waiting, self._waiting = self._waiting, []
        self._go_on(waiting, upstream, failure)

    def _go_on(self, waiting: list[DeferredStream], to: Upstream, failure: DevrouteError | None) -> None:
        for stream in waiting:
            self.unreserve()
            if failure is None:
                stream.begin(to)
            else:
                stream.fail(failure)

    @property
    def busy(self) -> bool:
        """Whether anything is connected, or about to be."""
        http2 = self._http2
        waiting = self._before_http2 or self._waiting
        return bool(self._http1.busy or (http2 is not None and http2.busy) or waiting)

    @property
    def in_flight(self) -> int:
        http2 = self._http2
        return self._http1.in_flight + (0 if http2 is None else http2.in_flight)

    def reserve(self) -> DevrouteError | None:
        error = self._http1.overload()
        if error is not None:
            self._http1.ended()
        return error

    def unreserve(self) -> None:
        self._http1.ended()

    def limit(self, max_in_flight: int) -> None:
        """The number of requests in flight over each HTTP version; those beyond it are not interrupted."""
        self._http1.max_in_flight = max_in_flight
        if self._http2 is not None:
            self._http2.max_in_flight = max_in_flight

    async def probe(self) -> None:
        """Check that the target accepts connections. Raises what `open` would have reported."""
        await self._http1.probe()

    def close_idle(self) -> None:
        """Close idle connections, and use those that are busy or being opened for no further request."""
        self._http1.close_idle()
        if self._http2 is not None:
            self._http2.close_idle()

    async def close(self) -> None:
        await self._tasks.close()
        await self._http1.close()
        if self._http2 is not None:
            await self._http2.close()
