"""The initial corpus. The conformance tables cover the grammar's corner cases, which chance rarely finds."""

import json
from functools import cache
from pathlib import Path

import hpack

from devroute.tunnel.protocol.events import Event, Opened
from devroute.tunnel.protocol.frames import FIRST_AGENT_ID, HEADER, OPEN_HEADER, FrameType
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.websocket import WebSocket, request_upgrade
from tests.conformance import requests, responses

from .targets import MAX_INPUT

VECTORS = json.loads((Path(__file__).parent.parent / "tests" / "vectors" / "contracts.json").read_text())

#: Pieces of each grammar, which mutations insert.
TOKENS = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b",",
    b";",
    b"=",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"0",
    b"1",
    b"5",
    b"a",
    b"ffffffff",
    b"0x",
    b"+",
    b"-",
    b"00",
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"OPTIONS * ",
    b"CONNECT ",
    b"PRI ",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"http://foo",
    b"host: foo\r\n",
    b"content-length: 5\r\n",
    b"content-length: 0\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: x\r\n",
    b"connection: ",
    b"host",
    b"x-devroute",
    b"te: trailers\r\n",
    b"expect: 100-continue\r\n",
    b"x-devroute-matched: foo\r\n",
    b"chunked",
    b"identity",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 x\r\n\r\n",
    b"HTTP/1.1 101 x\r\n",
    b"HTTP/1.1 204 x\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"1\r\nx\r\n",
    b"0\r\nx: y\r\n\r\n",
    b"\x00\x00\x00\x01",
    b"\x00\x00\x00\x02",
    b"\xff\xff\xff\xff",
    *(HEADER.pack(kind, 0, 1, 0) for kind in FrameType),
    *(HEADER.pack(kind, 1, 0, 4) + b"abcd" for kind in FrameType),
    b"\x82\x05",
    b"\x82\x85",
    b"\x89\x80",
    b"\x88\x02\x03\xe8",
    b"\x82\x7e",
    b"\x82\xff",
    b'"foo"',
    b'"to"',
    b'"alice"',
    b'"192.168.1.12:8001"',
    b"[fd00::1]:8001",
    b'"version:v2"',
    b"true",
    b"null",
    b"1e9",
    b"\\u0000",
]


