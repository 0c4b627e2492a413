"""No cache keeps a laptop's response: it would serve it to others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from devroute.errors import TargetDenied
from devroute.http.http1.response import parse_response_head
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from tests.support import h2_peer
from tests.support.data_port import always, data_port
from tests.support.loopback import App, AppStream

STORED = (
    b"HTTP/1.1 200 OK\r\nCache-Control: public,\t max-age=600\r\nx-a: 1\r\ncache-control: immutable\r\n"
    b"expires: 0\r\netag: x\r\nvary: cookie\r\nCDN-Cache-Control: max-age=9\r\nsurrogate-control: x\r\n"
    b"x-accel-expires: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n\r\n"
)
PLAIN = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
NAMES = (b"cache-control", b"expires", b"cdn-cache-control", b"surrogate-control", b"x-accel-expires")


def denied(request: InboundRequest) -> Route:
    raise TargetDenied("no")


@asynccontextmanager
async def responding(raw: bytes, outcome: str, *, no_store: bool) -> AsyncIterator[int]:
    """`outcome`: laptop; service, after a failover; or error, the proxy's own."""
    head = parse_response_head(raw, b"GET")
    if outcome == "service":
        head = head.with_outcome("service", "foo: failover")

    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head)
        stream.sink.on_end([])

    router = denied if outcome == "error" else always(App(serve), no_store=no_store)
    async with data_port(router) as (port, _):
        yield port


async def fields_of(port: int, kind: str) -> list[tuple[bytes, bytes]]:
    if kind == "h2":
        peer = await h2_peer.dial(port)
        head, *_ = await peer.whole(peer.request(grpc=False))
        peer.close()
        return list(head.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n")
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).split(b"\r\n")[1:-2]
    writer.transport.abort()
    pairs = [line.partition(b": ") for line in lines]
    return [(name.lower(), value) for name, _, value in pairs]


@pytest.mark.parametrize("kind", ["h1", "h2"])
@pytest.mark.parametrize("raw", [STORED, PLAIN], ids=["stored", "plain"])
@pytest.mark.parametrize("outcome", ["laptop", "error"])
async def test_no_cache_may_keep_the_response_of_a_laptop_or_an_error(
    outcome: str, raw: bytes, kind: str
) -> None:
    async with responding(raw, outcome, no_store=True) as port:
        for _ in range(2):
            fields = await fields_of(port, kind)
            assert [field for field in fields if field[0] in NAMES] == [(b"cache-control", b"no-store")]
            if outcome == "laptop" and raw is STORED:
                assert {(b"etag", b"x"), (b"vary", b"cookie"), (b"x-a", b"1")} < set(fields)


@pytest.mark.parametrize("kind", ["h1", "h2"])
@pytest.mark.parametrize(("outcome", "no_store"), [("service", True), ("laptop", False)])
async def test_the_service_s_own_response_is_as_it_is_and_so_is_a_laptop_s_where_the_proxy_is_set_so(
    outcome: str, no_store: bool, kind: str
) -> None:
    async with responding(STORED, outcome, no_store=no_store) as port:
        fields = await fields_of(port, kind)
        assert (b"expires", b"0") in fields
        assert (b"cache-control", b"no-store") not in fields
    async with responding(PLAIN, outcome, no_store=no_store) as port:
        assert not [field for field in await fields_of(port, kind) if field[0] in NAMES]
