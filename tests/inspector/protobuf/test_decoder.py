"""Calls to a real gRPC app, recorded, shown with their schema, edited, replayed and compared."""

import json
import sys
from pathlib import Path

import grpc
import pytest

from devroute.errors import ConfigInvalid, RequestMalformed
from devroute.inspector.capture import Capture, Message
from devroute.inspector.compare import compare_captures
from devroute.inspector.protobuf import catalogue as catalogue_module
from devroute.inspector.protobuf.catalogue import Catalogue
from devroute.inspector.protobuf.decoder import decoder
from devroute.inspector.protobuf.schema_files import SchemaFiles
from devroute.inspector.query.query import Query
from tests.inspector.protobuf.laptop import documents, laptop
from tests.support import grpc_shop
from tests.support.grpc_shop import V1, message, reflecting

pytestmark = pytest.mark.asyncio

ORDER = {"id": "7", "customer": "Ada", "items": [{"sku": "TEA", "amount": 2}], "password": "hunter2"}
SHOWN = ORDER | {"password": "[redacted]"}
RECEIPT = {"order_id": "7", "text": "for Ada", "access_token": "[redacted]"}


async def test_a_call_is_shown_with_its_schema_and_reflection_is_not_recorded() -> None:
    async with laptop() as it:
        capture = await it.call("Place", ORDER)
        call = await it.decoder.call(capture)
        assert documents(call) == [SHOWN, RECEIPT]
        assert [each.from_client for each in call.messages] == [True, False]
        shown = call.as_dict()
        assert (shown["source"], shown["problem"]) == ("the app's server reflection", "")
        assert (shown["request_type"], shown["response_type"]) == ("shop.Order", "shop.Receipt")
        assert len(it.store) == 1


async def test_each_message_of_a_stream_is_shown_and_only_new_ones_are_decoded() -> None:
    async with laptop() as it:
        capture = await it.call("Follow", {"id": 3})
        steps = [{"order_id": str(n), "text": f"step {n}"} for n in (1, 2)]
        assert await it.shown(capture) == [{"id": "3"}, {"text": "step 0"}, *steps]
        later = await it.decoder.call(capture, 2)
        assert (later.first, documents(later)) == (2, steps)
        uploads = await it.call("PlaceAll", {"id": 1}, {"id": 2})
        call = await it.decoder.call(uploads)
        assert documents(call) == [{"id": "1"}, {"id": "2"}, {"order_id": "3"}]
        assert call.as_dict()["client_streaming"]


async def test_compressed_and_long_messages_are_shown() -> None:
    async with laptop(compression=grpc.Compression.Gzip) as it:
        long = {"id": "1", "customer": "a" * 100_000}
        capture = await it.call("Place", long, encoding="gzip")
        assert capture.messages[0].compressed
        assert capture.messages[1].compressed
        assert Query.parse('body:"FOR AAA"').matches(capture)
        assert not Query.parse('body:"FOR B"').matches(capture)
        assert (await it.shown(capture))[0] == long
        assert (await it.shown(capture))[1]["text"] == "for " + "a" * 100_000
        capture.messages[0].size += 1_000_000
        capture.messages_dropped = 1
        (problem, _) = (await it.decoder.call(capture)).messages
        assert problem.problem == "longer than 256 KiB"


async def test_details_of_an_error_are_shown() -> None:
    async with laptop() as it:
        capture = await it.call("Refuse", ORDER)
        assert capture.grpc_status == 9
        details = (await it.decoder.call(capture)).status_details
        assert details is not None
        assert json.loads(details) == {
            "code": 9,
            "message": "closed",
            "details": [{"@type": "type.googleapis.com/shop.Order", **SHOWN}],
        }
        capture.trailers = [("grpc-status-details-bin", "%%%")]
        assert (await it.decoder.call(capture)).status_details is None


async def test_a_replay_has_the_messages_that_were_edited() -> None:
    async with laptop() as it:
        capture = await it.call("Place", ORDER, encoding="gzip")
        again = await it.replay(capture, SHOWN | {"id": 8, "customer": "Grace"})
        assert again.replay_of == capture.id
        sent, received = await it.shown(again)
        assert sent == {
            "id": "8",
            "customer": "Grace",
            "items": ORDER["items"],
        }  # without the redacted password
        assert received["text"] == "for Grace"
        capture = await it.call("PlaceAll", {"id": 1})
        again = await it.replay(capture, [{"id": 5}, {"id": 6}])
        assert await it.shown(again) == [{"id": "5"}, {"id": "6"}, {"order_id": "11"}]


