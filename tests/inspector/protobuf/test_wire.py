"""Protobuf without its schema. The library's own encoder is the witness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.inspector.protobuf import wire
from tests.support import grpc_shop
from tests.support.examples import examples


def test_each_field_has_its_number_wire_type_and_value() -> None:
    order = grpc_shop.message(
        "Order",
        {
            "id": "-1",
            "customer": "Ada\nLovelace",
            "items": [{"sku": "TEA", "amount": 2}],
            "raw": "AP8=",
            "price": 12.5,
            "weight": 0.5,
        },
    )
    assert wire.describe(order.SerializeToString()) == "\n".join(
        (
            "1 varint: 18446744073709551615",
            '2 len: "Ada\\nLovelace"',
            "3 len {",
            '  1 len: "TEA"',
            "  2 varint: 2",
            "}",
            "8 len: 00 ff",
            "9 i64: 4623226492472524800 (12.5)",
            "19 i32: 1056964608 (0.5)",
        )
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 11,
        b"\x08",
        b"\x0a\x05hi",
        b"\x00\x01",
        b"\x0b\x0c",  # a group
        b"\x0f\x01",  # wire type 7
        b"\x0d\x01\x02",
        b"\xf8\xff\xff\xff\x7f\x01",  # a number of more than 29 bits
    ],
)
def test_other_bytes_are_not_described(data: bytes) -> None:
    assert wire.describe(data) is None


@examples(60)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_within_bounds(data: bytes) -> None:
    lines = (wire.describe(data) or "").splitlines()
    assert len(lines) <= 2 * wire.MAX_FIELDS + 1


def test_many_fields_and_deep_ones_are_bounded() -> None:
    many = wire.describe(b"\x08\x01" * 10_000)
    assert many is not None
    assert many.count("\n") == wire.MAX_FIELDS
    assert many.endswith("… more fields")
    deep = b"\x08\x01\x12\x01\xff"
    for _ in range(1000):
        deep = b"\x0a" + wire.varint(len(deep)) + deep
    shown = wire.describe(deep)
    assert shown is not None
    assert shown.count("{") == wire.MAX_DEPTH
    long = wire.describe(b"\x0a" + wire.varint(5000) + b"x" * 5000)
    assert long == '1 len: "' + "x" * wire.MAX_SHOWN + '" …'
