"""Secrets in gRPC messages leave the store in no form: as no bytes, in no HAR file, in no history."""

import asyncio
import gzip
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from devroute.inspector import history
from devroute.inspector.capture import Capture, CapturedHead, Message
from devroute.inspector.curl import as_curl
from devroute.inspector.har_writer import write
from devroute.inspector.masks import Masks
from devroute.inspector.messages import GrpcMessages
from devroute.inspector.protobuf import frames
from devroute.inspector.protobuf.catalogue import Found
from devroute.inspector.protobuf.cleaner import clean, is_clean
from devroute.inspector.protobuf.schema import Schema
from devroute.inspector.redaction import redaction
from devroute.inspector.views import as_detail
from tests.inspector.protobuf.laptop import documents, laptop
from tests.support import grpc_shop
from tests.support.examples import examples
from tests.support.grpc_shop import V1, message, reflecting

SCHEMA = Schema(grpc_shop.files())
FOUND = Found(SCHEMA, SCHEMA.method("/shop.Orders/Place"), "a test")
UNKNOWN = Found(problem="no schema")
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
SECRET: dict[str, Any] = {
    "id": "7",
    "customer": f"Bearer {JWT}",
    "password": "hunter2",
    "pin_code": 987654,
    "stock": {"api_key": 31337, "TEA": 1},
    "extra": {"@type": "x/shop.Order", "password": "hunter2"},
    "notes": {"token": "hunter2", "deep": {"client_secret": "hunter2"}, "text": '{"password": "hunter2"}'},
    "previous": {"password": "hunter2", "items": [{"sku": JWT}]},
    "shelf": {"1": {"sku": JWT}},
}


def order(document: Any) -> bytes:
    data: bytes = message("Order", document).SerializeToString()
    return data


def shown(data: bytes) -> Any:
    return json_format.MessageToDict(
        grpc_shop.message("Order").FromString(data), preserving_proto_field_name=True
    )


def secrets_in(data: bytes) -> list[bytes]:
    number = b"\xa0\x01" + b"\x86\xa4\x3c"  # pin_code
    return [each for each in (b"hunter2", JWT.encode(), number) if each in data]


def call(body: bytes = b"", *, encoding: str = "", ended: bool = True) -> Capture:
    """A capture of a request with this body."""
    made = Capture("b", "POST", "/shop.Orders/Place", 0.0, 0.0, kind="grpc")
    made.request_head = CapturedHead.of([("grpc-encoding", encoding)] if encoding else [])
    made.messages_checked = made.request_body.checked = made.response_body.checked = 0
    made.state = "done" if ended else "open"
    feed(made, body)
    return made


def feed(capture: Capture, data: bytes) -> None:
    capture.request_body.data += data
    capture.messages += GrpcMessages(from_client=True).feed(data, 0.0)


def cleaned(capture: Capture, found: Found = FOUND, masks: Masks | None = None) -> int:
    return asyncio.run(clean(capture, found, masks or redaction().masks))


def test_secrets_are_removed_wherever_a_message_has_them() -> None:
    assert len(secrets_in(order(SECRET))) == 3
    capture = call(frames.join([order(SECRET), order({"id": 1})]))
    before = len(capture.request_body.data) + sum(len(each.data) for each in capture.messages)
    grown = cleaned(capture)
    assert before + grown == len(capture.request_body.data) + sum(len(each.data) for each in capture.messages)
    first, second = (data for _, data in frames.split(capture.request_body.data))
    assert [first, second] == [each.data for each in capture.messages]
    assert secrets_in(first) == []
    assert second == order({"id": 1})
    for kept in (b"TEA", b"text", b"deep", b"Bearer [redacted]", b"[redacted]"):
        assert kept in first
    assert capture.messages[0].redacted == ("$.stock.api_key", "$.pin_code")
    assert is_clean(capture)
    assert cleaned(capture) == 0


def test_secrets_in_binary_metadata_leave_the_store_neither_as_text_nor_as_base64() -> None:
    status = b"\x08\x10\x12\x04gone\x1a\x60" + f"\n\x01x\x12[Bearer {JWT}".encode()
    values = (status, b"\x0a1" + JWT.encode(), b"s3cret", b"\x00harmless")
    coded = [b64encode(each).decode() for each in values]
    details, more, token, harmless = (each.rstrip("=") for each in coded)
    fields = [
        ("grpc-status-details-bin", details),
        ("X-Debug-Bin", f"{harmless}, {more}"),
        ("x-auth-token-bin", token),
        ("card-bin", token),
        ("x-plain-bin", harmless),
        ("x-odd-bin", "a"),
    ]
    raw = "".join(f"\n{name}: {value}\r" for name, value in fields).encode()
    assert len(JWT) == ord("1")
    redact = redaction(["card"])
    safe = dict(redact.fields(fields))
    head = redact.head(raw + b"\n")[0].decode()
    assert redact.head(raw + b"\n")[0].decode() == "".join(f"\n{k}: {v}\r" for k, v in safe.items()) + "\n"
    for each in (details, more, token):
        assert each not in head
    assert (safe["x-plain-bin"], safe["x-odd-bin"]) == (harmless, "a")
    assert [name for name, value in safe.items() if value == "[redacted]"] == [name for name, _ in fields[:4]]
    kept = redaction(["-x-auth-token"]).fields(fields)
    assert ("x-auth-token-bin", token) in kept


