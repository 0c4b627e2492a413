"""Sampled requests as OpenTelemetry's spans: names, kinds, parents and attributes by a request's outcome."""

from typing import Any

import pytest

from devroute.downstream.context import CompletedExchange
from devroute.errors import (
    ClientClosed,
    ContractInvalid,
    DevrouteError,
    FaultInjected,
    LaptopOffline,
    UpstreamReset,
    UpstreamTimeout,
)
from devroute.http.http1.request import parse_request_head
from devroute.http.spans import AgentSpan, SpanIds
from devroute.http.trace_context import TraceParent
from devroute.proxy.telemetry.spans import Batch, sampled_request, server_of
from devroute.routing.route import Route
from tests.support.otlp import Received, read

TRACE, CALLER = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SERVER, CLIENT = b"5e5e5e5e5e5e5e5e", b"c1c1c1c1c1c1c1c1"
IDS = SpanIds(TraceParent(TRACE, CALLER, 1), SERVER, CLIENT)
OFFSET = 1_700_000_000_000_000_000


def route(result: str = "laptop", code: str = "tunnel", laptop: str = "alice") -> Route:
    upstream: Any = None
    reason = "b answered by alice (tunnel)"
    return Route(upstream, "b", "alice", result, reason, reason_code=code, laptop=laptop)


def exchange(
    *lines: str,
    start: str = "GET /orders/17?token=s3cret HTTP/1.1",
    status: int = 200,
    error: DevrouteError | None = None,
    through: Route | None = route(),  # noqa: B008
    opened: float = 10.25,
) -> CompletedExchange:
    head = "\r\n".join([start, "host: b.shop:8080", *lines, "", ""])
    done = CompletedExchange(parse_request_head(head.encode()), 10.0)
    done.route, done.error, done.status = through, error, status
    done.opened, done.ended, done.finished = opened, 11.0, 11.5
    return done


def spans_of(done: CompletedExchange) -> list[Received]:
    batch = Batch(OFFSET, "this-process")
    one = sampled_request(done, IDS)
    batch.add(one)
    found = read(batch.body())
    assert len(found) == batch.spans == one.spans
    return found


def test_a_request_to_a_laptop() -> None:
    server, client = spans_of(exchange())
    assert (server.service, server.name, server.kind, server.failed) == (
        "devroute-proxy",
        "GET",
        "server",
        False,
    )
    assert (client.service, client.name, client.kind, client.failed) == (
        "devroute-proxy",
        "GET",
        "client",
        False,
    )
    assert {server.trace_id, client.trace_id} == {TRACE.decode()}
    assert (server.parent_id, server.span_id) == (CALLER.decode(), SERVER.decode())
    assert (client.parent_id, client.span_id) == (SERVER.decode(), CLIENT.decode())
    assert (server.flags, client.flags) == (0x301, 0x101), "the caller is remote"
    assert (server.start - OFFSET, server.end - OFFSET) == (10_000_000_000, 11_500_000_000)
    assert (client.start - OFFSET, client.end - OFFSET) == (10_250_000_000, 11_000_000_000)
    ours = {
        "http.request.method": "GET",
        "devroute.service": "b",
        "devroute.result": "laptop",
        "devroute.reason": "tunnel",
        "devroute.laptop": "alice",
        "server.port": 8080,
        "http.response.status_code": 200,
    }
    assert server.attributes == ours | {
        "url.scheme": "http",
        "url.path": "/orders/17",
        "server.address": "b.shop",
        "network.protocol.version": "1.1",
    }
    assert client.attributes == ours | {"url.full": "http://b.shop:8080/orders/17", "server.address": "b"}


#: error, status, route; then error.type of server and client (None: not failed; "": no such span), and reason
OUTCOMES: list[tuple[DevrouteError | None, int, Route | None, str | None, str | None, str]] = [
    (None, 200, route(), None, None, "tunnel"),
    (None, 404, route(), None, "404", "tunnel"),
    (None, 500, route(), "500", "500", "tunnel"),
    (None, 202, route("mirror", "mirror"), None, None, "mirror"),
    (None, 200, route("service", "failover"), None, None, "failover"),
    (UpstreamTimeout("late"), 504, route(), "upstream-timeout", "upstream-timeout", "upstream-timeout"),
    (LaptopOffline("asleep"), 503, route(), "laptop-offline", "laptop-offline", "laptop-offline"),
    (UpstreamReset("torn"), 200, route(), "upstream-reset", "upstream-reset", "upstream-reset"),
    (ClientClosed("left"), 0, route(), "client-closed", "client-closed", "client-closed"),
    (ContractInvalid("no"), 400, None, None, "", "contract-invalid"),
    (FaultInjected("as asked"), 418, route("error", "fault", ""), None, "", "fault-injected"),
]


