"""Services of devroute's own on the agent: the proxy sends JSON documents to them as requests on the tunnel
(routing/shadow/notifier.py). Pure.
"""

from abc import ABC, abstractmethod
from typing import Final

from devroute.errors import BodyTooLarge, DevrouteError
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Headers, RequestHead
from devroute.upstream.interface import ResponseSink

_TAKEN: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


class MessageReceiver(ABC):
    """Implements upstream.interface.Upstream. `max_message`: bytes of one document."""

    max_message = 64 * 1024

    def open(self, head: RequestHead, sink: ResponseSink) -> "_Message":
        return _Message(self, head, sink)

    async def close(self) -> None:
        """Nothing is open."""
        return

    @abstractmethod
    def receive(self, head: RequestHead, document: bytes) -> None:
        """A whole document. Raises DevrouteError, which the proxy gets."""


class _Message:
    """One document that is being received."""

    def __init__(self, receiver: MessageReceiver, head: RequestHead, sink: ResponseSink) -> None:
        self._receiver = receiver
        self._head = head
        self._sink = sink
        self._document = bytearray()
        self._done = False

    def send_data(self, data: bytes) -> None:
        if self._done:
            return
        self._document += data
        if len(self._document) > self._receiver.max_message:
            self._fail(BodyTooLarge(f"a message is longer than {self._receiver.max_message} bytes"))

    def send_end(self, trailers: Headers) -> None:
        if self._done:
            return
        try:
            self._receiver.receive(self._head, bytes(self._document))
        except DevrouteError as error:
            self._fail(error)
            return
        self._done = True
        self._sink.on_head(parse_response_head(_TAKEN, self._head.method))
        self._sink.on_end([])

    def _fail(self, error: DevrouteError) -> None:
        self._done = True
        self._sink.on_error(error)

    def cancel(self) -> None:
        self._done = True

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
