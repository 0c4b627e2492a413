"""A connection to the data port without a socket: the result of bytes that are cut anywhere. Never waits."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

from devroute.downstream.context import CompletedExchange, Timeouts
from devroute.downstream.http1 import Http1ServerConnection
from devroute.downstream.listener import Listener
from devroute.errors import LaptopOffline
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, InboundRequest, RequestHead
from devroute.routing.route import Route
from devroute.upstream.interface import ResponseSink


class Loop:
    """An event loop whose callbacks run when `run` is called."""

    def __init__(self) -> None:
        self.due: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.due.append((callback, args))

    def time(self) -> float:
        return 0.0

    def run(self) -> None:
        while self.due:
            callback, args = self.due.pop(0)
            callback(*args)


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.ended = True

    abort = close

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_extra_info(self, name: str) -> None: ...


class Recorder:
    """Records each complete request and responds to it; implements Upstream and UpstreamStream."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.whole: list[Whole] = []
        self.head: RequestHead | None = None
        self.body = b""
        self.sink: ResponseSink | None = None

    def open(self, head: RequestHead, sink: ResponseSink) -> "Recorder":
        self.head, self.sink, self.body = head, sink, b""
        if head.framing is Framing.NONE or head.framing is Framing.UPGRADE:
            self.loop.call_soon(self.answer, [])
        return self

    def send_data(self, data: bytes) -> None:
        self.body += data

    def send_end(self, trailers: Headers) -> None:
        self.loop.call_soon(self.answer, trailers)

    def answer(self, trailers: Headers) -> None:
        if self.sink is None or self.head is None:
            return
        self.whole.append(Whole(self.head, self.body, trailers))
        sink, self.sink = self.sink, None
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        sink.on_head(parse_response_head(answer, self.head.method))
        sink.on_end([])

    def cancel(self) -> None:
        self.sink = None

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


TIMEOUTS = Timeouts(head=1, body=1, first_byte=1, idle=1, keep_alive=1, total=1000)


class Whole(NamedTuple):
    """A request that reached the upstream completely."""

    head: RequestHead
    body: bytes
    trailers: Headers


class Conversation(NamedTuple):
    """`answers`: status or error code of each response, in order."""

    answers: list[tuple[bytes, bytes]]
    whole: list[Whole]
    ended: bool


def conversation(raw: bytes, cuts: Iterable[int] = ()) -> Conversation:
    """The result of these bytes, cut at the positions."""
    loop = Loop()
    upstream = Recorder(loop)

    def route(request: InboundRequest) -> Route:
        if len(request.matched) != 1:
            raise LaptopOffline("nobody")
        return Route(upstream, "foo", "alice", "laptop", "")

    def observe(_: CompletedExchange) -> None: ...

    server = Listener(route, TIMEOUTS, observe, 0.0)
    connection = Http1ServerConnection(server, cast(asyncio.AbstractEventLoop, loop))
    transport = Transport()
    connection.connection_made(cast(asyncio.Transport, transport))
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    for start, stop in itertools.pairwise(places):
        connection.received(raw[start:stop])
        loop.run()
    answers = re.findall(rb'HTTP/1\.1 (\d{3})|"code": "([a-z-]+)"', transport.written)
    return Conversation(answers, upstream.whole, transport.ended)
