"""What is shown of a held message has no secret, and an edit keeps each secret that the user leaves."""

import gzip
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import RequestMalformed
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.inspector.redaction import redaction
from devroute.inspector.rules.edits import edit_request, edit_response
from devroute.inspector.rules.masking import Mask, show

REDACT = redaction()


def request(body: bytes = b"", target: str = "/p", method: str = "POST", **fields: str) -> RequestHead:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    size = f"content-length: {len(body)}\r\n" if body else ""
    wire = f"{method} {target} HTTP/1.1\r\nhost: b\r\n{lines}{size}via: 1.1 devroute\r\n\r\n".encode()
    framing = Framing.LENGTH if body else Framing.NONE
    return RequestHead(method.encode(), target.encode(), framing, len(body), wire)


def test_secrets_are_numbered_and_come_back_where_they_are_left() -> None:
    body = b'{"password": "pa,\\"ss", "pin_token": {"a": [1]}, "n": 1, "api_key": 42}'
    head = request(
        body, "/p?token=abc&x=1", authorization="Bearer s3cret", x_plain="1", content_type="application/json"
    )
    shown = show(REDACT, head.wire, head.target, body, complete=True)
    assert shown.target == "/p?token=[redacted-1]&x=1"
    assert dict(shown.headers)["authorization"] == "[redacted-2]"
    assert shown.body == (
        '{"password": "[redacted-3]", "pin_token": "[redacted-4]", "n": 1, "api_key": "[redacted-5]"}'
    )
    edited = edit_request(
        REDACT,
        head,
        body,
        {
            "target": "/q?x=2&token=[redacted-1]",
            "headers": [["host", "b"], ["x-copy", "[redacted-2]"], ["content-type", "application/json"]],
            "body": '{"n": 2, "k": "[redacted-5]", "t": "[redacted-4]", "p": "[redacted-3]", "q": "new"}',
        },
        complete=True,
    )
    assert edited.changed == ["target", "headers", "body"]
    assert edited.head.target == b"/q?x=2&token=abc"
    assert b"x-copy: Bearer s3cret\r\n" in edited.head.wire
    assert b"authorization" not in edited.head.wire
    assert edited.body == b'{"n": 2, "k": 42, "t": {"a": [1]}, "p": "pa,\\"ss", "q": "new"}'
    assert edited.head.length == len(edited.body)
    assert b"content-length: %d\r\n" % len(edited.body) in edited.head.wire
    assert edited.head.wire.endswith(b"via: 1.1 devroute\r\n\r\n")


def test_an_unedited_message_is_the_same_object() -> None:
    body = b"\xff\x00binary"
    head = request(body, cookie="a=b")
    shown = show(REDACT, head.wire, head.target, body, complete=True)
    same = {"method": "POST", "target": shown.target, "headers": [list(pair) for pair in shown.headers]}
    for edits in ({}, same):
        edited = edit_request(REDACT, head, body, edits, complete=True)
        assert (edited.body, edited.changed) == (None, [])
        assert edited.head is head
    assert shown.body is None
    assert shown.note == "it is not text"


def test_a_compressed_body_is_shown_and_sent_plain_once_it_is_edited() -> None:
    body = gzip.compress(b'{"token": "abc", "a": 1}')
    head = request(body, content_type="application/json", content_encoding="gzip")
    shown = show(REDACT, head.wire, head.target, body, complete=True)
    assert shown.body == '{"token": "[redacted-1]", "a": 1}'
    edited = edit_request(REDACT, head, body, {"body": shown.body.replace("1}", "2}")}, complete=True)
    assert edited.body == b'{"token": "abc", "a": 2}'
    assert b"content-encoding" not in edited.head.wire
    kept = edit_request(REDACT, head, body, {"body": shown.body, "method": "PUT"}, complete=True)
    assert (kept.body, kept.changed) == (None, ["method"])
    assert b"content-encoding: gzip" in kept.head.wire


@pytest.mark.parametrize(
    ("original", "redacted"),
    [
        (b"a [redacted-1] secret", b"a [redacted-1] [redacted]"),  # has the form of a placeholder
        (b"a secret", b"b [redacted]"),
        (b"asecret", b"[redacted][redacted]"),
    ],
)
def test_what_cannot_be_separated_is_not_shown(original: bytes, redacted: bytes) -> None:
    assert Mask().shown(original, redacted) is None


def test_a_text_that_holds_the_redaction_text_keeps_it() -> None:
    mask = Mask()
    shown = mask.shown(b"[redacted] and secret", b"[redacted] and [redacted]")
    assert shown == b"[redacted-1] and [redacted-2]"
    assert mask.restored(shown) == b"[redacted] and secret"
    with pytest.raises(RequestMalformed, match=r"no \[redacted-3\]"):
        mask.restored(b"[redacted-3]")


