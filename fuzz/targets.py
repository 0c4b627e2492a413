"""Invariants that hold for any input. A target raises AssertionError if one is broken, and lets an unexpected
error of a parser through. Its value classifies the input, for a driver that measures no coverage."""

import asyncio
import contextlib
import itertools
import re
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final, cast

import h11

from devroute.contract.grammar import parse as parse_contract
from devroute.errors import (
    DevrouteError,
    ProtocolError,
    RequestMalformed,
    UpstreamInvalid,
    UpstreamReset,
)
from devroute.http.error_response import error_body
from devroute.http.http1.body import ChunkedBody, encode_last_chunk
from devroute.http.http1.request import parse_request_head
from devroute.http.http1.response import ResponseHeadParser, parse_response_head
from devroute.http.message import MAX_FIELD_LINES, Framing, Headers, InboundRequest, RequestHead, ResponseHead
from devroute.tunnel.protocol import events, frames, handshake
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import Stream
from devroute.tunnel.protocol.websocket import WebSocket, accept_upgrade, check_upgraded, split_head
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_connection import Http1Connection
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http1_stream import Http1Stream
from tests.conformance.memory import Conversation, Loop, Transport, Whole, conversation

from . import h2_targets

Target = Callable[[bytes], object]

#: Longer inputs are slow and find nothing more.
MAX_INPUT: Final = 4096

_HOP: Final = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade",
    b"transfer-encoding", b"x-devroute-matched",
}  # fmt: skip
_PROTECTED: Final = {b"host", b"content-length", b"x-devroute", b"x-request-id"}


def pieces(data: bytes) -> list[bytes]:
    """Cut the input in pieces; the same input always in the same ones."""
    places = {zlib.crc32(data, salt) % (len(data) + 1) for salt in range(4)}
    cuts = sorted({0, len(data), *places})
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


def cuts_of(data: bytes) -> list[int]:
    return [zlib.crc32(data, salt) % (len(data) + 1) for salt in range(4)]


def second_parser(wire: bytes) -> h11.Connection:
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(wire)
    return reader


# --- heads ------------------------------------------------------------------------------------------------


def head(data: bytes) -> object:
    raw = data + b"\r\n\r\n"
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        request = parse_request_head(raw)
    except DevrouteError as error:
        judged: object = (error.code, error.message[:24])
    else:
        judged = _judge_request(raw, request)
    try:
        answer = parse_response_head(raw, b"GET")
    except UpstreamInvalid as error:
        return judged, error.message[:40]
    return judged, _judge_answer(answer)


def _judge_request(raw: bytes, request: InboundRequest) -> object:
    forwarded = request.forward()
    wire = forwarded.wire
    assert wire.index(b"\r\n\r\n") + 4 == len(wire), "a second head in the head"
    assert wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r"), "a bare line end goes on"

    # An independent, simple reading of the fields: those that are not dropped, in order.
    written = [line.partition(b":")[::2] for line in raw[:-4].split(b"\r\n")[1:]]
    fields = [(name, value.strip(b" \t")) for name, value in written]
    options = b",".join(value for name, value in fields if name.lower() == b"connection").lower().split(b",")
    dropped = _HOP | {option.strip(b" \t") for option in options} - _PROTECTED
    kept = [(name, value) for name, value in fields if name.lower() not in dropped]
    ours = forwarded.headers
    if request.minor == 0 and b"host" not in {name.lower() for name, _ in fields}:
        assert ours[0][0] == b"host"
        ours = ours[1:]
    assert ours[: len(kept)] == kept, "a field was lost, added or moved"
    added = dict(ours[len(kept) :])
    assert added.pop(b"via") == b"1.1 devroute"
    assert set(added) <= {b"connection", b"te", b"upgrade", b"transfer-encoding"}

    reader = second_parser(wire)
    event = reader.next_event()
    assert isinstance(event, h11.Request), event
    assert (event.method, event.target) == (request.method, request.target), "another request"
    assert list(event.headers) == [(name.lower(), value) for name, value in forwarded.headers]
    _judge_framing(reader, forwarded)

    if wire.count(b"\n") > MAX_FIELD_LINES:
        return "full"
    again = parse_request_head(wire)
    assert (again.method, again.target, again.framing, again.length, again.contract) == (
        request.method, request.target, request.framing, request.length, request.contract,
    )  # fmt: skip
    return request.framing, request.minor, request.keep_alive, len(added), len(dropped) > len(_HOP)


