"""An exchange over HTTP/1.1: turns the events of an Exchange into bytes on the client's connection."""

from typing import Final

from devroute.downstream.context import Context
from devroute.downstream.exchange import Exchange
from devroute.errors import DevrouteError, RequestMalformed, RequestTimeout
from devroute.http.aio.connection import Connection
from devroute.http.error_response import error_body, http1_error_head
from devroute.http.http1.body import encode_chunk, encode_last_chunk
from devroute.http.message import Framing, Headers, InboundRequest, ResponseHead

_CHUNKED: Final = Framing.CHUNKED
_CLOSE: Final = Framing.CLOSE
_UPGRADE: Final = Framing.UPGRADE


# A base class rather than a Protocol: mypyc calls its methods directly.
class Downstream(Connection):
    """The client's connection, as its exchange uses it (downstream/http1.py)."""

    __slots__ = ()

    @property
    def body_pending(self) -> bool:
        """Whether the end of the request's body was not received."""
        raise NotImplementedError

    def finish_exchange(self, *, keep_alive: bool) -> None:
        """The response is written."""
        raise NotImplementedError

    def abort_exchange(self) -> None:
        """Reset the connection, in the middle of a response."""
        raise NotImplementedError

    def upgrade(self) -> None:
        """A 101 was written: all that follows is data for the upstream."""
        raise NotImplementedError

    def end_upgraded(self, *, both: bool) -> bool:
        """Close our half, or the connection if `both` halves ended. True if the client may still send."""
        raise NotImplementedError


class Http1Exchange(Exchange):
    """One request and its response on an HTTP/1.1 connection."""

    __slots__ = (
        "_chunked",
        "_client_ended",
        "_connection",
        "_continued",
        "_keep_alive",
        "_upstream_ended",
        "upgraded",
    )

    def __init__(self, connection: Downstream, context: Context, request: InboundRequest) -> None:
        super().__init__(context, request)
        self._connection = connection
        self._keep_alive = request.keep_alive
        self._chunked = False
        self._continued = False
        self.upgraded = False
        self._client_ended = False  # the two halves of an upgraded connection
        self._upstream_ended = False

    # --- to the client

    def send_interim(self, head: ResponseHead) -> None:
        self._continued = self._continued or head.status == 100
        if self.request.minor:  # RFC 9110 §15.2: HTTP/1.0 has no 1xx
            self._connection.write(head.forward(b"", chunked=False, close=False))

    def send_head(self, head: ResponseHead, response_headers: bytes) -> None:
        framing = head.framing
        if framing is _UPGRADE:
            self.upgraded = True
            lines = response_headers + b"connection: upgrade\r\n"
            self._connection.write(head.forward(lines, chunked=False, close=False))
            self._connection.upgrade()
            return
        if framing is _CHUNKED or framing is _CLOSE:
            self._chunked = self.request.minor == 1
            if not self._chunked:
                self._keep_alive = False
        self._check_expectation()
        close = not self._keep_alive or self._context.draining
        self._connection.write(head.forward(response_headers, chunked=self._chunked, close=close))

    def _check_expectation(self) -> None:
        """A client that got no 100 may or may not send the body, so that no request can follow on this
        connection (RFC 9110 §10.1.1)."""
        if self.request.expects_continue and not self._continued and self._connection.body_pending:
            self._keep_alive = False

    def send_data(self, data: bytes) -> None:
        connection = self._connection
        if self._chunked:
            connection.write_together(encode_chunk(data))
        else:
            connection.write(data)

    def send_end(self, trailers: Headers) -> None:
        if self._chunked:
            self._connection.write(encode_last_chunk(trailers))

    def send_error(self, error: DevrouteError, request_id: str) -> int:
        body = error_body(error, request_id)
        self._check_expectation()
        if isinstance(error, RequestMalformed | RequestTimeout):
            self._keep_alive = False
        self._connection.write(http1_error_head(error, len(body), close=not self._keep_alive))
        if self.request.method == b"HEAD":
            return 0
        self._connection.write(body)
        return len(body)

    def abort_response(self) -> None:
        self._connection.abort_exchange()

    def finish(self) -> None:
        self._connection.finish_exchange(keep_alive=self._keep_alive)

    def pause_request(self) -> None:
        self._connection.pause_reading()

    def resume_request(self) -> None:
        self._connection.resume_reading()

    # --- an upgraded connection, whose halves end apart

    def client_ended(self) -> bool:
        """The client closed its half. True if the upstream may still send."""
        self._client_ended = True
        self._stream.send_end([])
        if self._upstream_ended:
            self._complete()
        return not self._upstream_ended

    def on_end(self, trailers: Headers) -> None:
        if not self.upgraded:
            super().on_end(trailers)
            return
        self._upstream_ended = True
        if not self._connection.end_upgraded(both=self._client_ended):
            self._complete()
