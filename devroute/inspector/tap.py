"""Records what passes between the tunnel and an app: an upstream around an upstream, for each service.

Everything is passed on at once, as it came, and copied within the store's bounds. While captures are paused
it steps out of the way: the request then costs one comparison.
"""

from time import monotonic, time
from typing import Final, Protocol

from devroute.errors import DevrouteError
from devroute.heads import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.exchange import Exchange
from devroute.inspector.messages import MAX_MESSAGE_BYTES, GrpcMessages, Watcher, WebSocketMessages
from devroute.inspector.store import Captures
from devroute.upstream import ResponseSink, Upstream, UpstreamStream

_UPGRADE: Final = Framing.UPGRADE


class App(Upstream, Protocol):
    """The upstream of a local app."""

    async def close(self) -> None: ...


class Tapped:
    """An app whose exchanges are recorded; implements devroute.upstream.Upstream."""

    __slots__ = ("_app", "_captures", "_service")

    def __init__(self, app: App, service: str, captures: Captures) -> None:
        self._app = app
        self._service = service
        self._captures = captures

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if self._captures.paused:
            return self._app.open(head, sink)
        return self.record(head, sink)[1]

    def record(
        self, head: RequestHead, sink: ResponseSink, replay_of: int | None = None
    ) -> tuple[Exchange, UpstreamStream]:
        """The same with the exchange, paused or not: for requests that the inspector sends itself."""
        captures = self._captures
        exchange = captures.begin(self._service, head, time(), monotonic(), replay_of)
        tap = Tap(captures, exchange, sink)
        tap.stream = self._app.open(head, tap)
        return exchange, tap

    async def close(self) -> None:
        await self._app.close()


class Tap:
    """One exchange: the sink of the app's answer, and the stream of whoever asked."""

    __slots__ = ("_answers", "_asked", "_captures", "_exchange", "_half", "_sink", "_switched", "stream")

    def __init__(self, captures: Captures, exchange: Exchange, sink: ResponseSink) -> None:
        self._captures = captures
        self._exchange = exchange
        self._sink = sink
        self._switched = False  # a 101 has made it two pipes
        self._half = False  # one of the pipes has ended
        self._asked: Watcher | None = None
        self._answers: Watcher | None = None
        if exchange.kind == "grpc":
            self._asked = GrpcMessages(from_client=True)
        self.stream: UpstreamStream

    # --- the request

    def send_data(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange.stored:
            captures = self._captures
            if self._asked is not None:
                for message in self._asked.feed(data, monotonic() - exchange.opened):
                    captures.say(exchange, message)
            if exchange.kind == "websocket" and self._switched:
                captures.count(exchange, len(data), from_client=True)
            else:
                captures.receive(exchange, data, "request")
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self._captures.sent(self._exchange, monotonic())
        if self._switched:
            self._half_ended()
        self.stream.send_end(trailers)

    def cancel(self) -> None:
        exchange = self._exchange
        if exchange.state == "open":
            if self._switched and (self._half or _closed(exchange)):
                self._captures.end(exchange, [], monotonic())
            else:
                self._captures.fail(exchange, "cancelled", "the caller went away", monotonic())
        self.stream.cancel()

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    # --- the answer

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        exchange = self._exchange
        marks = self._captures.respond(exchange, head, monotonic())
        if head.framing is _UPGRADE:
            self._switched = True
            if exchange.kind == "websocket":
                extensions = marks.get(b"sec-websocket-extensions", b"").decode("latin-1")
                limit = min(MAX_MESSAGE_BYTES, self._captures.max_body)
                self._asked, self._answers = (
                    WebSocketMessages(from_client=side, extensions=extensions, limit=limit)
                    for side in (True, False)
                )
        elif exchange.kind == "grpc":
            self._answers = GrpcMessages(from_client=False)
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange.stored:
            captures = self._captures
            if self._answers is not None:
                for message in self._answers.feed(data, monotonic() - exchange.opened):
                    captures.say(exchange, message)
            if exchange.kind == "websocket" and self._switched:
                captures.count(exchange, len(data), from_client=False)
            else:
                captures.receive(exchange, data, "response")
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        if self._switched:
            self._half_ended()
        else:
            self._captures.end(self._exchange, trailers, monotonic())
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._captures.fail(self._exchange, error.code, error.message, monotonic())
        self._sink.on_error(error)

    def _half_ended(self) -> None:
        if self._half and self._exchange.state == "open":
            self._captures.end(self._exchange, [], monotonic())
        self._half = True

    # --- flow control

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()


def _closed(exchange: Exchange) -> bool:
    """Whether both have said goodbye, as far as we saw (RFC 6455 §7.1.4)."""
    return any(message.opcode == "close" for message in exchange.messages[-4:])
