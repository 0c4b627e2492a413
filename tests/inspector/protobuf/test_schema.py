"""Messages as JSON and back, and schemas from descriptors that are not trusted. The library's own
ProtoJSON is the witness."""

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import RequestMalformed
from devroute.http.secret_names import SecretNames
from devroute.inspector.protobuf.parser import parse_document
from devroute.inspector.protobuf.printer import MAX_VALUES, MessageTooLarge, Printer
from devroute.inspector.protobuf.redactor import Redactor
from devroute.inspector.protobuf.schema import MAX_FILES, Schema, parse
from devroute.inspector.protobuf.wire import varint
from devroute.inspector.redaction import redaction
from tests.support import grpc_shop
from tests.support.examples import examples

SCHEMA = Schema(grpc_shop.files())
ORDER = SCHEMA.type("shop.Order")
assert ORDER is not None

#: A message with everything, in the form that the inspector prints.
FULL: dict[str, Any] = {
    "id": "12345678901234567890"[:18],
    "customer": "Ada",
    "items": [{"sku": "TEA", "amount": 2}, {}],
    "size": "LARGE",
    "stock": {"TEA": 3, "MUG": -1},
    "placed_at": "2026-11-29T05:00:00Z",
    "extra": {"@type": "type.googleapis.com/shop.Item", "sku": "MUG"},
    "raw": "AAECAw==",
    "price": 12.5,
    "gift": True,
    "notes": {"a": [1.0, None, {"b": "c"}]},
    "coupon": "SAVE",
    "cash": 7,
    "serial": "18446744073709551615",
    "previous": {
        "id": "1",
        "extra": {"@type": "x/google.protobuf.Timestamp", "value": "1970-01-01T00:00:01Z"},
    },
    "shelf": {"1": {"sku": "CUP"}},
    "weight": 0.1,
}


def shown(data: bytes, secret: SecretNames | None = None) -> Any:
    message = parse(ORDER, data)
    assert message is not None
    return Printer(SCHEMA, secret or SecretNames()).print(message)


def test_a_message_is_printed_as_the_library_prints_it_and_comes_back() -> None:
    data = parse_document(SCHEMA, ORDER, FULL)
    assert shown(data) == FULL
    by_library = json_format.MessageToDict(
        parse(ORDER, data), preserving_proto_field_name=True, descriptor_pool=SCHEMA.pool
    )
    assert by_library == FULL
    camel = json_format.MessageToDict(parse(ORDER, data), descriptor_pool=SCHEMA.pool)
    assert parse(ORDER, parse_document(SCHEMA, ORDER, camel)) == parse(ORDER, data)


@examples(60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(-(1 << 63), (1 << 63) - 1),
            "customer": st.text(st.characters(exclude_categories=["Cs"])),
            "stock": st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
                st.integers(-(1 << 31), (1 << 31) - 1),
                max_size=3,
            ),
            "price": st.floats(allow_nan=False, allow_infinity=False),
            "weight": st.floats(width=32, allow_nan=False, allow_infinity=False),
            "items": st.lists(
                st.fixed_dictionaries({"amount": st.integers(-(1 << 31), (1 << 31) - 1)}), max_size=3
            ),
        },
    )
)
def test_what_is_printed_is_read_as_the_same_message(document: dict[str, Any]) -> None:
    first = parse_document(SCHEMA, ORDER, document)
    again = parse_document(SCHEMA, ORDER, json.loads(json.dumps(shown(first))))
    assert parse(ORDER, again) == parse(ORDER, first)


def test_fields_with_secret_names_are_never_printed() -> None:
    order = {
        "password": "hunter2",
        "pin_code": 1234,
        "stock": {"api_key": 3, "TEA": 1},
        "previous": {"password": "old"},
    }
    data = parse_document(SCHEMA, ORDER, order)
    redacted = "[redacted]"
    expected = {"password": redacted, "pin_code": redacted, "previous": {"password": redacted}}
    printed = shown(data)
    assert {"stock": printed.pop("stock")} == {"stock": {"api_key": redacted, "TEA": 1}}
    assert printed == expected
    # What was redacted is left out of what is sent.
    assert parse_document(SCHEMA, ORDER, shown(data)) == parse_document(
        SCHEMA, ORDER, {"stock": {"TEA": 1}, "previous": {}}
    )


