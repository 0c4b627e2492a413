import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.grammar import parse
from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address
from devroute.errors import LaptopOffline, ServiceNotServed, TargetUnreachable
from devroute.http.message import RequestHead
from devroute.policy.policy import Policy
from devroute.quoting import printable
from devroute.routing.decision import (
    FALLBACK_TTL_MS,
    LAPTOP_TTL_MS,
    Decision,
    LaptopService,
    decide,
    select_target,
)
from devroute.routing.registry import offer_for
from devroute.routing.resolve_codec import encode
from devroute.upstream.interface import ResponseSink, UpstreamStream
from tests.support.examples import examples
from tests.support.resolve_reader import decode


class Tunnel:
    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        raise NotImplementedError


@dataclass
class Laptops:
    online: dict[str, dict[str, LaptopService]] = field(default_factory=dict)

    def lookup(self, name: str, service: str) -> LaptopService:
        if name not in self.online:
            raise LaptopOffline(f"laptop '{name}' is offline", service=service, target=name)
        found = offer_for(self.online[name], service)
        if found is None:
            raise ServiceNotServed(
                f"laptop '{name}' does not serve '{service}'", service=service, target=name
            )
        return found


TUNNEL = Tunnel()
LAPTOPS = Laptops(
    {
        "alice": {"foo": LaptopService(TUNNEL, None)},
        "bob": {"foo": LaptopService(None, Address("192.168.1.12", 8001))},
        "sue": {"foo": LaptopService(TUNNEL, None, OfferOptions(shadow=25.0))},
        "mallory": {"foo": LaptopService(None, Address("169.254.169.254", 8001))},
    }
)
POLICY = Policy.parse("direct: {networks: [192.168.0.0/16]}\nservices: [foo, bar]")


def decided(contract: object, *, candidates: str = "foo", namespace: str | None = None) -> Decision:
    raw = contract if isinstance(contract, str) else json.dumps(contract)
    return decide(raw, candidates.split(","), namespace, POLICY, LAPTOPS)


def lines(decision: Decision) -> dict[str, str]:
    return {key: value for key, (value,) in decode(encode(decision)).items()}


def test_a_laptop_with_a_tunnel_is_a_detour_without_an_address_to_connect_to() -> None:
    decision = decided({"foo": "alice"})
    assert (decision.kind, decision.service, decision.address) == ("detour", "foo", None)
    assert lines(decision) == {
        "decision": "detour",
        "ttl": str(LAPTOP_TTL_MS),
        "service": "foo",
        "trace": "yes",
    }


@pytest.mark.parametrize(
    ("options", "percent", "methods"),
    [
        ({}, "25.000000", "GET,HEAD,OPTIONS,TRACE"),
        ({"percent": 50}, "12.500000", "GET,HEAD,OPTIONS,TRACE"),
        ({"methods": ["GET", "POST"]}, "25.000000", "GET"),
        ({"methods": ["POST"]}, "0.000000", None),
    ],
)
def test_a_laptop_with_shadow_gets_the_requests_that_both_offer_and_contract_permit(
    options: dict[str, object], percent: str, methods: str | None
) -> None:
    said = lines(decided({"foo": {"to": "sue", **options}}))
    assert (said["decision"], said["compare"]) == ("mirror", "yes")
    assert (said["percent"], said.get("methods")) == (percent, methods)


def test_fallback_fail_is_an_error_where_the_laptop_accepts_only_shadow_traffic() -> None:
    said = lines(decided({"foo": {"to": "sue", "fallback": "fail"}}))
    assert (said["decision"], said["status"]) == ("error", "501")


@pytest.mark.parametrize("target", ["192.168.1.12:8001", "bob"])
def test_an_address_of_the_contract_or_of_a_laptop_is_returned_to_connect_to(target: str) -> None:
    decision = decided({"foo": target})
    assert (decision.kind, decision.address) == ("detour", Address("192.168.1.12", 8001))


@pytest.mark.parametrize("target", ["alice", "192.168.1.12:8001", "version:v2"])
def test_the_decision_names_the_callers_that_policy_permits(target: str) -> None:
    rules = [{"from": ["qa/*", "shop/web"], "services": ["foo"]}, {"from": ["*"], "services": ["bar"]}]
    policy = Policy.from_mapping({"direct": {"networks": ["192.168.0.0/16"]}, "callers": rules})
    raw = json.dumps({"foo": target, "bar": target, "baz": target})
    assert lines(decide(raw, ["foo"], None, policy, LAPTOPS))["callers"] == "qa/*,shop/web"
    assert "callers" not in lines(decide(raw, ["bar"], None, policy, LAPTOPS))
    denied = decide(raw, ["baz"], None, policy, LAPTOPS)
    assert denied.error is not None
    assert (denied.kind, denied.error.code) == ("fallback", "caller-denied")


def test_a_host_name_is_returned_to_connect_to() -> None:
    assert decided({"foo": "bobs.laptop:8001"}).address == Address("bobs.laptop", 8001)


def test_a_contract_for_other_services_leaves_the_request_to_the_service() -> None:
    assert lines(decided({"other": "alice"})) == {
        "decision": "service",
        "ttl": "1000",
        "trace": "yes",
        "reason": "names other: devroute trace shows who answered there",
    }
    assert decided({"foo": "alice"}, candidates="").kind == "service"


def test_the_matched_service_is_the_contracts_key() -> None:
    decision = decided({"foo.shop": "alice", "foo": "bob"}, candidates="foo-v1,foo", namespace="shop")
    assert (decision.kind, decision.service) == ("detour", "foo.shop")
    assert decided({"foo.shop": "alice"}, namespace="other").kind == "service"


