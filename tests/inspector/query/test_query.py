"""The query language: what each term matches, the error of a mistake, and that no query takes long."""

import gzip
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import QueryInvalid
from devroute.inspector.capture import Capture, CapturedHead, Message
from devroute.inspector.query.edit import suggestions, switched
from devroute.inspector.query.fields import DIRECTIONS, FIELDS, STATES
from devroute.inspector.query.query import Query
from devroute.inspector.query.syntax import MAX_LENGTH, MAX_TERMS, terms, written
from tests.support.paths import ROOT


def capture(method: str = "GET", target: str = "/", status: int | None = 200, **changes: Any) -> Capture:
    made = Capture("shop", method, target, 1_700_000_000.0, 10.0)
    made.status, made.state, made.ended = status, "done", 10.25
    for side in ("request", "response"):
        fields = changes.pop(f"{side}_headers", [])
        setattr(made, f"{side}_head", CapturedHead.of(fields))
        getattr(made, f"{side}_body").data += changes.pop(side, b"")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def grpc(status: int, **changes: Any) -> Capture:
    return capture(
        "POST", "/shop.Orders/Place", kind="grpc", trailers=[("grpc-status", str(status))], **changes
    )


WEB = [("x-devroute-caller", "spiffe://cluster.local/ns/shop/sa/web"), ("Authorization", "[redacted]")]
SOCKET = [
    Message(0.1, True, "text", b'{"subscribe": "Prices"}', 23),
    Message(0.2, False, "close", b"\x03\xf3out of tea", 12),
]


