"""The messages of a recorded gRPC body, and bodies made of messages (gRPC's "PROTOCOL-HTTP2"). Pure."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from devroute.inspector.capture import Capture, value_of

#: A flag, and four bytes of length.
PREFIX_BYTES: Final = 5
#: Bytes of a message that is decoded, also after its compression is removed.
MAX_MESSAGE_BYTES: Final = 256 * 1024

_INFLATED: Final = ("gzip", "deflate")


class Payload(NamedTuple):
    """One message as it was stored. `encoding`: how it is compressed, "" if it is not. Where there are no
    bytes to decode, `problem` says why. `redacted`: places of values that were removed."""

    from_client: bool
    data: bytes
    encoding: str = ""
    problem: str = ""
    redacted: tuple[str, ...] = ()

    def plain(self, limit: int = MAX_MESSAGE_BYTES) -> "Payload":
        """The same without its compression, if it has at most `limit` bytes then."""
        if not self.encoding or self.problem:
            return self
        if self.encoding not in _INFLATED:
            return self._unread(f"compressed with {self.encoding!r:.40}, which the inspector does not read")
        inflater = zlib.decompressobj(47)  # gzip or zlib, by its header
        try:
            data = inflater.decompress(self.data, limit + 1)
        except zlib.error:
            return self._unread(f"not {self.encoding}, as its head says")
        if len(data) > limit:
            return self._unread(f"more than {limit >> 10} KiB when decompressed")
        if not inflater.eof:
            return self._unread(f"its {self.encoding} data end early")
        return self._replace(data=data, encoding="")

    def _unread(self, problem: str) -> "Payload":
        return Payload(self.from_client, b"", problem=problem)


def join(messages: Iterable[bytes]) -> bytes:
    """A body with these messages, not compressed."""
    return b"".join(frame(each) for each in messages)


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as a body has it."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


def split(body: bytes | bytearray) -> Iterator[tuple[bool, bytes]]:
    """The complete messages of a body: whether each is compressed, and its bytes."""
    for start, stop in _places(body):
        yield body[start - PREFIX_BYTES] == 1, bytes(body[start:stop])


def _places(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where each complete message of a body starts and ends."""
    start, end = PREFIX_BYTES, len(body)
    while start <= end:
        stop = start + int.from_bytes(body[start - 4 : start], "big")
        if stop > end:
            return
        yield start, stop
        start = stop + PREFIX_BYTES


def payloads(capture: Capture, first: int) -> list[Payload]:
    """The listed messages of a capture, from the one at index `first` on."""
    found: list[Payload] = []
    # The list has the beginning of each message, the body has all of them as long as there is room; which
    # message of the body it is, is known while none was dropped from the list.
    bodies = {True: _places(capture.request_body.data), False: _places(capture.response_body.data)}
    for index, message in enumerate(capture.messages):
        side = message.from_client
        place = None if capture.messages_dropped else next(bodies[side], None)
        if index < first:
            continue
        data, problem = message.data, ""
        if message.size > MAX_MESSAGE_BYTES:
            data, problem = b"", f"longer than {MAX_MESSAGE_BYTES >> 10} KiB"
        elif place is not None:
            body = capture.request_body if side else capture.response_body
            data = bytes(body.data[place[0] : place[1]])
        elif len(data) < message.size:
            data, problem = b"", f"only the first {len(data):,} of its {message.size:,} bytes were stored"
        encoding = encoding_of(capture, from_client=side) if message.compressed else ""
        found.append(Payload(side, data, encoding, problem, message.redacted))
    return found


def encoding_of(capture: Capture, *, from_client: bool) -> str:
    """The encoding of a direction's compressed messages."""
    headers = capture.request_headers if from_client else capture.response_headers
    return value_of(headers, "grpc-encoding").strip().lower() or "unknown"
