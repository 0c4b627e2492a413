"""Reports of traced requests: joined, bounded, and shown as text."""

import json

import pytest

from devroute.agent.trace import with_trace_headers
from devroute.agent.trace_report import TraceResult, describe, missing_services
from devroute.errors import ConfigInvalid
from devroute.routing import trace
from devroute.routing.trace import MAX_HOPS, MAX_SERVICES, MAX_TRACES, KnownServices, Reports, Traces

ID = "0123456789abcdef" * 2
CONTRACT = '{"foo": "alice", "bar.shop": "bob", "baz": "version:v2"}'


def report(service: str, result: str = "service", trace: str = ID, **more: str) -> dict[str, str]:
    headers = {
        "x-devroute-trace": trace,
        "x-devroute": CONTRACT,
        "x-devroute-candidates": f"{service},{service}-v1",
        "x-devroute-result": result,
    }
    return headers | {f"x-devroute-{key}": value for key, value in more.items()}


def test_a_chain_is_described_in_order_with_what_answered_each_hop() -> None:
    traces = Traces()
    traces.add_hop(report("front"), 10.0)
    traces.add_hop(report("foo", "laptop", matched="foo"), 10.005)
    traces.add_response(ID, "foo", "alice", 200, "laptop", "", 0.04, 10.046)
    front, foo = traces.hops(ID)
    assert (front.service, front.at_ms, front.took_ms) == ("front", 0.0, None)
    assert (foo.service, foo.target, foo.status, foo.took_ms) == ("foo", "alice", 200, 40.0)
    assert describe(TraceResult(ID, [front, foo], ["bar", "front"], 50, 0)) == [
        f"trace {ID}: 2 hops, 50 ms",
        "     +0 ms  front  service",
        "     +5 ms  foo    laptop    alice answered 200 after 40 ms",
        "alice's laptop answered at 'foo';"
        " 'bar.shop' was not called, or 'foo' passes on neither x-devroute nor baggage nor traceparent;"
        " no service on the way was 'baz'; did you mean 'bar'?",
    ]


def test_the_proxys_report_may_arrive_before_the_sidecars_or_alone() -> None:
    traces = Traces()
    traces.add_response(ID, "foo", "alice", 502, "error", "alice refused the connection", 0.001, 10.0)
    (alone,) = traces.hops(ID)
    assert (alone.service, alone.result, alone.reason) == ("foo", "error", "alice refused the connection")
    traces.add_hop(report("foo", "laptop", matched="foo"), 10.001)
    (both,) = traces.hops(ID)
    assert (both.contract, both.status, both.result) == (CONTRACT, 502, "error")


def test_reports_that_reached_other_replicas_are_joined_by_their_ages() -> None:
    here, there = Traces(), Traces()
    there.add_hop(report("front"), 510.0)  # another clock
    here.add_hop(report("foo", "laptop", matched="foo"), 10.005)
    there.add_response(ID, "foo", "alice", 200, "laptop", "", 0.03, 510.04)
    others = there.reports(ID, 511.0)
    front, foo = here.hops(ID, 11.0, [Reports.decode(others.encode())])
    assert (front.service, front.at_ms) == ("front", 0.0)
    assert (foo.service, foo.at_ms, foo.status, foo.took_ms) == ("foo", 5.0, 200, 30.0)
    assert here.hops("f" * 32, 11.0, []) == []
    there.announce("e" * 32, 400.0)
    assert there.reports("e" * 32, 511.0) == there.reports("f" * 32, 511.0) == Reports()


def test_each_response_belongs_to_one_hop() -> None:
    traces = Traces()
    for number in range(2):
        traces.add_hop(report("foo", "laptop"), 10.0 + number)
        traces.add_response(ID, "foo", "alice", 200 + number, "laptop", "", 0.1, 10.2 + number)
    traces.add_hop(report("foo", "fallback"), 13.0)
    assert [hop.status for hop in traces.hops(ID)] == [200, 201, None]


def test_no_contract_is_lost_where_every_named_service_received_it() -> None:
    traces = Traces()
    for service in ("foo", "bar", "baz"):
        traces.add_hop(report(service), 1.0)
    assert missing_services(traces.hops(ID), []) == []


def test_without_a_hop_the_text_names_what_to_check() -> None:
    assert "is the X-devroute header set" in describe(TraceResult(ID, [], [], 1, 0))[1]


def test_a_report_without_a_contract_counts_only_where_a_client_waits_for_the_trace() -> None:
    traces, found = Traces(), report("foo", trace_source="traceparent")
    found = {key.replace("_", "-"): value for key, value in found.items() if key != "x-devroute"}
    traces.add_hop(found, 1.0)
    assert traces.hops(ID) == []
    traces.announce(ID, 2.0)
    traces.add_hop(found, 3.0)
    (hop,) = traces.hops(ID)
    assert (hop.names, hop.contract, hop.by_traceparent, hop.at_ms) == (("foo", "foo-v1"), "", True, 0.0)


