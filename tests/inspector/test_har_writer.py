"""HAR files: our own read back unchanged, other tools' are read, invalid ones are refused with the place."""

import copy
import gzip
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import HarInvalid
from devroute.inspector import har_reader
from devroute.inspector.capture import Capture, CapturedHead, Message, readable
from devroute.inspector.compare import differences, response_of
from devroute.inspector.har_reader import MAX_ENTRIES, Unreadable, read
from devroute.inspector.har_writer import entry, write
from devroute.inspector.store import CaptureStore
from tests.support.examples import examples

tokens = st.text("abcXYZ-_09", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=33, max_codepoint=255, blacklist_characters="\x7f"), max_size=12)
fields = st.lists(st.tuples(tokens, values.map(str.strip)), max_size=4)
targets = st.text(st.characters(min_codepoint=33, max_codepoint=126, blacklist_characters="#"), max_size=20)
bodies = st.binary(max_size=50) | st.text(max_size=30).map(str.encode)
seconds = st.integers(0, 10**7).map(lambda micro: micro / 10**6)


@st.composite
def captures(draw: st.DrawFn) -> Capture:
    made = Capture("foo", draw(st.sampled_from(["GET", "POST", "M-SEARCH"])), "/" + draw(targets), 1e9, 0.0)
    made.kind = draw(st.sampled_from(["http", "grpc", "websocket", "sse"]))
    made.direction = draw(st.sampled_from(["in", "out"]))
    made.request_head = CapturedHead.of([("host", "foo"), *draw(fields)])
    made.response_head = CapturedHead.of(draw(fields))
    for body in (made.request_body, made.response_body):
        body.data += draw(bodies)
        body.truncated = draw(st.booleans())
        body.complete = draw(st.booleans())
        body.size = len(body.data) + (7 if body.truncated else 0)
    made.sent = draw(seconds)
    if draw(st.booleans()):
        made.status, made.reason, made.state = draw(st.integers(100, 599)), "What", "done"
        made.responded = made.sent + draw(seconds)
        made.ended = made.responded + draw(seconds)
    else:
        made.error, made.state, made.ended = ("upstream-reset", "it broke"), "failed", made.sent
    made.trailers = draw(fields)
    made.rules = draw(st.just([]) | st.just(["rule 'slow' delayed it by 3 s"]))
    for opcode, data in draw(
        st.lists(st.tuples(st.sampled_from(["text", "binary", "close"]), bodies), max_size=3)
    ):
        payload = data.decode("utf-8", "replace").encode() if opcode == "text" else data
        kept = payload.replace(b"\0", b"")
        made.messages.append(Message(draw(seconds), draw(st.booleans()), opcode, kept, len(kept) + 1))  # type: ignore[arg-type]
    return made


def whole(text: str) -> list[Capture]:
    """The captures of a file of which every entry can be read."""
    found = read(text)
    assert not [each for each in found if isinstance(each, Unreadable)]
    return [each for each in found if isinstance(each, Capture)]


def look(capture: Capture) -> dict[str, Any]:
    clock = {name: getattr(capture, name) for name in ("sent", "responded", "ended")}
    return {
        name: getattr(capture, name)
        for name in (
            *("service", "method", "target", "kind", "started", "status", "reason", "state", "error"),
            *("request_headers", "response_headers", "trailers", "request_body", "response_body", "messages"),
            *("rules", "direction"),
        )
    } | {name: None if value is None else round(value, 6) for name, value in clock.items()}


@examples(40)
@given(st.lists(captures(), max_size=2))
def test_a_written_file_reads_back_unchanged(made: list[Capture]) -> None:
    text = "".join(write(made, "1"))
    assert [look(each) for each in whole(text)] == [look(each) for each in made]
    assert json.loads(text)["log"]["version"] == "1.2"


ENTRY: dict[str, Any] = {
    "startedDateTime": "2026-01-02T03:04:05.678Z",
    "time": 50,
    "request": {
        "method": "POST",
        "url": "https://shop.example:8443/a b/ü?x=%20y#top",
        "httpVersion": "HTTP/2",
        "headers": [{"name": ":authority", "value": "shop.example"}, {"name": "Accept", "value": "*/*"}],
        "postData": {
            "mimeType": "application/x-www-form-urlencoded",
            "params": [{"name": "a b", "value": "c&d"}],
        },
        "bodySize": 9,
    },
    "response": {
        "status": 200,
        "statusText": "",
        "headers": [{"name": "set-cookie", "value": "a=1\nb=2"}, {"name": "content-encoding", "value": "br"}],
        "content": {"size": 2, "mimeType": "application/json", "text": "e30=", "encoding": "base64"},
    },
    "timings": {"blocked": 1, "dns": -1, "connect": -1, "send": 1, "wait": 30, "receive": 18},
}


