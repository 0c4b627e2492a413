"""The vectors of routing/SIDECAR.md, run by the proxy, and by OpenTelemetry for baggage."""

from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator

from devroute.contract.grammar import parse
from devroute.contract.trace_id import split_trace, with_trace, without_trace
from devroute.http.baggage import member_value, with_member
from devroute.http.carriers import KNOWN, carried_contract, header_of, read_slot
from tests.support.carriers import encode_contract, with_contract
from tests.support.resolve_reader import decode
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
