"""The events that a session makes of the bytes it receives. Pure."""

from typing import NamedTuple

from devroute.errors import ProtocolError
from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.stream import Stream


class Hello(NamedTuple):
    """The agent's first frame; no stream may be opened before send_welcome."""

    body: bytes


class Welcome(NamedTuple):
    body: bytes


class Renew(NamedTuple):
    """A newer token of the agent; send_renewed has to answer it."""

    token: bytes


class Renewed(NamedTuple):
    body: bytes


class Opened(NamedTuple):
    """A request. `length`: of its body, unless a flag says that there is none or that it is not known."""

    stream: Stream
    service: bytes
    flags: int
    length: int
    wire: bytes


class Head(NamedTuple):
    stream: Stream
    raw: bytes
    flags: int


class Data(NamedTuple):
    """A piece of a body, empty only with `end`. Call grant(stream, len(data)) once it is consumed."""

    stream: Stream
    data: bytes
    end: int


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


LinkEvent = Hello | Welcome | Renew | Renewed | Pong | GoAway | Broken
StreamEvent = Opened | Head | Data | Ended | Reset | Writable
Event = LinkEvent | StreamEvent