def test_rules_of_the_user_hold_for_names_and_paths() -> None:
    document = {
        "customer": "Ada",
        "items": [{"sku": "TEA", "amount": 2}],
        "raw": "AAEC",
        "notes": {"list": [1, {"a": 2}]},
    }
    capture = call(frames.join([order(document)]))
    cleaned(capture, masks=redaction(("customer", "$.items[*].sku", "$.raw", "$.notes.list[1].a")).masks)
    (only,) = (data for _, data in frames.split(capture.request_body.data))
    assert shown(only) == {
        "customer": "[redacted]",
        "items": [{"sku": "[redacted]", "amount": 2}],
        "notes": {"list": [1.0, {"a": "[redacted]"}]},
    }
    assert capture.messages[0].redacted == ("$.raw",)


def test_without_a_schema_secrets_with_a_form_are_overwritten_and_named_ones_stay() -> None:
    data = order(SECRET)
    capture = call(frames.join([data]))
    cleaned(capture, UNKNOWN)
    (only,) = (each for _, each in frames.split(capture.request_body.data))
    assert len(only) == len(data)
    assert secrets_in(only) == [b"hunter2", b"\xa0\x01\x86\xa4\x3c"]
    # When the schema is known at last, the message is cleaned by it.
    cleaned(capture, FOUND)
    assert secrets_in(bytes(capture.request_body.data)) == []


def test_what_has_no_secret_stays_byte_for_byte() -> None:
    trailers = b"\x80\0\0\0\x0fgrpc-status:0\r\n"  # of gRPC-Web
    body = frames.join([order({"id": 1}), b""]) + trailers
    for found in (FOUND, UNKNOWN):
        capture = call(body)
        assert cleaned(capture, found) == 0
        assert bytes(capture.request_body.data) == body


def test_compressed_messages_are_stored_without_compression_if_there_was_something() -> None:
    def packed(document: Any) -> bytes:
        data = gzip.compress(order(document))
        return b"\1" + len(data).to_bytes(4, "big") + data

    harmless, secret = packed({"id": 1}), packed(SECRET)
    capture = call(harmless + secret, encoding="gzip")
    cleaned(capture)
    assert capture.request_body.data.startswith(harmless)
    assert [each.compressed for each in capture.messages] == [True, False]
    (_, _), (compressed, data) = frames.split(capture.request_body.data)
    assert not compressed
    assert b"[redacted]" in data
    assert secrets_in(data) == []
    # What cannot be decompressed is left out.
    for encoding in ("br", "gzip"):
        capture = call(b"\1\0\0\0\x08password", encoding=encoding)
        cleaned(capture)
        assert bytes(capture.request_body.data) == b"\0" * 5
        assert "left out" not in capture.request_body.note
        assert capture.request_body.note.startswith("stored without messages")
        assert capture.messages[0].data == b""


def test_the_beginning_of_a_message_is_kept_only_if_its_type_has_no_secrets() -> None:
    method, item = FOUND.method, SCHEMA.type("shop.Item")
    assert method is not None
    assert item is not None
    cut = b"\0\0\1\0\0" + order({"id": 1})
    for found, kept in ((FOUND, b""), (FOUND._replace(method=method._replace(request=item)), cut)):
        capture = call()
        capture.request_body.data += cut
        cleaned(capture, found)
        assert bytes(capture.request_body.data) == kept
        assert bool(capture.request_body.note) is not bool(kept)
    long = Message(0.0, True, "binary", b"x" * 10, 5000)
    capture = call()
    capture.messages = [long]
    cleaned(capture)
    assert (long.data, long.size) == (b"", 5000)


@examples(30)
@given(
    st.lists(st.integers(1, 400), max_size=5),
    st.lists(st.sampled_from([SECRET, {"id": 1}, {}]), max_size=3),
)
def test_a_call_that_is_open_is_cleaned_as_it_grows(cuts: list[int], orders: list[Any]) -> None:
    body = frames.join(order(each) for each in orders)
    masks = redaction().masks

    async def growing() -> Capture:
        capture, watcher, rest = call(ended=False), GrpcMessages(from_client=True), body
        for cut in [*cuts, len(body)]:
            piece, rest = rest[:cut], rest[cut:]
            capture.request_body.data += piece
            capture.messages += watcher.feed(piece, 0.0)
            await clean(capture, FOUND, masks)
            assert secrets_in(capture.request_body.redacted) == []
            assert not any(secrets_in(each.data) for each in capture.redacted_messages)
        return capture

    capture, whole = asyncio.run(growing()), call(body)
    cleaned(whole)
    assert capture.request_body.data == whole.request_body.data
    assert [each.data for each in capture.messages] == [each.data for each in whole.messages]


@pytest.mark.asyncio
async def test_nothing_that_the_inspector_puts_out_has_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "WRITE_SECONDS", 0.0)
    file = tmp_path / "history.jsonl"
    async with laptop(reflecting(V1)) as it:
        async with history.keeping(it.store, file, print, it.inspection.redact):
            capture = await it.call("Place", SECRET)
        assert it.store.total == capture.stored_bytes
        shown = await it.inspection.shown("1")
        assert shown is capture
        await it.inspection.redact(capture)
        decoded = await it.decoder.call(capture)
        put_out = [
            file.read_text(),
            "".join(write([capture], "1")),
            json.dumps(as_detail(capture)),
            json.dumps(decoded.as_dict()),
            as_curl(capture, "http://localhost"),
        ]
        for text in put_out:
            assert "hunter2" not in text
            assert JWT not in text
            assert "987654" not in text
        assert secrets_in(bytes(capture.request_body.data)) == []
        assert documents(decoded)[0]["password"] == "[redacted]"
        assert "$.pin_code" in decoded.messages[0].redacted
        assert "access_token" not in file.read_text()
        again = await it.call("Place", {"id": 2})
        assert b"tok-2-secret" in again.response_body.data
        await it.inspection.redact(again)
        assert b"tok-2-secret" not in again.response_body.data
