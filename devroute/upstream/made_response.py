"""Whole responses that devroute makes itself, sent as fast as the client takes them."""

import asyncio
from typing import Final, NamedTuple

from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, ResponseHead
from devroute.upstream.interface import NO_SINK, DiscardedRequest, ResponseSink

#: Statuses whose responses have no body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
BODYLESS: Final = frozenset((204, 205, 304))
#: Bytes of a body that are sent before the client may pause it again.
PIECE: Final = 64 * 1024

_NONE: Final = Framing.NONE


class Made(NamedTuple):
    """A whole response to one request."""

    head: ResponseHead
    body: bytes
    trailers: Headers


def made(raw: bytes, method: bytes, body: bytes, trailers: Headers) -> Made:
    """The response with this head to a request of this method: without a body, where its head frames none, as
    to HEAD. Raises UpstreamInvalid."""
    head = parse_response_head(raw, method)
    if head.framing is _NONE:
        body, trailers = b"", []
    return Made(head, body, trailers)


class MadeStream(DiscardedRequest):
    """Sends a response once open() has returned; ignores the request's body."""

    def __init__(self, made: Made, sink: ResponseSink) -> None:
        self._made = made
        self._sink = sink
        self._sent = -1  # bytes of the body; -1 before the head
        self._paused = False
        self._cancelled = False
        # None once it has run: it refers to this.
        self._handle: asyncio.Handle | None = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._handle = None
        head, body, trailers = self._made
        if self._sent < 0:
            self._sent = 0
            self._sink.on_head(head)
        while self._sent < len(body):
            if self._paused or self._cancelled:
                return
            piece = body[self._sent : self._sent + PIECE]
            self._sent += len(piece)
            self._sink.on_data(piece)
        if not self._cancelled:
            self._cancelled = True
            sink, self._sink = self._sink, NO_SINK
            sink.on_end(trailers)

    def cancel(self) -> None:
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel()

    def pause_response(self) -> None:
        self._paused = True

    def resume_response(self) -> None:
        self._paused = False
        if self._sent >= 0 and not self._cancelled:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = asyncio.get_running_loop().call_soon(self._send)