def _judge_framing(reader: h11.Connection, head: RequestHead) -> None:
    """Check that a second parser finds the end of the body where ours does."""
    if head.framing is Framing.LENGTH and head.length <= 1000:
        reader.receive_data(b"x" * head.length + b"GET")
        assert sum(len(e.data) for e in _until_end(reader)) == head.length
        assert reader.trailing_data[0] == b"GET"
    elif head.framing is Framing.CHUNKED:
        reader.receive_data(b"3\r\nabc\r\n0\r\n\r\nGET")
        assert sum(len(e.data) for e in _until_end(reader)) == 3
        assert reader.trailing_data[0] == b"GET"
    elif head.framing is Framing.NONE or head.framing is Framing.UPGRADE:
        assert _until_end(reader) == []


def _until_end(reader: h11.Connection) -> list[h11.Data]:
    found: list[h11.Data] = []
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        found.append(event)
    return found


def _judge_answer(answer: ResponseHead) -> object:
    switching = answer.framing is Framing.UPGRADE
    lines = b"x-mark: 1\r\n" + (b"connection: upgrade\r\n" if switching else b"")
    passed = answer.forward(lines, chunked=answer.framing is Framing.CHUNKED, close=not switching)
    assert passed.index(b"\r\n\r\n") + 4 == len(passed), "a second head in the head"
    assert passed.count(b"\n") == passed.count(b"\r\n") == passed.count(b"\r"), "a bare line end goes on"
    if passed.count(b"\n") > MAX_FIELD_LINES:
        return "full"
    again = parse_response_head(passed, b"GET")
    assert (again.status, again.framing, again.length) == (answer.status, answer.framing, answer.length)
    assert again.keep_alive is switching
    assert (b"x-mark", b"1") in again.end_to_end()
    return answer.framing, answer.status // 100, answer.keep_alive


# --- bodies and connections -------------------------------------------------------------------------------


def chunks(data: bytes) -> object:
    def outcome(parts: list[bytes]) -> tuple[object, ...]:
        reader = ChunkedBody(RequestMalformed)
        body = rest = b""
        try:
            for part in parts:
                if reader.done:
                    rest += part
                    continue
                piece, left = reader.feed(part)
                body += piece
                rest += left
        except RequestMalformed:
            return ("refused",)
        return body, rest, reader.done, reader.trailers

    whole = outcome([data])
    assert whole == outcome(pieces(data)), "cuts change the events"
    if len(whole) == 1:
        return whole[0]
    body, rest, done, trailers = cast(tuple[bytes, bytes, bool, Headers], whole)
    if done:
        coded = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        assert outcome([coded + encode_last_chunk(trailers) + rest]) == whole
        payload = frames.encode_trailers(trailers)
        frames.check_header(frames.FrameType.TRAILERS, 0, 1, len(payload))
        assert frames.decode_trailers(payload) == trailers
    return done, len(trailers), bool(rest)


def connection(data: bytes) -> object:
    if data.lstrip(b"\r\n").startswith(b"PRI"):
        return None  # HTTP/2's preface begins so, and differs from a malformed head only at its end
    seen = conversation(data)
    assert _roughly(conversation(data, cuts_of(data))) == _roughly(seen), "cuts change the events"
    for one in seen.whole:
        _judge_whole(one)
    return tuple(seen.answers[:4]), seen.ended


