"""The shipped edge filter on a real gateway: contracts from outside that it lets in."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
from multidict import CIMultiDict

from devroute.mesh.istio.gateway import LISTENER
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_source, front_source
from tests.envoy.edge import (
    AUDIENCE,
    CONTRACT,
    ENCODED,
    EVERYBODY,
    HOST,
    ISSUER,
    NOT_ALLOWED,
    SIGNED,
    Edge,
    Fields,
    Issuer,
    gateway,
    values,
    verdict,
)
from tests.support.istio_security import JwtRule

pytestmark = pytest.mark.mesh

FRONT_SOURCE = front_source(EdgeSettings())
TRACE = ("x-devroute-trace", "0123456789abcdef" * 2)


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


async def test_a_websocket_brings_a_contract_too(closed: Edge, issuer: Issuer) -> None:
    for token, enters in [(issuer.bearer(devroute=True), True), (issuer.bearer(), False)]:
        fields = [("host", HOST), token, ("cookie", f"devroute={ENCODED}; a=b")]
        async with closed.client.ws_connect(
            f"http://{closed.address}/", headers=CIMultiDict(fields)
        ) as socket:
            seen = await socket.receive_json()
        assert values(seen, "x-devroute") == ([CONTRACT] if enters else [])
        assert values(seen, "cookie") == ["a=b"]


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
        "x-devroute-caller",
        "x-devroute-cluster",
        "x-devroute-shadow",
        "x_devroute",
    )
    _, seen = await closed.get([(name, "foo") for name in markers])
    assert [key for key, _ in seen["headers"] if "devroute" in key] == []
    assert await closed.lua("executions") == 0


#: Each carrier beside header and baggage, with a contract, and what else is in it; one is of this mesh alone.
CARRIERS = {
    "tracestate": (f"congo=t61, devroute={ENCODED},devroute-via=foo,dd=s:1", "congo=t61,dd=s:1"),
    "ot-baggage-devroute": (CONTRACT, None),
    "uberctx-devroute": (ENCODED, None),
    "correlation-context": (f"a=b, devroute={ENCODED}, devroute-via=foo", "a=b"),
    "x-acme-context": (ENCODED, None),
}


@pytest.mark.parametrize("networks", [(), EVERYBODY], ids=["closed", "open"])
async def test_contracts_of_all_carriers_are_taken_off_and_one_that_may_enter_becomes_the_header(
    tmp_path: Path, networks: tuple[str, ...]
) -> None:
    settings = EdgeSettings(networks=networks, carriers=("x-acme-context",))
    async with gateway(tmp_path, settings) as edge:
        for carrier, (text, left) in CARRIERS.items():
            sent = [(carrier, text), ("traceparent", f"00-{'ab' * 16}-{'c' * 16}-01")]
            if left is None:
                sent.append((f"{carrier}-via", "foo"))
            response, seen = await edge.get(sent)
            assert values(seen, carrier) == ([] if left is None else [left]), carrier
            found = {
                key: value
                for key, value in seen["headers"]
                if "devroute" in f"{key}{value}" or key.endswith("-via")
            }
            assert found == ({"x-devroute": CONTRACT} if networks else {}), carrier
            assert (verdict(response)[0] == "fallback") is not bool(networks)
        everywhere = [(carrier, text) for carrier, (text, _) in CARRIERS.items()]
        _, seen = await edge.get(everywhere)
        assert values(seen, "x-devroute") == ([CONTRACT] if networks else [])


#: A member that some reader takes for ours.
SPELLINGS = [
    f"devroute={ENCODED}",
    f"devroute ={ENCODED}",
    f"\tdevroute\t=\t{ENCODED}",
    f"devroute={ENCODED};property=1",
    f"%64evroute={ENCODED}",
    f"d%65%76route \t= {ENCODED}",
    f"+devroute={ENCODED}",
    f"%C2%A0devroute={ENCODED}",
    f"%00devroute={ENCODED}",
    f"DevRoute={ENCODED}",
    f"devroute={CONTRACT}",
    "devroute-via=bar",
    "devroute-trace = 0123456789abcdef",
    # Inside of another member, which sidecars of older releases read.
    f"c=d devroute={ENCODED}",
    f"c=d\tdevroute={ENCODED}",
    f"c=d;p=q devroute={ENCODED}",
    f"c=d; devroute={ENCODED}",
    f"c= devroute={ENCODED}",
    # Beside bytes that are not UTF-8, by which a regex of characters would not match at all.
    f"\xffdevroute={ENCODED}",
    f"devroute\xff={ENCODED}",
    f"c=\xff devroute={ENCODED}",
    f"\xff%64evroute={ENCODED}",
]


@pytest.mark.parametrize("before", ["a=1", "a=\xff\xfe", ""])
async def test_each_spelling_that_a_library_may_take_for_the_member_is_removed(
    closed: Edge, before: str
) -> None:
    for member in SPELLINGS:
        sent = ",".join([*filter(None, [before]), member, "b=2"])
        seen = await raw_baggage(closed, sent)
        assert seen == ",".join([*filter(None, [before]), "b=2"]), member


async def raw_baggage(edge: Edge, baggage: str) -> str:
    """What reached the app of a baggage field, each character a byte."""
    reader, writer = await asyncio.open_connection(*edge.envoy.listeners[LISTENER])
    head = f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\nbaggage: {baggage}\r\n\r\n"
    writer.write(head.encode("latin-1"))
    response = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    seen = json.loads(response[response.index(b"{") : response.rindex(b"}") + 1])
    (found,) = values(seen, "baggage")
    return found.encode("utf-8", "surrogateescape").decode("latin-1")


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
    settings = EdgeSettings(networks=EVERYBODY)
    for source, start in [
        (FRONT_SOURCE, "local function take(handle)"),
        (edge_source(settings), "local function admit(handle, taken)"),
        (edge_source(settings), "local function admit_cookie(gate)"),
    ]:
        broken = {source: source.replace(start, f"{start} error('x')")}
        async with gateway(tmp_path, settings, source=broken) as edge:
            cookie = ("cookie", f"devroute={ENCODED}; a=b")
            sent = [("baggage", f"devroute={ENCODED}"), ("x-devroute", CONTRACT)]
            response, seen = await edge.get([cookie] if "cookie" in start else [*sent, cookie])
        assert (response.status, values(seen, "x-devroute"), values(seen, "baggage")) == (200, [], []), start
        assert verdict(response)[0] == "fallback"


async def test_a_filter_that_fails_is_an_error_and_lets_no_contract_in(tmp_path: Path) -> None:
    dead = {FRONT_SOURCE: "function envoy_on_request(handle) error('x') end"}
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


async def test_an_invalid_contract_is_refused_at_the_gateway_where_it_may_enter(
    opened: Edge, closed: Edge
) -> None:
    mistyped, meant = "{'foo': 'alice'}", '{"foo": "alice"}'
    ways: list[Fields] = [
        [("x-devroute", mistyped)],
        [("baggage", f"a=b,devroute={quote(mistyped, safe='')}")],
    ]
    for way in ways:
        response, body = await opened.get(way)
        assert (response.status, body["code"]) == (400, "contract-invalid")
        assert body["hint"] == f"write double quotes instead of single ones; send X-devroute: {meant}"
        assert verdict(response) == ("error", body["message"])
        response, seen = await closed.get(way)
        assert (response.status, values(seen, "x-devroute")) == (200, [])
    response, body = await opened.get([("x-devroute", mistyped), ("accept", "text/html")])
    assert (response.status, response.content_type) == (400, "text/html")
    assert "Continue without" not in body["text"]
    valid = '{"foo": {"to": "[fd00::1]:80", "percent": 1e1}}'
    response, seen = await opened.get([("x-devroute", valid)])
    assert (response.status, values(seen, "x-devroute")) == (200, [valid])
    response, seen = await opened.get([("cookie", f"devroute={quote(mistyped, safe='')}")])
    assert (response.status, values(seen, "x-devroute")) == (200, []), "a cookie never breaks a page"


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