SECRET = st.one_of(
    st.text(max_size=12), st.integers(), st.booleans(), st.lists(st.text(max_size=3), max_size=2)
)


@given(st.dictionaries(st.sampled_from(["password", "token", "a", "b", "api_key"]), SECRET, max_size=5))
def test_no_json_loses_a_secret_or_shows_one(document: dict[str, object]) -> None:
    body = json.dumps(document, ensure_ascii=False).encode()
    head = request(body, content_type="application/json") if body else request()
    shown = show(REDACT, head.wire, head.target, body, complete=True)
    if shown.body is None:
        return
    secrets = [name for name in ("password", "token", "api_key") if name in document]
    for name in secrets:
        assert json.loads(shown.body)[name] in (document[name], *(f"[redacted-{n}]" for n in range(1, 6)))
    edited = edit_request(REDACT, head, body, {"body": shown.body + " "}, complete=True)
    assert edited.body == body + b" "


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"status": 200}, "unknown edit 'status'"),
        ({"method": "HEAD"}, "cannot become or stop being HEAD"),
        ({"method": "G T"}, '"method" must be a string without white space'),
        ({"headers": [["x", "a\nb"]]}, "control characters"),
        ({"headers": [["x", "1"]]}, "Host"),
        ({"target": "/p?[redacted-9]"}, "no \\[redacted-9\\]"),
        ({"body": "a", "body_base64": "YQ=="}, "not both"),
    ],
)
def test_edits_that_make_no_request_are_refused(edits: dict[str, object], problem: str) -> None:
    with pytest.raises(RequestMalformed, match=f"(?i){problem}"):
        edit_request(REDACT, request(b"x"), b"x", edits, complete=True)


def test_a_body_that_is_still_arriving_cannot_be_edited() -> None:
    with pytest.raises(RequestMalformed, match="not arrived as a whole"):
        edit_request(REDACT, request(b"xyz"), b"x", {"body": "y"}, complete=False)


def test_a_body_can_be_added_and_removed() -> None:
    added = edit_request(REDACT, request(method="GET"), b"", {"body": "new"}, complete=True)
    assert (added.head.framing, added.head.length) == (Framing.LENGTH, 3)
    removed = edit_request(REDACT, request(b"x"), b"x", {"body": ""}, complete=True)
    assert removed.head.framing is Framing.NONE
    assert b"content-length: 0\r\n" in removed.head.wire
    grpc = request(b"x", content_type="application/grpc")
    edited = edit_request(REDACT, grpc, b"x", {"body_base64": "AAAAAAA="}, complete=True)
    assert edited.head.framing is Framing.CHUNKED
    assert b"content-length" not in edited.head.wire


@pytest.mark.parametrize(
    ("method", "status", "body", "framing", "length"),
    [
        (b"GET", 200, "new", Framing.LENGTH, b"content-length: 3\r\n"),
        (b"GET", 204, None, Framing.NONE, b""),
        (b"GET", 304, "new", Framing.NONE, b""),
        (b"HEAD", 200, "new", Framing.NONE, b"content-length: 3\r\n"),
        (b"GET", 200, "", Framing.NONE, b"content-length: 0\r\n"),
    ],
)
def test_an_edited_response_is_framed_by_what_it_is(
    method: bytes, status: int, body: str | None, framing: Framing, length: bytes
) -> None:
    head = parse_response_head(
        b"HTTP/1.1 200 OK\r\nset-cookie: s=1\r\ntransfer-encoding: chunked\r\n\r\n", method
    )
    edits: dict[str, object] = {"status": status} | ({} if body is None else {"body": body})
    edited = edit_response(REDACT, method, head, b"old", [], edits, complete=True)
    assert edited.made is not None
    assert edited.head.framing is framing
    assert b"set-cookie: s=1\r\n" in edited.head.raw  # as it was, though the page did not see it
    assert b"transfer-encoding" not in edited.head.raw
    assert length in edited.head.raw
    assert edited.made.body == (b"" if framing is Framing.NONE else b"new")


def test_a_body_of_many_secrets_takes_linear_time() -> None:
    body = b"[" + b",".join([b'{"password":[]}'] * 16_000) + b"]"
    head = request(body, content_type="application/json")
    began = time.process_time()
    shown = show(REDACT, head.wire, head.target, body, complete=True)
    assert time.process_time() - began < 3, "a quadratic one takes more than twice as long"
    assert shown.body is not None
    assert shown.mask.restored(shown.body.encode()) == body
