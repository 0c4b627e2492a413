"""The vectors of routing/SIDECAR.md, run by the sidecar's Lua."""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.grammar import MAX_ENTRIES, parse
from devroute.contract.path import read_target
from devroute.contract.trace_id import split_trace, with_trace
from devroute.errors import ContractInvalid
from devroute.headers import BAGGAGE_CONTRACT, BAGGAGE_VIA
from devroute.http.baggage import MAX_READ_BYTES, member_value, with_member
from devroute.http.carriers import KNOWN, carried_contract, header_of, read_slot
from devroute.http.trace_state import state_value
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_source, front_source
from devroute.routing.decision import Decision
from devroute.routing.resolve_codec import encode
from tests.contract.test_path import PATHS
from tests.lua.test_edge_linear import python_of
from tests.lua.worker import CONTROL, SETTINGS, Handle, Worker, exports, runtime
from tests.support.carriers import with_state
from tests.support.examples import examples
from tests.support.paths import VECTORS
from tests.support.repeated import spelled_out
from tests.support.vectors import vectors

DECIDE, RULE = exports("text, path, random, caller, identity, lines, resolve, rule", "rule_of", "parse_lines")
_, PATH = exports("text, path", "path_of")
SHADOW_SOURCE = lua.source("shadow", SETTINGS=SETTINGS) + "return { assignment_of = assignment_of }"
_, SHADOW = runtime(SHADOW_SOURCE)


@pytest.mark.parametrize("case", vectors("resolve.json"), ids=lambda case: repr(case["lines"][:60]))
def test_a_response_of_resolve_means_the_same_to_the_lua(case: dict[str, Any]) -> None:
    is_copy = "\ndecision copy\n" in case["lines"]
    read = SHADOW.assignment_of if is_copy else RULE.rule_of
    result = read(case["lines"])
    if "error" in case:
        assert result is (False if is_copy else None)
        return
    values, copies, ttl = RULE.parse_lines(case["lines"], "copy")
    means = dict(case["means"])
    assert list(copies.values()) == means.pop("copy", [])
    assert {key: [value] for key, value in values.items()} == means
    assert ttl == min(1000, int(means.get("ttl", ["0"])[0]))
    rule, holds = result
    assert holds == ttl
    if not is_copy:
        assert rule.decision == means["decision"][0]


@pytest.mark.parametrize("case", vectors("contract_key.json"), ids=lambda case: case["contract"])
def test_the_lua_asks_about_every_contract_that_has_a_key_of_the_service(case: dict[str, Any]) -> None:
    _, identity = exports("identity", "identity_of", "may_concern")
    asks = [
        identity.may_concern(case["contract"], identity.identity_of(name, case["namespace"], "").needles)
        for name in case["candidates"]
    ]
    assert any(asks) is case["asks"]


# --- whether a contract is valid ----------------------------------------------------------------------------

_, PLAIN = exports("plain", "is_plain")
CONTRACTS = json.loads((VECTORS / "contracts.json").read_text())


@pytest.mark.parametrize("case", CONTRACTS["valid"], ids=lambda case: case["contract"][:60])
def test_no_valid_contract_is_refused_and_only_plain_ones_are_not_asked_about(case: dict[str, Any]) -> None:
    assert PLAIN.is_plain(case["contract"]) is case["plain"]
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "unnamed"})
    worker.response = worker.responds(encode(Decision("service")).decode())
    handles = [worker.request(case["contract"]) for _ in range(2)]
    assert [(handle.responded, handle["result"]) for handle in handles] == [(None, "service")] * 2
    if case["contract"][0] == "{" and "\\" not in case["contract"]:
        assert len(worker.asked) == (0 if case["plain"] else 1)


@pytest.mark.parametrize("case", CONTRACTS["invalid"], ids=lambda case: repr(case["contract"][:60]))
def test_no_invalid_contract_is_plain_so_that_a_service_which_it_does_not_name_refuses_it(
    case: dict[str, Any],
) -> None:
    contract = case["contract"].encode().decode("latin-1")
    assert PLAIN.is_plain(contract) is False
    with pytest.raises(ContractInvalid) as caught:
        parse(case["contract"])
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "unnamed"})
    worker.response = worker.responds(
        encode(Decision("error", reason=caught.value.message, error=caught.value)).decode()
    )
    handle = worker.request(contract)
    assert handle.responded is not None
    headers, body = handle.responded
    assert (headers[":status"], json.loads(body)) == ("400", caught.value.as_dict())


