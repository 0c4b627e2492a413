"""Secrets never reach the store, in any format or encoding."""

import gzip
import json
import zlib
from time import process_time, thread_time
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import ConfigInvalid
from devroute.inspector.capture import inflate
from devroute.inspector.json_path import JsonPath, PathMatcher, format_path
from devroute.inspector.redaction import BodyFields, redaction

SECRET = "s3cr3t-W0rd"
RULES = redaction(["card_number", "$.user.pin", "$.items[*].key", "x-mine"])


def sieved(body: bytes, kind: str, coding: str = "", *, pieces: int = 1, limit: int = 1 << 20) -> bytes:
    redactor = RULES.body_redactor(BodyFields(kind.encode(), coding.encode()), limit)
    assert redactor is not None
    size = max(1, -(-len(body) // pieces))
    kept = b"".join(redactor.feed(body[at : at + size]) for at in range(0, len(body), size))
    rest, decoded, *_ = redactor.finish()
    kept += rest
    return kept if decoded or not coding else inflate(kept, 1 << 20) or b""


# --- heads


@pytest.mark.parametrize(
    "name", ["authorization", "x-mine", "X-MINE", "Authorization", "card-number", "CardNumber"]
)
def test_a_header_that_carries_credentials_is_stored_without_its_value(name: str) -> None:
    raw = f"\nhost: foo\r\n{name}:  Bearer {SECRET} \r\nx-other: 1\r\n".encode()
    redacted, _ = RULES.head(raw)
    assert SECRET.encode() not in redacted
    assert b"[redacted]" in redacted
    assert b"x-other: 1" in redacted


def test_a_jwt_is_redacted_in_any_header() -> None:
    redacted, _ = RULES.head(b"\nx-devroute: eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl\r\n")
    assert redacted == b"\nx-devroute: [redacted]\r\n"


def test_secret_parameters_of_urls_in_heads_are_redacted() -> None:
    redacted, _ = RULES.head(
        f"\nreferer: http://x/?a=1&access%5Ftoken={SECRET}#id_token={SECRET}\r\n".encode()
    )
    assert SECRET.encode() not in redacted
    assert b"a=1" in redacted
    assert RULES.target(f"/p?q=1&Password={SECRET}&r=2".encode()) == b"/p?q=1&Password=%5Bredacted%5D&r=2"


def test_a_head_without_secrets_is_unchanged() -> None:
    raw = b"\nHost: foo\r\nContent-Type: text/html\r\naccept: */*\r\nx-authorization-not: 1\r\n"
    assert RULES.head(raw) == (raw, BodyFields(b"text/html"))


def test_only_default_names_can_be_removed_from_the_rules() -> None:
    raw = f"\nauthorization: {SECRET}\r\n".encode()
    assert redaction(["-authorization"]).head(raw)[0] == raw
    with pytest.raises(ConfigInvalid, match="not redacted by default"):
        redaction(["-x-unheard-of"])


@pytest.mark.parametrize("rule", ["", "a b", "$.", "$..", "$.a[", "$a", "$.a..", "x\n"])
def test_a_rule_that_cannot_be_read_is_named(rule: str) -> None:
    with pytest.raises(ConfigInvalid):
        redaction([rule])


# --- bodies

names = st.sampled_from(["password", "Card_Number", "access_token", "a", "b", "user"])
plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False)
documents = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def poisoned(document: Any, *, secret: bool) -> Any:
    """The document with a recognisable text for each value below a secret name."""
    if isinstance(document, dict):
        return {
            key: poisoned(value, secret=secret or key.lower() in ("password", "card_number", "access_token"))
            for key, value in document.items()
        }
    if isinstance(document, list):
        return [poisoned(each, secret=secret) for each in document]
    return SECRET if secret else document


@given(documents, st.booleans(), st.integers(1, 5), st.sampled_from(["", "gzip", "deflate"]))
def test_secret_fields_of_json_are_redacted_and_the_rest_is_unchanged(
    document: Any, indented: bool, pieces: int, coding: str
) -> None:
    text = json.dumps(poisoned(document, secret=False), indent=2 if indented else None).encode()
    body = gzip.compress(text) if coding == "gzip" else zlib.compress(text) if coding else text
    shown = sieved(body, "application/json", coding, pieces=pieces)
    assert SECRET.encode() not in shown

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: "[redacted]"
                if key.lower() in ("password", "card_number", "access_token")
                else masked(inner)
                for key, inner in value.items()
            }
        return [masked(each) for each in value] if isinstance(value, list) else value

    assert json.loads(shown) == masked(json.loads(text))


