"""Every decision, on a real Istio with STRICT mTLS, through sidecars and through the ingress gateway."""

import json
from typing import NamedTuple
from urllib.parse import quote

import pytest

from tests.istio.client import Response, session
from tests.istio.rig import Rig
from tests.istio.topology import APP_PORT, LAPTOPS
from tests.support.eventually import eventually

pytestmark = pytest.mark.istio

#: From where, and the URL of b.
WAYS = {"a pod": ("a", "http://b/x"), "the gateway": ("alice", "http://b.qa.example/x")}
SERVICE = frozenset({"b-v1", "b-v2"})
LAPTOP = frozenset({"laptop-alice"})


class Case(NamedTuple):
    contract: object
    apps: frozenset[str]
    result: str | None
    reason: str = ""
    status: int = 200


CASES = {
    "no contract": Case(None, SERVICE, None),
    "empty": Case({}, frozenset(), "error", status=400),
    "for another service": Case({"c": "alice"}, SERVICE, "service"),
    "a laptop by its tunnel": Case({"b": "alice"}, LAPTOP, "laptop", "alice"),
    "another person's laptop": Case({"b": "bob"}, frozenset({"laptop-bob"}), "laptop", "bob"),
    "an address": Case({"b": f"{LAPTOPS['alice']}:{APP_PORT}"}, LAPTOP, "laptop", LAPTOPS["alice"]),
    "a version": Case({"b": "version:v2"}, frozenset({"b-v2"}), "version", "v2"),
    "a copy": Case({"b": {"to": "alice", "mirror": True}}, SERVICE, "mirror"),
    "another method": Case({"b": {"to": "alice", "methods": ["POST"]}}, SERVICE, "service", "method"),
    "permitted caller": Case({"b": {"to": "alice", "from": ["shop/a"]}}, LAPTOP, "laptop", "alice"),
    "another caller": Case({"b": {"to": "alice", "from": ["shop/web"]}}, SERVICE, "service"),
    "nobody's laptop": Case({"b": "carol"}, SERVICE, "fallback", "carol"),
    "an address that is not permitted": Case({"b": "10.1.2.3:80"}, SERVICE, "fallback"),
    "no fallback": Case({"b": {"to": "carol", "fallback": "fail"}}, frozenset(), "error", status=503),
    "an abort": Case({"b": {"to": "alice", "abort": 418}}, frozenset(), "error", status=418),
    "a delay": Case({"b": {"to": "alice", "delay": "100ms"}}, LAPTOP, "laptop", "alice"),
    "invalid": Case({"b": 5}, frozenset(), "error", status=400),
}


def assert_is(response: Response, case: Case) -> None:
    assert response.status == case.status, response
    assert response.result == case.result, response
    assert case.reason in (response.reason or ""), response
    assert response.app in (case.apps or {None}), response


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_pod_s_request_goes_where_its_contract_says(mesh: Rig, case: Case) -> None:
    assert_is(await mesh.ask("a", "http://b/x", case.contract), case)


FROM_OUTSIDE = {name: case for name, case in CASES.items() if "caller" not in name}


@pytest.mark.parametrize("case", FROM_OUTSIDE.values(), ids=FROM_OUTSIDE)
async def test_a_request_through_the_gateway_goes_where_its_contract_says(mesh: Rig, case: Case) -> None:
    assert_is(await mesh.ask("alice", "http://b.qa.example/x", case.contract), case)


async def test_a_contract_in_baggage_alone_is_obeyed(mesh: Rig) -> None:
    baggage = f"user=7,devroute={quote(json.dumps({'b': 'alice'}))}"
    response = await mesh.ask("a", "http://b/x", headers={"baggage": baggage})
    assert_is(response, CASES["a laptop by its tunnel"])


@pytest.mark.parametrize("url", ["http://b/x", "http://b.qa.example/x"])
async def test_an_upload_reaches_the_laptop_whole(mesh: Rig, url: str) -> None:
    pod = "alice" if "qa" in url else "a"
    response = await mesh.ask(pod, url, {"b": "alice"}, method="POST", body=b"x" * 1_000_000)
    assert_is(response, CASES["a laptop by its tunnel"])
    assert json.loads(response.body)["size"] == 1_000_000


async def test_a_copy_reaches_the_laptop(mesh: Rig) -> None:
    await mesh.ask("a", "http://b/copied", {"b": {"to": "alice", "mirror": True}})

    async def arrived() -> bool:
        return any(each["path"] == "/copied" for each in await mesh.requests("alice"))

    await eventually(arrived, "the copy at the laptop")


async def test_one_contract_sends_each_hop_elsewhere(mesh: Rig) -> None:
    """From outside, through the gateway and web's and a's sidecars, along a chain of services."""
    plain = await mesh.ask("alice", "http://a.qa.example/chain")
    assert (plain.hops[0], plain.hops[2]) == ("a", "c")
    assert plain.hops[1] in SERVICE
    two = await mesh.ask("alice", "http://a.qa.example/chain", {"b": "version:v2", "c": "alice"})
    assert two.hops == ["a", "b-v2", "laptop-alice"]
    first = await mesh.ask("alice", "http://a.qa.example/chain", {"a": "alice"})
    assert first.hops == ["laptop-alice"]


async def test_a_headless_service_s_requests_are_detoured(mesh: Rig) -> None:
    response = await mesh.ask("a", "http://h:8080/x", {"h": "alice"})
    assert_is(response, CASES["a laptop by its tunnel"])


@pytest.mark.parametrize(("contract", "app"), [(None, "b-v"), ({"b": "alice"}, "laptop-alice")])
async def test_a_websocket_follows_the_contract(mesh: Rig, contract: object, app: str) -> None:
    headers = {} if contract is None else {"x-devroute": json.dumps(contract)}
    async with session(mesh.pods["a"]) as opened, opened.ws_connect("http://b/ws", headers=headers) as socket:
        await socket.send_str("x" * 70_000)
        echoed = await socket.receive_str(timeout=10)
    assert echoed.startswith(app)
    assert len(echoed) > 70_000


async def test_trace_ls_and_status_work_from_a_laptop(mesh: Rig) -> None:
    assert "alice" in mesh.devroute("alice", "ls")
    assert mesh.devroute("alice", "doctor")
    contract = json.dumps({"b": "alice"})
    traced = mesh.devroute(
        "alice", "trace", "--", "curl", "-H", f"X-devroute: {contract}", "http://a.qa.example/chain"
    )
    assert "alice" in traced
