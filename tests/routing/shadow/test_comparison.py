"""Comparisons, at the proxy and at the laptop: sent once, bounded, and redacted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent.comparisons import ComparisonReceiver, ComparisonResult
from devroute.errors import DevrouteError, RequestMalformed, UpstreamTimeout
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.compare import IgnoreRules
from devroute.inspector.recorder import Recorder
from devroute.inspector.redaction import redaction
from devroute.inspector.store import CaptureStore
from devroute.routing.shadow.comparison import (
    MAX_BODY,
    MAX_FIELDS,
    MAX_PENDING,
    MAX_PENDING_BYTES,
    PAIR_SECONDS,
    ComparedResponse,
    PendingComparisons,
    comparison_id,
    parse_service_response,
)
from devroute.routing.shadow.notifier import MAX_UNACKNOWLEDGED, Notifier

WIRE = b"GET /a HTTP/1.1\r\nhost: foo\r\nx-devroute-compare: abc1\r\n\r\n"
HEAD = RequestHead(b"GET", b"/a", Framing.NONE, 0, WIRE)
REAL = b'status 200\ncontent-type: application/json\nset-cookie: s=secret\n\n{"a": 1, "password": "p1"}'


class Proxy:
    """Pending comparisons, and those that were sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[dict[str, Any]] = []
        self.pairs = PendingComparisons(lambda: self.now)

    def notify(self, document: bytes) -> None:
        self.sent.append(json.loads(document))

    def laptop(self, key: str, body: bytes = b'{"a": 2, "password": "p2"}', error: bool = False) -> None:
        observer = self.pairs.expect(key, "foo", HEAD, self.notify)
        if observer is None:
            return
        if error:
            observer.on_error(UpstreamTimeout("late"))
            return
        raw = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        observer.on_head(parse_response_head(raw, b"GET"))
        observer.on_data(body)
        observer.on_end([])

    def service(self, key: str) -> None:
        self.pairs.add_service_response(key, parse_service_response(REAL, whole=True))


@pytest.mark.parametrize("laptop_first", [True, False])
def test_a_comparison_is_sent_once_in_whichever_order_the_responses_arrive(laptop_first: bool) -> None:
    proxy = Proxy()
    for step in (proxy.laptop, proxy.service) if laptop_first else (proxy.service, proxy.laptop):
        assert proxy.sent == []
        step("abc1")
    (sent,) = proxy.sent
    assert (sent["id"], sent["service"], sent["method"], sent["target"]) == ("abc1", "foo", "GET", "/a")
    assert ["set-cookie", "[redacted]"] in sent["real"]["headers"]
    assert len(proxy.pairs) == 0


def test_pending_comparisons_are_limited_in_number_and_time() -> None:
    proxy = Proxy()
    for number in range(MAX_PENDING + 10):
        proxy.laptop(f"k{number}")
    assert len(proxy.pairs) == MAX_PENDING
    proxy.now = PAIR_SECONDS
    proxy.pairs.expire()
    assert len(proxy.pairs) == 0
    assert [each["real"] for each in proxy.sent] == [None] * MAX_PENDING


@pytest.mark.parametrize("refused_first", [True, False])
def test_refused_shadow_requests_leave_room_for_others(refused_first: bool) -> None:
    proxy = Proxy()
    for number in range(3 * MAX_PENDING):
        key = f"k{number}"
        if refused_first:
            proxy.pairs.refuse(key)
            assert proxy.pairs.expects(key)
        proxy.service(key)
        if not refused_first:
            proxy.pairs.refuse(key)
        assert not proxy.pairs.expects(key)
    assert (len(proxy.pairs), proxy.pairs.size) == (0, 0)
    proxy.laptop("a")
    proxy.service("a")
    assert len(proxy.sent) == 1


def test_refused_shadow_requests_are_remembered_in_bounded_number() -> None:
    proxy = Proxy()
    for number in range(3 * MAX_PENDING):
        proxy.pairs.refuse(f"k{number}")
    remembered = [number for number in range(3 * MAX_PENDING) if proxy.pairs.expects(f"k{number}")]
    assert remembered == list(range(2 * MAX_PENDING, 3 * MAX_PENDING))


def test_pending_comparisons_are_limited_in_bytes() -> None:
    proxy = Proxy()
    large = b"status 200\n" + b"\n".join(b"x: " + b"y" * 60_000 for _ in range(2)) + b"\n\n" + bytes(60_000)
    many = b"status 200\n" + b"\n".join(b"x: y" for _ in range(10_000)) + b"\n\n"
    for number in range(MAX_PENDING):
        proxy.pairs.add_service_response(f"k{number}", parse_service_response(large, whole=True))
    assert len(proxy.pairs) < MAX_PENDING
    assert proxy.pairs.size < MAX_PENDING_BYTES + 2 * len(large)
    assert len(parse_service_response(many, whole=True).headers) == MAX_FIELDS
    proxy.now = PAIR_SECONDS
    proxy.pairs.expire()
    assert proxy.pairs.size == 0
    proxy.laptop("a")
    proxy.service("a")
    assert (len(proxy.sent), proxy.pairs.size) == (1, 0)