def har(*entries: Any) -> str:
    return json.dumps({"log": {"entries": list(entries)}})


def with_value(place: tuple[str, ...], value: Any) -> Any:
    """The entry with another value at one place."""
    if not place:
        return value
    entry = copy.deepcopy(ENTRY)
    inner = entry
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return entry


def test_a_har_file_of_a_browser_is_read() -> None:
    (capture,) = whole(har(ENTRY))
    assert (capture.service, capture.target) == ("shop", "/a%20b/%C3%BC?x=%20y")
    assert capture.request_headers == [("host", "shop.example:8443"), ("Accept", "*/*")]
    assert bytes(capture.request_body.data) == b"a+b=c%26d"
    assert [value for name, value in capture.response_headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert readable(capture.response_body, capture.response_headers, 100) == b"{}"
    assert capture.started == 1767323045.678
    timing = capture.timing
    assert timing.app_s is not None
    assert round(timing.app_s, 6) == 0.03


def test_a_file_without_bodies_gives_truncated_bodies() -> None:
    entry = copy.deepcopy(ENTRY)
    del entry["request"]["postData"], entry["response"]["content"]["text"]
    (capture,) = whole(har(entry))
    assert capture.request_body.truncated
    assert capture.response_body.truncated


def test_websocket_messages_of_chromium_are_read() -> None:
    entry = copy.deepcopy(ENTRY)
    entry["_webSocketMessages"] = [
        {"type": "send", "time": 1767323046.0, "opcode": 1, "data": "hi"},
        {"type": "receive", "time": 1767323047.0, "opcode": 2, "data": "AAE="},
    ]
    messages = whole(har(entry))[0].messages
    assert [(m.from_client, m.opcode, m.data, round(m.at, 3)) for m in messages] == [
        (True, "text", b"hi", 0.322),
        (False, "binary", b"\0\1", 1.322),
    ]


def test_imports_are_redacted() -> None:
    entry = copy.deepcopy(ENTRY)
    entry["request"]["url"] = "http://foo/?password=s3cret"
    entry["request"]["headers"].append({"name": "Authorization", "value": "s3cret"})
    entry["request"]["postData"] = {"mimeType": "application/json", "text": '{"id_token": "s3cret"}'}
    entry["request"]["headers"].append({"name": "content-type", "value": "application/json"})
    entry["response"]["headers"].append({"name": "content-type", "value": "application/json"})
    entry["response"]["content"] = {"text": '{"password": "s3cret"}', "size": 1}
    store = CaptureStore()
    for each in whole(har(entry)):
        store.add(each)
    text = "".join(write(store.newest_first(), "1"))
    assert "s3cret" not in text
    assert text.count("redacted") >= 5


def test_compressed_bodies_are_written_decoded_and_marked_so() -> None:
    capture = Capture("foo", "GET", "/", 0, 0)
    capture.status = 200
    capture.response_head = CapturedHead.of([("content-encoding", "gzip"), ("content-type", "text/plain")])
    capture.response_body.data += gzip.compress(b"hello")
    text = "".join(write([capture], "1"))
    assert json.loads(text)["log"]["entries"][0]["response"]["content"]["text"] == "hello"
    (again,) = whole(text)
    assert readable(again.response_body, again.response_headers, 100) == b"hello"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((), 1, "entry 2 is not a JSON object"),
        (("request",), None, "entry 2: 'request' is missing"),
        (("request",), [], "entry 2: 'request' is not an object"),
        (("request", "url"), "data:text/plain,hi", "'data:text/plain,hi' is not an http URL"),
        (("request", "url"), "ftp://x/", "entry 2: request: 'ftp://x/' is not an http URL"),
        (("request", "url"), "http://", "not an http URL"),
        (("request", "url"), "http://a/\ud83d", "is not an http URL"),
        (("request", "method"), "G T", "is not a method"),
        (("request", "headers"), [{"name": "a b", "value": ""}], "'a b' is not a header name"),
        (("request", "headers"), [{"name": "a", "value": "x\0"}], "the value of a has control characters"),
        (("request", "headers"), [1], "a header is not a JSON object"),
        (("request", "headers"), [{"name": "a", "value": "b"}] * 501, "501 headers"),
        (
            ("request", "postData"),
            {"mimeType": "multipart/form-data", "params": [{"name": "a"}]},
            "cannot be restored",
        ),
        (("response", "status"), "200", "'status' is not a whole number"),
        (("response", "content", "text"), "%", "the text is not base64"),
        (("response", "content", "text"), "e30", "the text is not base64"),
        (("timings", "wait"), "1", "'wait' is not a number"),
        (("timings", "wait"), float("inf"), "'wait' is not a number"),
        (("startedDateTime",), "yesterday", "is not ISO 8601"),
        (("_webSocketMessages",), [{"opcode": 7, "data": ""}], "entry 2: message 1: opcode 7"),
    ],
)
def test_an_entry_that_cannot_be_read_gives_its_reason_and_the_others_are_read(
    place: tuple[str, ...], value: Any, words: str
) -> None:
    entry = with_value(place, value)
    first, bad, last = read(har(ENTRY, entry, ENTRY))
    assert isinstance(first, Capture)
    assert isinstance(last, Capture)
    assert isinstance(bad, Unreadable)
    assert bad.reason.startswith("entry 2")
    assert words in bad.reason