#: Names, targets and options at the borders of what is valid, many of them beyond.
NAMES = ["a", "b.c", "x-1", "A", "b.c.d", "a-", ".a", "", "f" * 63, "f" * 64, "a_b"]
TARGETS = [
    *(
        "alice",
        "a-",
        "version:v2",
        "version:2.x_y-",
        "v:08",
        "10.0.0.1:80",
        "10.0.0.256:80",
        "1.2.3:4",
        "a.b",
    ),
    *("01.2.3.4:5", "h.example:65535", "h.example:65536", "h.:1", "0x1:1", "h.0x:1", "a_b:1", "[::1]:1", "A"),
    *("a:0", "", "version:", "1.2.3.4.5:6", "a..b:1", f"{'f' * 64}:1", f"{'f.' * 127}ff:1", "8001", "8001:1"),
]
OPTIONS = [
    *(
        'methods="GET"',
        'methods=["GET","HEAD"]',
        'methods="get"',
        "methods=[]",
        'methods=["GET",]',
        "abort=599",
    ),
    *('path="/a/"', 'path="/"', 'path="/a/../b"', 'path="/a//b"', 'path="/a%2f"', 'path="/a?b"', 'path="a"'),
    *(
        'from="shop/web"',
        'from=["spiffe://x/y"]',
        'from="spiffe://a,b"',
        'from="web"',
        "percent=0",
        "abort=600",
    ),
    *(
        "percent=100",
        "percent=100.1",
        "percent=12.5",
        "percent=012",
        "percent=1.",
        "percent=1e1",
        "percent=-1",
    ),
    *("mirror=true", "mirror=false", "mirror=1", 'fallback="fail"', 'fallback="service"', 'fallback="no"'),
    *("timeout=3600", "timeout=3601", 'timeout="3s"', 'timeout="0s"', 'timeout="1h"', 'timeout="3601s"'),
    *('delay="500ms"', "delay=0.5", "delay=0", "abort=200", "abort=199", "abort=5030", 'to="bob"', "other=1"),
    *(
        f"methods={json.dumps(['GET'] * 17)}",
        f'methods="{"G" * 33}"',
        f'path="/{"a" * 1024}"',
        "percent=0" * 9,
    ),
]


def assert_never_plain_and_invalid(contracts: Iterable[str], *, plain: int) -> None:
    """`plain`: how many are plain at least, so that the test says something."""
    seen = 0
    for contract in contracts:
        if PLAIN.is_plain(contract.encode().decode("latin-1")):
            parse(contract)  # does not raise
            seen += 1
    assert seen >= plain


def test_whatever_the_lua_takes_for_valid_the_grammar_accepts() -> None:
    single = [json.dumps({name: target}) for name in NAMES for target in TARGETS]
    pairs = [json.dumps({"a": "x", "b": target}) for target in TARGETS]
    assert_never_plain_and_invalid(single + pairs, plain=25)
    members = ['"{}": {}'.format(*each.split("=", 1)) for each in OPTIONS]
    options = [f'{{"a": {{"to": "x", {one}, {two}}}}}' for one in members for two in members]
    assert_never_plain_and_invalid([*options, *(f'{{"a": {{{each}}}}}' for each in members)], plain=300)


def test_no_contract_with_a_character_more_or_less_is_taken_for_valid_unless_it_is() -> None:
    bases = [case["contract"] for case in CONTRACTS["valid"] if case["plain"] and len(case["contract"]) < 120]
    changed = (
        base[:at] + character + base[at + (not inserted) :]
        for base in bases
        for at in range(len(base))
        for character in ("", *"\"{}[],: \t\\'aA0.-\xe9\n")
        for inserted in (False, True)
    )
    assert_never_plain_and_invalid(changed, plain=1000)


def test_the_largest_number_of_services_is_plain() -> None:
    for count, plain in [(MAX_ENTRIES, True), (MAX_ENTRIES + 1, False)]:
        assert PLAIN.is_plain(json.dumps({f"s{number}": "x" for number in range(count)})) is plain


