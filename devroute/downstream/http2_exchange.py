"""An exchange over HTTP/2: turns the events of an Exchange into frames of the client's stream, and back."""

import asyncio
from functools import lru_cache
from typing import Final

from h2.errors import ErrorCodes

from devroute.downstream.context import Context
from devroute.downstream.exchange import Exchange
from devroute.errors import DevrouteError, RequestMalformed, UpstreamInvalid
from devroute.http.aio.http2_stream import Http2Stream
from devroute.http.error_response import error_body, http2_error_head
from devroute.http.grpc import status_trailers, timeout_of
from devroute.http.http2.headers import (
    Fields,
    is_grpc,
    may_be_idle,
    read_trailers,
    write_response,
    write_trailers,
)
from devroute.http.message import Framing, Headers, InboundRequest, ResponseHead, split_fields

_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_UPGRADE: Final = Framing.UPGRADE


class ServerStream(Http2Stream):
    """A client's stream, whose request goes to `exchange` until that is complete, and is then discarded."""

    __slots__ = ("_context", "_last_progress", "exchange")

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._last_progress = context.now
        self.exchange: Http2Exchange | None = None

    def detach(self) -> None:
        """The exchange is complete; what is left of the response is still sent."""
        self.exchange = None
        self._last_progress = self._context.now

    def send_error(self, error: DevrouteError, *, grpc: bool, body: bytes, bodyless: bool = False) -> int:
        """Send a whole response, without its body if `bodyless` (to HEAD); returns the body's size."""
        if grpc:
            body = b""
        self.send_head(http2_error_head(error, len(body), grpc=grpc))
        if bodyless:
            body = b""
        if body:
            self.send(body)
        self.end([])
        return len(body)

    def check(self, now: float) -> None:
        exchange = self.exchange
        if exchange is None:
            if now - self._last_progress > self._context.timeouts.idle:
                self.reset(ErrorCodes.CANCEL)  # the client does not read the rest of the response
        else:
            exchange.check(now, body_late=not (self.all_received or self._paused) and exchange.body_late(now))

    # --- from the client

    def consume(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.receive_data(data)

    def complete(self, trailers: Headers) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.request.framing is not _NONE:
            exchange.receive_end(trailers)

    def receive_trailers(self, fields: Fields) -> None:
        if self.exchange is None:
            self.receive_end([])
            return
        try:
            trailers = read_trailers(fields, RequestMalformed)
        except RequestMalformed as error:
            self.exchange.fail(error)
        else:
            self.receive_end(trailers)

    def receive_reset(self, code: int) -> None:
        self._client_gone("the client cancelled the request")

    def connection_lost(self, error: DevrouteError) -> None:
        self._client_gone("the client's connection ended before the response was complete")

    def _client_gone(self, reason: str) -> None:
        if self.exchange is not None:
            self.exchange.client_gone(reason)
        self.close()

    # --- to the client

    def sent(self) -> None:
        if self.all_received:
            self.close()
        else:
            self.reset(ErrorCodes.NO_ERROR)  # the rest of the request is of no use (RFC 9113 §8.1)

    def pause_source(self) -> None:
        if self.exchange is not None:
            self.exchange.pause_response()

    def resume_source(self) -> None:
        if self.exchange is not None:
            self.exchange.resume_response()


class Http2Exchange(Exchange):
    """One request and its response on a stream. A gRPC call ends with the caller's deadline. What follows an
    extended CONNECT is held back until the upstream has switched protocols: before, it could be taken for
    another request."""

    __slots__ = ("_client", "_deadline", "_grpc", "_held", "_upgraded")

    def __init__(self, client: ServerStream, context: Context, request: InboundRequest) -> None:
        super().__init__(context, request)
        self._client = client
        self._grpc = is_grpc(request.raw)
        self._deadline: asyncio.TimerHandle | None = None
        self._held = request.framing is _UPGRADE
        self._upgraded = False
        client.exchange = self

    def start(self) -> None:
        if self._held:
            self._client.pause_delivery()
        super().start()
        if self._grpc and not self.completed and (timeout := timeout_of(self.request.raw)) is not None:
            self._deadline = asyncio.get_running_loop().call_later(timeout, self._deadline_exceeded)

    def _deadline_exceeded(self) -> None:
        """The caller's deadline has passed, and the app has not reported that itself."""
        self._deadline = None
        error = self._no_response("within the caller's deadline")
        if not self._head_sent:
            self.fail(error)
            return
        self._stream.cancel()
        self.error = error
        self._client.discard_queued()
        self._client.end(status_trailers(error))
        self._complete()

    def _complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._client.detach()
        super()._complete()

    def body_late(self, now: float) -> bool:
        """Whether the request's body makes no progress; a stream of messages may be idle for any time."""
        request = self.request
        if now - self._active <= self._context.timeouts.body or request.framing is _UPGRADE:
            return False
        return not may_be_idle(request.raw)

    # --- from the client

    def receive_data(self, data: bytes) -> None:
        request = self.request
        framing = request.framing  # NONE, with data: a content-length of 0, and no END_STREAM with the head
        if (framing is _LENGTH or framing is _NONE) and self.bytes_in + len(data) > request.length:
            self._fail_length("longer")
        else:
            super().receive_data(data)

    def receive_end(self, trailers: Headers) -> None:
        request = self.request
        if request.framing is _LENGTH and self.bytes_in < request.length:
            self._fail_length("shorter")
        else:
            super().receive_end(trailers)

    def _fail_length(self, what: str) -> None:
        """Over HTTP/1.1 the app would take the next request for the rest of this body."""
        problem = f"the request's body is {what} than its content-length, {self.request.length} bytes"
        self.fail(RequestMalformed(problem, hint="RFC 9113 §8.1.1"))

    # --- to the client

    def send_interim(self, head: ResponseHead) -> None:
        self._client.send_head(write_response(head, []))

    def on_head(self, head: ResponseHead) -> None:
        if self._held and 200 <= head.status < 300:  # the client would take it for a switch of protocols
            problem = f"the response is {head.status}, and switches no protocols (101) as the request asks"
            self.fail(UpstreamInvalid(problem))
        else:
            super().on_head(head)

    def send_head(self, head: ResponseHead, response_headers: bytes) -> None:
        fields = write_response(head, _split_lines(response_headers))
        self._client.send_head(fields, end=head.framing is _NONE)
        if head.framing is _UPGRADE:
            self._held = False
            self._upgraded = True
            self._client.resume_delivery()

    def on_end(self, trailers: Headers) -> None:
        if self._upgraded:
            self._stream.send_end([])  # a stream that has ended takes nothing more from the client
        super().on_end(trailers)

    def send_data(self, data: bytes) -> None:
        self._client.send(data)

    def send_end(self, trailers: Headers) -> None:
        self._client.end(write_trailers(trailers))

    def send_error(self, error: DevrouteError, request_id: str) -> int:
        bodyless = self.request.method == b"HEAD"
        body = error_body(error, request_id)
        return self._client.send_error(error, grpc=self._grpc, body=body, bodyless=bodyless)

    def abort_response(self) -> None:
        self._client.reset(ErrorCodes.INTERNAL_ERROR)

    def finish(self) -> None:
        """The stream closes itself when all is sent."""

    def pause_request(self) -> None:
        self._client.pause_delivery()

    def resume_request(self) -> None:
        if not self._held:
            self._client.resume_delivery()


@lru_cache(maxsize=1024)
def _split_lines(lines: bytes) -> Headers:
    """A route's response headers as fields."""
    return split_fields(b"\r\n" + lines)
