"""Signed contracts from outside: by the gateway's filter, a sidecar's, and the proxy, to a laptop."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web

from devroute.auth.tokens import new_token
from devroute.contract.grammar import parse
from devroute.contract.signer import SigningKey, sign
from devroute.contract.validity import SKEW_S
from devroute.mesh import testbed
from devroute.mesh.envoy import running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.gateway import LISTENER, Gateway, bootstrap
from devroute.mesh.istio.sidecar import INBOUND, Sidecar
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter
from tests.envoy.harness import PROXY, Mesh, echo, from_app, serving

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

HOST = "shop.example"
POLICY = "direct: {networks: [127.0.0.0/8]}\nservices: ['*']\nrequire: signed\n"
#: What a browser sends with an address that its user typed.
TYPED = {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}
KEY, STRANGER = SigningKey.new("qa"), SigningKey.new("qa")


def signed(
    contract: str = '{"foo": "alice"}', key: SigningKey = KEY, ago: float = 0, ttl: float = 600
) -> str:
    return sign(parse(contract), key, "qa", time.time() - ago, ttl)


@dataclass(frozen=True)
class Way:
    """The gateway; `inside` is the sidecar behind it."""

    client: ClientSession
    gateway: str
    inside: str
    proxy: testbed.RunningProxy

    async def get(
        self, url: str = "", path: str = "/", **fields: str
    ) -> tuple[ClientResponse, dict[str, Any]]:
        headers = {"host": HOST, **{name.replace("_", "-"): value for name, value in fields.items()}}
        async with self.client.get(
            (url or self.gateway) + path, headers=headers, allow_redirects=False
        ) as response:
            text = await response.text()
            return response, json.loads(text) if text else {}


async def from_laptop(request: web.Request) -> web.StreamResponse:
    return await echo(request, "laptop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def way(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Way]:
    folder = tmp_path_factory.mktemp("signed")
    keys = folder / "contract-keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_public_jwk()]}))
    secret, record = new_token("alice")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        settings = {"DEVROUTE_CONTRACT_KEYS": str(keys)}
        proxy = await enter(testbed.proxy(folder, [record], POLICY, settings))
        app = await enter(serving(from_laptop))
        await enter(testbed.laptop(folder, "alice", proxy.server, secret, f"foo={app.host}:{app.port}"))
        sidecar = await enter(testbed.sidecar(folder, Sidecar("foo", await enter(serving(from_app))), proxy))
        shape = Gateway({HOST: sidecar.listeners[INBOUND]}, {PROXY.control_cluster: proxy.control})
        configuration = apply([edge_filter(EdgeSettings())], shape, bootstrap(shape))
        gateway = await enter(running(configuration, folder, "gateway", {}))
        client = await enter(ClientSession(timeout=ClientTimeout(total=20)))
        ways = (
            "http://{}:{}".format(*each) for each in (gateway.listeners[LISTENER], sidecar.listeners[INBOUND])
        )
        yield Way(client, *ways, proxy)


def values(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key.lower() == name]


async def test_a_signed_contract_from_outside_reaches_a_laptop_and_the_next_service(way: Way) -> None:
    token = signed()
    response, seen = await way.get(x_devroute=token)
    assert (response.headers["x-devroute-result"], seen["who"]) == ("laptop", "laptop")
    assert values(seen, "x-devroute") == [token]
    (baggage,) = values(seen, "baggage")
    assert baggage.split(",")[0] == f"devroute={token}", "as it is: nothing in it needs to be encoded"


async def test_baggage_alone_carries_a_trace_too(way: Way) -> None:
    token = signed()
    response, seen = await way.get(baggage=f"user=1,devroute={token}")
    assert (response.headers["x-devroute-result"], seen["who"]) == ("laptop", "laptop")
    assert values(seen, "x-devroute") == [token]


async def test_a_browser_opens_it_as_a_link_and_keeps_it_as_a_cookie(way: Way) -> None:
    token = signed()
    response, _ = await way.get(path=f"/page?devroute={token}&x=1", **TYPED)
    assert (response.status, response.headers["location"]) == (303, "/page?x=1")
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert cookie == f"__Host-devroute={token}"
    response, seen = await way.get(cookie=f"a=1; {cookie}", path="/page?x=1", **TYPED)
    assert (response.headers["x-devroute-result"], seen["who"]) == ("laptop", "laptop")
    assert values(seen, "cookie") == ["a=1"]


async def test_a_signed_contract_that_was_altered_is_refused(way: Way) -> None:
    header, payload, signature = signed().split(".")
    other = signed('{"foo": "mallory"}').split(".")[1]
    changed = "A" if signature[5] != "A" else "B"
    for token in (
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.{signature[:5]}{changed}{signature[6:]}",
        signed(key=STRANGER),
    ):
        for response, body in (
            await way.get(x_devroute=token),
            await way.get(baggage=f"devroute={token}"),
        ):
            assert (response.status, body["code"]) == (403, "contract-untrusted")
            assert response.headers["x-devroute-result"] == "error"
            assert "devroute sign" in body["hint"]
        response, seen = await way.get(cookie=f"devroute={token}")
        assert (response.headers["x-devroute-result"], seen["who"]) == ("fallback", "app")
        assert response.headers["x-devroute-reason"].startswith(
            "the contract in the cookie does not count: the c"
        )
        response, body = await way.get(path=f"/?devroute={token}", **TYPED)
        assert (response.status, "set-cookie" in response.headers) == (403, False)


async def test_a_replay_after_its_time_reaches_the_service_with_the_reason(way: Way) -> None:
    token = signed(ago=600 + SKEW_S + 60)
    response, seen = await way.get(x_devroute=token)
    assert (response.headers["x-devroute-result"], seen["who"]) == ("fallback", "app")
    assert response.headers["x-devroute-reason"].startswith("the contract of 'qa' expired ")
    insisting = signed('{"foo": {"to": "alice", "fallback": "fail"}}', ago=900)
    response, body = await way.get(x_devroute=insisting)
    assert (response.status, body["code"]) == (403, "contract-expired")


async def test_an_unsigned_contract_is_refused_inside_too(way: Way) -> None:
    plain = '{"foo": "alice"}'
    response, seen = await way.get(x_devroute=plain)
    assert (seen["who"], values(seen, "x-devroute")) == ("app", []), "the gateway takes it off"
    response, seen = await way.get(way.inside, x_devroute=plain)
    assert (response.headers["x-devroute-result"], seen["who"]) == ("fallback", "app")
    assert "not signed, but policy requires it" in response.headers["x-devroute-reason"]
    data = "http://{}:{}".format(*way.proxy.data)
    response, body = await way.get(data, x_devroute=plain, x_devroute_matched="foo")
    assert (response.status, body["code"]) == (403, "contract-unsigned")
    assert "devroute sign" in body["hint"]


async def test_a_signature_does_not_override_policy(way: Way) -> None:
    response, seen = await way.get(x_devroute=signed('{"foo": "169.254.169.254:8001"}'))
    assert (response.headers["x-devroute-result"], seen["who"]) == ("fallback", "app")
    assert "denied by policy" in response.headers["x-devroute-reason"]


async def test_a_parameter_is_percent_decoded_like_any_contract(way: Way) -> None:
    path = f"/?devroute={quote(signed()).replace('.', '%2E')}"
    response, _ = await way.get(path=path, **TYPED)
    assert response.status == 303


@pytest.mark.asyncio(loop_scope="function")
async def test_each_service_requests_a_decision_once_in_its_lifetime(mesh: Mesh) -> None:
    mesh.proxy.says("service", ttl=1000)
    token = signed('{"bar": "alice"}')
    began = time.monotonic()
    for _ in range(20):
        async with mesh.client.get(mesh.url, headers={"x-devroute": token}) as response:
            assert response.headers["x-devroute-result"] == "service"
    assert len(mesh.proxy.asked) <= 2 + time.monotonic() - began
    assert mesh.proxy.asked[0].headers["x-devroute"] == token
