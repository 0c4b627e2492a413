"""One exchange over HTTP/2: a request from a sidecar, its way to an upstream, and its answer.

As proxy/downstream/exchange.py's Exchange does for HTTP/1.1, it asks the router where the request goes and
moves bytes both ways as they come. It never lets an incomplete answer look complete.
"""

import asyncio
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from h2.errors import ErrorCodes

from devroute.errors import (
    ClientClosed,
    DevrouteError,
    RequestMalformed,
    RequestTimeout,
    UpstreamInvalid,
    UpstreamTimeout,
)
from devroute.http.aio.http2_stream import Http2Stream
from devroute.http.error_response import error_body, http2_error_head
from devroute.http.grpc import status_trailers, timeout_of
from devroute.http.http2.headers import Fields, is_grpc, read_trailers, write_response, write_trailers
from devroute.http.message import Framing, Headers, InboundRequest, ResponseHead, split_fields
from devroute.proxy.downstream.context import Context
from devroute.proxy.downstream.exchange import MAX_INTERIM
from devroute.routing.route import Route
from devroute.upstream.interface import UpstreamStream

_NONE: Final = Framing.NONE


class Clock(Protocol):
    """The connection that a request came on, as far as it tells the time (proxy/downstream/http2.py)."""

    def time(self) -> float: ...
    def after(self, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle: ...


class _Answering(Http2Stream):
    """The client's half is only read to be thrown away, unless a subclass knows better."""

    __slots__ = ()

    def answer(
        self, error: DevrouteError, *, grpc: bool, request_id: str | None = None, body: bool = True
    ) -> int:
        """The whole of an error's answer; the size of its body."""
        text = b"" if grpc else error_body(error, request_id)
        self.send_head(http2_error_head(error, len(text), grpc=grpc))
        if text and body:
            self.send(text)
        self.end([])
        return len(text) if body else 0

    def sent(self) -> None:
        if self.all_received:
            self.close()
        else:
            self.reset(ErrorCodes.NO_ERROR)  # the rest of the request is of no use (RFC 9113 §8.1)

    def receive_trailers(self, fields: Fields) -> None:
        self.receive_end([])

    def consume(self, data: bytes) -> None: ...
    def complete(self, trailers: Headers) -> None: ...
    def pause_source(self) -> None: ...
    def resume_source(self) -> None: ...

    def receive_reset(self, code: int) -> None:
        self.close()

    def connection_lost(self, error: DevrouteError) -> None:
        self.close()


class Refusal(_Answering):
    """The answer to a request that could not be read."""

    __slots__ = ()


class Http2Exchange(_Answering):
    """One request and its answer; implements ResponseSink and CompletedExchange."""

    __slots__ = (
        "_active",
        "_client",
        "_deadline",
        "_grpc",
        "_head_sent",
        "_interim",
        "_observed",
        "_server",
        "_stream",
        "bytes_in",
        "bytes_out",
        "error",
        "request",
        "request_id",
        "route",
        "started",
        "status",
    )

    def __init__(self, client: Clock, server: Context, request: InboundRequest) -> None:
        super().__init__()
        self._client = client
        self._server = server
        self.request = request
        self.request_id = request.request_id
        self.started = client.time()
        self.route: Route | None = None
        self.error: DevrouteError | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._stream: UpstreamStream | None = None  # while the upstream is at work
        self._grpc = is_grpc(request.raw)
        self._deadline: asyncio.TimerHandle | None = None
        self._active = server.now
        self._head_sent = False
        self._interim = 0
        self._observed = False

    def begin(self) -> None:
        request = self.request
        try:
            route = self._server.router(request)
        except DevrouteError as error:
            self.on_error(error)
            return
        self.route = route
        if self._grpc and (timeout := timeout_of(request.raw)) is not None:
            self._deadline = self._client.after(timeout, self._deadline_over)
        self._stream = route.upstream.open(request.forward(), self)

    def elapsed(self) -> float:
        """Seconds since the request's head was complete."""
        return self._client.time() - self.started

    def _over(self) -> None:
        """Told once: the answer is given, or will not be."""
        self._stream = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._observed:
            self._observed = True
            self._server.observe(self)

    # --- from the client

    def consume(self, data: bytes) -> None:
        self._active = self._server.now
        self.bytes_in += len(data)
        if self._stream is not None:
            self._stream.send_data(data)

    def complete(self, trailers: Headers) -> None:
        if self._stream is not None and self.request.framing is not _NONE:
            self._stream.send_end(trailers)

    def receive_trailers(self, fields: Fields) -> None:
        try:
            trailers = read_trailers(fields, RequestMalformed)
        except RequestMalformed as error:
            self._break_off(error)
        else:
            self.receive_end(trailers)

    def receive_reset(self, code: int) -> None:
        self._client_gone("the client cancelled the request")

    def connection_lost(self, error: DevrouteError) -> None:
        self._client_gone("the client's connection ended before the answer was complete")

    def _client_gone(self, why: str) -> None:
        if self._stream is not None:
            self._stream.cancel()
        if not self._observed:
            self.error = ClientClosed(why)
            self._over()
        self.close()

    # --- from the upstream

    def on_informational(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self._break_off(UpstreamInvalid(f"more than {MAX_INTERIM} interim answers (1xx)"))
            return
        self.send_head(write_response(head, []))

    def on_head(self, head: ResponseHead) -> None:
        self._active = self._server.now
        self.status = head.status
        self._head_sent = True
        if head.outcome is not None and self.route is not None:
            self.route = self.route.with_outcome(*head.outcome)
        marks = _fields_of(self.route.response_headers) if self.route is not None else []
        self.send_head(write_response(head, marks), end=head.framing is _NONE)

    def on_data(self, data: bytes) -> None:
        self._active = self._server.now
        self.bytes_out += len(data)
        self.send(data)

    def on_end(self, trailers: Headers) -> None:
        self.end(write_trailers(trailers))
        self._over()

    def on_error(self, error: DevrouteError) -> None:
        self.error = error
        if self.route is not None:
            error.at(self.route.service, self.route.target)
        self._stream = None
        if self._head_sent:
            self._over()
            self.reset(ErrorCodes.INTERNAL_ERROR)  # never a short answer that looks complete
            return
        self.status = error.status
        if not self.request_id:
            self.request_id = str(uuid.uuid4()).encode()
        request_id = self.request_id.decode("latin-1")
        with_body = self.request.method != b"HEAD"
        self.bytes_out = self.answer(error, grpc=self._grpc, request_id=request_id, body=with_body)
        self._over()

    def _break_off(self, error: DevrouteError) -> None:
        """The request cannot go on: stop the upstream, tell the client if that is still possible."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self.on_error(error)

    # --- flow control

    def pause_request(self) -> None:
        self.pause_delivery()

    def resume_request(self) -> None:
        self.resume_delivery()

    def pause_source(self) -> None:
        if self._stream is not None:
            self._stream.pause_response()

    def resume_source(self) -> None:
        if self._stream is not None:
            self._stream.resume_response()

    # --- time

    def _deadline_over(self) -> None:
        """The caller's deadline has passed, and the app has not said so itself."""
        self._deadline = None
        target = self.route.target if self.route is not None else "the target"
        error = UpstreamTimeout(f"{target} did not answer within the caller's deadline")
        if not self._head_sent:
            self._break_off(error)
            return
        if self._stream is not None:
            self._stream.cancel()
        self.error = error
        self.discard_queued()
        self.end(status_trailers(error))
        self._over()

    def check(self, now: float) -> None:
        timeouts = self._server.timeouts
        waited = now - self._active
        if self._observed:
            if waited > timeouts.idle:
                self.reset(ErrorCodes.CANCEL)  # nobody reads the rest of the answer
        elif not self._head_sent and waited > timeouts.first_byte:
            target = self.route.target if self.route is not None else "the target"
            self._break_off(UpstreamTimeout(f"{target} did not answer within {timeouts.first_byte:g} s"))
        elif self._head_sent and waited > timeouts.idle:
            self._break_off(UpstreamTimeout(f"no byte either way for {timeouts.idle:g} s"))
        elif self.elapsed() > timeouts.total:
            self._break_off(UpstreamTimeout(f"the request was not complete after {timeouts.total:g} s"))
        elif self._body_late(waited):
            self._break_off(RequestTimeout(f"the request's body made no progress for {timeouts.body:g} s"))

    def _body_late(self, waited: float) -> bool:
        """gRPC's calls may be silent for as long as they like; a request's body may not."""
        due = not self.all_received and not self._paused and not self._grpc
        return due and waited > self._server.timeouts.body


@lru_cache(maxsize=1024)
def _fields_of(marks: bytes) -> Headers:
    """A route's marks as fields."""
    return split_fields(b"\r\n" + marks)