def test_what_a_contract_came_by_and_the_client_reach_other_replicas_and_harm_no_older_one() -> None:
    traces = Traces()
    given = report("foo") | {"x-devroute-carriers": "baggage,tracestate", "user-agent": "Go-http-client/1.1"}
    traces.add_hop(given, 1.0)
    traces.add_hop(report("bar"), 1.0)
    passed = Reports.decode(traces.reports(ID, 2.0).encode())
    assert [(hop.carriers, hop.client) for hop in passed.hops] == [
        (("baggage", "tracestate"), "Go-http-client/1.1"),
        ((), ""),
    ]
    document = json.loads(traces.reports(ID, 2.0).encode())
    assert not {"carriers", "client"} & {*document["hops"][0]}
    del document["beside"]
    assert Reports.decode(json.dumps(document).encode()).hops[0].carriers == ()
    flood = report("foo") | {"x-devroute-carriers": ",".join("x" * 300), "user-agent": "y" * 5000}
    traces.add_hop(flood, 3.0)
    assert len(traces.hops(ID)[-1].client) == 256
    assert len(traces.hops(ID)[-1].carriers) <= 128


def test_a_response_that_failed_over_is_the_services() -> None:
    traces = Traces()
    traces.add_hop(report("foo", "laptop", matched="foo"), 10.0)
    traces.add_response(ID, "foo", "alice", 200, "service", "", 0.1, 10.2)
    assert [hop.result for hop in traces.hops(ID)] == ["service"]


def test_known_services_are_bounded() -> None:
    services = KnownServices()
    services.add(["x" * 1000])
    for number in range(MAX_SERVICES + 1):
        services.add(["foo", f"s{number}"])
    assert len(list(services)) == MAX_SERVICES
    assert list(services)[-1] == f"s{MAX_SERVICES}"


@pytest.mark.parametrize("trace", ["", "x" * 32, ID + "0", ID.upper()])
def test_a_report_with_a_malformed_id_is_not_kept(trace: str) -> None:
    traces = Traces()
    traces.add_hop(report("foo", trace=trace), 1.0)
    traces.add_response(trace, "foo", "alice", 200, "laptop", "", 0.1, 1.0)
    assert traces.hops(trace) == []


def test_a_flood_is_bounded_in_hops_traces_text_and_time() -> None:
    traces = Traces()
    for _ in range(MAX_HOPS + 10):
        traces.add_hop(report("f" * 1000, reason="r" * 1000), 1.0)
    hops = traces.hops(ID)
    assert (len(hops), len(hops[0].service), len(hops[0].reason)) == (MAX_HOPS, 256, 256)
    for number in range(MAX_TRACES):
        traces.add_hop(report("foo", trace=f"{number:032x}"), 2.0)
    assert traces.hops(ID) == [], "the oldest trace was evicted"
    traces.add_hop(report("foo"), 2.0 + trace.KEPT_SECONDS)
    assert len(traces.hops(ID)) == 1
    assert traces.hops(f"{MAX_TRACES - 1:032x}") == []


def test_a_flood_of_large_contracts_is_bounded_in_bytes() -> None:
    traces = Traces()
    for number in range(MAX_TRACES * 20):
        hop = report("foo", trace=f"{number % MAX_TRACES:032x}") | {"x-devroute": "c" * 60_000}
        traces.add_hop(hop, 1.0)
        assert traces.size <= trace.MAX_BYTES
    kept = [hop for number in range(MAX_TRACES) for hop in traces.hops(f"{number:032x}")]
    assert 1000 < len(kept) < trace.MAX_BYTES / trace.MAX_CONTRACT
    assert {len(hop.contract) for hop in kept} == {trace.MAX_CONTRACT}


def test_a_flood_of_long_texts_is_bounded_in_bytes() -> None:
    traces, long = Traces(), "t" * trace.MAX_TEXT
    names = {"x-devroute-candidates": " ".join(f"{number}{long}" for number in range(trace.MAX_NAMES))}
    texts = dict.fromkeys(("x-devroute-namespace", "x-devroute-result", "x-request-id"), long)
    for number in range(9000):
        traces.add_hop(report("foo", trace=f"{number % MAX_TRACES:032x}") | names | texts, 1.0)
    kept = [hop for number in range(MAX_TRACES) for hop in traces.hops(f"{number:032x}")]
    size = sum(len(text) for hop in kept for text in (*hop.names, hop.namespace, hop.result, hop.request_id))
    assert trace.MAX_BYTES / 2 < size <= trace.MAX_BYTES


def test_a_malformed_contract_names_no_services() -> None:
    traces = Traces()
    traces.add_hop(report("foo") | {"x-devroute": "nonsense"}, 1.0)
    assert missing_services(traces.hops(ID), []) == []


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (["/usr/bin/curl", "-s", "x"], ["--header", f"x-devroute-trace: {ID}"]),
        (["http", "GET", "x"], [f"x-devroute-trace:{ID}"]),
    ],
)
def test_known_programs_get_the_trace_headers_as_arguments(command: list[str], more: list[str]) -> None:
    assert with_trace_headers(command, ID)[: len(command) + len(more)] == command + more


@pytest.mark.parametrize("command", [[], ["python", "x"]])
def test_other_programs_are_refused(command: list[str]) -> None:
    with pytest.raises(ConfigInvalid):
        with_trace_headers(command, ID)
