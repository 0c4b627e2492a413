"""Captures stay within their bounds, and subscribers are notified in order."""

import gzip
import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import NotReplayable
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.inspector.capture import Capture, Message
from devroute.inspector.replay_request import replay_request
from devroute.inspector.store import MAX_EXCHANGES, MAX_MESSAGES, CaptureStore
from devroute.inspector.views import as_detail, as_summary

SIDES: tuple[Literal["request", "response"], ...] = ("request", "response")


def request(
    target: str = "/", fields: str = "", framing: Framing = Framing.CHUNKED, method: str = "POST"
) -> RequestHead:
    wire = f"{method} {target} HTTP/1.1\r\nhost: foo\r\n{fields}\r\n".encode()
    return RequestHead(method.encode(), target.encode(), framing, 0, wire)


def responded(store: CaptureStore, capture: Capture, fields: str = "", status: int = 200) -> None:
    raw = f"HTTP/1.1 {status} OK\r\n{fields}\r\n".encode()
    store.respond(capture, parse_response_head(raw, b"POST"), 2.0)


def whole(store: CaptureStore, target: str = "/", body: bytes = b"") -> Capture:
    capture = store.begin("foo", request(target), 1000.0, 1.0)
    store.complete_request(capture, 1.5)
    responded(store, capture)
    store.receive(capture, body, "response")
    store.complete(capture, [], 3.0)
    return capture


def test_a_request_and_its_response_are_stored_unchanged() -> None:
    store = CaptureStore()
    head = request("/p?q=1", "x-forwarded-client-cert: By=x;URI=spiffe://td/ns/shop/sa/web\r\nA: b\r\n")
    capture = store.begin("foo", head, 1000.0, 1.0)
    store.receive(capture, b"ab", "request")
    store.receive(capture, b"c", "request")
    store.complete_request(capture, 1.5)
    responded(store, capture, "content-type: text/html\r\n", 404)
    store.receive(capture, b"\xff\x00", "response")
    store.complete(capture, [(b"t", b"1")], 3.0)
    detail = as_detail(capture)
    assert detail["caller"] == "shop/web"
    assert detail["request_body"] == {
        "size": 3, "kept": 3, "truncated": False, "complete": True, "note": "", "text": "abc", "base64": False
    }  # fmt: skip
    assert detail["response_body"]["text"] == "/wA="
    assert detail["timing"] == {"queue_ms": 500.0, "app_ms": 500.0, "transfer_ms": 1000.0}
    assert detail["request_headers"][-1] == ["A", "b"]
    assert detail["trailers"] == [["t", "1"]]
    assert (detail["status"], detail["state"], detail["duration_ms"]) == (404, "done", 2000.0)
    assert as_summary(capture)["content_type"] == "text/html"


def test_the_caller_header_of_the_filter_takes_precedence() -> None:
    fields = "x-forwarded-client-cert: URI=spiffe://td/ns/a/sa/b\r\nx-devroute-caller: spiffe://td/ns/shop/sa/web\r\n"
    assert CaptureStore().begin("foo", request(fields=fields), 0, 0).caller == "shop/web"
    assert CaptureStore().begin("foo", request(), 0, 0).caller == ""


def test_a_body_is_stored_up_to_the_limit_and_counted_beyond() -> None:
    store = CaptureStore(max_body=10)
    for kind in ("application/json", "image/png"):
        capture = store.begin("foo", request(fields=f"content-type: {kind}\r\n"), 0, 0)
        for _ in range(4):
            store.receive(capture, b"[1234,", "request")
        store.complete_request(capture, 1)
        body = capture.request_body
        assert (bytes(body.data), body.size, body.truncated) == (b"[1234,[123", 24, True)


INFLATED = json.dumps([{"id": each, "name": f"n{each * 7919}"} for each in range(40_000)]).encode()


def compressed(body: bytes, kind: str = "application/json", max_body: int = 1 << 20) -> tuple[Any, Capture]:
    store = CaptureStore(max_body=max_body)
    fields = f"content-type: {kind}\r\ncontent-encoding: gzip\r\n"
    capture = store.begin("foo", request(fields=fields), 1000.0, 1.0)
    store.receive(capture, body, "request")
    store.complete_request(capture, 1.5)
    return store, capture