def _roughly(seen: Conversation) -> Conversation:
    """A head with two faults is refused for the one that is found first."""
    refused = (b"400", b"431", b"501"), (b"request-malformed", b"head-too-large", b"not-supported")
    answers = [(b"4xx", b"") if a in refused[0] or b in refused[1] else (a, b) for a, b in seen.answers]
    return seen._replace(answers=answers)


def _judge_whole(one: Whole) -> None:
    """Check that a second parser reads what the app receives as exactly this one request."""
    wire = one.head.wire
    if one.head.framing is Framing.CHUNKED:
        wire += (b"%x\r\n%b\r\n" % (len(one.body), one.body)) if one.body else b""
        wire += encode_last_chunk(one.trailers)
    else:
        wire += one.body
    reader = second_parser(wire)
    event = reader.next_event()
    assert isinstance(event, h11.Request), event
    assert b"".join(bytes(data.data) for data in _until_end(reader)) == one.body
    assert reader.trailing_data[0] == b"", "bytes after the request"


class _Sink:
    """What a client would receive; implements ResponseSink. `open`: how many requests the pool still counts;
    `released`: it may use the connection again."""

    def __init__(self) -> None:
        self.interim: list[int] = []
        self.status = 0
        self.body = b""
        self.trailers: Headers | None = None
        self.error: DevrouteError | None = None
        self.released = False
        self.calls_after_the_end = 0
        self.open = 1

    def _alive(self) -> None:
        self.calls_after_the_end += self.trailers is not None or self.error is not None

    def on_informational(self, head: ResponseHead) -> None:
        self._alive()
        self.interim.append(head.status)

    def on_head(self, head: ResponseHead) -> None:
        self._alive()
        assert not self.status, "two heads"
        self.status = head.status

    def on_data(self, data: bytes) -> None:
        self._alive()
        assert self.status, "data before the head"
        assert data, "data of nothing"
        self.body += data

    def on_end(self, trailers: Headers) -> None:
        self._alive()
        self.trailers = trailers

    def on_error(self, error: DevrouteError) -> None:
        self._alive()
        self.error = error

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


@cache
def _pool() -> Http1Pool:
    """That of the connections. Compiled, they take no other object for one; its loop never runs."""

    async def make() -> Http1Pool:
        return Http1Pool(Dialer("127.0.0.1", 1))

    return asyncio.new_event_loop().run_until_complete(make())


def answer(data: bytes) -> object:
    method = b"HEAD" if zlib.crc32(data) % 8 == 0 else b"GET"
    whole = _answered(method, [data])
    parts = _answered(method, pieces(data))
    assert _outcome(whole) == _outcome(parts), "cuts change the events"
    assert not whole.calls_after_the_end
    assert whole.open == 0, "the pool still counts it"
    assert (whole.trailers is None) is not (whole.error is None)
    if whole.error is not None:
        assert type(whole.error) in (UpstreamInvalid, UpstreamReset)
        assert not whole.released, "a tainted connection is used again"
    else:
        _compare_answers(method, data, whole)
    return whole.error and whole.error.message[:40], whole.status, whole.released, len(whole.interim)


def _outcome(sink: _Sink) -> tuple[object, ...]:
    code = sink.error and sink.error.code
    # If the head is refused, the first bytes of the body may or may not have been passed on.
    return sink.interim, sink.status, sink.trailers, code, sink.released, b"" if code else sink.body


