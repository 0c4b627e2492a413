"""The edge on a real ingress gateway, beside the gateway example and the policies of a team's own routes."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from tests.istio.changes import applied, laptops_online, live
from tests.istio.control_plane import ROOT_NAMESPACE
from tests.istio.limits import LIMIT, a_name, limit
from tests.istio.rig import Rig
from tests.istio.test_validate import output_of
from tests.istio.topology import APP_PORT, CONTROL, HOST, LAPTOPS
from tests.support.issuer import Issuer, SigningKey

pytestmark = pytest.mark.istio

URL = "http://b.qa.example/x"
SELECTOR = {"istio": "ingressgateway"}
#: Without a tunnel: changes of the gateway cut those.
BOB = f"{LAPTOPS['bob']}:{APP_PORT}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(mesh: Rig) -> AsyncIterator[Issuer]:
    """Contracts enter from alice's address, and with tokens of an issuer whose keys istiod fetches."""
    issuer = Issuer(SigningKey(algorithm="RS256"))
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = mesh.pods["control"].open_socket()
    listener.bind((CONTROL, 0))
    await web.SockSite(runner, listener).start()
    issuer.url = f"http://{CONTROL}:{listener.getsockname()[1]}"
    options = ("--issuer", issuer.url, "--jwks", f"{issuer.url}/keys", "--network", f"{LAPTOPS['alice']}/32")
    documents = list(yaml.load_all(output_of(["edge", *options]), yaml.CSafeLoader))
    try:
        async with applied(mesh, documents):
            await live(mesh, ["gw"], "devroute-edge")
            await live(mesh, ["gw"], issuer.url)
            await laptops_online(mesh)
            yield issuer
        await live(mesh, ["gw"], "devroute-edge", gone=True)
        await laptops_online(mesh)
    finally:
        await runner.cleanup()


def carried(contract: object) -> dict[str, tuple[str, dict[str, str]]]:
    """URL and headers for each way in which a contract can come from outside."""
    text = json.dumps(contract)
    return {
        "header": (URL, {"x-devroute": text}),
        "baggage": (URL, {"baggage": f"devroute={quote(text)}"}),
        "cookie": (URL, {"cookie": f"devroute={quote(text)}"}),
    }


@pytest.mark.parametrize("way", carried({}))
async def test_a_permitted_network_s_contract_enters(mesh: Rig, edge: Issuer, way: str) -> None:
    url, headers = carried({"b": BOB})[way]
    response = await mesh.ask("alice", url, headers=headers)
    assert (response.result, response.app) == ("laptop", "laptop-bob"), response
    response = await mesh.ask("bob", url, headers=headers)
    assert response.status == 200
    assert response.app in ("b-v1", "b-v2"), response


async def test_a_contract_enters_with_a_token_of_the_issuer(mesh: Rig, edge: Issuer) -> None:
    token = edge.token(aud="devroute", devroute=True)
    headers = {"x-devroute-authorization": f"Bearer {token}"}
    response = await mesh.ask("bob", URL, {"b": BOB}, headers=headers)
    assert (response.result, response.app) == ("laptop", "laptop-bob"), response


async def test_laptops_tokens_pass_beside_the_edge_s_rule_for_tokens(mesh: Rig, edge: Issuer) -> None:
    token = (mesh.folder / "token-bob").read_text()
    url = f"https://{HOST}/api/laptops"
    assert (await mesh.ask("bob", url, headers={"authorization": f"Bearer {token}"})).status == 200
    async with mesh.laptop("bob", f"c={APP_PORT}", "--name", "bob--2"):
        assert "bob--2" in mesh.devroute("bob", "ls")


async def test_tokens_of_another_issuer_pass_to_the_app(mesh: Rig, edge: Issuer) -> None:
    other = Issuer(SigningKey())
    other.url = "https://login.example"
    response = await mesh.ask("bob", URL, headers={"authorization": f"Bearer {other.token()}"})
    assert response.status == 200


@pytest.mark.parametrize("pod", ["alice", "bob"])
@pytest.mark.parametrize(
    "contract", [{}, {"c": "alice"}, {"b": "carol"}], ids=["empty", "others", "falls back"]
)
@pytest.mark.parametrize("way", carried({}))
async def test_a_limit_on_the_gateway_s_routes_holds(
    mesh: Rig, edge: Issuer, pod: str, contract: object, way: str
) -> None:
    """For contracts that are admitted (alice) and that are not (bob)."""
    name, host = a_name(), {"name": "b.qa.example:80", "route": {"action": "ANY"}}
    statuses: Counter[int] = Counter()
    url, headers = carried(contract)[way]
    async with applied(mesh, [limit(name, "GATEWAY", SELECTOR, host, ROOT_NAMESPACE)]):
        await live(mesh, ["gw"], name)
        for _ in range(LIMIT + 3):
            statuses[(await mesh.ask(pod, url, headers=headers)).status] += 1
    await live(mesh, ["gw"], name, gone=True)
    refused = pod == "alice" and contract == {} and way in ("header", "baggage")
    assert statuses == {400 if refused else 200: LIMIT, 429: 3}
