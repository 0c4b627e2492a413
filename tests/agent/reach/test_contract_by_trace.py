"""The contract of a request that is being answered, found by what tracers pass on."""

import pytest

from devroute.agent.reach import contract_by_trace
from devroute.agent.reach.contract_by_trace import KEPT_SECONDS, ContractsByTrace, trace_ids
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.rewriting import RewritingUpstream
from devroute.http.message import Framing, RequestHead
from tests.support.loopback import App, Client

TRACE = "0af7651916cd43dd8448eb211c80319c"
LOW = b"8448eb211c80319c"
CONTRACT = '{"c": "bob"}'
BAGGAGE = "devroute=%7B%22c%22%3A%22bob%22%7D,devroute-via=b"


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", "host: 127.0.0.1:1", *lines, "")).encode()


#: As a sidecar sends a request that it has detoured.
DETOURED = head(
    f"x-devroute: {CONTRACT}", "x-devroute-via: b", f"baggage: tenant=7,{BAGGAGE}",
    f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01", "x-request-id: 6f1f-11",
)  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        f"traceparent: 00-{TRACE}-b7ad6b7169203331-00",
        f"Traceparent: 00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"b3: {TRACE}-e457b5a2e4d86bd1-1",
        "b3: 8448eb211c80319c-e457b5a2e4d86bd1",
        f"X-B3-TraceId: {TRACE}",
        "x-b3-traceid: 8448eb211c80319c",
        "uber-trace-id: 8448eb211c80319c:5b3a:0:1",
        f"uber-trace-id: {TRACE}%3A5b3a%3A0%3A1",
        f"x-datadog-trace-id: {int(LOW, 16)}",
        f"x-cloud-trace-context: {TRACE}/123;o=1",
        "x-amzn-trace-id: Self=1-2;Root=1-67891233-abcdef018448eb211c80319c;Sampled=1",
        "x-request-id: 6f1f-11",
    ],
)
def test_a_request_of_the_trace_gets_contract_and_baggage(line: str) -> None:
    (sent,) = outgoing([DETOURED], head(line))
    assert sent.count(b"\r\nx-devroute: ") == 1
    assert f"\r\nx-devroute: {CONTRACT}\r\nx-devroute-via: b\r\nbaggage: {BAGGAGE}\r\n\r\n".encode() in sent


@pytest.mark.parametrize(
    "line",
    [
        "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-00",
        "traceparent: 00-1af7651916cd43dd0000000000000001-b7ad6b7169203331-00",
        "traceparent: rubbish",
        "b3: 0",
        "uber-trace-id: zz:1:0:1",
        "x-datadog-trace-id: 99999999999999999999999",
        "x-request-id: " + "6" * 200,
        "x-request-id: ",
        "accept: */*",
    ],
)
def test_any_other_request_gets_nothing(line: str) -> None:
    (sent,) = outgoing([DETOURED, head("x-request-id: no-contract")], head(line))
    assert b"x-devroute" not in sent
    assert b"baggage" not in sent


@pytest.mark.parametrize(
    "own",
    [
        'X-Devroute: {"c": "carol"}',
        "baggage: devroute=%7B%22c%22%3A%22carol%22%7D",
        "tracestate: devroute=%7B%22c%22%3A%22carol%22%7D",
    ],
)
def test_a_contract_that_the_app_sends_stays_and_nothing_is_added(own: str) -> None:
    (sent,) = outgoing([DETOURED], head(own, "x-request-id: 6f1f-11"))
    assert b"bob" not in sent

    assert sent.count(b"carol") == 1


def test_what_an_app_passes_on_is_not_added_twice() -> None:
    (sent,) = outgoing([DETOURED], head(f"baggage: a=1, {BAGGAGE}", "x-request-id: 6f1f-11"))
    assert sent.count(b"devroute=") == 1
    assert sent.count(b"\r\nx-devroute: ") == 1
    assert f"baggage: a=1, {BAGGAGE}\r\n".encode() in sent


def test_my_own_contract_is_added_where_none_is_found() -> None:
    (sent,) = outgoing([], head(), own=b'{"b": "alice"}')
    assert b'\r\nx-devroute: {"b": "alice"}\r\n' in sent
    (sent,) = outgoing([DETOURED], head("x-request-id: 6f1f-11"), own=b'{"b": "alice"}')
    assert f"\r\nx-devroute: {CONTRACT}\r\n".encode() in sent


def test_of_devroute_s_fields_a_program_sends_those_of_a_caller_alone() -> None:
    given = head(
        "Host: evil", "X-Devroute-Subject: eve", "x-devroute-matched: b", f"x-devroute: {CONTRACT}",
        "x-devroute-via: b", "X-Devroute-Caller: spiffe://x",
    ).replace(b"host: 127.0.0.1:1\r\n", b"")  # fmt: skip
    (sent,) = outgoing([], given)
    assert (
        sent
        == f"GET / HTTP/1.1\r\nhost: c.shop\r\nx-devroute: {CONTRACT}\r\nx-devroute-via: b\r\n\r\n".encode()
    )


def test_a_contract_is_found_for_a_minute_after_its_last_request() -> None:
    now = 1000.0
    known = ContractsByTrace(lambda: now)
    later = head("x-request-id: 6f1f-11")
    known.begin(DETOURED)
    known.begin(DETOURED)
    known.end(DETOURED)
    now += 10 * KEPT_SECONDS
    assert known.find(later) is not None
    known.end(DETOURED)
    now += KEPT_SECONDS
    assert known.find(later) is not None
    now += 1
    assert known.find(later) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract_by_trace, "MAX_ENDED", 3)
    known = ContractsByTrace(lambda: 0.0)

    def answered(number: int) -> bytes:
        request = head(f"x-devroute: {CONTRACT}", f"x-request-id: {number}")
        known.begin(request)
        known.end(request)
        return request

    requests = [answered(number) for number in range(5)]
    assert [known.find(each) is not None for each in requests] == [False, False, True, True, True]


def test_ids_of_one_trace_are_equal_in_all_formats() -> None:
    assert trace_ids(DETOURED) == {LOW, b"6f1f-11"}


def outgoing(answering: list[bytes], wire: bytes, own: bytes | None = None) -> list[bytes]:
    """What is sent for a request of a program, while these are being answered."""
    known = ContractsByTrace(lambda: 0.0)
    for each in answering:
        known.begin(each)
    app = App()
    upstream = RewritingUpstream(MeshPort.parse("c.shop:80"), app, known, lambda: own, lambda to, error: None)
    upstream.open(RequestHead(b"GET", b"/", Framing.NONE, 0, wire), Client())
    return [each.head.wire for each in app.streams]
