"""What is kept of traced requests, and how it is told. Pure."""

import pytest

from devroute.agent.trace import with_trace_headers
from devroute.errors import ConfigInvalid
from devroute.routing import trace
from devroute.routing.trace import MAX_HOPS, MAX_TRACES, Traces, describe, unreached_services

ID = "0123456789abcdef" * 2
CONTRACT = '{"foo": "alice", "bar.shop": "bob", "baz": "version:v2"}'


def word(service: str, result: str = "service", trace: str = ID, **more: str) -> dict[str, str]:
    told = {
        "x-devroute-trace": trace,
        "x-devroute": CONTRACT,
        "x-devroute-candidates": f"{service},{service}-v1",
        "x-devroute-result": result,
    }
    return told | {f"x-devroute-{key}": value for key, value in more.items()}


def test_a_chain_is_told_in_its_order_with_who_answered() -> None:
    trails = Traces()
    trails.seen(word("front"), 10.0)
    trails.seen(word("foo", "laptop", matched="foo"), 10.005)
    trails.answered(ID, "foo", "alice", 200, "", 0.04, 10.046)
    front, foo = trails.hops(ID)
    assert (front.service, front.at_ms, front.took_ms) == ("front", 0.0, None)
    assert (foo.service, foo.target, foo.status, foo.took_ms) == ("foo", "alice", 200, 40.0)
    assert describe(ID, [front, foo], 50) == [
        f"trace {ID}: 2 hops, 50 ms",
        "     +0 ms  front  service",
        "     +5 ms  foo    laptop    alice answered 200 after 40 ms",
        "the contract was lost at 'foo': it names bar.shop, baz too, where it has not arrived."
        " Does foo call on, and pass on baggage or all headers that begin with x-devroute?",
    ]


def test_the_proxys_word_may_come_before_the_sidecars_or_alone() -> None:
    trails = Traces()
    trails.answered(ID, "foo", "alice", 502, "alice refused the connection", 0.001, 10.0)
    (alone,) = trails.hops(ID)
    assert (alone.service, alone.result, alone.reason) == ("foo", "error", "alice refused the connection")
    trails.seen(word("foo", "laptop", matched="foo"), 10.001)
    (both,) = trails.hops(ID)
    assert (both.contract, both.status, both.result) == (CONTRACT, 502, "error")


def test_each_answer_belongs_to_one_hop() -> None:
    trails = Traces()
    for number in range(2):
        trails.seen(word("foo", "laptop"), 10.0 + number)
        trails.answered(ID, "foo", "alice", 200 + number, "", 0.1, 10.2 + number)
    trails.seen(word("foo", "fallback"), 13.0)
    assert [hop.status for hop in trails.hops(ID)] == [200, 201, None]


def test_nothing_is_lost_where_all_that_are_named_have_seen_it() -> None:
    trails = Traces()
    for service in ("foo", "bar", "baz"):
        trails.seen(word(service), 1.0)
    assert unreached_services(trails.hops(ID)) == []
    assert "lost" not in "".join(describe(ID, trails.hops(ID), 1))


def test_without_a_hop_it_says_what_to_look_for() -> None:
    assert "is there an X-devroute header" in describe(ID, [], 1)[1]


@pytest.mark.parametrize("trace", ["", "x" * 32, ID + "0", ID.upper()])
def test_what_is_no_id_is_not_kept(trace: str) -> None:
    trails = Traces()
    trails.seen(word("foo", trace=trace), 1.0)
    trails.answered(trace, "foo", "alice", 200, "", 0.1, 1.0)
    assert trails.hops(trace) == []


def test_a_flood_is_bounded_in_hops_traces_text_and_time() -> None:
    trails = Traces()
    for _ in range(MAX_HOPS + 10):
        trails.seen(word("f" * 1000, reason="r" * 1000), 1.0)
    hops = trails.hops(ID)
    assert (len(hops), len(hops[0].service), len(hops[0].reason)) == (MAX_HOPS, 256, 256)
    for number in range(MAX_TRACES):
        trails.seen(word("foo", trace=f"{number:032x}"), 2.0)
    assert trails.hops(ID) == [], "the oldest made room"
    trails.seen(word("foo"), 2.0 + trace.KEPT_SECONDS)
    assert len(trails.hops(ID)) == 1
    assert trails.hops(f"{MAX_TRACES - 1:032x}") == []


def test_a_contract_that_is_none_names_nobody() -> None:
    trails = Traces()
    trails.seen(word("foo") | {"x-devroute": "nonsense"}, 1.0)
    assert unreached_services(trails.hops(ID)) == []


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (["/usr/bin/curl", "-s", "x"], ["--header", f"x-devroute-trace: {ID}"]),
        (["http", "GET", "x"], [f"x-devroute-trace:{ID}"]),
    ],
)
def test_known_programs_are_given_the_mark(command: list[str], more: list[str]) -> None:
    assert with_trace_headers(command, ID, "s")[: len(command) + len(more)] == command + more


@pytest.mark.parametrize("command", [[], ["python", "x"]])
def test_other_programs_are_refused(command: list[str]) -> None:
    with pytest.raises(ConfigInvalid):
        with_trace_headers(command, ID, "s")
