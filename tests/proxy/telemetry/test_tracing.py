"""Traces at the data port: what the next hop gets, what a strict receiver gets, and that a collector which is
down, slow, refuses or lies costs a request nothing.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from devroute.downstream.context import CompletedExchange
from devroute.proxy.telemetry import tracing as module
from devroute.proxy.telemetry.collector import (
    INVALID,
    QUEUE_FULL,
    REFUSED,
    REJECTED,
    STOPPED,
    UNREACHABLE,
    Collector,
)
from devroute.proxy.telemetry.tracing import MAX_WAITING, Tracing
from devroute.routing.route import Route
from tests.support.data_port import app_behind, data_port
from tests.support.eventually import eventually
from tests.support.laptop import serving
from tests.support.otlp import http, partial, raw_server, receiver
from tests.support.ports import free_port

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


@dataclass
class Port:
    """A data port before a laptop's tunnel and its app, which responds with the fields that it got."""

    port: int
    tracing: Tracing
    client: aiohttp.ClientSession
    exchanges: list[CompletedExchange]

    async def get(self, path: str = "/", **headers: str) -> list[list[str]]:
        async with self.client.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as response:
            assert response.status == 200
            found: list[list[str]] = await response.json()
            return found


async def fields(request: web.Request) -> web.Response:
    return web.json_response([[name.decode(), value.decode()] for name, value in request.raw_headers])


@asynccontextmanager
async def traced(url: str, seconds: float = 5.0) -> AsyncIterator[Port]:
    """Its tracing is started; the batches are sent at once, with short pauses between attempts."""
    tracing = Tracing(Collector(f"{url}/v1/traces", seconds), interval=0.01, backoff=0.01)

    exchanges: list[CompletedExchange] = []

    def observe(exchange: CompletedExchange) -> None:
        exchanges.append(exchange)
        tracing.add(exchange)

    async with serving(fields) as app, app_behind(app, "tunnel") as (upstream, _):
        route = Route(upstream, "foo", "alice", "laptop", "foo answered by alice", laptop="alice")
        async with (
            data_port(lambda request: route, observe, tracing.sampler) as (port, _),
            aiohttp.ClientSession() as client,
        ):
            tracing.start()
            try:
                yield Port(port, tracing, client, exchanges)
            finally:
                await tracing.close()


async def test_three_spans_of_a_sampled_request_and_a_traceparent_that_joins_the_apps() -> None:
    async with receiver() as collector, traced(collector.url) as port:
        got = await port.get("/orders?q=1", traceparent=TRACEPARENT, tracestate="a=1,b=2", baggage="user=u")
        server, client, agent = sorted(
            await collector.trace(TRACE, 3),
            key=lambda each: ("server", "client", "internal").index(each.kind),
        )
        assert (server.parent_id, client.parent_id, agent.parent_id) == (
            CALLER,
            server.span_id,
            client.span_id,
        )
        assert [value for name, value in got if name.lower() == "traceparent"] == [
            f"00-{TRACE}-{client.span_id}-01"
        ]
        assert ["tracestate", "a=1,b=2"] in got
        assert ["baggage", "user=u"] in got
        assert server.start <= client.start <= agent.start <= agent.end <= client.end <= server.end
        assert agent.attributes["devroute.laptop"] == "alice"
        await eventually(lambda: port.tracing.exported == 3)
        assert (port.tracing.lost, port.tracing.problem) == (0, None)


@pytest.mark.parametrize(
    "value", [None, TRACEPARENT[:-2] + "00", TRACEPARENT[:-2] + "02", "ff" + TRACEPARENT[2:], "nonsense"]
)
async def test_what_is_not_sampled_or_malformed_passes_byte_for_byte(value: str | None) -> None:
    headers = {"tracestate": "a=1 , b=2"} | ({} if value is None else {"traceparent": value})
    async with receiver() as collector, traced(collector.url) as port:
        got = await port.get(**headers)
        assert {name: text for name, text in got if name.startswith("trace")} == headers
        await port.get(traceparent=TRACEPARENT)
        await collector.trace(TRACE, 3)
        assert {each.trace_id for each in collector.spans} == {TRACE}


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


