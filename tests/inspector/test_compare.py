"""Differences are named with their location; values that always differ are ignored."""

import gzip
import json
import math
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devroute.errors import ConfigInvalid
from devroute.inspector.capture import Capture, CapturedHead
from devroute.inspector.compare import (
    MAX_DIFFERENCES,
    Difference,
    IgnoreRules,
    ResponseParts,
    compare_captures,
    differences,
    response_of,
)
from devroute.inspector.store import CaptureStore
from tests.support.cpu_time import cpu_seconds

JSON = [("content-type", "application/json")]


def of(document: Any, status: int = 200) -> ResponseParts:
    return ResponseParts(status, JSON, json.dumps(document).encode())


def bodies(left: Any, right: Any, *ignore: str) -> list[Difference]:
    return differences(of(left), of(right), IgnoreRules.parse(ignore))


def test_status_and_headers_that_matter_are_compared() -> None:
    left = ResponseParts(
        200, [("Date", "1"), ("X-A", "1"), ("server", "x"), ("x-envoy-time", "5"), ("set-cookie", "s=1")]
    )
    right = ResponseParts(
        404, [("date", "2"), ("x-a", "2"), ("x-request-id", "9"), ("Set-Cookie", "s=2; Path=/"), ("x-b", "1")]
    )
    assert differences(left, right) == [
        ("status", "200", "404"),
        ("header x-a", "1", "2"),
        ("header x-b", None, "1"),
    ]
    assert differences(left, right, IgnoreRules.parse(["X-A", "x-b"])) == [("status", "200", "404")]


def test_json_is_compared_by_location() -> None:
    left = {"a": 1, "b": {"c": [1, {"d": "x"}]}, "odd key": True, "n": 1}
    right = {"n": 1.0, "a": 2, "b": {"c": [1, {"d": "y"}]}, "odd key": 1, "new": None}
    assert bodies(left, right) == [
        ("body $.a", "1", "2"),
        ("body $.b.c[1].d", '"x"', '"y"'),
        ("body $['odd key']", "true", "1"),
        ("body $.new", None, "null"),
    ]


def test_ignored_locations_include_everything_below_them() -> None:
    left = {"timestamp": 1, "items": [{"id": 1, "v": 1}, {"id": 2, "v": 2}], "meta": {"x": {"y": 1}}}
    right = {"timestamp": 2, "items": [{"id": 8, "v": 1}, {"id": 9, "v": 3}], "meta": {"x": {"y": 2}, "z": 1}}
    rules = ("$.timestamp", "$.items[*].id", "$.meta")
    assert bodies(left, right, *rules) == [("body $.items[1].v", "2", "3")]


def test_an_inserted_element_is_one_difference() -> None:
    assert bodies([1, 2, 3, 4], [1, 9, 2, 3, 4]) == [("body $[1]", None, "9")]
    assert bodies([{"id": 1, "t": 5}, {"id": 2, "t": 6}], [{"id": 2, "t": 7}], "$[*].t") == [
        ("body $[0]", '{"id": 1, "t": 5}', None)
    ]


def test_a_redacted_value_equals_every_value() -> None:
    assert bodies({"token": "[redacted]"}, {"token": "abc"}) == []
    assert differences(ResponseParts(200, [("x", "[redacted]")]), ResponseParts(200, [("x", "y")])) == []


def test_text_is_compared_by_lines() -> None:
    left = ResponseParts(200, [], b"a\nb\nc\nd\n")
    assert differences(left, ResponseParts(200, [], b"a\nX\nc\nd\ne\n")) == [
        ("body line 2", "b", "X"),
        ("body line 5", None, "e"),
    ]
    assert [d.where for d in differences(left, ResponseParts(200, [], b"a\r\nb\r\nc\r\nd\r\n"))] == ["body"]


def test_the_alignment_of_lines_is_bounded() -> None:
    left, right = (b"\n".join(b"%d %d" % (n, salt) for n in range(20_000)) for salt in (1, 2))
    assert [d.where for d in differences(ResponseParts(200, [], left), ResponseParts(200, [], right))] == [
        "body from line 1 on"
    ]


def lines(salt: str, other: Callable[[int], str]) -> ResponseParts:
    return ResponseParts(200, [], "\n".join(f"{salt}{n}" if n % 2 else other(n) for n in range(400)).encode())


def test_lines_that_repeat_are_not_aligned_for_long() -> None:
    left, right = (lines(salt, lambda _: "x") for salt in "ab")
    assert cpu_seconds(lambda: differences(left, right)) < 0.1
    assert [each.where for each in differences(left, right)] == ["body from line 2 on"]


def test_long_texts_that_repeat_little_are_aligned() -> None:
    left, right = (lines(salt, lambda n: "</p>" if n % 20 == 0 else f"same {n}") for salt in "ab")
    assert differences(left, right)[:2] == [("body line 2", "a1", "b1"), ("body line 4", "a3", "b3")]


def test_binary_is_compared_as_a_whole() -> None:
    (found,) = differences(ResponseParts(200, [], b"\0\1"), ResponseParts(200, [], b"\0\2\3"))
    assert found.where == "body"
    assert found.left is not None
    assert found.left.startswith("2 bytes, sha256 ")


def test_truncated_bodies_are_compared_up_to_their_end() -> None:
    left = ResponseParts(200, [], b'{"a": 1, "b', truncated=True)
    assert differences(left, ResponseParts(200, [], b'{"a": 1, "b": 2}')) == []
    assert differences(left, ResponseParts(200, [], b'{"a": 2, "b": 2}')) != []
    assert differences(left, ResponseParts(200, [], b'{"a": 1')) != []