@given(documents, st.data())
def test_truncated_json_is_redacted(document: Any, data: st.DataObject) -> None:
    text = json.dumps(
        {"card_number": SECRET * 3, "rest": poisoned(document, secret=False), "password": [SECRET]}
    )
    cut = data.draw(st.integers(0, len(text)))
    assert SECRET.encode() not in sieved(text[:cut].encode(), "application/json")


@pytest.mark.parametrize(
    "text",
    [
        '{"pass\\u0077ord": "%s"}',
        '{"password"\n:\n"%s"}',
        '{"password": {"a": ["%s"], "b": "}%s"}, "x": 1}',
        '[{"password": 1, "password": "%s"}]',
        '{"inner": "{\\"password\\": \\"%s\\"}"}',
        '{"user": {"pin": "%s"}}',
        '{"items": [{"key": 1}, {"key": "%s"}]}',
        '  {"password": "a\\"%s"}',
        'it is 5" long {"password": "%s"}',
        '{"password": "%s',
        '{"a": 1}{"password": "%s"}',
    ],
)
def test_escaped_and_nested_names_of_secret_fields_are_found(text: str) -> None:
    text = text.replace("%s", SECRET)
    for kind in ("application/json", "application/problem+json; charset=utf-8"):
        assert SECRET.encode() not in sieved(text.encode(), kind)


def test_json_without_a_json_content_type_is_redacted_too() -> None:
    text = f'{{"password": "{SECRET}"}}'.encode()
    assert SECRET.encode() not in sieved(text, "text/plain")
    assert SECRET.encode() not in sieved(text, "")


def test_lines_and_events_are_stored_as_they_complete() -> None:
    redactor = RULES.body_redactor(BodyFields(b"application/x-ndjson"), 1 << 20)
    assert redactor is not None
    assert redactor.feed(b'{"a": 1}\n{"pass') == b'{"a": 1}\n'
    assert redactor.feed(f'word": "{SECRET}"}}\n'.encode()) == b'{"password": "[redacted]"}\n'
    events = RULES.body_redactor(BodyFields(b"text/event-stream; charset=utf-8"), 1 << 20)
    assert events is not None
    first = events.feed(b'event: x\ndata: {"password":\n')
    rest = events.feed(f'data: "{SECRET}"}}\n\ndata: 1\n\n'.encode())
    assert first == b""
    assert SECRET.encode() not in rest
    assert rest.endswith(b"data: 1\n\n")


def test_secret_fields_of_forms_are_redacted() -> None:
    body = urlencode({"user[password]": SECRET, "card_number": SECRET, "a": "b c"}).encode()
    kept = sieved(body, "application/x-www-form-urlencoded", pieces=3)
    assert SECRET.encode() not in kept
    assert kept.endswith(b"&a=b+c")
    odd = f"p%61ssword={SECRET}&pass%77ord={quote_plus(SECRET)}".encode()
    assert SECRET.encode() not in sieved(odd, "application/x-www-form-urlencoded")


