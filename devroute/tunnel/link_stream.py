"""What the proxy's and the agent's streams have in common: keep what arrives while the consumer is paused,
enforce the body's length, grant credit. Knows nothing of either end.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from devroute.errors import DevrouteError
from devroute.http.buffer import Chunk, append_chunk
from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import WINDOW
from devroute.tunnel.protocol.stream import NO_STREAM, Stream, StreamOwner
from devroute.tunnel.protocol.windows import WindowBudget

if TYPE_CHECKING:
    from devroute.tunnel.link import Link

#: The length of a body that is not known beforehand.
UNBOUNDED: Final = -1


class LinkStream(StreamOwner):
    """`left`: bytes of body that must still arrive, or UNBOUNDED. `done`: the consumer got the end or an
    error, and gets nothing more. What is held is bounded by the stream's credit. The source is where the
    bytes that it sends come from; `stopped`: the source was asked to send no more."""

    __slots__ = (
        "_held", "_held_end", "_paused", "_waiting", "done", "left", "link", "stopped", "stream",
    )  # fmt: skip

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.stream: Stream
        self.stopped = False
        self.left = 0
        self.done = False
        self._paused = False  # by the consumer
        self._held: deque[Chunk] | None = None
        self._held_end: Headers | None = None
        self._waiting = 0  # bytes, as far as a budget bounds them

    # --- what the two ends implement

    def consume(self, data: bytes) -> None:
        """Pass a piece of the body on to the consumer."""
        raise NotImplementedError

    def complete(self, trailers: Headers) -> None:
        """The body is complete: pass that on to the consumer."""
        raise NotImplementedError

    def broken(self, error: DevrouteError) -> None:
        """The exchange cannot go on: pass that on to the consumer, and report it."""
        raise NotImplementedError

    def wrong_length(self, message: str) -> DevrouteError:
        raise NotImplementedError

    def link_lost(self, error: DevrouteError) -> None:
        self.broken(error)

    def stop_source(self) -> None:
        raise NotImplementedError

    def start_source(self) -> None:
        raise NotImplementedError

    def waiting_budget(self) -> WindowBudget | None:
        """Of bytes that wait for consumers, of this stream and others; None for no bound but each window."""
        raise NotImplementedError

    def too_much_waits(self) -> DevrouteError:
        """Why the exchange ends where the budget is used up."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Refer to nothing that refers to this: consumer and source."""
        raise NotImplementedError

    def settle(self) -> None:
        """To be called when either half has ended. Once both have: cut the reference cycles, which would
        wait for the garbage collector, several objects for each request."""
        if self.done and self.stream.closed:
            if self.stream.window > WINDOW:
                self.link.release_window(self.stream)
            if self._waiting:
                self._give_back(self._waiting)
                self._held = None
            self.stream = NO_STREAM
            self.let_go()

    # --- from the link

    def lose_link(self, error: DevrouteError) -> None:
        """As link_lost. What it raises keeps neither other streams from ending nor the agent from dialling
        again."""
        try:
            self.link_lost(error)
        except Exception as raised:  # noqa: BLE001  # the last resort: a bug in who observes requests
            report = {"message": "a bug: a request of a lost link", "exception": raised}
            asyncio.get_running_loop().call_exception_handler(report)

    def stop(self) -> None:
        """Nothing more can be sent for now."""
        self.stopped = True
        self.stop_source()

    def receive_data(self, data: bytes, end: int) -> None:
        if self.done:
            return
        if self._paused:
            if data:
                if self._held is None:
                    self._held = deque()
                append_chunk(self._held, data)
                self._count_waiting(len(data))
        elif data:
            self._pass_on(data)
        if end:
            self.receive_end([])

    def _count_waiting(self, size: int) -> None:
        budget = self.waiting_budget()
        if budget is None:
            return
        if budget.take(size):
            self._waiting += size
        else:
            error = self.too_much_waits()
            self.reset(error)
            self.broken(error)

    def _give_back(self, size: int) -> None:
        budget = self.waiting_budget()
        if budget is not None:
            budget.give_back(size)
            self._waiting -= size

    def receive_end(self, trailers: Headers) -> None:
        if self.done:
            return
        if self._paused:
            self._held_end = trailers
        elif self.left > 0:
            self.violated(f"the body ended {self.left} bytes short of its content-length")
        else:
            self.complete(trailers)
            self.settle()

    def _pass_on(self, data: bytes) -> None:
        if self.left >= 0:
            self.left -= len(data)
            if self.left < 0:
                self.left = 0
                self.violated("the body is longer than its content-length")
                return
        self.consume(data)
        self.link.grant(self.stream, len(data))

    def violated(self, message: str) -> None:
        """The peer's body contradicts its head: end the stream on both sides."""
        error = self.wrong_length(message)
        self.reset(error)
        self.broken(error)

    def reset(self, error: DevrouteError) -> None:
        self.link.send_reset(self, error.code, error.message, error.hint)

    # --- from the consumer

    def hold(self) -> None:
        """Pass nothing on until `release`; the peer stops when its credit is used up."""
        self._paused = True

    def release(self) -> None:
        self._paused = False
        held = self._held
        while held and not self._paused and not self.done:
            data = bytes(held.popleft())
            self._give_back(len(data))
            self._pass_on(data)
        self.link.wake()  # with the credit that was granted
        if self._held_end is not None and not self._paused and not self.done:
            trailers, self._held_end = self._held_end, None
            self.receive_end(trailers)
