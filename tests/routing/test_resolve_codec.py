"""The body of a /resolve response: what the reference reader refuses, as sidecars do."""

import pytest

from devroute.routing.decision import Decision
from devroute.routing.resolve_codec import MAX_BYTES, encode
from tests.support.resolve_reader import decode

DETOUR = "devroute 1\ndecision detour\nservice foo\nttl 1000\n"


def test_a_body_is_read_as_it_was_written() -> None:
    assert encode(Decision("service")) == b"devroute 1\ndecision service\nttl 1000\ntrace yes\n"
    assert decode(DETOUR.encode()) == {"decision": ["detour"], "service": ["foo"], "ttl": ["1000"]}


def test_only_copy_lines_are_repeated() -> None:
    assert decode(b"devroute 1\ndecision copy\nservice foo\ncopy a 1 GET\ncopy b 2 GET\n")["copy"] == [
        "a 1 GET",
        "b 2 GET",
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "version"),
        (DETOUR.replace("devroute 1", "devroute 2"), "version"),
        (DETOUR.removesuffix("\n"), "version"),
        (DETOUR + "reason " + "a" * MAX_BYTES + "\n", "too long"),
        (DETOUR + "service bar\n", "repeated"),
        (DETOUR.replace("foo", "foo\r"), "malformed line"),
        (DETOUR + "Path /\n", "malformed line"),
        (DETOUR.replace("ttl 1000", "ttl 10000"), "malformed ttl"),
        (DETOUR + "percent 100.1\n", "malformed percent"),
        (DETOUR + "timeout 1.5\n", "malformed timeout"),
        (DETOUR.replace("detour", "maybe"), "unknown decision"),
        (DETOUR.replace("service foo\n", ""), "without service"),
        ("devroute 1\ndecision error\nstatus 200\nreason a\nbody {}\n", "malformed status"),
        ("devroute 1\ndecision error\nstatus 503\n", "without reason, body"),
    ],
)
def test_a_body_that_sidecars_do_not_accept_is_refused_with_its_reason(body: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(body.encode())
