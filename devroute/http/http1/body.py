"""Message bodies: where they end (RFC 9112 §6.3, §7.1). Pure.

Each reader takes bytes as they arrive, and splits them into body and what belongs to the next message.
"""

import re
from typing import Final

from devroute.errors import DevrouteError
from devroute.headers import CONTRACT, FAILOVER, HOST, MATCHED, REASON, RESULT, RULE, UNSENT
from devroute.http.http1.fields import TOKEN
from devroute.http.message import Framing, Headers

#: A chunk-size line has a few digits; the rest is room for extensions, which are ignored (RFC 9112 §7.1.1).
MAX_CHUNK_LINE_BYTES: Final = 512

#: Trailers are gRPC statuses and digests.
MAX_TRAILER_BYTES: Final = 16 * 1024

_CR: Final = 0x0D

# Each can match in one way only, so no line makes them backtrack.
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"(" + TOKEN + rb"):([\t -~\x80-\xff]*)")

#: Fields that frame or route a message, and headers that the mesh trusts, are refused in a trailer section
#: (RFC 9110 §6.5.1): a next hop that merges trailers into the head would act on them.
_NOT_IN_TRAILERS: Final = frozenset(
    (
        b"transfer-encoding",
        b"content-length",
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        *(name.encode() for name in (CONTRACT, MATCHED, FAILOVER, HOST, RESULT, REASON, RULE, UNSENT)),
    )
)


# A base class rather than a Protocol: mypyc calls its methods directly.
class BodyReader:
    """`done`: the body's end was fed."""

    __slots__ = ("done", "trailers")

    def __init__(self, *, done: bool = False) -> None:
        self.done = done
        self.trailers: Headers = []

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(body, rest): rest is b"" until `done`. Raises the error class that the reader was created with."""
        raise NotImplementedError


class NoBody(BodyReader):
    """No body: all bytes belong to the next message."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(done=True)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return b"", data


class LengthBody(BodyReader):
    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        super().__init__(done=length == 0)
        self._left = length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data, b""
        self._left = 0
        self.done = True
        return (data, b"") if left == 0 else (data[:left], data[left:])


class CloseBody(BodyReader):
    """Up to the end of the connection: HTTP/1.0 style responses, and both directions of an upgrade."""

    __slots__ = ()

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class ChunkedBody(BodyReader):
    """The chunked coding, strictly: only CRLF ends a line, sizes are plain hexadecimal."""

    __slots__ = ("_error", "_left", "_partial", "_state", "_trailer_bytes")

    _SIZE: Final = 0
    _DATA: Final = 1
    _DATA_END: Final = 2
    _TRAILER: Final = 3

    def __init__(self, error: type[DevrouteError]) -> None:
        super().__init__()
        self._error = error
        self._partial = b""  # an incomplete line
        self._left = 0  # of the current chunk
        self._state = self._SIZE
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if self._partial:
            data = self._partial + data
            self._partial = b""
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and not self.done:
            if self._state == self._DATA:
                stop = min(at + self._left, size)
                pieces.append(data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = self._DATA_END
            elif self._state == self._DATA_END:
                ending = data[at : at + 2]
                if ending != b"\r\n"[: len(ending)]:
                    raise self._error("a chunk does not end with CR LF", hint="RFC 9112 §7.1")
                if len(ending) < 2:
                    self._partial = ending
                    break
                at += 2
                self._state = self._SIZE
            else:
                stop = data.find(b"\n", at)
                if stop < 0:
                    self._partial = data[at:]
                    self._check_line_length(size - at)
                    break
                if stop == at or data[stop - 1] != _CR:
                    raise self._error("a bare LF in the chunked coding", hint="RFC 9112 §7.1")
                self._line(data[at : stop - 1])
                at = stop + 1
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return body, data[at:] if self.done else b""

    def _line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            self._check_line_length(len(line))
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise self._error("a chunk size is not a plain hexadecimal number", hint="RFC 9112 §7.1")
            self._left = int(match[1], 16)
            self._state = self._DATA if self._left else self._TRAILER
            return
        if not line:
            self.done = True
            return
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise self._error("a trailer field is malformed", hint="RFC 9112 §7.1.2")
        name, value = match[1], match[2].strip(b" \t")
        if name.lower() in _NOT_IN_TRAILERS:
            raise self._error(f"{name.decode('ascii')} in a trailer section", hint="RFC 9110 §6.5.1")
        # The length as received or as written: what is accepted here fits the next hop's limit too.
        self._trailer_bytes += max(len(line) + 2, len(name) + len(value) + 4)
        self._check_line_length(0)
        self.trailers.append((name, value))

    def _check_line_length(self, size: int) -> None:
        if self._state == self._SIZE and size > MAX_CHUNK_LINE_BYTES:
            raise self._error(f"a chunk-size line of more than {MAX_CHUNK_LINE_BYTES} bytes")
        if self._state == self._TRAILER and size + self._trailer_bytes > MAX_TRAILER_BYTES:
            raise self._error(f"a trailer section of more than {MAX_TRAILER_BYTES} bytes")


_NO_BODY: Final = NoBody()


def body_reader(framing: Framing, length: int, error: type[DevrouteError]) -> BodyReader:
    """The reader for a framing; it raises `error` for malformed bytes."""
    if framing is Framing.NONE:
        return _NO_BODY
    if framing is Framing.LENGTH:
        return LengthBody(length)
    if framing is Framing.CHUNKED:
        return ChunkedBody(error)
    return CloseBody()


def encode_chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """One chunk, as pieces that are not joined (RFC 9112 §7.1); `data` is not empty."""
    return b"%x\r\n" % len(data), data, b"\r\n"


def encode_last_chunk(trailers: Headers) -> bytes:
    """The end of a chunked body, with its trailer section (RFC 9112 §7.1.2)."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