@pytest.mark.parametrize("kind", ["application/json", "text/html", "application/octet-stream"])
def test_a_body_that_inflates_beyond_the_limit_counts_as_cut(kind: str) -> None:
    whole = gzip.compress(INFLATED)
    assert len(whole) < 1 << 20 < len(INFLATED)
    store, capture = compressed(whole, kind)
    body = capture.request_body
    assert (bytes(body.data), body.decoded, body.truncated) == (INFLATED[: 1 << 20], True, True)
    assert "redacted" not in body.note
    with pytest.raises(NotReplayable, match="first bytes of its body"):
        replay_request(capture, {})
    assert store.total == capture.stored_bytes
    fits = compressed(whole, kind, len(INFLATED))[1].request_body
    assert (bytes(fits.data), fits.decoded, fits.truncated) == (whole, False, False)


def test_data_after_the_end_of_a_compressed_body_is_not_stored_unsearched() -> None:
    secret = gzip.compress(b'{"password": "hunter2"}')
    body = compressed(gzip.compress(b'{"a": 1}') + secret)[1].request_body
    assert (bytes(body.data), body.decoded, body.truncated) == (b'{"a": 1}', True, True)


def test_a_body_that_redaction_makes_longer_than_the_limit_counts_as_cut() -> None:
    text = b'{"pin":"","password":"1","token":"2"}'
    for fields in ("", "content-type: application/x-ndjson\r\n"):
        store = CaptureStore(max_body=len(text) + 1)
        capture = store.begin("foo", request(fields=fields), 1000.0, 1.0)
        for data in (text + b"\n", text, b""):
            store.receive(capture, data, "request")
        store.complete_request(capture, 1.5)
        body = capture.request_body
        assert (len(body.data), body.truncated) == (len(text) + 1, True)
        assert store.total == capture.stored_bytes
        with pytest.raises(NotReplayable):
            replay_request(capture, {})


def test_secrets_are_redacted_before_subscribers_are_notified() -> None:
    store = CaptureStore()
    seen: list[str] = []
    store.subscribe(lambda event, capture, extra: seen.append(repr(as_detail(capture) if capture else 0)))
    fields = "authorization: s3cret\r\ncontent-type: application/json\r\nreferer: /?password=s3cret\r\n"
    capture = store.begin("foo", request("/?access_token=s3cret", fields), 0, 0)
    for piece in (b'{"pass', b'word": "s3', b'cret"', b"}"):
        store.receive(capture, piece, "request")
    store.complete_request(capture, 0)
    responded(store, capture, "set-cookie: a=s3cret\r\ncontent-type: application/json\r\n")
    store.receive(capture, b'{"id_token": "s3cret', "response")
    store.fail(capture, "upstream-reset", "gone", 3)
    store.add_message(capture, Message(0.1, True, "text", b'{"password": "s3cret"}', 22))
    assert len(seen) > 5
    assert not [text for text in seen if "s3cret" in text]
    assert as_detail(capture)["redacted"] == ["authorization", "the query", "the body"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "request", "response", "say", "end", "fail", "clear"]), st.integers(0, 3000)
    ),
    max_size=60,
)


@given(steps, st.integers(1, 30_000))
def test_the_total_counts_all_stored_bytes_and_stays_within_the_bound(
    steps: list[tuple[str, int]], bound: int
) -> None:
    store = CaptureStore(max_total=bound, max_body=1000)
    begun: list[Capture] = []
    for step, size in steps:
        capture = begun[size % len(begun)] if begun else None
        if step == "begin":
            kind = "application/json" if size % 2 else "image/png"
            begun.append(store.begin("foo", request("/" * (size or 1), f"content-type: {kind}\r\n"), 0, 0))
        elif step == "clear":
            store.clear()
        elif capture is None or capture.state != "open":
            continue
        elif step in SIDES:
            store.receive(capture, bytes(size), "request" if step == "request" else "response")
        elif step == "say":
            store.add_message(capture, Message(0, True, "binary", bytes(size), size))
        elif step == "end":
            store.complete(capture, [], 1)
        else:
            store.fail(capture, "x", "y", 1)
        assert store.total <= bound
        listed = list(store.newest_first())
        assert store.total == sum(each.stored_bytes for each in listed)
        for each in listed:
            buffered = sum(
                redactor.buffered
                for redactor in (each.request_body.redactor, each.response_body.redactor)
                if redactor is not None
            )
            data = len(each.request_body.data) + len(each.response_body.data)
            assert each.stored_bytes >= data + buffered + sum(len(message.data) for message in each.messages)
            assert len(each.request_body.data) <= 1000