@pytest.mark.parametrize(
    ("contract", "code"),
    [
        ({"foo": "carol"}, "laptop-offline"),
        ({"bar": "alice"}, "service-not-served"),
        ({"foo": "8.8.8.8:8001"}, "target-denied"),
        ({"foo": "mallory"}, "target-denied"),
        ({"baz": "alice"}, "target-denied"),
        ({"foo": {"to": "version:v2", "mirror": True}}, "not-supported"),
        ({"foo": {"to": "version:v2", "delay": 1}}, "not-supported"),
        ({"foo": {"to": "alice", "mirror": True, "delay": 1}}, "not-supported"),
    ],
)
def test_an_unusable_target_is_a_short_fallback_with_its_reason(contract: object, code: str) -> None:
    decision = decided(contract, candidates="foo,bar,baz")
    assert decision.kind == "fallback"
    assert decision.error is not None
    assert decision.error.code == code
    answer = lines(decision)
    assert answer["reason"] == printable(decision.error.message)
    assert answer["ttl"] == str(FALLBACK_TTL_MS)
    assert "body" not in answer


CONDITIONS = {
    "methods": ["GET", "POST"],
    "path": "/api/",
    "from": ["shop/web", "spiffe://a/b"],
    "percent": 2.5,
}
AS_LINES = {
    "methods": "GET,POST",
    "path": "/api/",
    "from": "shop/web,spiffe://a/b",
    "percent": "2.500000",
}


@pytest.mark.parametrize(
    ("target", "kind"),
    [("alice", "detour"), ("bob", "detour"), ("version:v2", "version"), ("carol", "fallback")],
)
def test_every_decision_states_the_conditions_of_the_contract(target: str, kind: str) -> None:
    answer = lines(decided({"foo": {"to": target, **CONDITIONS}}))
    assert answer["decision"] == kind
    assert {key: answer[key] for key in AS_LINES} == AS_LINES
    assert "fallback" not in answer
    assert lines(decided({"foo": {"to": target, "fallback": "fail"}}))["fallback"] == "fail"


def test_a_mirrored_request_has_the_same_target_as_a_detour() -> None:
    decision = decided({"foo": {"to": "bob", "mirror": True}})
    assert (decision.kind, decision.address) == ("mirror", Address("192.168.1.12", 8001))
    assert decided({"foo": {"to": "carol", "mirror": True}}).kind == "fallback"


def test_a_version_is_named_with_its_timeout() -> None:
    answer = lines(decided({"foo": {"to": "version:v2", "timeout": "1.5s"}}))
    assert (answer["decision"], answer["version"], answer["timeout"]) == ("version", "v2", "1500")
    assert "timeout" not in lines(decided({"foo": {"to": "alice", "timeout": "1.5s"}}))
    assert decided({"baz": "version:v2"}, candidates="baz").kind == "fallback"


@pytest.mark.parametrize("target", ["carol", "version:v2", "192.168.1.12:8001"])
def test_an_abort_is_a_detour_that_needs_no_target(target: str) -> None:
    decision = decided({"foo": {"to": target, "abort": 503, "delay": 1}})
    assert (decision.kind, decision.address) == ("detour", None)


def test_with_fallback_fail_it_is_an_error_with_status_and_body() -> None:
    answer = lines(decided({"foo": {"to": "carol", "fallback": "fail"}}))
    assert (answer["decision"], answer["status"], answer["service"]) == ("error", "503", "foo")
    assert json.loads(answer["body"])["code"] == "laptop-offline"


def test_a_malformed_contract_is_an_error_400_that_names_the_place() -> None:
    answer = lines(decided('{"foo": "192.168.1.12"}'))
    assert (answer["decision"], answer["status"]) == ("error", "400")
    body = json.loads(answer["body"])
    assert body["code"] == "contract-invalid"
    assert "a port is missing; write 192.168.1.12:8001" in body["message"]
    assert "service" not in answer


def test_an_unreachable_target_is_a_fallback_or_an_error_as_the_contract_states() -> None:
    refused = TargetUnreachable("192.168.1.12:8001 refused the connection")
    assert decided({"foo": "bob"}).unreachable(refused).kind == "fallback"
    insisting = decided({"foo": {"to": "bob", "fallback": "fail"}}).unreachable(refused)
    assert (insisting.kind, insisting.reason) == ("error", refused.message)
    assert lines(insisting)["status"] == "502"


def test_the_selected_target_of_a_laptop_is_its_tunnel() -> None:
    selected = select_target(parse('{"foo": "alice"}').entries["foo"], POLICY, LAPTOPS)
    assert selected == (TUNNEL, LaptopService(TUNNEL, None))


def test_a_detour_names_the_replica_of_the_laptop_and_a_copy_does_not() -> None:
    """Envoy's API does not choose the host of a mirrored request, and its original goes to the service."""
    laptops = Laptops({"alice": {"foo": LaptopService(TUNNEL, None, owner="10.0.3.7:8080")}})
    detour, mirror = (
        lines(decide(json.dumps({"foo": {"to": "alice", **options}}), ["foo"], None, POLICY, laptops))
        for options in ({}, {"mirror": True})
    )
    assert (detour["decision"], detour["owner"]) == ("detour", "10.0.3.7:8080")
    assert mirror["decision"] == "mirror"
    assert "owner" not in mirror


def test_a_reason_is_one_short_printable_line() -> None:
    assert printable("a\r\nx: y\x00é") == "a x: y??"
    assert len(printable("x" * 500)) == 200


@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=3), st.none() | st.text(max_size=8))
@examples(40)
def test_any_input_gives_a_valid_response(raw: str, candidates: list[str], namespace: str | None) -> None:
    answer = lines(decide(raw, candidates, namespace, POLICY, LAPTOPS))
    assert answer["decision"] in ("service", "error")