@pytest.mark.parametrize(
    ("query", "matching", "other"),
    [
        ("status:404", capture(status=404), capture(status=200)),
        ("status:5xx", capture(status=503), capture(status=404)),
        ("status:4xx,5xx", capture(status=503), capture(status=200)),
        ("status:>=400", capture(status=400), capture(status=399)),
        ("status:not_found", grpc(5), grpc(0)),
        ("status:failed", grpc(5), grpc(0)),
        ("status:failed", capture(status=None, error=("app-unreachable", "refused")), capture(status=500)),
        ("status:open", capture(status=None, state="open"), capture()),
        ("method:post", capture("POST"), capture("GET")),
        ("path:/API/", capture(target="/api/orders"), capture(target="/")),
        ("path:a=1", capture(target="/?a=1"), capture(target="/?b=1")),
        ("from:web", capture(request_headers=WEB), capture()),
        ("service:shop", capture(), capture(service="cart")),
        ("header:x-devroute-caller", capture(request_headers=WEB), capture()),
        ('header:"server: Nginx"', capture(response_headers=[("Server", "nginx")]), capture()),
        ("header:grpc-status", grpc(0), capture()),
        ("body:tea", capture(response=b'{"item": "Tea"}'), capture(request_headers=[("x", "tea")])),
        ("body:tea", capture(request=b"tea"), capture(target="/tea")),
        ('body:"two words"', capture(request=b"in two words"), capture(request=b"two or more words")),
        ("body:prices", capture(kind="websocket", messages=SOCKET), capture(kind="websocket")),
        ("body:ada", grpc(0, messages=[Message(0, True, "binary", b"\n\x03ada", 5)]), grpc(0)),
        ("is:grpc", grpc(0), capture()),
        ("-is:grpc", capture(), grpc(0)),
        ("is:replay", capture(replay_of=3), capture()),
        ("is:different", capture(comparison=[{"where": "status"}]), capture(comparison=[])),
        ("is:redacted", capture(request_headers=WEB), capture()),
        ("is:failed", capture(status=101, kind="websocket", messages=SOCKET), capture(status=101)),
        ("is:noise", capture(target="/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), grpc(0)),
        ("is:noise", capture(target="/healthz?full"), capture("POST", "/healthz")),
        ("is:noise", capture(request_headers=[("User-Agent", "kube-probe/1.34")]), capture()),
        ("direction:out", capture(direction="out"), capture()),
        ("direction:IN", capture(), capture(direction="out")),
        ("type:json", capture(response_headers=[("content-type", "application/json")]), capture()),
        ("time:>200ms", capture(), capture(ended=10.1)),
        ("time:<1s", capture(), capture(ended=None)),
        ("Tea", capture(target="/tea"), capture()),
        ("tea", capture(request_headers=[("x", "Tea")]), capture()),
        ("tea", capture(status=101, kind="websocket", messages=SOCKET), capture()),
        ("NOT_FOUND", grpc(5), grpc(0)),
        ("tea -coffee", capture(request=b"tea"), capture(request=b"tea, coffee")),
        ('-"hot tea"', capture(request=b"tea"), capture(request=b"hot tea")),
        ("localhost:8080", capture(request_headers=[("host", "localhost:8080")]), capture()),
        ("https://a.b/", capture(request=b"see https://a.b/c"), capture()),
        ('"status:404"', capture(request=b"status:404"), capture(status=404)),
        ("é", capture(request="Café é".encode()), capture(request=b"e")),
        ("body:x body:y", capture(request=b"yx"), capture(request=b"x")),
    ],
)  # fmt: skip
def test_a_term_matches_what_it_says(query: str, matching: Capture, other: Capture) -> None:
    parsed = Query.parse(query)
    assert parsed.matches(matching)
    assert not parsed.matches(other)


def test_encoded_bodies_and_messages_are_searched_decoded() -> None:
    packed = capture(response=gzip.compress(b"a needle"), response_headers=[("content-encoding", "gzip")])
    assert Query.parse("body:needle").matches(packed)
    data = gzip.compress(b"\n\x08a needle")
    message = Message(0, False, "binary", data, len(data), compressed=True)
    call = grpc(0, messages=[message], response_headers=[("grpc-encoding", "gzip")])
    assert Query.parse("body:needle").matches(call)


def test_an_empty_query_matches_all() -> None:
    assert Query.parse("  ").matches(capture())


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        ("stauts:500", "no field 'stauts:'; did you mean 'status:'?", 'in quotes: "stauts:500"'),
        ("caller:web", "no field 'caller:'; did you mean 'from:'?", ""),
        ("status:nope", "'status:' takes a status such as 404, 5xx, >=400, NOT_FOUND, failed or open", ""),
        ("is:grcp", "'is:' takes one of http, grpc, websocket", ""),
        ("time:500", "'time:' takes a time such as >500ms or <2s, not '500'", ""),
        ("size:big", "'size:' takes a size of the response such as >10kb", ""),
        ("path:", "'path:' has no value", ""),
        ("status:4xx,", "'status:' has no value", ""),
        ("x" * (MAX_LENGTH + 1), f"longer than {MAX_LENGTH} characters", ""),
        ("x " * (MAX_TERMS + 1), f"more than {MAX_TERMS} terms", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(query: str, message: str, hint: str) -> None:
    with pytest.raises(QueryInvalid) as caught:
        Query.parse(query)
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(st.text())
def test_any_text_is_a_query_or_explained(text: str) -> None:
    try:
        query = Query.parse(text)
    except QueryInvalid:
        return
    query.matches(grpc(0))


@given(st.text(min_size=1), st.booleans())
def test_a_value_that_was_written_is_read_back(value: str, negated: bool) -> None:
    (term,) = terms(("-" if negated else "") + "path:" + written(value))
    assert (term.field, term.values, term.negated) == ("path", (value,), negated)
    (text,) = terms(written(value))
    assert (text.field, text.values, text.negated) == ("", (value,), False)


def test_a_search_takes_time_in_proportion_to_the_bodies() -> None:
    """Nested quantifiers or a naive search would take minutes for these."""
    body = b"a" * 1_000_000
    hostile = capture(request=body, target="/" + "a" * 8000)
    started = time.process_time()
    for query in ("body:" + "a" * 1900 + "b", '"' + "\\" * 1999, "-" * 2000, "a:" * 999, '","' * 600):
        try:
            Query.parse(query).matches(hostile)
        except QueryInvalid:
            continue
    assert time.process_time() - started < 2


def test_the_documentation_lists_the_fields_and_states() -> None:
    page = (ROOT / "docs" / "inspector.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z]+):` \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == list(FIELDS)
    assert set(re.findall("`([a-z]+)`", rows["is"])) == set(STATES)
    assert set(re.findall("`([a-z]+)`", rows["direction"])) == set(DIRECTIONS)
    example = re.search(r"^(status:.*)$", page, re.MULTILINE)
    assert example is not None
    assert len(Query.parse(example[1]).terms) == 6


# --- completion ---------------------------------------------------------------------------------------------


def labels(before: str, after: str = "", *captures: Capture) -> list[str]:
    return [each.label for each in suggestions(before, after, lambda: captures)]


def test_field_names_are_suggested_from_the_first_letter() -> None:
    assert labels("")[:3] == ["status:", "method:", "path:"]
    assert labels("st") == ["status:"]
    assert labels("is:grpc -me") == ["method:"]
    assert labels("localhost:80") == []


def test_the_values_of_captures_are_suggested_the_most_frequent_first() -> None:
    seen = (capture("GET"), capture("POST"), capture("POST"))
    assert labels("method:", "", *seen) == ["POST", "GET"]
    assert labels("method:get,p", "", *seen) == ["POST"]
    assert labels("is:g") == ["grpc", "upgrade"]
    assert labels("status:", "", capture(status=404), grpc(5)) == ["4xx", "failed", "404", "NOT_FOUND"]


def test_a_suggestion_is_the_whole_query() -> None:
    spaced = capture(target="/two words")
    (found,) = suggestions("is:http path:/t", "xx tail", lambda: [spaced])
    assert (found.before, found.after) == ('is:http path:"/two words" ', "tail")
    (found,) = suggestions("-sta", "", list)
    assert (found.before, found.after) == ("-status:", "")


@pytest.mark.parametrize(
    ("query", "switch", "changed"),
    [
        ("", ("status", "5xx", False), "status:5xx"),
        ("tea status:4xx", ("status", "5xx", False), "tea status:4xx,5xx"),
        ("tea status:4xx,5xx x", ("status", "4xx", False), "tea status:5xx x"),
        ("tea status:5xx x", ("status", "5xx", False), "tea x"),
        ("status:5xx", ("is", "noise", True), "status:5xx -is:noise"),
        ("-is:grpc,noise", ("is", "noise", True), "-is:grpc"),
        ("from:", ("from", "a b", False), 'from:"a b"'),
    ],
)
def test_a_term_is_switched_on_and_off(query: str, switch: tuple[str, str, bool], changed: str) -> None:
    field, value, negated = switch
    assert switched(query, field, value, negated=negated) == changed


def test_no_unknown_field_is_switched_on() -> None:
    for field, value in (("nonsense", "x"), ("is", "")):
        with pytest.raises(QueryInvalid):
            switched("", field, value)