def test_the_oldest_completed_capture_is_evicted_first() -> None:
    store = CaptureStore(max_total=30_000)
    running = store.begin("foo", request("/running"), 0, 0)
    for number in range(40):
        whole(store, f"/{number}", bytes(1000))
    kept = [each.target for each in store.newest_first()]
    assert kept[-1] == "/running"
    assert kept[0] == "/39"
    assert len(kept) < 12
    assert store.get(running.id) is running


def test_a_capture_larger_than_the_store_is_dropped() -> None:
    store = CaptureStore(max_total=5000, max_body=100_000)
    capture = store.begin("foo", request(), 0, 0)
    store.receive(capture, bytes(50_000), "request")
    store.complete(capture, [], 1)
    assert not len(store)
    assert store.total == 0


def test_the_number_of_captures_is_bounded() -> None:
    store = CaptureStore()
    for _ in range(MAX_EXCHANGES + 5):
        store.begin("foo", request(), 0, 0)
    assert len(store) == MAX_EXCHANGES


def test_the_newest_messages_of_a_long_stream_are_kept() -> None:
    store = CaptureStore()
    capture = store.begin("foo", request(), 0, 0)
    for number in range(3 * MAX_MESSAGES):
        store.add_message(capture, Message(0, True, "binary", b"%d" % number, 4))
    assert len(capture.messages) <= MAX_MESSAGES + 100
    assert capture.messages[-1].data == b"2999"
    assert as_summary(capture)["messages"] == 3 * MAX_MESSAGES


def test_subscribers_are_notified_in_order_until_they_unsubscribe() -> None:
    waiting: list[Any] = []
    store = CaptureStore(defer=waiting.append)
    heard: list[str] = []
    leave = store.subscribe(lambda event, capture, extra: heard.append(event))
    capture = whole(store, body=b"x")
    store.add_message(capture, Message(0, True, "text", b"x", 1))
    store.clear()
    assert heard == []
    assert len(waiting) == 1
    waiting[0]()
    assert heard == ["open", "head", "data", "done", "message", "cleared"]
    leave()
    whole(store)
    assert len(waiting) == 1


def test_requests_in_flight_during_a_clear_are_not_recorded() -> None:
    store = CaptureStore()
    capture = store.begin("foo", request(), 0, 0)
    store.clear()
    responded(store, capture)
    store.receive(capture, b"x", "response")
    store.complete(capture, [], 1)
    assert store.total == 0
    assert store.get(capture.id) is None


@pytest.mark.parametrize(
    ("fields", "framing", "kind"),
    [
        ("content-type: application/grpc+proto\r\n", Framing.CHUNKED, "grpc"),
        ("content-type: application/json\r\n", Framing.CHUNKED, "http"),
        ("upgrade: websocket\r\n", Framing.UPGRADE, "websocket"),
        ("upgrade: echo\r\n", Framing.UPGRADE, "upgrade"),
    ],
)
def test_the_kind_follows_from_the_head(fields: str, framing: Framing, kind: str) -> None:
    assert CaptureStore().begin("foo", request(fields=fields, framing=framing), 0, 0).kind == kind


def test_the_grpc_status_is_read_from_trailers() -> None:
    store = CaptureStore()
    capture = store.begin("foo", request(fields="content-type: application/grpc\r\n"), 0, 0)
    responded(store, capture, "content-type: application/grpc\r\n")
    store.complete(capture, [(b"grpc-status", b"5"), (b"grpc-message", b"no%20such%20%C3%A9")], 1)
    assert (capture.grpc_status, capture.grpc_message) == (5, "no such é")