@pytest.mark.parametrize(
    ("method", "text", "problem"),
    [
        ("Place", "{", "line 1, column 2: not JSON"),
        ("Place", '{"id": "x"}', "$.id: expected a whole number"),
        ("Place", "[]", "$: expected an object"),
        ("PlaceAll", "{}", "this call streams its requests: write a list of shop.Order"),
        ("PlaceAll", '[{}, {"id": "x"}]', "$[1].id: expected a whole number"),
        ("Place", "[" * 100_000, "the JSON is nested too deep"),
        (
            "Place",
            '{"id": ' + "1" * 5000 + "}",
            "the JSON is nested too deep, or has a number of too many digits",
        ),
        ("No", "{}", "the messages cannot be encoded: This method is not in shop.binpb. There is no schema"),
    ],
)
async def test_an_edit_that_is_no_message_is_refused(
    method: str, text: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.binpb").write_bytes(grpc_shop.descriptor_set())
    files = SchemaFiles(descriptor_set=(tmp_path / "shop.binpb",))
    capture = Capture("b", "POST", f"/shop.Orders/{method}", 0.0, 0.0)
    decoding = decoder(Catalogue((), files))
    with pytest.raises(RequestMalformed) as raised:
        await decoding.encoded(capture, capture.target, text)
    assert raised.value.message.startswith(problem)


async def test_two_calls_are_compared_by_their_fields() -> None:
    async with laptop() as it:
        first = await it.call("Place", ORDER)
        second = await it.call("Place", ORDER | {"customer": "Grace", "password": "other"})
        both = await it.decoder.documents(first), await it.decoder.documents(second)
        assert both[0] is not None
        assert both[1] is not None
        found = compare_captures(first, second, decoded=(both[0], both[1]))
        assert [each[:3] for each in found] == [
            ("request body $.customer", '"Ada"', '"Grace"'),
            ("body $.text", '"for Ada"', '"for Grace"'),
        ]
        http = Capture("b", "GET", "/", 0.0, 0.0)
        assert await it.decoder.documents(http) is None


async def test_without_a_schema_fields_are_shown_by_number() -> None:
    async with laptop(reflecting(V1, ())) as it:
        capture = Capture("away", "POST", "/shop.Orders/Place", 0.0, 0.0, kind="grpc")
        data = message("Order", {"id": 5, "customer": "Ada"}).SerializeToString()
        capture.messages = [
            Message(0.0, True, "binary", data, len(data)),
            Message(0.0, True, "binary", b"\xff", 1),
            Message(0.0, True, "binary", b"abc", 30),
            Message(0.0, True, "binary", b"abc", 3, compressed=True),
        ]
        call = await it.decoder.call(capture)
        assert "away is not served here" in call.found.problem
        assert [each.text for each in call.messages] == ['1 varint: 5\n2 len: "Ada"', None, None, None]
        assert [each.problem for each in call.messages[2:]] == [
            "only the first 3 of its 30 bytes were stored",
            "compressed with 'unknown', which the inspector does not read",
        ]
        assert await it.decoder.documents(capture) is None


async def test_rules_of_redaction_hold_for_decoded_fields() -> None:
    async with laptop(rules=("customer", "$.items[*].sku")) as it:
        jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
        capture = await it.call("Place", ORDER | {"iban": f"Bearer {jwt}"})
        order = (await it.shown(capture))[0]
        assert order["customer"] == "[redacted]"
        assert order["items"] == [{"sku": "[redacted]", "amount": 2}]
        assert jwt not in json.dumps(order)


async def test_without_the_library_the_page_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture("b", "POST", "/shop.Orders/Place", 0.0, 0.0, kind="grpc")
    capture.messages = [Message(0.0, True, "binary", b"\x08\x05", 2)]
    capture.trailers = [("grpc-status-details-bin", "CAU")]
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    call = await decoder().call(capture)
    assert "pip install 'devroute[grpc]'" in call.found.problem
    assert call.messages[0].text == "1 varint: 5"
    with pytest.raises(ConfigInvalid, match="need the library protobuf"):
        await Catalogue((), SchemaFiles((grpc_shop.PROTO,))).load()
    monkeypatch.undo()
    monkeypatch.setattr("google.protobuf.__version__", "5.29.1")
    assert catalogue_module.library_problem().startswith("protobuf 5.29.1 is too old")
