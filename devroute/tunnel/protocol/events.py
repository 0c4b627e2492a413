"""What a session says of the bytes it got: one value for each thing that happened. Pure."""

from typing import NamedTuple

from devroute.errors import ProtocolError
from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.stream import Stream


class Hello(NamedTuple):
    """The agent's first frame; nothing may be opened before send_welcome."""

    body: bytes


class Welcome(NamedTuple):
    body: bytes


class Renew(NamedTuple):
    """A newer token of the agent's; send_renewed is owed."""

    token: bytes


class Renewed(NamedTuple):
    body: bytes


class Opened(NamedTuple):
    """A request. `length` is its body's where no flag says otherwise."""

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
    """A piece of a body, empty only if `end`. Once consumed, grant(stream, len(data)) is owed."""

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
    """Credit came for a stream whose send_data had said to stop."""

    stream: Stream


class Pong(NamedTuple):
    payload: bytes


class GoAway(NamedTuple):
    reason: Reason


class Broken(NamedTuple):
    """The peer broke the protocol; a GOAWAY that says so is ready to be sent, and nothing else is read."""

    error: ProtocolError


Event = (
    Hello
    | Welcome
    | Renew
    | Renewed
    | Opened
    | Head
    | Data
    | Ended
    | Reset
    | Writable
    | Pong
    | GoAway
    | Broken
)
