"""What is kept stays within its bounds, and subscribers hear of it in order."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.http1.request import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.inspector.capture import Capture, Message
from devroute.inspector.store import MAX_EXCHANGES, MAX_MESSAGES, CaptureStore
from devroute.inspector.views import as_detail, as_summary

SIDES: tuple[Literal["request", "response"], ...] = ("request", "response")


def request(
    target: str = "/", fields: str = "", framing: Framing = Framing.CHUNKED, method: str = "POST"
) -> RequestHead:
    wire = f"{method} {target} HTTP/1.1\r\nhost: foo\r\n{fields}\r\n".encode()
    return RequestHead(method.encode(), target.encode(), framing, 0, wire)


def answered(captures: CaptureStore, exchange: Capture, fields: str = "", status: int = 200) -> None:
    raw = f"HTTP/1.1 {status} OK\r\n{fields}\r\n".encode()
    captures.respond(exchange, parse_response_head(raw, b"POST"), 2.0)


def whole(captures: CaptureStore, target: str = "/", body: bytes = b"") -> Capture:
    exchange = captures.begin("foo", request(target), 1000.0, 1.0)
    captures.sent(exchange, 1.5)
    answered(captures, exchange)
    captures.receive(exchange, body, "response")
    captures.end(exchange, [], 3.0)
    return exchange


def test_an_exchange_is_kept_as_it_came() -> None:
    captures = CaptureStore()
    head = request("/p?q=1", "x-forwarded-client-cert: By=x;URI=spiffe://td/ns/shop/sa/web\r\nA: b\r\n")
    exchange = captures.begin("foo", head, 1000.0, 1.0)
    captures.receive(exchange, b"ab", "request")
    captures.receive(exchange, b"c", "request")
    captures.sent(exchange, 1.5)
    answered(captures, exchange, "content-type: text/html\r\n", 404)
    captures.receive(exchange, b"\xff\x00", "response")
    captures.end(exchange, [(b"t", b"1")], 3.0)
    detail = as_detail(exchange)
    assert detail["caller"] == "shop/web"
    assert detail["request_body"] == {
        "size": 3, "kept": 3, "truncated": False, "complete": True, "note": "", "text": "abc", "base64": False
    }  # fmt: skip
    assert detail["response_body"]["text"] == "/wA="
    assert detail["timing"] == {"queue_ms": 500.0, "app_ms": 500.0, "transfer_ms": 1000.0}
    assert detail["request_headers"][-1] == ["A", "b"]
    assert detail["trailers"] == [["t", "1"]]
    assert (detail["status"], detail["state"], detail["duration_ms"]) == (404, "done", 2000.0)
    assert as_summary(exchange)["content_type"] == "text/html"


def test_the_filter_s_word_on_the_caller_comes_first() -> None:
    fields = "x-forwarded-client-cert: URI=spiffe://td/ns/a/sa/b\r\nx-devroute-caller: spiffe://td/ns/shop/sa/web\r\n"
    assert CaptureStore().begin("foo", request(fields=fields), 0, 0).caller == "shop/web"
    assert CaptureStore().begin("foo", request(), 0, 0).caller == ""


def test_a_body_is_kept_up_to_the_limit_and_counted_beyond() -> None:
    captures = CaptureStore(max_body=10)
    for kind in ("application/json", "image/png"):
        exchange = captures.begin("foo", request(fields=f"content-type: {kind}\r\n"), 0, 0)
        for _ in range(4):
            captures.receive(exchange, b"[1234,", "request")
        captures.sent(exchange, 1)
        body = exchange.request_body
        assert (bytes(body.data), body.size, body.truncated) == (b"[1234,[123", 24, True)


def test_secrets_are_gone_before_anybody_hears_of_them() -> None:
    captures = CaptureStore()
    seen: list[str] = []
    captures.subscribe(
        lambda event, exchange, extra: seen.append(repr(as_detail(exchange) if exchange else 0))
    )
    fields = "authorization: s3cret\r\ncontent-type: application/json\r\nreferer: /?password=s3cret\r\n"
    exchange = captures.begin("foo", request("/?access_token=s3cret", fields), 0, 0)
    for piece in (b'{"pass', b'word": "s3', b'cret"', b"}"):
        captures.receive(exchange, piece, "request")
    captures.sent(exchange, 0)
    answered(captures, exchange, "set-cookie: a=s3cret\r\ncontent-type: application/json\r\n")
    captures.receive(exchange, b'{"id_token": "s3cret', "response")
    captures.fail(exchange, "upstream-reset", "gone", 3)
    captures.say(exchange, Message(0.1, True, "text", b'{"password": "s3cret"}', 22))
    assert len(seen) > 5
    assert not [text for text in seen if "s3cret" in text]
    assert as_detail(exchange)["redacted"] == ["authorization", "the query", "the body"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "request", "response", "say", "end", "fail", "clear"]), st.integers(0, 3000)
    ),
    max_size=60,
)


@given(steps, st.integers(1, 30_000))
def test_the_total_is_what_is_kept_and_never_above_the_bound(
    steps: list[tuple[str, int]], bound: int
) -> None:
    captures = CaptureStore(max_total=bound, max_body=1000)
    begun: list[Capture] = []
    for step, size in steps:
        exchange = begun[size % len(begun)] if begun else None
        if step == "begin":
            kind = "application/json" if size % 2 else "image/png"
            begun.append(captures.begin("foo", request("/" * (size or 1), f"content-type: {kind}\r\n"), 0, 0))
        elif step == "clear":
            captures.clear()
        elif exchange is None or exchange.state != "open":
            continue
        elif step in SIDES:
            captures.receive(exchange, bytes(size), "request" if step == "request" else "response")
        elif step == "say":
            captures.say(exchange, Message(0, True, "binary", bytes(size), size))
        elif step == "end":
            captures.end(exchange, [], 1)
        else:
            captures.fail(exchange, "x", "y", 1)
        assert captures.total <= bound
        listed = list(captures.listing())
        assert captures.total == sum(each.kept for each in listed)
        for each in listed:
            held = sum(sieve.held for sieve in (each.request_sieve, each.response_sieve) if sieve is not None)
            data = len(each.request_body.data) + len(each.response_body.data)
            assert each.kept >= data + held + sum(len(message.data) for message in each.messages)
            assert len(each.request_body.data) <= 1000


def test_the_oldest_that_is_over_goes_first_and_what_runs_stays() -> None:
    captures = CaptureStore(max_total=30_000)
    running = captures.begin("foo", request("/running"), 0, 0)
    for number in range(40):
        whole(captures, f"/{number}", bytes(1000))
    kept = [each.target for each in captures.listing()]
    assert kept[-1] == "/running"
    assert kept[0] == "/39"
    assert len(kept) < 12
    assert captures.get(running.id) is running


def test_an_exchange_larger_than_everything_is_let_go() -> None:
    captures = CaptureStore(max_total=5000, max_body=100_000)
    exchange = captures.begin("foo", request(), 0, 0)
    captures.receive(exchange, bytes(50_000), "request")
    captures.end(exchange, [], 1)
    assert not len(captures)
    assert captures.total == 0


def test_however_small_there_are_only_so_many() -> None:
    captures = CaptureStore()
    for _ in range(MAX_EXCHANGES + 5):
        captures.begin("foo", request(), 0, 0)
    assert len(captures) == MAX_EXCHANGES


def test_a_long_talk_keeps_its_newest_messages() -> None:
    captures = CaptureStore()
    exchange = captures.begin("foo", request(), 0, 0)
    for number in range(3 * MAX_MESSAGES):
        captures.say(exchange, Message(0, True, "binary", b"%d" % number, 4))
    assert len(exchange.messages) <= MAX_MESSAGES + 100
    assert exchange.messages[-1].data == b"2999"
    assert as_summary(exchange)["messages"] == 3 * MAX_MESSAGES


def test_subscribers_hear_in_order_until_they_leave() -> None:
    waiting: list[Any] = []
    captures = CaptureStore(later=waiting.append)
    heard: list[str] = []
    leave = captures.subscribe(lambda event, exchange, extra: heard.append(event))
    exchange = whole(captures, body=b"x")
    captures.say(exchange, Message(0, True, "text", b"x", 1))
    captures.clear()
    assert heard == []
    assert len(waiting) == 1
    waiting[0]()
    assert heard == ["open", "head", "data", "done", "message", "cleared"]
    leave()
    whole(captures)
    assert len(waiting) == 1


def test_after_a_clear_what_is_in_flight_leaves_no_trace() -> None:
    captures = CaptureStore()
    exchange = captures.begin("foo", request(), 0, 0)
    captures.clear()
    answered(captures, exchange)
    captures.receive(exchange, b"x", "response")
    captures.end(exchange, [], 1)
    assert captures.total == 0
    assert captures.get(exchange.id) is None


@pytest.mark.parametrize(
    ("fields", "framing", "kind"),
    [
        ("content-type: application/grpc+proto\r\n", Framing.CHUNKED, "grpc"),
        ("content-type: application/json\r\n", Framing.CHUNKED, "http"),
        ("upgrade: websocket\r\n", Framing.UPGRADE, "websocket"),
        ("upgrade: echo\r\n", Framing.UPGRADE, "upgrade"),
    ],
)
def test_the_kind_is_what_the_head_says(fields: str, framing: Framing, kind: str) -> None:
    assert CaptureStore().begin("foo", request(fields=fields, framing=framing), 0, 0).kind == kind


def test_grpc_s_status_is_read_from_trailers() -> None:
    captures = CaptureStore()
    exchange = captures.begin("foo", request(fields="content-type: application/grpc\r\n"), 0, 0)
    answered(captures, exchange, "content-type: application/grpc\r\n")
    captures.end(exchange, [(b"grpc-status", b"5"), (b"grpc-message", b"no%20such%20%C3%A9")], 1)
    assert (exchange.grpc_status, exchange.grpc_message) == (5, "no such é")
