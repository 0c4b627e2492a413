"""A request whose upstream is not known yet, or may not be asked yet: its body is buffered until then."""

from typing import Final

from devroute.errors import DevrouteError
from devroute.http.message import Headers, RequestHead
from devroute.upstream.interface import NO_SINK, ResponseSink, Upstream, UpstreamStream

#: Bytes that are buffered before the source is paused: as much as a sidecar sends before it waits for us.
MAX_BUFFERED_BYTES: Final = 64 * 1024


class DeferredStream:
    """Buffers a request until `begin`, then forwards to its stream; implements UpstreamStream."""

    max_buffered = MAX_BUFFERED_BYTES

    def __init__(self, head: RequestHead, sink: ResponseSink) -> None:
        self._head = head
        self._sink = sink
        self._stream: UpstreamStream | None = None
        self._buffered: list[bytes] = []
        self._size = 0
        self._trailers: Headers | None = None
        self._request_paused = False
        self._response_paused = False
        self._cancelled = False

    def begin(self, upstream: Upstream) -> None:
        """Send the request there, unless it was cancelled."""
        if self._request_paused and self._trailers is None and not self._cancelled:
            # First: the stream may pause it until it is connected.
            self._sink.resume_request()
        if self._cancelled:
            return
        stream = self._stream = upstream.open(self._head, self._sink)
        self._sink = NO_SINK
        if self._response_paused:
            stream.pause_response()
        buffered, self._buffered = self._buffered, []
        for data in buffered:
            stream.send_data(data)
        if self._trailers is not None:
            stream.send_end(self._trailers)

    def fail(self, error: DevrouteError) -> None:
        """There is no upstream."""
        if not self._cancelled:
            self._cancelled = True
            sink, self._sink = self._sink, NO_SINK
            sink.on_error(error)

    def send_data(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.send_data(data)
            return
        if self._cancelled:
            return
        self._buffered.append(data)
        self._size += len(data)
        if self._size > self.max_buffered and not self._request_paused:
            self._request_paused = True
            self._sink.pause_request()

    def send_end(self, trailers: Headers) -> None:
        if self._stream is not None:
            self._stream.send_end(trailers)
        else:
            self._trailers = trailers

    def cancel(self) -> None:
        self._cancelled = True
        self._buffered = []
        if self._stream is not None:
            self._stream.cancel()

    def pause_response(self) -> None:
        self._response_paused = True
        if self._stream is not None:
            self._stream.pause_response()

    def resume_response(self) -> None:
        self._response_paused = False
        if self._stream is not None:
            self._stream.resume_response()
