"""The base of every connection of the data path: shared receive buffers, few writes, flow control.

It knows nothing of HTTP. Figures for each choice are in bench/ and in docs/decisions/.
"""

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, cast

#: Larger blocks cross glibc's mmap threshold (128 KiB) and cost more than they gain. One buffer serves every
#: connection of the process, since its content is copied out before anything else runs.
RECEIVE_BYTES: Final = 100 * 1024

#: What a TLS library may have decrypted beyond what was read from it: the rest of one record (RFC 8446 §5.1).
RECORD_BYTES: Final = 16 * 1024

#: From here on, joining small writes costs more than a system call of its own.
FLUSH_BYTES: Final = 32 * 1024

#: Bytes in the transport's buffer at which the source is paused, and at which it resumes.
WRITE_HIGH_BYTES: Final = 256 * 1024
WRITE_LOW_BYTES: Final = 64 * 1024

#: Bytes that are read and discarded, seconds without any, and seconds in all, before a connection whose
#: response is sent is closed for good: closed at once, it would send a reset, which could destroy the
#: response on its way (RFC 9112 §9.6). Many clients read it only when they have sent their whole upload.
MAX_DISCARDED_BYTES: Final = 1024 * 1024 * 1024
LINGER_SECONDS: Final = 2.0
MAX_LINGER_SECONDS: Final = 30.0

#: A peer that vanished is detected by TCP keep-alive, which works even while a debugger has stopped the app;
#: with data in transit, by http/aio/peer_watch.py. Seconds until the first probe and between probes, and
#: their number.
KEEPALIVE_IDLE: Final = 10
KEEPALIVE_INTERVAL: Final = 5
KEEPALIVE_COUNT: Final = 3

_PYTHON: Final = tuple(sys.version_info[:3])
#: In these, a transport does not pause its protocol after writelines() (CVE-2024-12254).
_WRITELINES_WITHOUT_PAUSE: Final = (3, 12, 0) <= _PYTHON < (3, 12, 9) or (3, 13, 0) <= _PYTHON < (3, 13, 2)

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0) if os.name != "nt" else struct.pack("hh", 1, 0)

#: Free memory at the end of its heap glibc returns beyond twice the largest block that it has mapped and
#: unmapped; at first 128 KiB. Where pieces of bodies queue up and leave, the same MiB would come and go: up
#: to 50,000 page faults for 1 GiB.
KEPT_BYTES: Final = 2 * 1024 * 1024
bytes(KEPT_BYTES)

_buffer: Final = bytearray(RECEIVE_BYTES)
_view: Final = memoryview(_buffer)


