"""Saved contracts by their names: through the gateway's filter, a sidecar's, and the proxy, to a laptop."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web

from devroute.agent.api_client import change
from devroute.agent.settings import ClientSettings
from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.gateway import LISTENER, Gateway, bootstrap
from devroute.mesh.istio.sidecar import INBOUND, Sidecar
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter
from tests.envoy.harness import PROXY, echo, from_app, serving
from tests.support.eventually import eventually

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

HOST = "shop.example"
#: What a browser sends with an address that its user typed.
TYPED = {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}
FOREIGN = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
NETWORK = ("127.0.0.0/8",)
SECRET, RECORD = new_token("alice")


@dataclass(frozen=True)
class Way:
    """An open gateway, one that lets in signed contracts alone, and the sidecar behind them."""

    client: ClientSession
    opened: str
    closed: str
    inside: str
    proxy: testbed.RunningProxy
    other: str

    async def get(self, url: str, path: str = "/", **fields: str) -> tuple[ClientResponse, Any]:
        headers = {"host": HOST, **{name.replace("_", "-"): value for name, value in fields.items()}}
        async with self.client.get(url + path, headers=headers, allow_redirects=False) as response:
            text = await response.text()
            return response, json.loads(text) if text[:1] == "{" else text

    async def change(self, method: str, name: str, contract: str = "") -> None:
        settings = ClientSettings(server=self.proxy.server, token=SECRET)
        body = {"contract": contract} if contract else None
        await change(settings, method, f"/api/contracts/{name}", body)

    async def who(self, url: str, path: str = "/", **fields: str) -> str:
        _, seen = await self.get(url, path, **fields)
        return str(seen.get("who") or seen["code"])

    async def turns_into(self, wanted: str, **fields: str) -> None:
        """Within seconds: sidecars ask again after one, the gateway too."""

        async def is_wanted() -> bool:
            return await self.who(self.inside, **fields) == wanted

        await eventually(is_wanted, wanted)


async def from_laptop(request: web.Request) -> web.StreamResponse:
    return await echo(request, "laptop")


async def from_other(request: web.Request) -> web.StreamResponse:
    return await echo(request, "other")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def way(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Way]:
    folder = tmp_path_factory.mktemp("named")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        proxy = await enter(testbed.proxy(folder, [RECORD]))
        app = await enter(serving(from_laptop))
        await enter(testbed.laptop(folder, "alice", proxy.server, SECRET, f"foo={app.host}:{app.port}"))
        sidecar = await enter(testbed.sidecar(folder, Sidecar("foo", await enter(serving(from_app))), proxy))
        shape = Gateway({HOST: sidecar.listeners[INBOUND]}, {PROXY.control_cluster: proxy.control})
        places = []
        for name, networks in [("opened", NETWORK), ("closed", ())]:
            edge = edge_filter(EdgeSettings(networks=networks))
            gateway = await enter(running(apply([edge], shape, bootstrap(shape)), folder, name, {}))
            places.append(gateway.listeners[LISTENER])
        other = await enter(serving(from_other))
        client = await enter(ClientSession(timeout=ClientTimeout(total=20)))
        places.append(sidecar.listeners[INBOUND])
        yield Way(
            client, *("http://{}:{}".format(*each) for each in places), proxy, f"{other.host}:{other.port}"
        )


async def test_a_name_stands_wherever_a_contract_may_until_it_is_deleted(way: Way) -> None:
    await way.change("PUT", "checkout", '{"foo": "alice"}')
    for url in (way.opened, way.inside):
        for fields in (
            {"x_devroute": "@checkout"},
            {"baggage": "user=1,devroute=@checkout"},
            {"baggage": "devroute=%40checkout"},
        ):
            response, seen = await way.get(url, **fields)
            assert (response.headers["x-devroute-result"], seen["who"]) == ("laptop", "laptop")
            carried = {key.lower(): value for key, value in seen["headers"]}
            assert (carried["x-devroute"], "devroute=" in carried["baggage"]) == ("@checkout", True)
    response, _ = await way.get(way.opened, "/page?devroute=@checkout&x=1", **TYPED)
    assert (response.status, response.headers["location"]) == (303, "/page?x=1")
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert cookie == "__Host-devroute=%40checkout"
    assert await way.who(way.opened, "/page?x=1", cookie=cookie, **TYPED) == "laptop"
    _, page = await way.get(way.opened, "/?devroute=@checkout", accept="text/html", **FOREIGN)
    assert "all requests for foo go to the laptop alice" in page
    assert "Saved by alice. Not signed." in page

    await way.change("PUT", "checkout", json.dumps({"foo": way.other}))
    await way.turns_into("other", x_devroute="@checkout")  # the proxy has forgotten its decision, too
    await way.change("PUT", "checkout", '{"bar": "alice"}')
    await way.turns_into("app", x_devroute="@checkout")
    await way.change("DELETE", "checkout")
    await way.turns_into("contract-unknown", x_devroute="@checkout")
    response, body = await way.get(way.opened, x_devroute="@checkout")
    assert (response.status, body["code"]) == (400, "contract-unknown")
    assert "ask alice to save it again" in body["hint"]
    response, seen = await way.get(way.opened, cookie=cookie, **TYPED)
    assert (response.headers["x-devroute-result"], seen["who"]) == ("fallback", "app")
    reason = response.headers["x-devroute-reason"]
    assert reason.startswith("the contract in the cookie does not count: the contract '@checkout'")


async def test_a_name_can_be_guessed_so_it_is_no_right_to_enter(way: Way) -> None:
    await way.change("PUT", "guessed", '{"foo": "alice"}')
    header, baggage = {"x_devroute": "@guessed"}, {"baggage": "devroute=@guessed"}
    for fields in (header, baggage, {"cookie": "devroute=%40guessed"}):
        assert await way.who(way.closed, **fields) == "app"
    response, _ = await way.get(way.closed, "/?devroute=@guessed", **TYPED)
    assert "set-cookie" not in response.headers