def test_the_number_of_listed_differences_is_bounded() -> None:
    found = bodies(dict.fromkeys(map(str, range(500)), 1), {})
    assert len(found) == MAX_DIFFERENCES + 1
    assert found[-1].where == "more"


def test_compression_is_no_difference() -> None:
    captures = []
    for coding in ("", "gzip"):
        capture = Capture("foo", "GET", "/", 0, 0)
        capture.status = 200
        capture.response_head = CapturedHead.of([*JSON, *([("content-encoding", "gzip")] if coding else [])])
        capture.response_body.data += gzip.compress(b'{"a": 1}') if coding else b'{"a":1}'
        capture.response_body.complete = True
        captures.append(response_of(capture))
    assert differences(*captures) == []


def test_a_body_that_was_not_stored_is_not_called_the_same() -> None:
    def answered(coding: str, body: bytes) -> Capture:
        capture = Capture("b", "GET", "/", 1e9, 0)
        capture.status, capture.state = 200, "done"
        capture.response_head = CapturedHead.of([("content-type", "text/html"), ("content-encoding", coding)])
        capture.response_body.data += body
        capture.response_body.size, capture.response_body.complete = len(body), True
        CaptureStore().add(capture)
        return capture

    packed, other, plain = (
        answered("br", b"\x1b\x0f1"),
        answered("br", b"\x1b\x0f2"),
        answered("identity", b"1"),
    )
    why = "not stored: its content-encoding 'br' cannot be searched for fields to redact"
    assert differences(response_of(packed), response_of(other)) == [Difference("body", why, why)]
    (body,) = compare_captures(packed, plain)
    assert (body.where, body.left) == ("body", why)
    assert body.right is not None
    assert body.right.startswith("1 bytes, sha256 ")
    assert differences(response_of(answered("br", b"")), response_of(answered("br", b""))) == []


def test_deeply_nested_documents_are_compared_as_a_whole() -> None:
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    assert differences(ResponseParts(200, JSON, deep), ResponseParts(200, JSON, deep + b" ")) != []
    for depth in (300, 900):
        nested = b"[" * depth + b"1" + b"]" * depth
        assert differences(ResponseParts(200, JSON, nested), ResponseParts(200, JSON, b"[%b]" % nested)) != []


def test_an_ignored_path_costs_a_deep_document_no_walk_from_its_root_for_each_value() -> None:
    deep = ResponseParts(200, JSON, b"[" * 90 + b"1," * 20_000 + b"1" + b"]" * 90)
    before = thread_time()
    rules = IgnoreRules.parse(["$..id", "$.a..*"])
    assert len(differences(deep, deep._replace(body=deep.body.replace(b"1]", b"2]")), rules)) == 1
    assert thread_time() - before < 1


def test_the_alignment_of_nested_lists_is_bounded() -> None:
    left: Any = [1]
    right: Any = [2]
    for _ in range(30):
        left, right = [left, 0], [right, 0, 0]
    assert [each.where for each in bodies(left, right)] == ["body"]


@pytest.mark.parametrize("rule", ["", "$.", "a b", "$.a["])
def test_a_rule_that_cannot_be_read_is_named(rule: str) -> None:
    with pytest.raises(ConfigInvalid):
        IgnoreRules.parse([rule])


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


#: Two JSON documents, and whether they are equal.
EQUAL_OR_NOT = [
    ("null", "null", True),
    ("null", "Infinity", False),
    ("null", "NaN", False),
    ("null", "0", False),
    ("null", "false", False),
    ('{"a": null}', "{}", False),
    ("NaN", "NaN", True),
    ("NaN", '"NaN"', False),
    ("NaN", "Infinity", False),
    ("Infinity", "Infinity", True),
    ("Infinity", "-Infinity", False),
    ("Infinity", '"Infinity"', False),
    ("Infinity", "1e400", False),
    ("1e400", "1e500", False),
    ("1e400", '"1e400"', False),
    ("[NaN, -Infinity]", "[NaN,-Infinity]", True),
    ("1", "1.0", True),
    ("1", "true", False),
    ("0", "false", False),
    ("1.0", "true", False),
    ("0", "-0.0", True),
    ("100", "1e2", True),
    ("9007199254740993", "9007199254740992.0", False),
    ('"1"', "1", False),
    ('"a"', '"\\u0061"', True),
    ("[]", "{}", False),
    ("[]", "null", False),
    ("[null]", "[]", False),
    ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
]


@pytest.mark.parametrize("depth", [0, 1, 150], ids=["top", "in a list", "below the limit of depth"])
@pytest.mark.parametrize(("left", "right", "equal"), EQUAL_OR_NOT)
def test_values_are_equal_by_type_and_numbers_by_value(
    left: str, right: str, equal: bool, depth: int
) -> None:
    one, other = (
        ResponseParts(200, JSON, f"{'[' * depth}{text} {']' * depth}".encode()) for text in (left, right)
    )
    for sides in ((one, other), (other, one)):
        assert (differences(*sides) == []) is equal
        assert differences(*sides, IgnoreRules.parse(["$"])) == []


def comparable(value: Any) -> object:
    """A value that Python's == compares as JSON values are compared: by itself, it takes True for 1, and one
    NaN for different from another."""
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if isinstance(value, bool) or value != value:
        return repr(value), type(value)
    return value


@given(documents, documents)
@example(None, math.inf)
@example(None, math.nan)
@example(math.nan, "NaN")
@example([math.inf], ["Infinity"])
@example(1, True)
@example(1, 1.0)
@example(0.0, -0.0)
@example({"a": None}, {})
def test_documents_differ_exactly_where_they_are_not_equal(left: Any, right: Any) -> None:
    assert bodies(left, left) == []
    assert bodies(left, right, "$") == []
    assert (bodies(left, right) == []) is (comparable(left) == comparable(right))