@pytest.mark.parametrize(
    ("place", "value", "read_as"),
    [
        (("response",), None, {"status": None, "state": "failed"}),
        (("response", "status"), 0, {"status": None}),
        (("startedDateTime",), "0001-01-01T00:00:00Z", {"started": 0.0}),
        (("startedDateTime",), "0001-01-01T00:00:00+14:00", {"started": 0.0}),
        (("startedDateTime",), "9999-12-31T23:59:59-14:00", {"started": 0.0}),
        (("_webSocketMessages",), [{"opcode": -1, "data": "broken", "time": 0}], {"messages_dropped": 1}),
        (("request", "method"), "X" * 100, {"method": "X" * 100}),
        (("_devroute",), {"rules": ["r\ud83d"], "service": "b\ud83d"}, {"rules": ["r?"], "service": "b?"}),
        (("_devroute",), {"trailers": [{"name": "a", "value": "\ud83d"}]}, {"trailers": [("a", "?")]}),
    ],
)
def test_what_other_tools_write_is_read_and_written_again(
    place: tuple[str, ...], value: Any, read_as: dict[str, Any]
) -> None:
    entry = with_value(place, value)
    (capture,) = whole(har(entry))
    assert {name: getattr(capture, name) for name in read_as} == read_as
    assert look(whole("".join(write([capture], "1")))[0]) == look(capture)


def test_a_body_that_its_tool_cut_is_compared_as_far_as_it_was_kept() -> None:
    entry = copy.deepcopy(ENTRY)
    entry["response"]["content"] = {"text": "the first ", "size": 1000}
    (capture,) = whole(har(entry))
    assert capture.response_body.truncated
    played = copy.deepcopy(capture)
    played.response_body.truncated = False
    played.response_body.data += b"and the rest"
    assert differences(response_of(capture), response_of(played)) == []
    played.response_body.data[:5] = b"other"
    assert differences(response_of(capture), response_of(played)) != []


def test_of_too_many_entries_the_newest_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ENTRIES >= 50_000
    monkeypatch.setattr(har_reader, "MAX_ENTRIES", 2)
    found = read(har(ENTRY, ENTRY, ENTRY))
    assert [type(each) for each in found] == [Unreadable, Capture, Capture]


any_text = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=12
)


@examples(200)
@given(
    captures(),
    any_text.map(str.strip),
    st.text("GETabc!#$", min_size=1, max_size=90),
    st.floats(0, 9e9),
    any_text,
)
def test_no_request_that_can_be_captured_is_written_so_that_it_is_not_read(
    made: Capture, host: str, method: str, started: float, service: str
) -> None:
    """Any Host, method and time: they are the client's."""
    made.request_head = CapturedHead.of([("host", host)])
    made.method, made.started = method, started
    made.target = "*" if method == "a" else made.target
    made.service = "".join(char for char in service if char.isascii() and char.isalnum())
    assert len(whole("".join(write([made], "1")))) == 1


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe\xff", "[]", "{}", '{"log": {}}', "[" * 100_000])
def test_a_file_that_is_not_har_is_refused(text: str | bytes) -> None:
    with pytest.raises(HarInvalid):
        read(text)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "value", "size", "text"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.data())
def test_any_value_in_any_field_is_read_or_refused(data: st.DataObject) -> None:
    """Raises HarInvalid and nothing else, and what was read can be written and read again."""
    inner = entry = copy.deepcopy(ENTRY)
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(anything)
    with suppress(HarInvalid):
        (found,) = read(har(entry))
        if isinstance(found, Capture):
            whole("".join(write([found], "1")))


def test_a_grpc_call_has_its_own_status_as_a_comment() -> None:
    call = Capture("shop", "POST", "/shop.Orders/Place", 0.0, 0.0, kind="grpc", status=200)
    call.trailers = [("grpc-status", "5"), ("grpc-message", "no%20such%20order")]
    assert entry(call)["response"]["comment"] == "gRPC NOT_FOUND no such order"
    assert "comment" not in entry(Capture("shop", "GET", "/", 0.0, 0.0, status=200))["response"]