def test_what_the_schema_does_not_know_is_shown_by_number() -> None:
    data = b"\x08\x05" + b"\xa0\x06\x05\xaa\x06\x02hi\xb3\x06\x08\x01\xb4\x06"
    message = parse(ORDER, data)
    printer = Printer(SCHEMA, SecretNames())
    assert printer.print(message) == {"id": "5", "@unknown": ["100 varint: 5", '101 len: "hi"', "102 group"]}
    assert printer.stale
    assert parse_document(SCHEMA, ORDER, {"id": "5", "@unknown": ["100 varint: 5"]}) == b"\x08\x05"

    extra = {"@type": "type.googleapis.com/other.Thing", "value": "CAE="}
    data = b"\x3a\x25\x0a\x1ftype.googleapis.com/other.Thing\x12\x02\x08\x01"
    message = parse(ORDER, data)
    printer = Printer(SCHEMA, SecretNames())
    assert printer.print(message) == {"extra": extra}
    assert printer.missing_types == {"other.Thing"}

    year_12000 = b"\x32\x07\x08\x80\xb8\x8c\xce\xc9\x09"
    assert set(shown(year_12000)["placed_at"]) == {"seconds"}
    assert shown(b"\x20\x63") == {"size": 99}


def test_any_in_any_and_large_messages_are_bounded() -> None:
    data = b""
    for _ in range(300):
        inner = b"\x0a" + bytes((len(b"x/google.protobuf.Any"),)) + b"x/google.protobuf.Any"
        data = inner + b"\x12" + varint(len(data)) + data
    text = json.dumps(shown(b"\x3a" + varint(len(data)) + data))
    assert text.count("@type") == 9
    with pytest.raises(MessageTooLarge):
        shown(b"\x1a\x00" * (MAX_VALUES + 1))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"id": "x"},
            "$.id: expected a whole number from -9223372036854775808 to 9223372036854775807 (int64), not 'x'",
        ),
        (
            {"items": [{"sku": "a"}, {"amount": "two"}]},
            "$.items[1].amount: expected a whole number from -2147483648 to",
        ),
        ({"items": {"sku": "a"}}, "$.items: expected a list, not an object"),
        ({"items": ["a"]}, "$.items[0]: expected an object (shop.Item), not 'a'"),
        ({"items": [[]]}, "$.items[0]: expected an object (shop.Item), not a list"),
        ({"customer": 5}, "$.customer: expected a string, not 5"),
        ({"gift": "true"}, "$.gift: expected true or false, not 'true'"),
        ({"gift": 1}, "$.gift: expected true or false, not 1"),
        ({"raw": "*"}, "$.raw: expected bytes in base64, not '*'"),
        ({"price": "dear"}, "$.price: expected a number (double), not 'dear'"),
        ({"size": "HUGE"}, "$.size: expected one of SIZE_UNKNOWN, SMALL, LARGE (shop.Size), not 'HUGE'"),
        ({"size": True}, "$.size: expected one of"),
        ({"stock": [1]}, "$.stock: expected an object (map), not a list"),
        ({"stock": {"a b": 1.5}}, "$.stock['a b']: expected a whole number"),
        ({"shelf": {"x": {}}}, "$.shelf.x: expected a whole number"),
        ({"cash": -1}, "$.cash: expected a whole number from 0 to 4294967295 (uint32), not -1"),
        ({"id": 1 << 63}, "$.id: expected a whole number"),
        ({"id": True}, "$.id: expected a whole number"),
        ({"placed_at": "yesterday"}, "$.placed_at: not a google.protobuf.Timestamp, 'yesterday': "),
        ({"placed_at": {"seconds": 1}}, "$.placed_at: not a google.protobuf.Timestamp, an object: "),
        (
            {"extra": {"@type": "x/no.Such"}},
            "$.extra: \"@type\" has to name a type of the schema, not 'x/no.Such'",
        ),
        ({"extra": {"@type": "x/shop.Item", "amount": "x"}}, "$.extra.amount: expected a whole number"),
        ({"nope": 1}, "$.nope: shop.Order has no field 'nope'"),
        ({"previous": {"custommer": ""}}, "$.previous.custommer: shop.Order has no field 'custommer'"),
        ({"iban": "DE", "cash": 1}, "not a shop.Order: "),
        ([], "$: expected an object (shop.Order), not a list"),
        ("text", "$: expected an object (shop.Order), not 'text'"),
        (None, "$: expected an object (shop.Order), not null"),
    ],
)
def test_an_error_names_place_and_expected_type(document: Any, message: str) -> None:
    with pytest.raises(RequestMalformed) as raised:
        parse_document(SCHEMA, ORDER, document)
    assert raised.value.message.startswith(message)


def test_a_misspelt_field_gets_a_suggestion() -> None:
    with pytest.raises(RequestMalformed) as raised:
        parse_document(SCHEMA, ORDER, {"custommer": "x"})
    assert raised.value.hint == "did you mean customer?"
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"previous": deep}
    with pytest.raises(RequestMalformed, match="nested deeper than 100 levels"):
        parse_document(SCHEMA, ORDER, deep)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*FULL, "@type", "value", "seconds", "", "[x.y]"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@examples(60)