def test_secret_parts_of_multipart_forms_are_redacted() -> None:
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\nkept\r\n'
        b'--XX\r\ncontent-disposition: form-data; NAME="Password"\r\n\r\n%b\r\n--XX--\r\n' % SECRET.encode()
    )
    for cut in (len(body), len(body) - 12):
        kept = sieved(body[:cut], 'multipart/form-data; boundary="XX"', pieces=2)
        assert SECRET.encode() not in kept
        assert b"kept" in kept


def test_bodies_that_cannot_be_searched_are_not_stored() -> None:
    redactor = RULES.body_redactor(BodyFields(b"application/json", b"br"), 100)
    assert redactor is not None
    assert redactor.feed(b"\x1b\x0f\x00") == b""
    data, _, note, _ = redactor.finish()
    assert data == b""
    assert "'br'" in note


def test_a_decompression_bomb_is_inflated_to_the_body_limit_only() -> None:
    body = gzip.compress(b'{"password": "' + b"x" * 10_000_000)
    assert len(sieved(body, "application/json", "gzip", limit=50_000)) <= 50_000


def test_media_are_not_buffered() -> None:
    for kind in ("image/png", "application/grpc", "video/mp4"):
        assert RULES.body_redactor(BodyFields(kind.encode()), 100) is None


@pytest.mark.parametrize("kind", [b"text/html", b"text/css", b"text/javascript", b"application/pdf", b""])
def test_of_bodies_without_fields_at_most_a_line_is_buffered(kind: bytes) -> None:
    redactor = RULES.body_redactor(BodyFields(kind), 100)
    assert redactor is not None
    assert redactor.feed(b"\n\n <a>\n\xff\0\n<b>") == b"\n\n <a>\n\xff\0\n"
    assert redactor.buffered == 3
    assert redactor.feed(b"b" * 97) == b"<b>" + b"b" * 97
    assert redactor.buffered == 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text/html", b'<input type="password" name="password"> pin: 1, <b title="%">a: [b</b>'),
        ("text/css", b"[type=password]:focus { color: red } a:hover{}"),
        ("application/javascript", b"if (token) { f(token ? a : b, {token: e.token}) }"),
        ("application/octet-stream", bytes(range(256)) * 2),
        ("application/x-unheard-of", "\0password=\u00e4".encode("utf-16")),
    ],
)
def test_source_texts_and_binary_data_stay_as_they_are(kind: str, text: bytes) -> None:
    assert sieved(text, kind, pieces=9) == text


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/octet-stream"])
def test_the_first_visible_byte_decides_however_late_it_arrives(kind: str) -> None:
    body = b"\r\n" * 50 + b'\t{"password":\n"%b"}' % SECRET.encode()
    for pieces in (1, 2, 7, len(body)):
        assert SECRET.encode() not in sieved(body, kind, pieces=pieces)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-pem-file", "text/event-stream"])
def test_a_private_key_is_redacted_however_its_lines_are_cut(kind: str) -> None:
    lines = f"{SECRET}\n\n" * 30
    body = f"a: 1\n-----BEGIN PRIVATE KEY-----\n{lines}-----END PRIVATE KEY-----\nb\n".encode()
    for pieces in (1, 2, 5, 30, len(body)):
        kept = sieved(body, kind, pieces=pieces)
        assert SECRET.encode() not in kept
        assert kept.endswith(b"-----END PRIVATE KEY-----\nb\n")


@pytest.mark.parametrize(
    ("kind", "document", "end"),
    [
        ("application/x-ndjson", '{"help": "from -----BEGIN X----- on", "secrets": ["%s", "%s"]}', "\n"),
        ("application/x-ndjson", '{"secret": "x -----BEGIN X----- %s"}', "\n"),
        (
            "text/event-stream",
            'data: {"help": "-----BEGIN X-----",\ndata: "credentials": {"a": "%s"}}',
            "\n\n",
        ),
        ("text/plain", "token: -----BEGIN X----- %s", "\n"),
    ],
)
def test_a_document_with_the_start_of_a_key_is_redacted_as_one(kind: str, document: str, end: str) -> None:
    body = ("first" + end + document.replace("%s", SECRET) + end + "last" + end).encode()
    for pieces in (1, 2, 3, len(body)):
        assert SECRET.encode() not in sieved(body, kind, pieces=pieces)


