"""Bytes of any kind at the proxy port, and requests of any kind for the mesh: never more than an error."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent.reach import socks
from devroute.agent.reach.contract_by_trace import ContractsByTrace, trace_ids
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.proxy_port import speaks_http, split_authority
from devroute.agent.reach.rewriting import RewritingUpstream
from devroute.errors import DevrouteError, RequestMalformed
from devroute.http.http1.request import parse_request_head
from devroute.http.http2.protocol import PREFACE
from devroute.http.message import Framing, RequestHead
from tests.agent.reach.mesh import BytesApp, Mesh, say
from tests.agent.reach.test_reach import SUCCEEDED
from tests.agent.reach.test_reach import socks as opening
from tests.support.eventually import eventually
from tests.support.examples import examples
from tests.support.loopback import App, Client

REQUESTS = st.builds(
    lambda command, kind, rest: b"\x05" + bytes((command, 0, kind)) + rest,
    st.sampled_from((0, 1, 1, 1, 3)),
    st.sampled_from((1, 3, 3, 4, 9)),
    st.binary(max_size=40),
)


@examples(100)
@given(REQUESTS)
def test_a_request_of_socks_is_read_alike_however_its_bytes_arrive(data: bytes) -> None:
    def read(size: int) -> object:
        try:
            return socks.read_request(data[:size])
        except DevrouteError as error:
            return error.code

    whole = read(len(data))
    for size in range(len(data)):
        part = read(size)
        assert part in (None, whole)
    if isinstance(whole, tuple):
        size, connect = whole
        assert read(size) == whole
        assert read(size - 1) is None
        assert 0 <= connect.port <= 65535


@examples(300)
@given(
    st.sampled_from((b"GET /", b"OPTIONS * HTTP/1.1", b"DELETE /x", PREFACE, b"\x16\x03\x01")),
    st.binary(max_size=9),
)
def test_what_a_client_speaks_does_not_change_with_more_bytes(start: bytes, rest: bytes) -> None:
    found = [speaks_http((start + rest)[:size]) for size in range(len(start + rest) + 1)]
    known = [each for each in found if each is not None]
    assert found[: len(found) - len(known)] == [None] * (len(found) - len(known))
    assert len(set(known)) <= 1


@examples(60)
@given(st.text(max_size=40), st.sampled_from((None, 80)))
def test_an_authority_is_read_or_refused(text: str, default: int | None) -> None:
    with suppress(RequestMalformed):
        host, port, _ = split_authority(text, default)
        assert host in text
        assert 1 <= port <= 65535


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
NAMES = st.sampled_from(
    (
        *("Host", "x-devroute", "X-Devroute-Via", "x-devroute-subject", "baggage", "Baggage", "traceparent"),
        *(
            "b3",
            "x-b3-traceid",
            "x-amzn-trace-id",
            "uber-trace-id",
            "x-datadog-trace-id",
            "x-request-id",
            "accept",
        ),
    )
)


@examples(100)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_a_rewritten_head_is_valid_and_says_nothing_that_only_sidecars_say(
    answering: list[tuple[str, str]], fields: list[tuple[str, str]]
) -> None:
    contracts, app = ContractsByTrace(lambda: 0.0), App()
    contracts.begin(head(answering))
    wire = head([("host", "127.0.0.1:9"), *((name, value) for name, value in fields if name != "Host")])
    upstream = RewritingUpstream(
        MeshPort.parse("c.shop:80"), app, contracts, lambda: None, lambda to, error: None
    )
    upstream.open(RequestHead(b"GET", b"/", Framing.NONE, 0, wire), Client())
    sent = app.streams[0].head.wire
    request = parse_request_head(sent)
    low = sent.lower()
    assert low.count(b"\r\nhost: c.shop\r\n") == low.count(b"\r\nhost:") == 1
    assert b"x-devroute-subject" not in low
    assert low.count(b"\r\nbaggage:") <= 1
    assert request.framing is Framing.NONE
    assert trace_ids(sent) == trace_ids(wire)


def head(fields: list[tuple[str, str]]) -> bytes:
    return "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", *map(": ".join, fields), "")).encode()


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_pauses_the_mesh() -> None:
    mesh = Mesh({"tcp://d:1": (app := BytesApp())})
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", reach.proxy_port, limit=1024)
        writer.write(opening("d", 1) + b"\0")
        await reader.readexactly(len(SUCCEEDED) + 1)
        (stream,) = app.streams
        size = 0
        while not stream.paused:
            stream.sink.on_data(bytes(64 * 1024))
            size += 64 * 1024
            await asyncio.sleep(0)
            assert size < 64 * 1024 * 1024
        received = 0
        while received < size:
            received += len(await reader.read(64 * 1024))
        await eventually(lambda: not stream.paused)
        stream.sink.pause_request()
        writer.write(b"x" * 1024)
        await asyncio.sleep(0)
        stream.sink.resume_request()
        await eventually(lambda: len(stream.body) == 1025)
        writer.close()
        await asyncio.wait_for(stream.cancelled.wait(), 20)


@pytest.mark.asyncio
async def test_a_connection_that_breaks_off_in_the_mesh_never_looks_complete() -> None:
    mesh = Mesh({"tcp://d:1": (app := BytesApp())})
    async with mesh.reached("tcp://d:1") as reach:
        asking = asyncio.ensure_future(say(reach.local[0].port, b"x", end=False))
        await eventually(lambda: app.streams and app.streams[0].body)
        app.streams[0].sink.on_error(DevrouteError("the link was lost"))
        with pytest.raises(ConnectionResetError):
            await asking
    assert [name for name, _ in mesh.failures] == ["tcp://d:1"]
