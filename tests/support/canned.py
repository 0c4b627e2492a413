"""An app and a client that send prepared bytes over HTTP/1.1 and HTTP/2, cost little and leave nothing to the
collector of cyclic garbage: for counts of what the product itself costs and leaves.

The path says how the app responds: see `CannedApp`.
"""

import asyncio
import re
import struct
from collections import Counter
from typing import Final, cast

from hpack import Encoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME: Final = struct.Struct(">HBBBL")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1

BODY: Final = b"b" * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

Fields = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 255, kind, flags, number) + payload


def block(fields: Fields) -> bytes:
    """A header block that does not depend on the connection's earlier ones."""
    return Encoder().encode([(name, value, True) for name, value in fields], huffman=False)


class _Canned(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def frames(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """The complete frames, with SETTINGS and PING acknowledged: kind, flags, stream, payload."""
        data = self._buffer + data
        at, found, own = 0, [], b""
        while len(data) - at >= 9:
            high, low, kind, flags, number = _FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > len(data):
                break
            if kind in (SETTINGS, PING) and not flags & ACK:
                own += frame(kind, ACK, 0, data[at + 9 : end] if kind == PING else b"")
            found.append((kind, flags, number, data[at + 9 : end]))
            at = end
        self._buffer = data[at:]
        if own:
            self.transport.write(own)
        return found


_OK_BLOCK: Final = block([(b":status", b"200"), (b"content-type", b"application/grpc")])
_TRAILERS: Final = block([(b"grpc-status", b"0")])
#: One of gRPC.
MESSAGE: Final = b"\0\0\0\0\x40" + bytes(64)


class CannedApp(_Canned):
    """/hang never responds; /close closes the connection instead; /broken does so in the middle of its body;
    /early sends a 103 first; /varied a head that is never the same; /chunked and /upgrade say it; anything
    else gets BODY. Over HTTP/2 all get a message of gRPC, except for /hang. `seen` counts the requests by
    path, for all connections; "" for what came over HTTP/2, but for /hang."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self._seen = seen
        self._http2 = False
        self._upgraded = False
        self._hanging: set[int] = set()

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            self.transport.write(data)
        elif self._http2:
            self._receive_frames(data)
        elif (self._buffer + data).startswith(PREFACE):
            data, self._buffer, self._http2 = (self._buffer + data)[len(PREFACE) :], b"", True
            self.transport.write(frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, b"\x3f\0\0\0"))
            self._receive_frames(data)
        else:
            self._buffer += data
            while (end := self._buffer.find(b"\r\n\r\n") + 4) >= 4 and not self._upgraded:
                head = self._buffer[:end]
                if b"transfer-encoding" in head:
                    end = self._buffer.find(b"0\r\n\r\n", end) + 5
                    if end < 5:
                        return
                elif length := _LENGTH.search(head):
                    end += int(length[1])
                if len(self._buffer) < end:
                    return
                self._buffer = self._buffer[end:]
                self._respond(head.split(b" ", 2)[1])

    def _respond(self, path: bytes) -> None:
        self._seen[path.decode("ascii")] += 1
        start = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
        if path == b"/varied":
            start += b"x-request-id: %d\r\n" % self._seen.total()
        if path == b"/hang":
            return
        if path == b"/close":
            self.transport.close()
        elif path == b"/broken":
            self.transport.write(start + b"content-length: 2000\r\n\r\n" + BODY)
            self.transport.close()
        elif path == b"/chunked":
            self.transport.write(
                start + b"transfer-encoding: chunked\r\n\r\n400\r\n" + BODY + b"\r\n0\r\n\r\n"
            )
        elif path == b"/upgrade":
            self._upgraded = True
            self.transport.write(
                b"HTTP/1.1 101 Now\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n" + self._buffer
            )
        else:
            early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" if path == b"/early" else b""
            self.transport.write(early + start + b"content-length: 1024\r\n\r\n" + BODY)

    def _receive_frames(self, data: bytes) -> None:
        out = b""
        for kind, flags, number, payload in self.frames(data):
            if kind == HEADERS and b"/hang" in payload:
                self._hanging.add(number)
                self._seen["/hang"] += 1
            elif kind == RST_STREAM:
                self._hanging.discard(number)
            elif kind in (HEADERS, DATA) and flags & END_STREAM and number not in self._hanging:
                self._seen[""] += 1
                out += frame(HEADERS, END_HEADERS, number, _OK_BLOCK) + frame(DATA, 0, number, MESSAGE)
                out += frame(HEADERS, END_HEADERS | END_STREAM, number, _TRAILERS)
        if out:
            self.transport.write(out)


class CannedClient(_Canned):
    """Sends one request at a time; `exchange` returns once its response is complete or the connection has
    ended."""

    def __init__(self, *, http2: bool) -> None:
        super().__init__()
        self._done: asyncio.Future[bytes] | None = None
        self._number = -1
        self._http2 = http2

    @classmethod
    async def dial(cls, port: int, *, http2: bool = False) -> "CannedClient":
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(http2=http2), "127.0.0.1", port)
        if http2:
            client.transport.write(PREFACE + frame(SETTINGS, 0, 0))
            client.transport.write(frame(WINDOW_UPDATE, 0, 0, b"\x3f\0\0\0"))
        return client

    async def exchange(self, request: bytes) -> bytes:
        """What was received in reply."""
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._done

    async def call(self, head: bytes, body: bytes, *, cancel: bool = False) -> bytes:
        """One request over HTTP/2; the payload of the last frame of its response. With `cancel` it is reset
        once the proxy, which replies to a PING, has it."""
        self._number += 2
        request = frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), self._number, head)
        if body:
            request += frame(DATA, END_STREAM, self._number, body)
        if cancel:
            await self.exchange(request + frame(PING, 0, 0, bytes(8)))
            return await self.exchange(
                frame(RST_STREAM, 0, self._number, b"\0\0\0\x08") + frame(PING, 0, 0, bytes(8))
            )
        return await self.exchange(request)

    def data_received(self, data: bytes) -> None:
        if self._http2:
            self._receive_frames(data)
            return
        self._buffer += data
        buffer = self._buffer
        while buffer.startswith(b"HTTP/1.1 103"):
            buffer = buffer[buffer.find(b"\r\n\r\n") + 4 :]
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(buffer[:end])
        if length is not None:
            complete = len(buffer) >= end + int(length[1])
        else:
            complete = buffer.endswith(b"0\r\n\r\n") or buffer.startswith(b"HTTP/1.1 101")
        if complete:
            self._complete(self._buffer)

    def _receive_frames(self, data: bytes) -> None:
        for kind, flags, number, payload in self.frames(data):
            ended = kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM)
            if (number == self._number and ended) or (kind == PING and flags & ACK):
                self._complete(payload)

    def _complete(self, data: bytes) -> None:
        if not self._http2:
            self._buffer = b""
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._complete(b"")