class ReadTurn:
    """One read of any connection. Connections that write meanwhile are flushed at its end, so that a head and
    its body leave in one write without another turn of the loop."""

    __slots__ = ("_afterwards", "_large", "_loop", "_loop_of_afterwards", "dirty", "reading", "view", "whole")

    def __init__(self) -> None:
        self.view = _view  # where it has put what it read
        self.whole: bytearray | None = _buffer  # of that view; None for the large one
        self._large = _view
        self.reading = False
        self.dirty: list[Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # of the last read
        self._afterwards: list[Callable[[], None]] = []  # since its loop was last asked to call them
        self._loop_of_afterwards: asyncio.AbstractEventLoop | None = None

    def choose_view(self, pending: int) -> memoryview:
        """Of the shared buffer, or of one that takes all that a TLS library has: `pending` bytes before they
        are decrypted. Once the peer has closed, asyncio fills one buffer and discards the rest."""
        size = pending + RECORD_BYTES
        if size <= RECEIVE_BYTES:
            self.view, self.whole = _view, _buffer
        else:
            self.whole = None
            if size > len(self._large):
                self._large = memoryview(bytearray(max(size, 2 * len(self._large))))
            self.view = self._large
        return self.view

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reading = True
        self._loop = loop

    def finish(self) -> None:
        """Flush what was written."""
        self.reading = False
        if self.dirty:
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                connection.flush()

    def after_flush(self, callback: Callable[[], None]) -> None:
        """Call it once everything has been sent, or now if nothing is being read: for work that no peer waits
        for, such as logging. That is in the loop's next turn, since uvloop writes at the end of one: once for
        all reads of a turn."""
        loop = self._loop
        if not self.reading or loop is None:
            callback()
            return
        # What a loop that was stopped has not called is left to it: tests have several, one after the other.
        if not self._afterwards or loop is not self._loop_of_afterwards:
            self._afterwards = []
            self._loop_of_afterwards = loop
            loop.call_soon(self._call, self._afterwards)
        self._afterwards.append(callback)

    def _call(self, callbacks: list[Callable[[], None]]) -> None:
        if callbacks is self._afterwards:
            self._afterwards = []
        for callback in callbacks:
            callback()


READ_TURN: Final = ReadTurn()


class Connection(asyncio.BufferedProtocol):
    """Subclasses implement `received` and `lost`. `write_paused`: the transport takes no more for now."""

    __slots__ = (
        "_flush_due", "_loop", "_loss", "_out", "_out_bytes", "_reads_paused", "_resuming", "_unsent",
        "_unsent_since", "closed", "over_tls", "transport", "write_paused",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._reads_paused = False
        self._resuming = False  # asyncio's TLS will read in the next turn
        self.over_tls = False
        self._loss: Exception | None = None
        self._unsent = -1  # bytes that a closing connection had still to send at the last look, -1 before it
        self._unsent_since = 0.0
        self.write_paused = False
        self.closed = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made

    # --- what subclasses implement

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def lost(self, error: Exception | None) -> None:
        raise NotImplementedError

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.over_tls = transport.get_extra_info("sslcontext") is not None
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_TURN.choose_view(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        turn = READ_TURN
        turn.begin(self._loop)
        try:
            self.received(b"".join((turn.view[:nbytes],)))  # half the cost of tobytes()
        finally:
            turn.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._out.clear()
        self.lost(exc or self._loss)

    def receive_rest(self) -> None:
        """Receive what had arrived before a write failed: a peer that refuses an upload responds, and resets
        the connection. For `lost`. Its end is none of the body: after a reset the kernel reports one too."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.over_tls:
            return
        with contextlib.suppress(OSError), socket.fromfd(sock.fileno(), sock.family, sock.type) as rest:
            rest.setblocking(False)
            while size := rest.recv_into(self.get_buffer(-1)):
                self.buffer_updated(size)

    # --- writing

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False

    def write(self, data: bytes) -> None:
        """Send soon, together with everything else that is written in this turn."""
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= FLUSH_BYTES:
            self.flush()
        else:
            self.flush_soon()

    def write_together(self, pieces: tuple[bytes, ...]) -> None:
        """Send soon, without a flush between the pieces: it would send the end of a large chunk, two bytes,
        as a segment of its own (docs/decisions/0072)."""
        for piece in pieces[:-1]:
            self._out.append(piece)
            self._out_bytes += len(piece)
        self.write(pieces[-1])

    def flush_soon(self) -> None:
        """Flush at the end of this turn; for subclasses that produce their output in `flush`."""
        if not self._flush_due:
            self._flush_due = True
            if READ_TURN.reading:
                READ_TURN.dirty.append(self)
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        out = self._out
        if not out:
            return
        self._out = []
        large = self._out_bytes >= FLUSH_BYTES
        self._out_bytes = 0
        if self.closed:
            return
        if len(out) == 1:
            self.transport.write(out[0])
        elif large:
            write_pieces(self.transport, out)
        else:
            self.transport.write(b"".join(out))

    # --- reading

    @property
    def reads_paused(self) -> bool:
        return self._reads_paused

    def pause_reading(self) -> None:
        if not self._reads_paused and not self.closed:
            self._reads_paused = True
            if not self._resuming:
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reads_paused and not self.closed:
            self._reads_paused = False
            if self._resuming:
                return
            self.transport.resume_reading()
            if self.over_tls:
                self._resuming = True
                self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        """asyncio's TLS has read. Paused before that, it would discard what it has if the peer has closed
        (docs/decisions/0074)."""
        self._resuming = False
        if self._reads_paused and not self.closed:
            self.transport.pause_reading()

    # --- the end

    def half_close(self) -> None:
        """Send what is buffered, then close our half, or all where there are no halves, as in TLS."""
        self.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self._close_transport()

    def close(self) -> None:
        """Send what is buffered, then close."""
        self.flush()
        self.closed = True
        self._close_transport()

    def check_closing(self, now: float, seconds: float) -> None:
        """Abort a connection that was closed, but whose peer has taken nothing of the rest for `seconds`. To
        be called periodically; `now` by any clock."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._unsent_since = now
        elif now - self._unsent_since > seconds:
            self.transport.abort()

    def _close_transport(self) -> None:
        """Once: at a second close(), asyncio's transport of TLS drops what later calls need."""
        if not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        """Reset the connection, so that the peer does not take what was sent for complete. A plain close
        would let it, where a body ends with the connection."""
        self._out.clear()
        if self.closed and self.transport.get_write_buffer_size() == 0:
            return
        self.closed = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def lose(self, error: Exception) -> None:
        """Abort the connection because of `error`, which is passed to `lost`."""
        self._loss = error
        self.abort()


def write_pieces(transport: asyncio.Transport, pieces: list[bytes] | list[bytes | bytearray]) -> None:
    """Write them without joining them, unless that costs backpressure."""
    if _WRITELINES_WITHOUT_PAUSE:
        transport.write(b"".join(pieces))
    else:
        transport.writelines(pieces)


def enable_keepalive(transport: asyncio.BaseTransport) -> None:
    """Enable TCP keep-alive, with the timing that this platform supports."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