def _answered(method: bytes, parts: list[bytes]) -> _Sink:
    loop = Loop()
    sink = _Sink()
    pool = _pool()
    pool.in_flight = 1
    pool.response_parser = ResponseHeadParser()
    wire = method + b" / HTTP/1.1\r\nhost: foo\r\n\r\n"
    carrier = Http1Connection(pool, cast(asyncio.AbstractEventLoop, loop))
    carrier.connection_made(cast(asyncio.Transport, Transport()))
    stream = Http1Stream(pool, RequestHead(method, b"/", Framing.NONE, 0, wire), sink)
    stream.attach(carrier, reused=False)
    loop.run()
    for part in parts:
        if carrier.stream is None:
            pool.forget(carrier)  # bytes on an idle connection end it
            break
        if part:
            carrier.received(part)
            loop.run()
    if carrier.stream is not None and not carrier.eof_received():
        carrier.connection_lost(None)
    loop.run()
    sink.open = pool.in_flight
    sink.released = pool.busy and not pool.in_flight
    pool.forget(carrier)
    return sink


def _compare_answers(method: bytes, data: bytes, ours: _Sink) -> None:
    """If h11 accepts the response too, both read the same response."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"foo")]))
    reader.send(h11.EndOfMessage())
    status, body = 0, b""
    with contextlib.suppress(h11.RemoteProtocolError):  # it refuses some extensions and versions
        reader.receive_data(data)
        closed = False
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif event is h11.NEED_DATA:
                assert not closed
                closed = True
                reader.receive_data(b"")
        assert (status, body) == (ours.status, ours.body), "another response"
        assert not ours.released or reader.trailing_data[0] == b"", "a tainted connection is used again"


# --- the tunnel -------------------------------------------------------------------------------------------


def tunnel(data: bytes) -> object:
    whole = _events(data, [data])
    assert whole == _events(data, pieces(data)), "cuts change the events"
    _react(data)
    return tuple(kind for kind, *_ in whole[0][:6]), whole[0][-1:] and str(whole[0][-1])[:60]


def _session(data: bytes) -> Session:
    """A session in the role and the state that the first two bytes choose; a proxy's has three streams, and
    so has an agent's with reach."""
    reach = b"\x40" <= data[1:2] < b"\x60"
    if data[:1] >= b"\x80":
        session = Session(Role.AGENT, max_streams=8)
        session.send_hello(b"{}")
        if data[1:2] >= b"\x20":
            session.receive(frames.HEADER.pack(frames.FrameType.WELCOME, 0, 0, 2) + b"{}")
        if reach:
            session.enable_reach()
            for number in range(3):
                session.open(b"c", b"GET / HTTP/1.1\r\n\r\n", int(frames.Flag.END) if number else 0, 0)
    else:
        session = Session(Role.PROXY, max_streams=8)
        if data[1:2] >= b"\x20":
            session.receive(frames.HEADER.pack(frames.FrameType.HELLO, 0, 0, 2) + b"{}")
            if reach:
                session.enable_reach()
            session.send_welcome(b"{}")
            for number in range(3):
                session.open(b"foo", b"GET / HTTP/1.1\r\n\r\n", int(frames.Flag.END) if number else 0, 0)
    return session


def _events(data: bytes, parts: list[bytes]) -> tuple[list[Any], dict[int, bytes]]:
    """The events in order, and the data of each stream as a whole."""
    session = _session(data)
    seen: list[Any] = []
    bodies: dict[int, bytes] = {}
    left = 2  # the bytes that choose the session
    for part in parts:
        skip = min(left, len(part))
        left -= skip
        for event in session.receive(part[skip:]):
            assert not (seen and seen[-1][0] == "Broken"), "events after the end"
            if isinstance(event, events.Data):
                bodies[event.stream.id] = bodies.get(event.stream.id, b"") + event.data
                if event.end:
                    seen.append(("end", event.stream.id))
            elif isinstance(event, events.Broken):
                seen.append(("Broken", event.error.message))
            else:
                values = [value.id if isinstance(value, Stream) else value for value in event]
                seen.append((type(event).__name__, *values))
        assert session.opened <= 8
        assert session.accepted <= 8
        assert len(session._held) <= frames.HEADER.size + frames.MAX_HEAD
    return seen, bodies


