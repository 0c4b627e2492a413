"""Which requests are sampled, and the `traceparent` that their next hop gets (W3C Trace Context)."""

import pytest

from devroute.http.message import Framing, RequestHead
from devroute.http.spans import AgentSpan, SpanIds, sampled_parent, with_parent
from devroute.http.trace_context import TraceParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENT = b"c1c1c1c1c1c1c1c1"


def head(*lines: str) -> bytes:
    return "\r\n".join(["GET /orders HTTP/1.1", "host: b", *lines, "accept: */*", "", ""]).encode("latin-1")


SAMPLED = [
    # the value, and the flags that are passed on
    (f"00-{TRACE}-{SPAN}-01", "01"),
    (f"00-{TRACE}-{SPAN}-03", "03"),
    (f"00-{TRACE}-{SPAN}-ff", "03"),
    (f"00-{TRACE}-{SPAN}-09", "01"),
    (f"cc-{TRACE}-{SPAN}-01", "01"),
    (f"cc-{TRACE}-{SPAN}-01-what-a-later-version-adds", "01"),
]
NOT_SAMPLED = [
    f"00-{TRACE}-{SPAN}-00",
    f"00-{TRACE}-{SPAN}-02",
    f"00-{TRACE}-{SPAN}-fe",
]
MALFORMED = [
    "",
    "00",
    "01",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-0g",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-01 ",
    f"00-{TRACE}-{SPAN}-011",
    f"cc-{TRACE}-{SPAN}-01.more",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
    "é" * 55,
]


@pytest.mark.parametrize(("value", "flags"), SAMPLED)
def test_a_sampled_request_gets_the_clients_span_and_keeps_the_rest(value: str, flags: str) -> None:
    around = ("tracestate: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "baggage: a=b")
    wire = head(f"traceparent: {value}", *around)
    parent = sampled_parent(wire)
    assert parent is not None
    assert (parent.trace_id.decode(), parent.span_id.decode()) == (TRACE, SPAN)
    ids = SpanIds(parent, b"5e5e5e5e5e5e5e5e", CLIENT)
    assert with_parent(wire, ids) == head(f"traceparent: 00-{TRACE}-{CLIENT.decode()}-{flags}", *around)


@pytest.mark.parametrize("value", NOT_SAMPLED + MALFORMED)
def test_what_is_not_sampled_or_malformed_has_no_spans(value: str) -> None:
    assert sampled_parent(head(f"traceparent: {value}")) is None


def test_two_are_as_bad_as_none() -> None:
    line = f"traceparent: 00-{TRACE}-{SPAN}-01"
    assert sampled_parent(head()) is None
    assert sampled_parent(head(line, line)) is None
    assert sampled_parent(head(f"x-traceparent: 00-{TRACE}-{SPAN}-01", f"x: traceparent: {line}")) is None
    assert sampled_parent(f"GET / HTTP/1.1\r\ntraceparent: 00-{TRACE}".encode()) is None, "cut off"


def test_a_head_without_the_line_stays() -> None:
    ids = SpanIds(TraceParent(TRACE.encode(), SPAN.encode(), 1), CLIENT, CLIENT)
    assert with_parent(head(), ids) == head(), "the client listed it in Connection"


@pytest.mark.parametrize(
    ("round_trip", "expected"),
    [(None, (10.0, 14.0)), (0.5, (10.25, 13.75)), (100.0, (12.0, 12.0))],
)
def test_the_laptops_span_is_without_the_way_there_and_back(
    round_trip: float | None, expected: tuple[float, float]
) -> None:
    reported: list[AgentSpan] = []
    span = AgentSpan(TraceParent(b"", b"", 1), "b", "alice", reported.append)
    span.end(9.0, None, "laptop-offline")
    assert reported == [], "it was never sent"
    span.opened = 10.0
    span.end(14.0, round_trip, "")
    span.end(15.0, None, "cancelled")
    assert (reported, span.at_laptop(), span.code) == ([span], expected, "")


def test_requests_without_a_span_have_no_place_for_one() -> None:
    assert RequestHead(b"GET", b"/", Framing.NONE, 0, head()).span is None