@pytest.mark.parametrize(("error", "status", "through", "server_type", "client_type", "reason"), OUTCOMES)
def test_outcomes(
    error: DevrouteError | None,
    status: int,
    through: Route | None,
    server_type: str | None,
    client_type: str | None,
    reason: str,
) -> None:
    opened = 0.0 if through is None else 10.25
    server, *clients = spans_of(exchange(error=error, status=status, through=through, opened=opened))
    assert (server.failed, server.attributes.get("error.type")) == (bool(server_type), server_type)
    assert server.attributes.get("http.response.status_code") == (status or None)
    assert server.attributes["devroute.reason"] == reason
    assert server.attributes["devroute.result"] == ("error" if error or through is None else through.result)
    assert len(clients) == (client_type != "")
    for client in clients:
        assert (client.failed, client.attributes.get("error.type")) == (bool(client_type), client_type)
        assert client.attributes.get("http.response.status_code") == (None if error else status)


def test_nothing_that_people_keep_secrets_in_becomes_an_attribute() -> None:
    secret = "s3cret"
    lines = [
        f"baggage: user={secret},devroute=%7B%22b%22%3A%22{secret}%22%7D",
        f"tracestate: vendor={secret}",
        f"authorization: Bearer {secret}",
        f"cookie: session={secret}",
        f'x-devroute: {{"b": "{secret}"}}',
        f"user-agent: {secret}",
        f"x-forwarded-for: {secret}",
    ]
    batch = Batch(OFFSET, "this-process")
    batch.add(sampled_request(exchange(*lines), IDS))
    assert b"/orders/17" in batch.body()
    assert secret.encode() not in batch.body()


def test_methods_that_clients_invent_are_one_name() -> None:
    server, client = spans_of(exchange(start="PURGE /orders HTTP/1.1"))
    assert {server.name, client.name} == {"HTTP"}
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "PURGE"


def test_long_and_odd_values_are_bounded_text() -> None:
    server, _ = spans_of(exchange(start=f"GET /{'a' * 5000} HTTP/1.1"))
    assert len(str(server.attributes["url.path"])) == 512


@pytest.mark.parametrize(
    ("line", "scheme", "port"),
    [("x-forwarded-proto: https", "https", 8080), ("x-forwarded-proto: gopher", "http", 8080)],
)
def test_the_scheme_is_that_of_the_first_hop(line: str, scheme: str, port: int) -> None:
    server, client = spans_of(exchange(line))
    assert (server.attributes["url.scheme"], server.attributes["server.port"]) == (scheme, port)
    assert client.attributes["url.full"] == f"{scheme}://b.shop:8080/orders/17"


@pytest.mark.parametrize(
    ("authority", "scheme", "expected"),
    [
        ("b.shop:8080", "http", ("b.shop", 8080)),
        ("b.shop", "http", ("b.shop", 80)),
        ("b.shop", "https", ("b.shop", 443)),
        ("[2001:db8::1]:8080", "http", ("2001:db8::1", 8080)),
        ("[2001:db8::1]", "http", ("2001:db8::1", 80)),
        ("b:", "http", ("b:", 80)),
        ("", "http", ("", 80)),
    ],
)
def test_server_of(authority: str, scheme: str, expected: tuple[str, int]) -> None:
    assert server_of(authority, scheme) == expected


@pytest.mark.parametrize(("status", "code"), [(200, ""), (0, "laptop-offline"), (200, "cancelled")])
def test_the_agents_span_is_internal_below_the_client(status: int, code: str) -> None:
    batch = Batch(OFFSET, "this-process")
    agent = AgentSpan(TraceParent(TRACE, CLIENT, 1), "b", "alice", batch.add)
    agent.opened, agent.status = 10.0, status
    agent.end(11.0, 0.2, code)
    (span,) = read(batch.body())
    assert (span.service, span.name, span.kind) == ("devroute-agent", "agent", "internal")
    assert (span.trace_id, span.parent_id, span.failed) == (TRACE.decode(), CLIENT.decode(), bool(code))
    assert (span.start - OFFSET, span.end - OFFSET) == (10_100_000_000, 10_900_000_000)
    expected: dict[str, object] = {"devroute.service": "b", "devroute.laptop": "alice"}
    expected |= {"http.response.status_code": status} if status else {}
    assert span.attributes == expected | ({"error.type": code} if code else {})