def _react(data: bytes) -> None:
    """Respond as the real ends do: nothing that a peer sends may make our own calls fail."""
    session = _session(data)
    for part in pieces(data[2:]):
        for event in session.receive(part):
            if isinstance(event, events.HelloFrame):
                with contextlib.suppress(ProtocolError):
                    handshake.decode(handshake.Hello, event.body)
            elif isinstance(event, events.Opened):
                session.send_head(event.stream, b"HTTP/1.1 200 OK\r\n\r\n")
                session.send_data(event.stream, b"x" * 100)
                session.send_end(event.stream, [(b"x", b"y")] if event.flags else [])
            elif isinstance(event, events.Head):
                with contextlib.suppress(UpstreamInvalid):
                    parse_response_head(event.raw + b"\r\n\r\n", b"GET")
            elif isinstance(event, events.Data):
                session.grant(event.stream, len(event.data))
            elif isinstance(event, events.Reset):
                error_body(event.reason.as_error(UpstreamReset))
        assert sum(map(len, session.data_to_send())) <= 64 * len(data) + 4096
    session.finish()


def websocket(data: bytes) -> object:
    client = data[:1] >= b"\x80"

    def received(parts: list[bytes]) -> tuple[bytes, int | None, str]:
        end = WebSocket(client=client, random=lambda size: b"\x37\xfa\x21\x3d"[:size])
        got = b""
        for part in parts:
            got += b"".join(bytes(piece) for piece in end.receive(part))
        return got, end.closed, "" if end.error is None else end.error.message

    assert received([data[1:]]) == received(pieces(data[1:])), "cuts change the events"
    sender = WebSocket(client=not client, random=lambda size: b"\x00\xff\x21\x3d"[:size])
    receiver = WebSocket(client=client, random=lambda size: b""[:size])
    sent = bytes(sender.encode(pieces(data)))
    assert b"".join(bytes(piece) for part in pieces(sent) for piece in receiver.receive(part)) == data
    try:
        lines = split_head(data[1:] + b"\r\n\r\n")
        check_upgraded(lines, b"x")
    except ProtocolError as error:
        handshake = error.message
    with contextlib.suppress(ProtocolError):
        assert accept_upgrade(split_head(data[1:] + b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return received([data[1:]])[1:], handshake


# --- the contract -----------------------------------------------------------------------------------------


def contract(data: bytes) -> object:
    try:
        parsed = parse_contract(data.decode("utf-8", "replace"))
    except DevrouteError as error:
        message = error.message
    else:
        return tuple(type(entry.target).__name__ for entry in parsed.entries.values())[:3]
    assert message.isprintable(), message
    assert len(message) < 1000
    return re.sub(r"'[^']*'|\d+", "", message)[:60]


# --- HTTP/2 -----------------------------------------------------------------------------------------------


def h2_blocks(data: bytes) -> object:
    return h2_targets.blocks(data)


def h2_requests(data: bytes) -> object:
    """Cuts change the order of events: a response may end a stream before the next frame for it arrives."""
    wire = h2_targets.framed(data)
    for parts in (pieces(wire), [wire]):
        whole, opened = h2_targets.requests_of(parts)
        for one in whole:
            _judge_whole(one)
    kinds = [(one.head.method, one.head.framing, len(one.trailers)) for one in whole[:2]]
    return opened is None, opened and len(opened), tuple(kinds)


def h2_answers(data: bytes) -> object:
    wire = h2_targets.framed(data)
    for parts in (pieces(wire), [wire]):
        sink = h2_targets.answered(parts)
        assert not sink.late, "calls after the end"
        assert sink.open == 0, "the pool still counts it"
        assert (sink.trailers is None) is not (sink.error is None)
    return sink.status, len(sink.body), sink.error and sink.error.message[:40]


TARGETS: Final[dict[str, Target]] = {
    function.__name__: function
    for function in (
        head, chunks, connection, answer, tunnel, websocket, contract, h2_blocks, h2_requests, h2_answers,
    )
}  # fmt: skip
