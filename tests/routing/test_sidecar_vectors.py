"""The vectors of routing/SIDECAR.md, run by the proxy, and by OpenTelemetry for baggage."""

import json
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator

from devroute.auth.identity import Identity, PeerCertificate
from devroute.contract.grammar import parse
from devroute.contract.keys import Keys
from devroute.contract.target import Address
from devroute.contract.trace_id import split_trace, with_trace, without_trace
from devroute.contract.verifier import Verifier
from devroute.errors import RequestMalformed
from devroute.http.baggage import member_value, with_member
from devroute.http.carriers import KNOWN, carried_contract, header_of, read_slot
from devroute.policy.policy import Policy
from devroute.proxy.control.control import Control
from devroute.proxy.control.sidecars import Sidecars
from devroute.proxy.ports.message import Request, Response
from devroute.routing.named_contracts import ContractReader, NamedContract, NamedContracts
from devroute.routing.registry import Registry
from tests.support.carriers import encode_contract, with_contract
from tests.support.paths import VECTORS
from tests.support.repeated import spelled_out
from tests.support.resolve_reader import decode, decode_report
from tests.support.vectors import vectors


@pytest.mark.parametrize("case", vectors("resolve.json"), ids=lambda case: repr(case["lines"][:60]))
def test_a_response_of_resolve_means_the_same_to_the_reference_reader(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(ValueError):  # noqa: PT011 - which rule it breaks is test_resolve_codec's
            decode(case["lines"].encode())
    else:
        assert decode(case["lines"].encode()) == case["means"]


@pytest.mark.parametrize("case", vectors("contract_key.json"), ids=lambda case: case["contract"])
def test_the_key_of_a_service_is_the_one_that_the_proxy_finds(case: dict[str, Any]) -> None:
    entry = parse(case["contract"]).find(case["candidates"], case["namespace"])
    assert (entry.key if entry else None) == case["key"]
    assert case["asks"] or entry is None, "what concerns a service is never left unasked"


@pytest.mark.parametrize("case", vectors("trace_id.json", "reads"), ids=lambda case: case["text"])
def test_python_reads_the_trace_in_a_contract(case: dict[str, Any]) -> None:
    assert split_trace(case["text"]) == (case["contract"], case["trace"])
    assert without_trace(case["text"].encode()) == case["contract"].encode()


@pytest.mark.parametrize("case", vectors("trace_id.json", "writes"), ids=lambda case: case["contract"])
def test_python_writes_a_trace_into_a_contract(case: dict[str, Any]) -> None:
    assert with_trace(case["contract"], case["trace"]) == case["text"]


@pytest.mark.parametrize("case", vectors("baggage.json", "reads"), ids=lambda case: case["baggage"])
def test_python_and_opentelemetry_read_the_same_members(case: dict[str, Any]) -> None:
    sent = case["baggage"].encode()
    contract, via = member_value(sent, b"devroute"), member_value(sent, b"devroute-via")
    assert (unquote_to_bytes(contract).decode() if contract else None) == case["contract"]
    assert (via.decode().replace("~", ", ") if via else None) == case["via"]
    if "opentelemetry" in case:
        return
    context = W3CBaggagePropagator().extract({"baggage": case["baggage"]})

    def value(name: str) -> str | None:
        found = baggage.get_baggage(name, context)
        return str(found).partition(";")[0].strip() if found else None  # OpenTelemetry keeps properties

    assert value("devroute") == case["contract"]
    services = value("devroute-via")
    assert (services.replace("~", ", ") if services else None) == case["via"]


@pytest.mark.parametrize("case", vectors("baggage.json", "writes"), ids=lambda case: case["before"][:40])
def test_python_sets_a_member_as_the_lua_does(case: dict[str, Any]) -> None:
    if case["value"] is not None:
        before, member, value = (case[name].encode() for name in ("before", "member", "value"))
        assert with_member(before, member, value).decode() == case["after"]


@pytest.mark.parametrize(
    "case", vectors("carriers.json", "reads"), ids=lambda case: str(case["headers"])[:60]
)
def test_python_finds_the_contract_of_the_first_carrier(case: dict[str, Any]) -> None:
    fields = {name: text.encode() for name, text in case["headers"].items()}
    assert carried_contract(fields.get, ["x-acme-context"]) == case["contract"]
    vias = [
        read_slot(carrier, fields.get(header_of(carrier, "via"), b""), "via")
        for carrier in (*KNOWN, "x-acme-context")
    ]
    via = next((each.decode().replace("~", ", ") for each in vias if each), None)
    assert via == case["via"]
    found = (each for each in (*KNOWN, "x-acme-context") if read_slot(each, fields.get(each, b"")))
    assert next(found, None) == case["carrier"]


@pytest.mark.parametrize(
    "case", vectors("carriers.json", "writes"), ids=lambda case: str(case["before"])[:60]
)
def test_python_writes_a_contract_to_carriers_as_the_lua_does(case: dict[str, Any]) -> None:
    after = dict(case["before"])
    for carrier in case["carriers"]:
        text = after.pop(carrier, "").encode()
        written = with_contract(carrier, text, encode_contract(carrier, case["contract"]))
        after |= {carrier: written.decode()} if written else {}
    assert after == case["after"]


# --- /contract, /trace and /compare ------------------------------------------------------------------------


async def refuse(authorization: str, certificate: PeerCertificate | None) -> Identity:
    raise AssertionError("no person asks")


async def probe(address: Address, service: str) -> None:
    raise AssertionError("nothing is connected to")


def control(policy: str = "{}", **more: Any) -> Control:
    return Control(Registry(), lambda: Policy.parse(policy), refuse, probe, 0.3, **more)


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Request:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(method, path, fields, body, "10.0.0.9", over_tls=False)


def reported(file: str) -> list[dict[str, Any]]:
    return vectors(file, "writes") + vectors(file, "reads")


REPORTS: dict[str, Any] = json.loads((VECTORS / "sidecar" / "contract_report.json").read_text())


def report_on(case: dict[str, Any]) -> Response:
    now, names = REPORTS["now"] + case.get("later", 0), NamedContracts()
    for each in REPORTS["saved"]:
        text, owner, ends = each["contract"], each["owner"], each["expires"]
        names.put(NamedContract.of(each["name"], text, owner, REPORTS["now"], ends))
    keys = Keys.parse(json.dumps({"keys": REPORTS["keys"]}))
    read = ContractReader(Verifier(lambda: keys), names, lambda: now)
    asked = control(case.get("policy", "{}"), read=read, clock=lambda: now)
    return Sidecars(asked).contract(request("GET", "/contract", {"x-devroute": case["contract"]}))


@pytest.mark.parametrize("case", REPORTS["writes"], ids=lambda case: case["contract"][:40])
def test_the_proxy_reports_on_a_contract(case: dict[str, Any]) -> None:
    response = report_on(case)
    assert response.status == 200
    found = decode_report(response.body)
    words = {key: len(found.pop(key)) for key in ("entry", "problem", "hint") if key in found}
    assert (found, words) == (case["means"], case["words"])


@pytest.mark.parametrize("case", REPORTS["reads"], ids=lambda case: case["lines"][:60])
def test_a_response_of_contract_means_the_same_to_the_reference_reader(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(ValueError):  # noqa: PT011 - the vector says in words which rule it breaks
            decode_report(case["lines"].encode())
    else:
        assert decode_report(case["lines"].encode()) == case["means"]


@pytest.mark.parametrize(
    "case",
    [case for case in reported("trace.json") if case["report"] is not None],
    ids=lambda case: str(case["report"])[:80],
)
def test_the_proxy_reads_a_sidecar_s_report_of_its_decision(case: dict[str, Any]) -> None:
    asked, headers = control(), case["report"]
    trace = headers.get("x-devroute-trace", "")
    if case.get("announced"):
        asked.traces.announce(trace, 0.0)
    assert Sidecars(asked).traced(request("POST", "/trace", headers)).status == 204
    hops = [json.loads(json.dumps(asdict(hop))) for hop in asked.traces.hops(trace)]
    if case["hop"] is None:
        assert hops == []
        return
    (hop,) = hops
    assert {key: hop[key] for key in case["hop"]} == case["hop"]
    assert list(asked.services) == case["hop"]["names"]


@pytest.mark.parametrize(
    "case",
    [case for case in reported("compare.json") if case["body"] is not None],
    ids=lambda case: str(case["body"])[:40],
)
def test_the_proxy_reads_a_sidecar_s_report_of_the_service_s_response(case: dict[str, Any]) -> None:
    asked, key = control(), case.get("id", "ab" * 16)
    given = {"x-devroute-compare": key, "x-devroute-whole": case["whole"]}
    headers = {name: value for name, value in given.items() if value is not None}
    posted = request("POST", "/compare", headers, spelled_out(case["body"]).encode("latin-1"))
    if "error" in case:
        with pytest.raises(RequestMalformed):
            Sidecars(asked).compared(posted)
        assert len(asked.shadow.comparisons) == 0
        return
    assert Sidecars(asked).compared(posted).status == 204
    response = asked.shadow.comparisons.waiting(key)
    assert response is not None
    means = case["means"]
    assert response.status == means["status"]
    assert response.headers == [(name, spelled_out(value)) for name, value in means["headers"]]
    assert response.body == spelled_out(means["body"]).encode("latin-1")
    assert response.whole is (case["whole"] == "yes")