def test_a_response_after_the_time_is_ignored() -> None:
    proxy = Proxy()
    observer = proxy.pairs.expect("abc1", "foo", HEAD, proxy.notify)
    assert observer is not None
    proxy.service("abc1")
    proxy.now = PAIR_SECONDS
    proxy.pairs.expire()
    observer.on_end([])
    (sent,) = proxy.sent
    assert sent["laptop"] is None


def test_a_body_is_kept_up_to_the_limit() -> None:
    answer = ComparedResponse()
    answer.add(b"x" * MAX_BODY)
    assert answer.whole
    answer.add(b"y")
    assert (len(answer.body), answer.whole) == (MAX_BODY, False)


@given(st.binary(max_size=200))
def test_a_malformed_report_of_a_sidecar_is_an_error(body: bytes) -> None:
    try:
        answer = parse_service_response(body, whole=True)
    except RequestMalformed:
        return
    assert 0 <= answer.status <= 999


def test_the_id_is_what_the_sidecar_wrote() -> None:
    assert comparison_id(WIRE) == "abc1"
    for value in (b"", b"a" * 40, b"a b", b"a\xff"):
        assert comparison_id(WIRE.replace(b"abc1", value)) is None


# --- at the laptop ------------------------------------------------------------------------------------------


class Sink:
    """The agent's response to a message."""

    def __init__(self) -> None:
        self.status = 0
        self.error: DevrouteError | None = None

    def on_head(self, head: ResponseHead) -> None:
        self.status = head.status

    def on_error(self, error: DevrouteError) -> None:
        self.error = error

    def on_end(self, trailers: Headers) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_informational(self, head: ResponseHead) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


class Laptop:
    """ComparisonReceiver of what a proxy sends, with or without captures."""

    def __init__(self, *ignore: str, captures: CaptureStore | None = None) -> None:
        self.shown: list[ComparisonResult] = []
        self.lost = 0
        rules = IgnoreRules.parse(ignore)
        loop: Any = None  # used to record requests, of which there are none
        recorder = None if captures is None else Recorder(captures, loop)
        self.verdicts = ComparisonReceiver(rules, redaction(()), self.show, recorder)

    def show(self, verdict: ComparisonResult, lost: int) -> None:
        self.shown.append(verdict)
        self.lost += lost

    def send(self, document: bytes) -> Sink:
        sink = Sink()
        wire = b"POST /comparison HTTP/1.1\r\nx-devroute-lost: 3\r\n\r\n"
        stream = self.verdicts.open(RequestHead(b"POST", b"/c", Framing.LENGTH, len(document), wire), sink)
        stream.send_data(document)
        stream.send_end([])
        return sink


def pair(error: bool = False) -> bytes:
    proxy = Proxy()
    proxy.service("abc1")
    proxy.laptop("abc1", error=error)
    return json.dumps(proxy.sent[0]).encode()


def test_a_comparison_names_what_differs_without_secrets() -> None:
    laptop = Laptop("set-cookie", "content-type")
    assert laptop.send(pair()).status == 204
    (verdict,) = laptop.shown
    assert verdict.differences == [{"where": "body $.a", "left": "1", "right": "2"}]
    assert laptop.lost == 3


def test_what_is_ignored_is_the_same() -> None:
    laptop = Laptop("$.a", "set-cookie")
    laptop.send(pair())
    assert laptop.shown[0].differences == []


def test_a_laptop_that_failed_differs_by_its_error() -> None:
    laptop = Laptop()
    laptop.send(pair(error=True))
    assert laptop.shown[0].differences == [
        {"where": "answer", "left": "200", "right": "upstream-timeout: late"}
    ]


def test_the_capture_of_the_request_gets_the_differences() -> None:
    captures = CaptureStore()
    exchange = captures.begin("foo", HEAD, 0.0, 0.0)
    other = captures.begin(
        "foo", RequestHead(b"GET", b"/a", Framing.NONE, 0, WIRE[:-4] + b"2\r\n\r\n"), 0.0, 0.0
    )
    heard: list[object] = []
    captures.subscribe(lambda event, *_: heard.append(event))
    Laptop("set-cookie", captures=captures).send(pair())
    assert exchange.comparison == [{"where": "body $.a", "left": "1", "right": "2"}]
    assert other.comparison is None
    assert heard == ["done"]


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"id": 1}', b"\xff", b"[" * 600_000])
def test_a_malformed_comparison_of_a_proxy_is_refused(document: bytes) -> None:
    laptop = Laptop()
    assert laptop.send(document).error is not None
    assert laptop.shown == []


# --- between them -------------------------------------------------------------------------------------------


class Silent:
    """An agent that receives messages and never responds."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.sinks: list[Any] = []

    def open(self, head: RequestHead, sink: Any) -> "Silent":
        self.heads.append(head)
        self.sinks.append(sink)
        return self

    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def cancel(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


def test_an_agent_that_acknowledges_no_comparison_is_sent_no_more_and_learns_how_many_were_lost() -> None:
    agent = Silent()
    notifier = Notifier(agent)
    for _ in range(MAX_UNACKNOWLEDGED + 7):
        notifier.notify(b"{}")
    assert len(agent.heads) == MAX_UNACKNOWLEDGED
    agent.sinks[0].on_end([])
    notifier.notify(b"{}")
    assert b"x-devroute-lost: 7\r\n" in agent.heads[-1].wire