def _dialogue() -> tuple[bytes, bytes]:
    """(bytes of the proxy, bytes of the agent) of a short dialogue."""
    proxy, agent = Session(Role.PROXY), Session(Role.AGENT)
    sent = {proxy: b"", agent: b""}

    def deliver(one: Session, other: Session) -> list[Event]:
        data = b"".join(one.data_to_send())
        sent[one] += data
        return other.receive(data)

    agent.send_hello(b'{"version":1,"agent":"x","services":[{"service":"foo"}]}')
    deliver(agent, proxy)
    proxy.send_welcome(b'{"version":1,"server":"x","name":"alice"}')
    streams = [proxy.open(b"foo", b"POST / HTTP/1.1\r\nhost: foo\r\n\r\n", flags, 3) for flags in (0, 1, 4)]
    proxy.send_data(streams[0], b"abc")
    proxy.send_end(streams[0], [(b"x", b"y")])
    proxy.ping(b"12345678")
    opened = [event.stream for event in deliver(proxy, agent) if isinstance(event, Opened)]
    agent.send_head(opened[0], b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
    agent.send_data(opened[0], b"abc")
    agent.send_end(opened[0], [])
    agent.reset(opened[1], "app-unreachable", "no", "start it")
    agent.goaway("internal", "bye")
    deliver(agent, proxy)
    return sent[proxy], sent[agent]


def _short(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame in the encoding that h2_targets.framed reads."""
    return bytes((kind, flags, stream, len(payload))) + payload


def _h2() -> dict[str, list[bytes]]:
    """Header blocks, requests and responses. Types: DATA 0, HEADERS 1, RST_STREAM 3, SETTINGS 4, PING 6,
    GOAWAY 7, WINDOW_UPDATE 8, CONTINUATION 9; flags: END_STREAM 1, END_HEADERS 4."""
    start = [(":method", "POST"), (":scheme", "http"), (":path", "/a?b"), (":authority", "foo")]
    mesh = [("x-devroute", '{"foo":"alice"}'), ("x-devroute-matched", "foo"), ("te", "trailers")]
    code = hpack.Encoder().encode
    get = code([(":method", "GET"), *start[1:], *mesh])
    post = code([*start, *mesh, ("content-length", "5")])
    ok = code([(":status", "200"), ("content-type", "application/grpc"), ("content-length", "5")])
    trailers = hpack.Encoder().encode([("grpc-status", "0"), ("x", "y")])
    plain = hpack.Encoder().encode([*start, *mesh], huffman=False)
    data = _short(0, 0, 1, b"he") + _short(0, 1, 1, b"llo")
    blocks = [get, post, ok, trailers, plain, b"\x3f\xe1\x1f" + get, b"\x82\x86\x84", b"\x40\x01a\x01b\xbe"]
    frames = [
        _short(1, 5, 1, get),
        _short(1, 4, 1, post) + data,
        _short(1, 4, 1, plain) + _short(0, 0, 1, b"hello") + _short(1, 5, 1, trailers),
        _short(1, 0, 1, plain[:9]) + _short(9, 4, 1, plain[9:]) + data,
        _short(1, 5, 1, get) + _short(3, 0, 1, bytes(4)) + _short(1, 5, 3, plain),
        _short(4, 0, 0, b"\0\4\0\0\0\1") + _short(8, 0, 0, b"\0\0\0\1") + _short(6, 0, 0, bytes(8)),
        _short(7, 0, 0, bytes(8)) + _short(1, 0x2D, 1, b"\1" + bytes(5) + get + b"\0"),
        b"\xff" + b"\0\0\1\0\1\0\0\0\1x",
    ]
    answers = [
        _short(1, 5, 1, ok),
        _short(1, 4, 1, ok) + data,
        _short(1, 4, 1, code([(":status", "103")])) + _short(1, 4, 1, ok) + data,
        _short(1, 4, 1, code([(":status", "200")])) + _short(0, 0, 1, b"x") + _short(1, 5, 1, trailers),
        _short(3, 0, 1, b"\0\0\0\7"),
        _short(7, 0, 0, bytes(8)),
        _short(4, 0, 0, b"\0\3\0\0\0\0") + _short(1, 5, 1, ok),
    ]
    several = [b"".join(bytes((len(each),)) + each for each in some) for some in (blocks[:4], blocks[4:])]
    return {
        "h2_blocks": [*several, *(bytes((len(each),)) + each for each in blocks)],
        "h2_requests": [*frames, b"".join(frames[:3])],
        "h2_answers": answers,
    }


@cache
def seeds(target: str) -> list[bytes]:
    heads = [case.raw for case in requests.CASES] + [case.raw for case in responses.CASES]
    from_proxy, from_agent = _dialogue()
    sender = WebSocket(client=True, random=lambda size: b"\x01\x02\x03\x04"[:size])
    every = {
        "head": heads,
        "connection": [case.raw for case in requests.CASES],
        "answer": [case.raw for case in responses.CASES],
        "chunks": [raw.partition(b"\r\n\r\n")[2] for raw in heads],
        "tunnel": [
            b"\xff\x00" + from_proxy,
            b"\x00\x00" + from_agent,
            b"\xff\xff" + from_proxy[10 + 41 :],
            *(b"\x00\x40" + HEADER.pack(kind, 1, FIRST_AGENT_ID, 4) + b"abcd" for kind in FrameType),
            b"\x00\x40"
            + OPEN_HEADER.pack(FrameType.OPEN, 0, FIRST_AGENT_ID, 34, 3, 1)
            + b"cPOST / HTTP/1.1\r\n\r\nabc",
            *(b"\xff\x40" + HEADER.pack(kind, 0, FIRST_AGENT_ID, 0) for kind in FrameType),
            b"\x00\xff" + from_agent[10 + 56 :],
            *(b"\xff\xff" + HEADER.pack(kind, 0, 1, 4) + b"\x00\x00\x00\x05" for kind in FrameType),
            *(b"\x00\xff" + HEADER.pack(kind, 1, 1, 0) for kind in FrameType),
        ],
        "websocket": [
            b"\x00" + bytes(sender.encode([b"hello" * 30])) + bytes(sender.close(1000)),
            b"\xff\x82\x05hello\x89\x00\x02\x01a\x80\x01b\x88\x02\x03\xe8",
            b"\xff\x82\x7e\x00\x80" + b"x" * 128 + b"\x82\x7f" + b"\x00" * 7 + b"\x03abc",
            b"\x00" + request_upgrade("foo", "/tunnel", {"x": "y"}, b"0" * 16)[0],
        ],
        "contract": [
            b'{"foo":"alice","bar.ns":"192.168.1.12:8001","b":{"to":"[fd00::1]:80","methods":["GET"],"percent":5}}',
            b'{"foo": "al\\n68.1.12:8001/X"}',
            *(vector["contract"].encode() for kind in VECTORS.values() for vector in kind),
        ],
    } | _h2()
    found = every[target]
    return [seed for seed in dict.fromkeys(found) if len(seed) <= MAX_INPUT]
