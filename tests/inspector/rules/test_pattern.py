"""Which requests a rule matches."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.message import Framing, RequestHead
from devroute.inspector.rules.pattern import MAX_STARS, Condition, text_test
from tests.support.cpu_time import cpu_seconds

WIRE = b"POST /api/orders/7?x=1 HTTP/1.1\r\nhost: b\r\nX-Tenant:  acme-eu \r\nx-tenant: other\r\n\r\n"
HEAD = RequestHead(b"POST", b"/api/orders/7?x=1", Framing.NONE, 0, WIRE)


@pytest.mark.parametrize(
    ("methods", "path", "headers", "expected"),
    [
        ((), "*", {}, True),
        (("POST",), "*", {}, True),
        (("GET", "PUT"), "*", {}, False),
        ((), "/api/orders/7", {}, True),
        ((), "/api/orders", {}, False),
        ((), "/api/", {}, True),
        ((), "/api/*/7", {}, True),
        ((), "/api/*/8", {}, False),
        ((), "*/7", {}, True),
        ((), "*/7?x=1", {}, False),
        ((), "*", {"x-tenant": "acme-*"}, True),
        ((), "*", {"x-tenant": "other"}, True),
        ((), "*", {"x-tenant": "acme"}, False),
        ((), "*", {"host": "b", "x-tenant": "other"}, True),
        ((), "*", {"host": "c", "x-tenant": "other"}, False),
        ((), "*", {"tenant": "*"}, False),
    ],
)
def test_a_request_matches_if_all_conditions_hold(
    methods: tuple[str, ...], path: str, headers: dict[str, str], expected: bool
) -> None:
    assert Condition(methods, path, tuple(headers.items())).matches(HEAD) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_star_is_any_text(pattern: str, text: str) -> None:
    assert text_test(pattern)(text.encode()) is fnmatch.fnmatchcase(text, pattern)


def test_the_worst_pattern_takes_linear_time() -> None:
    test = text_test("a*" * MAX_STARS + "b")
    text = b"a" * 64 * 1024
    head = RequestHead(
        b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\r\nx: a" + b" " * 60_000 + b"b\r\n\r\n"
    )
    condition = Condition((), "*", (("x", "c"),))
    assert not test(text)
    assert not condition.matches(head)
    assert cpu_seconds(lambda: test(text)) + cpu_seconds(lambda: condition.matches(head)) < 0.1
