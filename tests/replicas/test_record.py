"""What replicas write about themselves and their laptops: read as written, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address
from devroute.replicas.record import (
    MAX_PROCESSES,
    MAX_REPLICA,
    MAX_VALUE,
    ReplicaRecord,
    decode_processes,
    decode_replica,
    encode_processes,
    split_place,
)
from devroute.routing.registration import Registration
from devroute.tunnel.protocol.handshake import Hello, Offer
from tests.support.examples import examples
from tests.support.paths import VECTORS

REPLICA = ReplicaRecord(
    id="0123456789abcdef",
    data="10.0.3.7:8080",
    peer="[fd00::7]:8082",
    version="1.0.0",
    started=1.5,
    certificate=b"\xff\x00",
)


def process(*services: Offer, name: str = "alice", tickets: dict[str, str] | None = None) -> Registration:
    hello = Hello(
        agent="1", name=name, services=services or (Offer(service="foo"),), instance="ff", link=1, beside=True
    )
    link = None
    return Registration("alice", "alice", link, hello, 1.5, generation=7, tickets=tickets or {})  # type: ignore[arg-type]


def test_a_replica_is_read_as_it_was_written() -> None:
    assert decode_replica(REPLICA.encode()) == REPLICA


def test_a_process_is_read_as_it_was_written_with_its_terms() -> None:
    shadow = Offer(service="foo", direct=Address("10.0.0.5", 8001), terms=OfferOptions(shadow=25.0))
    written = process(shadow, Offer(service="bar.shop", scheme="grpc"), tickets={"foo": "a" * 32})
    (read,) = decode_processes("alice", encode_processes([written]))
    assert (read.hello, read.generation, read.since) == (written.hello, 7, 1.5)
    assert read.tickets == {"foo": "a" * 32}


RECORDS = {
    "replica": json.loads(REPLICA.encode()),
    "processes": json.loads(
        encode_processes(
            [
                process(
                    Offer(service="foo", direct=Address("10.0.0.5", 8001), terms=OfferOptions(shadow=25.0)),
                    Offer(service="bar.shop", scheme="grpc"),
                    tickets={"foo": "a" * 32},
                )
            ]
        )
    ),
}


def with_more(value: Any) -> Any:
    """As a newer release may write it: with members that this one does not know, but for terms."""
    if isinstance(value, list):
        return [with_more(each) for each in value]
    if not isinstance(value, dict):
        return value
    closed = ("terms", "tickets")
    return {key: each if key in closed else with_more(each) for key, each in value.items()} | {"newer": [1]}


def test_records_are_written_as_the_vectors_have_them() -> None:
    """REGISTRY.md; a change that replicas of before would refuse takes another `format`."""
    assert json.loads((VECTORS / "registry.json").read_text()) == RECORDS


@pytest.mark.parametrize("file", sorted(VECTORS.glob("**/registry.json")), ids=lambda each: each.parent.name)
@pytest.mark.parametrize("change", [lambda value: value, with_more], ids=["as it is", "with more"])
def test_records_of_this_release_and_the_one_before_are_read(
    file: Path, change: Callable[[Any], Any]
) -> None:
    found = change(json.loads(file.read_text()))
    assert decode_replica(json.dumps(found["replica"]).encode()) == REPLICA
    (read,) = decode_processes("alice", json.dumps(found["processes"]).encode())
    assert [each.service for each in read.hello.services] == ["foo", "bar.shop"]
    assert (read.subject, read.generation, read.tickets) == ("alice", 7, {"foo": "a" * 32})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"id": "x"},
        {"data": "proxy.devroute:8080"},
        {"data": "10.0.3.7"},
        {"data": "010.0.3.7:8080"},
        {"data": "10.0.3.7:0"},
        {"peer": "10.0.3.7:99999"},
        {"certificate": "not base64!"},
        {"certificate": None},
        {"version": "a\nb"},
    ],
    ids=repr,
)
def test_a_replica_that_none_would_write_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which rule it breaks is pydantic's to say
        decode_replica(json.dumps(json.loads(REPLICA.encode()) | change).encode())
    with pytest.raises(ValueError, match="long"):
        decode_replica(b" " * MAX_REPLICA + REPLICA.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "bob"},
        {"subject": "al--ice"},
        {"generation": -1},
        {"generation": 1 << 70},
        {"since": 1e300},
        {"hello": {"agent": "1", "services": []}},
        {"hello": {"agent": "1", "services": [{"service": "foo", "terms": {"shadow": 25}}]}},
        {"tickets": {"foo": "short"}},
    ],
    ids=repr,
)
def test_a_process_that_none_would_write_is_refused(change: dict[str, object]) -> None:
    (written,) = json.loads(encode_processes([process()]))
    with pytest.raises(ValueError):  # noqa: PT011
        decode_processes("alice", json.dumps([written | change]).encode())


def test_there_are_limits_of_size_and_number() -> None:
    with pytest.raises(ValueError, match="long"):
        decode_processes("alice", b" " * MAX_VALUE + b"[]")
    with pytest.raises(ValueError, match="at most"):
        decode_processes("alice", encode_processes([process()] * (MAX_PROCESSES + 1)))


@given(st.binary(max_size=200))
@examples(50)
def test_any_bytes_are_records_or_refused(raw: bytes) -> None:
    for decode in (lambda: decode_processes("alice", raw), lambda: decode_replica(raw)):
        try:
            decode()
        except ValueError:
            continue


@pytest.mark.parametrize(("host", "place"), [("10.0.3.7", "10.0.3.7:80"), ("fd00::7", "[fd00::7]:80")])
def test_a_place_has_the_form_in_which_envoy_knows_hosts(host: str, place: str) -> None:
    assert str(Address(host, 80)) == place
    assert split_place(place) == (host, 80)
