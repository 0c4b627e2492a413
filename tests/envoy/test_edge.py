"""The shipped edge filter on a real gateway: contracts from outside that it lets in, and browsers."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web
from cryptography.hazmat.primitives.asymmetric import rsa
from yarl import URL

from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.gateway import LISTENER, Gateway, bootstrap
from devroute.mesh.istio.sidecar import Document
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter
from tests.envoy.harness import serving
from tests.support.istio_security import JwtRule, jwt_filter

pytestmark = pytest.mark.mesh

HOST = "shop.example"
CONTRACT = '{"foo": "192.0.2.1:8001"}'
ENCODED = quote(CONTRACT, safe="")
#: In the form of a compact JWS; the proxy verifies it.
SIGNED = "eyJhbGciOiJFUzI1NiJ9.eyJmb28iOiJhbGljZSJ9.c2lnbmF0dXJl"
ISSUER, AUDIENCE = "https://id.example", "shop"
TRACE = ("x-devroute-trace", "0123456789abcdef" * 2)
EVERYBODY = ("127.0.0.0/8",)
NOT_ALLOWED = "no contract from outside: no valid token with the claim devroute, and 127.0.0.1"

Fields = Sequence[tuple[str, str]]


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


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@dataclass(frozen=True)
class Edge:
    envoy: Envoy
    client: ClientSession

    async def get(
        self, fields: Fields = (), path: str = "/", method: str = "GET"
    ) -> tuple[ClientResponse, dict[str, Any]]:
        url = URL("http://{}:{}".format(*self.envoy.listeners[LISTENER]) + path, encoded=True)
        everything = [("host", HOST), *fields]
        async with self.client.request(method, url, headers=everything, allow_redirects=False) as response:
            text = await response.text()
            return response, json.loads(text) if text else {}

    async def lua(self, what: str) -> int:
        return await self.envoy.counter(f"http.outbound_{LISTENER}.lua.{what}")


async def echo(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "path": request.raw_path,
            "headers": [[key.lower(), value] for key, value in request.headers.items()],
        }
    )


@asynccontextmanager
async def gateway(
    folder: Path,
    settings: EdgeSettings | None,
    jwt_rule: JwtRule | None = None,
    trusted_proxies: int = 0,
    source: str | None = None,
    cors: Document | None = None,
    name: str = "gateway",
) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(serving(echo))
        shape = Gateway({HOST: app})
        filters = [] if settings is None else [edge_filter(settings)]
        configuration = bootstrap(shape)
        (chain,) = configuration["static_resources"]["listeners"][0]["filter_chains"]
        manager = chain["filters"][0]["typed_config"]
        manager["xff_num_trusted_hops"] = trusted_proxies
        if jwt_rule is not None:
            manager["http_filters"].insert(0, jwt_filter(jwt_rule))
        if cors is not None:
            (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
            route["typed_per_filter_config"] = {"envoy.filters.http.cors": cors}
        configuration = apply(filters, shape, configuration)
        if source is not None:
            text = json.dumps(configuration).replace(json.dumps(lua.source("edge")), json.dumps(source))
            configuration = json.loads(text)
        envoy = await stack.enter_async_context(running(configuration, folder, name, {}))
        client = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=20), skip_auto_headers=["user-agent"])
        )
        yield Edge(envoy, client)


@pytest.fixture
async def closed(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Edge]:
    """Lets contracts in by token only; a bad token counts as none."""
    async with gateway(
        tmp_path, EdgeSettings(), JwtRule(ISSUER, AUDIENCE, issuer.jwks, lenient=True)
    ) as edge:
        yield edge


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Edge]:
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY)) as edge:
        yield edge


def values(seen: Mapping[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key == name]


def verdict(response: ClientResponse) -> tuple[str | None, str | None]:
    return response.headers.get("x-devroute-result"), response.headers.get("x-devroute-reason")


# --- other requests are unchanged ---------------------------------------------------------------------------


async def test_requests_without_devroute_headers_never_run_the_filter(tmp_path: Path) -> None:
    fields = [
        ("cookie", "session=1; theme=dark"),
        ("baggage", "user=1,tenant=a%20b;p=1"),
        ("x-own", "devroute"),
    ]
    async with gateway(tmp_path, EdgeSettings()) as edge, gateway(tmp_path, None, name="plain") as plain:
        response, seen = await edge.get(fields, "/a?b=c&d=%20")
        expected_response, expected = await plain.get(fields, "/a?b=c&d=%20")
        assert await edge.lua("executions") == 0
    volatile = {"x-request-id"}
    assert [each for each in seen["headers"] if each[0] not in volatile] == [
        each for each in expected["headers"] if each[0] not in volatile
    ]
    assert response.headers.keys() == expected_response.headers.keys()


async def test_what_only_resembles_our_headers_passes_unchanged(closed: Edge) -> None:
    fields = [("cookie", "mydevroute=1; a=b"), ("baggage", "my-devroute=1,k=v;devroute=2")]
    response, seen = await closed.get(fields, "/?xdevroute=1")
    assert seen["path"] == "/?xdevroute=1"
    assert values(seen, "cookie") + values(seen, "baggage") == [value for _, value in fields]
    assert verdict(response) == (None, None)
    assert await closed.lua("executions") > 0


async def test_filters_that_routes_configure_see_the_apps_own_route(tmp_path: Path) -> None:
    cors = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": "https://web.example"}],
        "allow_credentials": True,
    }
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY), cors=cors) as edge:
        sent = [("origin", "https://web.example"), ("cookie", f"devroute={ENCODED}")]
        response, seen = await edge.get(sent)
    assert values(seen, "x-devroute") == [CONTRACT]
    assert response.headers.get("access-control-allow-origin") == "https://web.example"


# --- removed --------------------------------------------------------------------------------------------


async def test_a_contract_from_outside_is_removed_with_the_reason(closed: Edge) -> None:
    sent = [
        ("x-devroute", CONTRACT),
        ("baggage", f"user=1 ; p=2,devroute={ENCODED},devroute-via=foo, k = v"),
        ("cookie", f"session=a=b; devroute={ENCODED}; theme=dark"),
        ("x-devroute-matched", "foo"),
        ("x-devroute-anything", "1"),
        TRACE,
        ("x_devroute", CONTRACT),
    ]
    response, seen = await closed.get(sent)
    assert [key for key, _ in seen["headers"] if "devroute" in key] == []
    assert values(seen, "baggage") == ["user=1 ; p=2, k = v"]
    assert values(seen, "cookie") == ["session=a=b; theme=dark"]
    result, reason = verdict(response)
    assert (response.status, result) == (200, "fallback")
    assert reason is not None
    assert reason.startswith(NOT_ALLOWED)


async def test_markers_alone_are_removed_without_the_filter(closed: Edge) -> None:
    markers = (
        "x-devroute-matched",
        "x-devroute-via",
        "x-devroute-cluster",
        "x-devroute-shadow",
        "x_devroute",
    )
    _, seen = await closed.get([(name, "foo") for name in markers])
    assert [key for key, _ in seen["headers"] if "devroute" in key] == []
    assert await closed.lua("executions") == 0


async def test_each_spelling_that_a_library_may_take_for_the_member_is_removed(closed: Edge) -> None:
    for member in (
        f"devroute={ENCODED}",
        f"devroute ={ENCODED}",
        f"\tdevroute\t=\t{ENCODED}",
        f"devroute={ENCODED};property=1",
        f"%64evroute={ENCODED}",
        f"+devroute={ENCODED}",
        f"%C2%A0devroute={ENCODED}",
        f"DevRoute={ENCODED}",
        f"devroute={CONTRACT}",
    ):
        _, seen = await closed.get([("baggage", f"a=1,{member},b=2")])
        assert values(seen, "baggage") == ["a=1,b=2"], member


async def test_every_line_of_repeated_fields_is_checked(closed: Edge) -> None:
    sent = [
        ("x-devroute", SIGNED),
        ("x-devroute", CONTRACT),
        ("baggage", "a=1"),
        ("baggage", f"devroute={ENCODED}"),
        ("baggage", f"devroute={ENCODED},b=2"),
    ]
    _, seen = await closed.get(sent)
    assert values(seen, "x-devroute") == []
    assert values(seen, "baggage") in (["a=1", "b=2"], ["a=1,b=2"])


async def test_a_failing_filter_lets_no_contract_in_and_no_request_down(tmp_path: Path) -> None:
    start = "local function guard(handle)"
    broken = lua.source("edge").replace(start, f"{start} error('x')")
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY), source=broken) as edge:
        response, seen = await edge.get([("x-devroute", CONTRACT), ("baggage", f"devroute={ENCODED}")])
    assert (response.status, values(seen, "x-devroute"), values(seen, "baggage")) == (200, [], [])
    assert verdict(response)[0] == "fallback"


async def test_a_filter_that_fails_is_an_error_and_lets_no_contract_in(tmp_path: Path) -> None:
    dead = "function envoy_on_request(handle) error('x') end"
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY), source=dead) as edge:
        response, body = await edge.get([("x-devroute", CONTRACT)])
    assert (response.status, body["code"]) == (500, "internal")


# --- by token --------------------------------------------------------------------------------------------


async def test_a_valid_token_with_the_claim_lets_a_contract_in(closed: Edge, issuer: Issuer) -> None:
    sent = [issuer.bearer(devroute=True), ("x-devroute", CONTRACT), ("x-devroute-via", "foo"), TRACE]
    response, seen = await closed.get([*sent, ("baggage", f"a=1,devroute={ENCODED}")])
    assert TRACE[1] in values(seen, TRACE[0])
    assert values(seen, "x-devroute") == [CONTRACT]
    assert values(seen, "baggage") == [f"a=1,devroute={ENCODED}"]
    assert values(seen, "x-devroute-via") == []
    assert verdict(response) == (None, None)


def none_of_ours(issuer: Issuer) -> str:
    return Issuer().token(devroute=True)


def unsigned(issuer: Issuer) -> str:
    return jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": 4e9, "devroute": True}, None, "none")


def altered(issuer: Issuer) -> str:
    head, payload, signature = issuer.token(devroute=False).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"devroute": True}
    return ".".join(
        [head, base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("="), signature]
    )


BAD_TOKENS: dict[str, Callable[[Issuer], str]] = {
    "wrong audience": lambda issuer: issuer.token(devroute=True, aud="others"),
    "wrong issuer": lambda issuer: issuer.token(devroute=True, iss="https://evil.example"),
    "expired": lambda issuer: issuer.token(devroute=True, exp=int(time.time()) - 3600),
    "another's key": none_of_ours,
    "no signature": unsigned,
    "altered": altered,
    "garbage": lambda issuer: "garbage",
}
NO_CLAIM: dict[str, Callable[[Issuer], str]] = {
    "no claim": lambda issuer: issuer.token(),
    "false": lambda issuer: issuer.token(devroute=False),
    "a text": lambda issuer: issuer.token(devroute="true"),
    "a number": lambda issuer: issuer.token(devroute=1),
}


async def test_no_other_token_admits_a_contract(closed: Edge, issuer: Issuer) -> None:
    for kind, make in (BAD_TOKENS | NO_CLAIM).items():
        sent = [("authorization", f"Bearer {make(issuer)}"), ("x-devroute", CONTRACT)]
        response, seen = await closed.get(sent)
        assert values(seen, "x-devroute") == [], kind
        assert verdict(response)[0] == "fallback", kind


async def test_istios_own_rule_refuses_requests_with_invalid_tokens(tmp_path: Path, issuer: Issuer) -> None:
    rule = JwtRule(ISSUER, AUDIENCE, issuer.jwks)
    async with gateway(tmp_path, EdgeSettings(), rule) as edge:
        contract = ("x-devroute", CONTRACT)
        _, seen = await edge.get([issuer.bearer(devroute=True), contract])
        assert values(seen, "x-devroute") == [CONTRACT]
        _, seen = await edge.get([issuer.bearer(), contract])
        assert values(seen, "x-devroute") == []
        url = "http://{}:{}/".format(*edge.envoy.listeners[LISTENER])
        for make in BAD_TOKENS.values():
            headers = {"host": HOST, "authorization": f"Bearer {make(issuer)}", "x-devroute": CONTRACT}
            async with edge.client.get(url, headers=headers) as response:
                assert response.status in (401, 403)


async def test_the_claim_its_value_and_the_payloads_key_can_be_chosen(tmp_path: Path, issuer: Issuer) -> None:
    settings = EdgeSettings(claim=("realm_access", "roles"), claim_value="qa", payload=ISSUER)
    rule = JwtRule(ISSUER, AUDIENCE, issuer.jwks, payload=ISSUER)
    async with gateway(tmp_path, settings, rule) as edge:
        for roles, enters in [
            (["dev", "qa"], True),
            ("dev qa", True),
            (["dev"], False),
            ("qa2", False),
            ({}, False),
        ]:
            token = issuer.bearer(realm_access={"roles": roles})
            _, seen = await edge.get([token, ("x-devroute", CONTRACT)])
            assert values(seen, "x-devroute") == ([CONTRACT] if enters else []), roles


# --- by network ------------------------------------------------------------------------------------------


async def test_a_listed_network_admits_a_contract(opened: Edge) -> None:
    response, seen = await opened.get([("x-devroute", CONTRACT)])
    assert values(seen, "x-devroute") == [CONTRACT]
    assert verdict(response) == (None, None)


async def test_no_header_puts_a_caller_into_a_network(tmp_path: Path) -> None:
    spoofed = [(name, "10.0.0.1") for name in ("x-forwarded-for", "x-real-ip", "x-envoy-external-address")]
    async with gateway(tmp_path, EdgeSettings(networks=("10.0.0.0/8",))) as edge:
        _, seen = await edge.get([*spoofed, ("x-devroute", CONTRACT)])
    assert values(seen, "x-devroute") == []


async def test_the_address_from_a_trusted_proxy_counts_and_from_no_other(tmp_path: Path) -> None:
    settings = EdgeSettings(networks=("198.51.100.0/24",))
    async with gateway(tmp_path, settings, trusted_proxies=1) as edge:
        for forwarded, enters in [
            ("198.51.100.7", True),
            ("203.0.113.9, 198.51.100.7", True),
            ("198.51.100.7, 203.0.113.9", False),
        ]:
            _, seen = await edge.get([("x-forwarded-for", forwarded), ("x-devroute", CONTRACT)])
            assert values(seen, "x-devroute") == ([CONTRACT] if enters else []), forwarded


async def test_the_address_of_the_direct_peer_can_be_chosen(tmp_path: Path) -> None:
    settings = EdgeSettings(networks=EVERYBODY, address="direct")
    async with gateway(tmp_path, settings, trusted_proxies=1) as edge:
        _, seen = await edge.get([("x-forwarded-for", "203.0.113.9"), ("x-devroute", CONTRACT)])
    assert values(seen, "x-devroute") == [CONTRACT]


# --- signed ----------------------------------------------------------------------------------------------


async def test_a_signed_contract_enters_for_the_proxy_to_verify(closed: Edge) -> None:
    _, seen = await closed.get([("x-devroute", SIGNED), ("baggage", f"devroute={SIGNED}")])
    assert (values(seen, "x-devroute"), values(seen, "baggage")) == ([SIGNED], [f"devroute={SIGNED}"])
    _, seen = await closed.get([("x-devroute", CONTRACT), ("cookie", f"devroute={SIGNED}")])
    assert values(seen, "x-devroute") == [SIGNED]


async def test_what_has_no_signature_is_not_signed(closed: Edge) -> None:
    for contract in ("eyJhbGciOiJub25lIn0.eyJmb28iOiJhIn0.", "ey.a.b c", f"{SIGNED},{CONTRACT}"):
        _, seen = await closed.get([("x-devroute", contract)])
        assert values(seen, "x-devroute") == [], contract


async def test_signed_contracts_can_be_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path, EdgeSettings(signed=False)) as edge:
        _, seen = await edge.get([("x-devroute", SIGNED)])
    assert values(seen, "x-devroute") == []


# --- a plain browser -------------------------------------------------------------------------------------


async def test_the_parameter_sets_a_cookie_that_becomes_the_header(opened: Edge) -> None:
    response, _ = await opened.get(path=f"/a%20b?x=%2F+1&devroute={ENCODED}&y&z=")
    assert (response.status, response.headers["location"]) == (302, "/a%20b?x=%2F+1&y&z=")
    cookie, *attributes = response.headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/", "Max-Age=3600", "HttpOnly", "Secure", "SameSite=Lax"}
    assert response.headers["cache-control"] == "no-store"
    _, seen = await opened.get([("cookie", f"a=1; {cookie}; b=2")], response.headers["location"])
    assert seen["path"] == "/a%20b?x=%2F+1&y&z="
    assert values(seen, "x-devroute") == [CONTRACT]
    assert values(seen, "cookie") == ["a=1; b=2"]


async def test_removing_the_only_cookie_leaves_no_empty_field(opened: Edge) -> None:
    _, seen = await opened.get([("cookie", f"devroute={ENCODED}")])
    assert (values(seen, "x-devroute"), values(seen, "cookie")) == ([CONTRACT], [])


async def test_the_header_and_baggage_win_over_the_cookie(opened: Edge) -> None:
    cookie = ("cookie", "devroute=" + quote('{"bar": "bob"}'))
    _, seen = await opened.get([cookie, ("x-devroute", CONTRACT)])
    assert values(seen, "x-devroute") == [CONTRACT]
    _, seen = await opened.get([cookie, ("baggage", f"devroute={ENCODED}")])
    assert (values(seen, "x-devroute"), values(seen, "baggage")) == ([], [f"devroute={ENCODED}"])


@pytest.mark.parametrize("opens", [True, False])
async def test_off_clears_the_cookie_of_any_client(opened: Edge, closed: Edge, opens: bool) -> None:
    edge = opened if opens else closed
    response, _ = await edge.get([("cookie", f"devroute={ENCODED}")], "/page?devroute=off")
    assert (response.status, response.headers["location"]) == (302, "/page")
    assert response.headers["set-cookie"].startswith("devroute=; ")
    assert "Max-Age=0" in response.headers["set-cookie"]


async def test_a_client_without_permission_gets_no_cookie_and_the_reason(closed: Edge) -> None:
    path = f"/?devroute={ENCODED}"
    response, seen = await closed.get(path=path)
    assert (response.status, seen["path"]) == (200, path)
    assert "set-cookie" not in response.headers
    result, reason = verdict(response)
    assert result == "fallback"
    assert reason is not None
    assert reason.startswith(NOT_ALLOWED)
    response, seen = await closed.get([("cookie", f"devroute={ENCODED}")])
    assert values(seen, "x-devroute") == []
    assert verdict(response)[0] == "fallback"


async def test_a_token_lets_a_browser_in(closed: Edge, issuer: Issuer) -> None:
    response, _ = await closed.get([issuer.bearer(devroute=True)], f"/?devroute={ENCODED}")
    assert (response.status, response.headers["location"]) == (302, "/")


async def test_a_redirect_never_leaves_the_host(opened: Edge) -> None:
    for path, location in [
        ("//evil.example/x?devroute=", "/.//evil.example/x"),
        ("/\\evil.example?devroute=", "/.//evil.example"),
        ("/a?next=//evil.example&devroute=", "/a?next=//evil.example"),
    ]:
        response, _ = await opened.get(path=path + ENCODED)
        assert (response.status, response.headers["location"]) == (302, location)


async def test_a_parameter_that_is_no_contract_is_an_error_with_that_reason(
    opened: Edge, closed: Edge
) -> None:
    for value in (
        quote(CONTRACT + "\r\nset-cookie: evil=1", safe=""),
        quote(CONTRACT[:-1] + "\n}", safe=""),
        quote('{"foo": "ü"}', safe=""),
        "%7B%zz%7D",
        "hello",
        "",
        f"{ENCODED}&devroute={ENCODED}",
        quote('{"foo": "' + "a" * 4000 + '"}', safe=""),
    ):
        response, body = await opened.get(path=f"/?devroute={value}")
        assert (response.status, body["code"]) == (400, "contract-invalid"), value
        assert "set-cookie" not in response.headers
        response, seen = await closed.get(path=f"/?devroute={value}")
        assert (response.status, seen["path"]) == (200, f"/?devroute={value}"), (
            "for them, it is the app's own"
        )


async def test_a_cookie_that_is_not_a_contract_becomes_no_header(opened: Edge) -> None:
    for value in ("%0d%0aevil: 1", "%zz", "plain", '{"foo": "\u00e4"}', "%7B%0A%7D"):
        response, seen = await opened.get([("cookie", f"devroute={value}")])
        assert (response.status, values(seen, "x-devroute")) == (200, []), value
        assert "?devroute=off" in (verdict(response)[1] or "")


async def test_a_cookie_is_set_by_opening_a_page_only(opened: Edge) -> None:
    path = f"/?devroute={ENCODED}"
    response, _ = await opened.get([("sec-fetch-dest", "image")], path)
    assert (response.status, "set-cookie" in response.headers) == (200, False)
    response, _ = await opened.get([("sec-fetch-dest", "document")], path)
    assert response.status == 302
    response, seen = await opened.get(path=path, method="POST")
    assert (response.status, seen["path"]) == (200, path)


async def test_quotes_and_braces_may_stand_as_they_are(opened: Edge) -> None:
    response, _ = await opened.get(path='/?devroute={%22foo%22:+"192.0.2.1:8001"}')
    assert response.headers["set-cookie"].startswith(f"devroute={ENCODED};")