BAGGAGE_PIECES = st.sampled_from(
    [
        "devroute",
        "devroute=",
        "%64evroute=",
        "a",
        "b=c",
        "=",
        ",",
        ",",
        ";",
        " ",
        "\t",
        "%20",
        "+",
        "x",
        "-via=",
    ]
)
_, BAGGAGE = exports("text, baggage", "member_of", "with_member")
FRONT = Worker(front_source(EdgeSettings()))
READS = pytest.mark.parametrize("case", vectors("baggage.json", "reads"), ids=lambda case: case["baggage"])


@READS
def test_the_lua_reads_members_of_baggage(case: dict[str, Any]) -> None:
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "other"})
    assert worker.request(baggage=case["baggage"]).sent("x-devroute") == case["contract"]
    _, baggage = exports("text, baggage", "member_of")
    via = baggage.member_of(case["baggage"], BAGGAGE_VIA)
    assert (via.replace("~", ", ") if via else None) == case["via"]


@READS
def test_a_waypoint_reads_the_same_contracts_in_baggage(case: dict[str, Any]) -> None:
    settings = SETTINGS | {"service": "other", "namespace": "shop", "domain": "cluster.local"}
    handle = Worker(lua.source("waypoint", SETTINGS=settings)).request(baggage=case["baggage"])
    assert handle.sent("x-devroute") == case["contract"]


@READS
def test_a_workload_of_shadow_traffic_reads_the_same_services_in_baggage(case: dict[str, Any]) -> None:
    for service in (case["via"] or "nobody").split(", "):
        settings = SETTINGS | {"service": service, "namespace": "shop", "share": "100"}
        worker = Worker(lua.source("shadow", SETTINGS=settings))
        worker.response = worker.responds(
            f"devroute 1\ndecision copy\nservice foo\ncopy {'ab' * 16} 100 GET\n"
        )
        assert worker.request(baggage=case["baggage"])["result"] == ("service" if case["via"] else "copy")


@READS
def test_no_contract_in_baggage_passes_a_closed_gateway(case: dict[str, Any]) -> None:
    handle = Worker(front_source(EdgeSettings())).request(baggage=case["baggage"])
    passed = (handle.sent("baggage") or "").encode()
    assert member_value(passed, BAGGAGE_CONTRACT.encode()) is None
    assert member_value(passed, BAGGAGE_VIA.encode()) is None


@pytest.mark.parametrize("case", vectors("baggage.json", "writes"), ids=lambda case: case["before"][:40])
def test_the_lua_sets_a_member_of_baggage(case: dict[str, Any]) -> None:
    _, baggage = exports("text, baggage", "with_member")
    assert case["member"] in (BAGGAGE_CONTRACT, BAGGAGE_VIA)
    assert baggage.with_member(case["before"], case["member"], case["value"]) == case["after"]


@examples(500)
@given(st.lists(BAGGAGE_PIECES, max_size=12).map("".join))
def test_lua_and_python_read_and_write_all_baggage_alike_and_the_gateway_removes_it(text: str) -> None:
    read, written = member_value(text.encode(), b"devroute"), with_member(text.encode(), b"devroute", b"z")
    assert BAGGAGE.member_of(text, "devroute") == (None if read is None else read.decode())
    assert BAGGAGE.with_member(text, "devroute", "z") == written.decode()
    passed = FRONT.request(baggage=text).sent("baggage") or ""
    assert member_value(passed.encode(), b"devroute") is None
    decoded = unquote_plus(passed).replace("+", " ")  # as an app may, and forward the result
    assert member_value(decoded.encode(), b"devroute") is None


# --- carriers -----------------------------------------------------------------------------------------------


