import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.target import Address
from devroute.errors import ProtocolError
from devroute.tunnel.protocol.handshake import Hello, Offer, Welcome, decode
from tests.support.examples import examples

GOOD: dict[str, Any] = {"version": 1, "agent": "0.1.0", "name": None, "services": [{"service": "foo"}]}


def test_hello_and_welcome_survive_the_wire() -> None:
    offers = (Offer(service="foo"), Offer(service="bar", scheme="grpc", direct=Address("fd00::1", 9000)))
    hello = Hello(agent="0.1.0", name="alice-2", services=offers)
    assert decode(Hello, hello.encode()) == hello
    entries = {"shop": "https://shop.example/x"}
    for welcome in (
        Welcome(server="0.1.0", name="alice"),
        Welcome(server="0.1.0", name="alice", entries=entries, entry_links=True),
    ):
        assert decode(Welcome, welcome.encode()) == welcome


@pytest.mark.parametrize(
    "entries", [None, [], "https://x", {"a": "https://x/;rm"}, {"a": "file:///x"}, {"a": 1}]
)
def test_entries_that_cannot_be_printed_are_ignored(entries: object) -> None:
    body = {"version": 1, "server": "9", "name": "alice", "entries": entries}
    assert "a" not in decode(Welcome, json.dumps(body).encode()).entries


@pytest.mark.parametrize("name", ["x & calc.exe", "a\x1b]0;b", "Alice", ""])
def test_no_name_of_a_server_gets_into_a_command_that_people_paste(name: str) -> None:
    with pytest.raises(ProtocolError, match="WELCOME: name"):
        decode(Welcome, json.dumps({"version": 1, "server": "9", "name": name}).encode())


def test_what_a_newer_peer_adds_is_ignored() -> None:
    assert decode(Hello, json.dumps(GOOD | {"colour": "red"}).encode()).services[0].service == "foo"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"version": 2}, "upgrade the server"),
        ({"version": 0}, "upgrade the agent"),
        ({"name": "Alice"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"agent": "x" * 65}, "agent"),
        ({"agent": "\x1b[31m"}, "agent"),
        ({"services": []}, "services"),
        ({"link": 2}, "link"),
        ({"link": -1}, "link"),
        ({"services": [{"service": f"s{n}"} for n in range(65)]}, "services"),
        ({"services": [{"service": "foo"}, {"service": "foo"}]}, "twice"),
        ({"services": [{"service": "no such name"}]}, "services.0.service"),
        ({"services": [{"service": "foo", "direct": "10.0.0.1"}]}, "services.0.direct"),
        ({"services": [{"service": "foo", "direct": {"host": "b\r\nc", "port": 80}}]}, "services.0.direct"),
        ({"services": [{"service": "foo", "direct": ["b", 80]}]}, "services.0.direct"),
        ({"services": [{"service": "foo", "scheme": "ftp"}]}, "services.0.scheme"),
        ({"services": [{"service": "foo", "terms": {"paths": [["/a"]]}}]}, "services.0.terms"),
    ],
)
def test_a_wrong_hello_is_an_error_that_names_the_field(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ProtocolError, match="HELLO") as caught:
        decode(Hello, json.dumps(GOOD | change).encode())
    assert place in caught.value.message


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{" * 10_000])
def test_what_is_no_json_object_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="HELLO"):
        decode(Hello, body)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@examples(100)
@given(
    st.sampled_from(["service", "scheme", "direct", "terms"])
    | st.sampled_from(["paths", "except_status", "except_methods", "shadow", "shadow_methods"]),
    ANYTHING,
)
def test_whatever_an_offer_holds_it_is_read_or_refused(name: str, value: object) -> None:
    offer = {"service": "foo"} | (
        {name: value} if name in ("service", "scheme", "direct", "terms") else {"terms": {name: value}}
    )
    with contextlib.suppress(ProtocolError):
        decode(Hello, json.dumps(GOOD | {"services": [offer]}).encode())
