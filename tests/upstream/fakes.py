"""Both sides of the Upstream interface, for tests of upstreams that wrap an upstream: no socket."""

import asyncio
from collections.abc import Callable

from devroute.errors import DevrouteError
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.interface import ResponseSink, UpstreamStream

OK = parse_response_head(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"GET")
SWITCHING = parse_response_head(b"HTTP/1.1 101 Now\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b"GET")


def head(framing: Framing = Framing.CHUNKED, method: bytes = b"POST") -> RequestHead:
    return RequestHead(method, b"/", framing, 0, b"")


async def timers_fired(seconds: float) -> None:
    """Wait until all timers of at most `seconds` that were set before have fired: timers keep their order."""
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, fired.set)
    await fired.wait()


class RecordingSink:
    """Records the calls that it gets."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.changed = asyncio.Event()

    def _record(self, event: object) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, met: Callable[[list[object]], bool]) -> None:
        async with asyncio.timeout(20):
            while not met(self.events):
                self.changed.clear()
                await self.changed.wait()

    def on_informational(self, head: ResponseHead) -> None:
        self._record(head.status)

    def on_head(self, head: ResponseHead) -> None:
        self._record(head.status)

    def on_data(self, data: bytes) -> None:
        self._record(data)

    def on_end(self, trailers: Headers) -> None:
        self._record("end")

    def on_error(self, error: DevrouteError) -> None:
        self._record(error)

    def pause_request(self) -> None:
        self._record("pause")

    def resume_request(self) -> None:
        self._record("resume")


class RecordingUpstream(RecordingSink):
    """Records the calls that it gets, as a stream too; `sink` takes the response to `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.sink: ResponseSink
        self.head: RequestHead
        self.trailers: Headers = []

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        self.head, self.sink = head, sink
        self._record("open")
        return self

    def send_data(self, data: bytes) -> None:
        self._record(data)

    def send_end(self, trailers: Headers) -> None:
        self.trailers = trailers
        self._record("end")

    def cancel(self) -> None:
        self._record("cancel")

    def pause_response(self) -> None:
        self._record("pause")

    def resume_response(self) -> None:
        self._record("resume")