def worker_of(*carriers: str) -> Worker:
    settings = SETTINGS | {"carriers": carriers}
    worker = Worker(lua.source("decide", SETTINGS=settings), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    worker.response = worker.responds("devroute 1\ndecision detour\nservice zoo\nttl 1000\n")
    return worker


EVERY = worker_of(*KNOWN, "x-acme-context")


def requested(worker: Worker, fields: dict[str, str], *contracts: str) -> Handle:
    return worker.request(*contracts, **{name.replace("-", "_"): text for name, text in fields.items()})


@pytest.mark.parametrize(
    "case", vectors("carriers.json", "reads"), ids=lambda case: str(case["headers"])[:60]
)
def test_the_lua_reads_the_first_carrier_that_has_a_contract(case: dict[str, Any]) -> None:
    handle = requested(EVERY, case["headers"])
    contract = handle.sent("x-devroute")
    assert (contract and split_trace(contract)[0]) == case["contract"]
    assert EVERY.logged == []
    if case["contract"] is None:
        assert {name: handle.sent(name) for name in case["headers"]} == case["headers"]
        return
    via = case["via"]
    assert handle.sent("x-devroute-via") == (f"{via}, zoo" if via else "zoo")
    for carrier in (*KNOWN, "x-acme-context"):
        text = (handle.sent(carrier) or "").encode()
        if len(text) <= MAX_READ_BYTES:  # else it is passed on as it is
            assert carried_contract({carrier: text}.get, ["x-acme-context"]) == case["contract"]
    waypoint = Worker(lua.source("waypoint", SETTINGS=SETTINGS | {"carriers": ("x-acme-context",)}))
    assert requested(waypoint, case["headers"]).sent("x-devroute") is not None


@pytest.mark.parametrize(
    "case", vectors("carriers.json", "writes"), ids=lambda case: str(case["before"])[:60]
)
def test_the_lua_writes_a_contract_to_the_carriers_of_its_settings(case: dict[str, Any]) -> None:
    worker = worker_of(*case["carriers"])
    worker.response = worker.responds("devroute 1\ndecision service\nttl 1000\n")
    for _ in range(2):  # the second one from memory
        handle = requested(worker, case["before"], case["contract"])
        fields = dict(handle.fields)
        names = {*KNOWN, *case["carriers"], *case["before"]}
        assert {name: fields[name] for name in names & fields.keys()} == case["after"]
        assert handle.sent("x-devroute") == case["contract"]


@pytest.mark.parametrize(
    "case", vectors("carriers.json", "reads"), ids=lambda case: str(case["headers"])[:60]
)
def test_no_contract_in_any_carrier_passes_a_closed_gateway(case: dict[str, Any]) -> None:
    front = Worker(front_source(EdgeSettings(carriers=("x-acme-context",))))
    handle = requested(front, case["headers"])
    fields = dict(handle.fields)
    for carrier in (*KNOWN, "x-acme-context"):
        text = fields.get(carrier, "").encode()
        assert read_slot(carrier, text) is None
        assert read_slot(carrier, fields.get(header_of(carrier, "via"), "").encode(), "via") is None


_, TRACE_STATE = exports("text, baggage, trace_state", "trace_state")
STATE_PIECES = st.sampled_from(
    [
        "devroute",
        "devroute=",
        "devroute-1=",
        "devroute-2=",
        "a",
        "=",
        ",",
        ",",
        ";",
        " ",
        "\t",
        "%20",
        "x" * 200,
    ]
)


@examples(300)
@given(st.lists(STATE_PIECES, max_size=12).map("".join), st.integers(0, 600))
def test_lua_and_python_read_and_write_all_tracestate_alike(text: str, size: int) -> None:
    state, value = TRACE_STATE.trace_state, "z" * size
    read, written = (
        state_value(text.encode(), b"devroute"),
        with_state(text.encode(), b"devroute", value.encode()),
    )
    assert state.value(text, "devroute") == (None if read is None else read.decode())
    assert (state["with"](text, "devroute", value) or "") == written.decode()


_, TRACE_ID = exports("text, baggage, trace", "split_trace", "with_trace")
#: Of marked contracts.
MARKED = st.lists(
    st.sampled_from(
        [
            *'{}",: \tey.',
            "devroute-trace",
            '"devroute-trace"',
            f'"{"a1" * 16}"',
            f"-devroute-trace-{'0' * 32}",
        ]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("case", vectors("trace_id.json", "reads"), ids=lambda case: case["text"])
def test_the_lua_reads_the_trace_in_a_contract(case: dict[str, Any]) -> None:
    contract, trace = TRACE_ID.split_trace(case["text"])
    assert (contract, trace) == (case["contract"], case["trace"])
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    waypoint = Worker(lua.source("waypoint", SETTINGS=SETTINGS | {"service": "foo"}))
    for each in (worker, waypoint):
        each.request(case["text"])
        assert [hop["x-devroute-trace"] for hop in each.reported] == ([trace] if trace else [])


@pytest.mark.parametrize("case", vectors("trace_id.json", "writes"), ids=lambda case: case["contract"])
def test_the_lua_writes_a_trace_into_a_contract(case: dict[str, Any]) -> None:
    assert TRACE_ID.with_trace(case["contract"], case["trace"]) == case["text"]


@pytest.mark.parametrize("case", vectors("trace_id.json", "reads")[1:3], ids=lambda case: case["text"])
def test_a_gateway_passes_the_trace_in_a_contract_but_keeps_none_in_a_cookie(case: dict[str, Any]) -> None:
    settings = EdgeSettings(networks=("0.0.0.0/0",), control=CONTROL)
    front, gate = Worker(front_source(EdgeSettings())), Worker(edge_source(settings))
    gate.response = gate.responds("devroute 1\nttl 1000\nentry all requests\n")

    def passed(**fields: str) -> Handle:
        given = {"_path": "/", "sec_fetch_site": "none", "sec_fetch_mode": "navigate"} | fields
        first = front.request(*([given.pop("contract")] if "contract" in given else []), **given)
        second = Handle(gate, first.fields)
        second.decided = {key: python_of(value) for key, value in first.decided.items()}
        return gate.handle(second)

    assert passed(contract=case["text"]).sent("x-devroute") == case["text"]
    responded = passed(_path=f"/?devroute={quote(case['text'], safe='')}").responded
    assert responded is not None
    assert case["trace"] not in responded[0]["set-cookie"]
    cookie = f"__Host-devroute={quote(case['text'], safe='')}"
    assert passed(cookie=cookie).sent("x-devroute") == case["contract"]
    assert [each["x-devroute"] for each in gate.asked] == [case["contract"]]

    gate.asked.clear()
    for trace in ("1" * 32, "2" * 32):  # not in plain form: the proxy is asked, but not for each trace
        marked = with_trace('{"foo": "al\\u0069ce"}', trace)
        assert passed(contract=marked).sent("x-devroute") == marked
    assert [each["x-devroute"] for each in gate.asked] == ['{"foo": "al\\u0069ce"}']


@examples(300)
@given(MARKED)
def test_lua_and_python_find_the_same_trace_in_all_text(text: str) -> None:
    assert TRACE_ID.split_trace(text) == split_trace(text)
    marked = with_trace(text, "ab" * 16)
    assert TRACE_ID.with_trace(text, "ab" * 16) == marked
    if marked != text and "devroute-trace" not in text:
        assert split_trace(marked) == (text, "ab" * 16)


def test_baggage_that_is_too_long_is_not_read() -> None:
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    long = "devroute=%7B%7D,a=" + "b" * MAX_READ_BYTES
    handle = worker.request(baggage=long)
    assert (handle["result"], handle.sent("x-devroute"), handle.sent("baggage")) == ("fallback", None, long)
    assert handle["reason"] == f"baggage of more than {MAX_READ_BYTES} bytes is not read"
    assert worker.request('{"bar": "x"}', baggage=long).sent("baggage") == long


@pytest.mark.parametrize("condition", ["path", "only-paths", "shadow"])
def test_the_lua_finds_the_same_paths_under_a_prefix(condition: str) -> None:
    for case in vectors("path.json"):
        if condition == "shadow":
            settings = SETTINGS | {"service": "foo", "namespace": "shop", "share": "100"}
            worker = Worker(lua.source("shadow", SETTINGS=settings))
            copied = f"copy {'ab' * 16} 100 GET {case['prefix']}"
            worker.response = worker.responds(f"devroute 1\ndecision copy\nservice foo\n{copied}\n")
            handle = worker.request(_path=case["path"].encode().decode("latin-1"))
            assert handle["result"] == ("copy" if case["under"] else "service"), case
        else:
            worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "foo"})
            rule = f"decision detour\nservice foo\n{condition} {case['prefix']}\n"
            worker.response = worker.responds(f"devroute 1\n{rule}")
            handle = worker.request('{"foo": "x"}', _path=case["path"].encode().decode("latin-1"))
            assert handle["decision"] == ("detour" if case["under"] else "service"), case


@given(PATHS)
def test_lua_and_python_read_every_path_alike(path: str) -> None:
    expected = read_target(path.encode())
    assert PATH.path_of(path) == (None if expected is None else expected.decode("latin-1"))


@pytest.mark.parametrize("case", vectors("via.json"), ids=lambda case: str(case["header"])[:40])
def test_the_lua_detects_loops(case: dict[str, Any]) -> None:
    given = {"x_devroute_via": case["header"], "baggage": case["baggage"]}
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    worker.response = worker.responds(f"devroute 1\ndecision detour\nservice {case['key']}\n")
    handle = worker.request('{"foo": "x"}', **{key: text for key, text in given.items() if text is not None})
    assert (handle["result"] == "fallback") is case["passed"]
    if not case["passed"]:
        assert handle.sent("x-devroute-via") == case["after"]


# --- the proxy's report on a contract, and sidecars' reports ------------------------------------------------

_, REPORT = exports("lines, contract_report", "parse_report")


@pytest.mark.parametrize(
    "case", vectors("contract_report.json", "reads"), ids=lambda case: case["lines"][:60]
)
def test_a_response_of_contract_means_the_same_to_the_gateway_s_lua(case: dict[str, Any]) -> None:
    report = REPORT.parse_report(case["lines"])
    if "error" in case:
        assert report is None
    else:
        values = dict(report.items())
        entries = list(values.pop("entries").values())
        found = {key: [value] for key, value in values.items()}
        assert found | ({"entry": entries} if entries else {}) == case["means"]


@pytest.mark.parametrize(
    "case", vectors("contract_report.json", "reads"), ids=lambda case: case["lines"][:60]
)
def test_a_gateway_responds_to_no_contract_but_one_that_the_proxy_knows_to_be_wrong(
    case: dict[str, Any],
) -> None:
    gate = Worker(edge_source(EdgeSettings(networks=("0.0.0.0/0",), control=CONTROL)))
    gate.response = gate.responds(case["lines"])
    contract = '{"foo": "al\\u0069ce"}'  # not in plain form
    first = Worker(front_source(EdgeSettings())).request(contract)
    handle = Handle(gate, first.fields)
    handle.decided = {key: python_of(value) for key, value in first.decided.items()}
    gate.handle(handle)
    (asked,) = gate.asked
    assert (asked[":method"], asked[":path"], asked["x-devroute"]) == ("GET", "/contract", contract)
    assert (handle.responded and handle.responded[0][":status"]) == case.get("responds")
    assert handle.sent("x-devroute") == contract
    assert gate.logged == []


@pytest.mark.parametrize("case", vectors("trace.json", "writes"), ids=lambda case: str(case["request"])[:60])
def test_the_lua_reports_its_decision_about_a_traced_request(case: dict[str, Any]) -> None:
    environment = {"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "shop"}
    worker = Worker(lua.source("decide", SETTINGS=SETTINGS), environment)
    worker.response = worker.responds(case["resolve"] or "")
    requested(worker, case["request"])
    assert len(worker.asked) == (0 if case["resolve"] is None else 1)
    if case["report"] is None:
        assert worker.reported == []
        return
    (report,) = worker.reported
    assert (report.pop(":method"), report.pop(":path")) == ("POST", "/trace")
    del report[":authority"]
    if case.get("own_words"):
        assert report.pop("x-devroute-reason")
    assert report == case["report"]


@pytest.mark.parametrize(
    "case", vectors("compare.json", "writes"), ids=lambda case: str(case["response"])[:60]
)
def test_the_lua_reports_the_service_s_response_to_a_copied_request(case: dict[str, Any]) -> None:
    response, key = case["response"], "ab" * 16
    worker = Worker(lua.source("compare", SETTINGS=SETTINGS))
    handle = Handle(worker, [(name, spelled_out(value)) for name, value in response["head"]])
    handle.decided["devroute", "compare"] = key
    handle.chunks = [spelled_out(chunk).encode("latin-1") for chunk in response["chunks"]]
    handle.trailing = [(name, value) for name, value in response["trailers"]]
    worker.handle(handle, "envoy_on_response")
    if case["body"] is None:
        assert worker.reported == []
        return
    (report,) = worker.reported
    del report[":authority"]
    assert report == {
        ":method": "POST",
        ":path": "/compare",
        "x-devroute-compare": key,
        "x-devroute-whole": case["whole"],
        "body": spelled_out(case["body"]),
    }
