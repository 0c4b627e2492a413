"""A real gateway with the shipped edge filter, an issuer of tokens, and an app that shows what reached it."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web
from cryptography.hazmat.primitives.asymmetric import rsa
from multidict import CIMultiDict
from yarl import URL

from devroute.contract.grammar import parse
from devroute.contract.keys import Keys
from devroute.contract.signer import SigningKey, sign
from devroute.contract.verifier import Verifier
from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.gateway import LISTENER, Gateway, bootstrap
from devroute.mesh.istio.sidecar import Document, Endpoint
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter
from devroute.policy.policy import Policy
from devroute.routing.contract_report import report_contract
from tests.envoy.harness import PROXY, serving
from tests.support.istio_security import JwtRule, jwt_filter, with_tls

CONTROL = PROXY.control_cluster
HOST = "shop.example"
CONTRACT = '{"foo": "192.0.2.1:8001"}'
ENCODED = quote(CONTRACT, safe="")
ISSUER, AUDIENCE = "https://id.example", "shop"
#: Its owner may sign contracts.
KEY = SigningKey.new("qa")
EVERYBODY = ("127.0.0.0/8",)
NOT_ALLOWED = "no contract from outside: no valid token with the claim devroute, and 127.0.0.1"

Fields = Sequence[tuple[str, str]]


def signed(contract: str = CONTRACT, ago: float = 0, ttl: float = 600, key: SigningKey = KEY) -> str:
    return sign(parse(contract), key, "qa", time.time() - ago, ttl)


SIGNED = signed(ttl=24 * 3600)


class Issuer:
    """Signs tokens as an identity provider does, and publishes its keys."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self.jwks = json.dumps({"keys": [public | {"kid": "1", "alg": "RS256", "use": "sig"}]})

    def token(self, **claims: object) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "qa", "iat": now, "exp": now + 300} | claims
        return jwt.encode(payload, self._key, "RS256", headers={"kid": "1"})

    def bearer(self, **claims: object) -> tuple[str, str]:
        return ("authorization", f"Bearer {self.token(**claims)}")


@dataclass(frozen=True)
class Edge:
    envoy: Envoy
    client: ClientSession

    async def get(
        self, fields: Fields = (), path: str = "/", method: str = "GET"
    ) -> tuple[ClientResponse, dict[str, Any]]:
        url = URL(f"http://{self.address}{path}", encoded=True)
        everything = [("host", HOST), *fields]
        async with self.client.request(method, url, headers=everything, allow_redirects=False) as response:
            text = await response.text()
            return response, json.loads(text) if text.startswith("{") else {"text": text}

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.envoy.listeners[LISTENER])

    async def lua(self, what: str) -> int:
        return await self.envoy.lua(what)


async def read_contract(request: web.Request) -> web.Response:
    """GET /contract, as the proxy responds."""
    keys = Keys.parse(json.dumps({"keys": [KEY.as_public_jwk()]}), "keys.json")
    raw = request.headers["x-devroute"]
    return web.Response(body=report_contract(raw, Verifier(lambda: keys), Policy(), time.time()))


#: What an app responds at a path, beside its echo.
RESPONSES: Mapping[str, Fields] = {
    "/sets-cookies": [
        *(("set-cookie", f"{name}=%7B%7D; Path=/") for name in ("devroute", "__Host-devroute")),
        ("set-cookie", "__Secure-devroute=x; Domain=example"),
        *(("set-cookie", f"{before}devroute=%7B%7D; Path=/") for before in ("=", " = ", "= __Secure-")),
        ("set-cookie", "devroutes=1"),
        ("set-cookie", "session=devroute=1"),
    ]
}


async def echo(request: web.Request) -> web.StreamResponse:
    """What arrived, as JSON, also to a WebSocket."""
    body = {
        "path": request.raw_path,
        "headers": [[key.lower(), value] for key, value in request.headers.items()],
    }
    socket = web.WebSocketResponse()
    if socket.can_prepare(request):
        await socket.prepare(request)
        await socket.send_json(body)
        await socket.close()
        return socket
    return web.json_response(body, headers=CIMultiDict(RESPONSES.get(request.path, [])))


@asynccontextmanager
async def gateway(
    folder: Path,
    settings: EdgeSettings | Document | None,
    jwt_rule: JwtRule | None = None,
    trusted_proxies: int = 0,
    source: Mapping[str, str] = {},
    change: Callable[[Document], None] = lambda manager: None,
    name: str = "gateway",
    clusters: Mapping[str, Endpoint] = {},
    tls: Document | None = None,
) -> AsyncIterator[Edge]:
    """A gateway in front of an app that responds with what it received; with the shipped filter, if there are
    settings, or its manifest.

    `change` gets the connection manager before the EnvoyFilter is applied; `source` maps the Lua of a filter
    to what replaces it. The control port reads contracts as the proxy does, with KEY's signatures.
    """
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(serving(echo))
        control = await stack.enter_async_context(serving(read_contract))
        shape = Gateway({HOST: app}, {CONTROL: control, **clusters})
        filter_of = edge_filter(settings) if isinstance(settings, EdgeSettings) else settings
        filters = [] if filter_of is None else [filter_of]
        configuration = bootstrap(shape)
        (chain,) = configuration["static_resources"]["listeners"][0]["filter_chains"]
        manager = chain["filters"][0]["typed_config"]
        manager["xff_num_trusted_hops"] = trusted_proxies
        if jwt_rule is not None:
            manager["http_filters"].insert(0, jwt_filter(jwt_rule))
        change(manager)
        configuration = apply(filters, shape, with_tls(configuration, tls))
        for old, new in source.items():
            text = json.dumps(configuration)
            assert json.dumps(old) in text
            configuration = json.loads(text.replace(json.dumps(old), json.dumps(new)))
        envoy = await stack.enter_async_context(running(configuration, folder, name, {}))
        client = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=20), skip_auto_headers=["user-agent"])
        )
        yield Edge(envoy, client)


def values(seen: Mapping[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key == name]


def verdict(response: ClientResponse) -> tuple[str | None, str | None]:
    return response.headers.get("x-devroute-result"), response.headers.get("x-devroute-reason")
