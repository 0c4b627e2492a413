"""A request whose upstream is found later."""

from devroute.http.message import Framing, RequestHead
from devroute.upstream.deferred import MAX_BUFFERED_BYTES, DeferredStream
from devroute.upstream.interface import ResponseSink, UpstreamStream


class Source(ResponseSink):
    """Counts as paused or not; what it holds back arrives as soon as it is resumed."""

    def __init__(self) -> None:
        self.paused = False
        self.held = b""
        self.stream: UpstreamStream | None = None

    def pause_request(self) -> None:
        self.paused = True

    def resume_request(self) -> None:
        self.paused = False
        held, self.held = self.held, b""
        if held and self.stream is not None:
            self.stream.send_data(held)


class Unconnected:
    """An upstream that pauses its source until it has a connection, as the pools do."""

    def __init__(self) -> None:
        self.sink: ResponseSink | None = None
        self.received = b""

    def open(self, head: RequestHead, sink: ResponseSink) -> "Unconnected":
        self.sink = sink
        return self

    def send_data(self, data: bytes) -> None:
        assert self.sink is not None
        if not self.received:
            self.sink.pause_request()
        self.received += data


def test_a_paused_source_stays_paused_until_the_stream_has_a_connection() -> None:
    source, upstream = Source(), Unconnected()
    stream = DeferredStream(RequestHead(b"POST", b"/", Framing.CHUNKED, 0, b""), source)
    source.stream = stream
    stream.send_data(b"a" * (MAX_BUFFERED_BYTES + 1))
    assert source.paused
    source.held = b"b"
    stream.begin(upstream)  # type: ignore[arg-type]
    assert source.paused
    assert upstream.received == b"a" * (MAX_BUFFERED_BYTES + 1) + b"b"