def test_events_end_however_they_are_cut() -> None:
    body = b'data: 1\r\n\r\ndata: {"password":\r\ndata: "%b"}\r\n\r\ndata: 2\n\n' % SECRET.encode()
    whole = sieved(body, "text/event-stream")
    assert SECRET.encode() not in whole
    for pieces in range(2, len(body) + 1):
        assert sieved(body, "text/event-stream", pieces=pieces) == whole


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "text/event-stream", "application/pdf"])
def test_a_long_line_in_small_chunks_takes_linear_time(kind: str) -> None:
    redactor = RULES.body_redactor(BodyFields(kind.encode()), 1 << 30)
    assert redactor is not None
    before = process_time()
    for _ in range(400_000):
        assert redactor.feed(b"abc") == b""
    assert process_time() - before < 5  # quadratic: minutes
    assert redactor.buffered == 1_200_000


HOSTILE = {
    "backslashes": (b'{"\\u0061": 1, "x": "' + b"\\" * 1_000_000, "application/json"),
    "names": (b'"password"' * 100_000, "application/json"),
    "brackets": (b'{"password": 1, "x": ' + b"[" * 1_000_000, "application/json"),
    "commas": (b'{"password": 1}' + b"," * 1_000_000 + b'"password": "s3cr3t-W0rd"', "application/json"),
    "quotes": (b'{"password": 1}' + b'"' * 1_000_000, "application/json"),
    "nested": (b'\\"password\\": \\"' * 60_000, "application/json"),
    "pairs": (
        b"password=1&" + b"&" * 1_000_000 + b"password=s3cr3t-W0rd",
        "application/x-www-form-urlencoded",
    ),
    "parts": (b"password" + b"---" * 300_000 + b"s3cr3t-W0rd", "multipart/form-data; boundary=-"),
    "private keys": (b"-----BEGIN PRIVATE KEY-----" * 40_000, "text/plain"),
    "bearers": (b"bearer " * 150_000, "text/plain"),
    "user info": (b"://a:@" * 150_000, "text/plain"),
    "lines": (b"pass" + b" " * 1_000_000 + b":", "text/plain"),
    "arguments": (b'{"query' + b"a" * 500_000 + b" : " * 100_000, "application/json"),
    "elements": (b"<a " * 300_000 + b"<token", "text/xml"),
    "attributes": (b' token="' * 100_000, "text/xml"),
    "UTF-16": (('{"password": ' * 50_000).encode("utf-16"), "application/json"),
    "parameters": (b"secret=1&a=%7B" + b"%7B" * 300_000, "application/x-www-form-urlencoded"),
    "scripts": (b'{token:"' * 150_000, "text/javascript"),
    "pages": (b'"token": ' * 120_000, "text/html"),
    "spaces": (b'"token"' + b" " * 1_000_000, "text/html"),
    "binary": (b'\0token:\\"' * 100_000, "application/octet-stream"),
    "names of parts": (b'--X\r\npassword name="' * 50_000 + b"\r\n\r\n", "multipart/form-data; boundary=X"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_redacted_in_bounded_time(name: str) -> None:
    body, kind = HOSTILE[name]
    before = process_time()
    assert SECRET.encode() not in sieved(body, kind)
    assert process_time() - before < 5  # quadratic would be hours


@pytest.mark.parametrize("path", ["$..card", "$..a..*", "$.x..[0]"])
@pytest.mark.parametrize("value", [b"1,", b"[1],", b'{"card":[]},', b'{"a":1,"card":2},'])
def test_a_path_costs_a_deep_document_no_walk_from_its_root_for_each_value(path: str, value: bytes) -> None:
    body = b"[" * 190 + value * 20_000 + b'{"card": "' + SECRET.encode()
    redactor = redaction([path]).body_redactor(BodyFields(b"application/json"), 1 << 20)
    assert redactor is not None
    before = thread_time()
    redactor.feed(body)
    kept = redactor.finish().data
    assert thread_time() - before < 2
    assert path != "$..card" or SECRET.encode() not in kept


def test_a_path_goes_on_to_match_behind_what_was_redacted_as_a_whole() -> None:
    deep = "[" * 250 + "]" * 250
    body = f'{{"password": {{"a": [[1], {{"b": 2}}]}}, "d": [{deep}, {{"pin": 1}}], "user": {{"pin": 4321}}}}'
    kept = json.loads(sieved(body.encode(), "application/json"))
    assert kept["password"] == kept["user"]["pin"] == "[redacted]"
    assert kept["d"][1] == {"pin": 1}


@given(st.lists(st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=5), max_size=8))
def test_a_matcher_finds_the_same_whichever_location_came_before(locations: list[list[str | int]]) -> None:
    paths = [JsonPath.parse(each) for each in ("$..a.b", "$.a[*]..b", "$[0]", "$.b..*")]
    used = PathMatcher(paths)
    for each in locations:
        assert used.matches(tuple(each)) is PathMatcher(paths).matches(tuple(each))


@pytest.mark.parametrize(
    "piece",
    [
        b"?",
        b"eyJ",
        b"&a",
        b"eyJaaaaaa.",
        b"?password",
        b"#",
        b"=",
        b"?=",
        b"bearer ",
        b"://a:",
        b"%3a%2f%2fa:",
        b"eyJa.",
        b"hash=",
    ],
)
def test_hostile_heads_are_redacted_in_bounded_time(piece: bytes) -> None:
    text = (piece * 64_000)[:64_000] + b"password%"
    before = process_time()
    RULES.head(b"\nreferer: " + text + b"\r\n")
    RULES.head(b"\nx-forwarded-client-cert: " + text + b"\r\n" + b"\n" + text + b":")
    RULES.target(b"/?" + text)
    assert process_time() - before < 2


# --- paths


@pytest.mark.parametrize(
    ("path", "place", "meant"),
    [
        ("$", (), True),
        ("$.a", ("a",), True),
        ("$.a", ("a", "b"), False),
        ("$.items[*].id", ("items", 3, "id"), True),
        ("$.items.*.id", ("items", 3, "id"), True),
        ("$.items[2].id", ("items", 3, "id"), False),
        ("$..id", ("items", 3, "id"), True),
        ("$..id", ("id",), True),
        ("$.a..c.*", ("a", "b", "c", "d"), True),
        ("$['odd name']", ("odd name",), True),
        ("$..[0]", ("a", 0), True),
    ],
)
def test_a_path_matches_its_locations(path: str, place: tuple[str | int, ...], meant: bool) -> None:
    assert PathMatcher([JsonPath.parse(path)]).matches(place) is meant


@given(st.lists(st.integers(0, 99) | st.text('ab-_ .[]"', max_size=5), max_size=5))
def test_a_formatted_location_is_a_path_that_matches_it(steps: list[str | int]) -> None:
    if not any(isinstance(step, str) and "'" in step and '"' in step for step in steps):
        assert PathMatcher([JsonPath.parse(format_path(tuple(steps)))]).matches(tuple(steps))


@pytest.mark.parametrize("kind", [b"application/json", b"application/x-ndjson", b"text/event-stream"])
def test_the_repr_of_a_redactor_shows_no_bytes_that_wait_to_be_redacted(kind: bytes) -> None:
    redactor = RULES.body_redactor(BodyFields(kind), 1 << 20)
    assert redactor is not None
    assert redactor.feed(b'{"password": "hunter2') == b""
    assert redactor.buffered
    assert "hunter2" not in repr(redactor)
