"""A connection that receives nothing until its reading is resumed.

uvloop, and asyncio in Debian 12 (Python 3.11.2), begin to read after `connection_made` even if it has paused
reading: up to one read has to be kept, and the end of the peer's half.
"""

import asyncio

from devroute.http.aio.connection import READ_TURN, Connection


class PausedConnection(Connection):
    """Subclasses implement `received`, `received_end` and `lost`; the first two are not called before
    `resume_reading`, and what they raise then ends the connection."""

    __slots__ = ("_early", "_end_is_early", "_end_received")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._early = b""
        self._end_is_early = self._end_received = False

    def received_end(self) -> bool:
        """The peer has closed its half; True keeps ours open."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.pause_reading()

    def buffer_updated(self, nbytes: int) -> None:
        if not self._reads_paused:
            super().buffer_updated(nbytes)
            return
        self._early = b"".join((self._early, READ_TURN.view[:nbytes]))
        self.transport.resume_reading()  # for asyncio, which takes it for paused
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        if self._reads_paused:
            self._end_is_early = True
            return True
        if self._end_received:  # asyncio reports it again once it may read
            return True
        self._end_received = True
        return self.received_end()

    def resume_reading(self) -> None:
        super().resume_reading()
        try:
            self._receive_early()
        except Exception as error:  # noqa: BLE001  # as asyncio does with what it has read
            self._loop.call_exception_handler({"message": "early data", "exception": error, "protocol": self})
            self.lose(error)

    def _receive_early(self) -> None:
        if self._early and not self.closed:
            early, self._early = self._early, b""
            self.received(early)
        if self._end_is_early and not self._reads_paused and not self.closed:
            self._end_is_early = False
            if not self.eof_received():
                self.close()