@given(JSON)
def test_any_document_is_a_message_or_an_error(document: Any) -> None:
    try:
        data = parse_document(SCHEMA, ORDER, document)
    except RequestMalformed as error:
        assert error.message  # noqa: PT017
    else:
        assert parse(ORDER, data) is not None


@examples(60)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    message = parse(ORDER, data)
    if message is not None:
        json.dumps(Printer(SCHEMA, SecretNames()).print(message))


# --- descriptors


def file(name: str, *imports: str, **more: Any) -> FileDescriptorProto:
    return FileDescriptorProto(name=name, syntax="proto3", dependency=imports, **more)


def test_descriptors_that_are_wrong_are_left_out_with_what_imports_them() -> None:
    good = file("good.proto", package="a")
    good.message_type.add(name="Good").field.add(
        name="next", number=1, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".a.Good"
    )
    bad_type = file("bad.proto", package="b")
    bad_type.message_type.add(name="Bad").field.add(
        name="x", number=1, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".no.Such"
    )
    taken = file("taken.proto", package="a")
    taken.message_type.add(name="Good")
    fake = file("google/protobuf/timestamp.proto", package="google.protobuf")
    fake.message_type.add(name="Timestamp").field.add(
        name="x", number=1, type=FieldDescriptorProto.TYPE_STRING
    )
    found = Schema(
        each if isinstance(each, bytes) else each.SerializeToString()
        for each in (
            file("loop-a.proto", "loop-b.proto"),
            file("loop-b.proto", "loop-a.proto"),
            file("lost.proto", "missing.proto"),
            file("uses-lost.proto", "lost.proto"),
            bad_type,
            good,
            taken,
            fake,
            b"\xff\xff",
            b"",
        )
    )
    assert found.type("a.Good") is not None
    assert found.missing == ["missing.proto"]
    assert {
        "loop-a.proto",
        "loop-b.proto",
        "lost.proto",
        "uses-lost.proto",
        "bad.proto",
        "taken.proto",
    } == set(found.problems)
    timestamp = found.type("google.protobuf.Timestamp")
    assert timestamp is not None
    assert [field.name for field in timestamp.fields] == ["seconds", "nanos"]


@examples(60)
@given(st.integers(0), st.integers(0, 255), st.binary(max_size=30))
def test_descriptors_of_any_bytes_do_no_harm(place: int, byte: int, data: bytes) -> None:
    *imports, shop = grpc_shop.files()
    place %= len(shop)
    found = Schema([*imports, shop[:place] + bytes((byte,)) + shop[place + 1 :]])
    method = found.method("/shop.Orders/Place")
    for each in (parse_document(SCHEMA, ORDER, FULL), data):
        message = None if method is None else parse(method.request, each)
        if method is None or message is None:
            continue
        document = Printer(found, SecretNames()).print(message)
        Redactor(found, redaction().masks).message(method.request, each)
        with suppress(RequestMalformed):
            parse_document(found, method.request, json.loads(json.dumps(document)))


def test_names_that_the_library_cannot_read_are_left_out() -> None:
    for name in (b"\xff", "\xe9".encode(), b"a\xc3"):
        message = FileDescriptorProto(name="a.proto")
        message.message_type.add(name="NAME").field.add(
            name="f", number=1, type=FieldDescriptorProto.TYPE_BOOL
        )
        data = message.SerializeToString().replace(b"NAME", name.ljust(4, b"x"))
        assert Schema([data])._files.keys() == Schema([])._files.keys()
    entry = file("entry.proto")
    kind = entry.message_type.add(name="M").nested_type.add(name="E")
    kind.options.map_entry = True
    assert Schema([entry.SerializeToString()])._files.keys() == Schema([])._files.keys()


def test_a_long_chain_of_imports_is_no_recursion_and_files_are_bounded() -> None:
    chain = [
        file(f"{n}.proto", *([f"{n + 1}.proto"] if n < MAX_FILES - 1 else [])) for n in range(MAX_FILES + 50)
    ]
    found = Schema(each.SerializeToString() for each in chain)
    assert not found.problems
    assert found.missing == []


def test_only_methods_that_there_are_are_found() -> None:
    place = SCHEMA.method("/shop.Orders/PlaceAll?x=1")
    assert place is not None
    assert (place.request.full_name, place.response.full_name) == ("shop.Order", "shop.Receipt")
    assert place.client_streaming
    for path in (
        "/shop.Orders/No",
        "/shop.No/Place",
        "/",
        "",
        "/shop.Order/Place",
        "/shop.Orders/",
        "//",
        "\xff",
    ):
        assert SCHEMA.method(path) is None
