"""The events that a session makes of the bytes it receives. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from devroute.errors import ProtocolError
from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.stream import Stream


class HelloFrame(NamedTuple):
    """The agent's first frame; no stream may be opened before send_welcome."""

    body: bytes


class WelcomeFrame(NamedTuple):
    body: bytes


class RenewFrame(NamedTuple):
    """A newer token of the agent; send_renewed has to answer it."""

    token: bytes


class RenewedFrame(NamedTuple):
    body: bytes


class Frequent:
    """Those that each request has: iterated and compared as namedtuples, which cost four times as much to
    make."""

    __slots__ = ()

    def members(self) -> tuple[object, ...]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[object]:
        return iter(self.members())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frequent) and type(self) is type(other) and self.members() == other.members()


class Opened(Frequent):
    """A request. `length`: of its body, unless a flag says that there is none or that it is not known."""

    __slots__ = ("flags", "length", "service", "stream", "wire")

    def __init__(self, stream: Stream, service: bytes, flags: int, length: int, wire: bytes) -> None:
        self.stream = stream
        self.service = service
        self.flags = flags
        self.length = length
        self.wire = wire

    def members(self) -> tuple[object, ...]:
        return self.stream, self.service, self.flags, self.length, self.wire


class Head(Frequent):
    __slots__ = ("flags", "raw", "stream")

    def __init__(self, stream: Stream, raw: bytes, flags: int) -> None:
        self.stream = stream
        self.raw = raw
        self.flags = flags

    def members(self) -> tuple[object, ...]:
        return self.stream, self.raw, self.flags


class Data(Frequent):
    """A piece of a body, empty only with `end`. Call grant(stream, len(data)) once it is consumed."""

    __slots__ = ("data", "end", "stream")

    def __init__(self, stream: Stream, data: bytes, end: int) -> None:
        self.stream = stream
        self.data = data
        self.end = end

    def members(self) -> tuple[object, ...]:
        return self.stream, self.data, self.end


class Ended(NamedTuple):
    stream: Stream
    trailers: Headers


class Reset(NamedTuple):
    """The peer ended both halves."""

    stream: Stream
    reason: Reason


class Writable(NamedTuple):
    """Credit arrived for a stream whose send_data has returned False: it takes more, or has sent its end."""

    stream: Stream


class Pong(NamedTuple):
    payload: bytes


class GoAway(NamedTuple):
    reason: Reason


class Broken(NamedTuple):
    """The peer violated the protocol. A GOAWAY with the error is ready to be sent; nothing else is read."""

    error: ProtocolError


LinkEvent = HelloFrame | WelcomeFrame | RenewFrame | RenewedFrame | Pong | GoAway | Broken
StreamEvent = Opened | Head | Data | Ended | Reset | Writable
Event = LinkEvent | StreamEvent