Server = Callable[[], AbstractAsyncContextManager[str]]
TOO_LARGE = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"4000\r\n" + b"\0" * 0x4000 + b"\r\n"

COLLECTORS: dict[str, tuple[Server, str]] = {
    "down": (nobody, UNREACHABLE),
    "slow": (lambda: raw_server(None), UNREACHABLE),
    "closes at once": (lambda: raw_server(b""), UNREACHABLE),
    "busy": (lambda: raw_server(http("503 Busy")), REFUSED),
    "busy for long": (lambda: raw_server(http("429 Busy", Retry_After="0")), REFUSED),
    "batch too large": (lambda: raw_server(http("413 Too Large")), REFUSED),
    "elsewhere": (lambda: raw_server(http("307 Moved", Location="http://192.0.2.1/")), REFUSED),
    "garbage": (lambda: raw_server(http("200 OK", b"<html>Sign in</html>")), INVALID),
    "not HTTP": (lambda: raw_server(b"SSH-2.0-OpenSSH_9.7\r\n"), INVALID),
    "a head without end": (lambda: raw_server(b"HTTP/1.1 200 OK\r\n", endless=b"a: b\r\n" * 1000), INVALID),
    "a body without end": (lambda: raw_server(TOO_LARGE, endless=CHUNK), INVALID),
    "a bomb": (
        lambda: raw_server(http("200 OK", b"\x1f\x8b\x08" + b"\0" * 99, Content_Encoding="gzip")),
        INVALID,
    ),
    "rejects some": (lambda: raw_server(http("200 OK", partial(1))), REJECTED),
    "rejects more than there were": (lambda: raw_server(http("200 OK", partial(2**62))), REJECTED),
}


@pytest.mark.parametrize("kind", COLLECTORS)
async def test_a_bad_collector_costs_requests_nothing_but_a_count(kind: str) -> None:
    server, reason = COLLECTORS[kind]
    async with server() as url, traced(url, seconds=0.1 if kind == "slow" else 10.0) as port:
        tracing = port.tracing
        for _ in range(3):
            await port.get(traceparent=TRACEPARENT)
        await eventually(lambda: tracing.lost + tracing.exported == 9, "all nine spans are accounted for")
        assert set(tracing.dropped) == {reason}
        assert tracing.problem
        assert "ssl:" not in tracing.problem  # of aiohttp's own text, misleading for http
        assert kind != "down" or tracing.problem == "the collector cannot be reached: Connection refused"
        assert tracing.exported == 0 or kind == "rejects some"
        await port.get(traceparent=TRACEPARENT)


async def test_a_collector_that_comes_back_gets_what_it_refused() -> None:
    refused = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal refused
        if refused < 2:
            refused += 1
            return web.Response(status=503)
        return await collector.handle(request)

    async with receiver() as collector, serving(handle) as there, traced(f"http://127.0.0.1:{there}") as port:
        await port.get(traceparent=TRACEPARENT)
        await collector.trace(TRACE, 3)
        await eventually(lambda: port.tracing.exported == 3)
        assert (refused, port.tracing.lost, port.tracing.problem) == (2, 0, None)


async def test_the_queue_is_bounded_and_the_end_does_not_wait_for_a_slow_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    async with raw_server(None) as url, traced(url, seconds=30) as port:
        await port.get(traceparent=TRACEPARENT)
        (exchange,) = await eventually(lambda: port.exchanges)
        for _ in range(MAX_WAITING + 1000):
            port.tracing.add(exchange)
        assert 2 * 1000 <= port.tracing.dropped[QUEUE_FULL] <= 2 * 1002
        await port.get()
    lost = port.tracing.dropped
    assert set(lost) == {QUEUE_FULL, STOPPED}
    assert port.tracing.lost == 2 * (MAX_WAITING + 1001) + 1, "all spans are accounted for, the agent's too"
