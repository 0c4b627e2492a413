"""What both ends of a stream do alike: hold what arrives while the consumer is paused, enforce the length of
the body, give credit, and stop the source that sends too fast. Knows nothing of which end it is.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError
from devroute.http.buffer import Piece, hold
from devroute.http.message import Headers
from devroute.tunnel.link import Link
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.stream import Stream

#: A body whose end is not known beforehand.
UNBOUNDED: Final = -1


class StreamEnd:
    """`left`: bytes of body that must still arrive, or UNBOUNDED. `done`: the consumer has been told of the
    end and hears no more. What is held is bounded by the stream's credit."""

    __slots__ = ("_consume", "_held", "_held_end", "_paused", "done", "left", "link", "stopped", "stream")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stream: Stream
        self.left = 0
        self.done = False
        self.stopped = False  # our source was told to send no more
        self._consume: Callable[[bytes], None]
        self._paused = False  # the consumer wants nothing now
        self._held: deque[Piece] | None = None
        self._held_end: Headers | None = None

    # --- what the two ends say

    def complete(self, trailers: Headers) -> None:
        """The body is complete: tell the consumer."""
        raise NotImplementedError

    def broken(self, error: DevrouteError) -> None:
        """The exchange cannot go on: tell whoever has to know."""
        raise NotImplementedError

    def wrong_length(self, message: str) -> DevrouteError:
        raise NotImplementedError

    def receive_head(self, raw: bytes, flags: int) -> None:
        raise NotImplementedError

    def stop_source(self) -> None:
        raise NotImplementedError

    def start_source(self) -> None:
        raise NotImplementedError

    def receive_reset(self, reason: Reason) -> None:
        raise NotImplementedError

    def link_lost(self, error: DevrouteError) -> None:
        raise NotImplementedError

    # --- from the link

    def receive_data(self, data: bytes, end: int) -> None:
        if self.done:
            return
        if self._paused:
            if data:
                if self._held is None:
                    self._held = deque()
                hold(self._held, data)
        elif data:
            self._pass_on(data)
        if end:
            self.receive_end([])

    def receive_end(self, trailers: Headers) -> None:
        if self.done:
            return
        if self._paused:
            self._held_end = trailers
        elif self.left > 0:
            self.violated(f"the body ended {self.left} bytes short of its content-length")
        else:
            self.complete(trailers)

    def _pass_on(self, data: bytes) -> None:
        if self.left >= 0:
            self.left -= len(data)
            if self.left < 0:
                self.left = 0
                self.violated("the body is longer than its content-length")
                return
        self._consume(data)
        self.link.session.grant(self.stream, len(data))

    def violated(self, message: str) -> None:
        """The peer's message is not what its head said: end the stream for both sides."""
        error = self.wrong_length(message)
        self.reset(error)
        self.broken(error)

    def reset(self, error: DevrouteError) -> None:
        link = self.link
        link.session.reset(self.stream, error.code, error.message, error.hint)
        link.dismiss(self)
        link.wake()

    # --- from the consumer

    def hold(self) -> None:
        """Pass nothing on until `release`; the peer's credit runs out by itself."""
        self._paused = True

    def release(self) -> None:
        self._paused = False
        held = self._held
        while held and not self._paused and not self.done:
            self._pass_on(bytes(held.popleft()))
        if self.link.session.has_output:
            self.link.wake()
        if self._held_end is not None and not self._paused and not self.done:
            trailers, self._held_end = self._held_end, None
            self.receive_end(trailers)
